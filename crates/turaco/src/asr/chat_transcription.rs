//! A whole recording through a model that also converses (Voxtral Mini and Small).
//!
//! The model writes the text of up to half an hour in one go and tells no times. A segment is what it heard at a time, with the
//! times between which that lies in the recording.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::stretches::{Stretch, stretches};
use super::{Info, Segment, Task, Timings, TranscribeOptions};
use crate::chat::{AudioClip, ChatModel, ChatSession};
use crate::device_queue::{DeviceQueue, Urgency};
use crate::features::SAMPLE_RATE;
use crate::loop_guard::LoopGuard;
use crate::models::voxtral_mini::Draw;
use crate::text::compression::compression_ratio;
use crate::tokenizer::{TextAssembler, language_code};
use crate::trace;
use crate::{Audio, Control, Error, Result};

/// Seconds that the model hears at a time; its context was trained for a little more.
const MOST_SECONDS: f64 = 1800.0;

/// Tokens per second of sound that no speech exceeds, and some for the shortest.
const TOKENS_PER_SECOND: f64 = 20.0;
const SPARE_TOKENS: usize = 64;

/// The text goes in circles when so many tokens were repetitions of at most so many.
const LOOP_TOKENS: usize = 64;
const LONGEST_LOOP: usize = 32;

/// What is not louder is no sound.
const SILENCE: f32 = 1e-4;

/// Languages that the model was made to write down.
const LANGUAGES: [&str; 9] = ["ar", "nl", "en", "fr", "de", "hi", "it", "pt", "es"];

/// Segments of a recording, in order, as they become final.
#[derive(Debug)]
pub struct ChatTranscription {
    session: ChatSession,
    waiting: VecDeque<Stretch>,
    language: Option<String>,
    draw: Draw,
    max_new_tokens: Option<usize>,
    n_segments: usize,
    is_over: bool,
    control: Control,
    info: Info,
    timings: Timings,
}

impl ChatTranscription {
    /// Begin to write down `audio`.
    ///
    /// # Errors
    /// Options that this model cannot honour and that change what is written, or cancellation.
    pub(super) fn new(
        model: &Arc<ChatModel>,
        audio: &Audio,
        options: &TranscribeOptions,
        control: &Control,
    ) -> Result<Self> {
        let (language, warnings) = check(model, options)?;
        let duration = audio.duration();
        let sound = audio.clone().resampled(SAMPLE_RATE)?;
        let loudest = sound
            .samples()
            .iter()
            .fold(0.0_f32, |most, x| most.max(x.abs()));
        let started = Instant::now();
        let waiting = match loudest > SILENCE {
            true => {
                let _span = trace::span("vad");
                let vad = (&options.vad_parameters, options.vad_filter == Some(true));
                stretches(&sound, longest(model, options)?, vad, control)?
            }
            false => Vec::new(),
        };
        let temperature = options.temperature.first().copied().unwrap_or(0.0);
        let heard = waiting
            .iter()
            .map(|stretch| stretch.samples.len())
            .sum::<usize>();
        Ok(Self {
            session: model.session(),
            info: Info {
                language_probability: if language.is_some() { 1.0 } else { 0.0 },
                language: language.clone().unwrap_or_default(),
                duration,
                duration_after_vad: match options.vad_filter {
                    Some(true) => heard as f64 / f64::from(SAMPLE_RATE),
                    _ => duration,
                },
                all_language_probs: None,
                warnings,
            },
            waiting: waiting.into(),
            language,
            draw: Draw {
                temperature: temperature as f32,
                top_k: 0,
                top_p: 1.0,
                seed: options.seed,
            },
            max_new_tokens: options.max_new_tokens,
            n_segments: 0,
            is_over: false,
            control: control.clone(),
            timings: Timings {
                vad: started.elapsed().as_secs_f64(),
                ..Timings::default()
            },
        })
    }

    /// Facts that are known by now; a language that the model told is there behind the first segment.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// From now on the device is waited for before every step, in turns with others.
    pub fn take_turns(&mut self, queue: &Arc<DeviceQueue>, urgency: Urgency) {
        self.session.take_turns(queue, urgency);
    }

    /// The next segment. `on_text` gets its text while it is written, without having a turn on the device: put together, the pieces
    /// are the text of the segment, but for what is cut off when the text goes in circles.
    pub fn next_with(
        &mut self,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Option<Result<Segment>> {
        while !self.is_over {
            let Some(stretch) = self.waiting.pop_front() else {
                self.is_over = true;
                break;
            };
            match self.write_down(&stretch, on_text) {
                Ok(None) => {}
                Ok(Some(segment)) => return Some(Ok(segment)),
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// Write down a stretch; `None` if there is no text in it.
    fn write_down(
        &mut self,
        stretch: &Stretch,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Option<Segment>> {
        let model = Arc::clone(self.session.model());
        let samples = Audio::from_samples(stretch.samples.clone(), SAMPLE_RATE)?;
        let clip = AudioClip::new(&samples)?;
        let tokenizer = model.tokenizer();
        let layout = model.layout();
        let language = self.language.as_deref();
        let prompt = layout.transcription(tokenizer, &clip, language);
        let usual = SPARE_TOKENS + (clip.duration() * TOKENS_PER_SECOND).ceil() as usize;
        let most = self.max_new_tokens.map_or(usual, |most| most.min(usual));
        let mut stream = self
            .session
            .stream(&prompt, self.draw, most, &self.control)?;
        let chunk = model.config().samples_per_chunk() as f64 / f64::from(SAMPLE_RATE);
        while let Some(n_chunks) = stream.prefill()? {
            let heard = (n_chunks as f64 * chunk).min(stretch.end - stretch.start);
            self.control
                .report(stretch.start + heard, Some(self.info.duration));
        }
        let mut tokens = Vec::new();
        let mut logprobs = 0.0;
        let mut guard = LoopGuard::new(1, LONGEST_LOOP, LOOP_TOKENS);
        let mut ended = false;
        let mut spoken = Spoken::default();
        while let Some((token, logprob)) = stream.next_token()? {
            logprobs += f64::from(logprob);
            if token == layout.end() {
                ended = true;
                break;
            }
            tokens.push(token);
            if let Some(repeated) = guard.push(&[token]) {
                tokens.truncate(tokens.len() - repeated);
                self.info.warnings.push(format!(
                    "the text of {:.1} s to {:.1} s went in circles and was cut",
                    stretch.start, stretch.end
                ));
                ended = true;
                break;
            }
            let text = spoken.push(tokenizer.text(token));
            if !text.is_empty() {
                on_text(&text)?;
            }
        }
        if !ended && self.max_new_tokens.is_none() {
            self.info.warnings.push(format!(
                "the text of {:.1} s to {:.1} s is longer than speech can be and was cut",
                stretch.start, stretch.end
            ));
        }
        let timings = stream.timings();
        let n_tokens = stream.n_tokens();
        drop(stream);
        self.timings.features += timings.features;
        self.timings.encoder += timings.encoder;
        self.timings.decoder += timings.prefill + timings.decode;
        self.timings.windows += timings.chunks;
        self.timings.tokens += n_tokens;
        self.control.report(stretch.end, Some(self.info.duration));

        let _span = trace::span("assemble");
        let text = tokenizer.decode(&tokens, false);
        let (told, text) = split_language(&text);
        if let (None, Some(told)) = (&self.language, told)
            && self.info.language.is_empty()
        {
            self.info.language = told.to_owned();
        }
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let id = self.n_segments;
        self.n_segments += 1;
        Ok(Some(Segment {
            id,
            seek: (stretch.start * 100.0).round() as usize,
            start: stretch.start,
            end: stretch.end.min(self.info.duration),
            compression_ratio: compression_ratio(text),
            text: format!(" {text}"),
            tokens,
            temperature: f64::from(self.draw.temperature),
            avg_logprob: logprobs / n_tokens.max(1) as f64,
            no_speech_prob: 0.0,
            words: None,
        }))
    }
}

impl Iterator for ChatTranscription {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(&mut |_| Ok(()))
    }
}

/// Text of a segment while it is written: with a space in front of it, none behind it, and without a language.
#[derive(Debug, Default)]
struct Spoken {
    bytes: TextAssembler,
    /// Characters that may turn out to be the language, or the space at the end.
    held: String,
    begun: bool,
}

impl Spoken {
    /// What may be told with the bytes of the next token; one that has none ends what may be a character.
    fn push(&mut self, bytes: Option<&[u8]>) -> String {
        let more = match bytes {
            Some(bytes) => self.bytes.push(bytes),
            None => self.bytes.finish(),
        };
        self.held.push_str(&more);
        if !self.begun {
            if may_be_language(&self.held) {
                return String::new();
            }
            let (_, text) = split_language(&self.held);
            let text = text.trim_start();
            if text.is_empty() {
                return String::new();
            }
            self.held = format!(" {text}");
            self.begun = true;
        }
        let rest = self.held.split_off(self.held.trim_end().len());
        std::mem::replace(&mut self.held, rest)
    }
}

/// Whether what follows may make it a language.
fn may_be_language(text: &str) -> bool {
    const MARK: &str = "lang:";
    let text = text.trim_start();
    MARK.starts_with(text) || text.strip_prefix(MARK).is_some_and(|code| code.len() < 2)
}

/// A model that is left to find out the language may begin with it: `lang:xx`.
fn split_language(text: &str) -> (Option<&str>, &str) {
    let told = text
        .trim_start()
        .strip_prefix("lang:")
        .and_then(|rest| rest.split_at_checked(2));
    match told {
        Some((code, rest)) if code.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            (Some(code), rest)
        }
        _ => (None, text),
    }
}

/// Seconds that are heard at a time.
fn longest(model: &ChatModel, options: &TranscribeOptions) -> Result<f64> {
    let config = model.config();
    // Text needs room behind the sound.
    let per_second = f64::from(SAMPLE_RATE) / config.samples_per_token() as f64;
    let room = 0.75 * config.max_positions as f64 / per_second;
    let chunk = config.samples_per_chunk() as f64 / f64::from(SAMPLE_RATE);
    let most = MOST_SECONDS.min((room / chunk).floor().max(1.0) * chunk);
    match options.chunk_length {
        None => Ok(most),
        Some(seconds) if seconds >= 1.0 && seconds <= most => Ok(seconds),
        Some(seconds) => Err(Error::InvalidOption {
            option: "chunk_length",
            message: format!(
                "{seconds} is outside 1 to {most:.0} seconds, what this model hears at a time"
            ),
        }),
    }
}

/// The code of the language, and what has no effect on this model. What would change the text but cannot be is an error.
fn check(model: &ChatModel, options: &TranscribeOptions) -> Result<(Option<String>, Vec<String>)> {
    let cannot = |task: &str, message: &str| {
        Err(Error::UnsupportedTask {
            model: model.model_name().into(),
            task: task.into(),
            message: message.into(),
        })
    };
    if options.task == Task::Translate {
        return cannot(
            "translate",
            "it writes what is said in its own language; a chat about the recording (\"Translate to English.\") asks it to, and a \
             multilingual Whisper translates",
        );
    }
    if !model.layout().can_transcribe() {
        return cannot("transcribe", "its vocabulary has no token [TRANSCRIBE]");
    }
    if !options.clip_timestamps.is_empty() && options.clip_timestamps != [0.0] {
        return Err(Error::InvalidOption {
            option: "clip_timestamps",
            message: "this model hears the whole recording; give it the part alone".into(),
        });
    }
    let mut warnings = Vec::new();
    let language = match options.language.as_deref() {
        None => None,
        Some(name) => Some(
            language_code(name)
                .ok_or_else(|| super::language::unknown_language(name))?
                .to_owned(),
        ),
    };
    if let Some(code) = language.as_deref().filter(|code| !LANGUAGES.contains(code)) {
        warnings.push(format!(
            "the model was made for {}, not for {code}",
            LANGUAGES.join(", ")
        ));
    }
    let default = TranscribeOptions::default();
    let without_effect = [
        ("languages", !options.languages.is_empty()),
        ("multilingual", options.multilingual),
        ("word_timestamps", options.word_timestamps),
        ("initial_prompt", options.initial_prompt.is_some()),
        ("prefix", options.prefix.is_some()),
        ("hotwords", options.hotwords.is_some()),
        ("batch_size", options.batch_size != default.batch_size),
        (
            "suppress_tokens",
            options.suppress_tokens != default.suppress_tokens,
        ),
    ];
    let given = without_effect.into_iter().filter(|(_, given)| *given);
    warnings.extend(given.map(|(option, _)| format!("{option} has no effect on this model")));
    Ok((language, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_in_front_of_the_text_is_taken_off() {
        assert_eq!(split_language("lang:en And so"), (Some("en"), " And so"));
        assert_eq!(split_language(" lang:fr"), (Some("fr"), ""));
        assert_eq!(split_language("lang:1x a"), (None, "lang:1x a"));
        assert_eq!(split_language("lang:é"), (None, "lang:é"));
        assert_eq!(split_language("And so"), (None, "And so"));
    }

    #[test]
    fn text_is_told_as_soon_as_it_is_certain() {
        let told = |tokens: &[&[u8]]| -> Vec<String> {
            let mut spoken = Spoken::default();
            let pieces = tokens.iter().map(|bytes| spoken.push(Some(bytes)));
            pieces.collect()
        };
        let pieces = told(&[
            b" la", b"ng:e", b"n", b" And", b" ", b"s\xc3", b"\xb6 ", b" x",
        ]);
        assert_eq!(pieces, ["", "", "", " And", "", " s", "\u{f6}", "  x"]);
        assert_eq!(told(&[b"And", b" so"]), [" And", " so"]);
        assert_eq!(told(&[b"l", b"ater"]), ["", " later"]);
    }
}
