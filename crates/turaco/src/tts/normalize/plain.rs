//! Text as people say it: without the marks of Markdown and HTML, without pictures among the letters.
//!
//! Marks are judged by what is beside them and not by pairs, because a text that is still being written is seen in pieces.

/// Elements of HTML that people and language models put into Markdown; other words in angle brackets are kept.
const ELEMENTS: [&str; 48] = [
    "a",
    "b",
    "blockquote",
    "br",
    "center",
    "code",
    "dd",
    "del",
    "details",
    "div",
    "dl",
    "dt",
    "em",
    "figure",
    "font",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "mark",
    "ol",
    "p",
    "pre",
    "q",
    "s",
    "small",
    "span",
    "strong",
    "sub",
    "summary",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "tt",
    "u",
    "ul",
];
const ENTITIES: [(&str, &str); 8] = [
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&apos;", "'"),
    ("&#39;", "'"),
    ("&nbsp;", " "),
    ("&mdash;", "—"),
];

/// `text` without Markdown, HTML tags and emoji, in any language; an address becomes the name of its host.
///
/// Headings and list items get a full stop where they end without one, cells of a table a comma between them. Code is kept,
/// its fences are not. A text without any of these only loses spaces that are doubled. Marks need not come in pairs, so that
/// the pieces of a text that is still being written can be given one by one.
///
/// ```
/// use turaco::tts::plain_text;
/// assert_eq!(plain_text("## Plan 🚀\n- **Sail** to [Kiel](https://kiel.de)"), "Plan.\nSail to Kiel.");
/// ```
pub fn plain_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let (line, is_item) = without_block_marks(line);
        let said = spoken_line(line);
        out.push_str(&said);
        if is_item && said.ends_with(char::is_alphanumeric) {
            out.push('.');
        }
    }
    // At most one empty line, which is a pause.
    while out.contains("\n\n\n") {
        out = out.replace("\n\n\n", "\n\n");
    }
    out.trim().to_owned()
}

/// The line without what makes it a heading, a quotation, an item, a rule or a fence, and whether it is one of those that stand
/// by themselves.
fn without_block_marks(line: &str) -> (&str, bool) {
    let mut line = line.trim();
    while let Some(rest) = line.strip_prefix('>') {
        line = rest.trim_start();
    }
    if line.starts_with("```") || line.starts_with("~~~") {
        let inside = line.trim_start_matches(['`', '~']);
        // ```` ```code``` ```` in one line is said; a language's name is not.
        return (if inside.contains("```") { inside } else { "" }, false);
    }
    if is_rule(line) {
        return ("", false);
    }
    let heading = line.trim_start_matches('#');
    let level = line.len() - heading.len();
    if (1..=6).contains(&level) && heading.starts_with(' ') {
        return (heading.trim_matches(['#', ' ']), true);
    }
    let item = ["- ", "* ", "+ ", "• ", "– "]
        .iter()
        .find_map(|mark| line.strip_prefix(mark));
    if let Some(item) = item {
        let item = item.trim_start();
        let boxes = ["[ ] ", "[x] ", "[X] "];
        let item = boxes
            .iter()
            .find_map(|mark| item.strip_prefix(mark))
            .unwrap_or(item);
        return (item, true);
    }
    (line, false)
}

/// Whether the line is a rule, the underline of a heading, or the line below a table's head.
fn is_rule(line: &str) -> bool {
    let n_marks = line
        .chars()
        .filter(|c| matches!(c, '-' | '=' | '*' | '_'))
        .count();
    let only = |allowed: &[char]| line.chars().all(|c| allowed.contains(&c));
    n_marks >= 3
        && (only(&['-', ' ', '|', ':', '+'])
            || only(&['*', ' '])
            || only(&['_', ' '])
            || only(&['=']))
}

/// What is said of a line that has no block marks any more.
fn spoken_line(line: &str) -> String {
    let is_row = line.len() > 1 && line.starts_with('|') && line.ends_with('|');
    let line = if is_row { line.trim_matches('|') } else { line };
    let characters: Vec<char> = line.chars().collect();
    let mut said = Said::default();
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        if let Some((words, len)) = link(rest).or_else(|| tag(rest)).or_else(|| entity(rest)) {
            said.push_text(&words);
            at += len;
        } else if let Some((host, len)) = address(rest, at.checked_sub(1).map(|b| characters[b])) {
            said.push_text(&host);
            at += len;
        } else if rest[0] == '|' && is_row {
            said.push_cell_end();
            at += 1;
        } else if let Some(escaped) = rest
            .get(1)
            .filter(|c| rest[0] == '\\' && c.is_ascii_punctuation())
        {
            said.push(*escaped);
            at += 2;
        } else if let Some((len, is_mark)) = run_of_marks(&characters, at) {
            if !is_mark {
                rest[..len].iter().for_each(|sign| said.push(*sign));
            }
            at += len;
        } else if let Some(len) = emoji_len(rest) {
            said.leave_out();
            at += len;
        } else {
            said.push(rest[0]);
            at += 1;
        }
    }
    said.line.trim().to_owned()
}

/// The line as it grows.
#[derive(Default)]
struct Said {
    line: String,
    /// Whether something was left out just before.
    left_out: bool,
}

impl Said {
    fn push(&mut self, character: char) {
        let open = self.line.ends_with([' ', '\t']);
        if character.is_whitespace() && (open || self.line.is_empty()) {
            return;
        }
        if self.left_out && open && matches!(character, '.' | ',' | '!' | '?' | ';' | ':' | ')') {
            self.line.pop();
        }
        self.left_out = false;
        self.line.push(character);
    }

    fn push_text(&mut self, text: &str) {
        text.chars().for_each(|character| self.push(character));
    }

    fn push_cell_end(&mut self) {
        let said = self.line.trim_end().len();
        self.line.truncate(said);
        if self.line.ends_with(char::is_alphanumeric) {
            self.line.push(',');
        }
        self.line.push(' ');
    }

    /// Words at both sides of what is left out stay two words.
    fn leave_out(&mut self) {
        if !self.line.is_empty() {
            self.push(' ');
        }
        self.left_out = true;
    }
}

/// `[text](address)` and `![text](address)`: what is said of it and how long it is.
fn link(rest: &[char]) -> Option<(String, usize)> {
    let begin = match rest {
        ['!', '[', ..] => 2,
        ['[', ..] => 1,
        _ => return None,
    };
    let end = begin + closing(&rest[begin..], '[', ']')?;
    let (open, close) = match rest.get(end + 1)? {
        '(' => ('(', ')'),
        '[' => ('[', ']'),
        _ => return None,
    };
    let len = end + 2 + closing(&rest[end + 2..], open, close)? + 1;
    let text: String = rest[begin..end].iter().collect();
    Some((spoken_line(&text), len))
}

/// Where the bracket that is open before `rest` is closed.
fn closing(rest: &[char], open: char, close: char) -> Option<usize> {
    let mut depth = 1;
    // Links nest no deeper and are no longer than this; the search must not be quadratic in what somebody sends.
    for (at, character) in rest.iter().enumerate().take(2000) {
        if *character == open {
            depth += 1;
        } else if *character == close {
            depth -= 1;
        }
        if depth == 0 {
            return Some(at);
        }
        if depth > 8 {
            return None;
        }
    }
    None
}

/// A tag or comment of HTML: a space, and how long it is.
fn tag(rest: &[char]) -> Option<(String, usize)> {
    if rest[0] != '<' {
        return None;
    }
    let end = rest.iter().take(500).position(|c| *c == '>')?;
    let inside: String = rest[1..end].iter().collect();
    let name: String = inside
        .trim_start_matches('/')
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let is_tag = inside.starts_with("!--") || ELEMENTS.contains(&name.as_str());
    let breaks = matches!(
        name.as_str(),
        "br" | "li" | "p" | "div" | "td" | "th" | "tr" | "hr"
    );
    is_tag.then(|| (if breaks { " " } else { "" }.to_owned(), end + 1))
}

fn entity(rest: &[char]) -> Option<(String, usize)> {
    if rest[0] != '&' {
        return None;
    }
    ENTITIES
        .iter()
        .find(|(name, _)| name.chars().eq(rest.iter().take(name.len()).copied()))
        .map(|(name, said)| ((*said).to_owned(), name.len()))
}

/// The host of an address on the web, and how long the address is; `before` is the character before it.
fn address(rest: &[char], before: Option<char>) -> Option<(String, usize)> {
    if before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let bracket = usize::from(rest[0] == '<');
    let begins = |text: &str| {
        text.chars()
            .eq(rest[bracket..]
                .iter()
                .take(text.len())
                .map(char::to_ascii_lowercase))
            .then_some(bracket + text.len())
    };
    let host_at = begins("https://")
        .or_else(|| begins("http://"))
        .or_else(|| begins("www.").map(|_| bracket))?;
    let is_end =
        |c: &char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '`' | '|' | '“' | '”');
    let mut end = host_at
        + rest[host_at..]
            .iter()
            .position(is_end)
            .unwrap_or(rest.len() - host_at);
    let opened = rest[host_at..end].contains(&'(');
    while end > host_at {
        let last = rest[end - 1];
        let belongs = !matches!(
            last,
            '.' | ',' | '!' | '?' | ';' | ':' | '\'' | '*' | '_' | ']'
        ) && (last != ')' || opened);
        if belongs {
            break;
        }
        end -= 1;
    }
    let host: String = rest[host_at..end]
        .iter()
        .take_while(|c| !matches!(c, '/' | '?' | '#' | ':'))
        .collect();
    let host = host.strip_prefix("www.").unwrap_or(&host).to_owned();
    let bracket_after = usize::from(bracket == 1 && rest.get(end) == Some(&'>'));
    (!host.is_empty()).then_some((host, end + bracket_after))
}

/// How long the run of signs at `at` is that may mark emphasis, deletion or code, and whether it does.
fn run_of_marks(characters: &[char], at: usize) -> Option<(usize, bool)> {
    let mark = characters[at];
    if !matches!(mark, '*' | '_' | '~' | '`') {
        return None;
    }
    let len = characters[at..].iter().take_while(|c| **c == mark).count();
    let before = at.checked_sub(1).map(|before| characters[before]);
    let after = characters.get(at + len).copied();
    let is_word = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
    let is_space = |side: Option<char>| side.is_none_or(char::is_whitespace);
    let inside = is_word(before) && is_word(after);
    let alone = is_space(before) && is_space(after);
    let is_mark = match mark {
        '`' => true,
        '~' => len >= 2,
        // A name with underlines, a product of numbers, a footnote's star.
        '_' => !inside && !alone,
        _ if inside => len >= 2 && !before.is_some_and(|c| c.is_ascii_digit()),
        _ => !alone || len >= 2,
    };
    Some((len, is_mark))
}

/// How long the emoji at the beginning of `rest` is, with what modifies and joins it.
fn emoji_len(rest: &[char]) -> Option<usize> {
    const AS_PICTURE: char = '\u{fe0f}';
    const KEYCAP: char = '\u{20e3}';
    const JOINER: char = '\u{200d}';
    let first = rest[0];
    let shown_as_picture = rest.get(1) == Some(&AS_PICTURE);
    let keycap = rest.get(1 + usize::from(shown_as_picture)) == Some(&KEYCAP);
    if matches!(first, AS_PICTURE | '\u{fe0e}' | KEYCAP) {
        return Some(1);
    }
    let shown_so = shown_as_picture && !keycap && !first.is_alphanumeric();
    if !is_emoji(first) && !shown_so {
        return None;
    }
    let mut len = 1;
    while let Some(next) = rest.get(len) {
        let joined = *next == JOINER && rest.get(len + 1).is_some_and(|c| is_emoji(*c));
        let modifies = matches!(*next, AS_PICTURE | KEYCAP | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}');
        match (joined, modifies) {
            (true, _) => len += 2,
            (_, true) => len += 1,
            _ => break,
        }
    }
    Some(len)
}

/// Whether it is a picture and not a sign that belongs to writing: musical signs and numbers in circles do.
fn is_emoji(character: char) -> bool {
    match character {
        '\u{266d}'..='\u{266f}' | '\u{275b}'..='\u{275e}' | '\u{2776}'..='\u{2793}' => false,
        '\u{2600}'..='\u{27bf}' | '\u{2b00}'..='\u{2bff}' => true,
        '\u{231a}' | '\u{231b}' | '\u{2328}' | '\u{23cf}' | '\u{23e9}'..='\u{23fa}' => true,
        // Among them letters in boxes, which are two for a flag.
        '\u{1f000}'..='\u{1faff}' | '\u{e0020}'..='\u{e007f}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::plain_text;

    #[test]
    fn marks_are_not_said() {
        for (written, said) in [
            (
                "**Bold** and *slanted*, __both__ _ways_.",
                "Bold and slanted, both ways.",
            ),
            ("***x*** ~~gone~~ `let x = 1;`", "x gone let x = 1;"),
            ("# Title\n\nText", "Title.\n\nText"),
            ("## Why? ##\nBecause", "Why?\nBecause"),
            ("- one\n- [x] two!\n* three", "one.\ntwo!\nthree."),
            ("1. first\n2. second", "1. first\n2. second"),
            ("> quoted\n> > twice", "quoted\ntwice"),
            ("a\n---\n***\nb", "a\n\nb"),
            ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a, b\n\n1, 2"),
            ("```python\nprint(1)\n```", "print(1)"),
            (
                "[the *map*](https://a.b/c_(d)) ![a boat](boat.png)",
                "the map a boat",
            ),
            ("See <https://www.example.com/x?y=z>.", "See example.com."),
            (
                "See https://example.com/a_b, (www.foo.org/bar).",
                "See example.com, (foo.org).",
            ),
            (
                "one<br>two <b>three</b> 1 < 2 > 0 <!-- no -->",
                "one two three 1 < 2 > 0",
            ),
            ("Tom &amp; Ann&#39;s \\*star\\*", "Tom & Ann's *star*"),
            (
                "snake_case_name, 2*3, 2 * 3, 2**3, __init__",
                "snake_case_name, 2*3, 2 * 3, 2**3, init",
            ),
            ("half **open", "half open"),
            ("closed** half", "closed half"),
        ] {
            assert_eq!(plain_text(written), said, "{written:?}");
        }
    }

    #[test]
    fn pictures_are_not_said() {
        for (written, said) in [
            ("Great 😀!", "Great!"),
            ("Hi👋🏽there", "Hi there"),
            ("👨‍👩‍👧 family 🇩🇪", "family"),
            ("I ❤️ C♯ and ③", "I C♯ and ③"),
            ("press 1️⃣ now", "press 1 now"),
            ("⚠️ **Careful** ✅", "Careful"),
            ("क्‍ष 日本語。", "क्‍ष 日本語。"),
            ("🚀", ""),
        ] {
            assert_eq!(plain_text(written), said, "{written:?}");
        }
    }

    proptest! {
        #[test]
        fn ordinary_text_stays(words in prop::collection::vec("[A-Za-zäé]{1,8}[,.!?;:]?", 0..30)) {
            let text = words.join(" ");
            prop_assert_eq!(plain_text(&text), text);
        }

        #[test]
        fn words_survive_any_marks(
            parts in prop::collection::vec(("[a-zé]{2,8}", "[ \n][*_`#>\\- |😀]{0,3}"), 1..20),
        ) {
            let written: String = parts.iter().map(|(word, marks)| format!("{word}{marks} ")).collect();
            let said = plain_text(&written);
            let words: Vec<&str> = said.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
            let expected: Vec<&str> = parts.iter().map(|(word, _)| word.as_str()).collect();
            // The word after a fence is the name of a language.
            prop_assume!(!written.contains("```"));
            prop_assert_eq!(words, expected);
        }

        #[test]
        fn any_text_is_read(text in any::<String>(), marked in "[\\[\\]()!<>&;*_~`#|\\\\ a-c1\n.:/wh❤️👍️‍️-]{0,200}") {
            plain_text(&text);
            let once = plain_text(&marked);
            prop_assert!(once.len() <= 2 * marked.len() + 2);
        }
    }
}
