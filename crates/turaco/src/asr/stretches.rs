//! Cutting a recording into what a model hears at a time.

use super::options::VadOptions;
use super::vad::{Span, SpeechParameters, speech_timestamps_with};
use super::vad_time_map::{collect_speech, pack_spans};
use crate::{Audio, Control, Result};

/// A part of a recording.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    /// Its samples; with silence left out, those of its speech.
    pub samples: Vec<f32>,
    /// Where it begins in the recording, in seconds.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
}

/// Cuts `audio` into stretches of at most `most` seconds: in the middle of silences, where there are any. With
/// `without_silence`, only speech is kept.
pub(super) fn stretches(
    audio: &Audio,
    most: f64,
    (vad, without_silence): (&VadOptions, bool),
    control: &Control,
) -> Result<Vec<Stretch>> {
    let (samples, rate) = (audio.samples(), audio.sample_rate());
    if !without_silence && audio.duration() <= most {
        return Ok(vec![stretch(
            samples,
            &Span::from_samples(0, samples.len(), rate),
        )]);
    }
    let parameters = SpeechParameters::from_options(vad, Some(most))?;
    let spans = speech_timestamps_with(audio, &parameters, control)?;
    if without_silence {
        let chunks = pack_spans(&spans, rate, most).into_iter();
        return Ok(chunks
            .filter_map(|chunk| {
                Some(Stretch {
                    samples: collect_speech(samples, &chunk.spans),
                    start: chunk.spans.first()?.start,
                    end: chunk.spans.last()?.end,
                })
            })
            .collect());
    }
    let pieces = cuts(&spans, samples.len(), (most * f64::from(rate)) as usize);
    let mut start = 0;
    Ok(pieces
        .into_iter()
        .map(|end| {
            let span = Span::from_samples(start, end, rate);
            start = end;
            stretch(samples, &span)
        })
        .collect())
}

fn stretch(samples: &[f32], span: &Span) -> Stretch {
    Stretch {
        samples: samples[span.start_sample..span.end_sample].to_vec(),
        start: span.start,
        end: span.end,
    }
}

/// The ends of pieces of at most `most` samples: each in the middle of the last silence that it reaches, or where it is full.
fn cuts(speech: &[Span], n_samples: usize, most: usize) -> Vec<usize> {
    let most = most.max(1);
    let middle = |pair: &[Span]| (pair[0].end_sample + pair[1].start_sample) / 2;
    let silences: Vec<usize> = speech.windows(2).map(middle).collect();
    let mut cuts = Vec::new();
    let mut start = 0;
    while n_samples - start > most {
        let last = silences.iter().rev();
        let cut = last.copied().find(|&at| at > start && at - start <= most);
        start = cut.unwrap_or(start + most);
        cuts.push(start);
    }
    cuts.push(n_samples);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_cut_in_silences() {
        let span = |start, end| Span::from_samples(start, end, 16_000);
        let speech = [span(0, 40), span(50, 90), span(94, 300), span(310, 330)];
        assert_eq!(cuts(&speech, 340, 100), [92, 192, 292, 340]);
        assert_eq!(cuts(&speech, 340, 340), [340]);
        assert_eq!(cuts(&[], 25, 10), [10, 20, 25]);
    }

    #[test]
    fn nothing_is_lost_unless_it_is_silence() {
        let samples: Vec<f32> = (0..48_000).map(|i| i as f32 / 48_000.0).collect();
        let audio = Audio::from_samples(samples.clone(), 16_000).unwrap();
        let vad = VadOptions::default();
        let control = Control::new();
        let whole = stretches(&audio, 3.0, (&vad, false), &control).unwrap();
        assert_eq!(whole.len(), 1);
        assert_eq!((whole[0].start, whole[0].end), (0.0, 3.0));
        let parts = stretches(&audio, 1.0, (&vad, false), &control).unwrap();
        let joined: Vec<f32> = parts.iter().flat_map(|part| part.samples.clone()).collect();
        assert_eq!(joined, samples);
        let silent = Audio::from_samples(vec![0.0; 48_000], 16_000).unwrap();
        assert!(
            stretches(&silent, 3.0, (&vad, true), &control)
                .unwrap()
                .is_empty()
        );
    }
}
