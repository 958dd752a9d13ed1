//! A conversation of `/v1/realtime`: what the client says goes to a voice session, what comes of it to the client.

use std::sync::Arc;

use tokio::sync::mpsc;
use turaco::Synthesizer;
use turaco::chat::ChatOptions;
use turaco::engine::{ModelKind, ModelLease};
use turaco::voice::{
    AnswerEnd, AnswerRequest, ChatEndpoint, ChatMind, InputPart, Message, Mind, Place, VoiceEvent,
    VoiceModels, VoiceSession, Which,
};

use super::answers::{Answers, Asked};
use super::awaited::Awaited;
use super::items::{NewItem, ReadItem};
use super::protocol::{ClientEvent, ServerEvent, TurnDetection};
use super::response::{AskedResponse, ResponseRequest};
use super::session::{Outbox, nothing_to_commit};
use super::settings::Settings;
use super::sound::SoundReader;
use super::talking::Talking;
use crate::app::{App, SessionPlace, blocking};
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::layer::new_id;

/// A client that talks.
pub struct Conversation {
    app: App,
    /// For the log.
    name: String,
    events: mpsc::UnboundedSender<VoiceEvent>,
    /// Kept until the threads of the session have ended.
    place: Arc<SessionPlace>,
    /// From the first sound or question on.
    running: Option<Running>,
    answers: Answers,
    sound: Option<SoundReader>,
    /// Whether sound came that belongs to no turn yet.
    has_sound: bool,
    awaited: Awaited,
    /// The client is not listened to any more.
    is_ending: bool,
}

struct Running {
    /// `None` only while it is dropped.
    session: Option<VoiceSession>,
    /// Who says answers, once any are to be said.
    voice: Option<Arc<Synthesizer>>,
    /// The models stay loaded as long as somebody talks.
    leases: Vec<ModelLease>,
    place: Arc<SessionPlace>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its threads come to an end at their next step, which nobody here waits for; its place is free then.
        let leases = std::mem::take(&mut self.leases);
        let place = Arc::clone(&self.place);
        if let Some(session) = self.session.take() {
            std::thread::spawn(move || {
                drop(session);
                drop(leases);
                drop(place);
            });
        }
    }
}

impl Conversation {
    /// A conversation in which nothing was said; what happens in it goes to `events`.
    pub fn new(
        app: &App,
        (name, beta): (&str, bool),
        events: mpsc::UnboundedSender<VoiceEvent>,
        place: &Arc<SessionPlace>,
    ) -> Self {
        Self {
            app: app.clone(),
            name: name.to_owned(),
            events,
            place: Arc::clone(place),
            running: None,
            answers: Answers::new(beta),
            sound: None,
            has_sound: false,
            awaited: Awaited::default(),
            is_ending: false,
        }
    }

    /// Whether something is being answered, so that the client does not have to say anything.
    pub fn is_working(&self) -> bool {
        self.answers.is_answering()
    }

    /// Whether that is so, or something was asked that will be answered or written down.
    pub fn is_busy(&self) -> bool {
        self.is_working() || self.awaited.is_busy()
    }

    /// What the client says, but for changes of settings.
    pub async fn event(
        &mut self,
        event: ClientEvent,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        match event {
            ClientEvent::Commit { .. } => {
                if settings.turn_detection.is_none() && !std::mem::take(&mut self.has_sound) {
                    return Err(nothing_to_commit());
                }
                self.session(settings).await?.commit(false);
                self.awaited.commit();
            }
            ClientEvent::Clear {} => {
                self.has_sound = false;
                self.session(settings).await?.clear();
                out.push(ServerEvent::Cleared {}.to_json());
            }
            ClientEvent::CreateItem {
                item,
                previous_item_id,
            } => self.create(*item, previous_item_id, settings, out).await?,
            ClientEvent::Retrieve { item_id } => {
                out.push(self.answers.history().retrieve(&item_id)?.to_json());
            }
            ClientEvent::Delete { item_id } => {
                let which = self.answers.history().delete(&item_id)?;
                self.session(settings).await?.remove(which);
                out.push(ServerEvent::ItemDeleted { item_id }.to_json());
            }
            ClientEvent::Truncate {
                item_id,
                content_index,
                audio_end_ms,
            } => {
                let number = self.answers.number_of(&item_id)?;
                if content_index != 0 {
                    let message = "an answer has one part, which is 0";
                    return Err(ApiError::invalid("content_index", message));
                }
                let session = self.session(settings).await?;
                let left = session.truncate(number, audio_end_ms)?;
                self.answers.history().set_transcript(&item_id, &left);
                let truncated = ServerEvent::ItemTruncated {
                    item_id,
                    content_index,
                    audio_end_ms,
                };
                out.push(truncated.to_json());
            }
            ClientEvent::CreateResponse { response } => {
                self.respond(
                    response.map_or_else(Default::default, |asked| *asked),
                    settings,
                )
                .await?;
            }
            ClientEvent::CancelResponse { response_id } => {
                let is_other = response_id.is_some_and(|id| !self.answers.is_current(&id));
                if is_other || !self.cancel() {
                    let mut error = ApiError::malformed("nothing is being answered");
                    error.code = "response_cancel_not_active";
                    return Err(error);
                }
            }
            ClientEvent::ClearOutput {} => drop(self.cancel()),
            ClientEvent::Append { .. }
            | ClientEvent::SessionUpdate { .. }
            | ClientEvent::OldSessionUpdate { .. } => {}
        }
        Ok(())
    }

    /// The client is not listened to any more: what is being said is a whole turn.
    pub fn finish(&mut self, settings: &Settings) {
        let running = self.running.as_ref();
        if let Some(session) = running.and_then(|running| running.session.as_ref()) {
            session.commit(answers_by_itself(settings));
            self.awaited.commit();
            self.is_ending = true;
        }
    }

    fn cancel(&self) -> bool {
        let running = self.running.as_ref();
        let session = running.and_then(|running| running.session.as_ref());
        session.is_some_and(VoiceSession::cancel)
    }

    /// More sound.
    pub async fn append(&mut self, bytes: &[u8], settings: &Settings) -> Result<(), ApiError> {
        let reader = match &mut self.sound {
            Some(reader) => reader,
            None => self.sound.insert(SoundReader::new(settings.format)?),
        };
        let samples = reader.read(bytes);
        self.has_sound |= !samples.is_empty();
        if self.session(settings).await?.push(&samples) {
            return Ok(());
        }
        let mut error = ApiError::malformed("more sound is waiting than may");
        error.code = "input_buffer_full";
        Err(error)
    }

    /// New settings in place of `old` ones.
    ///
    /// # Errors
    /// What cannot change any more: who answers and who writes down, from the first sound or question on, and the voice from
    /// the first answer that was said.
    pub async fn change(&mut self, old: &Settings, settings: &Settings) -> Result<(), ApiError> {
        let (before, talking) = (&old.talking, &settings.talking);
        if talking.voice != before.voice {
            self.check_voice("session.audio.output.voice")?;
        }
        let Some(running) = &self.running else {
            return Ok(());
        };
        let is_fixed = |param| {
            let message = "this cannot change any more: the conversation has begun";
            Err(ApiError::invalid(param, message))
        };
        if talking.model != before.model {
            return is_fixed("session.model");
        }
        if settings.transcription.model != old.transcription.model {
            return is_fixed("session.audio.input.transcription.model");
        }
        let needs_voice = talking.sound && running.voice.is_none();
        let is_other = (&talking.voice, talking.speed) != (&before.voice, before.speed);
        let speech = match needs_voice || (talking.sound && is_other) {
            true => Some(self.speech(talking).await?),
            false => None,
        };
        let options = settings.voice_options(&self.app);
        if let Some(session) = self.running.as_ref().and_then(|one| one.session.as_ref()) {
            session.configure(|old| {
                old.turns = options.turns;
                old.recognition = options.recognition;
                old.conversation.instructions = options.conversation.instructions;
                old.answers = options.answers;
                old.speech = speech.unwrap_or_else(|| old.speech.clone());
            });
        }
        Ok(())
    }

    /// Voices do not change in the middle of a conversation.
    fn check_voice(&self, param: &str) -> Result<(), ApiError> {
        if !self.answers.has_spoken() {
            return Ok(());
        }
        let message = "the voice cannot change any more: it was heard already";
        let mut error = ApiError::invalid(param, message);
        error.code = "cannot_update_voice";
        Err(error)
    }

    /// How answers are said; the voice is loaded if it is not there yet.
    async fn speech(&mut self, talking: &Talking) -> Result<turaco::SpeakOptions, ApiError> {
        let (talking, known) = (talking.clone(), self.running.as_ref());
        let known = known.and_then(|running| running.voice.clone());
        let (loaded, speech) = blocking(&self.app, move |app, control| {
            let (lease, voice) = match known {
                Some(voice) => (None, voice),
                None => {
                    let name = app.synthesizer_name(None);
                    let (lease, voice) = app.engine().synthesizer(&name, control)?;
                    (Some(lease), voice)
                }
            };
            let speech = talking.speech(app, &voice, control)?;
            Ok((lease.map(|lease| (lease, voice)), speech))
        })
        .await?;
        if let (Some((lease, voice)), Some(running)) = (loaded, &mut self.running) {
            let models = VoiceModels::new()?
                .synthesizer(Arc::clone(&voice))
                .speaking_in_turns(lease.queue());
            if let Some(session) = &running.session {
                session.set_synthesizer(&models);
            }
            running.voice = Some(voice);
            running.leases.push(lease);
        }
        Ok(speech)
    }

    /// What happened, as events.
    pub fn tell(
        &mut self,
        event: VoiceEvent,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        match &event {
            VoiceEvent::Committed { .. } => self.app.metrics().utterance(),
            VoiceEvent::Ignored { .. } => self.app.metrics().vad_filtered("short", 1),
            VoiceEvent::Passed { .. } => self.app.metrics().vad_filtered("passed", 1),
            _ => {}
        }
        if let VoiceEvent::AnswerEnded { end, timings, .. } = &event {
            let metrics = self.app.metrics();
            metrics.turn(timings);
            if let Some(traces) = &self.app.config().traces {
                traces.turn(timings);
            }
            if *end == AnswerEnd::Interrupted {
                metrics.interruption();
            }
            let stages = timings.stages();
            let stages = stages.map(|(stage, seconds)| format!("{stage} {:.0} ms", 1e3 * seconds));
            let stages: Vec<String> = stages.collect();
            let line = format!("{}: answer {end:?}: {}", self.name, stages.join(", "));
            self.app.log(LogLevel::Info, &line);
        }
        // An endpoint reads; models that hear have it written down for the client only.
        let writes = self.app.config().llm.is_some() || settings.transcription.model.is_some();
        self.awaited
            .note(&event, writes, answers_by_itself(settings));
        if let VoiceEvent::CommitHeeded { found } = event {
            return match found || self.is_ending {
                true => Ok(()),
                false => Err(nothing_to_commit()),
            };
        }
        // The client is told that something failed; what it was is for who runs the server.
        let told = match &event {
            VoiceEvent::Failed { code, message } => Some((*code, message)),
            VoiceEvent::HearingFailed { message, .. } => Some(("transcription_failed", message)),
            VoiceEvent::Warning { message } => {
                let line = format!("{}: {message}", self.name);
                self.app.log(LogLevel::Warning, &line);
                None
            }
            _ => None,
        };
        if let Some((code, message)) = told {
            self.app.metrics().error(code);
            let line = format!("{}: {code}: {message}", self.name);
            self.app.log(LogLevel::Error, &line);
        }
        let with_logprobs = settings.wants_logprobs();
        self.answers
            .tell(event, (&settings.talking, with_logprobs), out)
    }

    /// Something that the client writes, says as a whole, or has done.
    async fn create(
        &mut self,
        new: NewItem,
        previous: Option<String>,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        let history = self.answers.history();
        let place = history.behind(previous.as_deref())?;
        let id = new.id.clone().unwrap_or_else(|| new_id("item"));
        if history.which(&id).is_ok() {
            let message = format!("there is an item `{id}` already");
            return Err(ApiError::invalid("item.id", message));
        }
        let read = new.read("item", settings.format, self.app.config())?;
        let mut which = Which::Tag(id.clone());
        let messages = match read {
            ReadItem::Said(messages) => messages,
            ReadItem::Call(call) => {
                which = Which::Call(call.id.clone());
                vec![Message::of_calls(vec![call])]
            }
            ReadItem::Result { call_id, .. } if !history.has_call(&call_id) => {
                let message = format!("no function was called under the id `{call_id}`");
                let mut error = ApiError::invalid("item.call_id", message);
                error.code = "invalid_tool_call_id";
                return Err(error);
            }
            ReadItem::Result { call_id, output } => vec![Message::result(call_id, output)],
            ReadItem::Reference(_) => {
                let message = "an item that is there already cannot be added";
                return Err(ApiError::invalid("item.type", message));
            }
        };
        let session = self.session(settings).await?;
        let mut place = place;
        for message in messages {
            session.put(message.tagged(&id), place.clone());
            if place != Place::End {
                place = Place::Behind(Which::Tag(id.clone()));
            }
        }
        let item = new.to_json(&id);
        self.answers.history().add(item, which, previous, out);
        Ok(())
    }

    /// Answer what the conversation ends with, or what the request brings.
    async fn respond(
        &mut self,
        request: ResponseRequest,
        settings: &Settings,
    ) -> Result<(), ApiError> {
        let asked = request.read(&settings.talking)?;
        if !asked.aside && self.answers.is_conversing() {
            let mut error = ApiError::malformed("an answer is being given already");
            error.code = "conversation_already_has_active_response";
            return Err(error);
        }
        asked.talking.check_choice()?;
        if asked.talking.voice != settings.talking.voice {
            self.check_voice("response.audio.output.voice")?;
        }
        let input = self.input(&asked, settings)?;
        self.session(settings).await?;
        let has_voice = self.running.as_ref().is_some_and(|one| one.voice.is_some());
        let mut answer = AnswerRequest::default();
        if asked.talking.sound && (asked.own_voice || !has_voice) {
            answer.speech = Some(self.speech(&asked.talking).await?);
        }
        answer.options = Some(asked.talking.answers());
        answer.instructions = asked.instructions;
        answer.input = input;
        answer.aside = asked.aside;
        let number = self.session(settings).await?.respond_as(answer);
        let asked = Asked {
            talking: asked.talking,
            aside: asked.aside,
            metadata: asked.metadata,
        };
        self.answers.ask(number, asked);
        Ok(())
    }

    /// What is answered in place of the conversation.
    fn input(
        &mut self,
        asked: &AskedResponse,
        settings: &Settings,
    ) -> Result<Option<Vec<InputPart>>, ApiError> {
        let Some(items) = &asked.input else {
            return Ok(None);
        };
        let mut parts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = format!("response.input[{index}]");
            match item.read(&place, settings.format, self.app.config())? {
                ReadItem::Said(messages) => {
                    parts.extend(messages.into_iter().map(InputPart::Message));
                }
                ReadItem::Call(call) => {
                    parts.push(InputPart::Message(Message::of_calls(vec![call])));
                }
                ReadItem::Result { call_id, output } => {
                    parts.push(InputPart::Message(Message::result(call_id, output)));
                }
                ReadItem::Reference(id) => {
                    let which = self.answers.history().which(&id);
                    let which = which.map_err(|error| error.about(&format!("{place}.id")))?;
                    parts.push(InputPart::Kept(which));
                }
            }
        }
        Ok(Some(parts))
    }

    /// The voice session, begun if need be.
    async fn session(&mut self, settings: &Settings) -> Result<&VoiceSession, ApiError> {
        if self.running.is_none() {
            self.running = Some(self.begin(settings).await?);
        }
        let running = self
            .running
            .as_ref()
            .and_then(|running| running.session.as_ref());
        running.ok_or_else(|| ApiError::internal("a conversation without a session"))
    }

    async fn begin(&self, settings: &Settings) -> Result<Running, ApiError> {
        let (settings, events) = (settings.clone(), self.events.clone());
        let place = Arc::clone(&self.place);
        blocking(&self.app, move |app, control| {
            let mut leases = Vec::new();
            let mut models = VoiceModels::new()?;
            let endpoint = app.config().llm.clone();
            let mind: Box<dyn Mind> = match endpoint {
                Some(endpoint) => Box::new(ChatEndpoint::new(endpoint)?),
                None => {
                    let name = chat_model(app, settings.talking.model.as_deref())?;
                    let (lease, model) = app.engine().chat_model(&name, control)?;
                    let mind = ChatMind::new(&model, ChatOptions::new()).in_turns(lease.queue());
                    leases.push(lease);
                    Box::new(mind)
                }
            };
            let wants_text = settings.transcription.model.is_some();
            if !mind.hears() || wants_text {
                let name = settings.ear(app).model;
                let (lease, recognizer) = app.engine().recognizer(&name, control)?;
                if recognizer.realtime().is_some() {
                    models = models.hearing_together(app.engine(), &name);
                }
                models = models
                    .recognizer(recognizer)
                    .hearing_in_turns(lease.queue());
                leases.push(lease);
            }
            let mut options = settings.voice_options(app);
            let mut voice = None;
            if settings.talking.sound {
                let name = app.synthesizer_name(None);
                let (lease, synthesizer) = app.engine().synthesizer(&name, control)?;
                options.speech = settings.talking.speech(app, &synthesizer, control)?;
                voice = Some(Arc::clone(&synthesizer));
                models = models
                    .synthesizer(synthesizer)
                    .speaking_in_turns(lease.queue());
                leases.push(lease);
            }
            let session = VoiceSession::start(&models, Some(mind), options, move |event| {
                // Nobody reads any more when the client is gone.
                let _ = events.send(event);
            })?;
            Ok(Running {
                session: Some(session),
                voice,
                leases,
                place,
            })
        })
        .await
    }
}

/// Whether what is said is answered without being asked for.
fn answers_by_itself(settings: &Settings) -> bool {
    let detection = settings.turn_detection.as_ref();
    detection.is_some_and(TurnDetection::creates_response)
}

/// The model that answers: the one that was named, if it is one that does, or the first that there is.
fn chat_model(app: &App, named: Option<&str>) -> Result<String, ApiError> {
    let catalog = app.engine().catalog();
    if let Some(name) = named
        && catalog
            .find(name)
            .is_ok_and(|known| known.kind == ModelKind::Chat)
    {
        return Ok(name.to_owned());
    }
    let models = catalog.list()?;
    let model = models.iter().find(|model| model.kind == ModelKind::Chat);
    model.map(|model| model.id.clone()).ok_or_else(|| {
        let message = "nobody here can answer: name a model that hears (such as voxtral-mini), or ask whoever runs the server for \
                       a chat endpoint";
        ApiError::invalid("model", message)
    })
}
