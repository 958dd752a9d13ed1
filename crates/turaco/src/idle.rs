//! Working memory and compiled steps that wait for whoever works next.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one of them waits before its memory is given back.
const KEPT: Duration = Duration::from_secs(10);

/// What was given back and can be taken again, the latest first. Who works alone always finds one; those that many at once
/// left behind are dropped when nobody took them for ten seconds.
#[derive(Debug)]
pub(crate) struct Idle<T>(Mutex<Vec<(Instant, T)>>);

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Idle<T> {
    /// The one that was given back last.
    pub fn take(&self) -> Option<T> {
        self.lock().pop().map(|(_, kept)| kept)
    }

    /// For whoever comes next.
    pub fn give_back(&self, given: T) {
        self.lock().push((Instant::now(), given));
        self.release(KEPT);
    }

    /// Drop those that waited for ten seconds, but for one.
    pub fn release_unused(&self) {
        self.release(KEPT);
    }

    /// Drop those that are not `wanted`.
    pub fn retain(&self, wanted: impl Fn(&T) -> bool) {
        self.lock().retain(|(_, kept)| wanted(kept));
    }

    fn release(&self, kept: Duration) {
        let mut all = self.lock();
        let latest = all.len().saturating_sub(1);
        let unused = all[..latest].partition_point(|(since, _)| since.elapsed() >= kept);
        let unused: Vec<_> = all.drain(..unused).collect();
        // Giving memory back takes a moment, in which others may work.
        drop(all);
        drop(unused);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_is_taken_first_and_those_nobody_takes_are_dropped() {
        let idle = Idle::default();
        assert_eq!(idle.take(), None::<u8>);
        for given in [1, 2, 3] {
            idle.give_back(given);
        }
        idle.release_unused();
        assert_eq!(idle.take(), Some(3));
        idle.give_back(4);
        idle.release(Duration::ZERO);
        assert_eq!((idle.take(), idle.take()), (Some(4), None));
        idle.release(Duration::ZERO);
        idle.give_back(5);
        idle.retain(|kept| *kept != 5);
        assert_eq!(idle.take(), None);
    }
}
