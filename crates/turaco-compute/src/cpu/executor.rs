//! Replay of a planned graph: a loop over its operations.

use std::sync::Arc;
use std::time::Instant;

use crate::cpu::Precision;
use crate::cpu::arena::{Arena, View};
use crate::cpu::cache::{CpuCache, with_planes};
use crate::cpu::isa::Isa;
use crate::cpu::kernels::attention::{
    Sequence, Stacked, attention, attention_of_rows, capture_scores,
};
use crate::cpu::kernels::choose_tokens::{Choice, Choose};
use crate::cpu::kernels::filter_tokens::Filter;
use crate::cpu::kernels::linear::{
    self, LinearScratch, Windows, linear, linear_of_windows, linear_scratch_bytes,
};
use crate::cpu::kernels::{
    Rows, activation, conv1d, elementwise, lstm, norm, over_rows, rope, softmax, transpose,
};
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::packed::{PANEL, Shared};
use crate::cpu::plan::{Details, IdsPlace, Plan};
use crate::cpu::pool::Pool;
use crate::cpu::simd::dispatch;
use crate::device::{Executable, KvCache, Matrix, Vector, WeightType};
use crate::error::{Error, Result};
use crate::graph::{Activation, AttentionShape, Graph, Ids, Mask, Op, Scope, Value, Work};
use crate::step::{Bindings, SlotBinding};
use crate::trace::{self, Detail, Name};

mod signal;

/// What runs the kernels.
pub(crate) struct Engine {
    /// Instruction set.
    pub isa: Isa,
    /// Threads.
    pub pool: Pool,
    /// When operations may round their inputs.
    pub precision: Precision,
}

/// A graph with its memory.
pub(crate) struct CpuExecutable {
    engine: Arc<Engine>,
    linear_scratch: LinearScratch,
    ops: Vec<Op>,
    scopes: Vec<Scope>,
    work: Arc<Work>,
    uniform: bool,
    plan: Plan,
    arena: Arena,
    given_ids: Vec<u32>,
    computed_ids: Vec<u32>,
}

impl CpuExecutable {
    /// Plan a graph and allocate its memory.
    pub(crate) fn new(engine: &Arc<Engine>, graph: Graph) -> Result<Self> {
        let plan = Plan::new(&graph, engine.precision, engine.isa)?;
        let mut linear_scratch = LinearScratch::new();
        linear_scratch.reserve(linear_bytes(&graph, &plan, engine.isa)?)?;
        Ok(Self {
            engine: Arc::clone(engine),
            linear_scratch,
            arena: Arena::new(plan.arena_len)?,
            given_ids: vec![0; plan.ids_len.0],
            computed_ids: vec![0; plan.ids_len.1],
            work: Arc::new(graph.work(attention_type(engine.isa, plan.rounds))),
            uniform: graph.uniform,
            ops: graph.ops,
            scopes: graph.scopes,
            plan,
        })
    }
}

impl Executable for CpuExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter()) {
            need.check::<CpuCache, Vec<f32>>(binding)?;
        }
        for (view, input) in self.plan.inputs.iter().zip(bindings.inputs) {
            let ([target], _) = self.arena.split([*view]);
            target.copy_from_slice(&input[..target.len()]);
        }
        for (place, input) in self.plan.id_inputs.iter().zip(bindings.ids) {
            self.given_ids[place.offset..][..place.len].copy_from_slice(input);
        }
        for table in &self.plan.rope_tables {
            let ([target], _) = self.arena.split([table.view]);
            let positions = &self.given_ids[table.positions.offset..][..table.positions.len];
            rope::table(positions, &table.frequencies, target);
        }
        let mut machine = Machine {
            engine: &self.engine,
            linear_scratch: &mut self.linear_scratch,
            uniform: self.uniform,
            plan: &self.plan,
            arena: &mut self.arena,
            given_ids: &self.given_ids,
            computed_ids: &mut self.computed_ids,
            slots: bindings.slots,
        };
        match trace::detail() {
            Detail::Off => {
                for (op, details) in self.ops.iter().zip(&self.plan.details) {
                    machine.run(op, details)?;
                }
            }
            detail => machine.run_recorded(&self.ops, &self.scopes, detail)?,
        }
        for &(from, to) in &self.plan.output_copies {
            let ([target], readable) = self.arena.split([to]);
            elementwise::copy(readable.rows(from), target);
        }
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter_mut()) {
            need.advance(binding);
        }
        Ok(())
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        let view = self
            .plan
            .outputs
            .get(index)
            .ok_or_else(|| no_output(index))?;
        Ok(self.arena.contiguous(*view))
    }

    fn id_output(&self, index: usize) -> Result<&[u32]> {
        let place = self
            .plan
            .id_outputs
            .get(index)
            .ok_or_else(|| no_output(index))?;
        let list = if place.computed {
            &self.computed_ids
        } else {
            &self.given_ids
        };
        Ok(&list[place.offset..][..place.len])
    }

    fn scratch_bytes(&self) -> usize {
        self.arena.bytes()
    }

    fn work(&self) -> &Arc<Work> {
        &self.work
    }
}

/// The type to which attention inside a step rounds its inputs.
fn attention_type(isa: Isa, rounds: bool) -> WeightType {
    if rounds && isa >= Isa::Avx512Dot {
        WeightType::Bf16
    } else {
        WeightType::F32
    }
}

fn no_output(index: usize) -> Error {
    Error::Shape {
        what: "step output".into(),
        expected: "the number of a declared output".into(),
        found: format!("{index}"),
    }
}

/// What the operations of one run work on.
struct Machine<'a, 'run, 'state> {
    engine: &'a Engine,
    linear_scratch: &'a mut LinearScratch,
    uniform: bool,
    plan: &'a Plan,
    arena: &'a mut Arena,
    given_ids: &'a [u32],
    computed_ids: &'a mut [u32],
    slots: &'a mut [SlotBinding<'run, 'state>],
}

/// Most bytes that a linear map of the graph needs for its repacked input.
fn linear_bytes(graph: &Graph, plan: &Plan, isa: Isa) -> Result<usize> {
    let mut most = 0;
    // A single row is packed too where it is treated like many.
    let packed = |rows: usize| if graph.uniform { rows.max(2) } else { rows };
    for (op, details) in graph.ops.iter().zip(&plan.details) {
        let bytes = match op {
            Op::Linear { x, weight, .. } => {
                linear_scratch_bytes(packed(x.rows()), matrix(weight)?.packed())
            }
            Op::Conv1d { weight, out, .. } => {
                let weight = matrix(weight)?.packed();
                match details.windows {
                    Some(windows) => windows.scratch_bytes(isa, out.rows(), weight, graph.uniform),
                    None => linear_scratch_bytes(packed(out.rows()), weight),
                }
            }
            Op::Lstm { x, w_ih, w_hh, .. } => {
                linear_scratch_bytes(x.rows(), matrix(w_ih)?.packed())
                    .max(linear_scratch_bytes(1, matrix(w_hh)?.packed()))
            }
            _ => 0,
        };
        most = most.max(bytes);
    }
    Ok(most)
}

/// The name that linear maps have for an activation.
fn fused(activation: Activation) -> linear::Activation {
    match activation {
        Activation::None => linear::Activation::None,
        Activation::Gelu => linear::Activation::GeluErf,
        Activation::Silu => linear::Activation::Silu,
        Activation::Relu => linear::Activation::Relu,
        Activation::Sigmoid => linear::Activation::Sigmoid,
        Activation::Elu => linear::Activation::Elu,
        Activation::Tanh => linear::Activation::Tanh,
    }
}

fn matrix(matrix: &Matrix) -> Result<&CpuMatrix> {
    matrix.storage()
}

fn vector(vector: &Vector) -> Result<&[f32]> {
    vector.storage::<Vec<f32>>().map(Vec::as_slice)
}

fn index_in(what: &str, index: u32, len: usize) -> Result<usize> {
    let found = index as usize;
    if found < len {
        return Ok(found);
    }
    Err(Error::Shape {
        what: what.into(),
        expected: format!("numbers below {len}"),
        found: format!("{index}"),
    })
}

impl Machine<'_, '_, '_> {
    fn view(&self, value: Value) -> View {
        self.plan.views[value.id as usize]
    }

    fn place(&self, ids: Ids) -> IdsPlace {
        self.plan.ids[ids.id as usize]
    }

    /// All operations, with spans for the scopes (and the operations) that are as fine as `detail`.
    #[cold]
    fn run_recorded(&mut self, ops: &[Op], scopes: &[Scope], detail: Detail) -> Result<()> {
        let mut scopes = scopes
            .iter()
            .filter(|scope| scope.detail <= detail && scope.first < scope.end)
            .peekable();
        let mut open: Vec<(&Scope, Instant)> = Vec::new();
        let plan = self.plan;
        for (index, (op, details)) in ops.iter().zip(&plan.details).enumerate() {
            while let Some(scope) = scopes.next_if(|scope| scope.first == index) {
                open.push((scope, Instant::now()));
            }
            if detail >= Detail::Operations {
                let begin = Instant::now();
                self.run(op, details)?;
                let times = (begin, Instant::now());
                trace::record(op.name().into(), Detail::Operations, times, None);
            } else {
                self.run(op, details)?;
            }
            while let Some((scope, begin)) = open.pop_if(|(scope, _)| scope.end == index + 1) {
                let name = Name::Shared(Arc::clone(&scope.name));
                trace::record(name, scope.detail, (begin, Instant::now()), None);
            }
        }
        Ok(())
    }

    fn run(&mut self, op: &Op, details: &Details) -> Result<()> {
        let engine = self.engine;
        match op {
            Op::Embedding {
                table,
                ids,
                positional,
                out,
            } => {
                self.embedding(
                    table,
                    *ids,
                    positional.as_ref().map(|(t, p)| (&**t, *p)),
                    *out,
                    details.scratch,
                )?;
            }
            Op::Linear {
                x,
                weight,
                bias,
                activation,
                scale,
                residual,
                out,
            } => {
                let out = self.view(*out);
                let residual = residual.map(|residual| self.view(residual));
                let ([target, staging], readable) = self.arena.split([out, details.scratch]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                // A residual in place is what the result is added to; so is a copy of one with gaps between its rows.
                let mut accumulate = false;
                let mut addend = None;
                if let Some(view) = residual {
                    accumulate = view.offset == out.offset;
                    if !accumulate {
                        let rows = readable.rows(view);
                        addend = rows.contiguous();
                        if addend.is_none() {
                            elementwise::copy(rows, target);
                            accumulate = true;
                        }
                    }
                }
                let epilogue = linear::Epilogue {
                    bias: bias.as_deref().map(vector).transpose()?,
                    activation: fused(*activation),
                    scale: *scale,
                    residual: addend,
                    accumulate,
                    snake: None,
                };
                let input = x.contiguous().unwrap_or_else(|| {
                    elementwise::copy(x, staging);
                    staging
                });
                let weight = matrix(weight)?.packed();
                let (engine, scratch) = (self.engine, &mut *self.linear_scratch);
                linear_of_windows(
                    engine.isa,
                    &engine.pool,
                    (input, Windows::rows(x.cols())),
                    x.len(),
                    weight,
                    &epilogue,
                    self.uniform,
                    scratch,
                    target,
                )?;
            }
            Op::Conv1d { .. } => self.conv1d(op, details)?,
            Op::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                out,
            } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let (gamma, beta) = (vector(gamma)?, vector(beta)?);
                over_rows(engine, x.len(), 2, target, |range, out| {
                    let x = x.slice(range.start, range.len());
                    dispatch(
                        engine.isa,
                        norm::LayerNorm {
                            x,
                            gamma,
                            beta,
                            eps: *eps,
                            out,
                        },
                    );
                });
            }
            Op::RmsNorm {
                x,
                gamma,
                gain,
                eps,
                out,
            } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let gain = gain.map(|gain| readable.rows(self.plan.views[gain.id as usize]));
                let gamma = vector(gamma)?;
                over_rows(engine, x.len(), 2, target, |range, out| {
                    let each = x.len() / gain.map_or(1, |gain| gain.len());
                    let gain = gain.map(|rows| norm::Gain {
                        rows,
                        each,
                        first: range.start,
                    });
                    let x = x.slice(range.start, range.len());
                    dispatch(
                        engine.isa,
                        norm::RmsNorm {
                            x,
                            gamma,
                            gain,
                            eps: *eps,
                            out,
                        },
                    );
                });
            }
            Op::Rope {
                x,
                head_dim,
                interleaved,
                out,
                ..
            } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let table = readable.rows(self.plan.rope_tables[details.rope_table].view);
                let x = readable.rows(self.plan.views[x.id as usize]);
                over_rows(engine, x.len(), 1, target, |range, out| {
                    let rope = rope::Rope {
                        x: x.slice(range.start, range.len()),
                        table: table.slice(range.start, range.len()),
                        head_dim: *head_dim,
                        interleaved: *interleaved,
                        out,
                    };
                    dispatch(engine.isa, rope);
                });
            }
            Op::Attention {
                q,
                k,
                v,
                n_sequences,
                shape,
                out,
            } => {
                let out = self.plan.views[out.id as usize];
                let ([target, panels], readable) = self.arena.split([out, details.scratch]);
                let rows = |value: &Value| readable.rows(self.plan.views[value.id as usize]);
                let (q, k, v) = (rows(q), rows(k), rows(v));
                let inputs = Stacked {
                    q,
                    k,
                    v,
                    n_sequences: *n_sequences,
                };
                attention_of_rows(engine, inputs, shape, self.plan.rounds, panels, target);
            }
            Op::CacheAppend { slot, layer, k, v } => {
                let (_, readable) = self.arena.split([]);
                let k = readable.rows(self.plan.views[k.id as usize]);
                let v = readable.rows(self.plan.views[v.id as usize]);
                if let SlotBinding::Write(caches) = &mut self.slots[slot.0] {
                    let caches_len = caches.len().max(1);
                    let rows = k.len() / caches_len;
                    for (index, cache) in caches.iter_mut().enumerate() {
                        let before = details.new_rows.before / caches_len;
                        let len = cache.len() + before;
                        let (k, v) = (k.slice(index * rows, rows), v.slice(index * rows, rows));
                        with_planes!(cache.storage_mut::<CpuCache>()?, planes => {
                            planes.append((engine.isa, &engine.pool), *layer, len, k, v);
                        });
                    }
                }
            }
            Op::CachedAttention { .. } => self.cached_attention(op, details)?,
            Op::SwiGlu { gate, up, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let gate = readable.rows(self.plan.views[gate.id as usize]);
                let up = readable.rows(self.plan.views[up.id as usize]);
                over_rows(engine, gate.len(), 4, target, |range, out| {
                    let gate = gate.slice(range.start, range.len());
                    let up = up.slice(range.start, range.len());
                    dispatch(engine.isa, activation::SwiGlu { gate, up, out });
                });
            }
            Op::Activate { x, activation, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                over_rows(engine, x.len(), 4, target, |range, out| {
                    let x = x.slice(range.start, range.len());
                    dispatch(
                        engine.isa,
                        activation::Activate {
                            x,
                            activation: *activation,
                            out,
                        },
                    );
                });
            }
            Op::Add {
                a,
                a_scale,
                b,
                b_scale,
                out,
            } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let a = readable.rows(self.plan.views[a.id as usize]);
                let b = readable.rows(self.plan.views[b.id as usize]);
                add(engine, (a, *a_scale), (b, *b_scale), target);
            }
            Op::AddTable { x, table, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let (rows, cols) = (table.rows(), table.cols());
                let table = Rows::new(matrix(table)?.table(), rows, cols, cols);
                let x = readable.rows(self.plan.views[x.id as usize]);
                add(engine, (x, 1.0), (table, 1.0), target);
            }
            Op::GatherRows { x, rows, out } => {
                let place = self.place(*rows);
                let list = if place.computed {
                    &*self.computed_ids
                } else {
                    self.given_ids
                };
                let ids = &list[place.offset..][..place.len];
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                for (target, &id) in target.chunks_exact_mut(x.cols().max(1)).zip(ids) {
                    target.copy_from_slice(x.row(index_in("gather_rows", id, x.len())?));
                }
            }
            Op::Transpose {
                x,
                n_sequences,
                out,
            } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                let rows = x.len() / n_sequences;
                for (index, target) in target
                    .chunks_exact_mut((rows * x.cols()).max(1))
                    .enumerate()
                {
                    let x = x.slice(index * rows, rows);
                    over_rows(engine, x.cols(), 1, target, |range, out| {
                        transpose::transpose(x, range, out);
                    });
                }
            }
            Op::Softmax { x, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                over_rows(engine, x.len(), 4, target, |range, out| {
                    let x = x.slice(range.start, range.len());
                    dispatch(engine.isa, softmax::Softmax { x, out });
                });
            }
            Op::Magnitude { x, out } => {
                let ([target], readable) = self.arena.split([self.plan.views[out.id as usize]]);
                let x = readable.rows(self.plan.views[x.id as usize]);
                over_rows(engine, x.len(), 2, target, |range, out| {
                    let x = x.slice(range.start, range.len());
                    dispatch(engine.isa, elementwise::Magnitude { x, out });
                });
            }
            Op::Lstm { .. } => self.lstm(op, details)?,
            Op::FilterTokens { .. } => self.filter_tokens(op, details),
            Op::History { .. }
            | Op::Snake { .. }
            | Op::DepthwiseConv1d { .. }
            | Op::Multiply { .. }
            | Op::Concat { .. }
            | Op::Statistics { .. } => self.signal(op)?,
            Op::ChooseTokens { .. } => self.choose_tokens(op),
        }
        Ok(())
    }

    fn embedding(
        &mut self,
        table: &Matrix,
        ids: Ids,
        positional: Option<(&Matrix, Ids)>,
        out: Value,
        scratch: View,
    ) -> Result<()> {
        let storage = matrix(table)?;
        let place = self.place(ids);
        let list = if place.computed {
            &*self.computed_ids
        } else {
            self.given_ids
        };
        let ids = &list[place.offset..][..place.len];
        let out = self.plan.views[out.id as usize];
        let ([target, addend], _) = self.arena.split([out, scratch]);
        let cols = table.cols().max(1);
        // In panels the rows of a small table lie among each other: each costs the way through all of them.
        let small = table.rows() <= PANEL;
        let each = place.len / target.len().checked_div(cols).unwrap_or(1).max(1);
        let read = |id: u32, target: &mut [f32]| -> Result<()> {
            let row = index_in("token ids", id, table.rows())?;
            if small {
                target.copy_from_slice(&storage.table()[row * cols..][..cols]);
            } else {
                storage.packed().row_f32(row, target);
            }
            Ok(())
        };
        for (target, ids) in target
            .chunks_exact_mut(cols)
            .zip(ids.chunks_exact(each.max(1)))
        {
            read(ids[0], target)?;
            for &id in &ids[1..] {
                read(id, addend)?;
                target
                    .iter_mut()
                    .zip(&*addend)
                    .for_each(|(sum, value)| *sum += value);
            }
        }
        let Some((table, positions)) = positional else {
            return Ok(());
        };
        let place = self.plan.ids[positions.id as usize];
        let list = if place.computed {
            &*self.computed_ids
        } else {
            self.given_ids
        };
        let storage = matrix(table)?;
        for (target, &id) in target
            .chunks_exact_mut(cols)
            .zip(&list[place.offset..][..place.len])
        {
            let row = index_in("positions", id, table.rows())?;
            let row = &storage.table()[row * table.cols()..][..table.cols()];
            target
                .iter_mut()
                .zip(row)
                .for_each(|(target, value)| *target += value);
        }
        Ok(())
    }

    fn conv1d(&mut self, op: &Op, details: &Details) -> Result<()> {
        let Op::Conv1d {
            x,
            n_sequences,
            weight,
            bias,
            kernel,
            stride,
            dilation,
            padding,
            activation,
            snake,
            out,
        } = op
        else {
            return Ok(());
        };
        let out = self.plan.views[out.id as usize];
        let ([target, windows], readable) = self.arena.split([out, details.scratch]);
        let x = readable.rows(self.plan.views[x.id as usize]);
        let rows = x.len() / n_sequences;
        let out_rows = out.rows / n_sequences;
        let weight = matrix(weight)?.packed();
        let epilogue = linear::Epilogue {
            bias: bias.as_deref().map(vector).transpose()?,
            activation: fused(*activation),
            snake: snake.as_ref().map(signal::rates).transpose()?,
            ..linear::Epilogue::default()
        };
        let (engine, scratch) = (self.engine, &mut *self.linear_scratch);
        if let (Some(windows), Some(x)) = (details.windows, x.contiguous()) {
            return linear_of_windows(
                engine.isa,
                &engine.pool,
                (x, windows),
                out.rows,
                weight,
                &epilogue,
                self.uniform,
                scratch,
                target,
            );
        }
        let width = kernel * x.cols();
        let geometry = conv1d::Geometry {
            kernel: *kernel,
            stride: *stride,
            dilation: *dilation,
            padding: padding.0,
        };
        if width > 0 {
            over_rows(engine, out.rows, 1, windows, |range, windows| {
                for (row, window) in range.zip(windows.chunks_exact_mut(width)) {
                    let x = x.slice(row / out_rows * rows, rows);
                    conv1d::window(x, geometry, row % out_rows, window);
                }
            });
        }
        linear_of_windows(
            engine.isa,
            &engine.pool,
            (windows, Windows::rows(width)),
            out.rows,
            weight,
            &epilogue,
            self.uniform,
            scratch,
            target,
        )
    }

    fn cached_attention(&mut self, op: &Op, details: &Details) -> Result<()> {
        let Op::CachedAttention {
            q,
            slot,
            layer,
            n_sequences,
            shape,
            scores,
            out,
        } = op
        else {
            return Ok(());
        };
        let out = self.plan.views[out.id as usize];
        let score_view = scores.as_ref().map_or(View::default(), |(_, value)| {
            self.plan.views[value.id as usize]
        });
        let ([target, captured, scratch], readable) =
            self.arena.split([out, score_view, details.scratch]);
        let q = readable.rows(self.plan.views[q.id as usize]);
        let rows = q.len() / n_sequences;
        let heads = scores.as_ref().map_or(&[][..], |(heads, _)| heads);
        let new_rows = details.new_rows;
        let (before, until) = (new_rows.before / n_sequences, new_rows.until / n_sequences);
        let mut index = 0;
        while index < *n_sequences {
            // Neighbours that read the same cache, such as beams, are one sequence with more queries.
            let (cache, shape, same): (&KvCache, AttentionShape, usize) = match &self.slots[slot.0]
            {
                SlotBinding::Write(caches) => (&*caches[index], *shape, 1),
                SlotBinding::Read(caches) => {
                    let same = caches[index..]
                        .iter()
                        .take_while(|cache| std::ptr::eq(**cache, caches[index]))
                        .count();
                    let mask = Mask::Full;
                    (caches[index], AttentionShape { mask, ..*shape }, same)
                }
                SlotBinding::Buffer(_) => return Ok(()),
            };
            let n_keys = cache.len() + until;
            let q_rows = q.slice(index * rows, same * rows);
            let target = &mut target[index * rows * out.cols..][..same * rows * out.cols];
            with_planes!(cache.storage::<CpuCache>()?, planes => {
                let sequence = Sequence {
                    q: q_rows,
                    panels: planes.layer(*layer),
                    keys: (cache.first_position(), n_keys),
                    first_position: cache.len() + before,
                };
                // Whether many queries are rounded depends on their number, which a uniform step must not show.
                let each = (rows, self.plan.rounds && !self.uniform);
                attention(self.engine, sequence, each, &shape, scratch, target);
                let capacity = score_view.cols;
                for (nth, &head) in heads.iter().enumerate() {
                    let first = (nth * q.len() + index * rows) * capacity;
                    let captured = &mut captured[first..][..same * rows * capacity];
                    capture_scores(self.engine, sequence, &shape, head, capacity, captured);
                }
            });
            index += same;
        }
        Ok(())
    }

    fn lstm(&mut self, op: &Op, details: &Details) -> Result<()> {
        let Op::Lstm {
            x,
            w_ih,
            w_hh,
            bias,
            state,
            out,
        } = op
        else {
            return Ok(());
        };
        let SlotBinding::Buffer(buffer) = &mut self.slots[state.0] else {
            return Ok(());
        };
        let hidden = w_hh.cols();
        let out = self.plan.views[out.id as usize];
        let ([target, gates], readable) = self.arena.split([out, details.scratch]);
        let x = readable.rows(self.plan.views[x.id as usize]);
        let (engine, scratch) = (self.engine, &mut *self.linear_scratch);
        let (gates, staging) = gates.split_at_mut(x.len() * 4 * hidden);
        let input = x.contiguous().unwrap_or_else(|| {
            elementwise::copy(x, &mut staging[..x.len() * x.cols()]);
            &staging[..x.len() * x.cols()]
        });
        let epilogue = linear::Epilogue {
            bias: Some(vector(bias)?),
            ..linear::Epilogue::default()
        };
        let weight = matrix(w_ih)?.packed();
        linear(
            engine.isa,
            &engine.pool,
            input,
            x.len(),
            weight,
            &epilogue,
            scratch,
            gates,
        )?;
        let epilogue = linear::Epilogue {
            accumulate: true,
            ..linear::Epilogue::default()
        };
        let weight = matrix(w_hh)?.packed();
        let (h, c) = buffer.storage_mut::<Vec<f32>>()?.split_at_mut(hidden);
        for (gates, target) in gates
            .chunks_exact_mut((4 * hidden).max(1))
            .zip(target.chunks_exact_mut(hidden.max(1)))
        {
            linear(
                engine.isa,
                &engine.pool,
                h,
                1,
                weight,
                &epilogue,
                scratch,
                gates,
            )?;
            dispatch(engine.isa, lstm::Cell { gates, h, c });
            target.copy_from_slice(h);
        }
        Ok(())
    }

    fn filter_tokens(&mut self, op: &Op, details: &Details) {
        let Op::FilterTokens {
            logits,
            filter,
            out,
        } = op
        else {
            return;
        };
        let out = self.plan.views[out.id as usize];
        let ([target, scratch], readable) = self.arena.split([out, details.scratch]);
        let logits = readable.rows(self.plan.views[logits.id as usize]);
        let controls = readable.rows(self.plan.views[filter.controls.id as usize]);
        let list = |ids: Ids| {
            let place = self.plan.ids[ids.id as usize];
            &self.given_ids[place.offset..][..place.len]
        };
        let (cols, words) = (logits.cols(), filter.allowed.cols());
        let (target, scratch) = (Shared::new(target), Shared::new(scratch));
        self.engine.pool.run(logits.len(), &|row| {
            let control = controls.row(row);
            let choice = Choice {
                logits: logits.row(row),
                allowed: &list(filter.allowed)[row * words..][..words],
                seen: filter.seen.map(|seen| &list(seen)[row * words..][..words]),
                temperature: control[0],
                penalty: control[1],
                prefer: false,
                seed: [0; 2],
                prefer_from: 0,
            };
            // SAFETY: `cols` values for each row, each row for one task.
            let (out, scratch) = unsafe {
                (
                    std::slice::from_raw_parts_mut(target.get().add(row * cols), cols),
                    std::slice::from_raw_parts_mut(scratch.get().add(row * cols), cols),
                )
            };
            let filter = Filter {
                choice,
                top_k: control[2] as usize,
                top_p: control[3],
                scratch,
                out,
            };
            filter.run();
        });
    }

    fn choose_tokens(&mut self, op: &Op) {
        let Op::ChooseTokens {
            logits,
            choose,
            tokens,
            logprobs,
        } = op
        else {
            return;
        };
        let place = self.place(*tokens);
        let ([logprobs], readable) = self.arena.split([self.plan.views[logprobs.id as usize]]);
        let tokens = &mut self.computed_ids[place.offset..][..place.len];
        let logits = readable.rows(self.plan.views[logits.id as usize]);
        let controls = readable.rows(self.plan.views[choose.controls.id as usize]);
        let list = |ids: Ids| {
            let place = self.plan.ids[ids.id as usize];
            &self.given_ids[place.offset..][..place.len]
        };
        let words = choose.allowed.cols();
        let (k, isa) = (choose.k, self.engine.isa);
        let (tokens, logprobs) = (Shared::new(tokens), Shared::new(logprobs));
        self.engine.pool.run(logits.len(), &|row| {
            let control = controls.row(row);
            let seeds = list(choose.seeds);
            let choice = Choice {
                logits: logits.row(row),
                allowed: &list(choose.allowed)[row * words..][..words],
                seen: choose.seen.map(|seen| &list(seen)[row * words..][..words]),
                temperature: control[0],
                penalty: control[1],
                prefer: control[2] != 0.0,
                seed: [seeds[2 * row], seeds[2 * row + 1]],
                prefer_from: choose.prefer_from as usize,
            };
            // SAFETY: `k` results for each row, each row for one task.
            let (tokens, logprobs) = unsafe {
                (
                    std::slice::from_raw_parts_mut(tokens.get().add(row * k), k),
                    std::slice::from_raw_parts_mut(logprobs.get().add(row * k), k),
                )
            };
            dispatch(
                isa,
                Choose {
                    choice,
                    tokens,
                    logprobs,
                },
            );
        });
    }
}

/// `out = a * a_scale + b * b_scale`; `b` repeats.
fn add(
    engine: &Engine,
    (a, a_scale): (Rows<'_>, f32),
    (b, b_scale): (Rows<'_>, f32),
    out: &mut [f32],
) {
    over_rows(engine, a.len(), 1, out, |range, out| {
        let add = elementwise::Add {
            a,
            a_scale,
            b,
            b_scale,
            first: range.start,
            out,
        };
        dispatch(engine.isa, add);
    });
}
