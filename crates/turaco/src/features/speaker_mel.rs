//! The mel spectrogram of Qwen3-TTS' speaker encoder (`qwen_tts/core/models/modeling_qwen3_tts.py: mel_spectrogram`).
//!
//! ```text
//! reflect 384 samples at both ends → Hann windows of 1024 every 256 → |FFT| → mel filters → ln(max(·, 1e-5))
//! ```

use super::mel::MelFilterBank;
use super::stft::{PaddedSignal, Stft};

/// Samples per window.
const N_FFT: usize = 1024;
/// Samples between windows.
const HOP_LENGTH: usize = 256;
/// Samples that are reflected at each end.
const REFLECTED: usize = (N_FFT - HOP_LENGTH) / 2;
/// Added to the power before the root.
const POWER_OFFSET: f32 = 1e-9;
/// Smallest magnitude that is told apart from silence.
const FLOOR: f32 = 1e-5;

/// Computes such spectrograms.
#[derive(Debug, Clone)]
pub struct SpeakerMel {
    filters: MelFilterBank,
    stft: Stft,
}

impl SpeakerMel {
    /// Features with `n_mels` bands from 0 to half of `sample_rate`.
    pub fn new(sample_rate: u32, n_mels: usize) -> Self {
        let highest = f64::from(sample_rate) / 2.0;
        Self {
            filters: MelFilterBank::new(sample_rate, N_FFT, n_mels, 0.0, highest),
            stft: Stft::new(N_FFT, HOP_LENGTH),
        }
    }

    /// The fewest samples that give `n_frames` frames (at least one that reflects).
    pub fn samples_for(&self, n_frames: usize) -> usize {
        let windows = n_frames.saturating_sub(1) * HOP_LENGTH + N_FFT;
        windows.saturating_sub(2 * REFLECTED).max(REFLECTED + 1)
    }

    /// `[n_frames, n_mels]`, and the number of frames; none if there are not enough samples to reflect.
    pub fn compute(&self, samples: &[f32]) -> (Vec<f32>, usize) {
        if samples.len() <= REFLECTED {
            return (Vec::new(), 0);
        }
        let last = samples.len() - 1;
        let before = (1..=REFLECTED).rev().map(|index| samples[index]);
        let after = (last - REFLECTED..last).rev().map(|index| samples[index]);
        let padded: Vec<f32> = before.chain(samples.iter().copied()).chain(after).collect();
        let n_frames = (padded.len() - N_FFT) / HOP_LENGTH + 1;
        // The transform's frames are centred; the first one that begins with the signal is this one.
        let first = N_FFT / 2 / HOP_LENGTH;
        let n_mels = self.filters.n_mels();
        let mut mel = Vec::with_capacity(n_frames * n_mels);
        for frame in 0..n_frames {
            let mut power = self
                .stft
                .power(PaddedSignal::new(&padded, 0), first + frame);
            for value in &mut power {
                *value = (*value + POWER_OFFSET).sqrt();
            }
            for band in 0..n_mels {
                let (first_bin, weights) = self.filters.band(band);
                let magnitudes = power[first_bin..].iter().zip(weights);
                let sum: f32 = magnitudes
                    .map(|(magnitude, weight)| magnitude * weight)
                    .sum();
                mel.push(sum.max(FLOOR).ln());
            }
        }
        (mel, n_frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_silence() {
        let mel = SpeakerMel::new(24_000, 80);
        assert_eq!(mel.compute(&[0.0; 384]).1, 0);
        assert_eq!(mel.compute(&vec![0.0; mel.samples_for(3)]).1, 3);
        let (values, n_frames) = mel.compute(&[0.0; 24_000]);
        assert_eq!(n_frames, (24_000 + 768 - 1024) / 256 + 1);
        assert_eq!(values.len(), n_frames * 80);
        assert!(values.iter().all(|value| *value >= FLOOR.ln()));
    }
}
