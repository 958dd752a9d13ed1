//! One connection of `/v1/realtime`: from events of the client to utterances, and from what was heard to events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;
use turaco::asr::vad_stream::{SpeechDetector, SpeechEvent};
use turaco::voice::VoiceEvent;

use super::conversation::Conversation;
use super::ear::{Ear, EarEvent};
use super::protocol::{ClientEvent, NoEvent, ServerEvent};
use super::settings::Settings;
use super::sound::SoundReader;
use super::utterances::{Utterances, seconds};
use super::vllm::Vllm;
use crate::app::{App, SessionPlace};
use crate::error::ApiError;
use crate::family::family;
use crate::layer::new_id;
use crate::upload::SAMPLE_RATE;

/// Bytes of sound that wait for the event that tells the dialect: a second of it. Who says nothing by then is heard as OpenAI's
/// client, until it turns out to be another.
const UNDECIDED: usize = 48_000;

/// Bytes of a second of sound in vLLM's dialect.
const VLLM_SECOND: f64 = 32_000.0;

/// What the connection is to send.
pub type Outbox = Vec<Value>;

/// Which protocol the client speaks.
enum Dialect {
    /// Not told yet; sound that came meanwhile.
    Undecided(Vec<u8>),
    OpenAi,
    Vllm(Box<Vllm>),
    /// OpenAI's, with somebody who answers.
    Conversation(Box<Conversation>),
}

/// Where news of a session come from.
pub struct Receivers {
    pub heard: mpsc::UnboundedReceiver<EarEvent>,
    pub told: mpsc::UnboundedReceiver<VoiceEvent>,
}

/// What is known of the client before it says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    Undecided,
    Vllm,
    Conversation,
}

/// One client.
pub struct Session {
    app: App,
    id: String,
    settings: Settings,
    dialect: Dialect,
    sound: Option<SoundReader>,
    detector: Option<Detector>,
    ear: Option<Ear>,
    /// The ear listens as it was asked to earlier, and goes when it has written down what it was given.
    is_stale: bool,
    /// All sound so far as it came, as long as the client may turn out to speak vLLM's dialect, in which it is another.
    early: Option<Vec<u8>>,
    events: mpsc::UnboundedSender<EarEvent>,
    /// The other end of these, where they are others than at the beginning.
    fresh: Option<mpsc::UnboundedReceiver<EarEvent>>,
    voice_events: mpsc::UnboundedSender<VoiceEvent>,
    utterances: Utterances,
    /// What is heard next was counted already, as utterances of another dialect.
    was_counted: bool,
    /// Whether the client wants to know the names of OpenAI's beta.
    beta: bool,
    /// Free when nobody works for the session any more.
    place: Arc<SessionPlace>,
    /// Work of the detector since the last utterance.
    detecting: Duration,
    /// Seconds of silence that it took to know that an utterance is over.
    waited: Option<f64>,
    /// Samples heard since the session began.
    n_heard: u64,
    /// Samples that the ear was given.
    n_given: u64,
}

/// A detector of speech, whose positions begin anew with every commit.
struct Detector {
    detector: SpeechDetector,
    start: u64,
}

impl Session {
    /// A session that has heard nothing; what comes out of the receivers is for [`heard`](Self::heard) and
    /// [`told`](Self::told).
    pub fn new(
        app: &App,
        settings: Settings,
        (opening, beta): (Opening, bool),
        place: SessionPlace,
    ) -> (Self, Receivers) {
        let (events, heard) = mpsc::unbounded_channel();
        let (voice_events, told) = mpsc::unbounded_channel();
        let mut settings = settings;
        settings.talks = opening == Opening::Conversation;
        let (id, place) = (new_id("sess"), Arc::new(place));
        let session = Self {
            app: app.clone(),
            settings,
            dialect: match opening {
                Opening::Vllm => Dialect::Vllm(Box::default()),
                Opening::Undecided => Dialect::Undecided(Vec::new()),
                Opening::Conversation => {
                    let events = voice_events.clone();
                    let conversation = Conversation::new(app, (&id, beta), events, &place);
                    Dialect::Conversation(Box::new(conversation))
                }
            },
            id,
            place,
            beta,
            sound: None,
            detector: None,
            ear: None,
            is_stale: false,
            early: None,
            events,
            fresh: None,
            voice_events,
            utterances: Utterances::new(beta),
            was_counted: false,
            detecting: Duration::ZERO,
            waited: None,
            n_heard: 0,
            n_given: 0,
        };
        (session, Receivers { heard, told })
    }

    /// The first message, which clients of both dialects understand.
    pub fn greeting(&self) -> Value {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        ServerEvent::SessionCreated {
            session: self.settings.to_json(&self.id),
            id: self.id.clone(),
            created: now.map_or(0, |now| now.as_secs()),
        }
        .to_json()
    }

    /// A text message of the client.
    pub async fn text(&mut self, text: &str, out: &mut Outbox) {
        match ClientEvent::read(text) {
            Ok((event, event_id)) => {
                if let Err(error) = self.event(event, out).await {
                    self.complain(&error, event_id, out);
                }
            }
            Err(error) => self.no_event(&error, out),
        }
    }

    /// A binary message: sound without base64.
    pub async fn binary(&mut self, bytes: &[u8], out: &mut Outbox) {
        if let Err(error) = self.append(bytes, out).await {
            self.complain(&error, None, out);
        }
    }

    fn no_event(&self, error: &NoEvent, out: &mut Outbox) {
        let code = match (&self.dialect, error.is_json, error.is_known) {
            (Dialect::Vllm(_), false, _) => "invalid_json",
            (_, _, true) => "invalid_value",
            _ => "unknown_event",
        };
        let mut api = ApiError::malformed(error.message.clone());
        api.code = code;
        self.complain(&api, error.event_id.clone(), out);
    }

    fn complain(&self, error: &ApiError, event_id: Option<String>, out: &mut Outbox) {
        self.app.metrics().error(error.code);
        if let Some(details) = &error.details {
            let line = format!("{}: {}: {details}", self.id, error.message);
            self.app.log(crate::config::LogLevel::Error, &line);
        }
        out.push(match &self.dialect {
            Dialect::Vllm(_) => Vllm::error(error),
            _ => {
                let mut body = error.body();
                body["event_id"] = event_id.into();
                ServerEvent::Error { error: body }.to_json()
            }
        });
    }

    async fn event(&mut self, event: ClientEvent, out: &mut Outbox) -> Result<(), ApiError> {
        self.decide(&event, out).await?;
        match event {
            ClientEvent::Append { audio } => {
                let bytes = decode_base64(&audio)?;
                self.append(&bytes, out).await
            }
            event if matches!(self.dialect, Dialect::Vllm(_)) => self.vllm_event(event, out).await,
            event if self.is_talk(&event) => match &mut self.dialect {
                Dialect::Conversation(talk) => talk.event(event, &self.settings, out).await,
                _ => Ok(()),
            },
            ClientEvent::SessionUpdate { session, .. } => {
                let session = session.ok_or_else(|| ApiError::missing("session"))?;
                let mut changed = self.settings.clone();
                changed.update(*session)?;
                self.change(changed, out).await?;
                let session = self.settings.to_json(&self.id);
                out.push(ServerEvent::SessionUpdated { session }.to_json());
                Ok(())
            }
            ClientEvent::OldSessionUpdate { session } => {
                let mut changed = self.settings.clone();
                changed.update_old(*session)?;
                self.change(changed, out).await?;
                let session = self.settings.to_json(&self.id);
                out.push(
                    ServerEvent::OldSessionUpdated {
                        session: session.clone(),
                    }
                    .to_json(),
                );
                out.push(ServerEvent::SessionUpdated { session }.to_json());
                Ok(())
            }
            ClientEvent::Commit { .. } => self.commit(out).await,
            ClientEvent::Clear {} => self.clear(out),
            ClientEvent::Retrieve { item_id } => {
                out.push(self.utterances.retrieve(&item_id)?.to_json());
                Ok(())
            }
            ClientEvent::Delete { item_id } => {
                out.push(self.utterances.delete(item_id)?.to_json());
                Ok(())
            }
            ClientEvent::CreateItem { .. }
            | ClientEvent::Truncate { .. }
            | ClientEvent::CreateResponse { .. }
            | ClientEvent::CancelResponse { .. }
            | ClientEvent::ClearOutput {} => Err(ApiError::unsupported(
                "type",
                "this is for conversations (session type `realtime`); this session writes down what it hears",
            )),
        }
    }

    /// Whether an event is for the conversation, if there is one.
    fn is_talk(&self, event: &ClientEvent) -> bool {
        let is_setting = matches!(
            event,
            ClientEvent::SessionUpdate { .. } | ClientEvent::OldSessionUpdate { .. }
        );
        matches!(self.dialect, Dialect::Conversation(_)) && !is_setting
    }

    /// The first update or commit tells the dialect, however much sound came before.
    async fn decide(&mut self, event: &ClientEvent, out: &mut Outbox) -> Result<(), ApiError> {
        if let Some(sound) = self
            .early
            .take_if(|_| !matches!(event, ClientEvent::Append { .. }))
            && is_of_vllm(event)
        {
            return self.turn_out_vllm(&sound, out).await;
        }
        let Dialect::Undecided(waiting) = &mut self.dialect else {
            return Ok(());
        };
        let is_vllm = is_of_vllm(event);
        let talks = match event {
            ClientEvent::SessionUpdate { session, .. } => session
                .as_ref()
                .is_some_and(|session| session.is_conversation()),
            ClientEvent::Append { .. } => return Ok(()),
            // Only conversations have these.
            ClientEvent::CreateItem { .. } | ClientEvent::CreateResponse { .. } => true,
            _ => false,
        };
        let waiting = std::mem::take(waiting);
        // With the format of the update that decides, which may be one that cannot be: then nothing is decided.
        let mut changed = self.settings.clone();
        changed.talks = talks;
        let read = match event {
            ClientEvent::SessionUpdate {
                session: Some(session),
                ..
            } => changed.update((**session).clone()),
            ClientEvent::OldSessionUpdate { session } => changed.update_old((**session).clone()),
            _ => Ok(()),
        };
        if let Err(error) = read {
            self.dialect = Dialect::Undecided(waiting);
            return Err(error);
        }
        self.settings.talks = talks;
        self.dialect = match (is_vllm, talks) {
            (true, _) => Dialect::Vllm(Box::default()),
            (_, true) => {
                let (name, events) = ((self.id.as_str(), self.beta), self.voice_events.clone());
                let talk = Conversation::new(&self.app, name, events, &self.place);
                Dialect::Conversation(Box::new(talk))
            }
            _ => Dialect::OpenAi,
        };
        if let Err(error) = self.change(changed, out).await {
            self.settings.talks = false;
            self.dialect = Dialect::Undecided(waiting);
            return Err(error);
        }
        match waiting.is_empty() {
            true => Ok(()),
            false => self.append(&waiting, out).await,
        }
    }

    /// What was taken for sound of OpenAI's dialect is heard anew as what it is, and what came of it is forgotten.
    async fn turn_out_vllm(&mut self, sound: &[u8], out: &mut Outbox) -> Result<(), ApiError> {
        self.dialect = Dialect::Vllm(Box::default());
        self.sound = None;
        self.detector = None;
        self.detecting = Duration::ZERO;
        self.was_counted = self.utterances.has_ended();
        self.utterances = Utterances::new(self.beta);
        (self.n_heard, self.n_given) = (0, 0);
        self.drop_ear();
        self.append(sound, out).await
    }

    /// Nobody hears, and nothing that was heard before is told of.
    fn drop_ear(&mut self) {
        self.ear = None;
        self.is_stale = false;
        let (events, heard) = mpsc::unbounded_channel();
        self.events = events;
        self.fresh = Some(heard);
    }

    /// Where what is heard comes from now, if that has changed.
    pub fn take_fresh(&mut self) -> Option<mpsc::UnboundedReceiver<EarEvent>> {
        self.fresh.take()
    }

    /// Take over new settings; sound that was heard already keeps its format and its ear.
    async fn change(&mut self, mut settings: Settings, out: &mut Outbox) -> Result<(), ApiError> {
        settings.check_hearing(&self.app, &self.settings)?;
        let ear_changes = settings.ear(&self.app) != self.settings.ear(&self.app);
        if settings.format != self.settings.format {
            if self.n_heard > 0 {
                let message = "the format cannot change in the middle of the sound";
                return Err(ApiError::invalid("session.audio.input.format", message));
            }
            SoundReader::new(settings.format)?;
        }
        // Wrong thresholds are said now, not with the first sound.
        settings.detector()?;
        if let Dialect::Conversation(talk) = &mut self.dialect {
            talk.change(&self.settings, &settings).await?;
        }
        if settings.format != self.settings.format {
            self.sound = None;
        }
        if settings.detection() != self.settings.detection() {
            // What is being said has nobody any more who would see its end.
            self.end_open(out).await?;
            self.detector = None;
        }
        self.is_stale |= ear_changes && self.ear.is_some();
        self.settings = settings;
        self.leave_ear();
        Ok(())
    }

    async fn append(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), ApiError> {
        if let Dialect::Undecided(waiting) = &mut self.dialect {
            waiting.extend_from_slice(bytes);
            if waiting.len() <= UNDECIDED {
                return Ok(());
            }
            let waiting = std::mem::take(waiting);
            self.dialect = Dialect::OpenAi;
            self.early = Some(Vec::new());
            return Box::pin(self.append(&waiting, out)).await;
        }
        if let Dialect::Conversation(talk) = &mut self.dialect {
            self.n_heard += bytes.len() as u64;
            return talk.append(bytes, &self.settings).await;
        }
        if let Dialect::Vllm(vllm) = &mut self.dialect {
            let samples = vllm.read(bytes);
            self.n_heard += samples.len() as u64;
            self.check_buffer(vllm_waiting(&self.dialect) + seconds(samples.len() as u64))?;
            return self.vllm_sound(samples).await;
        }
        let most = (self.app.config().max_buffer * VLLM_SECOND) as usize;
        if let Some(early) = self.early.as_mut() {
            early.extend_from_slice(bytes);
        }
        // More than that could not wait in the other dialect either.
        self.early.take_if(|early| early.len() > most);
        let reader = match &mut self.sound {
            Some(reader) => reader,
            None => self.sound.insert(SoundReader::new(self.settings.format)?),
        };
        let samples = reader.read(bytes);
        self.check_buffer(seconds(samples.len() as u64))?;
        let start = self.n_heard;
        self.n_heard += samples.len() as u64;
        let detector = match self.detector.take() {
            Some(detector) => Some(detector),
            None => {
                let detector = self.settings.detector()?;
                detector.map(|detector| Detector { detector, start })
            }
        };
        match detector {
            None => {
                if self.utterances.current().is_none() {
                    self.utterances.begin(start, self.n_given);
                }
                self.give(&samples).await
            }
            Some(detector) => {
                let n_ignored = detector.detector.n_ignored();
                let (detector, found, took) = detect(detector, samples).await?;
                let begin = detector.start;
                let metrics = self.app.metrics();
                metrics.vad_filtered("short", detector.detector.n_ignored() - n_ignored);
                self.detecting += took;
                self.detector = Some(detector);
                let done = self.found(found, begin, out).await;
                if self.utterances.current().is_none() {
                    // It was silence, or is booked.
                    self.detecting = Duration::ZERO;
                }
                done
            }
        }
    }

    /// Refuse sound that would wait behind more than may wait.
    fn check_buffer(&self, more: f64) -> Result<(), ApiError> {
        let waiting = self.ear.as_ref().map_or(0.0, Ear::waiting) + more;
        let most = self.app.config().max_buffer;
        if waiting <= most {
            return Ok(());
        }
        let mut error = ApiError::malformed(format!(
            "{waiting:.0} s of sound wait to be heard, more than the limit of {most:.0} s; this piece is left out"
        ));
        error.code = "input_buffer_full";
        Err(error)
    }

    /// What the detector says about utterances.
    async fn found(
        &mut self,
        found: Vec<SpeechEvent>,
        begin: u64,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        for event in found {
            match event {
                SpeechEvent::Started { sample } => {
                    let item_id = self.utterances.begin(begin + sample, self.n_given);
                    out.push(
                        ServerEvent::SpeechStarted {
                            audio_start_ms: ms(begin + sample),
                            item_id,
                        }
                        .to_json(),
                    );
                }
                SpeechEvent::Sound(samples) => self.give(&samples).await?,
                SpeechEvent::Ended {
                    sample,
                    silent_until,
                    ..
                } => {
                    let detecting = std::mem::take(&mut self.detecting);
                    self.app.metrics().vad(detecting.as_secs_f64());
                    // By the clock of the sound: whoever sends a file does not wait.
                    self.waited = silent_until.map(|until| seconds(until - sample));
                    if let Some(id) = self.utterances.current() {
                        out.push(
                            ServerEvent::SpeechStopped {
                                audio_end_ms: ms(begin + sample),
                                item_id: id.to_owned(),
                            }
                            .to_json(),
                        );
                    }
                    self.end_utterance(out);
                }
            }
        }
        Ok(())
    }

    /// Another ear listens to what is said next, when this one has done its work and was to listen otherwise.
    fn leave_ear(&mut self) {
        if self.is_stale && self.utterances.is_idle() {
            self.ear = None;
            self.n_given = 0;
            self.is_stale = false;
        }
    }

    async fn give(&mut self, samples: &[f32]) -> Result<(), ApiError> {
        let ear = match &mut self.ear {
            Some(ear) => ear,
            None => {
                let options = self.settings.ear(&self.app);
                let opened = Ear::open(&self.app, &options, self.events.clone()).await;
                match opened {
                    Ok(ear) => self.ear.insert(ear),
                    Err(error) => {
                        self.utterances.forget_current();
                        return Err(error);
                    }
                }
            }
        };
        ear.hear(samples);
        self.n_given += samples.len() as u64;
        self.utterances.give(samples.len() as u64);
        Ok(())
    }

    /// End what is being said, as far as anything is; whether something was.
    async fn end_open(&mut self, out: &mut Outbox) -> Result<bool, ApiError> {
        let mut was_open = false;
        if let Some(mut detector) = self.detector.take() {
            let mut found = Vec::new();
            detector.detector.commit(|event| found.push(event))?;
            was_open = found
                .iter()
                .any(|event| matches!(event, SpeechEvent::Ended { .. }));
            let begin = detector.start;
            detector.start = self.n_heard;
            self.detector = Some(detector);
            self.found(found, begin, out).await?;
        }
        if self.utterances.has_sound() {
            self.end_utterance(out);
            was_open = true;
        }
        Ok(was_open)
    }

    async fn commit(&mut self, out: &mut Outbox) -> Result<(), ApiError> {
        match self.end_open(out).await? {
            true => Ok(()),
            false => Err(nothing_to_commit()),
        }
    }

    fn end_utterance(&mut self, out: &mut Outbox) {
        let waited = self.waited.take();
        let is_wanted = self.utterances.is_wanted();
        if self.utterances.end(waited, out) {
            if is_wanted {
                self.app.metrics().utterance();
            }
            if let Some(ear) = &mut self.ear {
                ear.end_utterance();
            }
        }
    }

    fn clear(&mut self, out: &mut Outbox) -> Result<(), ApiError> {
        if let Some(detector) = &mut self.detector {
            detector.detector.reset()?;
            detector.start = self.n_heard;
        }
        self.detecting = Duration::ZERO;
        // A streaming model has heard it already; nobody is told.
        self.utterances.discard();
        self.end_utterance(out);
        out.push(ServerEvent::Cleared {}.to_json());
        Ok(())
    }

    /// What happened in the conversation.
    pub fn told(&mut self, event: VoiceEvent, out: &mut Outbox) {
        let told = match &mut self.dialect {
            Dialect::Conversation(talk) => talk.tell(event, &self.settings, out),
            _ => Ok(()),
        };
        if let Err(error) = told {
            self.complain(&error, None, out);
        }
    }

    /// What the ear heard.
    pub async fn heard(&mut self, event: EarEvent, out: &mut Outbox) {
        if let Dialect::Vllm(vllm) = &mut self.dialect {
            let is_last = matches!(
                event,
                EarEvent::Done { .. } | EarEvent::Failed(_) | EarEvent::Broken(_)
            );
            if let Some(seconds) = vllm.heard(event, out) {
                self.app.metrics().transcript(None, seconds);
            }
            if is_last {
                self.ear = None;
                self.vllm_next(out).await;
            }
            return;
        }
        match event {
            EarEvent::Broken(error) => {
                self.ear = None;
                self.n_given = 0;
                self.is_stale = false;
                self.utterances.fail_open(&error, out);
                self.complain(&error, None, out);
            }
            event => {
                if let EarEvent::Failed(error) = &event {
                    self.app.metrics().error(error.code);
                }
                let timestamps = self.settings.transcription.timestamps == Some(true);
                let wanted = (timestamps, self.settings.wants_logprobs());
                if let Some((waited, seconds)) = self.utterances.heard(event, wanted, out) {
                    self.app.metrics().transcript(waited, seconds);
                }
                self.leave_ear();
            }
        }
    }

    /// Go on with what the client has said while a text was still coming.
    async fn vllm_next(&mut self, out: &mut Outbox) {
        while let Dialect::Vllm(vllm) = &mut self.dialect
            && let Some((sound, ended)) = vllm.next()
        {
            match self.give(&sound).await {
                Ok(()) => {
                    if let Some(ended) = ended {
                        self.vllm_end(ended);
                    }
                    return;
                }
                Err(error) => {
                    self.complain(&error, None, out);
                    if let Dialect::Vllm(vllm) = &mut self.dialect {
                        vllm.reset();
                    }
                }
            }
        }
    }

    /// There is no more sound of the utterance.
    fn vllm_end(&mut self, when: Instant) {
        if let Some(ear) = &mut self.ear {
            ear.end_utterance();
        }
        if let Dialect::Vllm(vllm) = &mut self.dialect {
            vllm.end(when);
            if !std::mem::take(&mut self.was_counted) {
                self.app.metrics().utterance();
            }
        }
    }

    async fn vllm_event(&mut self, event: ClientEvent, out: &mut Outbox) -> Result<(), ApiError> {
        let Dialect::Vllm(vllm) = &mut self.dialect else {
            return Ok(());
        };
        match event {
            ClientEvent::SessionUpdate {
                model,
                timestamp_granularities,
                ..
            } => {
                let model = model.ok_or_else(|| ApiError::missing("model"))?;
                let name = self.app.recognizer_name(Some(&model));
                family(&self.app, &name)?;
                vllm.segments = timestamp_granularities.iter().any(|kind| kind == "segment");
                vllm.has_model = true;
                self.settings.transcription.model = Some(model);
                Ok(())
            }
            ClientEvent::Commit { last } => {
                if !vllm.has_model {
                    let mut error =
                        ApiError::malformed("session.update has to name the model first");
                    error.code = "model_not_validated";
                    return Err(error);
                }
                let last = last == Some(true);
                if vllm.is_finishing() {
                    vllm.queue(last);
                    return Ok(());
                }
                let held = vllm.begin();
                self.vllm_sound(held).await?;
                if last {
                    if self.ear.is_none() {
                        self.give(&[]).await?;
                    }
                    self.vllm_end(Instant::now());
                }
                Ok(())
            }
            ClientEvent::Clear {} => {
                vllm.clear();
                self.drop_ear();
                out.push(ServerEvent::Cleared {}.to_json());
                Ok(())
            }
            _ => {
                let mut error = ApiError::malformed("this is no event of this dialect");
                error.code = "unknown_event";
                Err(error)
            }
        }
    }

    /// Sound is kept until it is to be heard.
    async fn vllm_sound(&mut self, samples: Vec<f32>) -> Result<(), ApiError> {
        let Dialect::Vllm(vllm) = &mut self.dialect else {
            return Ok(());
        };
        match vllm.take(samples) {
            Some(samples) if !samples.is_empty() => self.give(&samples).await,
            _ => Ok(()),
        }
    }

    /// Whether something is being heard, so that the client does not have to say anything.
    pub fn is_working(&self) -> bool {
        match &self.dialect {
            Dialect::Conversation(talk) => talk.is_working(),
            Dialect::Vllm(vllm) => vllm.is_finishing(),
            _ => self.utterances.is_working(),
        }
    }

    /// Whether text or an answer is still to come when the client says nothing more.
    pub fn is_busy(&self) -> bool {
        match &self.dialect {
            Dialect::Conversation(talk) => talk.is_busy(),
            _ => self.is_working(),
        }
    }

    /// Whether what the client says next has to wait until the ear has written down what it was given, because another one is
    /// to hear it.
    pub fn is_settling(&self) -> bool {
        self.is_stale && self.utterances.current().is_none() && self.utterances.is_working()
    }

    /// The client is not listened to any more: what it has said so far is all there is.
    pub async fn finish(&mut self, out: &mut Outbox) {
        let ended = match &mut self.dialect {
            Dialect::Vllm(vllm) => {
                if vllm.is_hearing() && self.ear.is_some() {
                    self.vllm_end(Instant::now());
                }
                Ok(false)
            }
            Dialect::OpenAi => self.end_open(out).await,
            Dialect::Conversation(talk) => {
                talk.finish(&self.settings);
                Ok(false)
            }
            Dialect::Undecided(_) => Ok(false),
        };
        if let Err(error) = ended {
            self.complain(&error, None, out);
        }
    }
}

/// Whether only clients of vLLM's dialect say this.
fn is_of_vllm(event: &ClientEvent) -> bool {
    match event {
        ClientEvent::SessionUpdate { session, model, .. } => session.is_none() && model.is_some(),
        ClientEvent::Commit { last } => last.is_some(),
        _ => false,
    }
}

fn vllm_waiting(dialect: &Dialect) -> f64 {
    match dialect {
        Dialect::Vllm(vllm) => vllm.waiting(),
        _ => 0.0,
    }
}

/// Look for speech on a thread that may take its time; how long it took.
async fn detect(
    mut detector: Detector,
    samples: Vec<f32>,
) -> Result<(Detector, Vec<SpeechEvent>, Duration), ApiError> {
    let work = move || {
        let (mut found, started) = (Vec::new(), Instant::now());
        let done = detector.detector.push(&samples, |event| found.push(event));
        done.map(|()| (detector, found, started.elapsed()))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|panic| ApiError::internal(panic.to_string()))?;
    Ok(done?)
}

/// Nothing was said since the turn before.
pub fn nothing_to_commit() -> ApiError {
    let mut error = ApiError::malformed("there is no sound to commit");
    error.code = "input_audio_buffer_commit_empty";
    error
}

pub fn decode_base64(text: &str) -> Result<Vec<u8>, ApiError> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    bytes.map_err(|error| {
        let mut api = ApiError::invalid("audio", format!("this is no base64: {error}"));
        api.code = "invalid_audio";
        api
    })
}

fn ms(samples: u64) -> u64 {
    samples * 1000 / u64::from(SAMPLE_RATE)
}
