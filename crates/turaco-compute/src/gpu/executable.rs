//! Replay of a planned graph: one copy of inputs, one command buffer, one read of outputs.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::adapter::CAN_WAIT;
use super::batch::{
    Batch, Batches, Caches, DESCRIPTION_BYTES, DESCRIPTION_WORDS, Kind, cache, cache_count,
};
use super::context::{Context, Kernel};
use super::memory::View;
use super::plan::{CachedShader, Call, Dispatch, Numbers, Output, Plan};
use super::recording::Clock;
use super::state::{GpuCache, GpuState};
use super::upload::Upload;
use crate::cpu::kernels::rope;
use crate::device::{Activity, Executable, Pending, WeightType};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Scope, Work};
use crate::step::{Bindings, SlotBinding};
use crate::trace::{self, Detail};

/// A graph with its memory.
pub(super) struct GpuExecutable {
    pub(super) context: Arc<Context>,
    pub(super) plan: Plan,
    pub(super) ops: Vec<Op>,
    pub(super) scopes: Vec<Scope>,
    work: Arc<Work>,
    /// What is copied to the inputs.
    staged: Vec<u32>,
    readback: wgpu::Buffer,
    pub(super) results: Vec<u32>,
    /// The kinds of batches with which all kernels have come to an end once.
    proven: Option<Vec<Kind>>,
    /// What takes the device's times while a run is recorded.
    pub(super) clock: Option<Clock>,
    /// Outputs that stay on the device, once they were asked for.
    fetched: Vec<OnceCell<Vec<u32>>>,
    batches: Batches,
    pub(super) given: Given,
}

/// What the host gives to a run: the inputs, then the descriptions of batches.
pub(super) struct Given {
    pub upload: Upload,
    descriptions: wgpu::Buffer,
    group: wgpu::BindGroup,
    /// Descriptions that there is room for.
    capacity: usize,
}

impl Given {
    fn new(context: &Context, input_words: usize, capacity: usize) -> Result<Self> {
        let bytes = capacity * DESCRIPTION_BYTES;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let descriptions = context.buffer(bytes as u64, usage, "sequences of a step")?;
        let group = context
            .device
            .create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &context.sequences_layout,
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &descriptions,
                        offset: 0,
                        size: std::num::NonZero::new(4 * DESCRIPTION_WORDS as u64),
                    }),
                }],
            });
        Ok(Self {
            upload: Upload::new(context, (4 * input_words + bytes) as u64)?,
            descriptions,
            group,
            capacity,
        })
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
            fetched: plan.outputs.iter().map(|_| OnceCell::new()).collect(),
            batches: Batches::default(),
            clock: None,
            proven: None,
            given: Given::new(context, plan.input_words, plan.needs.len().max(1))?,
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
        for cell in &mut self.fetched {
            cell.take();
        }
        self.batches
            .arrange(&self.context, &self.plan, bindings.slots)?;
        let count = self.batches.list.len();
        if count > self.given.capacity {
            self.given = Given::new(&self.context, self.plan.input_words, count)?;
        }
        let inputs = bytemuck::cast_slice(&self.staged);
        let descriptions = bytemuck::cast_slice(&self.batches.descriptions);
        let parts = [(0, inputs), (4 * self.plan.input_words, descriptions)];
        self.given.upload.write(&self.context, &parts)
    }

    /// The copies at the start of a run.
    pub(super) fn copy_given(&self, encoder: &mut wgpu::CommandEncoder) {
        let inputs = 4 * self.plan.input_words as u64;
        let descriptions = 4 * self.batches.descriptions.len() as u64;
        let copies = [
            (0, &self.plan.inputs, inputs),
            (inputs, &self.given.descriptions, descriptions),
        ];
        for (from, to, len) in copies {
            if len > 0 {
                let upload = self.given.upload.buffer();
                encoder.copy_buffer_to_buffer(upload, from, to, 0, Some(len));
            }
        }
    }

    fn check_device(&self, binding: &SlotBinding<'_, '_>) -> Result<()> {
        let mut same = match binding {
            SlotBinding::Buffer(buffer) => buffer.storage::<GpuState>()?.belongs_to(&self.context),
            _ => true,
        };
        for index in 0..cache_count(binding) {
            if let Some(cache) = cache(binding, index) {
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

    /// Dispatches `first..end` in one compute pass, with the time at its start and its end.
    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        (first, end): (usize, usize),
        bindings: &Bindings<'_, '_>,
        times: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: times,
        });
        let mut count = 0;
        for dispatch in &self.plan.dispatches[first..end] {
            match &dispatch.call {
                Call::Fixed { kernel, grid } => {
                    count += 1;
                    pass.set_pipeline(&kernel.pipeline);
                    pass.set_bind_group(0, &dispatch.group, &[]);
                    pass.dispatch_workgroups(grid[0], grid[1], 1);
                }
                Call::WithState { kernel, grid, slot } => {
                    let SlotBinding::Buffer(buffer) = &bindings.slots[slot.0] else {
                        continue;
                    };
                    count += 1;
                    pass.set_pipeline(&kernel.pipeline);
                    pass.set_bind_group(0, &dispatch.group, &[]);
                    pass.set_bind_group(1, &buffer.storage::<GpuState>()?.group, &[]);
                    pass.dispatch_workgroups(grid[0], grid[1], 1);
                }
                Call::Cached { make, slot, layer } => {
                    let batches = self.batches.list.iter().enumerate();
                    for (place, batch) in batches.filter(|(_, batch)| batch.slot == slot.0) {
                        let grid = make.grid(batch);
                        if grid[0] == 0 {
                            continue;
                        }
                        let group = match batch.caches {
                            Caches::One(index) => {
                                let Some(cache) = cache(&bindings.slots[slot.0], index) else {
                                    continue;
                                };
                                &cache.storage::<GpuCache>()?.layers[*layer].group
                            }
                            Caches::Several(combination) => {
                                let Some(group) = self.batches.group(combination, *layer) else {
                                    continue;
                                };
                                group
                            }
                        };
                        let kernel = self.cached_kernel(*make, batch)?;
                        count += 1;
                        pass.set_pipeline(&kernel.pipeline);
                        pass.set_bind_group(0, &dispatch.group, &[]);
                        let at = (place * DESCRIPTION_BYTES) as u32;
                        pass.set_bind_group(1, &self.given.group, &[at]);
                        if kernel.binds.caches > 0 {
                            pass.set_bind_group(2, group, &[]);
                        }
                        pass.dispatch_workgroups(grid[0], grid[1], 1);
                    }
                }
            }
        }
        let counter = &self.context.counters.dispatches;
        counter.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// The kernel that a dispatch for caches is for a batch.
    fn cached_kernel(&self, make: CachedShader, batch: &Batch) -> Result<Arc<Kernel>> {
        let caches = match batch.caches {
            Caches::One(_) => 1,
            Caches::Several(_) => self.context.max_caches as u32,
        };
        self.context.kernel(make.shader(batch.keys, caches))
    }

    /// The kernels of a dispatch in this run.
    fn kernels(&self, dispatch: &Dispatch) -> Result<Vec<Arc<Kernel>>> {
        match &dispatch.call {
            Call::Fixed { kernel, .. } | Call::WithState { kernel, .. } => {
                Ok(vec![Arc::clone(kernel)])
            }
            Call::Cached { make, slot, .. } => {
                let batches = self.batches.list.iter();
                batches
                    .filter(|batch| batch.slot == slot.0 && make.grid(batch)[0] > 0)
                    .map(|batch| self.cached_kernel(*make, batch))
                    .collect()
            }
        }
    }

    /// The names of the kernels of this run, for people.
    fn names(&self) -> String {
        let kernels = self.plan.dispatches.iter().flat_map(|d| self.kernels(d));
        let names: BTreeSet<String> = kernels.flatten().map(|k| k.label.clone()).collect();
        let names: Vec<String> = names.into_iter().collect();
        format!("one of {}", names.join(", "))
    }

    /// Run everything up to the last dispatch whose kernel has never come to an end, those by themselves: should one
    /// hang, its name is known. Returns how many dispatches were run.
    #[cold]
    fn prove(&mut self, bindings: &Bindings<'_, '_>) -> Result<usize> {
        let mut done = 0;
        for index in 0..self.plan.dispatches.len() {
            let kernels = self.kernels(&self.plan.dispatches[index])?;
            let new = |kernel: &&Arc<Kernel>| !kernel.proven.load(Ordering::Relaxed);
            if !kernels.iter().any(|kernel| new(&kernel)) {
                continue;
            }
            if done == 0 {
                self.submit_given();
            }
            self.run_alone((done, index), bindings, &|| self.names())?;
            let label = || kernels.iter().map(|kernel| &*kernel.label).collect();
            self.run_alone((index, index + 1), bindings, &label)?;
            for kernel in kernels.iter().filter(new) {
                kernel.proven.store(true, Ordering::Relaxed);
            }
            done = index + 1;
        }
        self.proven = Some(self.batches.kinds().collect());
        Ok(done)
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.context
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// The copies of outputs at the end of a run.
    pub(super) fn copy_outputs(&self, encoder: &mut wgpu::CommandEncoder, to: &wgpu::Buffer) {
        for (view, at, len) in &self.plan.copies {
            if *len > 0 {
                encoder.copy_buffer_to_buffer(
                    &view.buffer,
                    4 * view.offset as u64,
                    to,
                    4 * *at as u64,
                    Some(4 * *len as u64),
                );
            }
        }
    }

    /// Copy the outputs behind the last dispatches, submit, and wait.
    pub(super) fn submit(&mut self, encoder: wgpu::CommandEncoder) -> Result<()> {
        self.hand_over(encoder);
        self.read_results()
    }

    /// Copy the outputs behind the last dispatches, and submit.
    fn hand_over(&mut self, mut encoder: wgpu::CommandEncoder) {
        self.copy_outputs(&mut encoder, &self.readback);
        self.context.submit(encoder);
        self.given.upload.take_back();
    }

    fn read_results(&mut self) -> Result<()> {
        let mut results = std::mem::take(&mut self.results);
        let bytes = bytemuck::cast_slice_mut(&mut results);
        let read = self.context.read(&self.readback, bytes, &|| self.names());
        self.results = results;
        read
    }

    /// What the host gave, for the submissions that follow.
    pub(super) fn submit_given(&self) {
        let mut encoder = self.encoder();
        self.copy_given(&mut encoder);
        self.context.submit(encoder);
    }

    /// Some dispatches in a submission of their own.
    pub(super) fn run_alone(
        &self,
        range: (usize, usize),
        bindings: &Bindings<'_, '_>,
        what: &dyn Fn() -> String,
    ) -> Result<()> {
        if range.0 == range.1 {
            return Ok(());
        }
        let mut encoder = self.encoder();
        self.encode(&mut encoder, range, bindings, None)?;
        self.context.submit(encoder);
        self.context.finish(what)
    }

    /// Everything of a run that was not done to prove kernels, ready to be submitted.
    fn encode_run(&mut self, bindings: &Bindings<'_, '_>) -> Result<wgpu::CommandEncoder> {
        let known = self.proven.iter().flatten().copied();
        let proven = self.proven.is_some() && self.batches.kinds().eq(known);
        // Nobody watches where nobody can wait.
        let done = if proven || !CAN_WAIT {
            0
        } else {
            self.prove(bindings)?
        };
        let mut encoder = self.encoder();
        if done == 0 {
            self.copy_given(&mut encoder);
        }
        let rest = (done, self.plan.dispatches.len());
        self.encode(&mut encoder, rest, bindings, None)?;
        Ok(encoder)
    }

    /// Check the numbers that the host can only see now, and count what was appended.
    fn conclude(&self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
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

    /// An output that stayed on the device.
    fn kept(&self, index: usize, view: &View, len: usize) -> Result<&[u32]> {
        let cell = &self.fetched[index];
        if cell.get().is_none() {
            let mut values = vec![0_u32; len];
            let bytes = bytemuck::cast_slice_mut(&mut values);
            let from = 4 * view.offset as u64;
            self.context.fetch(&view.buffer, from, bytes)?;
            let _ = cell.set(values);
        }
        Ok(cell.get().map_or(&[], Vec::as_slice))
    }
}

fn no_output<T>(index: usize) -> Result<T> {
    Err(Error::Shape {
        what: "step output".into(),
        expected: "the number of a declared output".into(),
        found: format!("{index}"),
    })
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
                let encoder = self.encode_run(bindings)?;
                self.submit(encoder)?;
            }
            detail => self.run_recorded(detail, bindings)?,
        }
        self.conclude(bindings)
    }

    fn run_async<'a>(&'a mut self, bindings: &'a mut Bindings<'_, '_>) -> Pending<'a> {
        Box::pin(async move {
            self.begin(bindings)?;
            let encoder = self.encode_run(bindings)?;
            self.hand_over(encoder);
            let mut results = std::mem::take(&mut self.results);
            let bytes = bytemuck::cast_slice_mut(&mut results);
            let context = Arc::clone(&self.context);
            let read = context
                .read_async(&self.readback, bytes, &|| self.names())
                .await;
            self.results = results;
            read?;
            self.conclude(bindings)
        })
    }

    fn fetch_async<'a>(&'a mut self, index: usize) -> Pending<'a> {
        Box::pin(async move {
            if let Some(Output::Kept(view, len)) = self.plan.outputs.get(index)
                && self.fetched[index].get().is_none()
            {
                let mut values = vec![0_u32; *len];
                let bytes = bytemuck::cast_slice_mut(&mut values);
                let from = 4 * view.offset as u64;
                self.context.fetch_async(&view.buffer, from, bytes).await?;
                let _ = self.fetched[index].set(values);
            }
            Ok(())
        })
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        let words = match self.plan.outputs.get(index) {
            Some(&Output::Copied(at, len)) => &self.results[at..at + len],
            Some(Output::Kept(view, len)) => self.kept(index, view, *len)?,
            None => return no_output(index),
        };
        Ok(bytemuck::cast_slice(words))
    }

    fn id_output(&self, index: usize) -> Result<&[u32]> {
        match self.plan.id_outputs.get(index) {
            Some(&(at, len)) => Ok(&self.results[at..at + len]),
            None => no_output(index),
        }
    }

    fn scratch_bytes(&self) -> usize {
        self.plan.bytes
    }

    fn work(&self) -> &Arc<Work> {
        &self.work
    }

    fn activity(&self) -> Option<Activity> {
        Some(self.context.counters.activity())
    }
}
