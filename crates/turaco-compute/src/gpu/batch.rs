//! The caches that a run binds: which sequences a dispatch takes at a time, and what shaders are told about them.

use std::sync::{Arc, Weak};

use super::context::Context;
use super::plan::Plan;
use super::shader::{Keys, MAX_BATCH};
use super::state::{GpuCache, Identity};
use crate::device::KvCache;
use crate::error::Result;
use crate::step::SlotBinding;

/// Bytes between the descriptions of two batches: a multiple of what uniform bindings are aligned to everywhere.
pub(super) const DESCRIPTION_BYTES: usize = 512;

/// Words of a description: four, then eight for each sequence (`shaders/sequence.wgsl`).
pub(super) const DESCRIPTION_WORDS: usize = 8 + 8 * MAX_BATCH;

/// Keys that one workgroup of an attention to a single query visits at least, and most parts that it is cut into.
pub(super) const SPLIT_KEYS: usize = 128;
pub(super) const MAX_SPLITS: usize = 64;

/// Combinations of caches whose bind groups are kept.
const KEPT_COMBINATIONS: usize = 8;

/// Some sequences of a slot that one dispatch takes.
pub(super) struct Batch {
    pub slot: usize,
    pub keys: Keys,
    pub count: usize,
    /// Positions that the run appends to each of them.
    pub appended: usize,
    /// Most positions that one of them holds afterwards.
    pub longest: usize,
    /// Parts that the keys of an attention to a single query are cut into.
    pub splits: usize,
    /// The only cache of the batch by its number in the slot, or the number of a combination.
    pub caches: Caches,
}

/// What a batch binds.
#[derive(Clone, Copy)]
pub(super) enum Caches {
    One(usize),
    Several(usize),
}

/// Caches that are bound together.
struct Combination {
    members: Vec<Weak<Identity>>,
    numbers: [u64; MAX_BATCH],
    layers: Vec<wgpu::BindGroup>,
    last_used: u64,
}

/// The batches of a run; everything is kept for the next one.
#[derive(Default)]
pub(super) struct Batches {
    pub list: Vec<Batch>,
    pub descriptions: Vec<u32>,
    combinations: Vec<Combination>,
    run: u64,
}

/// Number of caches of a slot.
pub(super) fn cache_count(binding: &SlotBinding<'_, '_>) -> usize {
    match binding {
        SlotBinding::Write(caches) => caches.len(),
        SlotBinding::Read(caches) => caches.len(),
        SlotBinding::Buffer(_) => 0,
    }
}

/// One of them.
pub(super) fn cache<'a>(binding: &'a SlotBinding<'_, '_>, index: usize) -> Option<&'a KvCache> {
    match binding {
        SlotBinding::Write(caches) => caches.get(index).map(|cache| &**cache),
        SlotBinding::Read(caches) => caches.get(index).copied(),
        SlotBinding::Buffer(_) => None,
    }
}

/// What the kernels for a batch depend on: the slot, the format, whether several caches are bound, whether keys are cut
/// into parts.
pub(super) type Kind = (usize, Keys, bool, bool);

impl Batches {
    /// The kinds of all batches.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.list.iter().map(|batch| {
            let several = matches!(batch.caches, Caches::Several(_));
            (batch.slot, batch.keys, several, batch.splits > 1)
        })
    }

    /// Cut the sequences of all slots into batches and describe them.
    pub fn arrange(
        &mut self,
        context: &Context,
        plan: &Plan,
        slots: &[SlotBinding<'_, '_>],
    ) -> Result<()> {
        self.list.clear();
        self.descriptions.clear();
        self.run += 1;
        for (slot, (need, binding)) in plan.needs.iter().zip(slots).enumerate() {
            let appended = need.rows_appended(binding);
            let count = cache_count(binding);
            let mut first = 0;
            while first < count {
                first = self.add(context, (slot, binding), appended, first)?;
            }
        }
        Ok(())
    }

    /// One more batch, of the sequences from `first` on; returns where the next one begins.
    fn add(
        &mut self,
        context: &Context,
        (slot, binding): (usize, &SlotBinding<'_, '_>),
        appended: usize,
        first: usize,
    ) -> Result<usize> {
        // Caches in the order of their numbers: beams that change places bind the same combination.
        let mut members: [Option<&GpuCache>; MAX_BATCH] = [None; MAX_BATCH];
        let mut n_members = 0;
        let mut end = first;
        while end < first + MAX_BATCH
            && let Some(cache) = cache(binding, end)
        {
            let storage = cache.storage::<GpuCache>()?;
            let known = members[..n_members]
                .iter()
                .flatten()
                .any(|member| member.number() == storage.number());
            let alike = members[0].is_none_or(|member| {
                member.keys == storage.keys && member.layers.len() == storage.layers.len()
            });
            if !alike || (!known && n_members == context.max_caches) {
                break;
            }
            if !known {
                members[n_members] = Some(storage);
                n_members += 1;
            }
            end += 1;
        }
        members[..n_members].sort_by_key(|member| member.map(GpuCache::number));
        let at = self.descriptions.len();
        self.descriptions.resize(at + DESCRIPTION_BYTES / 4, 0);
        let (mut longest, mut caches) = (0, Caches::One(first));
        for (nth, index) in (first..end).enumerate() {
            let Some(cache) = cache(binding, index) else {
                continue;
            };
            let storage = cache.storage::<GpuCache>()?;
            let which = members[..n_members]
                .iter()
                .flatten()
                .position(|member| member.number() == storage.number())
                .unwrap_or(0);
            let after = cache.len() + appended;
            let capacity = cache.shape().capacity;
            let turn = match after.checked_sub(1).filter(|_| cache.is_ring()) {
                Some(last) => last / capacity.max(1) * capacity,
                None => 0,
            };
            let oldest = match cache.is_ring() {
                true => cache.first_position().max(after.saturating_sub(capacity)),
                false => 0,
            };
            longest = longest.max(after - oldest);
            let words = [
                index,
                cache.len(),
                which,
                storage.values,
                oldest,
                turn,
                capacity,
            ];
            let to = at + 8 + 8 * nth;
            for (word, value) in self.descriptions[to..].iter_mut().zip(words) {
                *word = value as u32;
            }
        }
        let splits = longest.div_ceil(SPLIT_KEYS).clamp(1, MAX_SPLITS);
        let split_keys = longest.div_ceil(splits).max(1);
        let header = [end - first, appended, splits, split_keys];
        for (word, value) in self.descriptions[at..].iter_mut().zip(header) {
            *word = value as u32;
        }
        if n_members > 1 {
            caches = Caches::Several(self.combination(context, &members[..n_members]));
        }
        if let Some(Some(member)) = members.first() {
            self.list.push(Batch {
                slot,
                keys: member.keys,
                count: end - first,
                appended,
                longest,
                splits,
                caches,
            });
        }
        Ok(end.max(first + 1))
    }

    /// The number of a combination of caches, whose bind groups are made when it is new.
    fn combination(&mut self, context: &Context, members: &[Option<&GpuCache>]) -> usize {
        let mut numbers = [u64::MAX; MAX_BATCH];
        for (number, member) in numbers.iter_mut().zip(members.iter().flatten()) {
            *number = member.number();
        }
        let run = self.run;
        if let Some(index) = (self.combinations.iter()).position(|known| known.numbers == numbers) {
            self.combinations[index].last_used = run;
            return index;
        }
        // Batches of this run refer to combinations by their place: one that is given up is replaced.
        let replaced = (self.combinations.iter())
            .enumerate()
            .filter(|(_, known)| known.last_used != run)
            .filter(|(_, known)| {
                self.combinations.len() >= KEPT_COMBINATIONS
                    || known
                        .members
                        .iter()
                        .any(|member| member.strong_count() == 0)
            })
            .min_by_key(|(_, known)| known.last_used)
            .map(|(index, _)| index);
        let n_layers = members
            .first()
            .map_or(0, |member| member.map_or(0, |m| m.layers.len()));
        let layers = (0..n_layers)
            .map(|layer| {
                let buffers = members.iter().flatten().map(|member| member.buffer(layer));
                context.cache_group(context.max_caches, buffers)
            })
            .collect();
        let made = Combination {
            members: members
                .iter()
                .flatten()
                .map(|member| Arc::downgrade(member.identity()))
                .collect(),
            numbers,
            layers,
            last_used: run,
        };
        match replaced {
            Some(index) => {
                self.combinations[index] = made;
                index
            }
            None => {
                self.combinations.push(made);
                self.combinations.len() - 1
            }
        }
    }

    /// The bind group of a layer of a combination.
    pub fn group(&self, combination: usize, layer: usize) -> Option<&wgpu::BindGroup> {
        self.combinations.get(combination)?.layers.get(layer)
    }
}
