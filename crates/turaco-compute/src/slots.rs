//! What a recorded step asks of the states that a run binds to its slots, whatever the device.

use std::collections::HashMap;

use crate::device::{KvCache, StateBuffer};
use crate::error::{Error, Result};
use crate::graph::{Graph, Ids, IdsSource, Mask, Op, SlotKind};
use crate::step::SlotBinding;

/// What a step asks of the state bound to a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotNeeds {
    kind: SlotKind,
    n_sequences: Option<usize>,
    kv_dim: Option<usize>,
    n_layers: usize,
    appended: Option<usize>,
    scores_capacity: Option<usize>,
    /// The most keys that a query looks back on; `usize::MAX` for all.
    window: usize,
    buffer_len: Option<usize>,
    /// The end of the last part of a state buffer that is used.
    buffer_end: usize,
}

fn mismatch<T>(what: &str, expected: impl Into<String>, found: impl Into<String>) -> Result<T> {
    Err(Error::Shape {
        what: what.into(),
        expected: expected.into(),
        found: found.into(),
    })
}

fn settle(slot: &mut Option<usize>, value: usize, what: &str) -> Result<()> {
    match *slot {
        Some(known) if known != value => mismatch(what, format!("{known}"), format!("{value}")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

impl SlotNeeds {
    fn new(kind: SlotKind) -> Self {
        Self {
            kind,
            n_sequences: None,
            kv_dim: None,
            n_layers: 0,
            appended: None,
            scores_capacity: None,
            window: 0,
            buffer_len: None,
            buffer_end: 0,
        }
    }

    /// Check what a run binds, for a device whose caches and state buffers have these storages.
    pub(crate) fn check<Cache: 'static, Buffer: 'static>(
        &self,
        binding: &SlotBinding<'_, '_>,
    ) -> Result<()> {
        match (self.kind, binding) {
            (SlotKind::CacheWrite, SlotBinding::Write(caches)) => {
                self.check_caches::<Cache>(caches.len(), caches.iter().map(|cache| &**cache))
            }
            (SlotKind::CacheRead, SlotBinding::Read(caches)) => {
                self.check_caches::<Cache>(caches.len(), caches.iter().copied())
            }
            (SlotKind::Buffer, SlotBinding::Buffer(buffer)) => self.check_buffer::<Buffer>(buffer),
            _ => mismatch("slot binding", format!("{:?}", self.kind), "another kind"),
        }
    }

    fn check_caches<'a, Cache: 'static>(
        &self,
        count: usize,
        caches: impl Iterator<Item = &'a KvCache>,
    ) -> Result<()> {
        if self.n_sequences.is_some_and(|n| n != count) {
            return mismatch(
                "slot binding",
                format!("{:?} caches", self.n_sequences),
                format!("{count}"),
            );
        }
        let appended = self.appended.unwrap_or(0);
        if appended > 0 && (count == 0 || !appended.is_multiple_of(count)) {
            return mismatch(
                "slot binding",
                format!("a divisor of {appended} caches"),
                format!("{count}"),
            );
        }
        let rows = appended.checked_div(count).unwrap_or(0);
        for cache in caches {
            cache.storage::<Cache>()?;
            let shape = cache.shape();
            if self.kv_dim.is_some_and(|width| width != shape.kv_dim)
                || shape.n_layers < self.n_layers
            {
                return mismatch(
                    "cache",
                    format!("{} layers of width {:?}", self.n_layers, self.kv_dim),
                    format!("{} layers of width {}", shape.n_layers, shape.kv_dim),
                );
            }
            let wraps = cache.len() + rows > shape.capacity;
            if cache.is_ring() {
                // What the new rows take the place of must be out of sight for the first of them.
                if wraps && self.window.saturating_add(rows).saturating_sub(1) > shape.capacity {
                    return mismatch(
                        "ring cache",
                        format!("attention to the last {} positions at most", {
                            (shape.capacity + 1).saturating_sub(rows)
                        }),
                        format!("{} for {rows} new rows", self.window),
                    );
                }
            } else if wraps {
                return mismatch(
                    "cache",
                    format!("room for {rows} more positions"),
                    format!("{} of {} in use", cache.len(), shape.capacity),
                );
            }
            if self
                .scores_capacity
                .is_some_and(|capacity| cache.len() + rows > capacity)
            {
                return mismatch(
                    "attention scores",
                    format!("at most {:?} keys", self.scores_capacity),
                    format!("{}", cache.len() + rows),
                );
            }
        }
        Ok(())
    }

    fn check_buffer<Buffer: 'static>(&self, buffer: &StateBuffer) -> Result<()> {
        buffer.storage::<Buffer>()?;
        match self.buffer_len {
            Some(len) if len != buffer.len() => mismatch(
                "state buffer",
                format!("{len} values"),
                format!("{}", buffer.len()),
            ),
            _ if buffer.len() < self.buffer_end => mismatch(
                "state buffer",
                format!("at least {} values", self.buffer_end),
                format!("{}", buffer.len()),
            ),
            _ => Ok(()),
        }
    }

    /// The most caches that a run can bind.
    #[cfg(feature = "cuda")]
    pub(crate) fn most_sequences(&self) -> usize {
        self.n_sequences.or(self.appended).unwrap_or(0)
    }

    /// Positions that a run appends to each of the caches it binds.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn rows_appended(&self, binding: &SlotBinding<'_, '_>) -> usize {
        match binding {
            SlotBinding::Write(caches) => {
                let appended = self.appended.unwrap_or(0);
                appended.checked_div(caches.len()).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Advance the caches after a run that succeeded.
    pub(crate) fn advance(&self, binding: &mut SlotBinding<'_, '_>) {
        if let (SlotBinding::Write(caches), Some(appended)) = (binding, self.appended)
            && !caches.is_empty()
        {
            let rows = appended / caches.len();
            for cache in caches.iter_mut() {
                cache.set_len(cache.len() + rows);
            }
        }
    }
}

/// Where in a run's new positions an operation on a cache stands; rows of all sequences together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NewRows {
    /// Rows that the run had appended to the layer before the operation's own: those of an append itself, and for an
    /// attention those of the append before it.
    pub before: usize,
    /// Rows that it has appended to the layer with them.
    pub until: usize,
    /// Rows that the run appends to each layer in the end.
    pub total: usize,
}

/// The needs of every slot, and for every operation on a cache where it stands.
pub(crate) fn slot_needs(graph: &Graph) -> Result<(Vec<SlotNeeds>, Vec<NewRows>)> {
    let mut needs: Vec<SlotNeeds> = graph
        .slots
        .iter()
        .map(|&kind| SlotNeeds::new(kind))
        .collect();
    let mut layers: HashMap<(usize, usize), NewRows> = HashMap::new();
    let mut new_rows = vec![NewRows::default(); graph.ops.len()];
    let given = |list: Ids| graph.ids[list.id as usize].1 != IdsSource::Computed;
    for (index, op) in graph.ops.iter().enumerate() {
        match op {
            Op::CacheAppend { slot, layer, k, .. } => {
                let need = &mut needs[slot.0];
                need.n_layers = need.n_layers.max(layer + 1);
                settle(&mut need.kv_dim, k.cols(), "width of appended keys")?;
                let rows = layers.entry((slot.0, *layer)).or_default();
                rows.before = rows.until;
                rows.until += k.rows();
                new_rows[index] = *rows;
            }
            Op::CachedAttention {
                slot,
                layer,
                n_sequences,
                shape,
                scores,
                ..
            } => {
                let need = &mut needs[slot.0];
                need.n_layers = need.n_layers.max(layer + 1);
                need.window = need.window.max(match (need.kind, shape.mask) {
                    (SlotKind::CacheWrite, Mask::Window(width)) => width,
                    _ => usize::MAX,
                });
                settle(
                    &mut need.kv_dim,
                    shape.n_kv_heads * shape.head_dim,
                    "width of cached keys",
                )?;
                settle(
                    &mut need.n_sequences,
                    *n_sequences,
                    "sequences of one cache slot",
                )?;
                if let Some((_, scores)) = scores {
                    let capacity = need.scores_capacity.unwrap_or(usize::MAX);
                    need.scores_capacity = Some(capacity.min(scores.cols()));
                }
                if let Some(rows) = layers.get(&(slot.0, *layer)) {
                    new_rows[index] = *rows;
                }
            }
            Op::Lstm { w_hh, state, .. } => {
                settle(
                    &mut needs[state.0].buffer_len,
                    2 * w_hh.cols(),
                    "length of an LSTM state",
                )?;
            }
            Op::History {
                x,
                state,
                offset,
                rows,
                ..
            } => {
                let need = &mut needs[state.0];
                need.buffer_end = need.buffer_end.max(offset + rows * x.cols());
            }
            Op::FilterTokens { filter, .. }
                if !(given(filter.allowed) && filter.seen.is_none_or(given)) =>
            {
                return Err(Error::Unsupported {
                    what: "filter_tokens with computed bit sets".into(),
                    reason: "the host gives them".into(),
                });
            }
            Op::ChooseTokens { choose, .. }
                if !(given(choose.allowed)
                    && given(choose.seeds)
                    && choose.seen.is_none_or(given)) =>
            {
                return Err(Error::Unsupported {
                    what: "choose_tokens with computed bit sets or seeds".into(),
                    reason: "the host gives them".into(),
                });
            }
            _ => {}
        }
    }
    for (&(slot, _), rows) in &layers {
        settle(
            &mut needs[slot].appended,
            rows.until,
            "rows appended to the layers of one cache",
        )?;
    }
    for (op, rows) in graph.ops.iter().zip(&mut new_rows) {
        if let Op::CacheAppend { slot, .. } | Op::CachedAttention { slot, .. } = op {
            rows.total = needs[slot.0].appended.unwrap_or(0);
        }
    }
    Ok((needs, new_rows))
}
