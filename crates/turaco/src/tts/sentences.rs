//! Long texts, and texts that are still being written, in pieces that can be said by themselves.

use std::ops::Range;

/// A piece is not ended before so many characters, so that it has a melody.
const SHORTEST: usize = 60;
/// The first piece of a text that is still being written is what one waits for.
const SHORTEST_FIRST: usize = 12;
/// Beyond this, a comma will do, then a space.
const LONGEST: usize = 320;
/// What closes a sentence behind its stop.
const CLOSING: &[char] = &['"', '\'', ')', ']', '”', '’', '»', '」', '』', '）', '》'];
/// Words that a full stop follows in the middle of a sentence.
const ABBREVIATIONS: &[&str] = &[
    "Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Sr", "Jr", "Rev", "Hon", "Gen", "Col", "Capt", "Lt",
    "Sgt", "Mt", "vs", "approx", "No", "no", "Nr", "Fig", "fig", "Vol", "Ch", "pp", "cf", "ca",
    "bzw", "Hr", "Fr", "Mme", "Mlle", "Sra", "Srta", "Dra", "Ing", "Inc", "Ltd", "Co", "Corp",
    "Jan", "Feb", "Aug", "Sept", "Oct", "Nov", "Dec",
];

/// Cuts a text that comes bit by bit into pieces of one or more sentences.
///
/// Lines may end as on any system: a carriage return before a line feed is left out.
#[derive(Debug, Default)]
pub struct SentenceSplitter {
    text: String,
    /// Bytes of it that were given out.
    given: usize,
    /// A carriage return at the end, of which it shows later what it is.
    held_return: bool,
    /// Whether a piece was given out.
    begun: bool,
    #[cfg(test)]
    work: tests::Work,
}

impl SentenceSplitter {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pieces of a whole text.
    pub fn split(text: &str) -> Vec<String> {
        Pieces::new(text).collect()
    }

    /// More text.
    pub fn push(&mut self, text: &str) {
        // What was given out is dropped when it is the larger part, so that every byte is moved less than once on average.
        if self.given > self.text.len() / 2 {
            self.text.drain(..self.given);
            self.given = 0;
            #[cfg(test)]
            self.work.moved(self.text.len());
        }
        if text.is_empty() {
            return;
        }
        if std::mem::take(&mut self.held_return) && !text.starts_with('\n') {
            self.text.push('\r');
        }
        let text = match text.strip_suffix('\r') {
            Some(text) => {
                self.held_return = true;
                text
            }
            None => text,
        };
        let mut lines = text.split("\r\n");
        self.text.push_str(lines.next().unwrap_or_default());
        for line in lines {
            self.text.push('\n');
            self.text.push_str(line);
        }
    }

    /// The next piece that is complete, if there is one.
    #[expect(clippy::should_implement_trait, reason = "more may come after `None`")]
    pub fn next(&mut self) -> Option<String> {
        loop {
            let shortest = if self.begun { SHORTEST } else { SHORTEST_FIRST };
            let rest = &self.text[self.given..];
            let end = end_of_piece(rest, shortest);
            #[cfg(test)]
            self.work
                .read(end.map_or(rest.len(), |end| end.max(LONGEST)));
            let piece = rest[..end?].trim();
            let piece = (!piece.is_empty()).then(|| piece.to_owned());
            self.given += end?;
            if piece.is_some() {
                self.begun = true;
                return piece;
            }
        }
    }

    /// What is left at the end of the text.
    pub fn finish(&mut self) -> Option<String> {
        let rest = self.text[self.given..].trim();
        let rest = (!rest.is_empty()).then(|| rest.to_owned());
        self.text.clear();
        self.given = 0;
        self.held_return = false;
        rest
    }
}

/// Where the first piece of a text ends, in bytes. Looks at little more than [`LONGEST`] characters.
fn end_of_piece(text: &str, shortest: usize) -> Option<usize> {
    let (mut count, mut comma, mut space) = (0, None, None);
    let mut characters = text.char_indices().peekable();
    let mut word = 0;
    while let Some((at, character)) = characters.next() {
        count += 1;
        let end = at + character.len_utf8();
        let next = characters.peek().map(|(_, next)| *next);
        let paragraph = character == '\n' && next == Some('\n');
        if paragraph && count > 1 {
            return Some(end);
        }
        if count >= shortest
            && let Some(closed) = end_of_sentence(text, word..at, character)
        {
            return Some(closed);
        }
        match character {
            ',' | ':' | '—' | '–' if count >= shortest && next.is_some_and(char::is_whitespace) =>
            {
                comma = Some(end);
            }
            '，' | '、' | '：' if count >= shortest => comma = Some(end),
            _ if character.is_whitespace() => space = Some(end),
            _ => {}
        }
        if !character.is_alphanumeric() {
            word = end;
        }
        if count >= LONGEST {
            return Some(comma.or(space).unwrap_or(end));
        }
    }
    None
}

/// Whether `character` behind the word `word` of a text ends a sentence: then where that ends, with the quotes and brackets that it
/// closes.
fn end_of_sentence(text: &str, word: Range<usize>, character: char) -> Option<usize> {
    let behind = &text[word.end + character.len_utf8()..];
    let open = behind.trim_start_matches(CLOSING);
    let end = text.len() - open.len();
    match character {
        '。' | '！' | '？' | '…' | '；' => Some(end),
        '!' | '?' | ';' => open.starts_with(char::is_whitespace).then_some(end),
        '.' => {
            open.chars().next().filter(|next| next.is_whitespace())?;
            // "e.g.", initials and titles are no sentences.
            let word = &text[word];
            if word.chars().nth(1).is_none() || ABBREVIATIONS.contains(&word) {
                return None;
            }
            let mut gap = open.chars().take(LONGEST);
            let line_ends = gap
                .clone()
                .take_while(|next| next.is_whitespace())
                .any(|next| next == '\n');
            // Neither is what goes on in small letters, which is not known before there is more.
            let after = gap.find(|next| !next.is_whitespace());
            let is_over = line_ends || after.is_some_and(|after| !after.is_lowercase());
            is_over.then_some(end)
        }
        _ => None,
    }
}

/// The pieces of a whole text, each found when it is asked for.
#[derive(Debug)]
pub(super) struct Pieces {
    splitter: SentenceSplitter,
    /// The one after, as a short end belongs to what is before it.
    next: Option<String>,
}

impl Pieces {
    /// Of this text.
    pub fn new(text: &str) -> Self {
        let mut splitter = SentenceSplitter::new();
        // Nobody waits for the rest of it.
        splitter.begun = true;
        splitter.push(text);
        let next = splitter.next();
        Self { splitter, next }
    }
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let Some(mut piece) = self.next.take() else {
            return self.splitter.finish();
        };
        self.next = self.splitter.next();
        if self.next.is_none()
            && let Some(rest) = self.splitter.finish()
        {
            if rest.chars().count() < SHORTEST / 2 && piece.len() + rest.len() < LONGEST {
                // Chinese and Japanese have no spaces between sentences.
                if !piece.ends_with(is_wide) {
                    piece.push(' ');
                }
                piece.push_str(&rest);
            } else {
                self.next = Some(rest);
            }
        }
        Some(piece)
    }
}

/// Whether a character is of a script without spaces, or a sign in one.
fn is_wide(character: char) -> bool {
    matches!(character, '…' | '”' | '’' | '\u{3000}'..='\u{9fff}' | '\u{ff00}'..='\u{ffef}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that were looked at, and bytes that were moved.
    #[derive(Debug, Default)]
    pub(super) struct Work {
        read: usize,
        moved: usize,
    }

    impl Work {
        pub fn read(&mut self, bytes: usize) {
            self.read += bytes;
        }

        pub fn moved(&mut self, bytes: usize) {
            self.moved += bytes;
        }
    }

    const PARAGRAPH: &str = "It rained. The boats stayed in the harbour, all of them, until Sunday! Then Mr. J. Smith \
                             said that one could go out again — and so they did, 今天天气很好。 Yes.\n\n";

    #[test]
    fn the_work_for_megabytes_of_text_grows_as_the_text_does() {
        for block in [8 << 20, 4096, 7] {
            let work = [1_usize << 20, 8 << 20].map(|len| {
                let text = PARAGRAPH.repeat(len / PARAGRAPH.len());
                let mut splitter = SentenceSplitter::new();
                let mut begin = 0;
                while begin < text.len() {
                    let end = text.ceil_char_boundary(text.len().min(begin + block));
                    splitter.push(&text[begin..end]);
                    begin = end;
                    while splitter.next().is_some() {}
                }
                splitter.finish();
                splitter.work
            });
            let [small, large] = work;
            assert!(large.read < 9 * small.read, "{block}: {small:?} {large:?}");
            assert!(large.moved <= 8 << 20, "{block}: {large:?}");
        }
    }

    #[test]
    fn lines_end_as_on_any_system() {
        let text = "A boat\n\nAnother one, which is so long that it cannot be said in one go with what is behind it.\n\nAnd a third one for the end of it, which is said by itself\n";
        let other = text.replace('\n', "\r\n");
        let pieces = SentenceSplitter::split(text);
        assert_eq!(pieces.len(), 3);
        assert_eq!(SentenceSplitter::split(&other), pieces);
        // Also where a line's end is cut in two.
        let mut splitter = SentenceSplitter::new();
        let mut said = Vec::new();
        for character in other.chars() {
            splitter.push(character.encode_utf8(&mut [0; 4]));
            said.extend(splitter.next());
        }
        said.extend(splitter.finish());
        assert_eq!(said, pieces);
        // One by itself is a space.
        splitter.push("a\r");
        splitter.push("");
        splitter.push("b");
        assert_eq!(splitter.finish().as_deref(), Some("a\rb"));
    }

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
    fn titles_do_not_end_sentences_and_quotes_do() {
        let titles = "Nobody had ever seen so many people in front of the old house of Mr. Smith and his friend Dr. Jones. It was late.";
        let pieces = SentenceSplitter::split(titles);
        assert_eq!(pieces.len(), 1, "{pieces:?}");
        let small = "The boats are as long as a house in the town and weigh three tons approx. or more. So they say who built them with their hands.";
        let pieces = SentenceSplitter::split(small);
        assert_eq!(pieces.len(), 2, "{pieces:?}");
        let quoted = "\"I will not go there with you, neither today nor any other day of the week.\" \"Why not?\" \"Because it is raining and the boats stay where they are.\" (He left.) And nobody ever saw him again in the town.";
        let pieces = SentenceSplitter::split(quoted);
        assert!(pieces.len() >= 2, "{pieces:?}");
        assert!(pieces[0].ends_with("week.\""), "{pieces:?}");
        assert!(pieces[1].starts_with("\"Why not?\""), "{pieces:?}");
        let chinese = format!("{}。好的。", "今天天气很好看的".repeat(8));
        assert_eq!(SentenceSplitter::split(&chinese).concat(), chinese);
    }

    #[test]
    fn a_title_at_the_end_of_what_came_is_awaited() {
        let mut splitter = SentenceSplitter::new();
        splitter.push("Good morning, Mr. ");
        assert_eq!(splitter.next(), None);
        splitter.push("Smith. ");
        assert_eq!(splitter.next(), None);
        splitter.push("How");
        assert_eq!(splitter.next().as_deref(), Some("Good morning, Mr. Smith."));
        // Who ends a line waits for what it says.
        splitter
            .push(" are you all today, you and your friends from the other house over there.\n");
        assert!(splitter.next().is_some());
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
