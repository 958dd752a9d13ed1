//! Replay of a planned graph: one copy of inputs, one command buffer, one read of outputs.

use std::sync::Arc;
use std::time::Instant;

use super::context::{Context, Kernel};
use super::plan::{Call, Numbers, Plan};
use super::shader::Keys;
use super::state::{GpuCache, GpuState};
use crate::cpu::kernels::rope;
use crate::device::{Executable, KvCache, WeightType};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Scope, Work};
use crate::step::{Bindings, SlotBinding};
use crate::trace::{self, Detail, Name};

/// Bytes between the descriptions of two sequences: what uniform bindings are aligned to everywhere.
const SEQUENCE_BYTES: usize = 256;

/// A graph with its memory.
pub(super) struct GpuExecutable {
    context: Arc<Context>,
    plan: Plan,
    ops: Vec<Op>,
    scopes: Vec<Scope>,
    work: Arc<Work>,
    /// What is copied to the inputs.
    staged: Vec<u32>,
    readback: wgpu::Buffer,
    results: Vec<u32>,
    sequences: Sequences,
}

/// What shaders have to know about the caches that a run binds.
struct Sequences {
    buffer: wgpu::Buffer,
    group: wgpu::BindGroup,
    staged: Vec<u8>,
    /// Where the caches of each slot begin.
    firsts: Vec<usize>,
}

impl Sequences {
    fn new(context: &Context, count: usize) -> Result<Self> {
        let bytes = count * SEQUENCE_BYTES;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = context.buffer(bytes as u64, usage, "sequences of a step")?;
        let group = context
            .device
            .create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &context.sequence_layout,
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffer,
                        offset: 0,
                        size: std::num::NonZero::new(16),
                    }),
                }],
            });
        Ok(Self {
            buffer,
            group,
            staged: vec![0; bytes],
            firsts: Vec::new(),
        })
    }
}

/// Number of caches of a slot.
fn cache_count(binding: &SlotBinding<'_, '_>) -> usize {
    match binding {
        SlotBinding::Write(caches) => caches.len(),
        SlotBinding::Read(caches) => caches.len(),
        SlotBinding::Buffer(_) => 0,
    }
}

/// One of them.
fn cache<'a>(binding: &'a SlotBinding<'_, '_>, index: usize) -> Option<&'a KvCache> {
    match binding {
        SlotBinding::Write(caches) => caches.get(index).map(|cache| &**cache),
        SlotBinding::Read(caches) => caches.get(index).copied(),
        SlotBinding::Buffer(_) => None,
    }
}

impl GpuExecutable {
    /// Plan a graph and allocate its memory.
    pub fn new(context: &Arc<Context>, graph: Graph) -> Result<Self> {
        let plan = Plan::new(context, &graph)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let bytes = 4 * plan.result_words as u64;
        Ok(Self {
            context: Arc::clone(context),
            staged: vec![0; plan.input_words],
            readback: context.buffer(bytes, usage, "outputs of a step")?,
            results: vec![0; plan.result_words],
            sequences: Sequences::new(context, 2)?,
            work: Arc::new(graph.work(WeightType::F32)),
            ops: graph.ops,
            scopes: graph.scopes,
            plan,
        })
    }

    /// Check what was given and bring it to the device.
    fn begin(&mut self, bindings: &Bindings<'_, '_>) -> Result<()> {
        self.context.check()?;
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter()) {
            need.check::<GpuCache, GpuState>(binding)?;
            self.check_device(binding)?;
        }
        let floats = self.plan.float_inputs.iter().zip(bindings.inputs);
        for (&(at, len), input) in floats {
            self.staged[at..at + len].copy_from_slice(bytemuck::cast_slice(input));
        }
        for (&(at, len), input) in self.plan.id_inputs.iter().zip(bindings.ids) {
            self.staged[at..at + len].copy_from_slice(input);
        }
        for limit in &self.plan.limits {
            if let Numbers::Given(at, len) = limit.numbers {
                check_numbers(limit.what, &self.staged[at..at + len], limit.below)?;
            }
        }
        for table in &self.plan.tables {
            let (at, len) = table.positions;
            // Inputs come before all tables.
            let (given, tables) = self.staged.split_at_mut(table.to);
            let angles = &mut tables[..len * table.head_dim];
            let angles = bytemuck::cast_slice_mut(angles);
            rope::table(&given[at..at + len], &table.frequencies, angles);
        }
        if !self.staged.is_empty() {
            let bytes = bytemuck::cast_slice(&self.staged);
            self.context.queue.write_buffer(&self.plan.inputs, 0, bytes);
        }
        self.describe_sequences(bindings)
    }

    fn check_device(&self, binding: &SlotBinding<'_, '_>) -> Result<()> {
        let mut same = match binding {
            SlotBinding::Buffer(buffer) => buffer.storage::<GpuState>()?.belongs_to(&self.context),
            _ => true,
        };
        for index in 0..cache_count(binding) {
            if let Some(cache) = cache(binding, index) {
                if cache.is_ring() {
                    return Err(Error::Unsupported {
                        what: "a ring cache on a graphics processor".into(),
                        reason: "its kernels do not go around yet".into(),
                    });
                }
                same &= cache.storage::<GpuCache>()?.belongs_to(&self.context);
            }
        }
        if same {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "mixing devices".into(),
            reason: "a state belongs to another graphics processor than the step".into(),
        })
    }

    fn describe_sequences(&mut self, bindings: &Bindings<'_, '_>) -> Result<()> {
        let count: usize = bindings.slots.iter().map(cache_count).sum();
        if count * SEQUENCE_BYTES > self.sequences.staged.len() {
            self.sequences = Sequences::new(&self.context, count)?;
        }
        if count == 0 {
            return Ok(());
        }
        self.sequences.firsts.clear();
        let mut next = 0;
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter()) {
            self.sequences.firsts.push(next);
            for index in 0..cache_count(binding) {
                let Some(cache) = cache(binding, index) else {
                    continue;
                };
                let appended = need.rows_appended(binding);
                let values = cache.storage::<GpuCache>()?.values;
                let words = [index, cache.len(), appended, values].map(|word| word as u32);
                let at = next * SEQUENCE_BYTES;
                self.sequences.staged[at..at + 16].copy_from_slice(bytemuck::bytes_of(&words));
                next += 1;
            }
        }
        let bytes = &self.sequences.staged[..count * SEQUENCE_BYTES];
        let queue = &self.context.queue;
        queue.write_buffer(&self.sequences.buffer, 0, bytes);
        Ok(())
    }

    /// Dispatches `first..end` in one compute pass.
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        (first, end): (usize, usize),
        bindings: &Bindings<'_, '_>,
    ) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in &self.plan.dispatches[first..end] {
            match &dispatch.call {
                Call::Fixed { kernel, grid } => {
                    pass.set_pipeline(&kernel.pipeline);
                    pass.set_bind_group(0, &dispatch.group, &[]);
                    pass.dispatch_workgroups(grid[0], grid[1], 1);
                }
                Call::WithState { kernel, grid, slot } => {
                    let SlotBinding::Buffer(buffer) = &bindings.slots[slot.0] else {
                        continue;
                    };
                    pass.set_pipeline(&kernel.pipeline);
                    pass.set_bind_group(0, &dispatch.group, &[]);
                    pass.set_bind_group(1, &buffer.storage::<GpuState>()?.group, &[]);
                    pass.dispatch_workgroups(grid[0], grid[1], 1);
                }
                Call::PerCache { make, slot, layer } => {
                    let binding = &bindings.slots[slot.0];
                    let appended = self.plan.needs[slot.0].rows_appended(binding);
                    let mut last: Option<(Keys, Arc<Kernel>)> = None;
                    for index in 0..cache_count(binding) {
                        let Some(cache) = cache(binding, index) else {
                            continue;
                        };
                        let storage = cache.storage::<GpuCache>()?;
                        let grid = make.grid(storage.keys, cache.len(), appended);
                        if grid[0] == 0 {
                            continue;
                        }
                        let kernel = match last {
                            Some((keys, kernel)) if keys == storage.keys => kernel,
                            _ => self.context.kernel(make.shader(storage.keys))?,
                        };
                        pass.set_pipeline(&kernel.pipeline);
                        pass.set_bind_group(0, &dispatch.group, &[]);
                        pass.set_bind_group(1, &storage.layers[*layer].group, &[]);
                        let place = (self.sequences.firsts[slot.0] + index) * SEQUENCE_BYTES;
                        pass.set_bind_group(2, &self.sequences.group, &[place as u32]);
                        pass.dispatch_workgroups(grid[0], grid[1], 1);
                        last = Some((storage.keys, kernel));
                    }
                }
            }
        }
        Ok(())
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Copy the outputs behind the last dispatches, submit, and wait.
    fn submit(&mut self, mut encoder: wgpu::CommandEncoder) -> Result<()> {
        for (view, to, len) in &self.plan.copies {
            if *len > 0 {
                encoder.copy_buffer_to_buffer(
                    &view.buffer,
                    4 * view.offset as u64,
                    &self.readback,
                    4 * *to as u64,
                    Some(4 * *len as u64),
                );
            }
        }
        self.context.submit(encoder);
        let bytes = bytemuck::cast_slice_mut(&mut self.results);
        self.context.read(&self.readback, bytes)
    }

    /// All operations, with spans for the scopes (and the operations) that are as fine as `detail`: what lies between
    /// two marks is submitted by itself.
    #[cold]
    fn run_recorded(&mut self, detail: Detail, bindings: &Bindings<'_, '_>) -> Result<()> {
        let scopes: Vec<Scope> = self
            .scopes
            .iter()
            .filter(|scope| scope.detail <= detail && scope.first < scope.end)
            .cloned()
            .collect();
        let mut scopes = scopes.iter().peekable();
        let mut open: Vec<(&Scope, Instant)> = Vec::new();
        let mut submitted = 0;
        let names: Vec<&'static str> = self.ops.iter().map(Op::name).collect();
        for (index, name) in names.into_iter().enumerate() {
            let begin = if index == 0 {
                0
            } else {
                self.plan.ends[index - 1]
            };
            if scopes.peek().is_some_and(|scope| scope.first == index) {
                self.run_alone((submitted, begin), bindings)?;
                submitted = begin;
            }
            while let Some(scope) = scopes.next_if(|scope| scope.first == index) {
                open.push((scope, Instant::now()));
            }
            let end = self.plan.ends[index];
            let start = Instant::now();
            let closes = open.last().is_some_and(|(scope, _)| scope.end == index + 1);
            if detail >= Detail::Operations || closes {
                self.run_alone((submitted, end), bindings)?;
                submitted = end;
            }
            if detail >= Detail::Operations {
                let times = (start, Instant::now());
                trace::record(name.into(), Detail::Operations, times, None);
            }
            while let Some((scope, begin)) = open.pop_if(|(scope, _)| scope.end == index + 1) {
                let name = Name::Shared(Arc::clone(&scope.name));
                trace::record(name, scope.detail, (begin, Instant::now()), None);
            }
        }
        let mut encoder = self.encoder();
        self.encode(
            &mut encoder,
            (submitted, self.plan.dispatches.len()),
            bindings,
        )?;
        self.submit(encoder)
    }

    fn run_alone(&self, range: (usize, usize), bindings: &Bindings<'_, '_>) -> Result<()> {
        if range.0 == range.1 {
            return Ok(());
        }
        let mut encoder = self.encoder();
        self.encode(&mut encoder, range, bindings)?;
        self.context.submit(encoder);
        self.context.finish()
    }

    fn result(&self, place: Option<&(usize, usize)>, index: usize) -> Result<&[u32]> {
        let &(at, len) = place.ok_or_else(|| Error::Shape {
            what: "step output".into(),
            expected: "the number of a declared output".into(),
            found: format!("{index}"),
        })?;
        Ok(&self.results[at..at + len])
    }
}

fn check_numbers(what: &str, numbers: &[u32], below: usize) -> Result<()> {
    match numbers.iter().find(|&&number| number as usize >= below) {
        None => Ok(()),
        Some(number) => Err(Error::Shape {
            what: what.into(),
            expected: format!("numbers below {below}"),
            found: format!("{number}"),
        }),
    }
}

impl Executable for GpuExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        self.begin(bindings)?;
        match trace::detail() {
            Detail::Off => {
                let mut encoder = self.encoder();
                let all = (0, self.plan.dispatches.len());
                self.encode(&mut encoder, all, bindings)?;
                self.submit(encoder)?;
            }
            detail => self.run_recorded(detail, bindings)?,
        }
        for limit in &self.plan.limits {
            if let Numbers::Copied(at, len) = limit.numbers {
                check_numbers(limit.what, &self.results[at..at + len], limit.below)?;
            }
        }
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter_mut()) {
            need.advance(binding);
        }
        Ok(())
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        self.result(self.plan.outputs.get(index), index)
            .map(bytemuck::cast_slice)
    }

    fn id_output(&self, index: usize) -> Result<&[u32]> {
        self.result(self.plan.id_outputs.get(index), index)
    }

    fn scratch_bytes(&self) -> usize {
        self.plan.bytes
    }

    fn work(&self) -> &Arc<Work> {
        &self.work
    }
}
