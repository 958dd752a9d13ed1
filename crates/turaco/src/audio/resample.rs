//! Change of sample rate by windowed-sinc interpolation.
//!
//! Output sample `k` lies at input position `k * input / output`. It is the product of the surrounding input with a sinc that cuts
//! off below the lower of both Nyquist frequencies, under a Kaiser window (J. O. Smith, "Digital Audio Resampling"; window design
//! after Kaiser). For two integer rates only `output / gcd` different fractions occur, so the kernels are tabulated once; ratios
//! with very many fractions interpolate linearly between neighbouring kernels.
//!
//! Pass band (flat to 0.001 dB) up to 89 % of the lower Nyquist frequency, stop band (below -100 dB) from 100 % on. The filter
//! is symmetric and centred: there is no delay.

use crate::{Error, Result};

/// Zero crossings of the sinc on each side of its centre.
const ZERO_CROSSINGS: f64 = 64.0;
/// Cut-off as a share of the lower Nyquist frequency: the middle of the transition that ends at 1.
const CUTOFF: f64 = 0.945;
/// Kaiser's parameter for 110 dB of stop-band attenuation: `0.1102 (110 - 8.7)`.
const KAISER_BETA: f64 = 11.16;
/// Most kernels tabulated; 1024 make the error of linear interpolation between them smaller than the stop band.
const MAX_PHASES: u64 = 1024;
/// Products are summed in this many lanes.
const LANES: usize = 16;
/// Input kept before consumed samples are dropped.
const COMPACT_AT: usize = 1 << 15;

/// Lowest sample rate that is accepted.
pub(super) const MIN_SAMPLE_RATE: u32 = 100;
/// Highest sample rate that is accepted.
pub(super) const MAX_SAMPLE_RATE: u32 = 1_000_000;

/// Whether a sample rate can be worked with.
pub(crate) fn accepts(rate: u32) -> bool {
    (MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&rate)
}

/// What to say about a rate that is not accepted.
pub(crate) fn refusal(rate: u32) -> String {
    format!("a sample rate of {rate} Hz is outside {MIN_SAMPLE_RATE}..={MAX_SAMPLE_RATE} Hz")
}

/// Converts a stream of mono samples from one rate to another; chunk sizes do not change the result.
#[derive(Debug, Clone)]
pub struct Resampler {
    /// Rates divided by their greatest common divisor.
    input: u64,
    output: u64,
    kernels: Kernels,
    /// Input not yet behind all kernels; `buffer[0]` has index `first - half` of the stream, with zeros before its start.
    buffer: Vec<f32>,
    /// Samples of `buffer` that no later output needs.
    consumed: usize,
    /// Position of the next output between two inputs, in units of `1 / output`.
    fraction: u64,
    received: u64,
    produced: u64,
}

/// Kernels for all fractions between two input samples.
#[derive(Debug, Clone)]
struct Kernels {
    /// `[phases, taps]`; one more phase than `exact` ones when interpolating.
    table: Vec<f32>,
    /// Multiple of `LANES`, so `taps / 2` inputs on each side.
    taps: usize,
    /// Number of tabulated fractions of one input sample if they are not all of them.
    interpolated: Option<u64>,
}

impl Resampler {
    /// A converter from `input_rate` to `output_rate` Hz.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if a rate is outside 100 Hz to 1 MHz.
    pub fn new(input_rate: u32, output_rate: u32) -> Result<Self> {
        for rate in [input_rate, output_rate] {
            if !accepts(rate) {
                return Err(Error::InvalidOption {
                    option: "sample_rate",
                    message: refusal(rate),
                });
            }
        }
        let divisor = gcd(input_rate, output_rate);
        let (input, output) = (
            u64::from(input_rate / divisor),
            u64::from(output_rate / divisor),
        );
        let kernels = Kernels::new(input, output);
        // The first output is centred on the first input, with silence before it.
        let buffer = vec![0.0; kernels.taps / 2 - 1];
        Ok(Self {
            input,
            output,
            kernels,
            buffer,
            consumed: 0,
            fraction: 0,
            received: 0,
            produced: 0,
        })
    }

    /// Take `samples` and append what can be computed so far to `out`.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.received += samples.len() as u64;
        if self.input == self.output {
            out.extend_from_slice(samples);
            return;
        }
        self.buffer.extend_from_slice(samples);
        self.produce(u64::MAX, out);
        if self.consumed >= COMPACT_AT {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
    }

    /// Append the rest, so that `n` inputs have given `round(n * output / input)` outputs in all.
    pub fn finish(mut self, out: &mut Vec<f32>) {
        if self.input == self.output {
            return;
        }
        let total = resampled_len(self.received, self.input, self.output);
        let missing =
            self.kernels.taps + usize::try_from(self.input / self.output).unwrap_or(0) + 1;
        self.buffer.resize(self.buffer.len() + missing, 0.0);
        self.produce(total, out);
    }

    /// Compute outputs while their input is there and fewer than `limit` have been made.
    fn produce(&mut self, limit: u64, out: &mut Vec<f32>) {
        let (step, remainder) = (
            (self.input / self.output) as usize,
            self.input % self.output,
        );
        while self.produced < limit {
            let Some(input) = self
                .buffer
                .get(self.consumed..self.consumed + self.kernels.taps)
            else {
                break;
            };
            out.push(self.kernels.apply(input, self.fraction, self.output));
            self.produced += 1;
            self.consumed += step;
            self.fraction += remainder;
            if self.fraction >= self.output {
                self.fraction -= self.output;
                self.consumed += 1;
            }
        }
    }
}

impl Kernels {
    fn new(input: u64, output: u64) -> Self {
        // Cut-off as a share of the input's Nyquist frequency.
        let cutoff = CUTOFF * (output as f64 / input as f64).min(1.0);
        let half = ((ZERO_CROSSINGS / cutoff).ceil() as usize).next_multiple_of(LANES / 2);
        let taps = 2 * half;
        let interpolated = (output > MAX_PHASES).then_some(MAX_PHASES);
        let phases = interpolated.unwrap_or(output);
        let rows = phases + u64::from(interpolated.is_some());
        let mut table = Vec::with_capacity(rows as usize * taps);
        let mut kernel = vec![0.0_f64; taps];
        for phase in 0..rows {
            let fraction = phase as f64 / phases as f64;
            for (tap, value) in kernel.iter_mut().enumerate() {
                let distance = tap as f64 - (half - 1) as f64 - fraction;
                *value = sinc(cutoff * distance) * kaiser(distance / half as f64);
            }
            // A constant stays the same constant whatever the phase.
            let sum: f64 = kernel.iter().sum();
            table.extend(kernel.iter().map(|value| (value / sum) as f32));
        }
        Self {
            table,
            taps,
            interpolated,
        }
    }

    /// The output at `fraction / denominator` behind the centre of `input: [taps]`.
    fn apply(&self, input: &[f32], fraction: u64, denominator: u64) -> f32 {
        let row = |phase: u64| &self.table[phase as usize * self.taps..][..self.taps];
        match self.interpolated {
            None => dot(row(fraction), input),
            Some(phases) => {
                let position = fraction * phases;
                let (phase, rest) = (position / denominator, position % denominator);
                let weight = (rest as f64 / denominator as f64) as f32;
                let (left, right) = (dot(row(phase), input), dot(row(phase + 1), input));
                left + weight * (right - left)
            }
        }
    }
}

/// Number of samples that `len` samples become: `round(len * output / input)`.
fn resampled_len(len: u64, input: u64, output: u64) -> u64 {
    let (len, input, output) = (u128::from(len), u128::from(input), u128::from(output));
    u64::try_from((2 * len * output + input) / (2 * input)).unwrap_or(u64::MAX)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn sinc(x: f64) -> f64 {
    let x = std::f64::consts::PI * x;
    if x.abs() < 1e-9 { 1.0 } else { x.sin() / x }
}

/// The Kaiser window over `-1..=1`, not normalised.
fn kaiser(x: f64) -> f64 {
    if x.abs() > 1.0 {
        return 0.0;
    }
    bessel_i0(KAISER_BETA * (1.0 - x * x).sqrt())
}

/// Modified Bessel function of the first kind and order zero, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let quarter_square = x * x / 4.0;
    let (mut term, mut sum, mut k) = (1.0, 1.0, 1.0);
    while term > 1e-16 * sum {
        term *= quarter_square / (k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

/// Scalar product of two slices whose length is a multiple of `LANES`.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(rate: u32, hz: f64, len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| (0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate)).sin()) as f32)
            .collect()
    }

    fn resample(samples: &[f32], from: u32, to: u32, chunk: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(from, to).unwrap();
        let mut out = Vec::new();
        for part in samples.chunks(chunk) {
            resampler.push(part, &mut out);
        }
        resampler.finish(&mut out);
        out
    }

    /// Signal to error in dB away from the ends, where the sine begins and stops abruptly.
    fn snr(got: &[f32], expected: &[f32], margin: usize) -> f64 {
        let range = margin..got.len() - margin;
        let signal: f64 = expected[range.clone()]
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum();
        let error: f64 = range.map(|i| f64::from(got[i] - expected[i]).powi(2)).sum();
        10.0 * (signal / error).log10()
    }

    const PAIRS: [(u32, u32); 10] = [
        (44_100, 16_000),
        (48_000, 16_000),
        (22_050, 16_000),
        (8_000, 16_000),
        (24_000, 16_000),
        (16_000, 24_000),
        (96_000, 16_000),
        (44_099, 16_000),
        (11_025, 16_000),
        (16_000, 48_001),
    ];

    #[test]
    fn pass_band_is_kept() {
        for (from, to) in PAIRS {
            let nyquist = f64::from(from.min(to)) / 2.0;
            for share in [0.02, 0.3, 0.7, 0.88] {
                let hz = share * nyquist;
                let out = resample(&sine(from, hz, from as usize / 2), from, to, usize::MAX);
                let expected = sine(to, hz, out.len());
                let snr = snr(&out, &expected, to as usize / 10);
                assert!(snr > 95.0, "{from} to {to}, {hz} Hz: {snr:.1} dB");
            }
        }
    }

    #[test]
    fn aliases_are_suppressed() {
        for (from, to) in [
            (44_100, 16_000),
            (48_000, 16_000),
            (96_000, 16_000),
            (44_099, 16_000),
            (16_000, 8_000),
        ] {
            for hz in [
                f64::from(to) * 0.5005,
                f64::from(to) * 0.6,
                f64::from(from) * 0.49,
            ] {
                let out = resample(&sine(from, hz, from as usize / 2), from, to, usize::MAX);
                let margin = to as usize / 10;
                let middle = &out[margin..out.len() - margin];
                let power =
                    middle.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / middle.len() as f64;
                let level = 10.0 * (power / 0.125).log10();
                assert!(level < -95.0, "{from} to {to}, {hz} Hz: {level:.1} dB");
            }
        }
    }

    #[test]
    fn length_is_exact_for_any_input() {
        for (from, to) in PAIRS {
            for len in [0_usize, 1, 2, 3, 10, 147, 1000, 4411] {
                let out = resample(&vec![0.25; len], from, to, usize::MAX);
                let expected = (len as f64 * f64::from(to) / f64::from(from)).round() as usize;
                assert_eq!(out.len(), expected, "{len} samples, {from} to {to}");
            }
        }
    }

    #[test]
    fn chunks_do_not_matter() {
        for (from, to) in [(44_100, 16_000), (8_000, 16_000), (44_099, 16_000)] {
            let samples = sine(from, 1234.5, 50_000);
            let whole = resample(&samples, from, to, usize::MAX);
            for chunk in [1, 7, 480, 4096] {
                assert!(
                    resample(&samples, from, to, chunk) == whole,
                    "{from} to {to} by {chunk}"
                );
            }
        }
    }

    #[test]
    fn an_impulse_stays_where_it_is() {
        let mut samples = vec![0.0; 48_000];
        samples[24_000] = 1.0;
        let out = resample(&samples, 48_000, 16_000, usize::MAX);
        let peak = (0..out.len())
            .max_by(|a, b| out[*a].total_cmp(&out[*b]))
            .unwrap();
        assert_eq!(peak, 8_000);
        for distance in 1..100 {
            assert!((out[peak - distance] - out[peak + distance]).abs() < 1e-7);
        }
    }

    #[test]
    fn equal_rates_change_nothing() {
        let samples = sine(16_000, 100.0, 1000);
        assert!(resample(&samples, 16_000, 16_000, 33) == samples);
    }

    #[test]
    fn impossible_rates_are_refused() {
        for (from, to) in [
            (0, 16_000),
            (16_000, 0),
            (1 << 31, 16_000),
            (99, 16_000),
            (16_000, u32::MAX),
        ] {
            assert!(Resampler::new(from, to).is_err());
        }
        // The extremes that are accepted work.
        assert_eq!(resample(&[0.0; 1000], 1_000_000, 100, 64).len(), 0);
        assert_eq!(resample(&[0.0; 100], 100, 1_000_000, 64).len(), 1_000_000);
        assert_eq!(resample(&[0.0; 10_000], 999_983, 16_000, 64).len(), 160);
    }
}
