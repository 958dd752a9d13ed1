//! One piece of work for each of many inputs: several at once, results in order, failures listed at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::commands::Context;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::inputs::{Input, Inputs};
use crate::printer::Printer;

/// Where the work on one input writes its results: to stdout at once if it is the only one running, else when those
/// before it are through.
pub struct Sink<'a> {
    printer: &'a Printer,
    held_back: Option<Vec<u8>>,
}

impl Sink<'_> {
    /// Write results.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        match &mut self.held_back {
            Some(held_back) => {
                held_back.extend_from_slice(bytes);
                Ok(())
            }
            None if bytes.is_empty() => Ok(()),
            None => self.printer.result(bytes),
        }
    }
}

/// Do `work` for every input. An input that fails does not keep the others from being done; what would fail for all of
/// them (the model, the device, stdout) ends everything.
pub fn run(
    inputs: Inputs,
    jobs: usize,
    context: &Context,
    work: impl Fn(&Input, &mut Sink<'_>) -> Result<(), Stop> + Sync,
) -> Outcome {
    let Inputs { found, failures } = inputs;
    let total = found.len() + failures.len();
    let shared = Shared {
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        failures: Mutex::new(failures),
        stop: Mutex::new(None),
        queue: Mutex::new(Queue::default()),
    };
    let jobs = jobs.clamp(1, found.len().max(1));
    let worker = || {
        while !shared.stopped.load(Ordering::Relaxed) {
            let index = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(input) = found.get(index) else {
                return;
            };
            if context.control.is_cancelled() {
                shared.stop(interrupted());
                return;
            }
            let mut sink = Sink {
                printer: &context.printer,
                held_back: (jobs > 1).then(Vec::new),
            };
            let result = work(input, &mut sink);
            // What was written before a failure is a result all the same.
            let released = shared.release(index, sink.held_back.unwrap_or_default(), context);
            match result.and(released) {
                Ok(()) => {}
                Err(Stop::Failed(failure)) if concerns_one_input(&failure) => {
                    lock(&shared.failures).push(*failure);
                }
                Err(stop) => shared.stop(stop),
            }
        }
    };
    if jobs == 1 {
        worker();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(worker);
            }
        });
    }
    shared.finish(total, context)
}

/// How an interrupted run ends.
pub fn interrupted() -> Stop {
    turaco::Error::Cancelled.into()
}

fn concerns_one_input(failure: &Failure) -> bool {
    match failure.exit {
        Exit::InputFailed | Exit::NoInput => failure.code != Printer::STDOUT_FAILED,
        // A channel that one file has and another has not.
        Exit::Usage => failure.path.is_some(),
        _ => false,
    }
}

struct Shared {
    next: AtomicUsize,
    stopped: AtomicBool,
    failures: Mutex<Vec<Failure>>,
    stop: Mutex<Option<Stop>>,
    queue: Mutex<Queue>,
}

/// Results that wait for those before them.
#[derive(Default)]
struct Queue {
    written: usize,
    waiting: BTreeMap<usize, Vec<u8>>,
}

impl Queue {
    fn next(&mut self) -> Option<Vec<u8>> {
        let bytes = self.waiting.remove(&self.written)?;
        self.written += 1;
        Some(bytes)
    }
}

impl Shared {
    /// The first reason counts.
    fn stop(&self, stop: Stop) {
        lock(&self.stop).get_or_insert(stop);
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn release(&self, index: usize, bytes: Vec<u8>, context: &Context) -> Result<(), Stop> {
        let mut queue = lock(&self.queue);
        queue.waiting.insert(index, bytes);
        while let Some(bytes) = queue.next() {
            write(&bytes, context)?;
        }
        Ok(())
    }

    fn finish(self, total: usize, context: &Context) -> Outcome {
        let failures = into_inner(self.failures);
        let stop = into_inner(self.stop);
        if matches!(stop, Some(Stop::ClosedPipe)) {
            return Err(Stop::ClosedPipe);
        }
        // After an interruption, results may wait for one that never came.
        for bytes in into_inner(self.queue).waiting.values() {
            write(bytes, context)?;
        }
        for failure in &failures {
            context.printer.error(failure);
        }
        if let Some(stop) = stop {
            return Err(stop);
        }
        if failures.is_empty() {
            return Ok(Exit::Success);
        }
        if total > 1 {
            context
                .printer
                .warning(&format!("{} of {total} inputs failed", failures.len()));
        }
        let alike = |exit| failures.iter().all(|failure| failure.exit == exit);
        let common = [Exit::NoInput, Exit::Usage]
            .into_iter()
            .find(|&exit| failures.len() == total && alike(exit));
        Ok(common.unwrap_or(Exit::InputFailed))
    }
}

fn write(bytes: &[u8], context: &Context) -> Result<(), Stop> {
    if bytes.is_empty() {
        return Ok(());
    }
    context.printer.result(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
