//! Decoding a window again at higher temperatures when the text looks wrong.

use crate::models::whisper::{Session, Window};
use crate::tokenizer::WhisperTokenizer;
use crate::{Control, Result};

use super::TranscribeOptions;
use super::token_rules::TokenRules;
use super::window_decoder::{Decoded, Prompt, Search, SearchOptions, WindowDecoder, mix};

/// Decodes single windows with the temperatures of [`TranscribeOptions::temperature`] until one is good enough, as
/// `decode_with_fallback` of openai-whisper's `transcribe.py`: the last attempt stands if none is.
///
/// # Errors
/// A prompt that does not fit, a failed device, or cancellation.
#[expect(
    clippy::too_many_arguments,
    reason = "everything that a window's decoding depends on, in one call"
)]
pub fn decode_with_fallback(
    decoder: &mut WindowDecoder,
    session: &mut Session,
    tokenizer: &WhisperTokenizer,
    window: &Window,
    prompt: &Prompt,
    rules: &TokenRules,
    options: &TranscribeOptions,
    (first_attempt, window_seed): (Option<Decoded>, u64),
    control: &Control,
) -> Result<Decoded> {
    let mut last = first_attempt;
    let skip = usize::from(last.is_some());
    for (attempt, &temperature) in options.temperature.iter().enumerate().skip(skip) {
        if last
            .as_ref()
            .is_some_and(|decoded| !needs_fallback(decoded, options))
        {
            break;
        }
        let seed = mix(options.seed ^ mix(window_seed ^ mix(attempt as u64)));
        let search = search_options(options, temperature, rules, prompt, seed, session);
        let prompts = std::slice::from_ref(prompt);
        last = decoder
            .decode(session, tokenizer, &[window], prompts, &search, control)?
            .pop();
    }
    Ok(last.unwrap_or_else(|| unreachable!("options hold at least one temperature")))
}

/// How to search at one temperature: beams only at 0, samples only above.
pub fn search_options<'a>(
    options: &TranscribeOptions,
    temperature: f64,
    rules: &'a TokenRules,
    prompt: &Prompt,
    seed: u64,
    session: &Session,
) -> SearchOptions<'a> {
    let search = if temperature > 0.0 {
        Search::Sample {
            temperature,
            samples: options.best_of.max(1),
        }
    } else if options.beam_size > 1 {
        Search::Beam {
            size: options.beam_size,
            patience: options.patience,
        }
    } else {
        Search::Greedy
    };
    let n_text_ctx = session.model().config().n_text_ctx;
    let room = (n_text_ctx + 1).saturating_sub(prompt.tokens.len());
    SearchOptions {
        search,
        rules,
        sample_len: options.max_new_tokens.unwrap_or(n_text_ctx / 2).min(room),
        length_penalty: options.length_penalty,
        repetition_penalty: options.repetition_penalty,
        seed,
    }
}

/// Whether a result is too repetitive or too improbable, and not silence.
pub fn needs_fallback(decoded: &Decoded, options: &TranscribeOptions) -> bool {
    let repetitive = options
        .compression_ratio_threshold
        .is_some_and(|limit| decoded.compression_ratio > limit);
    let improbable = options
        .logprob_threshold
        .is_some_and(|limit| decoded.avg_logprob < limit);
    let silence = improbable
        && options
            .no_speech_threshold
            .is_some_and(|limit| decoded.no_speech_prob > limit);
    (repetitive || improbable) && !silence
}

/// Whether a window counts as silence and gives no segment.
pub fn is_silence(decoded: &Decoded, options: &TranscribeOptions) -> bool {
    let quiet = options
        .no_speech_threshold
        .is_some_and(|limit| decoded.no_speech_prob > limit);
    let convincing = options
        .logprob_threshold
        .is_some_and(|limit| decoded.avg_logprob > limit);
    quiet && !convincing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(avg_logprob: f64, compression_ratio: f64, no_speech_prob: f64) -> Decoded {
        Decoded {
            tokens: vec![],
            text: String::new(),
            avg_logprob,
            no_speech_prob,
            temperature: 0.0,
            compression_ratio,
        }
    }

    #[test]
    fn thresholds_decide_as_in_the_reference() {
        let options = TranscribeOptions::default();
        for (avg_logprob, ratio, no_speech, fallback, silence) in [
            (-0.3, 1.5, 0.1, false, false),
            (-0.3, 2.5, 0.1, true, false),
            (-1.2, 1.5, 0.1, true, false),
            (-1.2, 1.5, 0.7, false, true),
            (-1.2, 2.5, 0.7, false, true),
            (-0.3, 1.5, 0.7, false, false),
            (-0.3, 2.5, 0.7, true, false),
        ] {
            let decoded = decoded(avg_logprob, ratio, no_speech);
            assert_eq!(needs_fallback(&decoded, &options), fallback, "{decoded:?}");
            assert_eq!(is_silence(&decoded, &options), silence, "{decoded:?}");
        }
    }

    #[test]
    fn thresholds_can_be_switched_off() {
        let options = TranscribeOptions {
            compression_ratio_threshold: None,
            logprob_threshold: None,
            no_speech_threshold: None,
            ..TranscribeOptions::default()
        };
        assert!(!needs_fallback(&decoded(-5.0, 9.0, 0.9), &options));
        assert!(!is_silence(&decoded(-5.0, 9.0, 0.9), &options));
    }
}
