//! Speech that does not end by itself is ended: a budget of frames from the length of the text, and a look for loops.

use crate::loop_guard::LoopGuard;

/// Why a piece of text was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model said so.
    End,
    /// The text should have been said long before.
    Budget,
    /// The same first codes came again and again.
    Repetition,
    /// As many frames as were asked for, or as the model's settings allow.
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

/// Frames that a character usually takes.
pub(super) fn frames_of(character: char) -> f64 {
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

/// Watches the frames of one piece of text.
///
/// It looks at the first code of each, which says what is spoken: the others are drawn anew each time, and differ in a loop too.
/// Silence may repeat one code, but no pause within a piece takes 4 s; talkers that did not find out again were seen to repeat
/// one 59 times.
#[derive(Debug)]
pub struct FrameGuard(LoopGuard);

impl FrameGuard {
    /// Nothing was said yet.
    pub fn new() -> Self {
        Self(LoopGuard::new(1, LONGEST_LOOP, LOOP_FRAMES))
    }

    /// Take the codes of a frame; whether it goes in circles.
    pub fn push(&mut self, codes: &[u32]) -> bool {
        self.0.push(&codes[..1]).is_some()
    }
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

    #[test]
    fn first_codes_that_come_again_are_a_loop_whatever_the_others_are() {
        let found = |first: &dyn Fn(u32) -> u32| {
            let mut guard = FrameGuard::new();
            (0..200).find(|&n| guard.push(&[first(n), n * n % 97, n % 41]))
        };
        assert_eq!(found(&|_| 7), Some(50));
        assert_eq!(found(&|n| n % 4), Some(53));
        assert_eq!(found(&|n| n), None);
        // Speech with pauses of three seconds.
        assert_eq!(found(&|n| if n % 60 < 38 { 7 } else { n }), None);
    }
}
