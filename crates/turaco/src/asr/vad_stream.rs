//! Finding speech while it is spoken.
//!
//! [`SpeechGate`] turns probabilities into start and end events exactly as silero-vad's `VADIterator` does.
//! [`SpeechDetector`] is what a live recogniser uses: it takes pieces of any length, hands over the sound of every
//! stretch of speech with what came just before it, and never holds more than that.

use std::collections::VecDeque;

use super::energy_gate::{EnergyGate, EnergyLimits};
use super::vad::{built_in_network, default_neg_threshold};
use crate::error::{Error, Result};
use crate::models::silero_vad::{SileroVad, VadStream};

/// Speech started or ended; positions in samples since the stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateEvent {
    /// Speech starts at this sample.
    Start(u64),
    /// Speech ended before this sample.
    End(u64),
}

/// Start and end of speech from one probability per chunk, by the rules of `VADIterator` in the package `silero-vad`
/// 6.2 (`src/silero_vad/utils_vad.py`).
#[derive(Debug, Clone)]
pub struct SpeechGate {
    threshold: f64,
    chunk_len: u64,
    min_silence: u64,
    pad: u64,
    /// End of the newest chunk.
    position: u64,
    is_open: bool,
    /// End of the first chunk of the silence that lasts up to now.
    silence_start: Option<u64>,
}

impl SpeechGate {
    /// Speech starts at a probability of `threshold` and ends after `min_silence_ms` below `threshold - 0.15`; both
    /// events are moved outwards by `speech_pad_ms`. Upstream's defaults are 0.5, 100 and 30.
    pub fn new(
        sample_rate: u32,
        chunk_len: usize,
        threshold: f64,
        min_silence_ms: u32,
        speech_pad_ms: u32,
    ) -> Self {
        Self {
            threshold,
            chunk_len: chunk_len as u64,
            min_silence: samples_in(min_silence_ms, sample_rate),
            pad: samples_in(speech_pad_ms, sample_rate),
            position: 0,
            is_open: false,
            silence_start: None,
        }
    }

    /// Take the probability of the next chunk.
    pub fn push(&mut self, probability: f32) -> Option<GateEvent> {
        let probability = f64::from(probability);
        self.position += self.chunk_len;
        if probability >= self.threshold {
            self.silence_start = None;
            if !self.is_open {
                self.is_open = true;
                let start = self.position.saturating_sub(self.pad + self.chunk_len);
                return Some(GateEvent::Start(start));
            }
        } else if probability < self.threshold - 0.15 && self.is_open {
            let silence_start = *self.silence_start.get_or_insert(self.position);
            if self.position - silence_start >= self.min_silence {
                self.is_open = false;
                self.silence_start = None;
                return Some(GateEvent::End(silence_start + self.pad - self.chunk_len));
            }
        }
        None
    }

    /// Forget everything.
    pub fn reset(&mut self) {
        self.position = 0;
        self.is_open = false;
        self.silence_start = None;
    }
}

/// Options of a [`SpeechDetector`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DetectorOptions {
    /// Probability from which a chunk is speech.
    pub threshold: f64,
    /// Probability below which speech ends; `None` = `max(threshold - 0.15, 0.01)`.
    pub neg_threshold: Option<f64>,
    /// Speech has to last this long before it counts. Where that is longer than a short gap (128 ms), it may fall below
    /// `neg_threshold` for as long; otherwise it may not at all.
    pub min_speech_ms: u32,
    /// Silence that ends speech.
    pub min_silence_ms: u32,
    /// Sound handed over from before the start of speech.
    pub pre_roll_ms: u32,
    /// Longer speech ends, and what follows starts anew; `None` = no limit.
    pub max_speech_s: Option<f64>,
    /// Sound that is below these limits is silence: between stretches of speech the network is not asked about it.
    pub energy_gate: Option<EnergyLimits>,
}

impl Default for DetectorOptions {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            neg_threshold: None,
            min_speech_ms: 100,
            min_silence_ms: 500,
            pre_roll_ms: 300,
            max_speech_s: Some(30.0),
            energy_gate: None,
        }
    }
}

/// What a [`SpeechDetector`] found; positions in samples since the stream began.
#[derive(Debug, Clone, PartialEq)]
pub enum SpeechEvent {
    /// Speech started; the sound from this sample on follows.
    Started {
        /// First sample of the sound that follows, pre-roll included.
        sample: u64,
    },
    /// Sound of the speech that started, in order and without gaps. It goes on through the silence that ends it.
    Sound(Vec<f32>),
    /// Speech ended.
    Ended {
        /// Where the silence after it began.
        sample: u64,
        /// It did not really end but became longer than `max_speech_s`; the next stretch starts at this sample.
        cut: bool,
        /// How far the silence had gone when it was known that it ends speech; `None` where it is not silence that ended it.
        silent_until: Option<u64>,
    },
}

/// Finds speech in a stream of sound, in bounded memory.
#[derive(Debug)]
pub struct SpeechDetector {
    judge: Judge,
    chunk_len: usize,
    sample_rate: u32,
    threshold: f64,
    neg_threshold: f64,
    min_speech: u64,
    min_silence: u64,
    pre_roll: usize,
    max_speech: u64,
    /// Samples that do not fill a chunk yet.
    rest: Vec<f32>,
    /// Sound up to `position` that was not handed over: pre-roll, and speech too short to count yet.
    held: VecDeque<f32>,
    /// End of the newest complete chunk.
    position: u64,
    phase: Phase,
    n_ignored: u64,
}

/// What tells speech from other sound.
#[derive(Debug)]
enum Judge {
    Network(VadStream),
    /// The network, unless the gate is shut; it has forgotten everything then.
    Gated {
        network: VadStream,
        gate: EnergyGate,
        asleep: bool,
    },
    Energy(EnergyGate),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Silence,
    /// Perhaps speech.
    Onset {
        start: u64,
        silence_start: Option<u64>,
    },
    Speech {
        start: u64,
        silence_start: Option<u64>,
    },
}

/// Between two words, or inside one, people are silent for so long: longer speech that is to count may have such gaps.
const ONSET_GAP_MS: u32 = 128;

impl SpeechDetector {
    /// Listen to a new stream at 16 kHz with the built-in network, on one thread.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn built_in(options: &DetectorOptions) -> Result<Self> {
        Self::new(&built_in_network(16_000)?, options)
    }

    /// Listen to a new stream at the network's sample rate.
    ///
    /// # Errors
    /// Thresholds outside 0 to 1, a maximum that is not greater than 0, or no memory on the device.
    pub fn new(network: &SileroVad, options: &DetectorOptions) -> Result<Self> {
        let (rate, chunk_len) = (network.sample_rate(), network.chunk_len());
        let stream = network.stream()?;
        let judge = match options.energy_gate {
            None => Judge::Network(stream),
            Some(limits) => Judge::Gated {
                network: stream,
                gate: EnergyGate::new(limits, rate, chunk_len),
                asleep: false,
            },
        };
        Self::with_judge(judge, (rate, chunk_len), options)
    }

    /// Listen without a network: what has the energy of a voice is one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn by_energy(sample_rate: u32, options: &DetectorOptions) -> Result<Self> {
        let chunk_len = samples_in(32, sample_rate) as usize;
        let limits = options.energy_gate.unwrap_or_default();
        let judge = Judge::Energy(EnergyGate::new(limits, sample_rate, chunk_len));
        Self::with_judge(judge, (sample_rate, chunk_len), options)
    }

    fn with_judge(
        judge: Judge,
        (rate, chunk_len): (u32, usize),
        options: &DetectorOptions,
    ) -> Result<Self> {
        let neg_threshold = options
            .neg_threshold
            .unwrap_or_else(|| default_neg_threshold(options.threshold));
        for (option, value) in [
            ("threshold", options.threshold),
            ("neg_threshold", neg_threshold),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::InvalidOption {
                    option,
                    message: format!("{value} is not a probability between 0 and 1"),
                });
            }
        }
        let max_speech_s = options.max_speech_s.unwrap_or(f64::INFINITY);
        if max_speech_s.is_nan() || max_speech_s <= 0.0 {
            return Err(Error::InvalidOption {
                option: "max_speech_s",
                message: format!("{max_speech_s} is not a number of seconds greater than 0"),
            });
        }
        Ok(Self {
            threshold: options.threshold,
            neg_threshold,
            min_speech: samples_in(options.min_speech_ms, rate),
            min_silence: samples_in(options.min_silence_ms, rate),
            pre_roll: samples_in(options.pre_roll_ms, rate) as usize,
            max_speech: (max_speech_s * f64::from(rate)) as u64,
            rest: Vec::with_capacity(chunk_len),
            held: VecDeque::new(),
            position: 0,
            phase: Phase::Silence,
            n_ignored: 0,
            judge,
            chunk_len,
            sample_rate: rate,
        })
    }

    /// From now on, silence of this length ends speech.
    pub fn set_min_silence_ms(&mut self, milliseconds: u32) {
        self.min_silence = samples_in(milliseconds, self.sample_rate);
    }

    /// From now on, this probability makes a chunk speech, and speech has to last this long before it counts.
    pub fn set_onset(&mut self, threshold: f64, min_speech_ms: u32) {
        self.threshold = threshold.clamp(0.0, 1.0);
        self.min_speech = samples_in(min_speech_ms, self.sample_rate);
    }

    /// End of the newest complete chunk, in samples since the stream began.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How often something began like speech and was too short to count.
    pub fn n_ignored(&self) -> u64 {
        self.n_ignored
    }

    /// Take the next samples, any number of them; `on_event` gets what was found, in order.
    ///
    /// # Errors
    /// A failed device.
    pub fn push(&mut self, samples: &[f32], mut on_event: impl FnMut(SpeechEvent)) -> Result<()> {
        let chunk_len = self.chunk_len;
        let mut samples = samples;
        if !self.rest.is_empty() {
            let (head, tail) = samples.split_at(samples.len().min(chunk_len - self.rest.len()));
            self.rest.extend_from_slice(head);
            samples = tail;
            if self.rest.len() < chunk_len {
                return Ok(());
            }
            let chunk = std::mem::take(&mut self.rest);
            self.take_chunk(&chunk, &mut on_event)?;
            self.rest = chunk;
            self.rest.clear();
        }
        let mut chunks = samples.chunks_exact(chunk_len);
        for chunk in &mut chunks {
            self.take_chunk(chunk, &mut on_event)?;
        }
        self.rest.extend_from_slice(chunks.remainder());
        Ok(())
    }

    /// The stream is over: look at what does not fill a chunk, end open speech, and be ready for a new stream.
    ///
    /// # Errors
    /// A failed device.
    pub fn finish(&mut self, on_event: impl FnMut(SpeechEvent)) -> Result<()> {
        self.close(false, on_event)
    }

    /// The speaker says that this is the end: as [`finish`](Self::finish), and what may have been the beginning of speech is
    /// speech, however short.
    ///
    /// # Errors
    /// A failed device.
    pub fn commit(&mut self, on_event: impl FnMut(SpeechEvent)) -> Result<()> {
        self.close(true, on_event)
    }

    fn close(&mut self, with_onset: bool, mut on_event: impl FnMut(SpeechEvent)) -> Result<()> {
        let chunk = std::mem::take(&mut self.rest);
        if !chunk.is_empty() {
            self.take_chunk(&chunk, &mut on_event)?;
        }
        if let (true, Phase::Onset { .. }) = (with_onset, self.phase) {
            self.begin(&mut on_event);
        }
        if let Phase::Speech {
            start,
            silence_start,
        } = self.phase
        {
            on_event(SpeechEvent::Ended {
                sample: silence_start.unwrap_or(self.position).max(start),
                cut: false,
                silent_until: None,
            });
        }
        self.reset()
    }

    /// Forget everything heard; positions start at 0 again.
    ///
    /// # Errors
    /// A failed device.
    pub fn reset(&mut self) -> Result<()> {
        self.rest.clear();
        self.held.clear();
        self.position = 0;
        self.phase = Phase::Silence;
        match &mut self.judge {
            Judge::Network(network) | Judge::Gated { network, .. } => network.reset(),
            Judge::Energy(_) => Ok(()),
        }
    }

    /// Whether speech is going on.
    pub fn is_speech(&self) -> bool {
        matches!(self.phase, Phase::Speech { .. })
    }

    fn take_chunk(&mut self, chunk: &[f32], on_event: &mut impl FnMut(SpeechEvent)) -> Result<()> {
        let probability = match &mut self.judge {
            Judge::Network(network) => network.push(chunk)?,
            Judge::Energy(gate) => f32::from(u8::from(gate.passes(chunk))),
            Judge::Gated {
                network,
                gate,
                asleep,
            } => {
                let is_shut = self.phase == Phase::Silence && !gate.passes(chunk);
                if is_shut && !*asleep {
                    network.reset()?;
                }
                *asleep = is_shut;
                match is_shut {
                    true => 0.0,
                    false => network.push(chunk)?,
                }
            }
        };
        let probability = f64::from(probability);
        self.advance(chunk, probability, on_event);
        Ok(())
    }

    fn advance(&mut self, chunk: &[f32], probability: f64, on_event: &mut impl FnMut(SpeechEvent)) {
        let chunk_start = self.position;
        self.position += chunk.len() as u64;
        let is_speech = probability >= self.threshold;
        let is_silence = probability < self.neg_threshold;

        if let Phase::Speech {
            start,
            silence_start,
        } = self.phase
        {
            on_event(SpeechEvent::Sound(chunk.to_vec()));
            let silence_start = if is_silence {
                Some(silence_start.unwrap_or(chunk_start))
            } else if is_speech {
                None
            } else {
                silence_start
            };
            self.phase = Phase::Speech {
                start,
                silence_start,
            };
            // Only a silent chunk can end speech, as upstream.
            if let Some(sample) = silence_start
                && is_silence
                && self.position - sample >= self.min_silence
            {
                // After a cut the silence may have begun in the stretch before.
                let sample = sample.max(start);
                on_event(SpeechEvent::Ended {
                    sample,
                    cut: false,
                    silent_until: Some(self.position),
                });
                self.phase = Phase::Silence;
            } else if self.position - start >= self.max_speech {
                on_event(SpeechEvent::Ended {
                    sample: self.position,
                    cut: true,
                    silent_until: None,
                });
                on_event(SpeechEvent::Started {
                    sample: self.position,
                });
                self.phase = Phase::Speech {
                    start: self.position,
                    silence_start,
                };
            }
            return;
        }

        self.held.extend(chunk);
        let was_onset = self.phase != Phase::Silence;
        self.phase = match self.phase {
            Phase::Onset {
                start,
                silence_start,
            } => {
                let silence_start = match (is_silence, is_speech) {
                    (true, _) => Some(silence_start.unwrap_or(chunk_start)),
                    (false, true) => None,
                    (false, false) => silence_start,
                };
                let silence = self.position - silence_start.unwrap_or(self.position);
                match is_silence && silence > self.onset_gap() {
                    true => Phase::Silence,
                    false => Phase::Onset {
                        start,
                        silence_start,
                    },
                }
            }
            _ if is_speech => Phase::Onset {
                start: chunk_start,
                silence_start: None,
            },
            _ => Phase::Silence,
        };
        let (since, is_gap) = match self.phase {
            Phase::Onset {
                start,
                silence_start,
            } => (self.position - start, silence_start.is_some()),
            _ => (0, true),
        };
        self.n_ignored += u64::from(was_onset && self.phase == Phase::Silence);
        // What was handed over with the speech before is not held, so stretches never overlap.
        let keep = self.pre_roll.saturating_add(since as usize);
        self.held.drain(..self.held.len().saturating_sub(keep));
        if !is_gap && since >= self.min_speech {
            self.begin(on_event);
        }
    }

    /// Silence that speech may have before it counts, in samples. Where little speech is asked for, a gap would be most of it.
    fn onset_gap(&self) -> u64 {
        let gap = samples_in(ONSET_GAP_MS, self.sample_rate);
        if self.min_speech > gap { gap } else { 0 }
    }

    /// What is held is speech.
    fn begin(&mut self, on_event: &mut impl FnMut(SpeechEvent)) {
        let start = self.position - self.held.len() as u64;
        on_event(SpeechEvent::Started { sample: start });
        on_event(SpeechEvent::Sound(std::mem::take(&mut self.held).into()));
        self.phase = Phase::Speech {
            start,
            silence_start: None,
        };
    }
}

fn samples_in(milliseconds: u32, sample_rate: u32) -> u64 {
    u64::from(milliseconds) * u64::from(sample_rate) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Speech for chunks 3 to 8, silence after; upstream's arithmetic by hand.
    #[test]
    fn gate_moves_events_outwards() {
        let mut gate = SpeechGate::new(16_000, 512, 0.5, 100, 30);
        let events: Vec<_> = (0..20)
            .filter_map(|chunk| gate.push(if (3..9).contains(&chunk) { 0.9 } else { 0.1 }))
            .collect();
        assert_eq!(
            events,
            [
                GateEvent::Start(3 * 512 - 480),
                GateEvent::End(9 * 512 + 480)
            ]
        );
    }

    fn network() -> SileroVad {
        let device = turaco_compute::Device::cpu(turaco_compute::CpuOptions {
            threads: 1,
            ..turaco_compute::CpuOptions::default()
        });
        SileroVad::new(&device, 16_000).unwrap()
    }

    fn clip() -> Vec<f32> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/audio/jfk.wav");
        crate::audio::Audio::open(path).unwrap().into_samples()
    }

    /// Events of a whole stream given in pieces of `piece_len`; the sound of a stretch is put together.
    fn events(
        detector: &mut SpeechDetector,
        samples: &[f32],
        piece_len: usize,
    ) -> Vec<SpeechEvent> {
        let mut events: Vec<SpeechEvent> = Vec::new();
        let mut note = |event| match (events.last_mut(), event) {
            (Some(SpeechEvent::Sound(all)), SpeechEvent::Sound(more)) => all.extend(more),
            (_, event) => events.push(event),
        };
        for piece in samples.chunks(piece_len) {
            detector.push(piece, &mut note).unwrap();
        }
        detector.finish(&mut note).unwrap();
        events
    }

    /// What every list of events has to satisfy; returns the stretches of sound.
    fn stretches(events: &[SpeechEvent], samples: &[f32]) -> Vec<(usize, usize)> {
        let mut stretches = Vec::new();
        for stretch in events.chunks(3) {
            let [
                SpeechEvent::Started { sample: start },
                SpeechEvent::Sound(sound),
                SpeechEvent::Ended { sample: end, .. },
            ] = stretch
            else {
                panic!("events out of order: {stretch:?}");
            };
            let (start, end) = (*start as usize, *end as usize);
            assert_eq!(sound[..], samples[start..start + sound.len()]);
            assert!(end <= start + sound.len());
            if let Some((_, previous)) = stretches.last() {
                assert!(start >= *previous);
            }
            stretches.push((start, start + sound.len()));
        }
        stretches
    }

    #[test]
    fn detector_gives_the_same_speech_for_pieces_of_any_length() {
        let samples = clip();
        let mut detector = SpeechDetector::new(&network(), &DetectorOptions::default()).unwrap();
        let whole = events(&mut detector, &samples, samples.len());
        // Four sentences; the spans that the package finds with the same silence.
        let stretches = stretches(&whole, &samples);
        assert_eq!(stretches.len(), 4);
        let mut previous = 0;
        for (&(start, end), spoken) in stretches.iter().zip([5632, 52736, 86528, 131_072]) {
            // The whole pre-roll, unless the stretch before reaches into it.
            assert!(start + 4800 <= spoken || start == previous);
            assert!(start <= spoken && spoken < end);
            previous = end;
        }
        for piece_len in [1, 160, 511, 512, 513, 4000] {
            let pieces = events(&mut detector, &samples, piece_len);
            assert!(whole == pieces, "pieces of {piece_len}");
        }
    }

    #[test]
    fn long_speech_is_cut_without_a_gap() {
        let samples = clip();
        let options = DetectorOptions {
            max_speech_s: Some(0.7),
            ..DetectorOptions::default()
        };
        let mut detector = SpeechDetector::new(&network(), &options).unwrap();
        let events = events(&mut detector, &samples, 1000);
        let stretches = stretches(&events, &samples);
        assert!(stretches.len() > 8);
        for (i, event) in events.iter().enumerate() {
            if let SpeechEvent::Ended {
                cut: true, sample, ..
            } = event
            {
                assert_eq!(events[i + 1], SpeechEvent::Started { sample: *sample });
            }
        }
        assert!(
            stretches
                .iter()
                .all(|(start, end)| end - start <= 11_200 + 512)
        );
    }

    #[test]
    fn short_noises_do_not_start_speech_and_memory_stays_bounded() {
        let mut detector = SpeechDetector::new(&network(), &DetectorOptions::default()).unwrap();
        let mut n_events = 0;
        let mut largest = 0;
        for i in 0..2000 {
            let is_onset = i % 20 < 2;
            let probability = if is_onset { 0.9 } else { 0.1 };
            detector.advance(&[0.0; 512], probability, &mut |_| n_events += 1);
            largest = largest.max(detector.held.len());
        }
        assert_eq!(n_events, 0);
        assert!(largest <= 4800 + 1600 + 512, "{largest}");
    }

    #[test]
    fn long_speech_that_is_asked_for_may_have_short_gaps() {
        // Chunks of 32 ms; speech, a gap, and speech.
        let heard = |min_speech_ms: u32, chunks: [usize; 3]| {
            let options = DetectorOptions {
                min_speech_ms,
                pre_roll_ms: 0,
                ..DetectorOptions::default()
            };
            let mut detector = SpeechDetector::by_energy(16_000, &options).unwrap();
            let mut started = None;
            for (n_chunks, probability) in chunks.into_iter().zip([0.9, 0.1, 0.9]) {
                for _ in 0..n_chunks {
                    detector.advance(&[0.0; 512], probability, &mut |event| {
                        if let SpeechEvent::Started { sample } = event {
                            started.get_or_insert(sample);
                        }
                    });
                }
            }
            (started, detector.n_ignored())
        };
        // From the first word on.
        assert_eq!(heard(500, [6, 4, 6]), (Some(0), 0));
        assert_eq!(heard(500, [6, 5, 6]), (None, 1));
        // A gap is not what makes speech long enough.
        assert_eq!(heard(320, [7, 4, 0]), (None, 0));
        // Little speech has no gaps, as upstream.
        assert_eq!(heard(100, [3, 1, 3]), (None, 1));
        assert_eq!(heard(100, [3, 1, 4]), (Some(4 * 512), 1));
    }

    #[test]
    fn the_end_of_speech_says_how_long_the_silence_was() {
        let ends = |n_silent: usize| {
            let options = DetectorOptions::default();
            let mut detector = SpeechDetector::by_energy(16_000, &options).unwrap();
            let mut ends = Vec::new();
            let mut note = |event| {
                if let SpeechEvent::Ended {
                    sample,
                    silent_until,
                    ..
                } = event
                {
                    ends.push((sample, silent_until));
                }
            };
            for chunk in 0..10 + n_silent {
                let probability = if chunk < 10 { 0.9 } else { 0.1 };
                detector.advance(&[0.0; 512], probability, &mut note);
            }
            detector.commit(note).unwrap();
            ends
        };
        // 500 ms are sixteen chunks, however much silence comes behind.
        assert_eq!(ends(40), [(5120, Some(5120 + 16 * 512))]);
        // It was not silence that ended this.
        assert_eq!(ends(3), [(5120, None)]);
    }

    #[test]
    fn speech_too_short_to_count_counts_when_it_is_committed() {
        let options = DetectorOptions {
            min_speech_ms: 2000,
            ..DetectorOptions::default()
        };
        let mut detector = SpeechDetector::new(&network(), &options).unwrap();
        // The clip's first words.
        let samples = &clip()[..16_000];
        let found = |detector: &mut SpeechDetector, commit: bool| {
            let mut events = Vec::new();
            detector.push(samples, |event| events.push(event)).unwrap();
            assert!(events.is_empty());
            match commit {
                true => detector.commit(|event| events.push(event)).unwrap(),
                false => detector.finish(|event| events.push(event)).unwrap(),
            }
            events
        };
        assert!(found(&mut detector, false).is_empty());
        let events = found(&mut detector, true);
        let stretches = stretches(&events, samples);
        assert_eq!(stretches.len(), 1);
        assert!(stretches[0].1 >= 15_000, "{stretches:?}");
    }

    #[test]
    fn impossible_detector_options_are_errors() {
        for options in [
            DetectorOptions {
                threshold: f64::NAN,
                ..DetectorOptions::default()
            },
            DetectorOptions {
                max_speech_s: Some(0.0),
                ..DetectorOptions::default()
            },
        ] {
            assert!(SpeechDetector::new(&network(), &options).is_err());
        }
    }
}
