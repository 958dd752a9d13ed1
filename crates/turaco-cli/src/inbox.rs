//! Sound that arrived and was not worked on yet: bounded, and never lost without a word.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::exit::Failure;

/// What happens to new sound when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Whoever brings it waits: pipes and files can.
    Wait,
    /// The oldest sound is dropped, and counted: a microphone goes on.
    DropOldest,
}

/// A queue of samples between who hears and who works.
#[derive(Debug, Clone)]
pub struct Inbox {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    capacity: usize,
    when_full: WhenFull,
}

#[derive(Debug, Default)]
struct Queue {
    samples: VecDeque<f32>,
    dropped: u64,
    remarks: Vec<String>,
    end: Option<Result<(), Failure>>,
    abandoned: bool,
}

/// What was taken out.
#[derive(Debug, Default)]
pub struct Taken {
    /// Samples, maybe none yet.
    pub samples: Vec<f32>,
    /// Samples that were dropped before these since the last call.
    pub dropped: u64,
    /// What was noticed about the sound, such as an end before its time.
    pub remarks: Vec<String>,
    /// Samples that are still waiting.
    pub waiting: usize,
    /// Whether nothing comes any more, and why.
    pub end: Option<Result<(), Failure>>,
}

impl Inbox {
    /// Room for so many samples.
    pub fn new(capacity: usize, when_full: WhenFull) -> Self {
        Self {
            shared: Arc::default(),
            capacity: capacity.max(1),
            when_full,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bring samples; false if nobody takes them any more.
    pub fn put(&self, samples: &[f32]) -> bool {
        let mut rest = samples;
        let mut queue = self.lock();
        while !rest.is_empty() && !queue.abandoned {
            let mut room = self.capacity.saturating_sub(queue.samples.len());
            if room == 0 {
                if self.when_full == WhenFull::Wait {
                    queue = self
                        .shared
                        .1
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                room = rest.len().min(self.capacity);
                queue.samples.drain(..room);
                queue.dropped += room as u64;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            queue.samples.extend(now);
            rest = later;
            self.shared.1.notify_all();
        }
        !queue.abandoned
    }

    /// Something about the sound that its hearer should know.
    pub fn remark(&self, text: &str) {
        self.lock().remarks.push(text.to_owned());
    }

    /// Nothing comes any more.
    pub fn end(&self, how: Result<(), Failure>) {
        self.lock().end.get_or_insert(how);
        self.shared.1.notify_all();
    }

    /// Nobody takes any more: whoever waits may go.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
        self.shared.1.notify_all();
    }

    /// Up to `limit` samples, once `wanted` are there or nothing more comes or `patience` is over.
    pub fn take(&self, wanted: usize, limit: usize, patience: Duration) -> Taken {
        let waiting = |queue: &mut Queue| queue.samples.len() < wanted && queue.end.is_none();
        let (mut queue, _) = self
            .shared
            .1
            .wait_timeout_while(self.lock(), patience, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let count = queue.samples.len().min(limit);
        let enough = queue.samples.len() >= wanted || queue.end.is_some();
        let samples: Vec<f32> = match enough {
            true => queue.samples.drain(..count).collect(),
            false => Vec::new(),
        };
        let is_empty = queue.samples.is_empty();
        let taken = Taken {
            samples,
            dropped: std::mem::take(&mut queue.dropped),
            remarks: std::mem::take(&mut queue.remarks),
            waiting: queue.samples.len(),
            end: queue.end.clone().filter(|_| is_empty),
        };
        self.shared.1.notify_all();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    #[test]
    fn a_pipe_waits_until_there_is_room() {
        let inbox = Inbox::new(100, WhenFull::Wait);
        let other = inbox.clone();
        let writer = std::thread::spawn(move || {
            for index in 0..50 {
                other.put(&[index as f32; 10]);
            }
            other.end(Ok(()));
        });
        let mut all = Vec::new();
        loop {
            let taken = inbox.take(1, 64, Duration::from_secs(5));
            assert!(taken.samples.len() <= 64 && taken.dropped == 0);
            all.extend(taken.samples);
            if taken.end.is_some() {
                break;
            }
        }
        writer.join().unwrap();
        let expected: Vec<f32> = (0..500).map(|i| (i / 10) as f32).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_microphone_loses_the_oldest_and_says_so() {
        let inbox = Inbox::new(100, WhenFull::DropOldest);
        assert!(inbox.put(&[1.0; 80]));
        assert!(inbox.put(&[2.0; 40]));
        let taken = inbox.take(1, 1000, NO_TIME);
        assert_eq!((taken.samples.len(), taken.dropped), (100, 20));
        assert_eq!(taken.samples.iter().filter(|x| **x == 1.0).count(), 60);
        assert_eq!(inbox.take(1, 10, NO_TIME).dropped, 0);
        // More at once than there is room for.
        assert!(inbox.put(&[3.0; 250]));
        let taken = inbox.take(1, 1000, NO_TIME);
        assert_eq!((taken.samples.len(), taken.dropped), (100, 150));
    }

    #[test]
    fn too_little_is_left_until_the_end() {
        let inbox = Inbox::new(100, WhenFull::Wait);
        inbox.put(&[0.0; 5]);
        assert!(inbox.take(6, 100, NO_TIME).samples.is_empty());
        inbox.remark("cut off");
        inbox.end(Ok(()));
        let taken = inbox.take(6, 100, NO_TIME);
        assert_eq!(taken.samples.len(), 5);
        assert_eq!(taken.remarks, ["cut off"]);
        assert_eq!(taken.end, Some(Ok(())));
        inbox.abandon();
        assert!(!inbox.put(&[0.0]));
    }
}
