//! Faster or slower sound of the same pitch: waveform similarity overlap-add (Verhelst and Roelands 1993).
//!
//! Windows of 40 ms are taken from the sound at one pace and put down at another, half overlapping. Each is taken where it
//! goes on most like the sound before it, up to 10 ms from where it should be.

use crate::{Error, Result};

/// Changes the pace of a stream of mono samples; chunk sizes do not change the result.
#[derive(Debug, Clone)]
pub struct TimeStretcher {
    speed: f64,
    /// Half a window.
    hop: usize,
    /// How far a window may be from its place.
    reach: usize,
    /// Input from sample `first` on.
    buffer: Vec<f32>,
    first: usize,
    /// Windows so far.
    n_windows: usize,
    /// Where the sound goes on behind the last window.
    next: usize,
    received: usize,
    produced: usize,
}

/// Speeds that still sound like somebody.
const SPEEDS: std::ops::RangeInclusive<f32> = 0.25..=4.0;

impl TimeStretcher {
    /// `speed` above 1 is faster.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a speed outside 0.25 to 4.
    pub fn new(sample_rate: u32, speed: f32) -> Result<Self> {
        if !SPEEDS.contains(&speed) {
            return Err(Error::InvalidOption {
                option: "speed",
                message: format!("{speed} is outside {} to {}", SPEEDS.start(), SPEEDS.end()),
            });
        }
        let hop = (sample_rate as usize / 50).max(2);
        Ok(Self {
            speed: f64::from(speed),
            hop,
            reach: hop / 2,
            buffer: Vec::new(),
            first: 0,
            n_windows: 0,
            next: 0,
            received: 0,
            produced: 0,
        })
    }

    /// More sound; appends to `out` what is settled by it.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.received += samples.len();
        if (self.speed - 1.0).abs() < 1e-6 {
            out.extend_from_slice(samples);
            self.produced += samples.len();
            return;
        }
        self.buffer.extend_from_slice(samples);
        self.advance(out);
    }

    /// There is no more sound.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let wanted = (self.received as f64 / self.speed).round() as usize;
        if self.produced >= wanted {
            return;
        }
        // Silence behind the end lets the last windows come.
        let silence =
            vec![0.0; 4 * (self.hop + self.reach) + self.hop * (self.speed.ceil() as usize)];
        self.buffer.extend(silence);
        let before = self.produced;
        let start = out.len();
        self.advance(out);
        let missing = wanted - before;
        out.resize(start + missing, 0.0);
        self.produced = wanted;
    }

    fn advance(&mut self, out: &mut Vec<f32>) {
        loop {
            let place = (self.n_windows as f64 * self.hop as f64 * self.speed).round() as usize;
            let end = self.first + self.buffer.len();
            // A window, where it may lie, and half a window behind it.
            if place.max(self.next) + self.reach + 3 * self.hop > end {
                return;
            }
            let at = match self.n_windows {
                0 => place,
                _ => self.most_alike(place),
            };
            for n in 0..self.hop {
                let new = self.sample(at + n);
                let fade = (n as f32 + 0.5) / self.hop as f32;
                // The end of the window before, under this one's beginning; the two weights add up to 1.
                let weight = 0.5 - 0.5 * (std::f32::consts::PI * fade).cos();
                out.push(match self.n_windows {
                    0 => new,
                    _ => self.sample(self.next + n) * (1.0 - weight) + new * weight,
                });
            }
            self.produced += self.hop;
            self.next = at + self.hop;
            self.n_windows += 1;
            let kept = self.next.min(place.saturating_sub(self.reach));
            if kept > self.first + 16 * self.hop {
                self.buffer.drain(..kept - self.first);
                self.first = kept;
            }
        }
    }

    fn sample(&self, at: usize) -> f32 {
        self.buffer
            .get(at.wrapping_sub(self.first))
            .copied()
            .unwrap_or(0.0)
    }

    /// The place near `place` from which on the sound is most like what would have come next.
    fn most_alike(&self, place: usize) -> usize {
        let from = place.saturating_sub(self.reach).max(self.first);
        let wanted = &self.buffer[self.next - self.first..][..self.hop];
        let mut best = (f32::NEG_INFINITY, place.max(self.first));
        for at in from..=place + self.reach {
            let candidate = &self.buffer[at - self.first..][..self.hop];
            let (mut product, mut energy) = (0.0_f32, 1e-9_f32);
            for (a, b) in wanted.iter().zip(candidate) {
                product += a * b;
                energy += b * b;
            }
            let likeness = product / energy.sqrt();
            if likeness > best.0 {
                best = (likeness, at);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretched(samples: &[f32], speed: f32, piece: usize) -> Vec<f32> {
        let mut stretcher = TimeStretcher::new(24_000, speed).unwrap();
        let mut out = Vec::new();
        for samples in samples.chunks(piece) {
            stretcher.push(samples, &mut out);
        }
        stretcher.finish(&mut out);
        out
    }

    #[test]
    fn pace_changes_and_pitch_does_not() {
        let tone: Vec<f32> = (0..48_000).map(|n| 0.5 * (n as f32 * 0.05).sin()).collect();
        let crossings = |samples: &[f32]| {
            let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
            let count = middle
                .windows(2)
                .filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0)
                .count();
            count as f64 / middle.len() as f64
        };
        for speed in [0.25, 0.5, 0.8, 1.0, 1.3, 2.0, 4.0] {
            let out = stretched(&tone, speed, 1920);
            assert_eq!(out.len(), (48_000.0 / f64::from(speed)).round() as usize);
            let ratio = crossings(&out) / crossings(&tone);
            assert!((0.98..1.02).contains(&ratio), "{speed}: {ratio}");
            let middle = &out[out.len() / 4..out.len() * 3 / 4];
            let loudest = middle.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            assert!((0.45..0.55).contains(&loudest), "{speed}: {loudest}");
            for piece in [1, 333, 48_000] {
                assert!(stretched(&tone, speed, piece) == out, "{speed} {piece}");
            }
        }
    }

    #[test]
    fn little_sound_and_none_is_sound_too() {
        for len in [0, 1, 100, 481, 5000] {
            let out = stretched(&vec![0.3; len], 1.5, 7);
            assert_eq!(out.len(), (len as f64 / 1.5).round() as usize);
        }
        for speed in [0.1, 5.0, f32::NAN, -1.0] {
            assert!(TimeStretcher::new(24_000, speed).is_err());
        }
    }
}
