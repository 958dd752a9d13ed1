//! Text lines for people: with times, with special tokens, with words marked by their probability.

use turaco::Segment;
use turaco::output::format_timestamp;
use turaco::tokenizer::WhisperTokenizer;

use super::plan::Plan;

/// How lines look.
pub struct Lines<'a> {
    timestamps: bool,
    special: Option<&'a WhisperTokenizer>,
    words: Option<Marks>,
}

/// How words are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// From red (improbable) to green.
    Colors,
    /// Inverse or underlined if improbable.
    Styles,
    /// The probability behind improbable words, for where there are no styles.
    Numbers,
}

/// The ten colours of a 256-colour terminal between red and green.
const COLORS: [u8; 10] = [196, 202, 208, 214, 220, 226, 190, 154, 118, 82];

/// Below this a word is doubtful, below half of it very doubtful.
const DOUBTFUL: f64 = 0.66;

impl<'a> Lines<'a> {
    /// What the plan asks for, if it is more than plain text.
    pub fn new(plan: &Plan, tokenizer: Option<&'a WhisperTokenizer>, colors: bool) -> Option<Self> {
        let words = match (plan.print_colors && colors, plan.print_confidence) {
            (true, _) => Some(Marks::Colors),
            (false, true) if colors => Some(Marks::Styles),
            (false, true) => Some(Marks::Numbers),
            (false, false) => None,
        };
        let special = tokenizer.filter(|_| plan.print_special);
        (plan.timestamps || special.is_some() || words.is_some()).then_some(Self {
            timestamps: plan.timestamps,
            special,
            words,
        })
    }

    /// A segment as a line.
    pub fn line(&self, segment: &Segment) -> String {
        let text = match (self.special, self.words, &segment.words) {
            (Some(tokenizer), ..) => tokenizer.decode_with_timestamps(&segment.tokens),
            (None, Some(marks), Some(words)) => words
                .iter()
                .map(|word| marked(&word.word, word.probability, marks))
                .collect(),
            _ => segment.text.clone(),
        };
        let text = text.trim();
        if self.timestamps {
            let time = |seconds| format_timestamp(seconds, false, '.');
            format!(
                "[{} --> {}] {text}\n",
                time(segment.start),
                time(segment.end)
            )
        } else {
            format!("{text}\n")
        }
    }
}

fn marked(word: &str, probability: f64, marks: Marks) -> String {
    match marks {
        Marks::Colors => {
            // Most words are nearly certain; the cube spreads them over the colours.
            let index = (probability.clamp(0.0, 1.0).powi(3) * 10.0) as usize;
            format!("\x1b[38;5;{}m{word}\x1b[0m", COLORS[index.min(9)])
        }
        _ if probability >= DOUBTFUL => word.to_string(),
        Marks::Styles => {
            let style = if probability < DOUBTFUL / 2.0 { 7 } else { 4 };
            format!("\x1b[{style}m{word}\x1b[0m")
        }
        Marks::Numbers => format!("{word}({probability:.2})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn improbable_words_are_marked() {
        assert_eq!(marked(" sure", 0.9, Marks::Numbers), " sure");
        assert_eq!(marked(" hm", 0.5, Marks::Numbers), " hm(0.50)");
        assert_eq!(marked(" hm", 0.5, Marks::Styles), "\x1b[4m hm\x1b[0m");
        assert_eq!(marked(" hm", 0.1, Marks::Styles), "\x1b[7m hm\x1b[0m");
        assert_eq!(marked("a", 0.0, Marks::Colors), "\x1b[38;5;196ma\x1b[0m");
        assert_eq!(marked("a", 1.0, Marks::Colors), "\x1b[38;5;82ma\x1b[0m");
    }
}
