//! Options of a session.

use serde::{Deserialize, Serialize};

use super::guesser::MAX_GUESSES;
use crate::models::voxtral_realtime::{MAX_DELAY, VoxtralRealtimeConfig};
use crate::{Error, Result};

/// Options of [`RealtimeRecognizer::session`](super::RealtimeRecognizer::session).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RealtimeOptions {
    /// By how much the text follows the sound: later is more exact. A multiple of 80 ms up to 2400; `None` = the
    /// model's (480).
    pub delay_ms: Option<u32>,
    /// A second text with a shorter delay beside the first: a draft that is replaced. `None` = no draft.
    pub draft_delay_ms: Option<u32>,
    /// Seconds of sound that are encoded at a time: more is less work, and later text. Rounded to whole audio tokens
    /// (80 ms).
    pub interval: f64,
    /// Show what else a token could have been if it is less likely by at most this share (0 to 1).
    pub alternatives: Option<f64>,
    /// Go on when the model ends its text in the middle of the sound.
    pub continuous: bool,
    /// Tokens that are guessed ahead at most, 0 to 3: the text is the same, and comes sooner where memory is the limit.
    pub guesses: usize,
}

impl Default for RealtimeOptions {
    fn default() -> Self {
        Self {
            delay_ms: None,
            draft_delay_ms: None,
            interval: 0.48,
            alternatives: None,
            continuous: true,
            guesses: MAX_GUESSES,
        }
    }
}

/// Seconds that are encoded at once in a hurry.
const HURRIED: f64 = 2.0;

/// Longest stretch that is encoded at once: what is more brings nothing and takes memory.
const MAX_INTERVAL: f64 = 8.0;

impl RealtimeOptions {
    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`delay_ms`](Self::delay_ms).
    #[must_use]
    pub fn delay_ms(mut self, delay_ms: u32) -> Self {
        self.delay_ms = Some(delay_ms);
        self
    }

    /// See [`draft_delay_ms`](Self::draft_delay_ms).
    #[must_use]
    pub fn draft_delay_ms(mut self, delay_ms: u32) -> Self {
        self.draft_delay_ms = Some(delay_ms);
        self
    }

    /// See [`interval`](Self::interval).
    #[must_use]
    pub fn interval(mut self, seconds: f64) -> Self {
        self.interval = seconds;
        self
    }

    /// See [`alternatives`](Self::alternatives).
    #[must_use]
    pub fn alternatives(mut self, cutoff: f64) -> Self {
        self.alternatives = Some(cutoff);
        self
    }

    /// See [`continuous`](Self::continuous).
    #[must_use]
    pub fn continuous(mut self, continuous: bool) -> Self {
        self.continuous = continuous;
        self
    }

    /// See [`guesses`](Self::guesses).
    #[must_use]
    pub fn guesses(mut self, most: usize) -> Self {
        self.guesses = most;
        self
    }
}

/// The same in the units of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Delays in tokens: settled, draft.
    pub delay: usize,
    pub draft: Option<usize>,
    /// Audio tokens that are encoded at a time, and the most of them in a hurry.
    pub chunk_tokens: usize,
    pub most_tokens: usize,
    pub alternatives: Option<f64>,
    pub continuous: bool,
    pub guesses: usize,
}

impl Plan {
    pub fn new(options: &RealtimeOptions, config: &VoxtralRealtimeConfig) -> Result<Self> {
        let token_ms = config.token_seconds() * 1000.0;
        let tokens = |option: &'static str, delay_ms: u32| {
            config
                .delay_tokens(f64::from(delay_ms))
                .filter(|&tokens| tokens <= MAX_DELAY)
                .ok_or_else(|| Error::InvalidOption {
                    option,
                    message: format!(
                        "{delay_ms} ms is not possible: expected a multiple of {token_ms:.0} up to {:.0}",
                        token_ms * MAX_DELAY as f64
                    ),
                })
        };
        let delay = match options.delay_ms {
            Some(delay_ms) => tokens("delay_ms", delay_ms)?,
            None => config.default_delay,
        };
        let draft = match options.draft_delay_ms {
            Some(delay_ms) => Some(tokens("draft_delay_ms", delay_ms)?),
            None => None,
        };
        if draft.is_some_and(|draft| draft >= delay) {
            return Err(Error::InvalidOption {
                option: "draft_delay_ms",
                message: "a draft comes before the settled text: expected a shorter delay".into(),
            });
        }
        if !(options.interval > 0.0 && options.interval <= MAX_INTERVAL) {
            return Err(Error::InvalidOption {
                option: "interval",
                message: format!("expected seconds above 0, at most {MAX_INTERVAL}"),
            });
        }
        if options
            .alternatives
            .is_some_and(|cutoff| !(0.0..=1.0).contains(&cutoff))
        {
            return Err(Error::InvalidOption {
                option: "alternatives",
                message: "expected a share from 0 to 1".into(),
            });
        }
        let n_tokens = |seconds: f64| (seconds / config.token_seconds()).round() as usize;
        let chunk_tokens = n_tokens(options.interval).max(1);
        Ok(Self {
            delay,
            draft,
            chunk_tokens,
            most_tokens: chunk_tokens.max(n_tokens(HURRIED)),
            alternatives: options.alternatives,
            continuous: options.continuous,
            guesses: options.guesses.min(MAX_GUESSES),
        })
    }

    /// The longest delay.
    pub fn longest_delay(&self) -> usize {
        self.delay.max(self.draft.unwrap_or(0))
    }
}
