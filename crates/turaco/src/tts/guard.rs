//! Speech that does not end by itself is ended: a budget of frames from the length of the text, and a look for loops.

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

/// Watches the frames of one piece of text.
#[derive(Debug)]
pub struct LoopGuard {
    n_codes: usize,
    /// The last frames.
    frames: Vec<u32>,
    /// For every length of a loop, frames that were as the ones so long before.
    same: [usize; LONGEST_LOOP],
}

impl LoopGuard {
    /// For frames of `n_codes` codes.
    pub fn new(n_codes: usize) -> Self {
        Self {
            n_codes,
            frames: Vec::with_capacity((LONGEST_LOOP + 1) * n_codes),
            same: [0; LONGEST_LOOP],
        }
    }

    /// Take a frame; whether speech goes in circles.
    pub fn is_loop(&mut self, codes: &[u32]) -> bool {
        let n_codes = self.n_codes;
        for (length, same) in (1..).zip(&mut self.same) {
            let before = self.frames.len().checked_sub(length * n_codes);
            let equal = before.is_some_and(|at| self.frames[at..at + n_codes] == *codes);
            *same = if equal { *same + 1 } else { 0 };
        }
        if self.frames.len() == LONGEST_LOOP * n_codes {
            self.frames.drain(..n_codes);
        }
        self.frames.extend_from_slice(codes);
        self.same.iter().any(|&same| same >= LOOP_FRAMES)
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
    fn loops_of_any_short_length_are_found() {
        for length in 1..=LONGEST_LOOP {
            let mut guard = LoopGuard::new(2);
            let frame = |n: usize| [(n % length) as u32, 7];
            let found = (0..200).position(|n| guard.is_loop(&frame(n)));
            assert_eq!(found, Some(length + LOOP_FRAMES - 1));
        }
        let mut guard = LoopGuard::new(1);
        assert!((0..500).all(|n| !guard.is_loop(&[n / 40])));
        assert!((0..500).all(|n| !guard.is_loop(&[n % 9])));
    }
}
