//! Text normalisation for word error rates, as openai-whisper does it (Radford et al. 2022, appendix C;
//! `whisper/normalizers`).

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use super::numbers::standardize_numbers;
use super::python;
use super::rewrite::{Edge, pattern, replace_literal, replace_pattern};

/// Letters that compatibility decomposition does not take apart.
const LETTERS: [(char, &str); 16] = [
    ('œ', "oe"),
    ('Œ', "OE"),
    ('ø', "o"),
    ('Ø', "O"),
    ('æ', "ae"),
    ('Æ', "AE"),
    ('ß', "ss"),
    ('ẞ', "SS"),
    ('đ', "d"),
    ('Đ', "D"),
    ('ð', "d"),
    ('Ð', "D"),
    ('þ', "th"),
    ('Þ', "th"),
    ('ł', "l"),
    ('Ł', "L"),
];

/// Sounds that are no words.
const FILLERS: [&str; 6] = ["hmm", "mm", "mhm", "mmm", "uh", "um"];

/// Contractions and titles, replaced in this order where they are whole words.
const WORDS: [(&str, &str); 35] = [
    ("won't", "will not"),
    ("can't", "can not"),
    ("let's", "let us"),
    ("ain't", "aint"),
    ("y'all", "you all"),
    ("wanna", "want to"),
    ("gotta", "got to"),
    ("gonna", "going to"),
    ("i'ma", "i am going to"),
    ("imma", "i am going to"),
    ("woulda", "would have"),
    ("coulda", "could have"),
    ("shoulda", "should have"),
    ("ma'am", "madam"),
    ("mr", "mister "),
    ("mrs", "missus "),
    ("st", "saint "),
    ("dr", "doctor "),
    ("prof", "professor "),
    ("capt", "captain "),
    ("gov", "governor "),
    ("ald", "alderman "),
    ("gen", "general "),
    ("sen", "senator "),
    ("rep", "representative "),
    ("pres", "president "),
    ("rev", "reverend "),
    ("hon", "honorable "),
    ("asst", "assistant "),
    ("assoc", "associate "),
    ("lt", "lieutenant "),
    ("col", "colonel "),
    ("jr", "junior "),
    ("sr", "senior "),
    ("esq", "esquire "),
];

/// Endings, replaced in this order after [`WORDS`] where a word ends with them.
const ENDINGS: [(&str, &str); 14] = [
    ("'d been", " had been"),
    ("'s been", " has been"),
    ("'d gone", " had gone"),
    ("'s gone", " has gone"),
    ("'d done", " had done"),
    ("'s got", " has got"),
    ("n't", " not"),
    ("'re", " are"),
    ("'s", " is"),
    ("'d", " would"),
    ("'ll", " will"),
    ("'t", " not"),
    ("'ve", " have"),
    ("'m", " am"),
];

/// English text in a form in which only differences that can be heard are left: lower case, no punctuation, no
/// fillers and no text in brackets, contractions in full, numbers in digits, American spelling.
pub fn normalize_english(text: &str) -> String {
    static SPACE_BEFORE_APOSTROPHE: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\s\x1c-\x1f]+'"));
    static DIGIT_COMMA: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d),(\d)"));
    static FULL_STOP: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.([^0-9]|$)"));
    static SIGN_WITHOUT_NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"[.$¢€£]([^0-9])"));
    static PERCENT_WITHOUT_NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"([^0-9])%"));

    let mut text = without_brackets(&text.to_lowercase());
    text = without_fillers(&text);
    text = SPACE_BEFORE_APOSTROPHE.replace_all(&text, "'").into_owned();
    for (word, replacement) in WORDS {
        replace_literal(&mut text, word, Edge::Both, replacement);
    }
    for (ending, replacement) in ENDINGS {
        replace_literal(&mut text, ending, Edge::End, replacement);
    }
    let text = DIGIT_COMMA.replace_all(&text, "$1$2");
    let text = FULL_STOP.replace_all(&text, " $1");
    let text = without_symbols_and_diacritics(&text, ".%$¢€£");
    let text = standardize_numbers(&text);
    let text = american_spelling(&text);
    let text = SIGN_WITHOUT_NUMBER.replace_all(&text, " $1");
    let text = PERCENT_WITHOUT_NUMBER.replace_all(&text, "$1 ");
    single_spaces(&text)
}

/// Text of any language in lower case, without punctuation, symbols and text in brackets; with
/// `remove_diacritics`, without marks on letters too.
pub fn normalize_basic(text: &str, remove_diacritics: bool) -> String {
    let text = without_brackets(&text.to_lowercase());
    let text = if remove_diacritics {
        without_symbols_and_diacritics(&text, "")
    } else {
        text.nfkc()
            .map(|character| if is_symbol(character) { ' ' } else { character })
            .collect()
    };
    single_spaces(&text.to_lowercase())
}

fn without_brackets(text: &str) -> String {
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"[<\[][^>\]]*[>\]]"));
    static PARENTHESES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\([^)]+?\)"));
    let text = BRACKETS.replace_all(text, "");
    PARENTHESES.replace_all(&text, "").into_owned()
}

fn without_fillers(text: &str) -> String {
    static FILLER: LazyLock<Regex> = LazyLock::new(|| pattern("[a-z]+"));
    replace_pattern(text, &FILLER, Edge::Both, |found| {
        let word = &found[0];
        if FILLERS.contains(&word) {
            String::new()
        } else {
            word.to_owned()
        }
    })
}

/// Marks, symbols and punctuation other than `keep` become spaces, diacritics go.
fn without_symbols_and_diacritics(text: &str, keep: &str) -> String {
    static DIACRITIC: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{Mn}"));
    let mut cleaned = String::with_capacity(text.len());
    for character in text.nfkd() {
        if keep.contains(character) {
            cleaned.push(character);
        } else if let Some((_, letters)) = LETTERS.iter().find(|(letter, _)| *letter == character) {
            cleaned.push_str(letters);
        } else if !character.is_ascii() && DIACRITIC.is_match(character.encode_utf8(&mut [0; 4])) {
        } else if is_symbol(character) {
            cleaned.push(' ');
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}

/// Marks, symbols and punctuation (Unicode categories M, S and P).
fn is_symbol(character: char) -> bool {
    static SYMBOL: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{M}\p{S}\p{P}]"));
    if character.is_ascii() {
        return character.is_ascii_punctuation();
    }
    SYMBOL.is_match(character.encode_utf8(&mut [0; 4]))
}

fn american_spelling(text: &str) -> String {
    static SPELLING: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
        include_str!("../../data/english_spelling.txt")
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect()
    });
    let words = python::split(text).map(|word| SPELLING.get(word).copied().unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}

fn single_spaces(text: &str) -> String {
    static SPACES: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\s\x1c-\x1f]+"));
    SPACES.replace_all(text, " ").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts with what openai-whisper 20250625 makes of them.
    #[test]
    fn reference_cases_are_reproduced() {
        let cases = include_str!("../../../../testdata/text/normalize.tsv");
        let mut compared = 0;
        for line in cases.lines().filter(|line| !line.starts_with('#')) {
            let [kind, text, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not three columns: {line}");
            };
            let normalized = match kind {
                "english" => normalize_english(text),
                "basic" => normalize_basic(text, false),
                "basic_no_diacritics" => normalize_basic(text, true),
                _ => panic!("unknown kind: {line}"),
            };
            assert_eq!(normalized, expected, "{kind}: {text}");
            compared += 1;
        }
        assert!(compared >= 150, "{compared} cases");
    }
}
