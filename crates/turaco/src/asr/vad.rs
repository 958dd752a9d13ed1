//! Finding speech in a file: spans of speech, and what is done with them before recognition.
//!
//! [`speech_timestamps`] does everything at once; [`find_speech`] takes a loaded network and resolved parameters.

use std::sync::OnceLock;

use turaco_compute::{CpuOptions, Device};

use super::options::VadOptions;
pub use super::vad_segmenter::LongSpeechCut;
use super::vad_segmenter::Segmenter;
use crate::audio::Audio;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::models::silero_vad::SileroVad;

/// A stretch of speech.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// First sample.
    pub start_sample: usize,
    /// The sample after the last.
    pub end_sample: usize,
}

impl Span {
    /// The span of samples `start_sample..end_sample`.
    pub fn from_samples(start_sample: usize, end_sample: usize, sample_rate: u32) -> Self {
        let rate = f64::from(sample_rate);
        Self {
            start: start_sample as f64 / rate,
            end: end_sample as f64 / rate,
            start_sample,
            end_sample,
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.end_sample.saturating_sub(self.start_sample)
    }

    /// Whether it holds no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that decides which chunks make up a span: [`VadOptions`] without open defaults, and what those options
/// leave out. The default is that of silero-vad 6.2.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SpeechParameters {
    /// Probability from which a chunk is speech.
    pub threshold: f64,
    /// Probability below which speech ends.
    pub neg_threshold: f64,
    /// Speech up to this length is dropped.
    pub min_speech_ms: u32,
    /// Longer speech is cut; infinity = never.
    pub max_speech_s: f64,
    /// Silence that ends speech.
    pub min_silence_ms: u32,
    /// Added on both sides of speech.
    pub speech_pad_ms: u32,
    /// Silence up to this length is no place to cut long speech.
    pub min_silence_at_max_speech_ms: u32,
    /// Where long speech is cut.
    pub long_speech_cut: LongSpeechCut,
    /// Look at a chunk of zeros after sound that is a whole number of chunks long, as faster-whisper does.
    pub extra_chunk: bool,
}

impl Default for SpeechParameters {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            neg_threshold: 0.35,
            min_speech_ms: 250,
            max_speech_s: f64::INFINITY,
            min_silence_ms: 100,
            speech_pad_ms: 30,
            min_silence_at_max_speech_ms: 98,
            long_speech_cut: LongSpeechCut::LongestSilence,
            extra_chunk: false,
        }
    }
}

impl SpeechParameters {
    /// faster-whisper's reading of `options`. In batched mode `window_s` is the length of a window in seconds: no
    /// span gets longer, and the open default of the silence is shorter.
    ///
    /// # Errors
    /// Thresholds outside 0 to 1, or a maximum that is not greater than 0.
    pub fn from_options(options: &VadOptions, window_s: Option<f64>) -> Result<Self> {
        let probability = |option: &'static str, value: f64| {
            if (0.0..=1.0).contains(&value) {
                return Ok(value);
            }
            Err(Error::InvalidOption {
                option,
                message: format!("{value} is not a probability between 0 and 1"),
            })
        };
        let threshold = probability("threshold", options.threshold)?;
        let neg_threshold = match options.neg_threshold {
            Some(value) => probability("neg_threshold", value)?,
            None => default_neg_threshold(threshold),
        };
        let longest = options.max_speech_duration_s.unwrap_or(f64::INFINITY);
        let max_speech_s = window_s.map_or(longest, |window| longest.min(window));
        if max_speech_s.is_nan() || max_speech_s <= 0.0 {
            return Err(Error::InvalidOption {
                option: "max_speech_duration_s",
                message: format!("{max_speech_s} is not a number of seconds greater than 0"),
            });
        }
        let min_silence_ms = match (options.min_silence_duration_ms, window_s) {
            (Some(value), _) => value,
            (None, Some(_)) => 160,
            (None, None) => 2000,
        };
        Ok(Self {
            threshold,
            neg_threshold,
            min_speech_ms: options.min_speech_duration_ms,
            max_speech_s,
            min_silence_ms,
            speech_pad_ms: options.speech_pad_ms,
            min_silence_at_max_speech_ms: 98,
            long_speech_cut: LongSpeechCut::LatestSilence,
            extra_chunk: true,
        })
    }
}

/// Silero's probability below which speech ends, given the one from which it starts.
pub(super) fn default_neg_threshold(threshold: f64) -> f64 {
    (threshold - 0.15).max(0.01)
}

/// Spans of speech in `audio`, with faster-whisper's defaults for what `options` leave open.
///
/// Sound at 8 or 16 kHz is heard as it is, other rates are resampled to 16 kHz; samples in the result count at the
/// rate of `audio`.
///
/// # Errors
/// Impossible options, no memory, or cancellation.
pub fn speech_timestamps(
    audio: &Audio,
    options: &VadOptions,
    control: &Control,
) -> Result<Vec<Span>> {
    let parameters = SpeechParameters::from_options(options, None)?;
    speech_timestamps_with(audio, &parameters, control)
}

/// [`speech_timestamps`] with resolved parameters.
///
/// # Errors
/// No memory, or cancellation.
pub fn speech_timestamps_with(
    audio: &Audio,
    parameters: &SpeechParameters,
    control: &Control,
) -> Result<Vec<Span>> {
    let rate = audio.sample_rate();
    if rate == 16_000 || rate == 8_000 {
        return find_speech(
            &built_in_network(rate)?,
            audio.samples(),
            parameters,
            control,
        );
    }
    let network = built_in_network(16_000)?;
    let resampled = audio.clone().resampled(16_000)?;
    let to_original = |sample: usize| {
        let sample = (sample as u128 * u128::from(rate) + 8_000) / 16_000;
        usize::try_from(sample).map_or(audio.samples().len(), |s| s.min(audio.samples().len()))
    };
    let spans = find_speech(&network, resampled.samples(), parameters, control)?;
    Ok(spans
        .iter()
        .map(|span| {
            let (start, end) = (to_original(span.start_sample), to_original(span.end_sample));
            Span::from_samples(start, end, rate)
        })
        .collect())
}

/// Spans of speech in `samples`, which have the network's sample rate.
///
/// # Errors
/// A failed device, or cancellation.
pub fn find_speech(
    network: &SileroVad,
    samples: &[f32],
    parameters: &SpeechParameters,
    control: &Control,
) -> Result<Vec<Span>> {
    let chunk_len = network.chunk_len();
    let n_chunks = if parameters.extra_chunk {
        samples.len() / chunk_len + 1
    } else {
        samples.len().div_ceil(chunk_len)
    };
    let probabilities = network.probabilities_of_chunks(samples, n_chunks, control)?;
    Ok(spans_of_probabilities(
        &probabilities,
        samples.len(),
        network.sample_rate(),
        chunk_len,
        parameters,
    ))
}

/// The network on one thread of the processor, loaded once.
pub(super) fn built_in_network(sample_rate: u32) -> Result<SileroVad> {
    static NETWORKS: [OnceLock<SileroVad>; 2] = [OnceLock::new(), OnceLock::new()];
    let cell = &NETWORKS[usize::from(sample_rate == 8_000)];
    if let Some(network) = cell.get() {
        return Ok(network.clone());
    }
    let device = Device::cpu(CpuOptions {
        threads: 1,
        ..CpuOptions::default()
    });
    let network = SileroVad::new(&device, sample_rate)?;
    Ok(cell.get_or_init(|| network).clone())
}

/// Spans of speech, given one probability per chunk of `chunk_len` samples, in order, at 16000 or 8000 Hz.
pub fn spans_of_probabilities(
    probabilities: &[f32],
    n_samples: usize,
    sample_rate: u32,
    chunk_len: usize,
    parameters: &SpeechParameters,
) -> Vec<Span> {
    let mut segmenter = Segmenter::new(parameters, sample_rate, chunk_len);
    for &probability in probabilities {
        segmenter.push(probability);
    }
    segmenter
        .finish(n_samples)
        .into_iter()
        .map(|(start, end)| Span::from_samples(start, end, sample_rate))
        .collect()
}

/// Clip times as spans of samples.
pub(super) fn clip_spans(clip_timestamps: &[f64], n_samples: usize, sample_rate: u32) -> Vec<Span> {
    let sample = |seconds: f64| ((seconds * f64::from(sample_rate)) as usize).min(n_samples);
    let mut points: Vec<usize> = clip_timestamps.iter().map(|&t| sample(t)).collect();
    if points.is_empty() {
        points.push(0);
    }
    if points.len() % 2 == 1 {
        points.push(n_samples);
    }
    points
        .chunks_exact(2)
        .map(|pair| Span::from_samples(pair[0], pair[1], sample_rate))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::vad_stream::{GateEvent, SpeechGate};

    fn testdata(name: &str) -> serde_json::Value {
        let path = format!(
            "{}/../../testdata/silero/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn positions(spans: &[Span]) -> Vec<[usize; 2]> {
        spans
            .iter()
            .map(|span| [span.start_sample, span.end_sample])
            .collect()
    }

    fn milliseconds(parameters: &serde_json::Value, key: &str, default: u32) -> u32 {
        parameters
            .get(key)
            .map_or(default, |ms| ms.as_u64().unwrap() as u32)
    }

    /// Parameters under silero-vad's names.
    fn upstream(given: &serde_json::Value) -> SpeechParameters {
        let number =
            |key: &str, default| given.get(key).and_then(|v| v.as_f64()).unwrap_or(default);
        let threshold = number("threshold", 0.5);
        SpeechParameters {
            threshold,
            neg_threshold: number("neg_threshold", default_neg_threshold(threshold)),
            min_speech_ms: milliseconds(given, "min_speech_duration_ms", 250),
            max_speech_s: number("max_speech_duration_s", f64::INFINITY),
            min_silence_ms: milliseconds(given, "min_silence_duration_ms", 100),
            speech_pad_ms: milliseconds(given, "speech_pad_ms", 30),
            long_speech_cut: match given.get("use_max_poss_sil_at_max_speech") {
                Some(serde_json::Value::Bool(false)) => LongSpeechCut::LatestSilence,
                _ => LongSpeechCut::LongestSilence,
            },
            ..SpeechParameters::default()
        }
    }

    /// silero-vad's and faster-whisper's own spans for made-up probabilities and parameters.
    #[test]
    fn spans_equal_upstream() {
        for (i, case) in testdata("spans.json")
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let given = &case["parameters"];
            let mut parameters = upstream(given);
            if case["rules"] != "longest" {
                parameters.long_speech_cut = LongSpeechCut::LatestSilence;
            }
            let probabilities: Vec<f32> =
                serde_json::from_value(case["probabilities"].clone()).unwrap();
            let rate = case["rate"].as_u64().unwrap() as u32;
            let spans = spans_of_probabilities(
                &probabilities,
                case["samples"].as_u64().unwrap() as usize,
                rate,
                if rate == 16_000 { 512 } else { 256 },
                &parameters,
            );
            let expected: Vec<[usize; 2]> = serde_json::from_value(case["spans"].clone()).unwrap();
            assert_eq!(positions(&spans), expected, "case {i}: {given}");
        }
    }

    /// Ten parameter sets and two streams on real sound, against silero-vad's own results.
    #[test]
    fn real_speech_is_found_where_upstream_finds_it() {
        let goldens = testdata("vad.json");
        for (signal, rate, clip) in [
            ("jfk", "16000", "jfk"),
            ("jfk-noise20s", "8000", "jfk-noise20s-8k"),
        ] {
            let path = format!(
                "{}/../../testdata/audio/{clip}.wav",
                env!("CARGO_MANIFEST_DIR")
            );
            let audio = Audio::open(path).unwrap();
            let expected = &goldens["signals"][signal][rate];
            for (name, case) in expected["timestamps"].as_object().unwrap() {
                let spans =
                    speech_timestamps_with(&audio, &upstream(&case["params"]), &Control::new())
                        .unwrap();
                let expected: Vec<[usize; 2]> = case["speech"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|span| ["start", "end"].map(|key| span[key].as_u64().unwrap() as usize))
                    .collect();
                assert_eq!(positions(&spans), expected, "{signal} {rate} {name}");
            }
            for (name, case) in expected["iterator"].as_object().unwrap() {
                let given = &case["params"];
                let network = built_in_network(audio.sample_rate()).unwrap();
                let mut gate = SpeechGate::new(
                    audio.sample_rate(),
                    network.chunk_len(),
                    given.get("threshold").map_or(0.5, |p| p.as_f64().unwrap()),
                    milliseconds(given, "min_silence_duration_ms", 100),
                    milliseconds(given, "speech_pad_ms", 30),
                );
                let mut stream = network.stream().unwrap();
                let events: Vec<_> = audio
                    .samples()
                    .chunks_exact(network.chunk_len())
                    .filter_map(|chunk| gate.push(stream.push(chunk).unwrap()))
                    .collect();
                let expected: Vec<_> = case["events"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|event| match event.get("start") {
                        Some(start) => GateEvent::Start(start.as_u64().unwrap()),
                        None => GateEvent::End(event["end"].as_u64().unwrap()),
                    })
                    .collect();
                assert_eq!(events, expected, "{signal} {rate} {name}");
            }
        }
    }

    #[test]
    fn other_rates_are_resampled_and_times_stay_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/audio/jfk.wav");
        let audio = Audio::open(path).unwrap();
        let options = VadOptions {
            min_silence_duration_ms: Some(160),
            ..VadOptions::default()
        };
        let original = speech_timestamps(&audio, &options, &Control::new()).unwrap();
        let audio = audio.resampled(44_100).unwrap();
        let resampled = speech_timestamps(&audio, &options, &Control::new()).unwrap();
        assert_eq!(original.len(), resampled.len());
        for (a, b) in original.iter().zip(&resampled) {
            // Two chunks: near the threshold resampling may move a border by one.
            assert!((a.start - b.start).abs() < 0.065 && (a.end - b.end).abs() < 0.065);
            assert!(b.end_sample <= audio.samples().len());
        }
    }

    #[test]
    fn silence_and_scraps_hold_no_speech() {
        for rate in [8_000, 11_025, 16_000] {
            for len in [0, 1, 511, 512, 16_000] {
                let audio = Audio::from_samples(vec![0.0; len], rate).unwrap();
                let spans =
                    speech_timestamps(&audio, &VadOptions::default(), &Control::new()).unwrap();
                assert!(spans.is_empty(), "{len} samples at {rate} Hz");
            }
        }
    }

    #[test]
    fn nothing_gives_no_spans() {
        let parameters = SpeechParameters::default();
        assert!(spans_of_probabilities(&[], 0, 16_000, 512, &parameters).is_empty());
        assert!(spans_of_probabilities(&[f32::NAN; 9], 4608, 16_000, 512, &parameters).is_empty());
        assert!(spans_of_probabilities(&[0.9], 7, 16_000, 512, &parameters).is_empty());
    }

    #[test]
    fn open_defaults_depend_on_the_mode() {
        let options = VadOptions::default();
        let whole = SpeechParameters::from_options(&options, None).unwrap();
        assert_eq!(
            (whole.min_silence_ms, whole.max_speech_s),
            (2000, f64::INFINITY)
        );
        let batched = SpeechParameters::from_options(&options, Some(30.0)).unwrap();
        assert_eq!((batched.min_silence_ms, batched.max_speech_s), (160, 30.0));
        assert_eq!(batched.neg_threshold, 0.35);
    }

    #[test]
    fn impossible_options_are_errors() {
        for (threshold, neg_threshold, longest) in [
            (f64::NAN, None, None),
            (1.5, None, None),
            (0.5, Some(-0.1), None),
            (0.5, None, Some(0.0)),
            (0.5, None, Some(f64::NAN)),
        ] {
            let options = VadOptions {
                threshold,
                neg_threshold,
                max_speech_duration_s: longest,
                ..VadOptions::default()
            };
            assert!(
                SpeechParameters::from_options(&options, None).is_err(),
                "{options:?}"
            );
        }
    }
}
