//! Which buffer every value of a graph lives in, while tasks are walked through in order.
//!
//! Values take over the buffers of values that nobody reads any more, but never within one task: a shader may not
//! read what it writes.

use super::context::Context;
use crate::error::Result;
use crate::fuse::Task;
use crate::graph::{Graph, Root, Value};

/// A matrix in a buffer; offset and stride count values.
#[derive(Clone)]
pub(super) struct View {
    pub buffer: wgpu::Buffer,
    pub offset: usize,
    pub stride: usize,
}

/// Buffers of values.
pub(super) struct Memory<'a> {
    context: &'a Context,
    /// Where the storage of every value is.
    roots: Vec<Root>,
    /// Last task that uses a root; `usize::MAX` for outputs.
    last_use: Vec<usize>,
    places: Vec<Option<View>>,
    /// What nobody uses.
    free: Vec<wgpu::Buffer>,
    /// Bytes allocated.
    pub bytes: usize,
}

impl<'a> Memory<'a> {
    /// Nothing has a place yet.
    pub fn new(context: &'a Context, graph: &Graph, tasks: &[Task<'_>]) -> Self {
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
            context,
            roots,
            last_use,
            places: vec![None; graph.values.len()],
            free: Vec::new(),
            bytes: 0,
        }
    }

    /// The place of an input, which stays.
    pub fn place_input(&mut self, value: Value, buffer: &wgpu::Buffer, offset: usize) {
        let id = value.id as usize;
        self.last_use[id] = usize::MAX;
        self.places[id] = Some(View {
            buffer: buffer.clone(),
            offset,
            stride: value.cols(),
        });
    }

    /// Find places for the results of a task.
    pub fn begin(&mut self, task: &Task<'_>) -> Result<()> {
        for value in task.values().1 {
            let buffer = self.take(value.rows() * value.cols())?;
            self.places[value.id as usize] = Some(View {
                buffer,
                offset: 0,
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
                && let Some(view) = self.places[root].take()
            {
                self.free.push(view.buffer);
            }
        }
    }

    /// The place of a value that has one.
    pub fn view(&self, value: Value) -> View {
        let root = self.roots[value.id as usize];
        match &self.places[root.owner] {
            Some(view) => View {
                offset: view.offset + root.column,
                stride: root.stride,
                ..view.clone()
            },
            // A value that nothing wrote holds nothing.
            None => View {
                buffer: self.context.nothing.clone(),
                offset: 0,
                stride: value.cols(),
            },
        }
    }

    /// Room for `len` values.
    pub fn take(&mut self, len: usize) -> Result<wgpu::Buffer> {
        let bytes = (4 * len as u64).max(16).next_multiple_of(256);
        // Not one that is far too large: another value will fit it better.
        let fitting = (0..self.free.len())
            .filter(|&index| (bytes..=2 * bytes).contains(&self.free[index].size()))
            .min_by_key(|&index| self.free[index].size());
        if let Some(index) = fitting {
            return Ok(self.free.swap_remove(index));
        }
        self.bytes += bytes as usize;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        self.context.buffer(bytes, usage, "values of a step")
    }

    /// Take back what [`take`](Self::take) gave.
    pub fn give(&mut self, buffer: wgpu::Buffer) {
        self.free.push(buffer);
    }
}
