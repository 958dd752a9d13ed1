//! Replay of a planned graph: everything that a run does, from the copy of its inputs to the copy of its results, is recorded
//! once as a graph of CUDA and handed over with one call from then on.

use std::cell::OnceCell;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::{Context, Counters, HostMemory, Stream};
use super::driver::{Call, Handle};
use super::plan::{Launch, Numbers, Output, Plan, SlotTable};
use super::state::{CudaCache, CudaState};
use crate::cpu::kernels::rope;
use crate::device::{Activity, Executable, KvCache, WeightType};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Scope, Work};
use crate::step::{Bindings, SlotBinding};
use crate::trace::{self, Detail, Name};

/// Words of results that a kernel writes to the host's memory; the card has copiers for more.
const MOST_PUBLISHED: usize = 16 << 10;

/// A graph with its memory.
pub(super) struct CudaExecutable {
    context: Arc<Context>,
    plan: Plan,
    ops: Vec<Op>,
    scopes: Vec<Scope>,
    work: Arc<Work>,
    stream: Stream,
    /// What the host gives to a run, and what it gets.
    given: HostMemory,
    results: HostMemory,
    /// How results come without a copy, where they are few: the last kernel writes them, and then the number of the run.
    publish: Option<Launch>,
    run: u32,
    recording: Option<Recording>,
    /// Lists of numbers that differ from those of the run before, by where they begin.
    moved: Vec<usize>,
    /// Whether there are angles for the positions that were given last.
    has_angles: bool,
    /// Outputs that stay on the card, once they were asked for.
    fetched: Vec<OnceCell<Vec<u32>>>,
}

/// A run as the driver has recorded it.
struct Recording {
    graph: Handle,
}

// SAFETY: handles of the driver belong to no thread.
unsafe impl Send for Recording {}

impl CudaExecutable {
    /// Plan a graph and allocate its memory.
    pub fn new(context: &Arc<Context>, graph: Graph) -> Result<Self> {
        let plan = Plan::new(context, &graph)?;
        // The number of the run comes behind the results.
        let results = HostMemory::new(context, plan.result_words + 1)?;
        let publish = match plan.result_words <= MOST_PUBLISHED {
            true => Some(plan.publish(context, results.pointer())?),
            false => None,
        };
        Ok(Self {
            context: Arc::clone(context),
            stream: context.new_stream()?,
            given: plan.staging(context)?,
            results,
            publish,
            run: 0,
            recording: None,
            moved: Vec::new(),
            has_angles: false,
            fetched: plan.outputs.iter().map(|_| OnceCell::new()).collect(),
            work: Arc::new(graph.work(WeightType::F32)),
            ops: graph.ops,
            scopes: graph.scopes,
            plan,
        })
    }

    /// Check what was given and write it where the card reads it.
    fn begin(&mut self, bindings: &Bindings<'_, '_>) -> Result<()> {
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter()) {
            need.check::<CudaCache, CudaState>(binding)?;
        }
        let plan = &self.plan;
        let words = self.given.words_mut();
        for (&(at, len), input) in plan.float_inputs.iter().zip(bindings.inputs) {
            words[at..at + len].copy_from_slice(bytemuck::cast_slice(input));
        }
        // Until they are made again, should something be wrong with what was given.
        let had_angles = std::mem::take(&mut self.has_angles);
        self.moved.clear();
        for (&(at, len), input) in plan.id_inputs.iter().zip(bindings.ids) {
            if words[at..at + len] != **input {
                words[at..at + len].copy_from_slice(input);
                self.moved.push(at);
            }
        }
        for limit in &plan.limits {
            if let Numbers::Given(at, len) = limit.numbers {
                check_numbers(limit.what, &words[at..at + len], limit.below)?;
            }
        }
        for angles in &plan.angles {
            let (at, len) = angles.positions;
            if had_angles && !self.moved.contains(&at) {
                continue;
            }
            // Inputs come before all angles.
            let (given, to) = words.split_at_mut(angles.to);
            let to = bytemuck::cast_slice_mut(&mut to[..len * angles.head_dim]);
            rope::table(&given[at..at + len], &angles.frequencies, to);
        }
        self.has_angles = true;
        // Never what is there at the beginning.
        self.run = self.run.wrapping_add(1).max(1);
        words[plan.run] = self.run;
        let slots = plan.slots.iter().zip(&plan.needs);
        for ((table, need), binding) in slots.zip(bindings.slots.iter()) {
            let to = &mut words[table.at..];
            let appended = need.rows_appended(binding);
            self.context.describe(*table, binding, appended, to)?;
        }
        for cell in &mut self.fetched {
            cell.take();
        }
        self.context.enter()
    }

    /// The copy of what the host gave.
    fn upload(&self) -> Result<()> {
        let bytes = 4 * self.given.words().len();
        if bytes == 0 {
            return Ok(());
        }
        let functions = &self.context.driver.functions;
        let (to, from) = (self.plan.inputs.address, self.given.pointer());
        // SAFETY: both sides have as many bytes, and live as long as `self`, which waits for the stream before it changes them.
        let status = unsafe { (functions.copy_to_device)(to, from, bytes, self.stream.handle) };
        self.context.check(status, "copying inputs")
    }

    /// The copy of results.
    fn download(&self) -> Result<()> {
        let bytes = 4 * self.plan.result_words;
        if bytes == 0 {
            return Ok(());
        }
        let functions = &self.context.driver.functions;
        let (to, from) = (self.results.pointer(), self.plan.memory.address);
        // SAFETY: as in `upload`; results are read when the stream has been waited for.
        let status = unsafe { (functions.copy_to_host)(to, from, bytes, self.stream.handle) };
        self.context.check(status, "copying results")
    }

    /// Call a kernel; `follows`: what is before it in the stream is another call.
    fn launch(&self, launch: &Launch, follows: bool) -> Result<()> {
        let early = follows && self.context.overlaps();
        let block = (launch.threads, launch.shared_bytes);
        let call = Call::new(self.stream.handle, launch.grid, block, early);
        let functions = &self.context.driver.functions;
        let mut params = [launch.params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one struct, which the parameters hold; they are copied before the call returns.
        let status = unsafe {
            (functions.launch)(
                &raw const call,
                launch.function,
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.context
            .check(status, &format!("calling {}", launch.name))
    }

    /// Kernels that are called one after the other.
    fn launch_all(&self, launches: &[Launch]) -> Result<()> {
        let mut numbered = launches.iter().enumerate();
        numbered.try_for_each(|(nth, launch)| self.launch(launch, nth > 0))
    }

    /// Everything of a run, recorded.
    #[cold]
    fn record(&mut self) -> Result<()> {
        let recorded = self.capture();
        // A driver may not want calls that begin early in what it records.
        if recorded.is_err() && self.context.overlap_no_more() {
            return self.capture();
        }
        recorded
    }

    fn capture(&mut self) -> Result<()> {
        /// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: what other threads do meanwhile is their business.
        const THREAD_LOCAL: i32 = 1;
        let functions = &self.context.driver.functions;
        // SAFETY: the stream lives.
        let status = unsafe { (functions.capture_begin)(self.stream.handle, THREAD_LOCAL) };
        self.context.check(status, "recording a run")?;
        let called = self.upload();
        let called = called.and_then(|()| self.launch_all(&self.plan.launches));
        let called = called.and_then(|()| match &self.publish {
            Some(publish) => self.launch(publish, !self.plan.launches.is_empty()),
            None => self.download(),
        });
        let mut graph = std::ptr::null_mut();
        // SAFETY: the capture began above and has to end, whatever happened in it.
        let status = unsafe { (functions.capture_end)(self.stream.handle, &raw mut graph) };
        let mut executable = std::ptr::null_mut();
        let recorded = called
            .and_then(|()| self.context.check(status, "recording a run"))
            .and_then(|()| {
                // SAFETY: the graph was made above; what runs is a copy of it.
                let status =
                    unsafe { (functions.graph_instantiate)(&raw mut executable, graph, 0) };
                self.context.check(status, "recording a run")
            });
        if !graph.is_null() {
            // SAFETY: nobody else has the graph.
            unsafe { (functions.graph_destroy)(graph) };
        }
        recorded?;
        self.recording = Some(Recording { graph: executable });
        Ok(())
    }

    /// Hand a run over, and wait for it.
    fn replay(&mut self) -> Result<()> {
        if self.recording.is_none() {
            self.record()?;
        }
        let Some(recording) = &self.recording else {
            return Ok(());
        };
        let functions = &self.context.driver.functions;
        // SAFETY: the recording and everything that it reads and writes live as long as `self`.
        let status = unsafe { (functions.graph_launch)(recording.graph, self.stream.handle) };
        self.context.check(status, "handing over a run")?;
        self.count(1);
        match &self.publish {
            Some(_) => {
                let mark = self.results.mark(self.plan.result_words);
                let waited = (self.context).wait_for(mark, self.run, self.stream.handle, "a run");
                waited.map_err(|error| self.named(error))
            }
            None => self.wait(),
        }
    }

    fn count(&self, submissions: usize) {
        let counters = &self.context.counters;
        Counters::add(&counters.submissions, submissions);
        Counters::add(&counters.dispatches, self.plan.launches.len());
        let words = self.plan.result_words;
        Counters::add(&counters.readbacks, usize::from(words > 0));
        Counters::add(&counters.read_bytes, 4 * words);
    }

    fn wait(&self) -> Result<()> {
        let waited = self.context.wait(self.stream.handle, "a run");
        waited.map_err(|error| self.named(error))
    }

    /// An error with the kernels that may be its cause.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Device { device, reason } => Error::Device {
                device,
                reason: format!("{reason} (one of {})", self.names()),
            },
            other => other,
        }
    }

    /// The kernels of this step, for people.
    fn names(&self) -> String {
        let names: std::collections::BTreeSet<&str> = self
            .plan
            .launches
            .iter()
            .map(|launch| launch.name.as_str())
            .collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Check the numbers that the host can only see now, and count what was appended.
    fn conclude(&self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        for limit in &self.plan.limits {
            if let Numbers::Result(at, len) = limit.numbers {
                check_numbers(limit.what, &self.results.words()[at..at + len], limit.below)?;
            }
        }
        for (need, binding) in self.plan.needs.iter().zip(bindings.slots.iter_mut()) {
            need.advance(binding);
        }
        Ok(())
    }

    /// All operations one after the other, with spans for the scopes (and the operations) that are as fine as `detail`, by the
    /// card's clock.
    #[cold]
    fn run_recorded(&mut self, detail: Detail) -> Result<()> {
        let wanted = |scope: &&Scope| scope.detail <= detail && scope.first < scope.end;
        let scopes: Vec<Scope> = self.scopes.iter().filter(wanted).cloned().collect();
        let n_ops = self.ops.len();
        let mut marks: Vec<usize> = match detail {
            Detail::Operations => (0..=n_ops).collect(),
            _ => scopes
                .iter()
                .flat_map(|scope| [scope.first, scope.end])
                .chain([0, n_ops])
                .collect(),
        };
        marks.sort_unstable();
        marks.dedup();
        let begin = Instant::now();
        self.upload()?;
        let clock = Clock::new(&self.context, marks.len())?;
        let calls = |op: usize| op.checked_sub(1).map_or(0, |op| self.plan.ends[op]);
        let mut done = 0;
        for (nth, &mark) in marks.iter().enumerate() {
            self.launch_all(&self.plan.launches[done..calls(mark)])?;
            done = calls(mark);
            clock.mark(nth, &self.stream)?;
        }
        self.launch_all(&self.plan.launches[done..])?;
        self.download()?;
        self.count(1);
        self.wait()?;
        let times: Vec<Duration> = (0..marks.len())
            .map(|nth| clock.since_first(nth))
            .collect::<Result<_>>()?;
        let worked = times.last().map_or(0, Duration::as_nanos) as usize;
        Counters::add(&self.context.counters.device_nanoseconds, worked);
        let at = |op: usize| {
            let mark = marks.binary_search(&op).unwrap_or(0);
            begin + times[mark]
        };
        // Inner spans end first.
        for (index, op) in self.ops.iter().enumerate() {
            if detail >= Detail::Operations {
                let times = (at(index), at(index + 1));
                trace::record(op.name().into(), Detail::Operations, times, None);
            }
            for scope in scopes.iter().rev().filter(|scope| scope.end == index + 1) {
                let name = Name::Shared(Arc::clone(&scope.name));
                trace::record(name, scope.detail, (at(scope.first), at(scope.end)), None);
            }
        }
        Ok(())
    }

    /// An output that stayed on the card.
    fn kept(&self, index: usize, address: u64, len: usize) -> Result<&[u32]> {
        let cell = &self.fetched[index];
        if cell.get().is_none() {
            let mut values = vec![0_u32; len];
            self.context
                .read(address, bytemuck::cast_slice_mut(&mut values))?;
            let _ = cell.set(values);
        }
        Ok(cell.get().map_or(&[], Vec::as_slice))
    }
}

impl Context {
    /// What kernels read of the states that a run binds to a slot, see `kernels/states.cuh`.
    fn describe(
        self: &Arc<Self>,
        table: SlotTable,
        binding: &SlotBinding<'_, '_>,
        appended: usize,
        to: &mut [u32],
    ) -> Result<()> {
        let foreign = || Error::Unsupported {
            what: "mixing devices".into(),
            reason: "a state belongs to another graphics processor than the step".into(),
        };
        let address = |to: &mut [u32], address: u64| {
            to[0] = address as u32;
            to[1] = (address >> 32) as u32;
        };
        let count = match binding {
            SlotBinding::Buffer(buffer) => {
                let state = buffer.storage::<CudaState>()?;
                if !state.belongs_to(self) {
                    return Err(foreign());
                }
                address(to, state.memory.address);
                return Ok(());
            }
            SlotBinding::Write(caches) => caches.len(),
            SlotBinding::Read(caches) => caches.len(),
        };
        if count > table.sequences.max(1) {
            return Err(Error::Shape {
                what: "slot binding".into(),
                expected: format!("at most {} caches", table.sequences),
                found: format!("{count}"),
            });
        }
        address(to, 0);
        (to[2], to[3]) = (count as u32, appended as u32);
        for (index, to) in to[4..].chunks_exact_mut(8).take(count).enumerate() {
            let cache: &KvCache = match binding {
                SlotBinding::Write(caches) => &*caches[index],
                SlotBinding::Read(caches) => caches[index],
                SlotBinding::Buffer(_) => continue,
            };
            let storage = cache.storage::<CudaCache>()?;
            if !storage.belongs_to(self) {
                return Err(foreign());
            }
            if let Some(head_dim) = table.head_dim
                && !storage.has_heads_of(head_dim)
            {
                return Err(Error::Shape {
                    what: "a key/value cache of bytes".into(),
                    expected: format!("heads of {head_dim} columns"),
                    found: format!("{}", cache.shape().head_dim),
                });
            }
            let capacity = cache.shape().capacity;
            let after = cache.len() + appended;
            let (first, turn) = match cache.is_ring() {
                true => {
                    let last = after.saturating_sub(1);
                    let first = cache.first_position().max(after.saturating_sub(capacity));
                    (first, last / capacity.max(1) * capacity)
                }
                false => (0, 0),
            };
            address(to, storage.memory.address);
            let numbers = [
                cache.len(),
                first,
                turn,
                capacity,
                storage.format as usize,
                cache.shape().head_dim,
            ];
            for (word, number) in to[2..].iter_mut().zip(numbers) {
                *word = number as u32;
            }
        }
        Ok(())
    }
}

/// Looks at the card's clock.
struct Clock<'a> {
    context: &'a Context,
    events: Vec<Handle>,
}

impl<'a> Clock<'a> {
    fn new(context: &'a Context, count: usize) -> Result<Self> {
        let mut clock = Self {
            context,
            events: Vec::with_capacity(count),
        };
        for _ in 0..count {
            let mut event = std::ptr::null_mut();
            // SAFETY: the event is written; it is given back when the clock is dropped.
            let status = unsafe { (context.driver.functions.event_create)(&raw mut event, 0) };
            context.check(status, "making a clock")?;
            clock.events.push(event);
        }
        Ok(clock)
    }

    fn mark(&self, nth: usize, stream: &Stream) -> Result<()> {
        // SAFETY: event and stream live.
        let status = unsafe {
            (self.context.driver.functions.event_record)(self.events[nth], stream.handle)
        };
        self.context.check(status, "taking the time")
    }

    fn since_first(&self, nth: usize) -> Result<Duration> {
        let mut milliseconds = 0.0_f32;
        // SAFETY: both events were recorded in a stream that was waited for.
        let status = unsafe {
            (self.context.driver.functions.event_elapsed)(
                &raw mut milliseconds,
                self.events[0],
                self.events[nth],
            )
        };
        self.context.check(status, "taking the time")?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds.max(0.0)) * 1e-3,
        ))
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        for &event in &self.events {
            // SAFETY: the event was made by this clock.
            unsafe { (self.context.driver.functions.event_destroy)(event) };
        }
    }
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        let functions = &self.context.driver.functions;
        if let Some(recording) = &self.recording {
            // SAFETY: runs were waited for, and nobody else has the recording.
            unsafe { (functions.graph_exec_destroy)(recording.graph) };
        }
        // SAFETY: the same.
        unsafe { (functions.stream_destroy)(self.stream.handle) };
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

impl Executable for CudaExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        self.begin(bindings)?;
        match trace::detail() {
            Detail::Off => self.replay()?,
            detail => {
                let recorded = self.run_recorded(detail);
                if recorded.is_err() {
                    // What was called before the error still uses the memory of this step.
                    let _ = self.wait();
                }
                recorded?;
            }
        }
        self.conclude(bindings)
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        let words = match self.plan.outputs.get(index) {
            Some(&Output::Result(at, len)) => &self.results.words()[at..at + len],
            Some(&Output::Kept(address, len)) => self.kept(index, address, len)?,
            None => return no_output(index),
        };
        Ok(bytemuck::cast_slice(words))
    }

    fn id_output(&self, index: usize) -> Result<&[u32]> {
        match self.plan.id_outputs.get(index) {
            Some(&(at, len)) => Ok(&self.results.words()[at..at + len]),
            None => no_output(index),
        }
    }

    fn scratch_bytes(&self) -> usize {
        self.plan.bytes()
    }

    fn work(&self) -> &Arc<Work> {
        &self.work
    }

    fn activity(&self) -> Option<Activity> {
        Some(self.context.counters.activity())
    }
}
