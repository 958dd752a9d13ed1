//! Memory for recordings, decoded and as they are sent in JSON, of all requests together: a small file can hold hours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use turaco::load::available_memory;

use crate::error::ApiError;

/// Bytes where the system does not tell what is left.
const UNKNOWN: u64 = 8 << 30;

/// Bytes that are taken at once: a minute at 16 kHz.
const STEP: u64 = 4 << 20;

/// The room of a server.
#[derive(Debug, Default)]
pub struct SoundRoom {
    used: AtomicU64,
    most: Option<u64>,
}

impl SoundRoom {
    /// Room for `most` bytes; `None` = half of the memory that is left.
    pub fn new(most: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            most,
        })
    }

    /// A share of it that is empty.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            room: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Bytes that may be used when `used` are.
    fn most(&self, used: u64) -> u64 {
        let half = || available_memory().map(|left| left.saturating_add(used) / 2);
        self.most.or_else(half).unwrap_or(UNKNOWN)
    }
}

/// What the recordings of one request take, free again when dropped.
#[derive(Debug)]
pub struct Share {
    room: Arc<SoundRoom>,
    bytes: u64,
}

impl Share {
    /// What a recording takes in addition to those before it.
    pub fn recording(&mut self) -> Growing<'_> {
        Growing {
            before: self.bytes,
            share: self,
        }
    }

    /// Something that was sent has so many bytes by now.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn hold(&mut self, bytes: u64) -> Result<(), ApiError> {
        match bytes > self.bytes {
            true => self.grow(bytes),
            false => Ok(()),
        }
    }

    fn grow(&mut self, bytes: u64) -> Result<(), ApiError> {
        let more = bytes.saturating_sub(self.bytes).next_multiple_of(STEP);
        let used = self.room.used.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        match used + more > self.room.most(used) {
            true => Err(ApiError::no_room(used + more == self.bytes)),
            false => Ok(()),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The part of a share that a recording takes which is being decoded.
pub struct Growing<'a> {
    share: &'a mut Share,
    before: u64,
}

impl Growing<'_> {
    /// The recording has so many samples by now.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn reach(&mut self, samples: usize) -> Result<(), ApiError> {
        let bytes = self.before + samples as u64 * size_of::<f32>() as u64;
        self.share.hold(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_take_together_is_bounded_and_given_back() {
        let room = SoundRoom::new(Some(3 * STEP));
        let step = STEP as usize / 4;
        let mut first = room.share();
        first.recording().reach(step).unwrap();
        first.recording().reach(1).unwrap();
        let mut second = room.share();
        second.recording().reach(step).unwrap();
        let error = second.recording().reach(1).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (503, "out_of_memory"));
        drop((first, second));
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
        let error = room.share().recording().reach(3 * step + 1).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (413, "file_too_large"));
    }
}
