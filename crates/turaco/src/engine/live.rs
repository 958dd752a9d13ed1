//! Streams of sound that one model hears side by side.
//!
//! A thread per model advances all its streams together: in each round every stream gives at most a few seconds of the sound
//! that waits, the steps of the decoder read the weights once for all, and what came of it is told. Nobody waits for the
//! end of somebody else's utterance, however fast that one sends.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::asr::realtime::{
    RealtimeBatch, RealtimeEvent, RealtimeOptions, RealtimeRecognizer, RealtimeSession,
};
use crate::device_queue::{DeviceQueue, Job, Urgency};
use crate::{Control, Error, Result};

use super::models::{ModelLease, Watching};

/// Seconds of sound that a stream gives in a round.
const ROUND: f64 = 2.0;

/// What happened to a stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum LiveEvent {
    /// The model wrote something.
    Heard(RealtimeEvent),
    /// All that was said before the flush of this number came out.
    Flushed(u64),
    /// All came out; nothing follows.
    Finished,
    /// It is over before its end; nothing follows.
    Failed(Error),
}

/// What one round of a model's streams took.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LiveRound {
    /// The model's name.
    pub model: String,
    /// Streams that had something to hear.
    pub sessions: usize,
    /// Seconds of sound that they heard, all together.
    pub audio: f64,
    /// Seconds that the device worked for them.
    pub seconds: f64,
}

/// Takes what happens to a stream, in order.
pub(super) type Listener = Box<dyn FnMut(LiveEvent) + Send>;

/// The streams of one model; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct LiveSessions {
    shared: Arc<Shared>,
}

struct Shared {
    recognizer: Arc<RealtimeRecognizer>,
    queue: Arc<DeviceQueue>,
    /// The model's name, and who wants to know of its rounds.
    model: String,
    watching: Arc<Watching>,
    state: Mutex<State>,
    /// There is work, or a session less.
    wake: Condvar,
    n_sessions: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveSessions")
            .field("sessions", &self.n_sessions)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Streams that the thread has not seen yet.
    opened: Vec<Stream>,
    /// Whether a thread is there.
    running: bool,
}

/// What the thread knows of a stream.
struct Stream {
    inbox: Arc<Mutex<Inbox>>,
    options: RealtimeOptions,
    session: Option<RealtimeSession>,
    on_event: Listener,
    /// The model stays loaded while it hears.
    _lease: ModelLease,
}

/// What a stream is to hear and do.
#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<Item>,
    /// Samples among the items.
    n_samples: usize,
    closed: bool,
}

#[derive(Debug)]
enum Item {
    Sound(Vec<f32>),
    Flush(u64),
    Finish,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LiveSessions {
    pub fn new(
        recognizer: &Arc<RealtimeRecognizer>,
        queue: Arc<DeviceQueue>,
        (model, watching): (&str, &Arc<Watching>),
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                recognizer: Arc::clone(recognizer),
                queue,
                model: model.to_owned(),
                watching: Arc::clone(watching),
                state: Mutex::default(),
                wake: Condvar::new(),
                n_sessions: AtomicUsize::new(0),
            }),
        }
    }

    /// Streams that are open.
    pub fn len(&self) -> usize {
        self.shared.n_sessions.load(Ordering::Relaxed)
    }

    pub fn open(
        &self,
        lease: ModelLease,
        options: &RealtimeOptions,
        on_event: Listener,
    ) -> Result<LiveSession> {
        self.shared.recognizer.check_options(options)?;
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let mut state = lock(&self.shared.state);
        state.opened.push(Stream {
            inbox: Arc::clone(&inbox),
            options: options.clone(),
            session: None,
            on_event,
            _lease: lease,
        });
        self.shared.n_sessions.fetch_add(1, Ordering::Relaxed);
        if !state.running {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("turaco-live".into());
            let spawned = thread.spawn(move || Rounds::new(shared).run());
            if let Err(source) = spawned {
                state.opened.pop();
                self.shared.n_sessions.fetch_sub(1, Ordering::Relaxed);
                return Err(Error::Io {
                    action: "start a thread",
                    path: "turaco-live".into(),
                    source,
                });
            }
            state.running = true;
        }
        drop(state);
        self.shared.wake.notify_all();
        Ok(LiveSession {
            shared: Arc::clone(&self.shared),
            inbox,
            sample_rate: self.shared.recognizer.config().sample_rate,
            n_flushes: 0,
        })
    }
}

/// One stream of sound to a loaded model; what comes of it goes to the listener. Dropping it ends the stream at once.
#[derive(Debug)]
pub struct LiveSession {
    shared: Arc<Shared>,
    inbox: Arc<Mutex<Inbox>>,
    sample_rate: u32,
    n_flushes: u64,
}

impl LiveSession {
    /// The rate of the samples that [`push`](Self::push) takes.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Seconds of sound that wait to be heard.
    pub fn waiting(&self) -> f64 {
        lock(&self.inbox).n_samples as f64 / f64::from(self.sample_rate)
    }

    /// Hear more: mono samples at [`sample_rate`](Self::sample_rate).
    pub fn push(&self, samples: &[f32]) {
        if !samples.is_empty() {
            self.put(Item::Sound(samples.to_vec()));
        }
    }

    /// Bring out what was said so far, as at the end of a sentence; returns the number that
    /// [`LiveEvent::Flushed`] will tell.
    pub fn flush(&mut self) -> u64 {
        self.n_flushes += 1;
        self.put(Item::Flush(self.n_flushes));
        self.n_flushes
    }

    /// There is no more sound.
    pub fn finish(&self) {
        self.put(Item::Finish);
    }

    fn put(&self, item: Item) {
        let mut inbox = lock(&self.inbox);
        if let Item::Sound(samples) = &item {
            inbox.n_samples += samples.len();
        }
        inbox.items.push_back(item);
        drop(inbox);
        self.wake();
    }

    fn wake(&self) {
        // Not between the thread's look and its sleep.
        let state = lock(&self.shared.state);
        self.shared.wake.notify_all();
        drop(state);
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        lock(&self.inbox).closed = true;
        self.wake();
    }
}

/// What a stream does in a round.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Ending {
    #[default]
    None,
    Flush(u64),
    Finish,
}

/// The thread of a model.
struct Rounds {
    shared: Arc<Shared>,
    batch: RealtimeBatch,
    streams: Vec<Stream>,
}

impl Rounds {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            batch: RealtimeBatch::new(&shared.recognizer),
            streams: Vec::new(),
            shared,
        }
    }

    fn run(mut self) {
        let control = Control::new();
        let Ok(mut job) = self.shared.queue.enter(Urgency::Live, &control) else {
            return;
        };
        while self.wait_for_work() {
            let round = AssertUnwindSafe(|| self.round(&mut job, &control));
            let failed = match catch_unwind(round) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("an internal error".to_owned()),
            };
            // What failed is shared by all: the device, or the steps.
            if let Some(message) = failed {
                for mut stream in self.streams.drain(..) {
                    self.shared.n_sessions.fetch_sub(1, Ordering::Relaxed);
                    (stream.on_event)(LiveEvent::Failed(Error::Io {
                        action: "go on with the stream",
                        path: "turaco-live".into(),
                        source: std::io::Error::other(message.clone()),
                    }));
                }
            }
        }
    }

    /// Sleep until a stream has something to do; false when there are none left.
    fn wait_for_work(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&shared.state);
        loop {
            self.streams.append(&mut state.opened);
            let before = self.streams.len();
            self.streams.retain(|stream| !lock(&stream.inbox).closed);
            let gone = before - self.streams.len();
            shared.n_sessions.fetch_sub(gone, Ordering::Relaxed);
            if self.streams.is_empty() {
                state.running = false;
                return false;
            }
            let has_work =
                |stream: &Stream| stream.session.is_none() || !lock(&stream.inbox).items.is_empty();
            if self.streams.iter().any(has_work) {
                return true;
            }
            let waited = shared.wake.wait_timeout(state, Duration::from_secs(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everybody's next sound, and what comes of it.
    fn round(&mut self, job: &mut Job, control: &Control) -> Result<()> {
        let rate = self.shared.recognizer.config().sample_rate;
        let most = (ROUND * f64::from(rate)) as usize;
        let turn = job.turn(control)?;
        let started = Instant::now();
        let (mut n_samples, mut n_busy) = (0, 0);
        let mut failed = Vec::new();
        let mut endings = vec![Ending::None; self.streams.len()];
        for (index, stream) in self.streams.iter_mut().enumerate() {
            if stream.session.is_none() {
                match self.shared.recognizer.session(&stream.options) {
                    Ok(session) => stream.session = Some(session),
                    Err(error) => {
                        failed.push((index, error));
                        continue;
                    }
                }
            }
            let Some(session) = &mut stream.session else {
                continue;
            };
            let (sound, ending, behind) = take(&stream.inbox, most);
            n_samples += sound.len();
            n_busy += usize::from(!sound.is_empty() || ending != Ending::None);
            session.hurry(behind);
            if let Err(error) = session.feed(&sound, rate) {
                failed.push((index, error));
            }
            endings[index] = ending;
        }
        // Sessions without an error, in order; their places among all.
        let is_failed = |index: usize| failed.iter().any(|(failed, _)| *failed == index);
        let places: Vec<usize> = (0..self.streams.len())
            .filter(|&index| !is_failed(index))
            .collect();
        let of = |wanted: &dyn Fn(Ending) -> bool| -> Vec<usize> {
            let here = places.iter().enumerate();
            here.filter(|(_, place)| wanted(endings[**place]))
                .map(|(position, _)| position)
                .collect()
        };
        let flushed = of(&|ending| matches!(ending, Ending::Flush(_)));
        let finished = of(&|ending| ending == Ending::Finish);
        let mut sessions: Vec<&mut RealtimeSession> = self
            .streams
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| !is_failed(*index))
            .filter_map(|(_, stream)| stream.session.as_mut())
            .collect();
        self.batch.flush(&mut sessions, &flushed)?;
        self.batch.finish(&mut sessions, &finished)?;
        drop(turn);
        if n_busy > 0 {
            self.shared.watching.tell(&LiveRound {
                model: self.shared.model.clone(),
                sessions: n_busy,
                audio: n_samples as f64 / f64::from(rate),
                seconds: started.elapsed().as_secs_f64(),
            });
        }
        for (index, error) in failed {
            (self.streams[index].on_event)(LiveEvent::Failed(error));
            lock(&self.streams[index].inbox).closed = true;
        }
        for (stream, ending) in self.streams.iter_mut().zip(endings) {
            let events = stream.session.as_mut().map(RealtimeSession::take_events);
            for event in events.unwrap_or_default() {
                (stream.on_event)(LiveEvent::Heard(event));
            }
            match ending {
                Ending::None => {}
                Ending::Flush(number) => (stream.on_event)(LiveEvent::Flushed(number)),
                Ending::Finish => {
                    (stream.on_event)(LiveEvent::Finished);
                    lock(&stream.inbox).closed = true;
                }
            }
        }
        Ok(())
    }
}

/// The sound of a round, what stands behind it, and whether more waits.
fn take(inbox: &Mutex<Inbox>, most: usize) -> (Vec<f32>, Ending, bool) {
    let mut inbox = lock(inbox);
    let mut sound = Vec::new();
    let mut ending = Ending::None;
    while sound.len() < most {
        match inbox.items.pop_front() {
            None => break,
            Some(Item::Sound(mut samples)) => {
                let rest = samples.split_off(samples.len().min(most - sound.len()));
                sound.append(&mut samples);
                if !rest.is_empty() {
                    inbox.items.push_front(Item::Sound(rest));
                }
            }
            Some(Item::Flush(number)) => {
                ending = Ending::Flush(number);
                break;
            }
            Some(Item::Finish) => {
                ending = Ending::Finish;
                break;
            }
        }
    }
    inbox.n_samples -= sound.len();
    (sound, ending, inbox.n_samples > 0)
}
