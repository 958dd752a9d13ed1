//! Triangular filters on the mel scale of Slaney's Auditory Toolbox, as `librosa.filters.mel` has them.
//!
//! The scale is linear below 1 kHz (three mels per 200 Hz) and logarithmic above (27 steps per factor 6.4). Each
//! triangle is divided by half its width, so that all of them have the same area.

/// Hz per mel in the linear part.
const HZ_PER_MEL: f64 = 200.0 / 3.0;
/// Where the scale turns logarithmic.
const KNEE_HZ: f64 = 1000.0;
/// The knee in mel.
const KNEE_MEL: f64 = KNEE_HZ / HZ_PER_MEL;
/// Natural logarithm of the step above the knee: 27 steps are a factor of 6.4.
fn log_step() -> f64 {
    6.4_f64.ln() / 27.0
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < KNEE_HZ {
        hz / HZ_PER_MEL
    } else {
        KNEE_MEL + (hz / KNEE_HZ).ln() / log_step()
    }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < KNEE_MEL {
        mel * HZ_PER_MEL
    } else {
        KNEE_HZ * ((mel - KNEE_MEL) * log_step()).exp()
    }
}

/// A mel filter bank as bands: of each filter only its run of non-zero weights is kept.
#[derive(Debug, Clone)]
pub struct MelFilterBank {
    n_bins: usize,
    bands: Vec<Band>,
    weights: Vec<f32>,
}

/// The non-zero part of one filter.
#[derive(Debug, Clone, Copy)]
struct Band {
    /// First frequency bin with a weight.
    first_bin: usize,
    /// Where the weights start in `MelFilterBank::weights`.
    offset: usize,
    /// Number of weights.
    len: usize,
}

impl MelFilterBank {
    /// Filters for a transform of `n_fft` samples at `sample_rate` Hz, evenly spaced in mel from `f_min` to `f_max` Hz.
    ///
    /// Upstream: `librosa.filters.mel(sr=sample_rate, n_fft, n_mels, fmin=f_min, fmax=f_max, htk=False, norm="slaney")`.
    pub fn new(sample_rate: u32, n_fft: usize, n_mels: usize, f_min: f64, f_max: f64) -> Self {
        let n_bins = n_fft / 2 + 1;
        let (low, high) = (hz_to_mel(f_min), hz_to_mel(f_max));
        let edges: Vec<f64> = (0..n_mels + 2)
            .map(|i| mel_to_hz(low + (high - low) * i as f64 / (n_mels + 1) as f64))
            .collect();
        let mut bands = Vec::with_capacity(n_mels);
        let mut weights = Vec::new();
        for edge in edges.windows(3) {
            let (left, centre, right) = (edge[0], edge[1], edge[2]);
            let area = 2.0 / (right - left);
            let offset = weights.len();
            let mut first_bin = 0;
            for bin in 0..n_bins {
                let hz = bin as f64 * f64::from(sample_rate) / n_fft as f64;
                let rising = (hz - left) / (centre - left);
                let falling = (right - hz) / (right - centre);
                let weight = (rising.min(falling).max(0.0) * area) as f32;
                if weight > 0.0 {
                    if weights.len() == offset {
                        first_bin = bin;
                    }
                    weights.push(weight);
                }
            }
            bands.push(Band {
                first_bin,
                offset,
                len: weights.len() - offset,
            });
        }
        Self {
            n_bins,
            bands,
            weights,
        }
    }

    /// Number of filters.
    pub fn n_mels(&self) -> usize {
        self.bands.len()
    }

    /// Number of frequency bins each filter is defined over: `n_fft / 2 + 1`.
    pub fn n_bins(&self) -> usize {
        self.n_bins
    }

    /// Filter `mel` as its first bin and the weights from there on.
    pub fn band(&self, mel: usize) -> (usize, &[f32]) {
        let band = self.bands[mel];
        (
            band.first_bin,
            &self.weights[band.offset..band.offset + band.len],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_has_its_known_points() {
        assert!((hz_to_mel(8000.0) - 45.245_640_471_924_965).abs() < 1e-12);
        assert_eq!(hz_to_mel(0.0), 0.0);
        assert!((hz_to_mel(1000.0) - 15.0).abs() < 1e-12);
        for hz in [1.0, 440.0, 999.9, 1000.0, 1234.5, 7999.0, 12000.0] {
            assert!((mel_to_hz(hz_to_mel(hz)) - hz).abs() < 1e-8);
        }
    }

    #[test]
    fn filters_are_contiguous_triangles_of_equal_area() {
        for (rate, n_fft, n_mels) in [
            (16000, 400, 80),
            (16000, 400, 128),
            (24000, 1024, 128),
            (8000, 256, 40),
        ] {
            let bank = MelFilterBank::new(rate, n_fft, n_mels, 0.0, f64::from(rate) / 2.0);
            assert_eq!(bank.n_mels(), n_mels);
            assert_eq!(bank.n_bins(), n_fft / 2 + 1);
            for mel in 0..n_mels {
                let (first, weights) = bank.band(mel);
                assert!(first + weights.len() <= bank.n_bins());
                assert!(weights.iter().all(|w| *w > 0.0));
                // Rises, then falls.
                let peak = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b]));
                if let Some(peak) = peak {
                    assert!(weights[..=peak].windows(2).all(|w| w[0] <= w[1]));
                    assert!(weights[peak..].windows(2).all(|w| w[0] >= w[1]));
                }
            }
        }
    }

    /// Values printed by librosa 0.11's formula in double precision for sr = 16000, n_fft = 400.
    #[test]
    fn first_filters_of_whisper() {
        let bank = MelFilterBank::new(16000, 400, 80, 0.0, 8000.0);
        let (first, weights) = bank.band(0);
        assert_eq!((first, weights.len()), (1, 1));
        // The only bin (40 Hz) lies on the falling side of a triangle with edges 0, 37.24 and 74.48 Hz.
        let width = mel_to_hz(2.0 * hz_to_mel(8000.0) / 81.0);
        let expected = (width - 40.0) / (width / 2.0) * 2.0 / width;
        assert!((f64::from(weights[0]) - expected).abs() < 1e-8);
    }
}
