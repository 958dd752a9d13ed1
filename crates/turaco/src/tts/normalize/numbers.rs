//! English numbers in words.

use crate::text::number_words::{ONES, POWERS, TENS};

/// Numbers of more digits are read digit by digit.
const MOST_DIGITS: usize = 15;

/// Below twenty.
fn small(number: u64) -> &'static str {
    match number {
        0 => "zero",
        _ => ONES[number as usize - 1],
    }
}

/// Twenty, thirty and so on.
fn tens(number: u64) -> &'static str {
    TENS[number as usize / 10 - 2]
}

/// 1234: one thousand two hundred thirty-four.
pub(super) fn cardinal(number: u64) -> String {
    if number == 0 {
        return small(0).into();
    }
    let mut parts = Vec::new();
    let (mut rest, mut power) = (number, 0);
    while rest > 0 {
        if rest % 1000 > 0 {
            parts.push(match power {
                0 => below_thousand(rest % 1000),
                // The first power with a name is a hundred.
                _ => format!("{} {}", below_thousand(rest % 1000), POWERS[power].0),
            });
        }
        rest /= 1000;
        power += 1;
    }
    parts.reverse();
    parts.join(" ")
}

fn below_thousand(number: u64) -> String {
    let rest = number % 100;
    let words = match rest {
        0 => String::new(),
        1..=19 => small(rest).into(),
        _ if rest.is_multiple_of(10) => tens(rest).into(),
        _ => format!("{}-{}", tens(rest), small(rest % 10)),
    };
    match (number / 100, rest) {
        (0, _) => words,
        (hundreds, 0) => format!("{} hundred", small(hundreds)),
        (hundreds, _) => format!("{} hundred {words}", small(hundreds)),
    }
}

/// 21: twenty-first.
pub(super) fn ordinal(number: u64) -> String {
    let words = cardinal(number);
    let begin = words.rfind([' ', '-']).map_or(0, |at| at + 1);
    let (front, last) = words.split_at(begin);
    let last = match last {
        "one" => "first".into(),
        "two" => "second".into(),
        "three" => "third".into(),
        "five" => "fifth".into(),
        "eight" => "eighth".into(),
        "nine" => "ninth".into(),
        "twelve" => "twelfth".into(),
        _ => match last.strip_suffix('y') {
            Some(tens) => format!("{tens}ieth"),
            None => format!("{last}th"),
        },
    };
    format!("{front}{last}")
}

/// 1905: nineteen oh five. For years that are said in two halves; others as they are counted.
pub(super) fn year(number: u64) -> String {
    let (century, rest) = (number / 100, number % 100);
    match (century, rest) {
        (11..=19 | 21..=99, 0) => format!("{} hundred", cardinal(century)),
        (11..=19 | 21..=99, 1..=9) => format!("{} oh {}", cardinal(century), cardinal(rest)),
        (11..=99, 10..) => format!("{} {}", cardinal(century), cardinal(rest)),
        _ => cardinal(number),
    }
}

/// 1990: nineteen nineties.
pub(super) fn decade(number: u64) -> String {
    let words = match number {
        0..=99 => cardinal(number),
        _ => year(number),
    };
    match words.strip_suffix('y') {
        Some(tens) => format!("{tens}ies"),
        None => format!("{words}s"),
    }
}

/// 007: zero zero seven.
pub(super) fn digits(text: &str) -> String {
    let words = text.chars().filter_map(|c| c.to_digit(10));
    let words: Vec<&str> = words.map(|digit| small(u64::from(digit))).collect();
    words.join(" ")
}

/// A number as it is written in English: `-1,234.50`; `None` for what is none.
pub(super) fn number(text: &str) -> Option<String> {
    let unsigned = text.strip_prefix(['-', '−']);
    let sign = match (unsigned, text.strip_prefix('+')) {
        (Some(_), _) => "minus ",
        (None, Some(_)) => "plus ",
        (None, None) => "",
    };
    let text = text.strip_prefix(['-', '−', '+']).unwrap_or(text);
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) => (whole, Some(decimals)),
        None => (text, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut words = match whole {
        "" => String::new(),
        _ if is_digits(whole) => counted(whole, decimals.is_none()),
        _ => {
            let mut groups = whole.split(',');
            let first = groups
                .next()
                .filter(|first| is_digits(first) && first.len() <= 3)?;
            let mut joined = first.to_owned();
            for group in groups {
                if !is_digits(group) || group.len() != 3 {
                    return None;
                }
                joined.push_str(group);
            }
            counted(&joined, true)
        }
    };
    match decimals {
        Some(decimals) if is_digits(decimals) => {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str("point ");
            words.push_str(&digits(decimals));
        }
        Some(_) => return None,
        None if words.is_empty() => return None,
        None => {}
    }
    Some(format!("{sign}{words}"))
}

/// `digits`, by what they count or, where they are a code, one by one.
fn counted(text: &str, codes: bool) -> String {
    let is_code = text.len() > MOST_DIGITS || (codes && text.len() > 1 && text.starts_with('0'));
    match text.parse() {
        Ok(number) if !is_code => cardinal(number),
        _ => digits(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_said_as_people_do() {
        for (text, words) in [
            ("0", "zero"),
            ("13", "thirteen"),
            ("80", "eighty"),
            ("1,234", "one thousand two hundred thirty-four"),
            ("1000000", "one million"),
            ("-3.05", "minus three point zero five"),
            (".5", "point five"),
            ("+7", "plus seven"),
            ("0.5", "zero point five"),
            ("007", "zero zero seven"),
        ] {
            assert_eq!(number(text).as_deref(), Some(words), "{text}");
        }
        for text in [
            "", "-", ".", "1,23", "12,345,6", "1.2.3", "1a", "1.", ",123",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!(
            ["1", "12", "20", "43", "100"].map(|n| ordinal(n.parse().unwrap_or(0))),
            [
                "first",
                "twelfth",
                "twentieth",
                "forty-third",
                "one hundredth"
            ]
        );
        assert_eq!(
            [1905, 1900, 2000, 2007, 2024, 1066, 476].map(year),
            [
                "nineteen oh five",
                "nineteen hundred",
                "two thousand",
                "two thousand seven",
                "twenty twenty-four",
                "one thousand sixty-six",
                "four hundred seventy-six"
            ]
        );
        assert_eq!(
            [1990, 90, 2000].map(decade),
            ["nineteen nineties", "nineties", "two thousands"]
        );
    }

    /// What words count to.
    fn value(words: &str) -> u64 {
        let (mut total, mut group) = (0, 0);
        let place = |table: &[&str], word: &str| table.iter().position(|name| *name == word);
        for word in words.split([' ', '-']) {
            if let Some((_, power)) = POWERS.iter().find(|(name, _)| *name == word) {
                if *power == 2 {
                    group *= 100;
                } else {
                    total += group * 10_u64.pow(*power as u32);
                    group = 0;
                }
                continue;
            }
            let ones = place(&ONES, word).map(|place| place + 1);
            let tens = place(&TENS, word).map(|place| 10 * place + 20);
            let zero = (word == "zero").then_some(0);
            group += ones.or(tens).or(zero).expect("a number's word") as u64;
        }
        total + group
    }

    proptest! {
        #[test]
        fn words_count_to_their_number(number in 0_u64.., cut in 0_u32..64) {
            let number = number >> cut;
            prop_assert_eq!(value(&cardinal(number)), number);
            prop_assert!(!ordinal(number).is_empty() && !year(number).is_empty() && !decade(number).is_empty());
        }
    }
}
