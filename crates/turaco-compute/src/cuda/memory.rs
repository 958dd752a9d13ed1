//! Where every value of a graph lies in the memory of a step, while tasks are walked through in order.
//!
//! Values take the places of values that nobody reads any more, but never within one task: a kernel may not read what it
//! writes.

use super::driver::Address;
use crate::error::Result;
use crate::fuse::Task;
use crate::graph::{Graph, Root, Value, ValueSource};

/// A matrix on the card; the stride counts values.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub address: Address,
    pub stride: usize,
}

/// Bytes of the memory of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    offset: usize,
    bytes: usize,
}

/// What places begin at multiples of.
const ALIGNMENT: usize = 256;

/// Places of values.
pub(super) struct Places {
    /// Where the memory begins; 0 while its size is only found out.
    base: Address,
    /// Where the storage of every value is.
    roots: Vec<Root>,
    /// Last task that uses a root; `usize::MAX` for what stays.
    last_use: Vec<usize>,
    views: Vec<Option<View>>,
    rooms: Vec<Option<Room>>,
    /// What nobody uses, by offset; neighbours are joined.
    free: Vec<Room>,
    /// Bytes in all.
    pub bytes: usize,
}

impl Places {
    /// Nothing has a place yet but the first `reserved` bytes.
    pub fn new(base: Address, reserved: usize, graph: &Graph, tasks: &[Task<'_>]) -> Self {
        let roots = graph.roots();
        let mut last_use = vec![0; graph.values.len()];
        for (index, task) in tasks.iter().enumerate() {
            let (reads, writes) = task.values();
            for value in reads.into_iter().chain(writes) {
                last_use[roots[value.id as usize].owner] = index;
            }
        }
        for value in &graph.outputs {
            last_use[roots[value.id as usize].owner] = usize::MAX;
        }
        Self {
            base,
            roots,
            last_use,
            views: vec![None; graph.values.len()],
            rooms: vec![None; graph.values.len()],
            free: Vec::new(),
            bytes: reserved.next_multiple_of(ALIGNMENT),
        }
    }

    /// The place of a value that stays where it is.
    pub fn settle(&mut self, value: Value, address: Address) {
        let id = value.id as usize;
        self.last_use[id] = usize::MAX;
        self.views[id] = Some(View {
            address,
            stride: value.cols(),
        });
    }

    /// An address in the memory of the step.
    pub fn address(&self, offset: usize) -> Address {
        self.base + offset as u64
    }

    /// Whether a value has its own storage, which a task writes.
    pub fn is_computed(&self, graph: &Graph, value: Value) -> bool {
        graph.values[value.id as usize].1 == ValueSource::Computed
    }

    /// Find places for the results of a task.
    pub fn begin(&mut self, task: &Task<'_>) -> Result<()> {
        for value in task.values().1 {
            let id = value.id as usize;
            if self.views[id].is_some() {
                continue;
            }
            let room = self.take(value.rows() * value.cols());
            self.rooms[id] = Some(room);
            self.views[id] = Some(View {
                address: self.address(room.offset),
                stride: value.cols(),
            });
        }
        Ok(())
    }

    /// Take back what nobody reads after task number `index`.
    pub fn end(&mut self, index: usize, task: &Task<'_>) {
        let (reads, writes) = task.values();
        for value in reads.into_iter().chain(writes) {
            let root = self.roots[value.id as usize].owner;
            if self.last_use[root] <= index
                && let Some(room) = self.rooms[root].take()
            {
                self.give(room);
            }
        }
    }

    /// The place of a value; one that nothing wrote holds nothing, wherever that is.
    pub fn view(&self, value: Value) -> View {
        let root = self.roots[value.id as usize];
        let owner = self.views[root.owner];
        View {
            address: owner.map_or(self.base, |view| view.address) + 4 * root.column as u64,
            stride: root.stride,
        }
    }

    /// Room for `len` values.
    pub fn take(&mut self, len: usize) -> Room {
        let bytes = (4 * len).max(1).next_multiple_of(ALIGNMENT);
        let fitting = (0..self.free.len())
            .filter(|&index| self.free[index].bytes >= bytes)
            .min_by_key(|&index| self.free[index].bytes);
        let Some(index) = fitting else {
            let offset = self.bytes;
            self.bytes += bytes;
            return Room { offset, bytes };
        };
        let room = self.free[index];
        if room.bytes == bytes {
            self.free.remove(index);
        } else {
            self.free[index] = Room {
                offset: room.offset + bytes,
                bytes: room.bytes - bytes,
            };
        }
        Room {
            offset: room.offset,
            bytes,
        }
    }

    /// Where room is.
    pub fn address_of(&self, room: Room) -> Address {
        self.address(room.offset)
    }

    /// Take back what [`take`](Self::take) gave.
    pub fn give(&mut self, room: Room) {
        let at = self
            .free
            .partition_point(|other| other.offset < room.offset);
        self.free.insert(at, room);
        let joined = |one: Room, next: Room| one.offset + one.bytes == next.offset;
        if at + 1 < self.free.len() && joined(self.free[at], self.free[at + 1]) {
            self.free[at].bytes += self.free.remove(at + 1).bytes;
        }
        if at > 0 && joined(self.free[at - 1], self.free[at]) {
            self.free[at - 1].bytes += self.free.remove(at).bytes;
        }
    }
}
