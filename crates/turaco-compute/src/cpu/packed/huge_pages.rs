//! Weights on their way from a mapped file to pages of 2 MiB, while they are in use already.
//!
//! One thread copies what waits, in the order in which it was loaded, and ends when nothing is left. Neighbours share
//! memory, as half a page would be lost behind each of them. A model that is dropped meanwhile is forgotten.

use super::panels::Part;
use crate::cpu::memory::Buffer;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Bytes that are copied before they are used: few enough that they hardly count while they are there twice.
const PIECE: usize = 64 << 20;

/// Where a matrix begins in shared memory: at a cache line.
const LINE: usize = 64;

/// Panels in files, and a copy of them as soon as there is one.
#[derive(Debug)]
pub(super) struct Moving {
    parts: Vec<Part>,
    copy: OnceLock<Copied>,
}

/// A place in memory that several matrices share.
#[derive(Debug)]
struct Copied {
    memory: Arc<Buffer>,
    place: Range<usize>,
}

impl Moving {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self {
            parts,
            copy: OnceLock::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Where they come from.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Where they are now, one part below the other.
    pub(super) fn moved(&self) -> Option<&[u8]> {
        let copied = self.copy.get()?;
        Some(&copied.memory.as_bytes()[copied.place.clone()])
    }

    fn copy_to(&self, mut rest: &mut [u8]) {
        for part in &self.parts {
            let (to, behind) = rest.split_at_mut(part.bytes.len());
            to.copy_from_slice(&part.bytes);
            // While a model loads nobody reads it there; who does gets it from the file once more.
            part.bytes.release();
            rest = behind;
        }
    }

    fn now_in(&self, memory: &Arc<Buffer>, place: Range<usize>) {
        let memory = Arc::clone(memory);
        if self.copy.set(Copied { memory, place }).is_ok() {
            // Who is reading them there right now gets them from the file once more.
            self.parts.iter().for_each(|part| part.bytes.release());
        }
    }
}

/// Without memory for the copies the files go on serving.
fn copy(matrices: &[Arc<Moving>]) {
    let mut end = 0_usize;
    let places = matrices.iter().map(|matrix| {
        let start = end.next_multiple_of(LINE);
        end = start + matrix.len();
        start..end
    });
    let places: Vec<Range<usize>> = places.collect();
    let Ok(mut memory) = Buffer::zeroed(end, "weights") else {
        return;
    };
    for (matrix, place) in matrices.iter().zip(&places) {
        matrix.copy_to(&mut memory.as_bytes_mut()[place.clone()]);
    }
    let memory = Arc::new(memory);
    for (matrix, place) in matrices.iter().zip(places) {
        matrix.now_in(&memory, place);
    }
}

/// What waits, and whether somebody is at work.
static WAITING: Mutex<(VecDeque<Weak<Moving>>, bool)> = Mutex::new((VecDeque::new(), false));

/// Copy these when it is their turn.
pub(super) fn soon(moving: &Arc<Moving>) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.0.push_back(Arc::downgrade(moving));
    if !waiting.1 {
        let thread = std::thread::Builder::new().name("turaco-pages".into());
        // Without a thread the files serve.
        waiting.1 = thread.spawn(copy_all).is_ok();
    }
}

fn copy_all() {
    loop {
        let mut matrices = Vec::new();
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut len = 0;
        while len < PIECE
            && let Some(next) = waiting.0.pop_front()
        {
            if let Some(matrix) = next.upgrade() {
                len += matrix.len();
                matrices.push(matrix);
            }
        }
        waiting.1 = !matrices.is_empty();
        drop(waiting);
        if matrices.is_empty() {
            return;
        }
        copy(&matrices);
    }
}
