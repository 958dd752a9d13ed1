//! The log-mel spectrogram of Whisper (`whisper/audio.py: log_mel_spectrogram`), which Voxtral shares.
//!
//! ```text
//! samples ++ zeros  → reflect 200 samples at both ends → Hann windows of 400 every 160
//!   → |FFT|² (201 bins) → mel filters → log10(max(·, 1e-10)) → max(·, global maximum − 8) → (· + 4) / 4
//! ```
//!
//! The transform yields one frame more than there are hops; the last one is dropped, as upstream does.

use super::mel::MelFilterBank;
use super::stft::{PaddedSignal, Stft, TILE};

/// Samples per second that the features are defined for.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples per window.
pub const N_FFT: usize = 400;
/// Samples between windows: 100 frames per second.
pub const HOP_LENGTH: usize = 160;

/// Smallest mel energy that is told apart from silence.
const ENERGY_FLOOR: f32 = 1e-10;
/// Decades kept below the loudest value.
const DYNAMIC_RANGE: f32 = 8.0;
/// Frames below which a second thread costs more than it brings (about a millisecond of work).
const MIN_FRAMES_PER_THREAD: usize = 1000;

/// Computes log-mel spectrograms; cheap to keep, safe to share between threads.
#[derive(Debug, Clone)]
pub struct LogMel {
    filters: MelFilterBank,
    stft: Stft,
}

/// A log-mel spectrogram, mel-major as the reference: value `[mel, frame]` is at `mel * n_frames + frame`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mel {
    /// Number of mel bands (rows).
    pub n_mels: usize,
    /// Number of frames (columns), 10 ms each.
    pub n_frames: usize,
    /// `[n_mels, n_frames]`, row-major.
    pub data: Vec<f32>,
}

impl Mel {
    /// The frames of band `mel`.
    pub fn row(&self, mel: usize) -> &[f32] {
        &self.data[mel * self.n_frames..(mel + 1) * self.n_frames]
    }

    /// Frames `start .. start + len` of every band as `[n_mels, len]`; frames beyond the end are `fill`.
    pub fn window(&self, start: usize, len: usize, fill: f32) -> Vec<f32> {
        let mut out = vec![fill; self.n_mels * len];
        let start = start.min(self.n_frames);
        let kept = len.min(self.n_frames - start);
        if kept > 0 {
            for (mel, row) in out.chunks_exact_mut(len).enumerate() {
                row[..kept].copy_from_slice(&self.row(mel)[start..start + kept]);
            }
        }
        out
    }
}

impl LogMel {
    /// Features with `n_mels` bands from 0 to 8 kHz (Whisper: 80, or 128 since large-v3).
    pub fn new(n_mels: usize) -> Self {
        Self {
            filters: MelFilterBank::new(
                SAMPLE_RATE,
                N_FFT,
                n_mels,
                0.0,
                f64::from(SAMPLE_RATE) / 2.0,
            ),
            stft: Stft::new(N_FFT, HOP_LENGTH),
        }
    }

    /// Number of mel bands.
    pub fn n_mels(&self) -> usize {
        self.filters.n_mels()
    }

    /// Number of frames that [`compute`](Self::compute) gives: one per whole hop of samples and padding.
    pub fn n_frames(&self, n_samples: usize, padding: usize) -> usize {
        (n_samples + padding) / HOP_LENGTH
    }

    /// The spectrogram of 16 kHz mono `samples` followed by `padding` zeros, on the calling thread.
    ///
    /// The reference pads a file by 480000 zeros (30 s), faster-whisper by 160. Padding is nearly free: frames that see only
    /// padding are not transformed. Any length is fine, also none; where reflection reaches beyond a very short input it
    /// goes on to and fro (the reference refuses such input unless padded).
    pub fn compute(&self, samples: &[f32], padding: usize) -> Mel {
        self.compute_with_threads(samples, padding, 1)
    }

    /// As [`compute`](Self::compute), on up to `threads` threads; the result does not depend on their number.
    pub fn compute_with_threads(&self, samples: &[f32], padding: usize, threads: usize) -> Mel {
        let n_mels = self.n_mels();
        let n_frames = self.n_frames(samples.len(), padding);
        let signal = PaddedSignal::new(samples, padding);
        let computed = self.stft.first_silent_frame(signal, n_frames);
        // What the silent frames hold; the others are overwritten.
        let silence = log10(ENERGY_FLOOR);
        let mut data = vec![silence; n_mels * n_frames];
        if n_frames == 0 {
            return Mel {
                n_mels,
                n_frames,
                data,
            };
        }

        let mut rows: Vec<&mut [f32]> = data
            .chunks_exact_mut(n_frames)
            .map(|row| &mut row[..computed])
            .collect();
        let parts = threads.clamp(1, computed.div_ceil(MIN_FRAMES_PER_THREAD).max(1));
        // Whole tiles, so that frames are paired in the same way for any number of threads.
        let frames_per_part = computed.div_ceil(parts).next_multiple_of(TILE);
        let mut maximum = if computed < n_frames {
            silence
        } else {
            f32::NEG_INFINITY
        };
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            let mut first = 0;
            loop {
                let count = frames_per_part.min(computed - first);
                let mut part = Vec::with_capacity(n_mels);
                for row in &mut rows {
                    let (head, tail) = std::mem::take(row).split_at_mut(count);
                    part.push(head);
                    *row = tail;
                }
                let begin = first;
                first += count;
                if first == computed {
                    maximum = maximum.max(self.log_energies(signal, begin, &mut part));
                    break;
                }
                others.push(scope.spawn(move || self.log_energies(signal, begin, &mut part)));
            }
            for other in others {
                match other.join() {
                    Ok(part_maximum) => maximum = maximum.max(part_maximum),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });

        let floor = maximum - DYNAMIC_RANGE;
        for value in &mut data {
            *value = (value.max(floor) + 4.0) / 4.0;
        }
        Mel {
            n_mels,
            n_frames,
            data,
        }
    }

    /// Logarithms of the mel energies of the frames from `first` on into `rows: [n_mels][frames]`; gives their maximum.
    fn log_energies(&self, signal: PaddedSignal<'_>, first: usize, rows: &mut [&mut [f32]]) -> f32 {
        let count = rows.first().map_or(0, |row| row.len());
        let mut scratch = self.stft.scratch();
        let mut power = vec![0.0; self.stft.n_bins() * TILE];
        let mut maximum = [f32::NEG_INFINITY; TILE];
        for begin in (0..count).step_by(TILE) {
            let width = TILE.min(count - begin);
            self.stft
                .power_tile(signal, first + begin, width, &mut scratch, &mut power);
            for (mel, row) in rows.iter_mut().enumerate() {
                let energies = log_energies(self.filters.band(mel), &power);
                for (maximum, energy) in maximum.iter_mut().zip(&energies[..width]) {
                    *maximum = maximum.max(*energy);
                }
                row[begin..begin + width].copy_from_slice(&energies[..width]);
            }
        }
        maximum.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Logarithms of the energies that one filter takes from a tile of power spectra.
pub(super) fn log_energies((first_bin, weights): (usize, &[f32]), power: &[f32]) -> [f32; TILE] {
    let mut energies = [0.0_f32; TILE];
    for (powers, weight) in power[first_bin * TILE..].chunks_exact(TILE).zip(weights) {
        for (energy, power) in energies.iter_mut().zip(powers) {
            *energy += weight * power;
        }
    }
    for energy in &mut energies {
        *energy = log10(energy.max(ENERGY_FLOOR));
    }
    energies
}

/// Decimal logarithm of a positive normal number, within 2e-7 relative or absolute; unlike the library's it vectorises.
///
/// With `x = 2^e m` and `s = (m - 1) / (m + 1)`, `ln m = 2 (s + s³/3 + s⁵/5 + …)`; `m` in `[√½, √2)` keeps `|s| < 0.172`.
#[inline]
fn log10(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let bits = x.to_bits();
    let exponent = (bits.wrapping_sub(SQRT_HALF) as i32) >> 23;
    let mantissa = f32::from_bits(bits.wrapping_sub((exponent << 23) as u32));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    let series = 1.0 + s2 * (1.0 / 3.0 + s2 * (1.0 / 5.0 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0))));
    exponent as f32 * std::f32::consts::LOG10_2 + 2.0 * std::f32::consts::LOG10_E * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..len)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / 8_388_608.0 - 1.0) * (0.5 + 0.5 * (i as f32 * 0.001).sin())
            })
            .collect()
    }

    /// The definition in double precision, for the frames asked for.
    fn reference(samples: &[f32], padding: usize, n_mels: usize) -> Vec<Vec<f64>> {
        let bank = MelFilterBank::new(SAMPLE_RATE, N_FFT, n_mels, 0.0, 8000.0);
        let stft = Stft::<f32>::new(N_FFT, HOP_LENGTH);
        let mut padded = samples.to_vec();
        padded.resize(samples.len() + padding, 0.0);
        let n_frames = padded.len() / HOP_LENGTH;
        let mut rows = vec![vec![0.0; n_frames]; n_mels];
        let mut maximum = f64::NEG_INFINITY;
        for frame in 0..n_frames {
            let power = stft.power(PaddedSignal::new(&padded, 0), frame);
            for (mel, row) in rows.iter_mut().enumerate() {
                let (first, weights) = bank.band(mel);
                let energy: f64 = weights
                    .iter()
                    .zip(&power[first..])
                    .map(|(w, p)| f64::from(*w) * f64::from(*p))
                    .sum();
                row[frame] = energy.max(1e-10).log10();
                maximum = maximum.max(row[frame]);
            }
        }
        for row in &mut rows {
            for value in row {
                *value = (value.max(maximum - 8.0) + 4.0) / 4.0;
            }
        }
        rows
    }

    #[test]
    fn logarithm_is_accurate() {
        let mut x = 1e-10_f32;
        while x < 1e30 {
            let expected = f64::from(x).log10();
            let error = (f64::from(log10(x)) - expected).abs();
            assert!(error <= 2e-7 * expected.abs().max(1.0), "{x}: {error}");
            x *= 1.000_37;
        }
        assert_eq!(log10(1.0), 0.0);
    }

    #[test]
    fn equals_the_definition() {
        for (len, padding, n_mels) in [
            (16_000, 0, 80),
            (16_000, 160, 80),
            (7_777, 3_000, 128),
            (4_000, 48_000, 80),
        ] {
            let samples = noise(len, 7);
            let mel = LogMel::new(n_mels).compute(&samples, padding);
            let expected = reference(&samples, padding, n_mels);
            assert_eq!((mel.n_mels, mel.n_frames), (n_mels, (len + padding) / 160));
            for (band, expected) in expected.iter().enumerate() {
                for (frame, (got, expected)) in mel.row(band).iter().zip(expected).enumerate() {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(error < 1e-5, "band {band} frame {frame}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn any_length_works() {
        let log_mel = LogMel::new(80);
        for len in [
            0, 1, 2, 99, 100, 159, 160, 161, 199, 200, 201, 399, 400, 401,
        ] {
            let samples = noise(len, 3);
            for padding in [0, 160, 480_000] {
                let mel = log_mel.compute(&samples, padding);
                assert_eq!(mel.n_frames, (len + padding) / 160);
                assert_eq!(mel.data.len(), 80 * mel.n_frames);
                assert!(mel.data.iter().all(|v| v.is_finite()));
            }
        }
        // Pure silence: log10(1e-10) = -10 everywhere, which the scaling turns into -1.5.
        let mel = log_mel.compute(&[], 480_000);
        assert!(mel.data.iter().all(|v| (v + 1.5).abs() < 1e-6));
        // Silence given and silence padded are the same.
        assert!(log_mel.compute(&[0.0; 5000], 475_000) == mel);
    }

    #[test]
    fn threads_do_not_matter() {
        let samples = noise(16_000 * 40 + 123, 11);
        let log_mel = LogMel::new(80);
        let one = log_mel.compute(&samples, 480_000);
        for threads in [2, 3, 7] {
            assert!(log_mel.compute_with_threads(&samples, 480_000, threads) == one);
        }
    }

    #[test]
    fn windows_are_cut_and_filled() {
        let mel = Mel {
            n_mels: 2,
            n_frames: 3,
            data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        };
        assert_eq!(mel.window(1, 3, 0.0), [2.0, 3.0, 0.0, 5.0, 6.0, 0.0]);
        assert_eq!(mel.window(9, 2, -1.0), [-1.0; 4]);
        assert_eq!(mel.window(0, 0, 0.0), [0.0; 0]);
    }

    /// Tensor `name` (f32) of a safetensors file: shape and values; just enough of the format for the golden files.
    fn golden(path: &std::path::Path, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let bytes = std::fs::read(path).ok()?;
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let entry = &header[name];
        assert_eq!(entry["dtype"], "F32");
        let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
        let range: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone()).unwrap();
        let data = &bytes[8 + header_len..][range[0]..range[1]];
        let values = data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        Some((shape, values))
    }

    /// Samples of a plain 16-bit mono file with the 44-byte or a longer header.
    fn samples_16_bit(path: &std::path::Path) -> Option<Vec<f32>> {
        let bytes = std::fs::read(path).ok()?;
        let data = bytes.windows(4).position(|w| w == b"data")? + 8;
        Some(
            bytes[data..]
                .chunks_exact(2)
                .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0)
                .collect(),
        )
    }

    #[test]
    fn golden_spectrograms() {
        let shared = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
        let Some(samples) = samples_16_bit(&shared.join("audio/jfk.wav")) else {
            eprintln!("skipped: no ../shared/audio/jfk.wav beside the repository");
            return;
        };
        for file in [
            "stages_tiny.en_jfk",
            "stages_base_jfk",
            "tiny-random/stages_jfk",
        ] {
            let path = shared.join(format!("golden/whisper/{file}.safetensors"));
            let Some((shape, expected)) = golden(&path, "mel") else {
                eprintln!("skipped: no {}", path.display());
                continue;
            };
            let n_mels = shape[shape.len() - 2];
            let n_frames = shape[shape.len() - 1];
            let mel = LogMel::new(n_mels).compute(&samples, 480_000);
            let mut worst = 0.0_f32;
            for band in 0..n_mels {
                for frame in 0..n_frames {
                    let got = mel.row(band)[frame];
                    let error = (got - expected[band * n_frames + frame]).abs();
                    assert!(
                        error < 1e-4,
                        "{file}: band {band} frame {frame}: {got}, off by {error}"
                    );
                    worst = worst.max(error);
                }
            }
            eprintln!("{file}: [{n_mels}, {n_frames}], largest difference {worst:e}");
        }
    }
}
