//! Whole texts said by a model: a short, a medium and a long one, with where the time goes and how much it varies.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use turaco_compute::measure::peak_memory;

use super::report::{Measure, Role};
use super::statistics::{Spread, mean};
use crate::models::qwen3_tts::TtsKind;
use crate::tts::{ClonedVoice, SpeakOptions, Synthesizer, Voice};
use crate::{Control, Result};

/// What is said, by length; 13, 53 and 115 words.
const TEXTS: [(&str, &str); 3] = [
    (
        "short",
        "A quick brown fox jumps over the lazy dog sleeping by the river.",
    ),
    (
        "medium",
        "In a small village at the foot of the hills an old clockmaker opened his shop every morning before the sun was up, and \
         every evening he wound the clock above the square. Nobody there had ever asked the time of anybody else, because its \
         bells could be heard from the farthest farm.",
    ),
    (
        "long",
        "Machines that speak were once a curiosity, with bellows for lungs and a reed for a throat. Today a model of language \
         reads a sentence, a second one chooses the sounds of every moment, and a third one turns them into waves. What makes \
         such a voice pleasant is neither its pitch nor its speed, but that it seems to know where a sentence is going before \
         it gets there. People notice a pause that comes too late, a word that is stressed without a reason, or a breath in \
         the wrong place. The work that is left is to do all of this on the computer in front of us, without asking anybody \
         else.",
    ),
];

/// Frames of a word: 2.8 words are said in a second.
const WORD_FRAMES: f64 = 12.5 / 2.8;

/// What a text took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpokenText {
    /// Which.
    pub name: String,
    /// Its words.
    pub words: usize,
    /// Frames that were said, the same in every pass.
    pub frames: usize,
    /// Seconds of sound.
    pub audio: f64,
    /// Seconds that it took.
    pub wall: Spread,
    /// Those over the seconds of sound.
    pub real_time_factor: Spread,
    /// Frames per second.
    pub frames_per_second: Spread,
    /// Seconds until the first sound.
    pub first_audio: Spread,
    /// Shares of the time: the prompt with the first frame, the other frames, from codes to sound.
    pub prefill: f64,
    /// See `prefill`.
    pub generate: f64,
    /// See `prefill`.
    pub decode: f64,
    /// Most bytes of memory that the process had until then.
    pub peak_memory: Option<u64>,
}

/// Say all texts, each `repeats` times after `warm_up` times that do not count.
pub(super) fn spoken_texts(
    synthesizer: &Synthesizer,
    (warm_up, repeats): (usize, usize),
    control: &Control,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<SpokenText>> {
    let mut said = Vec::with_capacity(TEXTS.len());
    for (name, text) in TEXTS {
        let words = text.split_whitespace().count();
        let frames = (words as f64 * WORD_FRAMES).round() as usize;
        // The work has to be the same in every pass, whenever speech would have ended.
        let mut options = SpeakOptions::new()
            .seed(1)
            .exact_frames(frames)
            .split(false);
        options.voice = voice(synthesizer);
        let mut passes = Vec::with_capacity(repeats);
        let mut audio = 0.0;
        for index in 0..warm_up + repeats {
            say(&match index.checked_sub(warm_up) {
                Some(pass) => format!("{name} text, pass {}", pass + 1),
                None => format!("{name} text, warm-up"),
            });
            let mut stream = synthesizer.stream(text, &options, control)?;
            let mut n_samples = 0;
            while let Some(chunk) = stream.next_chunk()? {
                n_samples += chunk.samples.len();
            }
            audio = n_samples as f64 / f64::from(synthesizer.sample_rate());
            if index >= warm_up {
                passes.push(stream.timings());
            }
        }
        let spread =
            |of: &dyn Fn(f64) -> f64| Spread::new(passes.iter().map(|pass| of(pass.total)));
        let share = |of: fn(&crate::tts::SpeechTimings) -> f64| {
            let share = passes.iter().map(|pass| of(pass) / pass.total.max(1e-9));
            mean(share).unwrap_or_default()
        };
        said.push(SpokenText {
            name: name.into(),
            words,
            frames,
            audio,
            wall: spread(&|seconds| seconds),
            real_time_factor: spread(&|seconds| seconds / audio),
            frames_per_second: spread(&|seconds| frames as f64 / seconds.max(1e-9)),
            first_audio: Spread::new(passes.iter().map(|pass| pass.first_audio)),
            prefill: share(|pass| pass.prefill),
            generate: share(|pass| pass.generate),
            decode: share(|pass| pass.decode),
            peak_memory: peak_memory(),
        });
    }
    Ok(said)
}

/// A voice that every model of the kind has.
fn voice(synthesizer: &Synthesizer) -> Voice {
    match synthesizer.kind() {
        TtsKind::CustomVoice | TtsKind::VoiceDesign => Voice::Default,
        TtsKind::Base => Voice::Cloned(Arc::new(ClonedVoice {
            vector: vec![0.0; synthesizer.model().config().talker.dim],
            codes: Vec::new(),
            n_codes: synthesizer.model().config().n_codes,
            text: String::new(),
        })),
    }
}

impl SpokenText {
    /// What a comparison looks at.
    pub(super) fn measure(&self) -> Measure {
        Measure {
            name: format!("{} text", self.name),
            role: Role::Whole,
            value: 1e3 * self.wall.mean,
            unit: "ms".into(),
            floor: None,
            target: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_lengths_that_others_measure_with() {
        let words = TEXTS.map(|(_, text)| text.split_whitespace().count());
        assert_eq!(words, [13, 53, 115]);
    }
}
