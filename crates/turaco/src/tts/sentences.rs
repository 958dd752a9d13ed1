//! Long texts, and texts that are still being written, in pieces that can be said by themselves.

use std::ops::Range;

use super::guard::frames_of;

/// A piece is not ended before so many characters, so that it has a melody.
const SHORTEST: usize = 60;
/// The first piece of a text that is still being written is what one waits for.
const SHORTEST_FIRST: usize = 12;
/// Beyond this, the end of a line will do, then a comma, then a space.
const LONGEST: usize = 320;
/// The same for scripts of which a few characters are much speech: what as many letters take.
const LONGEST_FRAMES: f64 = 272.0;
/// A comma may end a piece that takes so long.
const SHORTEST_FRAMES: f64 = 51.0;
/// What closes a sentence behind its stop.
const CLOSING: &[char] = &['"', '\'', ')', ']', '”', '’', '»', '」', '』', '）', '》'];
/// What ends a sentence, or announces what is said next.
const STOPS: &[char] = &['.', '!', '?', ';', ':', '。', '！', '？', '…', '；', '：'];
/// Words that a full stop follows in the middle of a sentence.
const ABBREVIATIONS: &[&str] = &[
    "Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Sr", "Jr", "Rev", "Hon", "Gen", "Col", "Capt", "Lt",
    "Sgt", "Mt", "vs", "approx", "No", "no", "Nr", "Fig", "fig", "Vol", "Ch", "pp", "cf", "ca",
    "bzw", "Hr", "Fr", "Mme", "Mlle", "Sra", "Srta", "Dra", "Ing", "Inc", "Ltd", "Co", "Corp",
    "Jan", "Feb", "Aug", "Sept", "Oct", "Nov", "Dec",
];

/// Why pieces are as long as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// All of the text is there, and nobody waits for it.
    Whole,
    /// More comes, and lines are said when they end with a sentence.
    Arriving,
    /// Nothing comes, and nothing is left to say.
    Waiting,
}

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
    /// Whether all of the text comes at once.
    is_whole: bool,
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
        self.next_at(match self.is_whole {
            true => Pace::Whole,
            false => Pace::Arriving,
        })
    }

    /// As [`next`](Self::next) where no more text came for a while and all before it was said: a line that ended is a piece then,
    /// and a short sentence, too.
    pub fn next_while_waiting(&mut self) -> Option<String> {
        self.next_at(Pace::Waiting)
    }

    fn next_at(&mut self, pace: Pace) -> Option<String> {
        loop {
            let shortest = match pace {
                Pace::Whole => SHORTEST,
                Pace::Arriving if self.begun => SHORTEST,
                Pace::Arriving | Pace::Waiting => SHORTEST_FIRST,
            };
            let rest = &self.text[self.given..];
            let end = end_of_piece(rest, shortest, pace);
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
fn end_of_piece(text: &str, shortest: usize, pace: Pace) -> Option<usize> {
    let (mut count, mut frames) = (0, 0.0);
    let (mut line, mut comma, mut space) = (None, None, None);
    let mut characters = text.char_indices().peekable();
    let mut word = 0;
    let mut is_said = false;
    while let Some((at, character)) = characters.next() {
        count += 1;
        frames += frames_of(character);
        is_said |= character.is_alphanumeric();
        let end = at + character.len_utf8();
        let next = characters.peek().map(|(_, next)| *next);
        let paragraph = character == '\n' && next == Some('\n');
        if paragraph && count > 1 {
            return Some(end);
        }
        if count >= shortest
            && let Some(closed) = end_of_sentence(text, word..at, character, pace)
        {
            return Some(closed);
        }
        let is_long = count >= shortest || frames >= SHORTEST_FRAMES;
        match character {
            '\n' if ends_line(&text[..at], count, pace) && is_said => return Some(end),
            '\n' if is_long => line = Some(end),
            ',' | ':' | '—' | '–' if is_long && next.is_some_and(char::is_whitespace) => {
                comma = Some(end);
            }
            '，' | '、' | '：' if is_long => comma = Some(end),
            _ if character.is_whitespace() => space = Some(end),
            _ => {}
        }
        if !character.is_alphanumeric() {
            word = end;
        }
        if count >= LONGEST || frames >= LONGEST_FRAMES {
            return Some(line.or(comma).or(space).unwrap_or(end));
        }
    }
    None
}

/// Whether the line that `text` of `count` characters is can be said without the next one, which may go on with its sentence.
fn ends_line(text: &str, count: usize, pace: Pace) -> bool {
    match pace {
        Pace::Whole => false,
        Pace::Arriving => {
            let text = text.trim_end().trim_end_matches(CLOSING);
            count >= SHORTEST_FIRST && text.ends_with(STOPS)
        }
        Pace::Waiting => true,
    }
}

/// Whether `character` behind the word `word` of a text ends a sentence: then where that ends, with the quotes and brackets that it
/// closes.
fn end_of_sentence(text: &str, word: Range<usize>, character: char, pace: Pace) -> Option<usize> {
    let behind = &text[word.end + character.len_utf8()..];
    let open = behind.trim_start_matches(CLOSING);
    let end = text.len() - open.len();
    match character {
        '。' | '！' | '？' | '…' | '；' => Some(end),
        ';' => open.starts_with(char::is_whitespace).then_some(end),
        '.' | '!' | '?' => {
            open.chars().next().filter(|next| next.is_whitespace())?;
            // "e.g.", initials and titles are no sentences.
            let word = &text[word];
            if character == '.' && (word.chars().nth(1).is_none() || ABBREVIATIONS.contains(&word))
            {
                return None;
            }
            let mut gap = open.chars().take(LONGEST);
            let line_ends = gap
                .clone()
                .take_while(|next| next.is_whitespace())
                .any(|next| next == '\n');
            // Neither is what goes on in small letters, which is not known before there is more.
            let after = gap.find(|next| !next.is_whitespace());
            let is_over =
                line_ends || after.map_or(pace == Pace::Waiting, |after| !after.is_lowercase());
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
        splitter.is_whole = true;
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

    #[test]
    fn lines_and_sentences_are_said_while_nothing_else_is_there() {
        let mut splitter = SentenceSplitter::new();
        splitter.push("The first piece is over. It");
        assert!(splitter.next().is_some());
        // A line that ends with its sentence is awaited by somebody.
        splitter.push(" went on. Then it ended.\nAnd");
        assert_eq!(
            splitter.next().as_deref(),
            Some("It went on. Then it ended.")
        );
        // One that does not may go on in the next.
        splitter.push(" the boats of the\n");
        assert_eq!(splitter.next(), None);
        splitter.push("harbour were out.\n");
        let line = splitter.next();
        assert_eq!(
            line.as_deref(),
            Some("And the boats of the\nharbour were out.")
        );
        for line in ["Yes\n", "No sail anywhere. "] {
            splitter.push(line);
            assert_eq!(splitter.next(), None);
            assert_eq!(splitter.next_while_waiting().as_deref(), Some(line.trim()));
        }
        splitter.push("Good morning, Mr. ");
        assert_eq!(splitter.next_while_waiting(), None);
        splitter.push("Smith and the others");
        assert_eq!(splitter.next_while_waiting(), None);
        assert_eq!(
            splitter.finish().as_deref(),
            Some("Good morning, Mr. Smith and the others")
        );
    }

    #[test]
    fn who_said_it_belongs_to_what_was_said() {
        let text = "\"Of course they will be home before the storm, all of them, as ever!\" she said. It rained on and on, and \
                    nobody went out for the rest of the day.";
        let pieces = SentenceSplitter::split(text);
        assert!(pieces[0].ends_with("as ever!\" she said."), "{pieces:?}");
    }

    #[test]
    fn what_has_no_stops_is_cut_where_it_sounds_least_odd() {
        // Lines before commas.
        let list = "a boat, a sail and a lamp\n".repeat(30);
        for piece in SentenceSplitter::split(&list) {
            assert!(
                piece.starts_with("a boat") && piece.ends_with("lamp"),
                "{piece}"
            );
        }
        // Han characters take four times as long as letters.
        let chinese = "今天天气很好看的".repeat(60);
        let pieces = SentenceSplitter::split(&chinese);
        assert_eq!(pieces.concat(), chinese);
        let longest = pieces.iter().map(|piece| piece.chars().count()).max();
        assert!(longest.is_some_and(|longest| longest <= 90), "{longest:?}");
        let chinese = "今天天气很好看的人都在外面，".repeat(20);
        for piece in SentenceSplitter::split(&chinese) {
            assert!(piece.ends_with('，'), "{piece}");
        }
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
