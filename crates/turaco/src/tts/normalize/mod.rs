//! Written text as it is said.

mod dates;
mod english;
mod numbers;
mod plain;
mod words;

pub use plain::plain_text;

/// Words that are frequent in English and no words of the other languages of our models.
const ENGLISH: [&str; 14] = [
    "the", "and", "is", "of", "you", "with", "this", "that", "are", "have", "it's", "for", "was",
    "they",
];

/// [`plain_text`], and in English also words for numbers, dates, sums of money, signs and abbreviations.
///
/// `language`: an English name in lower case; `None` if it is not known, when English words decide.
pub(super) fn spoken_text(text: &str, language: Option<&str>) -> String {
    let plain = plain_text(text);
    let is_english = match language {
        Some(language) => language == "english",
        None => plain
            .split(|c: char| !c.is_alphabetic() && c != '\'')
            .any(|word| ENGLISH.contains(&word.to_lowercase().as_str())),
    };
    match is_english {
        true => english::in_words(&plain),
        false => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::spoken_text;

    #[test]
    fn numbers_become_words_in_english_only() {
        let text = "The **3** boats ⛵";
        assert_eq!(spoken_text(text, Some("english")), "The three boats");
        assert_eq!(spoken_text(text, None), "The three boats");
        assert_eq!(spoken_text(text, Some("german")), "The 3 boats");
        assert_eq!(spoken_text("Die **3** Boote", None), "Die 3 Boote");
        assert_eq!(spoken_text("", None), "");
    }
}
