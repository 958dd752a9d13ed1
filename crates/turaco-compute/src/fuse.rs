//! Which neighbouring operations become one call: a norm and the linear maps that read it, a gated linear map and its
//! SwiGLU, the norms of heads, rotary embedding, the append to a cache and the attention to it, the logits and the choice of
//! tokens among them. Only steps of few rows gain by it, and only they are fused.

use crate::device::Matrix;
use crate::error::Result;
use crate::graph::{Activation, Graph, Op, Root, Value, ValueSource};

use crate::cpu::packed::PANEL;

/// One operation, or several that are done at once.
pub(crate) struct Task<'a> {
    /// Number of the operation that gives the result.
    pub index: usize,
    /// That operation.
    pub op: &'a Op,
    /// A norm of its input that it does itself.
    pub norm: Option<&'a Op>,
    /// What is made of its outputs at once.
    pub swiglu: Option<&'a Op>,
    /// The linear map that gives the logits of a choice of tokens, which begins in it.
    pub logits: Option<&'a Op>,
    /// Rotations of the queries (if there are any) and of the keys that are appended; one operation if those lie side by side.
    pub rotations: Option<(Option<&'a Op>, &'a Op)>,
    /// Norms of the heads of queries and keys before their rotation.
    pub head_norms: (Option<&'a Op>, Option<&'a Op>),
    /// The append to its cache that an attention does itself, with the rotations and norms above.
    pub append: Option<&'a Op>,
}

impl<'a> Task<'a> {
    fn new(index: usize, op: &'a Op) -> Self {
        Self {
            index,
            op,
            norm: None,
            swiglu: None,
            logits: None,
            rotations: None,
            head_norms: (None, None),
            append: None,
        }
    }

    /// The values that it reads, and those that it writes.
    pub fn values(&self) -> (Vec<Value>, Vec<Value>) {
        let (mut reads, mut writes) = self.op.values();
        if let Some(logits) = self.logits {
            let (inputs, outputs) = logits.values();
            reads.retain(|value| !outputs.contains(value));
            reads.extend(inputs);
            writes.extend(outputs);
        }
        reads.extend(self.append.map_or(Vec::new(), |append| append.values().0));
        let (query, key) = self.rotations.map_or((None, None), |(q, k)| (q, Some(k)));
        let (query_norm, key_norm) = self.head_norms;
        let before = [self.norm, query, key, query_norm, key_norm];
        for before in before.into_iter().flatten() {
            let (inputs, outputs) = before.values();
            reads.retain(|value| !outputs.contains(value));
            reads.extend(inputs);
        }
        // What attention rotates itself is nowhere.
        if let (Some(query), None) = (query, self.append) {
            writes.extend(query.values().1);
        }
        if let Some(swiglu) = self.swiglu {
            writes = swiglu.values().1;
        }
        (reads, writes)
    }
}

/// What a device can do in one call.
pub(crate) struct Limits<'a> {
    /// A linear map of fewer rows can do a norm of its input and a SwiGLU of its outputs.
    pub few_rows: usize,
    /// Most tokens whose choice can begin in the map that gives their logits.
    pub most_choices: usize,
    /// Whether an append can norm heads before their rotation, and rotate queries and keys that lie side by side.
    pub heads: bool,
    /// Whether this attention to one new position of each sequence can do the append that belongs to it.
    pub appends: &'a dyn Fn(&Task<'_>) -> bool,
    /// Whether a matrix can give both halves of a SwiGLU in one call.
    pub is_gated: &'a dyn Fn(&Matrix) -> Result<bool>,
}

/// What a graph becomes.
pub(crate) fn tasks<'a>(graph: &'a Graph, limits: &Limits<'_>) -> Result<Vec<Task<'a>>> {
    let readers = Readers::new(graph, limits);
    // Operations that another one does.
    let mut done = vec![false; graph.ops.len()];
    let mut tasks: Vec<Task<'_>> = Vec::with_capacity(graph.ops.len());
    for (index, op) in graph.ops.iter().enumerate() {
        if readers.norm_is_fused(index, op) || readers.choice_after(op).is_some() {
            done[index] = true;
        }
    }
    for (index, op) in graph.ops.iter().enumerate() {
        if done[index] {
            continue;
        }
        let mut task = Task::new(index, op);
        match op {
            Op::Linear { x, .. } => {
                task.norm = readers.norm_before(&done, *x);
                if let Some((at, swiglu)) = readers.swiglu_after(op)? {
                    // The result takes the place of the later operation in the order.
                    if at == index + 1 {
                        done[at] = true;
                        task.swiglu = Some(swiglu);
                        task.index = at;
                    }
                }
            }
            Op::ChooseTokens { logits, .. } => {
                let maps = graph.ops[..index].iter();
                task.logits = maps.rev().find(|map| {
                    matches!(map, Op::Linear { out, .. } if out == logits)
                        && readers.choice_after(map) == Some(index)
                });
                if let Some(Op::Linear { x, .. }) = task.logits {
                    task.norm = readers.norm_before(&done, *x);
                }
            }
            Op::CacheAppend { k, .. } => {
                let rotation = |back: usize| {
                    let at = index.checked_sub(back)?;
                    let op = &graph.ops[at];
                    // One that is a task of its own so far: the last ones.
                    (tasks.iter().rev().nth(back - 1)?.index == at && matches!(op, Op::Rope { .. }))
                        .then_some(op)
                };
                if let Some((query, key, count)) = readers.rotations(rotation(1), rotation(2), *k) {
                    tasks.truncate(tasks.len() - count);
                    task.rotations = Some((query, key));
                    if limits.heads {
                        let mut norm = |rotation| {
                            let at = readers.head_norm(&tasks, rotation)?;
                            Some(tasks.remove(at).op)
                        };
                        task.head_norms = (query.and_then(&mut norm), norm(key));
                    }
                } else if limits.heads
                    && let Some(both) = readers.side_by_side(rotation(1), index)
                {
                    tasks.pop();
                    task.rotations = Some((Some(both), both));
                }
            }
            Op::CachedAttention { .. } => {
                if let Some(whole) = readers.append_before(tasks.last(), index)
                    && (limits.appends)(&whole)
                {
                    tasks.pop();
                    task = whole;
                }
            }
            _ => {}
        }
        tasks.push(task);
    }
    Ok(tasks)
}

/// Who reads each value, as a whole or through a window of columns.
struct Readers<'a, 'b> {
    graph: &'a Graph,
    limits: &'b Limits<'b>,
    roots: Vec<Root>,
    /// Operations that read the storage of a value.
    of: Vec<Vec<usize>>,
    output: Vec<bool>,
}

impl<'a, 'b> Readers<'a, 'b> {
    fn new(graph: &'a Graph, limits: &'b Limits<'b>) -> Self {
        let mut readers = Self {
            graph,
            limits,
            roots: graph.roots(),
            of: vec![Vec::new(); graph.values.len()],
            output: vec![false; graph.values.len()],
        };
        for (index, op) in graph.ops.iter().enumerate() {
            for value in op.values().0 {
                let root = readers.root(value).0;
                if readers.of[root].last() != Some(&index) {
                    readers.of[root].push(index);
                }
            }
        }
        for &value in &graph.outputs {
            let root = readers.root(value).0;
            readers.output[root] = true;
        }
        readers
    }

    /// The value that owns the storage of a value, and the first column in it.
    fn root(&self, value: Value) -> (usize, usize) {
        let root = self.roots[value.id as usize];
        (root.owner, root.column)
    }

    /// Whether nobody sees the result of this norm but linear maps that can do it themselves.
    fn norm_is_fused(&self, index: usize, op: &Op) -> bool {
        let (whole, out) = match op {
            Op::LayerNorm { out, .. } => (true, *out),
            Op::RmsNorm { x, gamma, out, .. } => (gamma.len() == x.cols(), *out),
            _ => return false,
        };
        let id = out.id as usize;
        let few = |reader: &usize| {
            matches!(&self.graph.ops[*reader], Op::Linear { x, residual, .. }
                if *x == out && x.rows() < self.limits.few_rows && *residual != Some(out))
        };
        whole
            && out.cols() > 0
            && !self.output[id]
            && !self.of[id].is_empty()
            && self.of[id].iter().all(few)
            && self.of[id].iter().all(|&reader| reader > index)
    }

    /// The norm whose result this is, if it is left to its readers.
    fn norm_before(&self, done: &[bool], x: Value) -> Option<&'a Op> {
        let mut norms = self.graph.ops.iter().zip(done);
        let found = norms.find(|(op, done)| {
            **done && matches!(op, Op::LayerNorm { out, .. } | Op::RmsNorm { out, .. } if *out == x)
        });
        found.map(|(op, _)| op)
    }

    /// The SwiGLU of both halves of a linear map's outputs, which nobody else reads.
    fn swiglu_after(&self, op: &Op) -> Result<Option<(usize, &'a Op)>> {
        let Op::Linear {
            x,
            weight,
            bias: None,
            activation: Activation::None,
            scale,
            residual: None,
            out,
        } = op
        else {
            return Ok(None);
        };
        let id = out.id as usize;
        let [reader] = self.of[id][..] else {
            return Ok(None);
        };
        let Op::SwiGlu { gate, up, .. } = &self.graph.ops[reader] else {
            return Ok(None);
        };
        let half = out.cols() / 2;
        let halves = (gate.cols(), self.root(*gate), self.root(*up)) == (half, (id, 0), (id, half));
        let fits = halves
            && *scale == 1.0
            && x.rows() < self.limits.few_rows
            && half.is_multiple_of(PANEL)
            && 2 * half == out.cols()
            && !self.output[id]
            && (self.limits.is_gated)(weight)?;
        Ok(fits.then(|| (reader, &self.graph.ops[reader])))
    }

    /// The choice of tokens among the outputs of a linear map, if nothing else reads them and it can begin in the map.
    fn choice_after(&self, op: &Op) -> Option<usize> {
        let Op::Linear {
            x,
            bias: None,
            activation: Activation::None,
            residual: None,
            out,
            ..
        } = op
        else {
            return None;
        };
        let [reader] = self.of[out.id as usize][..] else {
            return None;
        };
        let Op::ChooseTokens { logits, choose, .. } = &self.graph.ops[reader] else {
            return None;
        };
        let source = self.graph.values[choose.controls.id as usize].1;
        let fits = logits == out
            && x.rows() < self.limits.few_rows
            && choose.k <= self.limits.most_choices
            && matches!(source, ValueSource::Input(_));
        fits.then_some(reader)
    }

    /// Which task is a norm of all heads that only this rotation reads.
    fn head_norm(&self, tasks: &[Task<'_>], rotation: &Op) -> Option<usize> {
        let Op::Rope { x, head_dim, .. } = rotation else {
            return None;
        };
        let id = x.id as usize;
        let is_it = |task: &Task<'_>| {
            matches!(task.op, Op::RmsNorm { gamma, gain: None, out, .. }
                if out == x && gamma.len() == *head_dim)
        };
        let alone = self.of[id].len() == 1 && !self.output[id];
        tasks.iter().rposition(|task| alone && is_it(task))
    }

    /// The operation before append number `append`, if it rotates queries and behind them the keys that are appended, which
    /// nobody else sees.
    fn side_by_side(&self, last: Option<&'a Op>, append: usize) -> Option<&'a Op> {
        let Some(rotation @ Op::Rope { out, head_dim, .. }) = last else {
            return None;
        };
        let Op::CacheAppend { k, v, .. } = &self.graph.ops[append] else {
            return None;
        };
        let (owner, first) = self.root(*k);
        let is_before = |value: Value| {
            let (other, column) = self.root(value);
            other != owner || column + value.cols() <= first
        };
        let elsewhere = |&reader: &usize| {
            reader == append || (self.graph.ops[reader].values().0.into_iter()).all(is_before)
        };
        let fits = owner == out.id as usize
            && first > 0
            && first.is_multiple_of(*head_dim)
            && first + k.cols() == out.cols()
            && is_before(*v)
            && !self.output[owner]
            && self.of[owner].iter().all(elsewhere);
        fits.then_some(rotation)
    }

    /// Attention number `index` with the append before it, if that adds one position to each sequence of the same cache, and if
    /// nobody else sees the queries that are rotated with it.
    fn append_before(&self, last: Option<&Task<'a>>, index: usize) -> Option<Task<'a>> {
        let op = &self.graph.ops[index];
        let Op::CachedAttention {
            q,
            slot,
            layer,
            n_sequences,
            scores: None,
            ..
        } = op
        else {
            return None;
        };
        let append = last.filter(|task| task.index + 1 == index)?;
        let Op::CacheAppend {
            slot: to,
            layer: at,
            k,
            v,
        } = append.op
        else {
            return None;
        };
        let is_hidden = match append.rotations {
            None => true,
            Some((None, _)) => false,
            Some((Some(rotation), _)) => rotation.values().1.iter().all(|out| {
                let id = out.id as usize;
                let here = |reader: &usize| [append.index, index].contains(reader);
                self.root(*q) == (id, 0)
                    && self.root(*v).0 != id
                    && !self.output[id]
                    && self.of[id].iter().all(here)
            }),
        };
        let fits = (to, at) == (slot, layer)
            && (k.rows(), q.rows()) == (*n_sequences, *n_sequences)
            && is_hidden;
        fits.then(|| Task {
            append: Some(append.op),
            rotations: append.rotations,
            head_norms: append.head_norms,
            ..Task::new(index, op)
        })
    }

    /// Of the two operations before an append of `k`: the rotations of queries and keys, and how many there are.
    fn rotations(
        &self,
        last: Option<&'a Op>,
        before: Option<&'a Op>,
        k: Value,
    ) -> Option<(Option<&'a Op>, &'a Op, usize)> {
        let of_keys = |op: Option<&'a Op>| {
            op.filter(|op| {
                matches!(op, Op::Rope { out, .. } if *out == k
                    && self.of[k.id as usize].len() == 1
                    && !self.output[k.id as usize])
            })
        };
        let alike = |one: &Op, other: &Op| match (one, other) {
            (
                Op::Rope {
                    positions,
                    head_dim,
                    theta,
                    interleaved,
                    ..
                },
                Op::Rope {
                    positions: other_positions,
                    head_dim: other_dim,
                    theta: other_theta,
                    interleaved: other_order,
                    ..
                },
            ) => {
                positions == other_positions
                    && head_dim == other_dim
                    && theta.to_bits() == other_theta.to_bits()
                    && interleaved == other_order
            }
            _ => false,
        };
        let (key, other) = match of_keys(last) {
            Some(key) => (key, before),
            None => (of_keys(before)?, last),
        };
        let rows = |op: &Op| op.values().1.first().map(|value| value.rows());
        let query = other.filter(|other| alike(key, other) && rows(key) == rows(other));
        match query {
            Some(query) => Some((Some(query), key, 2)),
            // Whatever comes between the rotation and the append stays where it is.
            None => of_keys(last).map(|key| (None, key, 1)),
        }
    }
}
