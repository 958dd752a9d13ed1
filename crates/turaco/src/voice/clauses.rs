//! An answer that is still being written, in pieces that can be said: the first one soon, later ones whole.

/// Words before a comma may end the first piece.
const FIRST_MIN_WORDS: usize = 2;
/// And a later one: by then there is sound to listen to, and whole clauses have a melody.
const LATER_MIN_WORDS: usize = 6;
/// The first piece ends after so many words at the latest: one waits for it.
const FIRST_WORDS: usize = 8;
/// Later ones.
const LATER_WORDS: usize = 20;

/// Cuts text that comes bit by bit at the ends of sentences and clauses. The text of a piece is never changed.
#[derive(Debug, Default)]
pub struct ClauseSplitter {
    text: String,
    begun: bool,
}

/// Abbreviations whose full stop ends no sentence.
const ABBREVIATIONS: [&str; 16] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "no", "fig", "z.b", "d.h",
    "bzw", "ca",
];

/// Words before which a clause may end.
const JOINTS: [&str; 3] = ["and", "but", "so"];

impl ClauseSplitter {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// More text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The next piece that is complete, if there is one.
    #[expect(clippy::should_implement_trait, reason = "more may come after `None`")]
    pub fn next(&mut self) -> Option<String> {
        let end = self.end_of_piece()?;
        Some(self.take(end))
    }

    /// No text has come for a while: what is there up to the last whole word, if that is worth saying.
    pub fn hurry(&mut self) -> Option<String> {
        let end = self.text.trim_end().len();
        let whole = match end < self.text.len() {
            true => end,
            false => self.text[..end].rfind(char::is_whitespace)?,
        };
        let is_enough = self.text[..whole].split_whitespace().count() >= FIRST_MIN_WORDS;
        // A number or an address may go on.
        let is_open = self.text[..whole].ends_with(|c: char| c.is_ascii_digit());
        (is_enough && !is_open).then(|| self.take(whole))
    }

    /// What is left at the end of the text.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.text);
        self.begun = false;
        (!rest.trim().is_empty()).then_some(rest)
    }

    fn take(&mut self, end: usize) -> String {
        let rest = self.text.split_off(end);
        self.begun = true;
        std::mem::replace(&mut self.text, rest)
    }

    /// Where the first piece ends, in bytes.
    fn end_of_piece(&self) -> Option<usize> {
        let (least, most) = match self.begun {
            false => (FIRST_MIN_WORDS, FIRST_WORDS),
            true => (LATER_MIN_WORDS, LATER_WORDS),
        };
        let mut words = 0;
        let mut word_start = None;
        let mut characters = self.text.char_indices().peekable();
        let mut said_anything = false;
        while let Some((at, character)) = characters.next() {
            let end = at + character.len_utf8();
            let next = characters.peek().map(|(_, next)| *next);
            if character.is_whitespace() {
                if let Some(start) = word_start.take() {
                    words += 1;
                    if words >= most && !is_open(&self.text[start..at]) {
                        return Some(end);
                    }
                }
                if words >= least && self.joint_follows(end) {
                    return Some(end);
                }
                if character == '\n' && said_anything {
                    return Some(end);
                }
                continue;
            }
            said_anything |= character.is_alphanumeric();
            let start = *word_start.get_or_insert(at);
            let before_space = next.is_some_and(char::is_whitespace);
            let ends_sentence = match character {
                '。' | '！' | '？' => true,
                '!' | '?' | '…' => before_space,
                '.' => before_space && !is_abbreviation(&self.text[start..at]),
                _ => false,
            };
            let ends_clause = words + 1 >= least
                && (matches!(character, '，' | '；' | '：')
                    || matches!(character, ',' | ';' | ':' | '—') && before_space);
            if said_anything && (ends_sentence || ends_clause) {
                // Closing quotes and brackets belong to what they close.
                let closing = self.text[end..]
                    .chars()
                    .take_while(|c| matches!(c, '"' | '”' | '’' | ')' | '»' | '」'))
                    .map(char::len_utf8);
                return Some(end + closing.sum::<usize>());
            }
        }
        None
    }

    /// Whether a whole word that joins clauses stands at `at`.
    fn joint_follows(&self, at: usize) -> bool {
        JOINTS.iter().any(|joint| {
            self.text[at..]
                .strip_prefix(joint)
                .is_some_and(|rest| rest.starts_with(char::is_whitespace))
        })
    }
}

/// Whether a full stop behind `word` ends no sentence: initials, numbers of a list, abbreviations.
fn is_abbreviation(word: &str) -> bool {
    let word = word.trim_start_matches(['(', '"', '“', '‘', '*', '_']);
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    is_initial || is_number || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

/// Whether a word may go on behind the space, as numbers with units and thousands do.
fn is_open(word: &str) -> bool {
    word.ends_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &str) -> Vec<String> {
        let mut splitter = ClauseSplitter::new();
        splitter.push(text);
        let mut pieces: Vec<String> = std::iter::from_fn(|| splitter.next()).collect();
        pieces.extend(splitter.finish());
        pieces.iter().map(|piece| piece.trim().to_owned()).collect()
    }

    #[test]
    fn sentences_and_clauses_end_pieces() {
        assert_eq!(
            pieces("Of course, I can do that. It is 3.5 km away, so take a coat and go! Bye"),
            [
                "Of course,",
                "I can do that.",
                "It is 3.5 km away, so take a coat",
                "and go!",
                "Bye"
            ]
        );
    }

    #[test]
    fn abbreviations_numbers_and_addresses_stay_whole() {
        assert_eq!(
            pieces("Ask Dr. J. Smith at https://example.org/a,b?c=1. He knows."),
            [
                "Ask Dr. J. Smith at https://example.org/a,b?c=1.",
                "He knows."
            ]
        );
        assert_eq!(pieces("1. First of all."), ["1. First of all."]);
    }

    #[test]
    fn the_first_piece_is_short() {
        let text = "one two three four five six seven eight nine ten eleven";
        assert_eq!(
            pieces(text),
            ["one two three four five six seven eight", "nine ten eleven"]
        );
    }

    #[test]
    fn other_scripts_have_marks_of_their_own() {
        assert_eq!(
            pieces("今天天气很好。我们走吧！"),
            ["今天天气很好。", "我们走吧！"]
        );
    }

    #[test]
    fn a_pause_says_whole_words_only() {
        let mut splitter = ClauseSplitter::new();
        splitter.push("I think that");
        assert_eq!(splitter.next(), None);
        assert_eq!(splitter.hurry().as_deref(), Some("I think"));
        assert_eq!(splitter.hurry(), None);
        splitter.push(" 12 ");
        assert_eq!(splitter.hurry(), None);
        assert_eq!(splitter.finish().as_deref(), Some(" that 12 "));
    }

    proptest! {
        #[test]
        fn nothing_is_lost(
            parts in prop::collection::vec("[a-z0-9 .,!?\n。，)\"*:/é]{0,30}", 0..20),
            hurry in any::<bool>(),
        ) {
            let mut splitter = ClauseSplitter::new();
            let mut said = String::new();
            for part in &parts {
                splitter.push(part);
                while let Some(piece) = splitter.next() {
                    prop_assert!(!piece.is_empty());
                    said.push_str(&piece);
                }
                if hurry {
                    said.extend(splitter.hurry());
                }
            }
            said.extend(splitter.finish());
            let text = parts.concat();
            prop_assert_eq!(said.trim_end(), text.trim_end());
        }
    }
}
