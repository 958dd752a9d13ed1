//! Which language is spoken.

use crate::models::whisper::{Choice, Session, Window};
use crate::tokenizer::WhisperTokenizer;
use crate::{Error, Result};

use super::Task;

/// The language of a window and what it means for the prompt.
#[derive(Debug, Clone)]
pub struct Spoken {
    pub language: String,
    pub sot_sequence: Vec<u32>,
    pub task: Task,
    /// Where every window may have another language: which ones come into question, none for all.
    pub detect_among: Option<Vec<u32>>,
}

impl Spoken {
    /// Find out what is spoken in `window`, if that may be another language than before.
    pub fn listen(
        &mut self,
        session: &mut Session,
        tokenizer: &WhisperTokenizer,
        window: &Window,
    ) -> Result<()> {
        let Some(among) = &self.detect_among else {
            return Ok(());
        };
        let found = language_probabilities(session, tokenizer, window, among)?;
        if let Some((language, _)) = found.into_iter().next() {
            self.sot_sequence = tokenizer.sot_sequence(Some(&language), self.task)?;
            self.language = language;
        }
        Ok(())
    }
}

/// Probabilities of all languages of the model (or of `among` only), best first: one decoder step after the start of
/// transcript, softmax over the language tokens, as `detect_language` of openai-whisper's `decoding.py`.
///
/// # Errors
/// A failed device.
pub fn language_probabilities(
    session: &mut Session,
    tokenizer: &WhisperTokenizer,
    window: &Window,
    among: &[u32],
) -> Result<Vec<(String, f64)>> {
    let n_vocab = session.model().config().n_vocab;
    let mut sequence = session.new_sequence()?;
    let allowed = vec![u32::MAX; n_vocab.div_ceil(32)];
    let choice = Choice {
        allowed: &allowed,
        seen: None,
        controls: &[0.0, 1.0, 0.0],
        seeds: &[0, 0],
        k: 1,
    };
    let chosen = session.prefill(
        &mut [&mut sequence],
        &[window],
        &[tokenizer.sot()],
        0,
        &choice,
    )?;
    let languages: Vec<&(String, u32)> = tokenizer
        .languages()
        .iter()
        .filter(|(_, token)| among.is_empty() || among.contains(token))
        .filter(|(_, token)| (*token as usize) < n_vocab)
        .collect();
    let all_logits = chosen.logits()?;
    let logits: Vec<f64> = languages
        .iter()
        .map(|(_, token)| f64::from(all_logits[*token as usize]))
        .collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    let mut probabilities: Vec<(String, f64)> = languages
        .iter()
        .zip(&logits)
        .map(|((code, _), logit)| (code.clone(), (logit - max).exp() / sum))
        .collect();
    probabilities.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(probabilities)
}

/// A language that a model does not know.
pub(super) fn unknown_language(name: &str) -> Error {
    Error::InvalidOption {
        option: "language",
        message: format!("`{name}` is no language code or English name that this model knows"),
    }
}
