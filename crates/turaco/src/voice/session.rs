//! A conversation by voice: sound in, events out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use turaco_compute::{CpuOptions, Device};

use crate::asr::Recognizer;
use crate::asr::vad_stream::{SpeechDetector, SpeechEvent};
use crate::engine::{DeviceQueue, Engine};
use crate::models::silero_vad::SileroVad;
use crate::{Result, Synthesizer};

use super::conversation::{Conversation, Message, Place, Which};
use super::ear::{Ear, EarMessage};
use super::events::{AnswerEnd, VoiceEvent};
use super::listener::{Input, LISTENING_RATE, Listener};
use super::mind::Mind;
use super::options::{TurnOptions, VoiceOptions};
use super::request::AnswerRequest;
use super::shared::{Shared, VoiceModel};
use super::speaker::Speaker;
use super::thinker::{Question, Thinker};

/// The loaded models of conversations; any number of sessions share them.
#[derive(Debug, Clone)]
pub struct VoiceModels {
    network: Arc<SileroVad>,
    recognizer: Option<Arc<Recognizer>>,
    /// The turns in which it hears.
    hearing_turns: Option<Arc<DeviceQueue>>,
    /// Who hears all streams together.
    together: Option<(Engine, String)>,
    voice: Option<VoiceModel>,
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
            hearing_turns: None,
            together: None,
            voice: None,
        })
    }

    /// With somebody who writes down what is said.
    #[must_use]
    pub fn recognizer(mut self, recognizer: Arc<Recognizer>) -> Self {
        self.recognizer = Some(recognizer);
        self
    }

    /// The recogniser works in turns with whatever else uses its device.
    #[must_use]
    pub fn hearing_in_turns(mut self, queue: &Arc<DeviceQueue>) -> Self {
        self.hearing_turns = Some(Arc::clone(queue));
        self
    }

    /// The recogniser, which is what `engine` calls `name`, hears all streams of sound together: they share the steps of the
    /// decoder. For recognisers that write while they listen.
    #[must_use]
    pub fn hearing_together(mut self, engine: &Engine, name: &str) -> Self {
        self.together = Some((engine.clone(), name.to_owned()));
        self
    }

    /// With a voice for answers.
    #[must_use]
    pub fn synthesizer(mut self, synthesizer: Arc<Synthesizer>) -> Self {
        self.voice = Some(VoiceModel {
            synthesizer,
            queue: None,
        });
        self
    }

    /// The voice works in turns with whatever else uses its device.
    #[must_use]
    pub fn speaking_in_turns(mut self, queue: &Arc<DeviceQueue>) -> Self {
        if let Some(voice) = &mut self.voice {
            voice.queue = Some(Arc::clone(queue));
        }
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
            if let SpeechEvent::Ended {
                sample, cut: false, ..
            } = event
            {
                first.get_or_insert(sample as usize);
            }
        };
        detector.push(sound, &mut heed)?;
        detector.finish(&mut heed)?;
        Ok(first.map(|end| end.min(sound.len())))
    }

    /// Samples per second of answers; `None` without a voice.
    pub fn sample_rate(&self) -> Option<u32> {
        let voice = self.voice.as_ref();
        voice.map(|voice| voice.synthesizer.sample_rate())
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
    n_requests: AtomicU64,
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
        let voice = models.voice.clone();
        let shared = Arc::new(Shared::new(Box::new(on_event), options, voice));
        let mut session = Self {
            shared: Arc::clone(&shared),
            inputs: None,
            waiting: Arc::default(),
            max_waiting,
            n_requests: AtomicU64::new(0),
            threads: Vec::new(),
        };
        let mind_hears = mind.as_ref().is_some_and(|mind| mind.hears());

        let mut thinker: Option<Sender<Question>> = None;
        if let Some(mind) = mind {
            let (speaker, messages) = mpsc::channel();
            let voice = Speaker {
                shared: Arc::clone(&shared),
            };
            session.spawn("speaker", move || voice.run(&messages))?;
            let (sender, questions) = mpsc::channel();
            let shared = Arc::clone(&shared);
            session.spawn("thinker", move || {
                let thinker = Thinker {
                    mind,
                    shared,
                    speaker,
                    newest: (0, None),
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
                queue: models.hearing_turns.clone(),
                together: models.together.clone(),
                shared: Arc::clone(&shared),
                questions: thinker.clone(),
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

    /// The user's turn is over, whatever the sound says; `answer` if it is to be answered. [`VoiceEvent::CommitHeeded`] tells whether
    /// there was one.
    pub fn commit(&self, answer: bool) {
        self.send(Input::Commit { answer });
    }

    /// Forget the sound since the last turn.
    pub fn clear(&self) {
        self.send(Input::Clear);
    }

    /// Answer what the conversation ends with.
    pub fn respond(&self) {
        self.send(Input::Respond(None));
    }

    /// Answer as `request` says; the number by which [`VoiceEvent::AnswerStarted`] tells of it.
    pub fn respond_as(&self, request: AnswerRequest) -> u64 {
        let number = 1 + self.n_requests.fetch_add(1, Ordering::Relaxed);
        self.send(Input::Respond(Some((number, Arc::new(request)))));
        number
    }

    /// Something was written, not said; it comes behind what was said until now. Sound without words is written down first, where the
    /// mind does not hear for itself.
    pub fn add(&self, message: Message) {
        self.put(message, Place::End);
    }

    /// Something is added in its place, as the conversation is when all that was said until now is in it.
    pub fn put(&self, message: Message, place: Place) {
        self.send(Input::Add(message, place));
    }

    /// Something was never said.
    pub fn remove(&self, which: Which) {
        self.send(Input::Remove(which));
    }

    /// Answers that begin from now on are said by this voice.
    pub fn set_synthesizer(&self, models: &VoiceModels) {
        self.shared.set_voice(models.voice.clone());
    }

    /// Stop the answer that is going on; whether there was one.
    pub fn cancel(&self) -> bool {
        self.shared.interrupt(AnswerEnd::Cancelled, false)
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
        self.shared.give_up_kept();
        self.join();
    }
}
