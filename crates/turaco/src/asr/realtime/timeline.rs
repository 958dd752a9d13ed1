//! From places in the stream that the model hears to times of the sound that was pushed.

use std::collections::VecDeque;

/// Silence that was put into a stream, so that text came out, is no time of the sound.
#[derive(Debug, Clone, Default)]
pub(super) struct Timeline {
    /// Silence by its place in the stream: first sample, samples.
    inserted: VecDeque<(u64, u64)>,
    /// Samples of silence that was forgotten because it lies far back.
    before: u64,
}

/// More silences than lie within anything that is still being said.
const KEPT: usize = 64;

impl Timeline {
    /// Note silence of `len` samples from sample `start` of the stream on.
    pub fn insert(&mut self, start: u64, len: u64) {
        self.inserted.push_back((start, len));
        if self.inserted.len() > KEPT {
            self.before += self.inserted.pop_front().map_or(0, |(_, len)| len);
        }
    }

    /// The sample of the sound that sample `at` of the stream is; within silence, the one behind it.
    pub fn sound_sample(&self, at: i64) -> u64 {
        let at = u64::try_from(at).unwrap_or(0);
        let mut silence = self.before;
        for &(start, len) in &self.inserted {
            if at <= start {
                break;
            }
            silence += len.min(at - start);
        }
        at.saturating_sub(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_time() {
        let mut timeline = Timeline::default();
        timeline.insert(100, 50);
        timeline.insert(200, 10);
        for (stream, sound) in [
            (-5, 0),
            (0, 0),
            (100, 100),
            (120, 100),
            (150, 100),
            (170, 120),
            (205, 150),
            (300, 240),
        ] {
            assert_eq!(timeline.sound_sample(stream), sound, "{stream}");
        }
        let expected = timeline.sound_sample(1_000_000);
        for _ in 0..KEPT {
            timeline.insert(500, 0);
        }
        assert_eq!(timeline.inserted.len(), KEPT);
        assert_eq!(timeline.sound_sample(1_000_000), expected);
    }
}
