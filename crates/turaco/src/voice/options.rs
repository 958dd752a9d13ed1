//! How a session listens, and when it speaks.

use crate::asr::TranscribeOptions;
use crate::asr::energy_gate::EnergyLimits;
use crate::asr::vad_stream::DetectorOptions;
use crate::tts::SpeakOptions;
use crate::{Error, Result};

use super::conversation::ConversationOptions;
use super::request::AnswerOptions;

/// What tells speech from other sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detection {
    /// Silero's network.
    #[default]
    Silero,
    /// The energy of a voice.
    Energy,
    /// Nothing: the caller says when a turn is over.
    None,
}

impl std::str::FromStr for Detection {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "silero" => Ok(Self::Silero),
            "energy" => Ok(Self::Energy),
            "none" => Ok(Self::None),
            _ => Err(Error::InvalidOption {
                option: "vad",
                message: format!("`{name}` is none of silero, energy, none"),
            }),
        }
    }
}

/// How soon silence is taken for the end of a turn, where what was said so far is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eagerness {
    /// Always after the same time.
    #[default]
    Fixed,
    /// Late.
    Low,
    /// As people do.
    Auto,
    /// Soon.
    High,
}

impl std::str::FromStr for Eagerness {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "fixed" => Ok(Self::Fixed),
            "low" => Ok(Self::Low),
            "auto" | "medium" => Ok(Self::Auto),
            "high" => Ok(Self::High),
            _ => Err(Error::InvalidOption {
                option: "eagerness",
                message: format!("`{name}` is none of fixed, low, auto, medium, high"),
            }),
        }
    }
}

/// When the user's turn begins and ends.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TurnOptions {
    /// What tells speech from other sound.
    pub detection: Detection,
    /// Probability from which a moment is speech.
    pub threshold: f64,
    /// Speech has to last so long before it counts.
    pub min_speech_ms: u32,
    /// Silence that ends a turn.
    pub silence_ms: u32,
    /// Sound that is kept from before the speech.
    pub prefix_padding_ms: u32,
    /// A longer turn is taken in parts.
    pub max_utterance_s: f64,
    /// Whether what was said moves the end of a turn; needs a recogniser that writes while it listens.
    pub eagerness: Eagerness,
    /// What is not this loud is silence, and costs no network.
    pub energy_gate: Option<EnergyLimits>,
    /// While there is an answer to be heard, speech must be clearer and longer to count: for loudspeakers that the microphone hears.
    pub echo_guard: bool,
    /// Whether the end of a turn is answered.
    pub answer: bool,
    /// Whether speech ends an answer.
    pub interrupt: bool,
    /// Words that an interruption has at least: after speech with fewer (a cough, or a sign that one listens, such as "mhm") the
    /// rest of the answer is given. Needs a recogniser; 0 = whatever counts as speech ends an answer.
    pub interrupt_words: usize,
    /// Whether an answer goes on that was interrupted by sound without words, at the sample where it was stopped as far as its sound
    /// was there already. Needs a recogniser, and a listener who plays answers as they come and drops what was not heard.
    pub resume: bool,
    /// Speech has to last so long to end an answer that can be heard; what is shorter does not count meanwhile.
    pub interrupt_ms: u32,
    /// The same for an answer of which nothing was heard yet; `None` = as long as for one that can be heard.
    pub interrupt_thinking_ms: Option<u32>,
    /// As `interrupt_words`, for an answer of which nothing was heard yet; `None` = as many.
    pub interrupt_thinking_words: Option<usize>,
    /// Milliseconds without speech or answer after which [`VoiceEvent::Idle`](super::VoiceEvent::Idle) is told.
    pub idle_timeout_ms: Option<u32>,
}

impl Default for TurnOptions {
    fn default() -> Self {
        Self {
            detection: Detection::Silero,
            threshold: 0.5,
            min_speech_ms: 100,
            silence_ms: 500,
            prefix_padding_ms: 300,
            max_utterance_s: 30.0,
            eagerness: Eagerness::Fixed,
            energy_gate: None,
            echo_guard: false,
            answer: true,
            interrupt: true,
            interrupt_words: 0,
            resume: false,
            interrupt_ms: 0,
            interrupt_thinking_ms: None,
            interrupt_thinking_words: None,
            idle_timeout_ms: None,
        }
    }
}

/// What becomes of an answer when the user speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answering {
    /// There is none.
    Nothing,
    /// Nothing of it was heard yet.
    Thought,
    /// It can be heard.
    Heard,
}

/// What the echo guard asks for at least.
const GUARDED_THRESHOLD: f64 = 0.7;
/// And for how long.
const GUARDED_SPEECH_MS: u32 = 300;

impl TurnOptions {
    /// How speech is found.
    pub(super) fn detector(&self) -> DetectorOptions {
        DetectorOptions {
            threshold: self.threshold,
            min_speech_ms: self.min_speech_ms,
            min_silence_ms: self.silence_ms,
            pre_roll_ms: self.prefix_padding_ms,
            max_speech_s: Some(self.max_utterance_s),
            energy_gate: self.energy_gate,
            ..DetectorOptions::default()
        }
    }

    /// Probability and milliseconds from which speech counts, while an answer is there or not.
    pub(super) fn onset(&self, answering: Answering) -> (f64, u32) {
        let interrupt_ms = match answering {
            Answering::Nothing => return (self.threshold, self.min_speech_ms),
            Answering::Thought => self.interrupt_thinking_ms.unwrap_or(self.interrupt_ms),
            Answering::Heard => self.interrupt_ms,
        };
        let min_speech_ms = match self.interrupt {
            true => self.min_speech_ms.max(interrupt_ms),
            false => self.min_speech_ms,
        };
        match self.echo_guard {
            true => (
                self.threshold.max(GUARDED_THRESHOLD),
                min_speech_ms.max(GUARDED_SPEECH_MS),
            ),
            false => (self.threshold, min_speech_ms),
        }
    }

    /// Words that an interruption has at least.
    pub(super) fn words_to_interrupt(&self, answering: Answering) -> usize {
        match answering {
            Answering::Thought => self
                .interrupt_thinking_words
                .unwrap_or(self.interrupt_words),
            Answering::Nothing | Answering::Heard => self.interrupt_words,
        }
    }

    /// Silence that ends a turn in which `text` was said so far.
    pub(super) fn patience(&self, text: &str) -> u32 {
        let silence = f64::from(self.silence_ms);
        let (finished, open, unknown) = match self.eagerness {
            Eagerness::Fixed => return self.silence_ms,
            Eagerness::Low => (1.0, 3.0, 1.6),
            Eagerness::Auto => (0.6, 2.0, 1.0),
            Eagerness::High => (0.4, 1.2, 0.6),
        };
        let text = text.trim_end();
        let last_word = text
            .rsplit(char::is_whitespace)
            .next()
            .unwrap_or_default()
            .trim_matches(|c: char| !c.is_alphanumeric())
            .to_lowercase();
        let is_open = text.ends_with([',', ':', '-', '…']) || is_unfinished(&last_word);
        let factor = match text.chars().next_back() {
            _ if is_open => open,
            Some('.' | '!' | '?' | '。' | '！' | '？') => finished,
            _ => unknown,
        };
        // Shorter than a breath is no pause.
        (silence * factor).round().max(200.0) as u32
    }
}

/// Words after which nobody stops: conjunctions, articles, fillers.
fn is_unfinished(word: &str) -> bool {
    const WORDS: [&str; 40] = [
        "and", "but", "or", "so", "because", "if", "when", "that", "which", "the", "a", "an", "to",
        "of", "with", "for", "um", "uh", "er", "hmm", "well", "und", "aber", "oder", "weil",
        "dass", "der", "die", "das", "äh", "ähm", "et", "mais", "ou", "parce", "le", "la", "euh",
        "y", "pero",
    ];
    WORDS.contains(&word)
}

/// How a session hears, thinks back and speaks.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VoiceOptions {
    /// When the user's turn begins and ends.
    pub turns: TurnOptions,
    /// How questions are written down.
    pub recognition: TranscribeOptions,
    /// What answers may be.
    pub answers: AnswerOptions,
    /// How answers are said.
    pub speech: SpeakOptions,
    /// What the mind is reminded of.
    pub conversation: ConversationOptions,
    /// Seconds of sound that may wait to be listened to; `None` = 300.
    pub max_buffer_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_moves_the_end_of_a_turn() {
        let mut turns = TurnOptions::default();
        assert_eq!(turns.patience("and then"), 500);
        turns.eagerness = Eagerness::Auto;
        assert_eq!(turns.patience("That is all."), 300);
        assert_eq!(turns.patience("I would like to"), 1000);
        assert_eq!(turns.patience("Well, um,"), 1000);
        assert_eq!(turns.patience("seven o'clock"), 500);
        assert_eq!(turns.patience(""), 500);
        turns.eagerness = Eagerness::High;
        assert_eq!(turns.patience("Yes."), 200);
    }

    #[test]
    fn an_answer_raises_the_bar_for_speech() {
        let mut turns = TurnOptions::default();
        assert_eq!(turns.onset(Answering::Heard), (0.5, 100));
        turns.echo_guard = true;
        assert_eq!(turns.onset(Answering::Heard), (0.7, 300));
        assert_eq!(turns.onset(Answering::Nothing), (0.5, 100));
    }

    #[test]
    fn an_answer_that_is_heard_and_one_that_is_thought_are_interrupted_in_their_own_ways() {
        let mut turns = TurnOptions::default();
        (turns.interrupt_ms, turns.interrupt_words) = (600, 2);
        assert_eq!(turns.onset(Answering::Thought), (0.5, 600));
        assert_eq!(turns.words_to_interrupt(Answering::Thought), 2);
        turns.interrupt_thinking_ms = Some(0);
        turns.interrupt_thinking_words = Some(0);
        assert_eq!(turns.onset(Answering::Thought), (0.5, 100));
        assert_eq!(turns.onset(Answering::Heard), (0.5, 600));
        assert_eq!(turns.onset(Answering::Nothing), (0.5, 100));
        assert_eq!(turns.words_to_interrupt(Answering::Thought), 0);
        assert_eq!(turns.words_to_interrupt(Answering::Heard), 2);
        // What interrupts nothing is a question like any other.
        turns.interrupt = false;
        assert_eq!(turns.onset(Answering::Heard), (0.5, 100));
    }
}
