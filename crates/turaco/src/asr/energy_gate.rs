//! Whether a moment of sound can be a voice at all: a few sums instead of a network.
//!
//! The measures and limits are those of the seed project's server-side detector: level, energy, peak, and where a decision is
//! close, the centre of the spectrum and the rate of zero crossings.

use std::fmt;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

/// Limits between sound that can be a voice and sound that cannot.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EnergyLimits {
    /// Root of the mean square, at least.
    pub rms: f32,
    /// Mean square, at least.
    pub energy: f32,
    /// Largest absolute value, at least.
    pub peak: f32,
    /// Centre of the spectrum in Hz, at least.
    pub centroid: f32,
    /// Zero crossings per sample, at most.
    pub zero_crossings: f32,
}

impl Default for EnergyLimits {
    fn default() -> Self {
        Self {
            rms: 0.015,
            energy: 3e-6,
            peak: 0.005,
            centroid: 400.0,
            zero_crossings: 0.2,
        }
    }
}

impl EnergyLimits {
    /// Limits for another level of sound.
    #[must_use]
    pub fn rms(mut self, rms: f32) -> Self {
        self.rms = rms;
        self
    }
}

/// Judges chunks of sound by their energy.
#[derive(Clone)]
pub struct EnergyGate {
    limits: EnergyLimits,
    sample_rate: f32,
    fft: Arc<dyn Fft<f32>>,
    spectrum: Vec<Complex<f32>>,
}

impl EnergyGate {
    /// A gate for chunks of `chunk_len` samples.
    pub fn new(limits: EnergyLimits, sample_rate: u32, chunk_len: usize) -> Self {
        Self {
            limits,
            sample_rate: sample_rate as f32,
            fft: FftPlanner::new().plan_fft_forward(chunk_len.max(1)),
            spectrum: Vec::new(),
        }
    }

    /// Whether a chunk can be a voice: loud enough by all measures, or by two of three with the spectrum of one.
    pub fn passes(&mut self, chunk: &[f32]) -> bool {
        if chunk.is_empty() {
            return false;
        }
        let limits = self.limits;
        let n = chunk.len() as f32;
        let energy = chunk.iter().map(|x| x * x).sum::<f32>() / n;
        let peak = chunk.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
        let loud = [
            energy.sqrt() > limits.rms,
            energy > limits.energy,
            peak > limits.peak,
        ];
        match loud.into_iter().filter(|&passed| passed).count() {
            3 => true,
            2 => {
                let crossings = chunk
                    .windows(2)
                    .filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0))
                    .count();
                crossings as f32 / n < limits.zero_crossings
                    && self.centroid(chunk) > limits.centroid
            }
            _ => false,
        }
    }

    /// The centre of the spectrum, in Hz.
    fn centroid(&mut self, chunk: &[f32]) -> f32 {
        let n = self.fft.len();
        self.spectrum.clear();
        // A window, without which every sound is spread over the whole spectrum.
        let step = std::f32::consts::TAU / n as f32;
        let windowed = chunk.iter().take(n).enumerate().map(|(i, &x)| {
            let weight = 0.5 - 0.5 * (step * i as f32).cos();
            Complex::new(x * weight, 0.0)
        });
        self.spectrum.extend(windowed);
        self.spectrum.resize(n, Complex::default());
        self.fft.process(&mut self.spectrum);
        let (mut weighted, mut total) = (0.0, 0.0);
        for (bin, value) in self.spectrum[..=n / 2].iter().enumerate() {
            let magnitude = value.norm();
            weighted += magnitude * bin as f32;
            total += magnitude;
        }
        match total > 0.0 {
            true => weighted / total * self.sample_rate / n as f32,
            false => 0.0,
        }
    }
}

impl fmt::Debug for EnergyGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnergyGate")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f32, level: f32) -> Vec<f32> {
        let step = std::f32::consts::TAU * hertz / 16_000.0;
        (0..512).map(|i| level * (step * i as f32).sin()).collect()
    }

    #[test]
    fn loud_sound_passes_and_silence_does_not() {
        let mut gate = EnergyGate::new(EnergyLimits::default(), 16_000, 512);
        assert!(gate.passes(&tone(150.0, 0.1)));
        assert!(!gate.passes(&tone(150.0, 0.001)));
        assert!(!gate.passes(&[0.0; 512]));
        assert!(!gate.passes(&[]));
        assert!(!gate.passes(&[f32::NAN; 512]));
    }

    #[test]
    fn the_spectrum_decides_where_it_is_close() {
        let mut gate = EnergyGate::new(EnergyLimits::default(), 16_000, 512);
        // Too quiet by level alone: a hum is no voice, a vowel's middle may be, a hiss is none.
        assert!(!gate.passes(&tone(100.0, 0.012)));
        assert!(gate.passes(&tone(900.0, 0.012)));
        assert!(!gate.passes(&tone(6000.0, 0.012)));
    }
}
