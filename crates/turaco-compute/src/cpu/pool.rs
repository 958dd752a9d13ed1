//! The persistent thread pool of the CPU backend.
//!
//! A decode step has more than a hundred parallel regions of some microseconds each, so starting one must cost
//! less than a microsecond or two. Workers therefore spin for a short, bounded time after each region and only
//! then park. The calling thread takes part, and it never waits for a worker that has not claimed a task: on a busy
//! machine it simply does all the work itself.
//!
//! A thread that spins may keep a processor from the very thread it waits for, so spinning is brief: after some
//! microseconds each look is followed by an offer of the processor to others, which costs little when there are none,
//! and in the end both workers and caller sleep until they are woken.
//!
//! The caller takes tasks from the first on, workers from the last on. So of the rows that one operation after the other goes
//! over, the caller has the first part every time and a worker the last one, and each finds in its own cache what it wrote
//! before. Between the caches of two cores that do not share one, a line takes ten times as long.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for the next region before it parks, and the caller for the last tasks.
const SPIN: Duration = Duration::from_micros(80);

/// How long they do so without offering their processor to others.
const BRIEF: Duration = Duration::from_micros(4);

/// Looks between two readings of the clock.
const LOOKS: usize = 32;

/// A fixed set of threads that run numbered tasks.
///
/// Regions started while another one is running (from a task, or from another thread) run inline on their caller.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// One cache line per value, so that polling one does not slow writes to another.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// Tasks of the current region that nobody has claimed, see [`Unclaimed`]. Claiming takes one off a number above zero,
    /// so that a successful claim proves that the region is open and that its caller is waiting for this task.
    unclaimed: Line<AtomicU64>,
    /// Tasks of the current region that have not finished.
    unfinished: Line<AtomicUsize>,
    /// Written by the owner of `busy` while both counters are zero; read by others only between a claim and the
    /// report that the claimed task has finished.
    job: UnsafeCell<Job>,
    /// Held by the thread whose region is running.
    busy: AtomicBool,
    stop: AtomicBool,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parked: Box<[Line<AtomicBool>]>,
    /// Whether the caller sleeps until the last task has finished, and who that is.
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: Option<&'static (dyn Fn(usize) + Sync)>,
}

/// Tasks that follow each other, as two numbers in one: the first of them, and how many.
#[derive(Debug, Clone, Copy)]
struct Unclaimed {
    first: u32,
    count: u32,
}

impl Unclaimed {
    fn of(word: u64) -> Self {
        Self {
            first: (word >> 32) as u32,
            count: word as u32,
        }
    }

    fn word(self) -> u64 {
        u64::from(self.first) << 32 | u64::from(self.count)
    }

    /// One of them, from the given end, and the others; `None` if there are none.
    fn take(self, end: End) -> Option<(usize, Self)> {
        let count = self.count.checked_sub(1)?;
        Some(match end {
            End::First => {
                let first = self.first.wrapping_add(1);
                (self.first as usize, Self { first, count })
            }
            End::Last => ((self.first + count) as usize, Self { count, ..self }),
        })
    }
}

/// Where a thread takes its tasks from.
#[derive(Debug, Clone, Copy)]
enum End {
    First,
    Last,
}

// SAFETY: `job` is the only field that is not `Sync` by itself; its protocol is described on the field.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to one thread; a `Job` is a reference to a `Sync` function.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `n_threads` threads, the caller of [`Pool::run`] included. One thread (or zero) starts none.
    ///
    /// Threads that the system refuses to start are left out.
    pub fn new(n_threads: usize) -> Self {
        let n_workers = n_threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            unclaimed: Line(AtomicU64::new(0)),
            unfinished: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { task: None }),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            parked: (0..n_workers)
                .map(|_| Line(AtomicBool::new(false)))
                .collect(),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::new(None),
        });
        let workers = (0..n_workers)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("turaco-{}", index + 1))
                    .spawn(move || shared.work(index))
                    .ok()
            })
            .collect();
        Self { shared, workers }
    }

    /// Threads that take part in a region, the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` to `task(n_tasks - 1)`, each once, in any order and on any of the threads, and returns when all
    /// have finished.
    ///
    /// # Panics
    /// If a task panics, the panic continues here after the running tasks have finished; tasks that nobody has
    /// begun by then are skipped.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let unclaimed = Unclaimed {
            first: 0,
            count: u32::try_from(n_tasks).unwrap_or(0),
        };
        // More tasks than can be counted are nothing that anybody would wait for.
        let alone = unclaimed.count <= 1 || self.workers.is_empty();
        if alone
            || shared
                .busy
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            (0..n_tasks).for_each(task);
            return;
        }
        // SAFETY: the lifetime is only extended for the time of this call: workers use the reference between claiming
        // a task and reporting it finished, and this function returns after all tasks have finished.
        let task = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task)
        };
        // SAFETY: we hold `busy` and no task is unclaimed or unfinished, so nobody else reads the job.
        unsafe { *shared.job.get() = Job { task: Some(task) } };
        shared.unfinished.0.store(n_tasks, Ordering::Relaxed);
        // Pairs with the worker's store to `parked` and load of `unclaimed`: one of the two sees the other.
        shared.unclaimed.0.store(unclaimed.word(), Ordering::SeqCst);
        self.wake(n_tasks - 1);
        shared.claim_and_run(End::First);

        shared.wait();
        let panic = if shared.panicked.swap(false, Ordering::Relaxed) {
            shared
                .panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        } else {
            None
        };
        shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Cuts `0..n_items` into at most [`Pool::n_threads`] contiguous ranges of nearly equal length, none shorter than
    /// `min_per_task` (unless there are fewer items in total), and runs `task` once for each.
    pub fn run_split(
        &self,
        n_items: usize,
        min_per_task: usize,
        task: &(dyn Fn(Range<usize>) + Sync),
    ) {
        if n_items == 0 {
            return;
        }
        let parts = (n_items / min_per_task.max(1)).clamp(1, self.n_threads());
        let (each, extra) = (n_items / parts, n_items % parts);
        let start = |part: usize| part * each + part.min(extra);
        self.run(parts, &|part| task(start(part)..start(part + 1)));
    }

    fn wake(&self, at_most: usize) {
        for (worker, parked) in self.workers.iter().zip(&self.shared.parked).take(at_most) {
            if parked.0.load(Ordering::SeqCst) && parked.0.swap(false, Ordering::Relaxed) {
                Thread::unpark(worker.thread());
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks, so there is nothing to report here.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("n_threads", &self.n_threads())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self, index: usize) {
        let parked = &self.parked[index].0;
        loop {
            self.claim_and_run(End::Last);
            if self.watch() {
                continue;
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            parked.store(true, Ordering::SeqCst);
            if !is_open(self.unclaimed.0.load(Ordering::SeqCst))
                && !self.stop.load(Ordering::SeqCst)
            {
                std::thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
    }

    /// Watches until there is a task (true) or it is time to park (false).
    fn watch(&self) -> bool {
        let ready = || is_open(self.unclaimed.0.load(Ordering::Relaxed));
        let stop = || self.stop.load(Ordering::Relaxed);
        watch(|| ready() || stop()) && !stop()
    }

    /// Waits until all tasks have finished.
    fn wait(&self) {
        let finished = || self.unfinished.0.load(Ordering::Acquire) == 0;
        if watch(finished) {
            return;
        }
        // A worker that has claimed a task does not run; it gets this processor if it needs one.
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        // Pairs with `report`: either this thread sees that all is done, or the last worker sees that it sleeps.
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while self.unfinished.0.load(Ordering::SeqCst) != 0 {
            std::thread::park();
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// Counts tasks as finished.
    fn report(&self, finished: usize) {
        let before = self.unfinished.0.fetch_sub(finished, Ordering::SeqCst);
        if before == finished && self.caller_sleeps.load(Ordering::SeqCst) {
            let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(caller) = &*caller {
                caller.unpark();
            }
        }
    }

    /// Takes tasks until none is left.
    fn claim_and_run(&self, end: End) {
        let mut finished = 0;
        while let Some(index) = self.claim(end) {
            // SAFETY: we hold a claimed task that is not reported finished, so the job is valid and nobody writes it.
            let job = unsafe { *self.job.get() };
            if let Some(task) = job.task
                && !self.panicked.load(Ordering::Relaxed)
                && let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index)))
            {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
                self.panicked.store(true, Ordering::Relaxed);
            }
            finished += 1;
        }
        if finished > 0 {
            self.report(finished);
        }
    }

    /// Claims a task: its number, or `None` if there is none left.
    fn claim(&self, end: End) -> Option<usize> {
        let mut word = self.unclaimed.0.load(Ordering::Relaxed);
        loop {
            let (index, others) = Unclaimed::of(word).take(end)?;
            match self.unclaimed.0.compare_exchange_weak(
                word,
                others.word(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(index),
                Err(now) => word = now,
            }
        }
    }
}

/// Whether there are tasks to claim.
fn is_open(word: u64) -> bool {
    Unclaimed::of(word).count > 0
}

/// Looks again and again whether something is ready: true as soon as it is, false after [`SPIN`].
fn watch(ready: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let elapsed = begin.elapsed();
        if elapsed > SPIN {
            return ready();
        }
        if elapsed > BRIEF {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn counts(pool: &Pool, n_tasks: usize) -> Vec<u32> {
        let counts: Vec<AtomicU32> = (0..n_tasks).map(|_| AtomicU32::new(0)).collect();
        pool.run(n_tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicU32::into_inner).collect()
    }

    #[test]
    fn each_task_runs_once() {
        for n_threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(n_threads);
            let can_start = !cfg!(target_family = "wasm");
            let expected = if can_start { n_threads.max(1) } else { 1 };
            assert_eq!(pool.n_threads(), expected);
            for n_tasks in [0, 1, 2, 3, 7, 8, 9, 1000] {
                assert_eq!(
                    counts(&pool, n_tasks),
                    vec![1; n_tasks],
                    "threads {n_threads} tasks {n_tasks}"
                );
            }
        }
    }

    #[test]
    fn one_thread_runs_on_the_caller() {
        let caller = std::thread::current().id();
        Pool::new(1).run(10, &|_| assert_eq!(std::thread::current().id(), caller));
    }

    #[test]
    fn split_covers_all_items_in_order() {
        for n_threads in [1, 2, 3, 4] {
            let pool = Pool::new(n_threads);
            for n_items in [0, 1, 2, 3, 5, 31, 32, 100] {
                for min in [0, 1, 2, 16, 200] {
                    let ranges = Mutex::new(Vec::new());
                    pool.run_split(n_items, min, &|range| ranges.lock().unwrap().push(range));
                    let mut ranges = ranges.into_inner().unwrap();
                    ranges.sort_by_key(|range| range.start);
                    assert!(ranges.len() <= n_threads);
                    let mut next = 0;
                    for range in &ranges {
                        assert_eq!(range.start, next);
                        assert!(range.len() >= min.min(n_items).max(1));
                        next = range.end;
                    }
                    assert_eq!(
                        next, n_items,
                        "threads {n_threads} items {n_items} min {min}"
                    );
                }
            }
        }
    }

    #[test]
    fn tasks_are_taken_from_both_ends() {
        let mut left = Unclaimed { first: 0, count: 5 };
        let mut taken = Vec::new();
        for end in [End::First, End::Last, End::Last, End::First, End::Last] {
            let (index, others) = left.take(end).unwrap();
            taken.push(index);
            left = Unclaimed::of(others.word());
        }
        assert_eq!(taken, [0, 4, 3, 1, 2]);
        assert!(left.take(End::First).is_none() && left.take(End::Last).is_none());
        assert!(!is_open(left.word()));
    }

    #[test]
    fn nested_regions_run_inline() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        pool.run(8, &|outer| {
            pool.run(8, &|inner| {
                sum.fetch_add(outer * 8 + inner, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), (0..64).sum::<usize>());
    }

    #[test]
    #[cfg(not(target_family = "wasm"))]
    fn regions_from_several_threads_are_all_complete() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..300 {
                        let n_tasks = round % 17;
                        assert_eq!(counts(&pool, n_tasks), vec![1; n_tasks]);
                    }
                });
            }
        });
    }

    #[test]
    fn many_regions_with_and_without_pauses() {
        let pool = Pool::new(4);
        let mut value = vec![0_u64; 64];
        for round in 0..20_000_u64 {
            let cells: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
            let shared = &value;
            pool.run(5, &|task| {
                cells[task].store(shared[task] as usize + task, Ordering::Relaxed)
            });
            for (task, cell) in cells.into_iter().enumerate() {
                value[task] = cell.into_inner() as u64;
            }
            if round % 1000 == 0 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        assert_eq!(&value[..5], &[0, 20_000, 40_000, 60_000, 80_000]);
    }

    #[test]
    fn the_caller_sleeps_while_others_work_long() {
        let pool = Pool::new(3);
        let caller = std::thread::current().id();
        for long in [50, 500, 3000] {
            let done = AtomicUsize::new(0);
            pool.run(3, &|_| {
                if std::thread::current().id() != caller {
                    std::thread::sleep(Duration::from_micros(long));
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 3, "{long} us");
        }
    }

    #[test]
    #[cfg(panic = "unwind")]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 5, 19] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|task| {
                    if task == bad {
                        resume_unwind(Box::new("the task failed"));
                    }
                });
            }));
            assert_eq!(
                result.unwrap_err().downcast_ref::<&str>(),
                Some(&"the task failed")
            );
            assert_eq!(counts(&pool, 20), vec![1; 20]);
        }
    }

    #[test]
    fn pools_start_and_stop() {
        for _ in 0..200 {
            let pool = Pool::new(3);
            assert_eq!(counts(&pool, 4), vec![1; 4]);
        }
    }
}
