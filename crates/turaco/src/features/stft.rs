//! Short-time Fourier transform: power spectra of overlapping windows.
//!
//! Two real frames travel through one complex transform, one as the real and one as the imaginary part; the symmetry of real
//! spectra takes them apart again. Frames are handled in tiles, and a tile's spectra are stored frequency by frequency, so that
//! everything that follows runs over contiguous frames.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::num_traits::ToPrimitive;
use rustfft::{Fft, FftNum, FftPlanner};

/// Frames handled together; even, because they are transformed in pairs.
pub(super) const TILE: usize = 16;

/// Samples followed by zeros, continued at both ends by reflection (without repeating the end sample), as
/// `torch.stft(center=True, pad_mode="reflect")` sees `torch.nn.functional.pad(samples, (0, zeros))`.
#[derive(Debug, Clone, Copy)]
pub struct PaddedSignal<'a> {
    samples: &'a [f32],
    zeros: usize,
}

impl<'a> PaddedSignal<'a> {
    /// `samples` and after them `zeros` zeros.
    pub fn new(samples: &'a [f32], zeros: usize) -> Self {
        Self { samples, zeros }
    }

    /// Length including the zeros, without the reflections.
    pub fn len(&self) -> usize {
        self.samples.len() + self.zeros
    }

    /// Whether there is not one sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample at `index`, which may lie before the start or after the end.
    fn at(&self, index: isize) -> f32 {
        self.samples
            .get(self.reflect(index))
            .copied()
            .unwrap_or(0.0)
    }

    /// Where reflection finds the sample of `index`.
    fn reflect(&self, index: isize) -> usize {
        let last = self.len().saturating_sub(1) as isize;
        if last == 0 {
            return 0;
        }
        // The continued signal repeats every 2 * last samples.
        let folded = index.rem_euclid(2 * last);
        folded.min(2 * last - folded) as usize
    }

    /// The samples from `start` if all of them are stored ones.
    fn slice(&self, start: isize, len: usize) -> Option<&'a [f32]> {
        let start = usize::try_from(start).ok()?;
        self.samples.get(start..start + len)
    }

    /// Whether `len` values from `start` on are padding, and so zero.
    fn is_padding(&self, start: isize, len: usize) -> bool {
        let end = start + len as isize - 1;
        let total = self.len() as isize;
        let padding_begins = self.samples.len() as isize;
        start >= padding_begins
            && (end < total || (end < 2 * total - 1 && 2 * (total - 1) - end >= padding_begins))
    }
}

/// A plan for power spectra of windows of `n_fft` samples, `hop_length` samples apart, centred on their positions.
///
/// The transform computes with `T`. In `f32`, the rounding of a loud frame shows in the quiet one that travels with it,
/// about eight decades below.
#[derive(Clone)]
pub struct Stft<T: FftNum = f32> {
    hop_length: usize,
    window: Vec<T>,
    fft: Arc<dyn Fft<T>>,
}

/// Buffers of one thread.
pub(super) struct Scratch<T> {
    /// `TILE / 2` transforms of `n_fft` values.
    pairs: Vec<Complex<T>>,
    fft: Vec<Complex<T>>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl<T: FftNum + ToPrimitive> Stft<T> {
    /// A plan with the periodic Hann window `0.5 - 0.5 cos(2 pi i / n_fft)`.
    pub fn new(n_fft: usize, hop_length: usize) -> Self {
        let window = (0..n_fft)
            .map(|i| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n_fft as f64).cos())
            // Every float type has such numbers.
            .map(|weight| T::from_f64(weight).unwrap_or_else(T::zero))
            .collect();
        Self {
            hop_length,
            window,
            fft: FftPlanner::new().plan_fft_forward(n_fft),
        }
    }

    /// Number of frequencies: `n_fft / 2 + 1`.
    pub fn n_bins(&self) -> usize {
        self.window.len() / 2 + 1
    }

    /// Number of frames of a signal of `len` samples: one per started hop, `1 + len / hop_length`.
    pub fn n_frames(&self, len: usize) -> usize {
        1 + len / self.hop_length
    }

    /// The power spectrum `|X|^2` of frame `index` (centred on sample `index * hop_length`): `[n_bins]`.
    pub fn power(&self, signal: PaddedSignal<'_>, index: usize) -> Vec<f32> {
        let mut tile = vec![0.0; self.n_bins() * TILE];
        self.power_tile(signal, index, 1, &mut self.scratch(), &mut tile);
        tile.iter().step_by(TILE).copied().collect()
    }

    pub(super) fn scratch(&self) -> Scratch<T> {
        let n_fft = self.window.len();
        Scratch {
            pairs: vec![Complex::new(T::zero(), T::zero()); n_fft * TILE / 2],
            fft: vec![Complex::new(T::zero(), T::zero()); self.fft.get_inplace_scratch_len()],
            first: vec![0.0; n_fft],
            second: vec![0.0; n_fft],
        }
    }

    /// Index of the first frame from which on all frames before `end` see nothing but padding.
    pub(super) fn first_silent_frame(&self, signal: PaddedSignal<'_>, end: usize) -> usize {
        let silent = |frame: usize| signal.is_padding(self.start(frame), self.window.len());
        // The last sample is seen by the frames up to half a window behind it.
        let first = (signal.samples.len() + self.window.len() / 2).div_ceil(self.hop_length);
        if first < end && silent(first) && silent(end - 1) {
            first
        } else {
            end
        }
    }

    /// Power spectra of the frames `first .. first + count` (`count <= TILE`) into `power: [n_bins, TILE]`.
    pub(super) fn power_tile(
        &self,
        signal: PaddedSignal<'_>,
        first: usize,
        count: usize,
        scratch: &mut Scratch<T>,
        power: &mut [f32],
    ) {
        let n_fft = self.window.len();
        let n_pairs = count.min(TILE).div_ceil(2);
        let pairs = &mut scratch.pairs[..n_pairs * n_fft];
        for (pair, values) in pairs.chunks_exact_mut(n_fft).enumerate() {
            let first_frame = first + 2 * pair;
            let a = frame(signal, self.start(first_frame), &mut scratch.first);
            let b = frame(signal, self.start(first_frame + 1), &mut scratch.second);
            let wide = |sample: &f32| T::from_f32(*sample).unwrap_or_else(T::zero);
            for (((value, a), b), &window) in values.iter_mut().zip(a).zip(b).zip(&self.window) {
                *value = Complex::new(wide(a) * window, wide(b) * window);
            }
        }
        self.fft.process_with_scratch(pairs, &mut scratch.fft);
        for (pair, values) in pairs.chunks_exact(n_fft).enumerate() {
            // With z = a + i b: 2 A[k] = Z[k] + conj(Z[n - k]) and 2 i B[k] = Z[k] - conj(Z[n - k]).
            let powers = power.chunks_exact_mut(TILE);
            let mirrored = std::iter::once(&values[0]).chain(values[1..].iter().rev());
            for ((out, z), m) in powers.zip(values).zip(mirrored) {
                let (a_re, a_im) = (z.re + m.re, z.im - m.im);
                let (b_re, b_im) = (z.im + m.im, z.re - m.re);
                let narrow = |square: T| 0.25 * square.to_f32().unwrap_or_default();
                out[2 * pair] = narrow(a_re * a_re + a_im * a_im);
                out[2 * pair + 1] = narrow(b_re * b_re + b_im * b_im);
            }
        }
    }

    /// First sample of a frame; negative at the start, because frames are centred.
    fn start(&self, frame: usize) -> isize {
        (frame * self.hop_length) as isize - (self.window.len() / 2) as isize
    }
}

impl<T: FftNum> std::fmt::Debug for Stft<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stft")
            .field("n_fft", &self.window.len())
            .field("hop_length", &self.hop_length)
            .finish()
    }
}

/// The samples of a frame, in place where possible.
fn frame<'a>(signal: PaddedSignal<'a>, start: isize, buffer: &'a mut [f32]) -> &'a [f32] {
    if let Some(samples) = signal.slice(start, buffer.len()) {
        return samples;
    }
    for (index, value) in buffer.iter_mut().enumerate() {
        *value = signal.at(start + index as isize);
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<f32> {
        let mut state = 1_u32;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// The definition, in double precision.
    fn reference(signal: &[f32], n_fft: usize, hop: usize, index: usize) -> Vec<f64> {
        let padded = |i: isize| {
            let last = signal.len() as isize - 1;
            let i = if i < 0 { -i } else { i };
            signal[if i > last { 2 * last - i } else { i } as usize]
        };
        (0..=n_fft / 2)
            .map(|k| {
                let (mut re, mut im) = (0.0, 0.0);
                for i in 0..n_fft {
                    let window =
                        0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n_fft as f64).cos();
                    let x = f64::from(padded((index * hop + i) as isize - (n_fft / 2) as isize))
                        * window;
                    let angle = std::f64::consts::TAU * ((k * i) % n_fft) as f64 / n_fft as f64;
                    re += x * angle.cos();
                    im -= x * angle.sin();
                }
                re * re + im * im
            })
            .collect()
    }

    #[test]
    fn equals_the_definition() {
        for (n_fft, hop) in [(400, 160), (256, 64), (1024, 256), (50, 7)] {
            let signal = noise(3 * n_fft + 17);
            let stft = Stft::<f32>::new(n_fft, hop);
            for index in [0, 1, 2, stft.n_frames(signal.len()) - 1] {
                let got = stft.power(PaddedSignal::new(&signal, 0), index);
                let expected = reference(&signal, n_fft, hop, index);
                let peak = expected.iter().copied().fold(0.0, f64::max);
                for (bin, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error < 1e-5 * peak,
                        "n_fft {n_fft} frame {index} bin {bin}: {got} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn reflection_works_for_any_length() {
        let signal = [1.0, 2.0, 3.0];
        let padded = PaddedSignal::new(&signal, 0);
        let seen: Vec<f32> = (-5..8).map(|i| padded.at(i)).collect();
        assert_eq!(
            seen,
            [
                2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0
            ]
        );
        assert_eq!(PaddedSignal::new(&[], 0).at(-3), 0.0);
        assert_eq!(PaddedSignal::new(&[4.0], 0).at(7), 4.0);
    }

    #[test]
    fn silent_frames_are_those_without_a_sample() {
        let stft = Stft::<f32>::new(400, 160);
        for (len, zeros) in [
            (0, 480_000),
            (1, 480_000),
            (1000, 480_000),
            (1600, 160),
            (1600, 600),
            (1599, 1000),
        ] {
            let signal = vec![1.0; len];
            let padded = PaddedSignal::new(&signal, zeros);
            let end = stft.n_frames(padded.len()) - 1;
            let first = stft.first_silent_frame(padded, end);
            for frame in 0..end.min(40) {
                let start = stft.start(frame);
                let silent = (0..400).all(|i| padded.at(start + i) == 0.0);
                if frame >= first {
                    assert!(silent, "len {len} zeros {zeros} frame {frame}");
                }
            }
            // The long padding is not computed.
            if zeros == 480_000 {
                assert!(first <= (len + 200) / 160 + 1);
            }
        }
    }
}
