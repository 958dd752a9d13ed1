//! When to ask again, and when to give up.

use std::time::{Duration, Instant};

use super::PullError;
use super::http::without_query;
use crate::{Control, Error, Result};

/// Attempts in a row that may bring nothing.
const FAILURES: u32 = 6;
/// Attempts in all, however much each one brings.
const ATTEMPTS: u32 = 200;
/// Attempts to reach a host that cannot be reached: it rarely changes within seconds.
const UNREACHABLE: u32 = 2;
/// A server may ask for this much patience at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Bytes that make an attempt a success of sorts.
const PROGRESS: u64 = 1 << 10;

/// Counts failures and sleeps between attempts, twice as long each time.
pub struct Retry {
    first_pause: Duration,
    failures: u32,
    attempts: u32,
}

impl Retry {
    /// The first pause is `first_pause`.
    pub const fn new(first_pause: Duration) -> Self {
        Self {
            first_pause,
            failures: 0,
            attempts: 0,
        }
    }

    /// An attempt brought `bytes` before it failed.
    pub const fn progressed(&mut self, bytes: u64) {
        if bytes >= PROGRESS {
            self.failures = 0;
        }
    }

    /// Sleep before the next attempt; an error if there were enough. `after` is what the server asked for.
    pub fn failed(
        &mut self,
        control: &Control,
        url: &str,
        why: String,
        after: Option<Duration>,
    ) -> std::result::Result<(), PullError> {
        self.failures += 1;
        self.attempts += 1;
        if self.failures >= FAILURES || self.attempts >= ATTEMPTS {
            let tries = self.attempts;
            return Err(PullError::Other(Error::Network {
                url: without_query(url),
                message: format!("the download failed {tries} times; the last time: {why}"),
            }));
        }
        let pause = self.first_pause * (1 << (self.failures - 1));
        sleep(control, after.unwrap_or(pause).min(LONGEST_PAUSE))?;
        Ok(())
    }

    /// As [`failed`](Self::failed) for a host that cannot be reached.
    pub fn unreachable(
        &mut self,
        control: &Control,
        url: &str,
        why: String,
    ) -> std::result::Result<(), PullError> {
        self.failures += 1;
        self.attempts += 1;
        if self.failures >= UNREACHABLE {
            return Err(PullError::Unreachable(Error::Network {
                url: without_query(url),
                message: format!("cannot be reached: {why}"),
            }));
        }
        sleep(control, self.first_pause)?;
        Ok(())
    }
}

/// Whether a status is about the server's present state rather than about the request.
pub const fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// The pause that a `Retry-After` header asks for; only the form in seconds, which the hub uses.
pub fn retry_after(header: Option<&str>) -> Option<Duration> {
    let seconds: u64 = header?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Sleep, but not longer than until the work is cancelled.
fn sleep(control: &Control, pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    loop {
        control.check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends() {
        let control = Control::new();
        let mut retry = Retry::new(Duration::ZERO);
        let fails =
            |retry: &mut Retry| retry.failed(&control, "http://h/f?secret", "x".to_owned(), None);
        for _ in 1..FAILURES {
            assert!(fails(&mut retry).is_ok());
        }
        let Err(PullError::Other(error)) = fails(&mut retry) else {
            panic!("has to give up");
        };
        assert!(error.to_string().contains("6 times"), "{error}");
        assert!(!error.to_string().contains("secret"));
        let mut retry = Retry::new(Duration::ZERO);
        for _ in 1..ATTEMPTS {
            retry.progressed(PROGRESS);
            assert!(fails(&mut retry).is_ok());
        }
        assert!(fails(&mut retry).is_err());
    }

    #[test]
    fn a_pause_ends_when_the_work_is_cancelled() {
        let control = Control::new();
        control.cancel();
        let started = Instant::now();
        let mut retry = Retry::new(Duration::from_secs(30));
        assert!(
            retry
                .failed(&control, "http://h", "x".to_owned(), None)
                .is_err()
        );
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(retry_after(Some(" 7 ")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
    }
}
