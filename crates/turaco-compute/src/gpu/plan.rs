//! From a graph to a list of dispatches.

mod attention;
mod operations;
mod signal;

use std::sync::Arc;

use super::batch::Batch;
use super::context::{Context, Kernel, grid};
use super::memory::{Memory, View};
use super::shader::{CHOICES_IN_PANELS, Keys, Layout, Shader};
use super::weights::GpuMatrix;
use crate::cpu::kernels::rope;
use crate::device::Matrix;
use crate::error::{Error, Result};
use crate::fuse::{self, Limits};
use crate::graph::{Graph, Ids, IdsSource, Op, Slot, Value, ValueSource};
use crate::slots::{SlotNeeds, slot_needs};

pub(super) use self::operations::MATMUL_ROWS;

/// Everything about a graph that is decided before its first run.
pub(super) struct Plan {
    pub dispatches: Vec<Dispatch>,
    /// Where the dispatches of each operation end.
    pub ends: Vec<usize>,
    /// Host inputs: the one buffer, and where each list begins in it and how long it is, in words.
    pub inputs: wgpu::Buffer,
    pub input_words: usize,
    pub float_inputs: Vec<(usize, usize)>,
    pub id_inputs: Vec<(usize, usize)>,
    /// Angles that the host works out from positions.
    pub tables: Vec<Table>,
    /// Numbers that have to be below a limit.
    pub limits: Vec<Limit>,
    /// What each slot must be able to hold.
    pub needs: Vec<SlotNeeds>,
    /// What is copied to the host after a run, where to, and how long it is, in words.
    pub copies: Vec<(View, usize, usize)>,
    /// The outputs.
    pub outputs: Vec<Output>,
    pub id_outputs: Vec<(usize, usize)>,
    pub result_words: usize,
    /// Bytes of memory for values.
    pub bytes: usize,
}

/// A call of a shader.
pub(super) struct Dispatch {
    pub call: Call,
    pub group: wgpu::BindGroup,
}

/// Which shader, and on how much.
pub(super) enum Call {
    /// Always the same.
    Fixed { kernel: Arc<Kernel>, grid: [u32; 2] },
    /// With the state buffer of a slot.
    WithState {
        kernel: Arc<Kernel>,
        grid: [u32; 2],
        slot: Slot,
    },
    /// For every batch of the sequences of a slot; the shader depends on the format of the caches and their number.
    Cached {
        make: CachedShader,
        slot: Slot,
        layer: usize,
    },
}

/// A shader for caches.
#[derive(Clone, Copy)]
pub(super) enum CachedShader {
    Append {
        columns: usize,
        /// Columns of queries that are rotated too; `None` without rotary embedding.
        rotated: Option<usize>,
    },
    Attention {
        queries: u32,
        columns: u32,
        odd: bool,
        /// For one sequence.
        workgroups: usize,
    },
    Decode {
        queries: u32,
        columns: u32,
        odd: bool,
        /// For one part of the keys of one sequence.
        workgroups: usize,
    },
    Merge {
        n_heads: usize,
    },
    Scores {
        rows: usize,
    },
}

impl CachedShader {
    /// The shader for so many caches in one format.
    pub fn shader(self, keys: Keys, caches: u32) -> Shader {
        match self {
            Self::Append { rotated, .. } => Shader::Append {
                keys,
                caches,
                rotate: rotated.is_some(),
            },
            Self::Attention {
                queries,
                columns,
                odd,
                ..
            } => Shader::Attention {
                keys,
                queries,
                columns,
                odd,
                caches,
            },
            Self::Decode {
                queries,
                columns,
                odd,
                ..
            } => Shader::Decode {
                keys,
                queries,
                columns,
                odd,
                caches,
            },
            Self::Merge { .. } => Shader::Merge,
            Self::Scores { .. } => Shader::Scores { keys, caches },
        }
    }

    /// Workgroups for a batch.
    pub fn grid(self, batch: &Batch) -> [u32; 2] {
        grid(
            batch.count
                * match self {
                    Self::Append { columns, rotated } => {
                        let words = match batch.keys {
                            Keys::F16 | Keys::Bf16 => columns.div_ceil(2),
                            _ => columns,
                        };
                        (batch.appended * (words + rotated.unwrap_or(0))).div_ceil(64)
                    }
                    Self::Attention { workgroups, .. } => workgroups,
                    Self::Decode { workgroups, .. } => workgroups * batch.splits,
                    Self::Merge { n_heads } if batch.splits > 1 => n_heads,
                    Self::Merge { .. } => 0,
                    Self::Scores { rows } => (rows * batch.longest).div_ceil(64),
                },
        )
    }
}

/// Cosines and sines of positions.
pub(super) struct Table {
    /// The input with the positions.
    pub positions: (usize, usize),
    pub head_dim: usize,
    pub theta: f32,
    pub frequencies: Vec<f64>,
    /// Where the table begins.
    pub to: usize,
}

/// Numbers that index something.
pub(super) struct Limit {
    pub what: &'static str,
    pub below: usize,
    pub numbers: Numbers,
}

/// Where numbers are that the host checks.
#[derive(Clone, Copy)]
pub(super) enum Numbers {
    /// Before a run, in its inputs.
    Given(usize, usize),
    /// After a run, in what is copied.
    Copied(usize, usize),
}

/// Parameters of a shader, in the order of its struct.
#[derive(Default)]
struct Params(Vec<u32>);

impl Params {
    fn counts<const N: usize>(mut self, values: [usize; N]) -> Self {
        self.0.extend(values.map(|value| value as u32));
        self
    }

    fn bits(mut self, value: u32) -> Self {
        self.0.push(value);
        self
    }

    fn number(self, value: f32) -> Self {
        self.bits(value.to_bits())
    }

    fn view(self, view: &View) -> Self {
        self.counts([view.offset, view.stride])
    }
}

/// Where an output is after a run.
pub(super) enum Output {
    /// In what was copied: where it begins, and how long it is.
    Copied(usize, usize),
    /// On the device, so long.
    Kept(View, usize),
}

/// Words between the parameters of two dispatches: what uniform bindings are aligned to everywhere.
const PARAMS_WORDS: usize = 64;

struct Planner<'a> {
    context: &'a Context,
    graph: &'a Graph,
    memory: Memory<'a>,
    inputs: wgpu::Buffer,
    computed: wgpu::Buffer,
    /// Places of u32 lists: the buffer, offset, and length.
    ids: Vec<(wgpu::Buffer, usize, usize)>,
    input_words: usize,
    tables: Vec<Table>,
    limits: Vec<Limit>,
    /// Computed lists that the host has to check.
    checks: Vec<(&'static str, usize, Ids)>,
    dispatches: Vec<Pending>,
    params: Vec<u32>,
}

/// A dispatch whose parameters are not uploaded yet.
struct Pending {
    call: Call,
    layout: wgpu::BindGroupLayout,
    binds: Layout,
    params: usize,
    buffers: Vec<wgpu::Buffer>,
}

impl Plan {
    /// Place all values, compile all shaders, and upload all parameters.
    pub fn new(context: &Context, graph: &Graph) -> Result<Self> {
        let (needs, new_rows) = slot_needs(graph)?;
        let mut input_words = 0;
        let mut place = |len: usize| {
            let at = input_words;
            input_words += len.next_multiple_of(4);
            (at, len)
        };
        let len = |value: &Value| value.rows() * value.cols();
        let float_inputs: Vec<(usize, usize)> = graph
            .values
            .iter()
            .filter(|(_, source)| matches!(source, ValueSource::Input(_)))
            .map(|(value, _)| place(len(value)))
            .collect();
        let id_inputs: Vec<(usize, usize)> = graph
            .ids
            .iter()
            .filter(|(_, source)| matches!(source, IdsSource::Input(_)))
            .map(|(list, _)| place(list.rows() * list.cols()))
            .collect();
        let tables = tables(graph, &id_inputs, &mut place)?;
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC;
        let inputs = context.buffer(4 * input_words as u64, usage, "inputs of a step")?;
        let mut computed_words = 0;
        let lists: Vec<(Option<usize>, usize, usize)> = graph
            .ids
            .iter()
            .map(|(list, source)| {
                let len = list.rows() * list.cols();
                match *source {
                    IdsSource::Input(index) => (Some(index), id_inputs[index].0, len),
                    IdsSource::Computed => {
                        computed_words += len;
                        (None, computed_words - len, len)
                    }
                }
            })
            .collect();
        let computed = context.buffer(4 * computed_words as u64, usage, "numbers of a step")?;
        let ids = lists
            .into_iter()
            .map(|(input, at, len)| {
                let buffer = if input.is_some() { &inputs } else { &computed };
                (buffer.clone(), at, len)
            })
            .collect();
        let limits = Limits {
            few_rows: MATMUL_ROWS,
            most_choices: CHOICES_IN_PANELS,
            heads: false,
            appends: &|_| false,
            is_gated: &is_whole,
        };
        let tasks = fuse::tasks(graph, &limits)?;
        let mut memory = Memory::new(context, graph, &tasks);
        for (value, source) in &graph.values {
            if let ValueSource::Input(index) = source {
                memory.place_input(*value, &inputs, float_inputs[*index].0);
            }
        }
        let mut planner = Planner {
            context,
            graph,
            memory,
            inputs,
            computed,
            ids,
            input_words,
            tables,
            limits: Vec::new(),
            checks: Vec::new(),
            dispatches: Vec::new(),
            params: Vec::new(),
        };
        let mut ends = Vec::with_capacity(graph.ops.len());
        for (nth, task) in tasks.iter().enumerate() {
            // What another operation does takes no dispatch of its own.
            ends.resize(task.index, planner.dispatches.len());
            planner.memory.begin(task)?;
            planner.task(task, new_rows[task.index])?;
            planner.memory.end(nth, task);
            ends.push(planner.dispatches.len());
        }
        ends.resize(graph.ops.len(), planner.dispatches.len());
        planner.finish(ends, needs, float_inputs, id_inputs)
    }
}

/// Whether all rows of a matrix are in one buffer.
fn is_whole(weight: &Matrix) -> Result<bool> {
    Ok(weight.storage::<GpuMatrix>()?.parts.len() == 1)
}

/// Tables of angles, one for all rotations with the same positions.
fn tables(
    graph: &Graph,
    id_inputs: &[(usize, usize)],
    place: &mut impl FnMut(usize) -> (usize, usize),
) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for op in &graph.ops {
        if let Op::Rope {
            positions,
            head_dim,
            theta,
            ..
        } = op
        {
            let IdsSource::Input(input) = graph.ids[positions.id as usize].1 else {
                return Err(Error::Unsupported {
                    what: "rope with computed positions".into(),
                    reason: "the host gives them".into(),
                });
            };
            let positions = id_inputs[input];
            let known = |table: &Table| {
                (table.positions, table.head_dim) == (positions, *head_dim)
                    && table.theta.to_bits() == theta.to_bits()
            };
            if !tables.iter().any(known) {
                tables.push(Table {
                    positions,
                    head_dim: *head_dim,
                    theta: *theta,
                    frequencies: rope::frequencies(*head_dim, *theta),
                    to: place(positions.1 * head_dim).0,
                });
            }
        }
    }
    Ok(tables)
}

impl Planner<'_> {
    fn finish(
        mut self,
        ends: Vec<usize>,
        needs: Vec<SlotNeeds>,
        float_inputs: Vec<(usize, usize)>,
        id_inputs: Vec<(usize, usize)>,
    ) -> Result<Plan> {
        let mut copies = Vec::new();
        let mut result_words = 0;
        let mut copy = |view: View, len: usize| {
            let at = result_words;
            result_words += len;
            copies.push((view, at, len));
            (at, len)
        };
        let graph = self.graph;
        let mut outputs = Vec::new();
        for (&value, &on_demand) in graph.outputs.iter().zip(&graph.on_demand) {
            let mut view = self.memory.view(value);
            if view.stride != value.cols() && value.rows() > 1 {
                let buffer = self.memory.take(value.rows() * value.cols())?;
                self.copy_rows(value, &view, &buffer)?;
                view = View {
                    buffer,
                    offset: 0,
                    stride: value.cols(),
                };
            }
            let len = value.rows() * value.cols();
            outputs.push(if on_demand {
                Output::Kept(view, len)
            } else {
                let (at, len) = copy(view, len);
                Output::Copied(at, len)
            });
        }
        let place = |planner: &Self, list: Ids| {
            let (buffer, offset, len) = planner.ids[list.id as usize].clone();
            let view = View {
                buffer,
                offset,
                stride: list.cols(),
            };
            (view, len)
        };
        let mut id_outputs = Vec::new();
        for &list in &graph.id_outputs {
            let (view, len) = place(&self, list);
            id_outputs.push(copy(view, len));
        }
        for (what, below, list) in std::mem::take(&mut self.checks) {
            let (view, len) = place(&self, list);
            let (at, len) = copy(view, len);
            self.limits.push(Limit {
                what,
                below,
                numbers: Numbers::Copied(at, len),
            });
        }
        let params = self.context.buffer_of(
            std::iter::once(bytemuck::cast_slice(&self.params)),
            wgpu::BufferUsages::UNIFORM,
            "parameters of a step",
        )?;
        let context = self.context;
        let dispatches = self
            .dispatches
            .into_iter()
            .map(|pending| pending.settle(context, &params))
            .collect();
        context.check()?;
        Ok(Plan {
            dispatches,
            ends,
            inputs: self.inputs,
            input_words: self.input_words,
            float_inputs,
            id_inputs,
            tables: self.tables,
            limits: self.limits,
            needs,
            copies,
            outputs,
            id_outputs,
            result_words,
            bytes: self.memory.bytes + 4 * self.input_words,
        })
    }

    fn view(&self, value: Value) -> View {
        self.memory.view(value)
    }

    /// A list of numbers that index something with `below` entries.
    fn indices(&mut self, what: &'static str, list: Ids, below: usize) -> (wgpu::Buffer, usize) {
        let (buffer, offset, len) = self.ids[list.id as usize].clone();
        match self.graph.ids[list.id as usize].1 {
            IdsSource::Input(_) => self.limits.push(Limit {
                what,
                below,
                numbers: Numbers::Given(offset, len),
            }),
            IdsSource::Computed => self.checks.push((what, below, list)),
        }
        (buffer, offset)
    }

    /// Call a shader on `workgroups` workgroups; none if there is nothing to do.
    fn call(
        &mut self,
        shader: Shader,
        workgroups: usize,
        params: Params,
        buffers: Vec<wgpu::Buffer>,
    ) -> Result<()> {
        if workgroups == 0 {
            return Ok(());
        }
        let kernel = self.context.kernel(shader)?;
        let (layout, binds) = (kernel.layout.clone(), kernel.binds);
        let call = Call::Fixed {
            kernel,
            grid: grid(workgroups),
        };
        self.push(call, (layout, binds), params, buffers);
        Ok(())
    }

    fn push(
        &mut self,
        call: Call,
        (layout, binds): (wgpu::BindGroupLayout, Layout),
        params: Params,
        buffers: Vec<wgpu::Buffer>,
    ) {
        let at = self.params.len();
        self.params.extend(params.0);
        self.params.resize(at + PARAMS_WORDS, 0);
        self.dispatches.push(Pending {
            call,
            layout,
            binds,
            params: at,
            buffers,
        });
    }
}

impl Pending {
    fn settle(self, context: &Context, params: &wgpu::Buffer) -> Dispatch {
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: params,
                offset: 4 * self.params as u64,
                size: std::num::NonZero::new(4 * PARAMS_WORDS as u64),
            }),
        }];
        let bindings = self.binds.reads.iter().chain(self.binds.writes);
        entries.extend(bindings.zip(&self.buffers).map(|(&binding, buffer)| {
            wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            }
        }));
        let group = context
            .device
            .create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &self.layout,
                entries: &entries,
            });
        Dispatch {
            call: self.call,
            group,
        }
    }
}
