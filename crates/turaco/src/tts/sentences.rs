//! Long texts, and texts that are still being written, in pieces that can be said by themselves.

/// A piece is not ended before so many characters, so that it has a melody.
const SHORTEST: usize = 60;
/// The first piece of a text that is still being written is what one waits for.
const SHORTEST_FIRST: usize = 12;
/// Beyond this, a comma will do, then a space.
const LONGEST: usize = 320;

/// Cuts a text that comes bit by bit into pieces of one or more sentences.
#[derive(Debug, Default)]
pub struct SentenceSplitter {
    text: String,
    /// Whether a piece was given out.
    begun: bool,
}

impl SentenceSplitter {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pieces of a whole text.
    pub fn split(text: &str) -> Vec<String> {
        let mut splitter = Self {
            text: text.to_owned(),
            begun: true,
        };
        let mut pieces: Vec<String> = std::iter::from_fn(|| splitter.next()).collect();
        let rest = splitter.finish();
        // A short end belongs to what is before it.
        match (rest, pieces.last_mut()) {
            (Some(rest), Some(last))
                if rest.chars().count() < SHORTEST / 2 && last.len() + rest.len() < LONGEST =>
            {
                last.push(' ');
                last.push_str(&rest);
            }
            (Some(rest), _) => pieces.push(rest),
            (None, _) => {}
        }
        pieces
    }

    /// More text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The next piece that is complete, if there is one.
    #[expect(clippy::should_implement_trait, reason = "more may come after `None`")]
    pub fn next(&mut self) -> Option<String> {
        loop {
            let end = self.end_of_piece()?;
            let rest = self.text.split_off(end);
            let piece = std::mem::replace(&mut self.text, rest);
            let piece = piece.trim();
            if !piece.is_empty() {
                self.begun = true;
                return Some(piece.to_owned());
            }
        }
    }

    /// What is left at the end of the text.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.text);
        let rest = rest.trim();
        (!rest.is_empty()).then(|| rest.to_owned())
    }

    /// Where the first piece ends, in bytes.
    fn end_of_piece(&self) -> Option<usize> {
        let shortest = if self.begun { SHORTEST } else { SHORTEST_FIRST };
        let (mut count, mut comma, mut space) = (0, None, None);
        let mut characters = self.text.char_indices().peekable();
        let mut word_len = 0;
        while let Some((at, character)) = characters.next() {
            count += 1;
            let end = at + character.len_utf8();
            let next = characters.peek().map(|(_, next)| *next);
            let wide = matches!(character, '。' | '！' | '？' | '…' | '；');
            // A full stop ends a sentence only before a space; "e.g." and initials are no sentences.
            let stop = matches!(character, '.' | '!' | '?' | ';')
                && next.is_some_and(char::is_whitespace)
                && (character != '.' || word_len > 1);
            let paragraph = character == '\n' && next == Some('\n');
            if ((stop || wide) && count >= shortest) || (paragraph && count > 1) {
                return Some(end);
            }
            match character {
                ',' | ':' | '—' | '–' if next.is_some_and(char::is_whitespace) => {
                    comma = Some(end)
                }
                '，' | '、' | '：' => comma = Some(end),
                _ if character.is_whitespace() => space = Some(end),
                _ => {}
            }
            word_len = if character.is_alphanumeric() {
                word_len + 1
            } else {
                0
            };
            if count >= LONGEST {
                return Some(comma.or(space).unwrap_or(end));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sentences_stay_together_until_there_is_something_to_say() {
        let text = "It rained. The boats stayed in the harbour, all of them, until Sunday! Then Mr. J. Smith of no. 3.5 \
                    said that one could go out again, and so they did. Yes.";
        assert_eq!(
            SentenceSplitter::split(text),
            [
                "It rained. The boats stayed in the harbour, all of them, until Sunday!",
                "Then Mr. J. Smith of no. 3.5 said that one could go out again, and so they did. Yes."
            ]
        );
        assert_eq!(SentenceSplitter::split("Hello"), ["Hello"]);
        assert_eq!(SentenceSplitter::split("  \n"), [""; 0]);
    }

    #[test]
    fn a_text_in_progress_begins_early() {
        let mut splitter = SentenceSplitter::new();
        splitter.push("Good morning");
        assert_eq!(splitter.next(), None);
        splitter.push("! How are");
        assert_eq!(splitter.next().as_deref(), Some("Good morning!"));
        splitter.push(" you?");
        assert_eq!(splitter.next(), None);
        assert_eq!(splitter.finish().as_deref(), Some("How are you?"));
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[a-z .,!?\n。，]{0,900}") {
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let pieces = SentenceSplitter::split(&text);
            prop_assert_eq!(letters(&pieces.concat()), letters(&text));
            prop_assert!(pieces.iter().all(|piece| piece.chars().count() <= LONGEST + SHORTEST));
        }
    }
}
