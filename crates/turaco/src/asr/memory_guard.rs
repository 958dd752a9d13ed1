//! Refusing what of a transcription would not fit into memory, before anything is allocated.
//!
//! Estimates count what grows with an option: weights, keys and values, and the scratch of steps.

use turaco_compute::WeightType;

use super::TranscribeOptions;
use crate::Result;
use crate::load::memory::{available, bits, is_mapped, refuse};
use crate::models::whisper::{WhisperCheckpoint, WhisperConfig, expected_tensors};

/// Positions of a cache come in multiples of this.
const CACHE_GRANULARITY: usize = 64;

/// Refuse a model whose weights do not fit.
pub(super) fn check_weights(checkpoint: &WhisperCheckpoint, weight_type: WeightType) -> Result<()> {
    if is_mapped(&checkpoint.weights, weight_type) {
        return Ok(());
    }
    let needed = weight_bytes(&checkpoint.config, weight_type);
    refuse(needed, available(), || {
        let value = format!("{} ({})", checkpoint.name, weight_type.name());
        ("model", value)
    })
}

/// Refuse options with which the states of `n_windows` windows at once do not fit. `held` caches of sequences are
/// there already.
pub(super) fn check_states(
    name: &str,
    config: &WhisperConfig,
    weight_type: WeightType,
    options: &TranscribeOptions,
    n_windows: usize,
    held: usize,
) -> Result<()> {
    let demand = Demand::new(options, n_windows);
    let sizes = Sizes::new(config, weight_type);
    refuse(sizes.bytes(demand, held), available(), || {
        demand.culprit(&sizes, name)
    })
}

/// What the options multiply.
#[derive(Debug, Clone, Copy)]
struct Demand {
    n_windows: usize,
    beams: usize,
    samples: usize,
    /// The first temperature, with which all windows are decoded at once, is above 0.
    samples_first: bool,
}

impl Demand {
    fn new(options: &TranscribeOptions, n_windows: usize) -> Self {
        let any = |wanted: fn(f64) -> bool| options.temperature.iter().any(|&t| wanted(t));
        Self {
            n_windows,
            beams: if any(|t| t == 0.0) {
                options.beam_size
            } else {
                1
            },
            samples: if any(|t| t > 0.0) { options.best_of } else { 1 },
            samples_first: options.temperature.first().is_some_and(|&t| t > 0.0),
        }
    }

    /// The option that weighs most, and its value.
    fn culprit(self, sizes: &Sizes, model: &str) -> (&'static str, String) {
        let without = [
            (
                "batch_size",
                self.n_windows,
                Self {
                    n_windows: 1,
                    ..self
                },
            ),
            ("beam_size", self.beams, Self { beams: 1, ..self }),
            ("best_of", self.samples, Self { samples: 1, ..self }),
        ];
        let heaviest = without
            .into_iter()
            .filter(|(_, value, _)| *value > 1)
            .min_by_key(|(_, _, rest)| sizes.bytes(*rest, 0));
        match heaviest {
            Some((option, value, _)) => (option, value.to_string()),
            None => ("model", model.to_owned()),
        }
    }
}

/// Bytes of the parts of a transcription.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Keys and values of one sequence.
    sequence: u64,
    /// Keys and values of one window, and what its encoder works on.
    window: u64,
    /// What a decoder step works on for one sequence.
    row: u64,
}

impl Sizes {
    fn new(config: &WhisperConfig, weight_type: WeightType) -> Self {
        let cache = |positions: usize| {
            let positions = positions.next_multiple_of(CACHE_GRANULARITY);
            let number = if weight_type == WeightType::F32 { 4 } else { 2 };
            product(&[
                2,
                config.n_text_layers,
                positions,
                config.n_text_state,
                number,
            ])
        };
        let n = config.n_audio_ctx;
        let (d, ffn) = (config.n_audio_state, config.n_audio_ffn);
        // The larger of the convolutions' part (features, their windows, and those of the second) and a block's.
        let convolutions = 2 * config.n_mels + 6 * config.n_mels + 2 * d + 4 * d;
        let block = 7 * d + ffn;
        let encoder = product(&[4, n, convolutions.max(block)]);
        let decoder = 2 * config.n_vocab + 8 * config.n_text_state + config.n_text_ffn;
        Self {
            sequence: cache(config.n_text_ctx),
            window: cache(n).saturating_add(encoder),
            row: product(&[4, decoder]),
        }
    }

    fn bytes(&self, demand: Demand, held: usize) -> u64 {
        let Demand {
            n_windows,
            beams,
            samples,
            samples_first,
        } = demand;
        // After the first temperature windows are decoded one at a time.
        let first = if samples_first { samples } else { beams };
        let rows = product(&[n_windows, first]).max(beams.max(samples) as u64);
        let sequences = rows.saturating_sub(held as u64);
        [
            sequences.saturating_mul(self.sequence),
            rows.saturating_mul(self.row),
            (n_windows as u64).saturating_mul(self.window),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

fn weight_bytes(config: &WhisperConfig, weight_type: WeightType) -> u64 {
    let bits = bits(weight_type);
    expected_tensors(config)
        .iter()
        .map(|(_, shape)| {
            // Norms, biases and positions stay as they are.
            let bits = if shape.len() > 1 { bits } else { 32 };
            product(shape).saturating_mul(bits) / 8
        })
        .fold(0, u64::saturating_add)
}

fn product(factors: &[usize]) -> u64 {
    factors
        .iter()
        .fold(1, |all: u64, &factor| all.saturating_mul(factor as u64))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn checkpoint() -> WhisperCheckpoint {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/whisper/tiny-random"
        );
        WhisperCheckpoint::open(Path::new(folder)).unwrap()
    }

    fn tiny() -> WhisperConfig {
        checkpoint().config
    }

    fn refusal(options: &TranscribeOptions, n_windows: usize, available: u64) -> String {
        let sizes = Sizes::new(&tiny(), WeightType::F32);
        let demand = Demand::new(options, n_windows);
        let needed = sizes.bytes(demand, 0);
        refuse(needed, Some(available), || demand.culprit(&sizes, "random"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_heaviest_option_is_named() {
        let mut options = TranscribeOptions {
            beam_size: 1_000_000,
            ..TranscribeOptions::default()
        };
        let message = refusal(&options, 1, 1 << 30);
        assert!(message.contains("`beam_size` 1000000"), "{message}");
        options.beam_size = 5;
        options.best_of = usize::MAX;
        assert!(refusal(&options, 1, 1 << 30).contains("`best_of`"));
        options.best_of = 5;
        assert!(refusal(&options, 1_000_000, 1 << 30).contains("`batch_size` 1000000"));
        assert!(refusal(&options, 1, 1000).contains("0.1 GB"));
        options.temperature = vec![0.0];
        options.best_of = usize::MAX;
        let demand = Demand::new(&options, 1);
        assert!(Sizes::new(&tiny(), WeightType::F32).bytes(demand, 0) < 1 << 30);
    }

    #[test]
    fn ordinary_options_are_let_through() {
        let options = TranscribeOptions::default();
        check_states("tiny", &tiny(), WeightType::F32, &options, 1, 0).unwrap();
        check_weights(&checkpoint(), WeightType::F32).unwrap();
    }

    #[test]
    fn weights_count_by_their_type() {
        let [full, half, quarter] = [WeightType::F32, WeightType::F16, WeightType::Int8]
            .map(|weight_type| weight_bytes(&tiny(), weight_type));
        // 1.82 million parameters, most of them in matrices.
        assert!((7_000_000..7_500_000).contains(&full), "{full}");
        assert!(half < full * 11 / 20 && quarter < half * 11 / 20);
    }
}
