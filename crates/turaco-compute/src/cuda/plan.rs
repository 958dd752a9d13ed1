//! From a graph to the kernels that are called for it: where everything lies, and what each call is told, settled once.
//!
//! What differs from run to run (which caches are bound, how long they are) is in a table that the host writes before
//! each run ([`Tables`]); so one recording of all calls serves every run.

use std::ffi::c_void;
use std::sync::Arc;

use super::context::{Context, HostMemory, Memory};
use super::driver::{Address, Handle};
use super::kernels::Module;
use super::memory::{Places, View};
use super::params::{Params, PublishParams};
use crate::cpu::kernels::rope;
use crate::device::KernelChoice;
use crate::error::{Error, Result};
use crate::fuse::{self, Limits, Task};
use crate::graph::{Graph, Ids, IdsSource, Op, SlotKind, Value, ValueSource};
use crate::slots::{NewRows, SlotNeeds, slot_needs};

use self::operations::is_gated;

mod attention;
pub(super) mod grids;
mod operations;
mod read_ahead;
mod signal;

/// Most rows of a linear map that reads its weights once for all of them and does a norm of its input itself.
pub(super) const FEW_ROWS: usize = 8;

/// Most rows of one that reads its weights once, where tensor cores multiply.
pub(super) const FEW_ROWS_IN_TILES: usize = 32;

/// Bytes of the head of a slot's table, and of each sequence in it (`kernels/states.cuh`).
const SLOT_BYTES: usize = 16;
const SEQUENCE_BYTES: usize = 32;

/// A graph with the memory of its values.
pub(super) struct Plan {
    pub launches: Vec<Launch>,
    /// For each operation of the graph the number of calls up to its end.
    pub ends: Vec<usize>,
    /// What the host gives: inputs, angles of rotations, tables of slots.
    pub inputs: Memory,
    pub input_words: usize,
    /// Where the number of the run is among them.
    pub run: usize,
    pub float_inputs: Vec<(usize, usize)>,
    pub id_inputs: Vec<(usize, usize)>,
    pub angles: Vec<Angles>,
    pub slots: Vec<SlotTable>,
    pub limits: Vec<Limit>,
    pub needs: Vec<SlotNeeds>,
    /// Everything computed; what the host reads after each run comes first.
    pub memory: Memory,
    pub result_words: usize,
    pub outputs: Vec<Output>,
    pub id_outputs: Vec<(usize, usize)>,
}

/// One call of a kernel.
pub(super) struct Launch {
    pub function: Handle,
    pub name: String,
    pub grid: [u32; 3],
    pub threads: u32,
    /// Shared memory of a block, beside what the kernel has itself.
    pub shared_bytes: u32,
    /// The struct that it takes, in words of 64 bits.
    pub params: Vec<u64>,
}

// SAFETY: handles of the driver belong to no thread.
unsafe impl Send for Launch {}

/// Cosines and sines of positions.
pub(super) struct Angles {
    /// The input with the positions.
    pub positions: (usize, usize),
    pub head_dim: usize,
    theta: f32,
    pub frequencies: Vec<f64>,
    /// Where they begin.
    pub to: usize,
}

/// Where the table of a slot is among the inputs, in words, and how many sequences it has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotTable {
    pub at: usize,
    pub sequences: usize,
    /// Columns of the heads that attend to it.
    pub head_dim: Option<usize>,
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
    /// After a run, in its results.
    Result(usize, usize),
}

/// Where an output is after a run.
pub(super) enum Output {
    /// In the results: where it begins, and how long it is.
    Result(usize, usize),
    /// On the card, so long.
    Kept(Address, usize),
}

/// Where the host writes what it gives, in words.
struct Layout {
    words: usize,
    run: usize,
    float_inputs: Vec<(usize, usize)>,
    id_inputs: Vec<(usize, usize)>,
    angles: Vec<Angles>,
    slots: Vec<SlotTable>,
}

/// Where results are, in words from the beginning of a step's memory.
struct Results {
    words: usize,
    outputs: Vec<Option<usize>>,
    ids: Vec<Option<usize>>,
}

struct Planner<'a> {
    context: &'a Arc<Context>,
    graph: &'a Graph,
    layout: &'a Layout,
    /// Where the inputs begin.
    inputs: Address,
    places: Places,
    results: &'a Results,
    /// Where outputs are that stay on the card.
    kept: Vec<Option<Address>>,
    limits: Vec<Limit>,
    launches: Vec<Launch>,
    /// Those of them that read weights once.
    read_ahead: Vec<read_ahead::Reading>,
    /// Counters that calls have to themselves, in words from the beginning of their memory.
    counter_words: usize,
    counters: Address,
    /// Whether addresses do not matter yet.
    dry: bool,
}

impl Plan {
    /// Place all values, compile all kernels, and settle what they are told.
    pub fn new(context: &Arc<Context>, graph: &Graph) -> Result<Self> {
        let (needs, new_rows) = slot_needs(graph)?;
        let layout = Layout::new(graph, &needs)?;
        let roots = graph.roots();
        let limits = Limits {
            // One kernel for any number of rows, where they may not make a difference.
            few_rows: if graph.uniform { 0 } else { FEW_ROWS + 1 },
            most_choices: 0,
            heads: true,
            appends: &|task| attention::appends(task, &roots),
            is_gated: &is_gated,
        };
        let tasks = fuse::tasks(graph, &limits)?;
        let results = Results::new(graph);
        let inputs = context.zeros_of_host(4 * layout.words, "inputs of a step")?;
        // Once to see how much memory it takes, then with the addresses.
        let mut planner = Planner {
            context,
            graph,
            layout: &layout,
            inputs: inputs.address,
            places: Places::new(0, 4 * results.words, graph, &tasks),
            results: &results,
            kept: Vec::new(),
            limits: Vec::new(),
            launches: Vec::new(),
            read_ahead: Vec::new(),
            counter_words: 0,
            counters: 0,
            dry: true,
        };
        planner.walk(&tasks, &new_rows)?;
        let counters_at = planner.places.bytes.next_multiple_of(256);
        let bytes = counters_at + 4 * planner.counter_words;
        let memory = context.zeros(bytes, "values of a step")?;
        let mut planner = Planner {
            places: Places::new(memory.address, 4 * results.words, graph, &tasks),
            kept: Vec::new(),
            limits: Vec::new(),
            launches: Vec::new(),
            read_ahead: Vec::new(),
            counter_words: 0,
            counters: memory.address + counters_at as u64,
            dry: false,
            ..planner
        };
        let ends = planner.walk(&tasks, &new_rows)?;
        planner.settle_read_ahead();
        let outputs = planner.outputs();
        let Planner {
            limits, launches, ..
        } = planner;
        let id_outputs = graph
            .id_outputs
            .iter()
            .map(|&list| results.place(list))
            .collect();
        let Layout {
            words,
            run,
            float_inputs,
            id_inputs,
            angles,
            slots,
        } = layout;
        Ok(Self {
            launches,
            ends,
            inputs,
            input_words: words,
            run,
            float_inputs,
            id_inputs,
            angles,
            slots,
            limits,
            needs,
            memory,
            result_words: results.words,
            outputs,
            id_outputs,
        })
    }

    /// Bytes on the card.
    pub fn bytes(&self) -> usize {
        self.inputs.bytes + self.memory.bytes
    }

    /// The call that writes results and the number of the run to memory of the host.
    pub fn publish(&self, context: &Context, to: *mut c_void) -> Result<Launch> {
        const THREADS: u32 = 256;
        let params = PublishParams {
            results: self.memory.address,
            to: to as Address,
            run: self.inputs.address + 4 * self.run as u64,
            words: self.result_words as u32,
            mark: self.result_words as u32,
        };
        Launch::new(
            context,
            (Module::Publish, "publish"),
            [1, 1, 1],
            THREADS,
            params,
        )
    }

    /// Memory that the host writes inputs to.
    pub fn staging(&self, context: &Arc<Context>) -> Result<HostMemory> {
        HostMemory::new(context, self.input_words)
    }
}

impl Layout {
    fn new(graph: &Graph, needs: &[SlotNeeds]) -> Result<Self> {
        let mut words = 0;
        let mut place = |len: usize| {
            let at = words;
            words += len.next_multiple_of(4);
            (at, len)
        };
        let float_inputs = (graph.values.iter())
            .filter(|(_, source)| matches!(source, ValueSource::Input(_)))
            .map(|(value, _)| place(value.rows() * value.cols()))
            .collect();
        let id_inputs: Vec<(usize, usize)> = (graph.ids.iter())
            .filter(|(_, source)| matches!(source, IdsSource::Input(_)))
            .map(|(list, _)| place(list.rows() * list.cols()))
            .collect();
        let angles = Angles::all(graph, &id_inputs, &mut place)?;
        let slots = graph.slots.iter().zip(needs).map(|(kind, need)| {
            let sequences = match kind {
                SlotKind::Buffer => 0,
                SlotKind::CacheWrite | SlotKind::CacheRead => need.most_sequences(),
            };
            let (at, _) = place((SLOT_BYTES + SEQUENCE_BYTES * sequences.max(1)) / 4);
            SlotTable {
                at,
                sequences,
                head_dim: None,
            }
        });
        let mut slots: Vec<SlotTable> = slots.collect();
        for op in &graph.ops {
            if let Op::CachedAttention { slot, shape, .. } = op {
                slots[slot.0].head_dim = Some(shape.head_dim);
            }
        }
        Ok(Self {
            run: place(1).0,
            float_inputs,
            id_inputs,
            angles,
            slots,
            words,
        })
    }
}

impl Angles {
    /// One for all rotations with the same positions.
    fn all(
        graph: &Graph,
        id_inputs: &[(usize, usize)],
        place: &mut impl FnMut(usize) -> (usize, usize),
    ) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for op in &graph.ops {
            let Op::Rope {
                positions,
                head_dim,
                theta,
                ..
            } = op
            else {
                continue;
            };
            let IdsSource::Input(input) = graph.ids[positions.id as usize].1 else {
                return Err(Error::Unsupported {
                    what: "rope with computed positions".into(),
                    reason: "the host gives them".into(),
                });
            };
            let positions = id_inputs[input];
            if !all
                .iter()
                .any(|angles| angles.are_of(positions, *head_dim, *theta))
            {
                all.push(Self {
                    positions,
                    head_dim: *head_dim,
                    theta: *theta,
                    frequencies: rope::frequencies(*head_dim, *theta),
                    to: place(positions.1 * head_dim).0,
                });
            }
        }
        Ok(all)
    }

    fn are_of(&self, positions: (usize, usize), head_dim: usize, theta: f32) -> bool {
        (self.positions, self.head_dim) == (positions, head_dim)
            && self.theta.to_bits() == theta.to_bits()
    }
}

impl Results {
    fn new(graph: &Graph) -> Self {
        let mut words = 0;
        let mut place = |len: usize| {
            let at = words;
            words += len.next_multiple_of(4);
            Some(at)
        };
        let outputs = graph.outputs.iter().zip(&graph.on_demand);
        let outputs = outputs
            .map(|(value, on_demand)| match on_demand {
                true => None,
                false => place(value.rows() * value.cols()),
            })
            .collect();
        let ids = graph.ids.iter().map(|(list, source)| match source {
            IdsSource::Input(_) => None,
            IdsSource::Computed => place(list.rows() * list.cols()),
        });
        let ids = ids.collect();
        Self {
            outputs,
            ids,
            words,
        }
    }

    /// Where a computed list is, and how long.
    fn place(&self, list: Ids) -> (usize, usize) {
        let at = self.ids[list.id as usize].unwrap_or(0);
        (at, list.rows() * list.cols())
    }
}

impl Planner<'_> {
    /// All tasks in order; for each operation of the graph the number of calls up to its end.
    fn walk(&mut self, tasks: &[Task<'_>], new_rows: &[NewRows]) -> Result<Vec<usize>> {
        let graph = self.graph;
        for (value, source) in &graph.values {
            if let ValueSource::Input(index) = source {
                let at = self.layout.float_inputs[*index].0;
                self.places.settle(*value, self.input_address(at));
            }
        }
        // Results are computed where the host reads them.
        for (value, at) in graph.outputs.iter().zip(&self.results.outputs) {
            if let Some(at) = at
                && self.places.is_computed(graph, *value)
            {
                let address = self.places.address(4 * at);
                self.places.settle(*value, address);
            }
        }
        let mut ends = Vec::with_capacity(graph.ops.len());
        for (nth, task) in tasks.iter().enumerate() {
            // What another operation does takes no call of its own.
            ends.resize(task.index, self.launches.len());
            self.places.begin(task)?;
            self.task(task, new_rows[task.index])?;
            self.places.end(nth, task);
            ends.push(self.launches.len());
        }
        ends.resize(graph.ops.len(), self.launches.len());
        for (&value, at) in graph.outputs.iter().zip(&self.results.outputs) {
            let from = self.view(value);
            let whole = from.stride == value.cols() || value.rows() <= 1;
            let to = match at {
                Some(at) => self.places.address(4 * at),
                None if whole => from.address,
                // What is read in one piece later.
                None => {
                    let room = self.places.take(value.rows() * value.cols());
                    self.places.address_of(room)
                }
            };
            if from.address != to {
                self.copy_rows(value, from, to)?;
            }
            self.kept.push(at.is_none().then_some(to));
        }
        Ok(ends)
    }

    /// Where outputs are.
    fn outputs(&self) -> Vec<Output> {
        let places = self.results.outputs.iter().zip(&self.kept);
        let outputs = self.graph.outputs.iter().zip(places);
        outputs
            .map(|(value, (at, kept))| {
                let len = value.rows() * value.cols();
                match kept {
                    Some(address) => Output::Kept(*address, len),
                    None => Output::Result(at.unwrap_or(0), len),
                }
            })
            .collect()
    }

    fn view(&self, value: Value) -> View {
        self.places.view(value)
    }

    fn input_address(&self, word: usize) -> Address {
        self.inputs + 4 * word as u64
    }

    /// Where a list of numbers is.
    fn list(&self, list: Ids) -> Address {
        match self.graph.ids[list.id as usize].1 {
            IdsSource::Input(index) => self.input_address(self.layout.id_inputs[index].0),
            IdsSource::Computed => self.places.address(4 * self.results.place(list).0),
        }
    }

    /// A list of numbers that index something with `below` entries.
    fn indices(&mut self, what: &'static str, list: Ids, below: usize) -> Address {
        let numbers = match self.graph.ids[list.id as usize].1 {
            IdsSource::Input(index) => {
                let (at, len) = self.layout.id_inputs[index];
                Numbers::Given(at, len)
            }
            IdsSource::Computed => {
                let (at, len) = self.results.place(list);
                Numbers::Result(at, len)
            }
        };
        self.limits.push(Limit {
            what,
            below,
            numbers,
        });
        self.list(list)
    }

    /// The table of a slot.
    fn slot(&self, slot: crate::graph::Slot) -> Address {
        self.input_address(self.layout.slots[slot.0].at)
    }

    /// The angles of a rotation.
    fn angles(&self, positions: Ids, head_dim: usize, theta: f32) -> Address {
        let input = match self.graph.ids[positions.id as usize].1 {
            IdsSource::Input(index) => self.layout.id_inputs[index],
            IdsSource::Computed => (usize::MAX, 0),
        };
        let found = self
            .layout
            .angles
            .iter()
            .find(|angles| angles.are_of(input, head_dim, theta));
        self.input_address(found.map_or(0, |angles| angles.to))
    }

    /// So many counters that are 0 between runs.
    fn counters(&mut self, count: usize) -> Address {
        let at = self.counter_words;
        self.counter_words += count;
        self.counters + 4 * at as u64
    }

    /// Call a kernel on a grid of blocks; none if there is nothing to do.
    fn call<P: Params>(
        &mut self,
        (module, name): (Module, &str),
        grid: [usize; 3],
        threads: u32,
        params: P,
    ) -> Result<()> {
        if grid.contains(&0) || self.dry {
            return Ok(());
        }
        let most = [usize::MAX >> 33, 65_535, 65_535];
        if grid.iter().zip(most).any(|(&blocks, most)| blocks > most) {
            return Err(Error::Unsupported {
                what: format!("{name} on a grid of {grid:?} blocks"),
                reason: format!("the card takes at most {most:?}"),
            });
        }
        let grid = grid.map(|blocks| blocks as u32);
        let launch = Launch::new(self.context, (module, name), grid, threads, params)?;
        self.launches.push(launch);
        Ok(())
    }
}

impl Launch {
    fn new<P: Params>(
        context: &Context,
        (module, name): (Module, &str),
        grid: [u32; 3],
        threads: u32,
        params: P,
    ) -> Result<Self> {
        let function = context.kernel(module, name)?;
        let mut words = vec![0_u64; size_of::<P>().div_ceil(8)];
        // SAFETY: there is room for the struct, which is aligned to 8 bytes at most.
        unsafe { words.as_mut_ptr().cast::<P>().write(params) };
        Ok(Self {
            function,
            name: format!("{}/{name}", module.name()),
            grid,
            threads,
            shared_bytes: module.shared_bytes(),
            params: words,
        })
    }

    /// The struct that it takes.
    ///
    /// # Safety
    /// It was made of a `P`.
    unsafe fn params_mut<P: Params>(&mut self) -> &mut P {
        // SAFETY: a `P` was written there, which is aligned to 8 bytes at most, as the caller knows.
        unsafe { &mut *self.params.as_mut_ptr().cast::<P>() }
    }
}

/// Which kernels do what, for people.
pub(super) fn choices(context: &Context) -> Vec<KernelChoice> {
    let choice = |operation, kernel| KernelChoice { operation, kernel };
    vec![
        choice(
            "linear, few rows",
            format!("up to {FEW_ROWS} rows by weights that are read once, with norm and SwiGLU"),
        ),
        choice(
            "linear, many rows",
            "tensor cores (bf16; tf32 for f16 weights), f32 weights in f32; inputs cut where there are few tiles".into(),
        ),
        choice(
            "attention",
            "tiles of queries and keys, online softmax; products in f32, or tf32 where weights are rounded".into(),
        ),
        choice(
            "attention, one query",
            format!("the queries of a key head at once, keys in up to {} parts", grids::MOST_SPLITS),
        ),
        choice("token choice", format!("slices of {} tokens", grids::CHOICE_SLICE)),
        choice(
            "runs",
            format!(
                "one graph each, on {} multiprocessors of compute capability {}.{}; {}",
                context.multiprocessors,
                context.capability / 10,
                context.capability % 10,
                match context.overlaps() {
                    true => "kernels begin while the one before ends",
                    false => "one kernel after the other",
                }
            ),
        ),
    ]
}
