//! Recording where the time goes: named spans of wall time.
//!
//! Nothing is recorded unless the thread has a [`Recorder`]; until then [`span`] is one load of a flag and a
//! [`Step`](crate::Step) asks once per run. Code marks its stages with [`span`]; a model names the parts of its forward pass with
//! [`StepBuilder::scope`](crate::StepBuilder::scope) and [`stage`](crate::StepBuilder::stage), and the device that replays
//! the recording measures them: the CPU with a clock between two operations, a GPU with time stamps in its command
//! buffer that it hands over by [`record`] when the run is done.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::device::Activity;
use crate::graph::Work;

/// How fine a recording is; each level holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing is recorded.
    Off,
    /// The stages of the work, cheap enough to measure with.
    Stages,
    /// And the named parts of a forward pass, such as layers.
    Layers,
    /// And every operation.
    Operations,
}

/// What a span is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// Named in the source.
    Static(&'static str),
    /// Named while a model was recorded.
    Shared(Arc<str>),
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Static(name) => name,
            Self::Shared(name) => name,
        }
    }
}

impl From<&'static str> for Name {
    fn from(name: &'static str) -> Self {
        Self::Static(name)
    }
}

/// A stretch of time on one thread. Spans of a recording lie side by side or inside each other.
#[derive(Debug, Clone)]
pub struct Span {
    /// What was done.
    pub name: Name,
    /// Number of the recording, from 1 in the order in which they started.
    pub thread: u32,
    /// Nanoseconds from the start of the recording.
    pub begin: u64,
    /// Nanoseconds from the start of the recording.
    pub end: u64,
    /// How fine the span is.
    pub detail: Detail,
    /// For a replayed step: what it had to do.
    pub work: Option<Arc<Work>>,
    /// For a step that another device than the processor replayed: what that device did.
    pub activity: Option<Activity>,
}

impl Span {
    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end - self.begin) as f64 * 1e-9
    }

    /// Whether `other` lies within this span.
    pub fn contains(&self, other: &Self) -> bool {
        self.thread == other.thread && self.begin <= other.begin && other.end <= self.end
    }
}

thread_local! {
    /// The level of this thread's recording, if one runs.
    static DETAIL: Cell<Detail> = const { Cell::new(Detail::Off) };
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

struct Recording {
    origin: Instant,
    thread: u32,
    spans: Vec<Span>,
}

/// Records the spans of the thread that started it, while it lives. A thread has one at a time; others do not notice.
#[derive(Debug)]
pub struct Recorder {
    /// Stays on its thread.
    _not_send: PhantomData<*const ()>,
}

impl Recorder {
    /// Start; `None` if another recorder of this thread lives.
    pub fn start(detail: Detail) -> Option<Self> {
        static NEXT_THREAD: AtomicU32 = AtomicU32::new(1);
        RECORDING.with_borrow_mut(|recording| {
            if recording.is_some() {
                return None;
            }
            *recording = Some(Recording {
                origin: Instant::now(),
                thread: NEXT_THREAD.fetch_add(1, Ordering::Relaxed),
                spans: Vec::with_capacity(1024),
            });
            DETAIL.set(detail);
            Some(Self {
                _not_send: PhantomData,
            })
        })
    }

    /// The spans that ended since the last call, by time, outer ones before those inside.
    pub fn take(&mut self) -> Vec<Span> {
        let mut spans = RECORDING.with_borrow_mut(|recording| match recording {
            Some(recording) => std::mem::take(&mut recording.spans),
            None => Vec::new(),
        });
        // They were recorded when they ended. The sort is stable: of equal spans the one that ended last is the outer one.
        spans.reverse();
        spans.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.end)));
        spans
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        DETAIL.set(Detail::Off);
        RECORDING.set(None);
    }
}

/// How fine the recording of this thread is.
#[inline]
pub fn detail() -> Detail {
    DETAIL.get()
}

/// A stage of the work, from now until the guard goes.
#[inline]
#[must_use = "the span ends when the guard is dropped"]
pub fn span(name: &'static str) -> Guard {
    Guard((detail() != Detail::Off).then(|| (name, Instant::now())))
}

/// Ends a span when dropped; made by [`span`].
#[derive(Debug)]
pub struct Guard(Option<(&'static str, Instant)>);

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        if let Some((name, begin)) = self.0.take() {
            let end = Instant::now();
            record(name.into(), Detail::Stages, (begin, end), None);
        }
    }
}

/// Add a span to the recording of this thread, if one runs that is as fine.
pub fn record(name: Name, detail: Detail, times: (Instant, Instant), work: Option<Arc<Work>>) {
    record_run(name, detail, times, work, None);
}

/// The same for a replayed step.
pub(crate) fn record_run(
    name: Name,
    detail: Detail,
    (begin, end): (Instant, Instant),
    work: Option<Arc<Work>>,
    activity: Option<Activity>,
) {
    if detail > self::detail() {
        return;
    }
    RECORDING.with_borrow_mut(|recording| {
        let Some(recording) = recording else { return };
        let since =
            |time: Instant| time.saturating_duration_since(recording.origin).as_nanos() as u64;
        let (begin, end) = (since(begin), since(end));
        recording.spans.push(Span {
            name,
            thread: recording.thread,
            begin,
            end,
            detail,
            work,
            activity,
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_recorded_only_while_a_recorder_lives() {
        drop(span("before"));
        let mut recorder = Recorder::start(Detail::Stages).expect("no other recorder");
        assert!(Recorder::start(Detail::Stages).is_none());
        {
            let _outer = span("outer");
            drop(span("first"));
            drop(span("second"));
            let now = Instant::now();
            record("too fine".into(), Detail::Layers, (now, now), None);
        }
        let spans = recorder.take();
        let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["outer", "first", "second"]);
        assert!(spans[0].contains(&spans[1]) && spans[0].contains(&spans[2]));
        assert!(!spans[1].contains(&spans[2]));
        assert!(spans[1].end <= spans[2].begin);
        assert!(recorder.take().is_empty());
        drop(recorder);
        drop(span("after"));
        let mut recorder = Recorder::start(Detail::Operations).expect("the first one is gone");
        assert!(recorder.take().is_empty());
    }

    // WASI has no threads.
    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn threads_have_recordings_of_their_own() {
        let mut recorder = Recorder::start(Detail::Stages).expect("no other recorder");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                drop(span("elsewhere"));
                assert!(Recorder::start(Detail::Stages).is_some());
            });
        });
        assert!(recorder.take().is_empty());
    }
}
