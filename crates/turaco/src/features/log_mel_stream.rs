//! The log-mel spectrogram of a signal that is still arriving (Voxtral Realtime).
//!
//! As [`LogMel`](super::LogMel), but the loudest value is a constant of the model, so that a frame depends on nothing
//! behind its window: `log10(max(·, 1e-10)) → max(·, maximum − 8) → (· + 4) / 4`.

use super::log_mel::log_energies;
use super::mel::MelFilterBank;
use super::stft::{PaddedSignal, Stft, TILE};

/// Decades kept below the loudest value.
const DYNAMIC_RANGE: f32 = 8.0;

/// Sizes of a streaming spectrogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogMelSettings {
    /// Samples per second.
    pub sample_rate: u32,
    /// Mel bands.
    pub n_mels: usize,
    /// Samples per window, even.
    pub n_fft: usize,
    /// Samples between windows.
    pub hop_length: usize,
    /// What counts as the loudest value, in decades.
    pub maximum: f32,
}

/// The tables of a streaming spectrogram; shared by all streams.
#[derive(Debug)]
pub struct LogMelStreamer {
    settings: LogMelSettings,
    filters: MelFilterBank,
    /// Exact: the floor is absolute, so quiet frames beside loud ones count.
    stft: Stft<f64>,
}

/// One signal on its way to frames.
///
/// The signal begins with silence as far back as anyone looks; frame `t` is centred on sample `t * hop_length` of what
/// was pushed. Frames are made in pairs, always the same two, so that they do not depend on how the signal is cut.
#[derive(Debug, Clone)]
pub struct LogMelStream {
    /// The last samples; the first of them is sample `begin` of the signal.
    samples: Vec<f32>,
    begin: isize,
    n_frames: usize,
}

impl LogMelStreamer {
    /// Tables for these sizes.
    pub fn new(settings: LogMelSettings) -> Self {
        let LogMelSettings {
            sample_rate,
            n_mels,
            n_fft,
            hop_length,
            ..
        } = settings;
        let highest = f64::from(sample_rate) / 2.0;
        Self {
            settings,
            filters: MelFilterBank::new(sample_rate, n_fft, n_mels, 0.0, highest),
            stft: Stft::new(n_fft, hop_length),
        }
    }

    /// Sizes.
    pub fn settings(&self) -> &LogMelSettings {
        &self.settings
    }

    /// A signal of which nothing is known yet.
    pub fn stream(&self) -> LogMelStream {
        let context = self.context();
        LogMelStream {
            samples: vec![0.0; context],
            begin: -(context as isize),
            n_frames: 0,
        }
    }

    /// Samples that are kept in front of the next frame's centre: whole hops, at least half a window.
    fn context(&self) -> usize {
        (self.settings.n_fft / 2).next_multiple_of(self.settings.hop_length)
    }

    /// Take the next samples; frames that are complete now go to the end of `frames`, `[frame][mel]`.
    pub fn push(&self, stream: &mut LogMelStream, samples: &[f32], frames: &mut Vec<f32>) {
        let LogMelSettings {
            n_mels,
            n_fft,
            hop_length,
            maximum,
            ..
        } = self.settings;
        stream.samples.extend_from_slice(samples);
        let n_samples = stream.begin + stream.samples.len() as isize;
        let complete = match n_samples - (n_fft / 2) as isize {
            behind if behind >= 0 => behind as usize / hop_length + 1,
            _ => 0,
        };
        let pairs_end = complete / 2 * 2;
        if pairs_end <= stream.n_frames {
            return;
        }
        // In the buffer, the next frame is centred on sample `context`.
        let first = self.context() / hop_length;
        let count = pairs_end - stream.n_frames;
        let start = frames.len();
        frames.resize(start + count * n_mels, 0.0);
        let signal = PaddedSignal::new(&stream.samples, 0);
        let mut scratch = self.stft.scratch();
        let mut power = vec![0.0; self.stft.n_bins() * TILE];
        let floor = maximum - DYNAMIC_RANGE;
        for begin in (0..count).step_by(TILE) {
            let width = TILE.min(count - begin);
            self.stft
                .power_tile(signal, first + begin, width, &mut scratch, &mut power);
            for mel in 0..n_mels {
                let energies = log_energies(self.filters.band(mel), &power);
                for (index, energy) in energies[..width].iter().enumerate() {
                    let value = (energy.max(floor) + 4.0) / 4.0;
                    frames[start + (begin + index) * n_mels + mel] = value;
                }
            }
        }
        stream.n_frames = pairs_end;
        let keep = pairs_end as isize * hop_length as isize - self.context() as isize;
        stream.samples.drain(..(keep - stream.begin) as usize);
        stream.begin = keep;
    }
}

impl LogMelStream {
    /// Frames made so far.
    pub fn n_frames(&self) -> usize {
        self.n_frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: LogMelSettings = LogMelSettings {
        sample_rate: 16_000,
        n_mels: 40,
        n_fft: 400,
        hop_length: 160,
        maximum: 1.5,
    };

    fn noise(len: usize) -> Vec<f32> {
        let mut state = 1u32;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 16_777_216.0 - 0.5
            })
            .collect()
    }

    #[test]
    fn frames_do_not_depend_on_how_the_signal_is_cut() {
        let streamer = LogMelStreamer::new(SETTINGS);
        let signal = noise(20_000);
        let mut whole = Vec::new();
        let mut stream = streamer.stream();
        streamer.push(&mut stream, &signal, &mut whole);
        // Frames 0 to 123 end within the signal; one more would be half of a pair.
        assert_eq!(stream.n_frames(), 124);
        assert_eq!(whole.len(), 124 * 40);
        for cut in [1, 159, 160, 1280, 7000] {
            let mut frames = Vec::new();
            let mut stream = streamer.stream();
            for part in signal.chunks(cut) {
                streamer.push(&mut stream, part, &mut frames);
                assert!(stream.samples.len() < 400 + 2 * 160 + cut);
            }
            assert_eq!(frames, whole, "cut into {cut}");
        }
    }

    #[test]
    fn frames_are_those_of_the_whole_signal() {
        // With loud enough sound, the offline spectrogram differs only in its floor.
        let streamer = LogMelStreamer::new(LogMelSettings {
            maximum: 100.0,
            ..SETTINGS
        });
        let mut signal = vec![0.0; 800];
        signal.extend(noise(8_000));
        let mut frames = Vec::new();
        streamer.push(&mut streamer.stream(), &signal, &mut frames);
        assert!(frames.iter().all(|&value| value == (92.0 + 4.0) / 4.0));
        let streamer = LogMelStreamer::new(SETTINGS);
        let mut frames = Vec::new();
        streamer.push(&mut streamer.stream(), &signal, &mut frames);
        let offline = super::super::LogMel::new(40).compute(&signal, 0);
        for (index, frame) in frames.chunks(40).enumerate() {
            for (mel, &value) in frame.iter().enumerate() {
                let reference = offline.data[mel * offline.n_frames + index];
                // Where neither floor is reached.
                if value > (1.5 - 8.0 + 4.0) / 4.0 && reference > value - 0.01 {
                    assert!((value - reference).abs() < 1e-5, "frame {index} mel {mel}");
                }
            }
        }
        assert!(frames[..40].iter().all(|&value| value == -0.625), "silence");
    }
}
