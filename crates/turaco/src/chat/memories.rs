//! What conversations knew that are over.
//!
//! Clients that send the whole conversation with every request begin with what was said before. Keys and values of that are
//! kept, for whoever begins alike.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::prompt::PromptPart;
use super::session::{ChatSession, Memory};

/// Conversations that are kept.
const MOST: usize = 8;

/// Bytes of their keys and values.
const MOST_BYTES: u64 = 1 << 30;

/// Kept conversations of one model, the one that was over last at the end.
#[derive(Debug, Default)]
pub(super) struct Memories {
    kept: Mutex<VecDeque<Memory>>,
}

impl Memories {
    /// The one that knows most of a prompt, unless that is the smaller part of what it knows: its own client may come back.
    pub fn take(&self, prompt: &[PromptPart]) -> Option<Memory> {
        let mut kept = self.lock();
        let common = kept.iter().map(|memory| memory.common(prompt));
        let best = common.enumerate().max_by_key(|(_, common)| *common);
        let (index, common) = best?;
        let is_worth_it = 2 * common >= kept.get(index)?.len();
        is_worth_it.then(|| kept.remove(index)).flatten()
    }

    /// Keep another; the oldest go when there are too many, or when they take too much.
    pub fn keep(&self, memory: Memory, bytes: &dyn Fn(&Memory) -> u64) {
        let mut kept = self.lock();
        kept.push_back(memory);
        while kept.len() > MOST || kept.iter().map(bytes).sum::<u64>() > MOST_BYTES {
            kept.pop_front();
        }
    }

    /// Keep none.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Memory>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A conversation whose knowledge outlives it: what it has heard and read is kept by the model when it is dropped.
#[derive(Debug)]
pub struct KeptSession {
    session: ChatSession,
}

impl KeptSession {
    pub(super) fn new(session: ChatSession) -> Self {
        Self { session }
    }
}

impl Deref for KeptSession {
    type Target = ChatSession;

    fn deref(&self) -> &ChatSession {
        &self.session
    }
}

impl DerefMut for KeptSession {
    fn deref_mut(&mut self) -> &mut ChatSession {
        &mut self.session
    }
}

impl Drop for KeptSession {
    fn drop(&mut self) {
        let memory = self.session.take_memory();
        self.session.model().keep(memory);
    }
}
