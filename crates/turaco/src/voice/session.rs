//! A conversation by voice: sound in, events out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use turaco_compute::{CpuOptions, Device};

use crate::asr::Recognizer;
use crate::asr::vad_stream::{SpeechDetector, SpeechEvent};
use crate::models::silero_vad::SileroVad;
use crate::{Result, Synthesizer};

use super::conversation::{Conversation, Message};
use super::ear::{Ear, EarMessage};
use super::events::{AnswerEnd, VoiceEvent};
use super::listener::{Input, LISTENING_RATE, Listener};
use super::mind::Mind;
use super::options::{TurnOptions, VoiceOptions};
use super::shared::Shared;
use super::speaker::{Speaker, SpeakerMessage};
use super::thinker::{Question, Thinker};

/// The loaded models of conversations; any number of sessions share them.
#[derive(Debug, Clone)]
pub struct VoiceModels {
    network: Arc<SileroVad>,
    recognizer: Option<Arc<Recognizer>>,
    synthesizer: Option<Arc<Synthesizer>>,
}

impl VoiceModels {
    /// Nothing but what finds speech, which runs on the processor.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> Result<Self> {
        // Too small for more than one thread.
        let processor = Device::cpu(CpuOptions {
            threads: 1,
            ..CpuOptions::default()
        });
        Ok(Self {
            network: Arc::new(SileroVad::new(&processor, LISTENING_RATE)?),
            recognizer: None,
            synthesizer: None,
        })
    }

    /// With somebody who writes down what is said.
    #[must_use]
    pub fn recognizer(mut self, recognizer: Arc<Recognizer>) -> Self {
        self.recognizer = Some(recognizer);
        self
    }

    /// With a voice for answers.
    #[must_use]
    pub fn synthesizer(mut self, synthesizer: Arc<Synthesizer>) -> Self {
        self.synthesizer = Some(synthesizer);
        self
    }

    /// Where the first turn in `sound` (mono at [`LISTENING_RATE`]) ends, in samples; `None` if nobody speaks.
    ///
    /// # Errors
    /// Options that cannot be used.
    pub fn first_turn(&self, turns: &TurnOptions, sound: &[f32]) -> Result<Option<usize>> {
        let mut detector = SpeechDetector::new(&self.network, &turns.detector())?;
        let mut first = None;
        let mut heed = |event| {
            if let SpeechEvent::Ended { sample, cut: false } = event {
                first.get_or_insert(sample as usize);
            }
        };
        detector.push(sound, &mut heed)?;
        detector.finish(&mut heed)?;
        Ok(first.map(|end| end.min(sound.len())))
    }

    /// Samples per second of answers; `None` without a voice.
    pub fn sample_rate(&self) -> Option<u32> {
        self.synthesizer
            .as_ref()
            .map(|synthesizer| synthesizer.sample_rate())
    }
}

/// A conversation by voice. Four threads work on it side by side: one listens, one writes down, one thinks and one speaks, so that
/// nobody waits for work that can be done meanwhile, and speech interrupts all of it.
///
/// Dropping it ends everything at the next step of whatever is computing.
#[derive(Debug)]
pub struct VoiceSession {
    shared: Arc<Shared>,
    inputs: Option<Sender<Input>>,
    waiting: Arc<AtomicUsize>,
    max_waiting: usize,
    /// In the order in which they come to an end when the sound does.
    threads: Vec<JoinHandle<()>>,
}

/// Seconds of sound that may wait unless options say otherwise.
const MAX_BUFFER_S: f64 = 300.0;

impl VoiceSession {
    /// Begin a conversation. `mind` answers; without one, what is said is only written down. `on_event` is called from several
    /// threads, and has to be quick: whoever waits for it is not listening. It must not call the session.
    ///
    /// # Errors
    /// Options that cannot be used, or threads that cannot be had.
    pub fn start(
        models: &VoiceModels,
        mind: Option<Box<dyn Mind>>,
        options: VoiceOptions,
        on_event: impl Fn(VoiceEvent) + Send + Sync + 'static,
    ) -> Result<Self> {
        let max_buffer = options.max_buffer_s.unwrap_or(MAX_BUFFER_S);
        let max_waiting = (max_buffer.max(1.0) * f64::from(LISTENING_RATE)) as usize;
        // Options that cannot be used are found now, not in the thread.
        SpeechDetector::new(&models.network, &options.turns.detector())?;
        let voice = models.synthesizer.clone().filter(|_| mind.is_some());
        let sample_rate = voice.as_ref().map(|voice| voice.sample_rate());
        let shared = Arc::new(Shared::new(Box::new(on_event), options, sample_rate));
        let mut session = Self {
            shared: Arc::clone(&shared),
            inputs: None,
            waiting: Arc::default(),
            max_waiting,
            threads: Vec::new(),
        };
        let mind_hears = mind.as_ref().is_some_and(|mind| mind.hears());

        let mut speaker: Option<Sender<SpeakerMessage>> = None;
        if let Some(voice) = voice {
            let (sender, messages) = mpsc::channel();
            let shared = Arc::clone(&shared);
            session.spawn("speaker", move || Speaker { voice, shared }.run(&messages))?;
            speaker = Some(sender);
        }
        let mut thinker: Option<Sender<Question>> = None;
        if let Some(mind) = mind {
            let (sender, questions) = mpsc::channel();
            let shared = Arc::clone(&shared);
            session.spawn("thinker", move || {
                let thinker = Thinker {
                    mind,
                    shared,
                    speaker,
                };
                thinker.run(&questions);
            })?;
            thinker = Some(sender);
        }
        let mut ear: Option<Sender<EarMessage>> = None;
        let mut ear_is_live = false;
        if let Some(recognizer) = models.recognizer.clone() {
            ear_is_live = recognizer.realtime().is_some();
            let (sender, messages) = mpsc::channel();
            let worker = Ear {
                recognizer,
                shared: Arc::clone(&shared),
                questions: thinker.clone().filter(|_| !mind_hears),
                mind_hears,
            };
            session.spawn("ear", move || worker.run(&messages))?;
            ear = Some(sender);
        }
        let (sender, inputs) = mpsc::channel();
        let listener = Listener {
            shared,
            network: Arc::clone(&models.network),
            waiting: Arc::clone(&session.waiting),
            ear,
            ear_is_live,
            thinker,
            mind_hears,
            most_samples: max_waiting,
        };
        session.spawn("listener", move || listener.run(&inputs))?;
        session.inputs = Some(sender);
        session.threads.reverse();
        Ok(session)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(format!("voice-{name}"));
        let thread = thread.spawn(work).map_err(|source| crate::Error::Io {
            action: "start a thread for",
            path: name.into(),
            source,
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn send(&self, input: Input) {
        if let Some(inputs) = &self.inputs {
            // The listener is gone only when the session ends.
            let _ = inputs.send(input);
        }
    }

    /// More sound at [`LISTENING_RATE`]. `false` if too much is waiting already: nothing was taken.
    #[must_use]
    pub fn push(&self, samples: &[f32]) -> bool {
        let waiting = self.waiting.fetch_add(samples.len(), Ordering::Relaxed);
        let unwritten = self.shared.unwritten.load(Ordering::Relaxed);
        let all = waiting + unwritten;
        if all > 0 && all + samples.len() > self.max_waiting {
            self.waiting.fetch_sub(samples.len(), Ordering::Relaxed);
            return false;
        }
        self.send(Input::Sound(samples.to_vec(), Instant::now()));
        true
    }

    /// Seconds of sound that nobody has listened to yet.
    pub fn waiting_seconds(&self) -> f64 {
        self.waiting.load(Ordering::Relaxed) as f64 / f64::from(LISTENING_RATE)
    }

    /// The user's turn is over, whatever the sound says; `answer` if it is to be answered.
    pub fn commit(&self, answer: bool) {
        self.send(Input::Commit { answer });
    }

    /// Forget the sound since the last turn.
    pub fn clear(&self) {
        self.send(Input::Clear);
    }

    /// Answer what the conversation ends with.
    pub fn respond(&self) {
        self.send(Input::Respond);
    }

    /// Something was written, not said; it comes behind what was said until now.
    pub fn add(&self, message: Message) {
        self.send(Input::Add(message));
    }

    /// Stop the answer that is going on; whether there was one.
    pub fn cancel(&self) -> bool {
        self.shared.interrupt(AnswerEnd::Cancelled)
    }

    /// The listener of answer `number` heard only `audio_ms` of it: the rest is taken back. Returns the text that is left.
    ///
    /// # Errors
    /// An answer that is not the newest.
    pub fn truncate(&self, number: u64, audio_ms: u64) -> Result<String> {
        self.shared.truncate(number, audio_ms)
    }

    /// Change options; those that say how speech is found count from the next turn on.
    pub fn configure(&self, change: impl FnOnce(&mut VoiceOptions)) {
        let (detection_before, after) = {
            let mut options = self.shared.options();
            let before = options.turns.clone();
            change(&mut options);
            let instructions = options.conversation.instructions.clone();
            let changed = before != options.turns;
            drop(options);
            (changed, instructions)
        };
        self.shared.conversation().set_instructions(after);
        if detection_before {
            self.send(Input::Reconfigure);
        }
    }

    /// What was said so far.
    pub fn conversation(&self) -> Conversation {
        self.shared.conversation().clone()
    }

    /// There is no more sound: what was said is answered, then everything ends. Waits for it; what was said is returned.
    pub fn finish(mut self) -> Conversation {
        self.inputs = None;
        self.join();
        self.conversation()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; the others go on.
            let _ = thread.join();
        }
    }
}

impl Drop for VoiceSession {
    fn drop(&mut self) {
        self.shared.control.cancel();
        self.inputs = None;
        self.shared.end_answer(AnswerEnd::Cancelled);
        self.join();
    }
}
