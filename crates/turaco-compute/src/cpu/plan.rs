//! From a graph to places in memory: which value lives where, and for how long.

use crate::cpu::Precision;
use crate::cpu::arena::{LINE, View};
use crate::cpu::cache::head_panel_len;
use crate::cpu::isa::Isa;
use crate::cpu::kernels::attention::split_len;
use crate::cpu::kernels::linear::Windows;
use crate::cpu::kernels::rope;
use crate::cpu::matrix::CpuMatrix;
use crate::device::{Matrix, Vector, WeightType};
use crate::error::Result;
use crate::graph::{Graph, IdsSource, Op, Root, Snake, Value, ValueSource};
use crate::slots::{NewRows, SlotNeeds, slot_needs};

/// Everything about a graph that is decided before its first run.
pub(crate) struct Plan {
    /// Place of every value.
    pub views: Vec<View>,
    /// Place of every u32 list.
    pub ids: Vec<IdsPlace>,
    /// Per operation: working memory, and what an attention has to know about appended rows.
    pub details: Vec<Details>,
    /// Float inputs, in their order.
    pub inputs: Vec<View>,
    /// u32 inputs, in their order.
    pub id_inputs: Vec<IdsPlace>,
    /// Contiguous places of the outputs.
    pub outputs: Vec<View>,
    /// Outputs that have to be copied to such a place first.
    pub output_copies: Vec<(View, View)>,
    /// u32 outputs.
    pub id_outputs: Vec<IdsPlace>,
    /// What each slot must be able to hold.
    pub needs: Vec<SlotNeeds>,
    /// Angles of rotary embeddings, made at the start of each run.
    pub rope_tables: Vec<RopeTable>,
    /// Whether attention may round queries, keys and weights to bf16.
    pub rounds: bool,
    /// Values in the arena.
    pub arena_len: usize,
    /// Numbers in u32 inputs and computed u32 lists.
    pub ids_len: (usize, usize),
}

/// A range of the input numbers or of the computed numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdsPlace {
    pub computed: bool,
    pub offset: usize,
    pub len: usize,
}

/// The angles of all rotations with the same positions and frequencies.
#[derive(Debug)]
pub(crate) struct RopeTable {
    pub positions: IdsPlace,
    pub frequencies: Vec<f64>,
    /// `[positions, head_dim]`, see [`rope::table`].
    pub view: View,
    theta: f32,
}

/// See [`Plan::details`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Details {
    pub scratch: View,
    /// Number of the table of a rotation.
    pub rope_table: usize,
    /// Where an operation on a cache stands among the positions that are new.
    pub new_rows: NewRows,
    /// Windows of a convolution that need not be laid out.
    pub windows: Option<Windows>,
}

impl Plan {
    /// Check that everything belongs to the CPU, and place all values.
    pub(crate) fn new(graph: &Graph, precision: Precision, isa: Isa) -> Result<Self> {
        for op in &graph.ops {
            check_devices(op)?;
        }
        let (ids, id_inputs, ids_len) = place_ids(graph);
        let (needs, new_rows) = slot_needs(graph)?;
        let mut places = Places::new(graph, isa);
        let inputs = places.allocate_inputs(graph);
        let mut rope_tables = Vec::new();
        let mut details = Vec::with_capacity(graph.ops.len());
        for (index, op) in graph.ops.iter().enumerate() {
            let rope_table = rope_table(op, &ids, &mut rope_tables, &mut places);
            let scratch = places.step(graph, index, op);
            details.push(Details {
                scratch,
                rope_table,
                new_rows: new_rows[index],
                windows: windows_in_place(graph, op, isa, &places.roots),
            });
        }
        let views: Vec<View> = graph
            .values
            .iter()
            .map(|&(value, _)| places.view(value))
            .collect();
        let mut output_copies = Vec::new();
        let outputs = graph
            .outputs
            .iter()
            .map(|value| {
                let view = views[value.id as usize];
                if view.stride == view.cols || view.rows <= 1 {
                    return view;
                }
                let copy = places.scratch(view.rows, view.cols);
                output_copies.push((view, copy));
                copy
            })
            .collect();
        let id_outputs = graph
            .id_outputs
            .iter()
            .map(|list| ids[list.id as usize])
            .collect();
        let arena_len = places.free.len;
        Ok(Self {
            views,
            ids,
            details,
            inputs,
            id_inputs,
            outputs,
            output_copies,
            id_outputs,
            needs,
            rope_tables,
            rounds: rounds(graph, precision)?,
            arena_len,
            ids_len,
        })
    }
}

/// The number of the table that a rotation takes, which is made if there is none yet. Tables have memory of their
/// own: what is filled before the first operation must not be something else's before.
fn rope_table(
    op: &Op,
    ids: &[IdsPlace],
    tables: &mut Vec<RopeTable>,
    places: &mut Places,
) -> usize {
    let Op::Rope {
        positions,
        head_dim,
        theta,
        ..
    } = op
    else {
        return 0;
    };
    let place = ids[positions.id as usize];
    let known = tables.iter().position(|table| {
        (table.positions.offset, table.view.cols) == (place.offset, *head_dim)
            && table.theta.to_bits() == theta.to_bits()
    });
    known.unwrap_or_else(|| {
        tables.push(RopeTable {
            positions: place,
            frequencies: rope::frequencies(*head_dim, *theta),
            view: places.unshared(positions.rows(), *head_dim),
            theta: *theta,
        });
        tables.len() - 1
    })
}

fn check_devices(op: &Op) -> Result<()> {
    let matrix = |matrix: &Matrix| matrix.storage::<CpuMatrix>().map(|_| ());
    let vector = |vector: &Vector| vector.storage::<Vec<f32>>().map(|_| ());
    match op {
        Op::Embedding {
            table, positional, ..
        } => {
            matrix(table)?;
            positional
                .as_ref()
                .map_or(Ok(()), |(table, _)| matrix(table))
        }
        Op::Linear { weight, bias, .. } => {
            matrix(weight)?;
            bias.as_ref().map_or(Ok(()), |bias| vector(bias))
        }
        Op::Conv1d {
            weight,
            bias,
            snake,
            ..
        } => {
            matrix(weight)?;
            if let Some(Snake { rate, gain }) = snake {
                vector(rate)?;
                vector(gain)?;
            }
            bias.as_ref().map_or(Ok(()), |bias| vector(bias))
        }
        Op::LayerNorm { gamma, beta, .. } => vector(gamma).and_then(|()| vector(beta)),
        Op::RmsNorm { gamma, .. } => vector(gamma),
        Op::AddTable { table, .. } => matrix(table),
        Op::History {
            snake: Some(Snake { rate, gain }),
            ..
        }
        | Op::Snake {
            snake: Snake { rate, gain },
            ..
        } => vector(rate).and_then(|()| vector(gain)),
        Op::DepthwiseConv1d { weight, bias, .. } => {
            vector(weight)?;
            bias.as_ref().map_or(Ok(()), |bias| vector(bias))
        }
        Op::Lstm {
            w_ih, w_hh, bias, ..
        } => {
            matrix(w_ih)?;
            matrix(w_hh)?;
            vector(bias)
        }
        _ => Ok(()),
    }
}

/// Whether the graph's linear maps round their inputs anyway, or the caller asked for speed.
fn rounds(graph: &Graph, precision: Precision) -> Result<bool> {
    if precision != Precision::Auto {
        return Ok(precision == Precision::Fast);
    }
    let mut any = false;
    for op in &graph.ops {
        if let Op::Linear { weight, .. } = op {
            let weight_type = weight.storage::<CpuMatrix>()?.packed().weight_type();
            if weight_type != WeightType::Bf16 && !weight_type.is_integer() {
                return Ok(false);
            }
            any = true;
        }
    }
    Ok(any)
}

fn place_ids(graph: &Graph) -> (Vec<IdsPlace>, Vec<IdsPlace>, (usize, usize)) {
    let (mut given, mut computed) = (0, 0);
    let mut inputs = Vec::new();
    let places = graph
        .ids
        .iter()
        .map(|(list, source)| {
            let len = list.rows() * list.cols();
            let is_computed = *source == IdsSource::Computed;
            let used = if is_computed {
                &mut computed
            } else {
                &mut given
            };
            let place = IdsPlace {
                computed: is_computed,
                offset: *used,
                len,
            };
            *used += len;
            if !is_computed {
                inputs.push(place);
            }
            place
        })
        .collect();
    (places, inputs, (given, computed))
}

/// Where the storage of every value is, while operations are walked through in order.
struct Places {
    isa: Isa,
    roots: Vec<Root>,
    /// Last operation that reads a root; `usize::MAX` for outputs.
    last_use: Vec<usize>,
    offsets: Vec<usize>,
    sizes: Vec<(usize, usize)>,
    free: FreeList,
    /// Roots whose storage went over to another one.
    inherited: Vec<bool>,
}

impl Places {
    fn new(graph: &Graph, isa: Isa) -> Self {
        let roots = graph.roots();
        let mut last_use = vec![0; graph.values.len()];
        for (index, op) in graph.ops.iter().enumerate() {
            let (reads, writes) = op.values();
            for value in reads.into_iter().chain(writes) {
                last_use[roots[value.id as usize].owner] = index;
            }
        }
        for value in &graph.outputs {
            last_use[roots[value.id as usize].owner] = usize::MAX;
        }
        let sizes = graph
            .values
            .iter()
            .map(|(value, _)| (value.rows(), value.cols()))
            .collect();
        let count = graph.values.len();
        Self {
            isa,
            roots,
            last_use,
            offsets: vec![0; count],
            sizes,
            free: FreeList::default(),
            inherited: vec![false; count],
        }
    }

    fn view(&self, value: Value) -> View {
        let root = self.roots[value.id as usize];
        View {
            offset: self.offsets[root.owner] + root.column,
            rows: value.rows(),
            cols: value.cols(),
            stride: root.stride,
        }
    }

    fn scratch(&mut self, rows: usize, cols: usize) -> View {
        View {
            offset: self.free.take(rows * cols),
            rows,
            cols,
            stride: cols,
        }
    }

    /// Memory that nothing else has had or gets.
    fn unshared(&mut self, rows: usize, cols: usize) -> View {
        View {
            offset: self.free.take_new(rows * cols),
            rows,
            cols,
            stride: cols,
        }
    }

    fn allocate(&mut self, root: usize) {
        let (rows, cols) = self.sizes[root];
        self.offsets[root] = self.free.take(rows * cols);
    }

    fn allocate_inputs(&mut self, graph: &Graph) -> Vec<View> {
        let mut views = Vec::new();
        for (value, source) in &graph.values {
            if let ValueSource::Input(_) = source {
                self.allocate(value.id as usize);
                views.push(self.view(*value));
            }
        }
        views
    }

    /// Place the results and the working memory of an operation, then free what nobody reads any more.
    fn step(&mut self, graph: &Graph, index: usize, op: &Op) -> View {
        let (reads, writes) = op.values();
        let heir = self.heir(index, op);
        for value in &writes {
            let root = value.id as usize;
            match heir {
                Some(dying) if value.id == writes[0].id => {
                    self.offsets[root] = self.offsets[dying];
                    self.inherited[dying] = true;
                }
                _ => self.allocate(root),
            }
        }
        let (rows, cols) = scratch_shape(graph, op, self.isa, &self.roots);
        let scratch = self.scratch(rows, cols);
        self.free.give(scratch.offset, rows * cols);
        let mut freed = Vec::new();
        for value in reads.into_iter().chain(writes) {
            let root = self.roots[value.id as usize].owner;
            if self.last_use[root] <= index && !self.inherited[root] && !freed.contains(&root) {
                let (rows, cols) = self.sizes[root];
                self.free.give(self.offsets[root], rows * cols);
                freed.push(root);
            }
        }
        scratch
    }

    /// The value whose storage the result takes over: a residual that nothing reads afterwards.
    fn heir(&self, index: usize, op: &Op) -> Option<usize> {
        let Op::Linear {
            x,
            residual: Some(residual),
            ..
        } = op
        else {
            return None;
        };
        let root = self.roots[residual.id as usize].owner;
        let (rows, cols) = self.sizes[root];
        let whole = rows * cols == residual.rows() * residual.cols();
        let dies = self.last_use[root] == index && self.roots[x.id as usize].owner != root;
        (whole && dies).then_some(root)
    }
}

/// The windows of a convolution that a product takes from its input as it is: neighbours begin at neighbouring rows.
fn windows_in_place(graph: &Graph, op: &Op, isa: Isa, roots: &[Root]) -> Option<Windows> {
    let Op::Conv1d {
        x,
        n_sequences: 1,
        weight,
        kernel,
        stride: 1,
        dilation,
        padding: (0, 0),
        out,
        ..
    } = op
    else {
        return None;
    };
    let windows = Windows {
        taps: *kernel,
        cols: x.cols(),
        dilation: *dilation,
    };
    let whole = roots[x.id as usize].stride == x.cols();
    let weight_type = weight.weight_type();
    let fit = windows.fit(isa, weight_type, out.rows(), graph.uniform);
    (whole && fit).then_some(windows)
}

/// Working memory of an operation, as rows and columns.
fn scratch_shape(graph: &Graph, op: &Op, isa: Isa, roots: &[Root]) -> (usize, usize) {
    // A window of columns has gaps between its rows, and linear maps want none.
    let packed = |x: &Value| match roots[x.id as usize].stride == x.cols() || x.rows() <= 1 {
        true => (0, 0),
        false => (x.rows(), x.cols()),
    };
    match op {
        Op::Linear { x, .. } => packed(x),
        // A row that is added.
        Op::Embedding { ids, out, .. } if ids.cols() > 1 => (1, out.cols()),
        // Windows, unless they are taken from where they are.
        Op::Conv1d { .. } if windows_in_place(graph, op, isa, roots).is_some() => (0, 0),
        Op::Conv1d { x, kernel, out, .. } => (out.rows(), kernel * x.cols()),
        // Gates of all rows, and the packed input.
        Op::Lstm { x, w_hh, .. } => (1, x.rows() * w_hh.rows() + packed(x).0 * packed(x).1),
        // Keys and values of one sequence, repacked.
        Op::Attention {
            k,
            n_sequences,
            shape,
            ..
        } => (
            2 * shape.n_kv_heads,
            head_panel_len(shape.head_dim, k.rows() / n_sequences),
        ),
        Op::FilterTokens { logits, .. } => (logits.rows(), logits.cols()),
        // What ranges of keys give.
        Op::CachedAttention {
            q,
            n_sequences,
            shape,
            ..
        } => (1, split_len(q.rows(), q.rows() / n_sequences, shape)),
        _ => (0, 0),
    }
}

/// Free ranges of an arena that grows on demand; best fit.
#[derive(Default)]
struct FreeList {
    ranges: Vec<(usize, usize)>,
    len: usize,
}

impl FreeList {
    fn take(&mut self, len: usize) -> usize {
        let len = len.next_multiple_of(LINE);
        if len == 0 {
            return 0;
        }
        let best = (0..self.ranges.len())
            .filter(|&index| self.ranges[index].1 >= len)
            .min_by_key(|&index| self.ranges[index].1);
        if let Some(index) = best {
            let (offset, available) = self.ranges[index];
            if available == len {
                self.ranges.remove(index);
            } else {
                self.ranges[index] = (offset + len, available - len);
            }
            return offset;
        }
        // Extend the last free range if it touches the end.
        let offset = match self.ranges.last() {
            Some(&(offset, available)) if offset + available == self.len => {
                self.ranges.pop();
                offset
            }
            _ => self.len,
        };
        self.len = offset + len;
        offset
    }

    /// Only at the end of the arena.
    fn take_new(&mut self, len: usize) -> usize {
        let offset = self.len;
        self.len += len.next_multiple_of(LINE);
        offset
    }

    fn give(&mut self, offset: usize, len: usize) {
        let len = len.next_multiple_of(LINE);
        if len == 0 {
            return;
        }
        let at = self.ranges.partition_point(|&(other, _)| other < offset);
        self.ranges.insert(at, (offset, len));
        if at + 1 < self.ranges.len() && offset + len == self.ranges[at + 1].0 {
            self.ranges[at].1 += self.ranges.remove(at + 1).1;
        }
        if at > 0 && self.ranges[at - 1].0 + self.ranges[at - 1].1 == offset {
            self.ranges[at - 1].1 += self.ranges.remove(at).1;
        }
    }
}
