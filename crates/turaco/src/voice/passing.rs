//! Words that are said to show that one listens: whoever says no more than these does not want to interrupt.

/// In lower case, by language: English, German, French, Spanish and Italian, Portuguese, Dutch, Hindi, Russian, Japanese, Chinese, Korean.
const SIGNS: &[&str] = &[
    "mhm",
    "mm",
    "mmm",
    "hm",
    "hmm",
    "uh",
    "huh",
    "um",
    "uhm",
    "ah",
    "aha",
    "oh",
    "yeah",
    "yep",
    "yes",
    "ok",
    "okay",
    "right",
    "sure",
    "ja",
    "genau",
    "ach",
    "äh",
    "ähm",
    "hä",
    "oui",
    "ouais",
    "euh",
    "sí",
    "si",
    "sì",
    "vale",
    "claro",
    "certo",
    "eh",
    "sim",
    "pois",
    "né",
    "goed",
    "हाँ",
    "हां",
    "जी",
    "да",
    "угу",
    "ага",
    "はい",
    "うん",
    "ええ",
    "嗯",
    "好",
    "对",
    "네",
    "응",
];

/// Whether anything is said in a text. What recognisers write of other sound, such as `[coughing]`, `(door slams)` or `*sighs*`, is no
/// word.
pub(super) fn has_words(text: &str) -> bool {
    without_remarks(text).chars().any(char::is_alphanumeric)
}

/// Marks around remarks.
const REMARKS: &[(char, char)] = &[
    ('[', ']'),
    ('(', ')'),
    ('*', '*'),
    ('（', '）'),
    ('［', '］'),
    ('【', '】'),
];

/// A text without what stands in brackets or between asterisks. A mark that is never closed is no remark: what follows it may be
/// all that the user says.
fn without_remarks(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let remark = REMARKS.iter().find(|(open, _)| *open == character);
        match remark.and_then(|(_, close)| rest.as_str().split_once(*close)) {
            Some((_, behind)) => rest = behind.chars(),
            None if character == '♪' => {}
            None => words.push(character),
        }
    }
    words
}

/// Words in a text but for those.
pub(super) fn words_beside_signs(text: &str) -> usize {
    let text = without_remarks(text).to_lowercase();
    let words = text.split(|c: char| c.is_whitespace() || "-–—,.!?…、。".contains(c));
    let words = words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    words
        .filter(|word| !word.is_empty() && !SIGNS.contains(word))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_on_other_sound_are_no_words() {
        for text in [
            "",
            " .",
            "[coughing]",
            "(door slams)",
            "*sighs*",
            "♪♪",
            " [BLANK_AUDIO]",
            "（笑）",
            "［音楽］【拍手】",
            "[coughs] *",
        ] {
            assert!(!has_words(text), "{text}");
        }
        for text in ["No.", "[coughs] Wait", "嗯", "7", "（笑）待って"] {
            assert!(has_words(text), "{text}");
        }
    }

    #[test]
    fn a_remark_that_is_never_closed_is_what_the_user_says() {
        for (text, n_words) in [
            ("*Wait, stop", 2),
            ("(no, listen", 2),
            ("[inaudible no stop it", 4),
            ("2 * 3 please stop now", 5),
            ("(no [coughs] listen", 2),
            ("[coughs] (yes", 0),
            ("【待って", 1),
        ] {
            assert!(has_words(text), "{text}");
            assert_eq!(words_beside_signs(text), n_words, "{text}");
        }
    }

    #[test]
    fn signs_of_listening_are_no_words() {
        for (text, n_words) in [
            ("", 0),
            (" … ", 0),
            ("Mm-hmm.", 0),
            ("Uh-huh, okay!", 0),
            ("Ja, genau.", 0),
            ("うん。", 0),
            ("[laughs] ja", 0),
            ("Okay, stop.", 1),
            ("No, wait a moment", 4),
        ] {
            assert_eq!(words_beside_signs(text), n_words, "{text}");
        }
    }
}
