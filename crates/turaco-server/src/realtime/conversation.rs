//! A conversation of `/v1/realtime`: what the client says goes to a voice session, what comes of it to the client.

use std::sync::Arc;

use tokio::sync::mpsc;
use turaco::chat::ChatOptions;
use turaco::engine::{ModelKind, ModelLease};
use turaco::voice::{
    ChatEndpoint, ChatMind, Message, Mind, Role, VoiceEvent, VoiceModels, VoiceSession,
};

use super::answers::{Answers, item};
use super::protocol::{ClientEvent, ItemContent, NewItem, ServerEvent};
use super::session::Outbox;
use super::settings::Settings;
use super::sound::SoundReader;
use crate::app::{App, blocking};
use crate::error::ApiError;
use crate::layer::new_id;
use crate::upload::SAMPLE_RATE;

/// A client that talks.
pub struct Conversation {
    app: App,
    events: mpsc::UnboundedSender<VoiceEvent>,
    /// From the first sound or question on.
    running: Option<Running>,
    answers: Answers,
    sound: Option<SoundReader>,
    /// Whether sound came that belongs to no turn yet.
    has_sound: bool,
}

struct Running {
    /// `None` only while it is dropped.
    session: Option<VoiceSession>,
    /// Samples per second of the voice, if answers are said.
    rate: Option<u32>,
    /// The models stay loaded as long as somebody talks.
    _leases: Vec<ModelLease>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its threads come to an end at their next step, which nobody here waits for.
        if let Some(session) = self.session.take() {
            std::thread::spawn(move || drop(session));
        }
    }
}

impl Conversation {
    /// A conversation in which nothing was said; what happens in it goes to `events`.
    pub fn new(app: &App, beta: bool, events: mpsc::UnboundedSender<VoiceEvent>) -> Self {
        Self {
            app: app.clone(),
            events,
            running: None,
            answers: Answers::new(beta),
            sound: None,
            has_sound: false,
        }
    }

    /// Whether something is being answered, so that the client does not have to say anything.
    pub fn is_working(&self) -> bool {
        self.answers.is_answering()
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
                    let mut error = ApiError::malformed("there is no sound to commit");
                    error.code = "input_audio_buffer_commit_empty";
                    return Err(error);
                }
                self.session(settings).await?.commit(false);
            }
            ClientEvent::Clear {} => {
                self.has_sound = false;
                self.session(settings).await?.clear();
                out.push(ServerEvent::Cleared {}.to_json());
            }
            ClientEvent::CreateItem { item } => self.create(item, settings, out).await?,
            ClientEvent::Retrieve { item_id } => {
                out.push(self.answers.retrieve(&item_id)?.to_json());
            }
            ClientEvent::Delete { item_id } => out.push(self.answers.delete(item_id)?.to_json()),
            ClientEvent::Truncate {
                item_id,
                content_index,
                audio_end_ms,
            } => {
                let number = self.answers.number_of(&item_id)?;
                self.session(settings)
                    .await?
                    .truncate(number, audio_end_ms)?;
                let truncated = ServerEvent::ItemTruncated {
                    item_id,
                    content_index,
                    audio_end_ms,
                };
                out.push(truncated.to_json());
            }
            ClientEvent::CreateResponse {} if self.answers.is_answering() => {
                let mut error = ApiError::malformed("an answer is being given already");
                error.code = "conversation_already_has_active_response";
                return Err(error);
            }
            ClientEvent::CreateResponse {} => self.session(settings).await?.respond(),
            ClientEvent::CancelResponse {} | ClientEvent::ClearOutput {} => {
                let cancelled = match &self.running {
                    Some(running) => running.session.as_ref().is_some_and(VoiceSession::cancel),
                    None => false,
                };
                if !cancelled && matches!(event, ClientEvent::CancelResponse {}) {
                    let mut error = ApiError::malformed("nothing is being answered");
                    error.code = "response_cancel_not_active";
                    return Err(error);
                }
            }
            ClientEvent::Append { .. }
            | ClientEvent::SessionUpdate { .. }
            | ClientEvent::OldSessionUpdate { .. } => {}
        }
        Ok(())
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

    /// New settings; models and the voice stay what they were when the talking began.
    pub fn change(&mut self, settings: &Settings) {
        let Some(Running {
            session: Some(session),
            ..
        }) = &self.running
        else {
            return;
        };
        let options = settings.voice_options(&self.app);
        session.configure(|old| {
            old.turns = options.turns;
            old.recognition = options.recognition;
            old.conversation.instructions = options.conversation.instructions;
            old.speech.speed = settings.talking.speed;
        });
    }

    /// What happened, as events.
    pub fn tell(
        &mut self,
        event: VoiceEvent,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        if let VoiceEvent::AnswerEnded { timings, .. } = &event {
            let metrics = self.app.metrics();
            timings
                .first_text
                .into_iter()
                .for_each(|seconds| metrics.first_text(seconds));
            timings
                .first_audio
                .into_iter()
                .for_each(|seconds| metrics.first_audio(seconds));
        }
        let rate = self.running.as_ref().and_then(|running| running.rate);
        let sound = rate.map(|rate| (settings.talking.output_format, rate));
        self.answers.tell(event, sound, out)
    }

    /// Something that the client writes, or says as a whole.
    async fn create(
        &mut self,
        new: NewItem,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        let role = match new.role.as_str() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let message = format!("`{other}` is none of system, user, assistant");
                return Err(ApiError::invalid("item.role", message));
            }
        };
        let (mut messages, mut characters, mut samples_in_all) = (Vec::new(), 0, 0);
        for content in &new.content {
            messages.push(match content {
                ItemContent::Text { text }
                | ItemContent::InputText { text }
                | ItemContent::OutputText { text } => {
                    characters += text.chars().count();
                    Message::new(role, text.clone())
                }
                ItemContent::InputAudio { audio, transcript } => {
                    let bytes = super::session::decode_base64(audio)?;
                    let samples = SoundReader::new(settings.format)?.read(&bytes);
                    samples_in_all += samples.len();
                    let text = transcript.clone().unwrap_or_default();
                    Message::new(role, text).with_sound(Arc::from(samples))
                }
            });
        }
        let config = self.app.config();
        let most = config.max_buffer * f64::from(SAMPLE_RATE);
        if characters > config.max_text || samples_in_all as f64 > most {
            let message = format!(
                "more than {} characters or {} seconds of sound",
                config.max_text, config.max_buffer
            );
            return Err(ApiError::invalid("item.content", message));
        }
        let session = self.session(settings).await?;
        messages
            .into_iter()
            .for_each(|message| session.add(message));
        let id = new.id.unwrap_or_else(|| new_id("item"));
        let content = serde_json::to_value(&new.content).unwrap_or_default();
        self.answers
            .add_item(item(&id, &new.role, "completed", content), true, out);
        Ok(())
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
        blocking(&self.app, move |app, control| {
            let mut leases = Vec::new();
            let mut models = VoiceModels::new()?;
            let endpoint = app.config().llm.clone();
            let mind: Box<dyn Mind> = match endpoint {
                Some(endpoint) => Box::new(ChatEndpoint::new(endpoint)?),
                None => {
                    let name = chat_model(app, settings.talking.model.as_deref())?;
                    let (lease, model) = app.engine().chat_model(&name, control)?;
                    leases.push(lease);
                    let mut options = ChatOptions::new();
                    options.max_tokens = settings.talking.max_output_tokens;
                    Box::new(ChatMind::new(&model, options))
                }
            };
            let wants_text = settings.transcription.model.is_some();
            if !mind.hears() || wants_text {
                let name = settings.ear(app).model;
                let (lease, recognizer) = app.engine().recognizer(&name, control)?;
                leases.push(lease);
                models = models.recognizer(recognizer);
            }
            let mut options = settings.voice_options(app);
            if settings.talking.sound {
                let name = app.synthesizer_name(None);
                let (lease, synthesizer) = app.engine().synthesizer(&name, control)?;
                leases.push(lease);
                options.speech = settings.talking.speech(app, &synthesizer, control)?;
                models = models.synthesizer(synthesizer);
            }
            let rate = models.sample_rate();
            let session = VoiceSession::start(&models, Some(mind), options, move |event| {
                // Nobody reads any more when the client is gone.
                let _ = events.send(event);
            })?;
            Ok(Running {
                session: Some(session),
                rate,
                _leases: leases,
            })
        })
        .await
    }
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
        let message = "nobody here can answer: name a model that hears (such as voxtral-mini), or start the server with \
                       --llm-url";
        ApiError::invalid("model", message)
    })
}
