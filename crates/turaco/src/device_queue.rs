//! Who may use a device next.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Control, Error, Result};

/// Between two looks at the control while waiting.
const LOOK: Duration = Duration::from_millis(50);

/// What waits longer than this goes first, whatever else is urgent.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much work may be on its way on one device.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Jobs that have begun and hold memory for their state.
    pub running: usize,
    /// Jobs that wait to begin; more are refused.
    pub waiting: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            running: 8,
            waiting: 64,
        }
    }
}

/// Whether somebody listens while the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A whole file.
    Normal,
    /// An answer in a conversation: it need not wait until others have ended, and has no other privilege.
    Talk,
    /// Live sound.
    Live,
}

/// The turns of one device.
///
/// A job asks for a turn before each step. Urgent jobs go first, then the one that has had the least of the device: a clip
/// of three seconds overtakes a recording of an hour after the step that is being done.
#[derive(Debug)]
pub struct DeviceQueue {
    limits: QueueLimits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// Jobs that have begun, without live ones.
    running: usize,
    /// Jobs that wait to begin, in their order.
    entering: Vec<u64>,
    waiting: Vec<Waiting>,
    busy: bool,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    urgency: Urgency,
    served: Duration,
    since: Instant,
}

impl State {
    /// The job whose turn is next.
    fn next(&self) -> Option<u64> {
        let first = self.waiting.iter().min_by_key(|waiting| {
            let overdue = waiting.since.elapsed() > PATIENCE;
            let urgent = overdue || waiting.urgency == Urgency::Live;
            (!urgent, waiting.served, waiting.id)
        });
        first.map(|waiting| waiting.id)
    }
}

impl DeviceQueue {
    /// A queue with nothing in it.
    pub fn new(limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Jobs that wait to begin.
    pub fn depth(&self) -> usize {
        self.lock().entering.len()
    }

    /// Jobs that have begun, live ones left out.
    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// Begin a job; waits while as many as the limit says are running.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already, or cancellation.
    pub fn enter(self: &Arc<Self>, urgency: Urgency, control: &Control) -> Result<Job> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        if urgency == Urgency::Normal {
            let full = state.running >= self.limits.running || !state.entering.is_empty();
            if full && state.entering.len() >= self.limits.waiting {
                return Err(Error::Busy {
                    message: format!("{} requests are waiting already", state.entering.len()),
                });
            }
            state.entering.push(id);
            while state.running >= self.limits.running || state.entering.first() != Some(&id) {
                state = self.wait(state);
                if let Err(error) = control.check() {
                    state.entering.retain(|entering| *entering != id);
                    drop(state);
                    self.changed.notify_all();
                    return Err(error);
                }
            }
            state.entering.remove(0);
            state.running += 1;
        }
        drop(state);
        self.changed.notify_all();
        Ok(Job {
            queue: Arc::clone(self),
            id,
            urgency,
            served: Duration::ZERO,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A piece of work of many steps on one device. Dropping it makes room for another.
#[derive(Debug)]
pub struct Job {
    queue: Arc<DeviceQueue>,
    id: u64,
    urgency: Urgency,
    served: Duration,
}

impl Job {
    /// Wait until the device is this job's, for one step.
    ///
    /// # Errors
    /// Cancellation.
    pub fn turn(&mut self, control: &Control) -> Result<Turn<'_>> {
        control.check()?;
        let mut state = self.queue.lock();
        state.waiting.push(Waiting {
            id: self.id,
            urgency: self.urgency,
            served: self.served,
            since: Instant::now(),
        });
        while state.busy || state.next() != Some(self.id) {
            state = self.queue.wait(state);
            if let Err(error) = control.check() {
                state.waiting.retain(|waiting| waiting.id != self.id);
                drop(state);
                self.queue.changed.notify_all();
                return Err(error);
            }
        }
        state.waiting.retain(|waiting| waiting.id != self.id);
        state.busy = true;
        drop(state);
        Ok(Turn {
            started: Instant::now(),
            jobs: 1,
            job: self,
        })
    }

    /// The device was somebody else's for so long, who did this job's work beside his own.
    pub(crate) fn charge(&mut self, time: Duration) {
        self.served += time;
    }

    /// How long the job had the device.
    pub fn served(&self) -> Duration {
        self.served
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.urgency == Urgency::Normal {
            self.queue.lock().running -= 1;
            self.queue.changed.notify_all();
        }
    }
}

/// The device belongs to a job until this is dropped. Nothing that may block on somebody else is to be done meanwhile.
#[derive(Debug)]
pub struct Turn<'a> {
    job: &'a mut Job,
    started: Instant,
    /// Jobs whose work is done in it.
    jobs: u32,
}

impl Turn<'_> {
    /// The work of so many jobs is done in it, each of which bears its share.
    pub(crate) fn share(&mut self, jobs: usize) {
        self.jobs = u32::try_from(jobs).unwrap_or(u32::MAX).max(1);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.job.served += self.started.elapsed() / self.jobs;
        self.job.queue.lock().busy = false;
        self.job.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_short_job_overtakes_a_long_one_and_live_sound_both() {
        let queue = DeviceQueue::new(QueueLimits::default());
        let control = Control::new();
        let mut long = queue.enter(Urgency::Normal, &control).unwrap();
        {
            let _turn = long.turn(&control).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        let mut busy = queue.enter(Urgency::Normal, &control).unwrap();
        let turn = busy.turn(&control).unwrap();
        let (sender, receiver) = mpsc::channel();
        let mut threads = Vec::new();
        for (name, urgency, job) in [
            ("long", Urgency::Normal, Some(long)),
            ("short", Urgency::Normal, None),
            ("live", Urgency::Live, None),
        ] {
            let (queue, sender, control) = (Arc::clone(&queue), sender.clone(), control.clone());
            let mut job = job.unwrap_or_else(|| queue.enter(urgency, &control).unwrap());
            threads.push(thread::spawn(move || {
                let _turn = job.turn(&control).unwrap();
                sender.send(name).unwrap();
            }));
        }
        while queue.lock().waiting.len() < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(turn);
        let order: Vec<_> = receiver.iter().take(3).collect();
        assert_eq!(order, ["live", "short", "long"]);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        drop(busy);
        assert_eq!(queue.running(), 0);
    }

    #[test]
    fn too_many_are_refused_and_the_cancelled_leave_the_line() {
        let limits = QueueLimits {
            running: 1,
            waiting: 1,
        };
        let queue = DeviceQueue::new(limits);
        let control = Control::new();
        let first = queue.enter(Urgency::Normal, &control).unwrap();
        let impatient = Control::new();
        let waiter = {
            let (queue, impatient) = (Arc::clone(&queue), impatient.clone());
            thread::spawn(move || queue.enter(Urgency::Normal, &impatient).map(|_| ()))
        };
        while queue.depth() < 1 {
            thread::sleep(Duration::from_millis(1));
        }
        let refused = queue.enter(Urgency::Normal, &control).unwrap_err();
        assert_eq!(refused.code(), "queue_full");
        impatient.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        assert_eq!(queue.depth(), 0);
        drop(first);
        drop(queue.enter(Urgency::Normal, &control).unwrap());
    }
}
