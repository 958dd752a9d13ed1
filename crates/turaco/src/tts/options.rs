//! How a text is said.

use crate::models::qwen3_tts::{GenerationDefaults, Sampling};
use crate::tokenizer::{language_name, language_of_tag};
use crate::{Error, Result};

use super::Voice;
use super::normalize::spoken_text;
use super::sentences::Pieces;

/// How text and sound lie beside each other in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextLayout {
    /// As the reference does: beside the sound for cloned voices, in front of it for the others.
    #[default]
    Auto,
    /// The whole text in front of the sound.
    Whole,
    /// A token of text beside each frame of sound.
    Beside,
}

/// How a text is said. What is `None` is as the model's `generation_config.json` says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SpeakOptions {
    /// Who speaks.
    pub voice: Voice,
    /// How, in words; for a VoiceDesign model also who.
    pub instruct: Option<String>,
    /// A language of the model, by its English name, ISO 639-1 code or a tag such as `zh-CN`; `None` or `auto` leaves it to the
    /// model.
    pub language: Option<String>,
    /// How text and sound lie beside each other.
    pub layout: TextLayout,
    /// Whether chance chooses; without it all codes of a frame are the most probable ones.
    pub do_sample: Option<bool>,
    /// The same of the codes of a frame after the first.
    pub subtalker_dosample: Option<bool>,
    /// 0 = always the most probable code; also of the codes after the first, unless `subtalker_temperature` says otherwise.
    pub temperature: Option<f32>,
    /// 0 = all codes.
    pub top_k: Option<usize>,
    /// 1 = all codes.
    pub top_p: Option<f32>,
    /// 1 = none.
    pub repetition_penalty: Option<f32>,
    /// The same of the codes of a frame after the first.
    pub subtalker_temperature: Option<f32>,
    /// The same of the codes of a frame after the first.
    pub subtalker_top_k: Option<usize>,
    /// The same of the codes of a frame after the first.
    pub subtalker_top_p: Option<f32>,
    /// The same seed gives the same speech.
    pub seed: u64,
    /// Frames (of 80 ms) of a piece of text at most, also more than it seems to need; `None` = by the length of the text, and not
    /// more than the model's settings allow.
    pub max_frames: Option<usize>,
    /// Exactly so many frames of a piece of text, whatever the model says: for measurements.
    pub exact_frames: Option<usize>,
    /// Frames of the first chunk of a stream; later ones are twice as long each, up to [`MAX_CHUNK`](Self::MAX_CHUNK).
    pub first_chunk: usize,
    /// Whether long texts are said in pieces.
    pub split: bool,
    /// Whether Markdown, emoji and addresses are left out of what is said, and in English also numbers, dates, sums of money and
    /// signs become words. Where the language is left to the model, frequent words tell whether a text is English.
    pub normalize: bool,
    /// Above 1 is faster, at the same pitch; the sound is changed, not the model's way to speak. 0.25 to 4.
    pub speed: f32,
}

impl Default for SpeakOptions {
    fn default() -> Self {
        Self {
            voice: Voice::Default,
            instruct: None,
            language: None,
            layout: TextLayout::Auto,
            do_sample: None,
            subtalker_dosample: None,
            temperature: None,
            top_k: None,
            top_p: None,
            repetition_penalty: None,
            subtalker_temperature: None,
            subtalker_top_k: None,
            subtalker_top_p: None,
            seed: 0,
            max_frames: None,
            exact_frames: None,
            first_chunk: 1,
            split: true,
            normalize: false,
            speed: 1.0,
        }
    }
}

macro_rules! setters {
    ($($(#[$meta:meta])* $name:ident: $kind:ty),* $(,)?) => {
        $($(#[$meta])*
        #[must_use]
        pub fn $name(mut self, $name: $kind) -> Self {
            self.$name = $name.into();
            self
        })*
    };
}

impl SpeakOptions {
    /// Frames of the longest chunk of a stream.
    pub const MAX_CHUNK: usize = 8;

    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who speaks.
    #[must_use]
    pub fn voice(mut self, voice: impl Into<Voice>) -> Self {
        self.voice = voice.into();
        self
    }

    /// How.
    #[must_use]
    pub fn instruct(mut self, instruct: impl Into<String>) -> Self {
        self.instruct = Some(instruct.into());
        self
    }

    /// A language.
    #[must_use]
    pub fn language(mut self, language: impl Into<String>) -> Self {
        self.language = Some(language.into());
        self
    }

    /// Frames of a piece of text at most, counted as the reference does: with the token that ends it, which is no frame.
    #[must_use]
    pub fn max_new_tokens(mut self, max_new_tokens: usize) -> Self {
        self.max_frames = Some(max_new_tokens.saturating_sub(1));
        self
    }

    setters! {
        /// How text and sound lie beside each other.
        layout: TextLayout,
        /// Whether chance chooses.
        do_sample: bool,
        /// The same of the codes of a frame after the first.
        subtalker_dosample: bool,
        /// 0 = always the most probable code.
        temperature: f32,
        /// The same of the codes of a frame after the first.
        subtalker_temperature: f32,
        /// The same seed gives the same speech.
        seed: u64,
        /// Frames of a piece of text at most.
        max_frames: usize,
        /// Exactly so many frames, for measurements.
        exact_frames: usize,
        /// Whether long texts are said in pieces.
        split: bool,
        /// Whether marks are left out and numbers become words.
        normalize: bool,
        /// Above 1 is faster.
        speed: f32,
    }

    /// Whether nothing of `text` is said with these options: it is empty, or what there is of it are marks and pictures, which
    /// are left out.
    ///
    /// ```
    /// use turaco::tts::SpeakOptions;
    /// assert!(SpeakOptions::new().leaves_nothing_of(" \n"));
    /// assert!(SpeakOptions::new().normalize(true).leaves_nothing_of("⛵ ---"));
    /// assert!(!SpeakOptions::new().normalize(true).leaves_nothing_of("⛵ 5"));
    /// ```
    pub fn leaves_nothing_of(&self, text: &str) -> bool {
        if !self.normalize {
            return text.trim().is_empty();
        }
        let language = self.language_name();
        let is_said =
            |piece: &str| spoken_text(piece, language.as_deref()).contains(char::is_alphanumeric);
        match self.split {
            true => !Pieces::new(text).any(|piece| is_said(&piece)),
            false => !is_said(text),
        }
    }

    /// The language that was asked for, by its English name in lower case; `None` = the model's choice.
    pub(super) fn language_name(&self) -> Option<String> {
        let name = spoken_language(self.language.as_deref()?);
        Some(name).filter(|name| name != "auto")
    }

    /// # Errors
    /// A value that is outside of its range.
    pub(super) fn sampling(&self, defaults: GenerationDefaults) -> Result<Sampling> {
        // Without sampling, or at temperature 0, the codes after the first are the most probable ones, too.
        let is_greedy = self.do_sample == Some(false) || self.temperature == Some(0.0);
        let values = GenerationDefaults {
            temperature: temperature(self.do_sample, self.temperature, defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(defaults.repetition_penalty),
            subtalker_temperature: temperature(
                self.subtalker_dosample,
                self.subtalker_temperature,
                match is_greedy && self.subtalker_dosample.is_none() {
                    true => 0.0,
                    false => defaults.subtalker_temperature,
                },
            ),
            subtalker_top_k: self.subtalker_top_k.unwrap_or(defaults.subtalker_top_k),
            subtalker_top_p: self.subtalker_top_p.unwrap_or(defaults.subtalker_top_p),
            max_new_tokens: defaults.max_new_tokens,
        };
        let within = |option: &'static str, value: f32, least: f32, most: f32| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::InvalidOption {
                option,
                message: format!("{value} is outside {least} to {most}"),
            })
        };
        within("temperature", values.temperature, 0.0, 10.0)?;
        within(
            "subtalker_temperature",
            values.subtalker_temperature,
            0.0,
            10.0,
        )?;
        within("top_p", values.top_p, 0.0, 1.0)?;
        within("subtalker_top_p", values.subtalker_top_p, 0.0, 1.0)?;
        within("repetition_penalty", values.repetition_penalty, 0.1, 10.0)?;
        Ok(Sampling {
            values,
            seed: self.seed,
        })
    }
}

/// The temperature that `do_sample` and a temperature come to.
fn temperature(do_sample: Option<bool>, asked: Option<f32>, default: f32) -> f32 {
    match do_sample {
        Some(false) => 0.0,
        // A model whose own choice is no chance leaves no number to go by.
        Some(true) if default == 0.0 => asked.unwrap_or(0.9),
        _ => asked.unwrap_or(default),
    }
}

/// The English name, in lower case, of a language that is given by name, code or tag; `auto` for none.
pub(super) fn spoken_language(asked: &str) -> String {
    let asked = asked.trim().to_lowercase();
    match language_of_tag(&asked).and_then(language_name) {
        Some(name) => name.to_lowercase(),
        None if asked.is_empty() => "auto".into(),
        None => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: GenerationDefaults = GenerationDefaults {
        temperature: 0.9,
        top_k: 50,
        top_p: 1.0,
        repetition_penalty: 1.05,
        subtalker_temperature: 0.8,
        subtalker_top_k: 50,
        subtalker_top_p: 1.0,
        max_new_tokens: 2048,
    };

    #[test]
    fn without_chance_both_talkers_take_what_is_most_probable() {
        let new = SpeakOptions::new;
        for (options, expected) in [
            (new(), (0.9, 0.8)),
            (new().temperature(0.0), (0.0, 0.0)),
            (new().do_sample(false), (0.0, 0.0)),
            (new().do_sample(false).temperature(0.7), (0.0, 0.0)),
            (new().do_sample(true), (0.9, 0.8)),
            (
                new().temperature(0.0).subtalker_temperature(0.5),
                (0.0, 0.5),
            ),
            (new().do_sample(false).subtalker_dosample(true), (0.0, 0.8)),
            (new().subtalker_dosample(false), (0.9, 0.0)),
            (
                new().subtalker_dosample(false).subtalker_temperature(0.5),
                (0.9, 0.0),
            ),
        ] {
            let values = options.sampling(DEFAULTS).unwrap().values;
            let found = (values.temperature, values.subtalker_temperature);
            assert_eq!(found, expected, "{options:?}");
        }
        let greedy = GenerationDefaults {
            temperature: 0.0,
            ..DEFAULTS
        };
        let sampled = new().do_sample(true).sampling(greedy).unwrap();
        assert_eq!(sampled.values.temperature, 0.9);
    }

    #[test]
    fn languages_are_names_codes_and_tags() {
        for (asked, name) in [
            ("zh-CN", "chinese"),
            ("en_US.UTF-8", "english"),
            (" German ", "german"),
            ("mandarin", "chinese"),
            ("auto", "auto"),
            ("", "auto"),
            ("klingon", "klingon"),
        ] {
            assert_eq!(spoken_language(asked), name, "{asked}");
        }
    }
}
