//! Speech that does not end by itself is ended: a budget of frames from the length of the text, and a look for loops.

use crate::loop_guard::LoopGuard;

/// Why a piece of text was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model said so.
    End,
    /// The text should have been said long before.
    Budget,
    /// The same frames came again and again.
    Repetition,
    /// As many frames as were asked for.
    MaxFrames,
}

impl StopReason {
    /// For results that programs read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Budget => "budget",
            Self::Repetition => "repetition",
            Self::MaxFrames => "max_frames",
        }
    }
}

/// Frames that every text may take beside those of its characters: pauses, breath, hesitation.
const SPARE_FRAMES: usize = 50;

/// How many times longer than usual a text may take.
const PATIENCE: f64 = 2.5;

/// A loop has at most so many frames, and is one when it went on for so long (4 s).
const LONGEST_LOOP: usize = 8;
const LOOP_FRAMES: usize = 50;

/// Frames that a text may take: two and a half times what unhurried speech takes, and some.
///
/// At 12.5 frames a second: letters of alphabets 15 a second, syllables (Hangul) and kana 5 a second, characters that are
/// words (Han) 4 a second, digits 3 a second as they are read out, other signs a short pause.
pub fn frame_budget(text: &str) -> usize {
    let frames: f64 = text.chars().map(frames_of).sum();
    SPARE_FRAMES + (PATIENCE * frames).ceil() as usize
}

fn frames_of(character: char) -> f64 {
    match u32::from(character) {
        0x3040..=0x30ff | 0xac00..=0xd7af => 2.5,
        0x3400..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff => 3.2,
        _ if character.is_numeric() => 4.2,
        _ if character.is_alphabetic() => 0.85,
        _ if character.is_whitespace() => 0.5,
        // Signs may be read out, too.
        _ => 2.0,
    }
}

/// Watches the frames of one piece of text, of `n_codes` codes each.
pub fn loop_guard(n_codes: usize) -> LoopGuard {
    LoopGuard::new(n_codes, LONGEST_LOOP, LOOP_FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_time_to_be_said() {
        // 13 words take about 4 s, 50 frames.
        let text = "The quick brown fox jumps over the lazy dog by the river bank.";
        assert!(
            (130..250).contains(&frame_budget(text)),
            "{}",
            frame_budget(text)
        );
        assert!(frame_budget("今天天气很好") >= 90);
        assert_eq!(frame_budget(""), SPARE_FRAMES);
    }
}
