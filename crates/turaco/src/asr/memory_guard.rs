//! Refusing what would not fit into memory, before anything is allocated.
//!
//! Systems promise more memory than they have and end the program that uses it; an error that names the option is of
//! more use. Estimates count what grows with an option: weights, keys and values, and the scratch of steps. Where the
//! system does not tell how much is left, nothing is refused.

use std::path::Path;

use turaco_compute::WeightType;

use super::TranscribeOptions;
use crate::models::whisper::{WhisperCheckpoint, WhisperConfig, expected_tensors};
use crate::weights::{DType, Tensor};
use crate::{Error, Result};

/// Positions of a cache come in multiples of this.
const CACHE_GRANULARITY: usize = 64;

/// Refuse a model whose weights do not fit.
pub(super) fn check_weights(checkpoint: &WhisperCheckpoint, weight_type: WeightType) -> Result<()> {
    let packed = |tensor: &Tensor| tensor.dtype == DType::Panels(weight_type);
    if checkpoint.weights.iter().any(|(_, tensor)| packed(tensor)) {
        // Used where the file is mapped, which takes no memory that others could not have back.
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

/// `culprit` is the option that wants the memory, and its value.
fn refuse(
    needed: u64,
    available: Option<u64>,
    culprit: impl FnOnce() -> (&'static str, String),
) -> Result<()> {
    match available {
        Some(available) if needed > available => {
            let (option, value) = culprit();
            Err(Error::Memory {
                option,
                value,
                needed,
                available,
            })
        }
        _ => Ok(()),
    }
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

/// Refuse a model of so many weights, nearly all in matrices, that do not fit.
pub(crate) fn check_model(name: &str, n_weights: usize, weight_type: WeightType) -> Result<()> {
    let needed = (n_weights as u64).saturating_mul(bits(weight_type)) / 8;
    refuse(needed, available(), || {
        ("model", format!("{name} ({})", weight_type.name()))
    })
}

/// Bits of a weight, its share of the scales included.
fn bits(weight_type: WeightType) -> u64 {
    match weight_type {
        WeightType::F16 | WeightType::Bf16 => 16,
        WeightType::Int8 => 8,
        WeightType::Q8 => 9,
        WeightType::Q4 => 5,
        _ => 32,
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

/// Bytes that this process may still take: what the system has left, and what the limits of its control groups leave.
fn available() -> Option<u64> {
    let root = Path::new("/");
    [system(root), control_groups(root)]
        .into_iter()
        .flatten()
        .min()
}

/// Linux's estimate of what can be had without pushing others out, and free swap.
fn system(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kilobytes = |key| number_after(&text, key);
    let bytes = kilobytes("MemAvailable:")?.saturating_add(kilobytes("SwapFree:").unwrap_or(0));
    Some(bytes.saturating_mul(1024))
}

/// The least that any of the process's control groups, of version 2 or 1, leaves.
fn control_groups(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least: Option<u64> = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (mount, limit, usage, reclaimable) = if controllers.is_empty() {
            (
                "sys/fs/cgroup",
                "memory.max",
                "memory.current",
                "inactive_file",
            )
        } else if controllers.split(',').any(|name| name == "memory") {
            (
                "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        } else {
            continue;
        };
        // In a container the group's path may be that of the host; the mount is then the group itself.
        let mount = root.join(mount);
        let relative = Path::new(group.trim_start_matches('/'));
        for folder in relative.ancestors().map(|part| mount.join(part)) {
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            // `max` is no number: no limit.
            let (Some(limit), Some(usage)) = (number(limit), number(usage)) else {
                continue;
            };
            let cached = read("memory.stat")
                .and_then(|text| number_after(&text, reclaimable))
                .unwrap_or(0);
            let room = limit.saturating_sub(usage.saturating_sub(cached));
            least = Some(least.map_or(room, |least| least.min(room)));
        }
    }
    least
}

/// The number after `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
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
    fn what_fits_or_is_not_known_is_let_through() {
        let nothing = || -> (&str, String) { unreachable!("it fits") };
        assert!(refuse(5, Some(5), nothing).is_ok());
        assert!(refuse(u64::MAX, None, nothing).is_ok());
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

    #[test]
    fn memory_and_limits_are_read_where_linux_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!((system(root), control_groups(root)), (None, None));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "proc/meminfo",
            "MemTotal: 100 kB\nMemAvailable:   40 kB\nSwapFree: 2 kB\n",
        );
        assert_eq!(system(root), Some(42 * 1024));
        write("proc/self/cgroup", "4:cpu,memory:/a/b\n1:cpu:/\n0::/c\n");
        assert_eq!(control_groups(root), None);
        write("sys/fs/cgroup/c/memory.max", "max\n");
        write("sys/fs/cgroup/c/memory.current", "7\n");
        assert_eq!(control_groups(root), None);
        write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n");
        write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "600\n");
        write(
            "sys/fs/cgroup/memory/a/memory.stat",
            "cache 3\ntotal_inactive_file 100\n",
        );
        assert_eq!(control_groups(root), Some(500));
        write("sys/fs/cgroup/c/memory.max", "300\n");
        assert_eq!(control_groups(root), Some(293));
    }
}
