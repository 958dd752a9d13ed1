//! The settings of a session, and how events change them.

use serde_json::{Value, json};
use turaco::Error;
use turaco::asr::vad_stream::{DetectorOptions, SpeechDetector};
use turaco::voice::{self, Detection, VoiceOptions};

use super::ear::EarOptions;
use super::protocol::{
    AudioFormat, Eagerness, OldSessionUpdate, SessionUpdate, Transcription, TurnDetection, Vad,
};
use super::talking::Talking;
use crate::app::App;
use crate::error::ApiError;
use crate::family::{Family, check_language, family};
use crate::upload::SAMPLE_RATE;

/// What `include` may ask for.
const INCLUDED: [&str; 2] = ["item.input_audio_transcription.logprobs", "logprobs"];

/// Milliseconds of the delays that a streaming model has.
const DELAY_STEP: u32 = 80;
const MOST_DELAY: u32 = 2400;

/// Milliseconds of speech that may be asked for before it interrupts.
const MOST_INTERRUPT_MS: u32 = 10_000;

/// What a session does with what it hears.
#[derive(Debug, Clone)]
pub struct Settings {
    pub format: AudioFormat,
    pub transcription: Transcription,
    /// What tells speech from other sound where the client does not say it.
    pub vad: Detection,
    pub turn_detection: Option<TurnDetection>,
    pub include: Vec<String>,
    /// Whether somebody answers.
    pub talks: bool,
    /// How.
    pub talking: Talking,
    /// What was asked for and has no effect.
    pub warnings: Vec<String>,
    /// The same, of what the model that writes down does not know.
    pub hearing_warnings: Vec<String>,
}

impl Settings {
    /// Before the client said anything.
    pub fn new(app: &App, model: Option<String>, language: Option<String>) -> Self {
        let vad = app.config().vad;
        let mut detection = TurnDetection::default();
        detection.ours_mut().vad = Some(vad.into());
        let talking = Talking {
            model: model.clone(),
            ..Talking::default()
        };
        Self {
            format: AudioFormat::Pcm { rate: 24_000 },
            transcription: Transcription {
                model,
                language,
                ..Transcription::default()
            },
            vad,
            turn_detection: Some(detection).filter(|_| vad != Detection::None),
            include: Vec::new(),
            talks: false,
            talking,
            warnings: Vec::new(),
            hearing_warnings: Vec::new(),
        }
    }

    /// Take over what `session.update` says.
    ///
    /// # Errors
    /// A value that cannot be used; nothing is changed then.
    pub fn update(&mut self, mut update: SessionUpdate) -> Result<(), ApiError> {
        match update.kind.as_deref() {
            None => {}
            Some("transcription") if !self.talks => {}
            Some("realtime") if self.talks => {}
            Some("transcription" | "realtime") => {
                let message = "the type of a session is fixed by its first update";
                return Err(ApiError::invalid("session.type", message));
            }
            Some(other) => {
                let message = format!("`{other}` is none of transcription, realtime");
                return Err(ApiError::invalid("session.type", message));
            }
        }
        let mut changed = self.clone();
        changed.talking.update_session(&mut update)?;
        let offered = !changed.talks && !changed.talking.tools.is_empty();
        changed.ignore("tools", Some(&Value::Bool(true)).filter(|_| offered));
        if let Some(input) = update.audio.and_then(|audio| audio.input) {
            changed.format = input.format.unwrap_or(changed.format);
            changed.transcribe(input.transcription);
            if let Some(turn_detection) = input.turn_detection {
                changed.detect(turn_detection)?;
            }
            changed.ignore("noise_reduction", input.noise_reduction.as_ref());
        }
        changed.include(update.include)?;
        // Clients may send back the session as they were told of it.
        let told = ["id", "object", "expires_at", "warnings", "client_secret"];
        for (name, value) in &update.unknown {
            changed.ignore(name, Some(value).filter(|_| !told.contains(&name.as_str())));
        }
        *self = changed;
        Ok(())
    }

    /// Take over what the older event says.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_old(&mut self, update: OldSessionUpdate) -> Result<(), ApiError> {
        let mut changed = self.clone();
        if let Some(name) = update.input_audio_format {
            changed.format = AudioFormat::of_old_name(&name).ok_or_else(|| {
                let message = format!("`{name}` is none of pcm16, g711_ulaw, g711_alaw");
                ApiError::invalid("session.input_audio_format", message)
            })?;
        }
        changed.transcribe(update.input_audio_transcription);
        if let Some(turn_detection) = update.turn_detection {
            changed.detect(turn_detection)?;
        }
        changed.ignore(
            "noise_reduction",
            update.input_audio_noise_reduction.as_ref(),
        );
        changed.include(update.include)?;
        *self = changed;
        Ok(())
    }

    fn transcribe(&mut self, given: Option<Option<Transcription>>) {
        let given = match given {
            None => return,
            // Questions are not written down where nobody has to read them.
            Some(None) if self.talks => {
                self.transcription = Transcription::default();
                return;
            }
            Some(None) => {
                self.ignore("transcription: null", Some(&Value::Bool(true)));
                return;
            }
            Some(Some(given)) => given,
        };
        let old = std::mem::take(&mut self.transcription);
        self.transcription = Transcription {
            model: given.model.or(old.model),
            language: given.language.or(old.language),
            prompt: given.prompt.or(old.prompt),
            keywords: match given.keywords.is_empty() {
                true => old.keywords,
                false => given.keywords,
            },
            delay: given.delay.or(old.delay),
            delay_ms: given.delay_ms.or(old.delay_ms),
            timestamps: given.timestamps.or(old.timestamps),
        };
    }

    fn detect(&mut self, turn_detection: Option<TurnDetection>) -> Result<(), ApiError> {
        if let Some(ours) = turn_detection.as_ref().map(TurnDetection::ours) {
            let given = [
                ("interrupt_ms", Some(ours.interrupt_ms)),
                ("interrupt_thinking_ms", ours.interrupt_thinking_ms),
            ];
            let too_long = |given: Option<u32>| given.is_some_and(|ms| ms > MOST_INTERRUPT_MS);
            if let Some((name, _)) = given.into_iter().find(|(_, given)| too_long(*given)) {
                let message = format!("expected {MOST_INTERRUPT_MS} at most");
                let place = format!("session.audio.input.turn_detection.{name}");
                return Err(ApiError::invalid(&place, message));
            }
        }
        if let Some(TurnDetection::ServerVad {
            idle_timeout_ms: Some(_),
            ..
        }) = turn_detection
            && !self.talks
        {
            self.ignore("idle_timeout_ms", Some(&Value::Bool(true)));
        }
        self.turn_detection = turn_detection.and_then(|mut detection| {
            let usual = match self.vad {
                // Who asks for turns to be found has them found.
                Detection::None => Vad::Silero,
                vad => vad.into(),
            };
            let vad = *detection.ours_mut().vad.get_or_insert(usual);
            (vad != Vad::None).then_some(detection)
        });
        Ok(())
    }

    fn include(&mut self, include: Option<Vec<String>>) -> Result<(), ApiError> {
        let Some(include) = include else {
            return Ok(());
        };
        if let Some(other) = include
            .iter()
            .find(|name| !INCLUDED.contains(&name.as_str()))
        {
            let message = format!("`{other}` is none of {}", INCLUDED.join(", "));
            return Err(ApiError::invalid("session.include", message));
        }
        self.include = include;
        Ok(())
    }

    /// Whether the client wants to know how probable words are.
    pub fn wants_logprobs(&self) -> bool {
        self.include.iter().any(|name| name.ends_with("logprobs"))
    }

    fn ignore(&mut self, name: &str, value: Option<&Value>) {
        let warning = format!("{name} has no effect");
        if value.is_some_and(|value| !value.is_null()) && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// For the ear.
    pub fn ear(&self, app: &App) -> EarOptions {
        let wanted = &self.transcription;
        let text = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        EarOptions {
            model: app.recognizer_name(wanted.model.as_deref()),
            language: text(&wanted.language),
            prompt: text(&wanted.prompt),
            keywords: wanted.keywords.clone(),
            delay_ms: wanted.delay_ms.or(wanted.delay.map(|delay| delay.ms())),
            words: self.wants_logprobs(),
        }
    }

    /// See that who writes down can do as it was asked, and note what has no effect.
    ///
    /// # Errors
    /// A model that is not here or does not hear, a delay or a language that there is not.
    pub fn check_hearing(&mut self, app: &App, before: &Self) -> Result<(), ApiError> {
        const PLACE: &str = "session.audio.input.transcription";
        let wanted = &self.transcription;
        self.hearing_warnings.clear();
        if wanted.language != before.transcription.language {
            check_language(wanted.language.as_deref())
                .map_err(|error| error.about(&format!("{PLACE}.language")))?;
        }
        let is_delay = |delay: u32| {
            (DELAY_STEP..=MOST_DELAY).contains(&delay) && delay.is_multiple_of(DELAY_STEP)
        };
        if wanted.delay_ms.is_some_and(|delay| !is_delay(delay)) {
            let message = format!("expected a multiple of {DELAY_STEP} up to {MOST_DELAY}");
            return Err(ApiError::invalid(&format!("{PLACE}.delay_ms"), message));
        }
        if self.talks && wanted.model.is_none() {
            let detection = self.turn_detection.as_ref();
            if let Some(ours) = detection.map(TurnDetection::ours)
                && app.config().llm.is_none()
            {
                let given = [
                    ("interrupt_words", ours.interrupt_words > 0),
                    (
                        "interrupt_thinking_words",
                        ours.interrupt_thinking_words.is_some_and(|words| words > 0),
                    ),
                ];
                for (name, _) in given.into_iter().filter(|(_, given)| *given) {
                    let warning = format!("{name} has no effect without transcription");
                    self.hearing_warnings.push(warning);
                }
            }
            return Ok(());
        }
        let ear = self.ear(app);
        let family = match family(app, &ear.model) {
            Ok(family) => family,
            // The default is looked for when it is needed.
            Err(_) if wanted.model == before.transcription.model => return Ok(()),
            Err(error) => return Err(error.about(&format!("{PLACE}.model"))),
        };
        let reads_prompts = family == Family::Whisper;
        let without_effect = [
            (
                "language",
                ear.language.is_some() && family == Family::VoxtralRealtime,
            ),
            ("prompt", ear.prompt.is_some() && !reads_prompts),
            ("keywords", !ear.keywords.is_empty() && !reads_prompts),
            (
                "delay",
                ear.delay_ms.is_some() && family != Family::VoxtralRealtime,
            ),
        ];
        let given = without_effect.into_iter().filter(|(_, given)| *given);
        let warnings = given.map(|(name, _)| format!("{name} has no effect on {}", ear.model));
        self.hearing_warnings = warnings.collect();
        Ok(())
    }

    /// How speech is found; not at all where the client says what an utterance is.
    pub fn detection(&self) -> Option<(Vad, DetectorOptions)> {
        let mut options = DetectorOptions::default();
        let detection = self.turn_detection.as_ref()?;
        match detection {
            TurnDetection::ServerVad {
                threshold,
                prefix_padding_ms,
                silence_duration_ms,
                ..
            } => {
                options.threshold = *threshold;
                options.pre_roll_ms = (*prefix_padding_ms).min(10_000);
                options.min_silence_ms = (*silence_duration_ms).min(60_000);
            }
            TurnDetection::SemanticVad { eagerness, .. } => {
                options.min_silence_ms = match eagerness {
                    Eagerness::Low => 800,
                    Eagerness::Medium | Eagerness::Auto => 500,
                    Eagerness::High => 300,
                };
            }
        }
        Some((detection.ours().vad.unwrap_or(Vad::Silero), options))
    }

    /// A detector of speech that has heard nothing.
    ///
    /// # Errors
    /// Options that cannot be used.
    pub fn detector(&self) -> Result<Option<SpeechDetector>, ApiError> {
        let Some((vad, options)) = self.detection() else {
            return Ok(None);
        };
        let detector = match vad {
            Vad::Energy => SpeechDetector::by_energy(SAMPLE_RATE, &options),
            Vad::Silero | Vad::None => SpeechDetector::built_in(&options),
        };
        let wrong = |error| {
            const PLACE: &str = "session.audio.input.turn_detection";
            match error {
                Error::InvalidOption { option, message } => {
                    ApiError::invalid(&format!("{PLACE}.{option}"), message)
                }
                error => error.into(),
            }
        };
        detector.map(Some).map_err(wrong)
    }

    /// For a conversation.
    pub fn voice_options(&self, app: &App) -> VoiceOptions {
        let mut options = VoiceOptions::default();
        options
            .conversation
            .instructions
            .clone_from(&self.talking.instructions);
        options.max_buffer_s = Some(app.config().max_buffer);
        options.answers = self.talking.answers();
        let ear = self.ear(app);
        options.recognition.language = ear.language;
        options.recognition.initial_prompt = ear.prompt;
        options.recognition.realtime.delay_ms = ear.delay_ms;
        options.recognition.word_timestamps = ear.words;
        options.recognition.hotwords = Some(ear.keywords.join(", ")).filter(|all| !all.is_empty());
        options.conversation.context_tokens = app.config().context_tokens;
        let turns = &mut options.turns;
        if let Some(detection) = &self.turn_detection {
            let ours = detection.ours();
            turns.detection = ours.vad.map_or(Detection::Silero, Detection::from);
            turns.interrupt_ms = ours.interrupt_ms;
            turns.interrupt_words = ours.interrupt_words;
            turns.interrupt_thinking_ms = ours.interrupt_thinking_ms;
            turns.interrupt_thinking_words = ours.interrupt_thinking_words;
        }
        match &self.turn_detection {
            None => turns.detection = Detection::None,
            Some(TurnDetection::ServerVad {
                threshold,
                prefix_padding_ms,
                silence_duration_ms,
                create_response,
                interrupt_response,
                idle_timeout_ms,
                ..
            }) => {
                turns.threshold = *threshold;
                turns.prefix_padding_ms = (*prefix_padding_ms).min(10_000);
                turns.silence_ms = (*silence_duration_ms).min(60_000);
                turns.answer = *create_response;
                turns.interrupt = *interrupt_response;
                turns.idle_timeout_ms = *idle_timeout_ms;
            }
            Some(TurnDetection::SemanticVad {
                eagerness,
                create_response,
                interrupt_response,
                ..
            }) => {
                (turns.silence_ms, turns.eagerness) = match eagerness {
                    Eagerness::Low => (800, voice::Eagerness::Low),
                    Eagerness::Medium | Eagerness::Auto => (500, voice::Eagerness::Auto),
                    Eagerness::High => (300, voice::Eagerness::High),
                };
                turns.answer = *create_response;
                turns.interrupt = *interrupt_response;
            }
        }
        options
    }

    /// The whole session as the client is told.
    pub fn to_json(&self, id: &str) -> Value {
        let mut json = self.input_json(id);
        if self.talks {
            let talking = &self.talking;
            json["type"] = "realtime".into();
            json["object"] = "realtime.session".into();
            json["model"] = talking.model.as_deref().into();
            json["instructions"] = talking.instructions.as_deref().unwrap_or_default().into();
            talking.write(&mut json);
            talking.write_tools(&mut json);
        }
        json
    }

    fn input_json(&self, id: &str) -> Value {
        let warnings = [self.warnings.as_slice(), &self.hearing_warnings].concat();
        json!({
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": id,
            "audio": {
                "input": {
                    "format": self.format,
                    "transcription": self.transcription,
                    "turn_detection": self.turn_detection,
                    "noise_reduction": null,
                },
            },
            "include": self.include,
            "warnings": warnings,
        })
    }
}
