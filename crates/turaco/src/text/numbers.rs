//! Spelled-out English numbers to digits, as openai-whisper's `EnglishNumberNormalizer` does it.
//!
//! Currencies become signs before the number, `percent` a sign after it, suffixes as in `1960s` and `32nd` stay, and
//! successive digits are read one by one ("one oh one" is 101). The quirks are the reference's, since word error rates
//! are only comparable with them.

use std::sync::LazyLock;

use regex::Regex;

use super::number_words::{ONES, POWERS, TENS};
use super::python;
use super::rewrite::{Edge, pattern, replace_pattern, split_at_words};

/// What a number word means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// `oh`
    Zero,
    /// One to nineteen.
    One(u8),
    /// One to nineteen with a suffix: `thirds`, `fifth`.
    OneSuffixed(u8, &'static str),
    /// Twenty to ninety.
    Ten(u8),
    /// Twenty to ninety with a suffix: `sixties`.
    TenSuffixed(u8, &'static str),
    /// A power of ten by its exponent: `thousand`.
    Multiplier(usize),
    /// A power of ten with a suffix: `millions`.
    MultiplierSuffixed(usize, &'static str),
    /// A sign before the number.
    PrecedingPrefix(&'static str),
    /// A currency, which is written before the number but said after it.
    FollowingPrefix(&'static str),
    /// `per`, half of a percent sign.
    Per,
    /// `percent`
    Percent,
    /// Words that only mean something next to a number.
    And,
    Repeat(usize),
    Point,
}

/// The meaning of a word; `None` if it is no number word.
fn meaning(word: &str) -> Option<Meaning> {
    use Meaning::*;
    let one = |name: &str| {
        (1u8..)
            .zip(ONES)
            .find(|(_, known)| *known == name)
            .map(|(value, _)| value)
    };
    let ten = |name: &str| {
        (2u8..)
            .zip(TENS)
            .find(|(_, known)| *known == name)
            .map(|(tens, _)| 10 * tens)
    };
    let multiplier = |name: &str| {
        POWERS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, exponent)| *exponent)
    };
    let simple = match word {
        "o" | "oh" | "zero" => Zero,
        "zeroth" => OneSuffixed(0, "th"),
        "first" => OneSuffixed(1, "st"),
        "second" => OneSuffixed(2, "nd"),
        "third" => OneSuffixed(3, "rd"),
        "fifth" => OneSuffixed(5, "th"),
        "eighth" => OneSuffixed(8, "th"),
        "twelfth" => OneSuffixed(12, "th"),
        "sixes" => OneSuffixed(6, "s"),
        "minus" | "negative" => PrecedingPrefix("-"),
        "plus" | "positive" => PrecedingPrefix("+"),
        "pound" | "pounds" => FollowingPrefix("£"),
        "euro" | "euros" => FollowingPrefix("€"),
        "dollar" | "dollars" => FollowingPrefix("$"),
        "cent" | "cents" => FollowingPrefix("¢"),
        "per" => Per,
        "percent" => Percent,
        "and" => And,
        "double" => Repeat(2),
        "triple" => Repeat(3),
        "point" => Point,
        _ => {
            return one(word)
                .map(One)
                .or_else(|| ten(word).map(Ten))
                .or_else(|| multiplier(word).map(Multiplier))
                .or_else(|| {
                    let name = word.strip_suffix('s')?;
                    one(name)
                        .filter(|value| *value != 6)
                        .map(|value| OneSuffixed(value, "s"))
                        .or_else(|| {
                            multiplier(name).map(|exponent| MultiplierSuffixed(exponent, "s"))
                        })
                })
                .or_else(|| {
                    let name = word.strip_suffix("th")?;
                    // The others are irregular.
                    one(name)
                        .filter(|value| *value > 3 && ![5, 8, 12].contains(value))
                        .map(|value| OneSuffixed(value, "th"))
                        .or_else(|| {
                            multiplier(name).map(|exponent| MultiplierSuffixed(exponent, "th"))
                        })
                })
                .or_else(|| {
                    let (stem, suffix) = match word.strip_suffix("ies") {
                        Some(stem) => (stem, "s"),
                        None => (word.strip_suffix("ieth")?, "th"),
                    };
                    ten(&format!("{stem}y")).map(|value| TenSuffixed(value, suffix))
                });
        }
    };
    Some(simple)
}

/// The digit words that may follow a decimal point.
fn is_decimal(word: &str) -> bool {
    matches!(
        meaning(word),
        Some(Meaning::Zero | Meaning::One(_) | Meaning::Ten(_))
    )
}

fn is_numeric(word: &str) -> bool {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d+(\.\d+)?$"));
    NUMBER.is_match(word)
}

/// Writes the numbers of a lower-case text without punctuation in digits.
pub(super) fn standardize_numbers(text: &str) -> String {
    let text = prepare(text);
    let words: Vec<&str> = python::split(&text).collect();
    let mut reader = Reader::default();
    let mut skip = false;
    for (index, word) in words.iter().enumerate() {
        if std::mem::take(&mut skip) {
            continue;
        }
        let previous = index.checked_sub(1).map(|previous| words[previous]);
        skip = reader.read(previous, word, words.get(index + 1).copied());
    }
    reader.flush();
    finish(&reader.written.join(" "))
}

/// "and a half" to "point five", and spaces between numbers and letters, except before a suffix.
fn prepare(text: &str) -> String {
    static HALF: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"and[\s\x1c-\x1f]+a[\s\x1c-\x1f]+half"));
    static LETTER_DIGIT: LazyLock<Regex> = LazyLock::new(|| pattern("([a-z])([0-9])"));
    static DIGIT_LETTER: LazyLock<Regex> = LazyLock::new(|| pattern("([0-9])([a-z])"));
    static SUFFIX: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"([0-9])[\s\x1c-\x1f]+(st|nd|rd|th|s)"));

    let parts = split_at_words(text, &HALF);
    let mut joined = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let Some(last_word) = python::split(part).last() else {
            continue;
        };
        joined.push(*part);
        if index + 1 < parts.len() {
            let number =
                is_decimal(last_word) || matches!(meaning(last_word), Some(Meaning::Multiplier(_)));
            joined.push(if number { "point five" } else { "and a half" });
        }
    }
    let text = joined.join(" ");
    let text = LETTER_DIGIT.replace_all(&text, "$1 $2");
    let text = DIGIT_LETTER.replace_all(&text, "$1 $2");
    replace_pattern(&text, &SUFFIX, Edge::End, |found| {
        format!("{}{}", &found[1], &found[2])
    })
}

/// Dollars and cents to one number, and the number one back to its word.
fn finish(text: &str) -> String {
    static CENTS: LazyLock<Regex> =
        LazyLock::new(|| pattern("([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})"));
    static ONLY_CENTS: LazyLock<Regex> = LazyLock::new(|| pattern("[€£$]0.([0-9]{1,2})"));
    static ONE: LazyLock<Regex> = LazyLock::new(|| pattern("1(s?)"));
    let text = replace_pattern(text, &CENTS, Edge::End, |found| {
        format!("{}{}.{:0>2}", &found[1], &found[2], &found[3])
    });
    let text = replace_pattern(&text, &ONLY_CENTS, Edge::End, |found| {
        format!("¢{}", without_leading_zeros(&found[1]))
    });
    replace_pattern(&text, &ONE, Edge::Both, |found| format!("one{}", &found[1]))
}

/// A number that is being read.
#[derive(Clone)]
enum Number {
    /// A whole number in decimal digits without leading zeros, which goes on by adding ("twenty" "one").
    Whole(String),
    /// Digits, perhaps with points, which go on by appending ("one" "oh").
    Digits(String),
}

impl Number {
    fn into_text(self) -> String {
        match self {
            Self::Whole(text) | Self::Digits(text) => text,
        }
    }

    fn is_zero(&self) -> bool {
        matches!(self, Self::Whole(digits) if digits == "0")
    }
}

/// Reads word by word and writes finished words and numbers.
#[derive(Default)]
struct Reader {
    written: Vec<String>,
    /// The sign or currency of the number.
    prefix: Option<String>,
    number: Option<Number>,
}

impl Reader {
    /// Reads `word`, which stands between `previous` and `next`. Returns whether `next` was read too.
    fn read(&mut self, previous: Option<&str>, word: &str, next: Option<&str>) -> bool {
        let (sign, digits) = split_sign(word);
        if is_numeric(digits) {
            self.read_numeric(word, sign, digits);
            return false;
        }
        let Some(word_meaning) = meaning(word) else {
            self.flush();
            self.write(word);
            return false;
        };
        let previous = previous.and_then(meaning);
        let next_meaning = next.and_then(meaning);
        let next_is_numeric = next.is_some_and(is_numeric);
        match word_meaning {
            Meaning::Zero => self.append("0"),
            Meaning::One(value) => {
                let number = self.with_one(value, previous);
                self.number = Some(number);
            }
            Meaning::OneSuffixed(value, suffix) => {
                let number = self.with_one(value, previous).into_text();
                self.write(&format!("{number}{suffix}"));
            }
            Meaning::Ten(value) => {
                let number = self.with_ten(value);
                self.number = Some(number);
            }
            Meaning::TenSuffixed(value, suffix) => {
                let number = self.with_ten(value).into_text();
                self.write(&format!("{number}{suffix}"));
            }
            Meaning::Multiplier(exponent) => {
                let number = self.multiplied(exponent, true);
                self.number = Some(number);
            }
            Meaning::MultiplierSuffixed(exponent, suffix) => {
                let number = self.multiplied(exponent, false).into_text();
                self.write(&format!("{number}{suffix}"));
            }
            Meaning::PrecedingPrefix(sign) => {
                self.flush();
                if next_meaning.is_some() || next_is_numeric {
                    self.prefix = Some(sign.to_owned());
                } else {
                    self.write(word);
                }
            }
            Meaning::FollowingPrefix(sign) => {
                if self.number.is_some() {
                    self.prefix = Some(sign.to_owned());
                    self.flush();
                } else {
                    self.write(word);
                }
            }
            Meaning::Per => match self.number.take() {
                Some(number) if next == Some("cent") => {
                    self.write(&format!("{}%", number.into_text()));
                    return true;
                }
                number => {
                    self.number = number;
                    self.flush();
                    self.write(word);
                }
            },
            Meaning::Percent => match self.number.take() {
                Some(number) => self.write(&format!("{}%", number.into_text())),
                None => self.write(word),
            },
            Meaning::And | Meaning::Repeat(_) | Meaning::Point
                if next_meaning.is_none() && !next_is_numeric =>
            {
                self.flush();
                self.write(word);
            }
            Meaning::And => {
                // It is left out within numbers: "one hundred and five".
                if !matches!(previous, Some(Meaning::Multiplier(_))) {
                    self.flush();
                    self.write(word);
                }
            }
            Meaning::Repeat(times) => {
                let value = match next_meaning {
                    Some(Meaning::Zero) => 0,
                    Some(Meaning::One(value)) => value,
                    _ => {
                        self.flush();
                        self.write(word);
                        return false;
                    }
                };
                self.append(&value.to_string().repeat(times));
                return true;
            }
            Meaning::Point => {
                if next.is_some_and(is_decimal) || next_is_numeric {
                    self.append(".");
                }
            }
        }
        false
    }

    /// A number that is in digits already.
    fn read_numeric(&mut self, word: &str, sign: Option<&str>, digits: &str) {
        match self.number.take() {
            // The part after a point, or of an address.
            Some(Number::Digits(mut text)) if text.ends_with('.') => {
                text.push_str(word);
                self.number = Some(Number::Digits(text));
                return;
            }
            number => {
                self.number = number;
                self.flush();
            }
        }
        if let Some(sign) = sign {
            self.prefix = Some(sign.to_owned());
        }
        self.number = Some(match shifted(digits, 0) {
            Some(whole) => Number::Whole(whole),
            None => Number::Digits(digits.to_owned()),
        });
    }

    /// The number with one to nineteen (or the ordinal of zero) after it. Takes the number.
    fn with_one(&mut self, value: u8, previous: Option<Meaning>) -> Number {
        let after_one = matches!(previous, Some(Meaning::One(_)));
        let after_ten = matches!(previous, Some(Meaning::Ten(_)));
        match self.number.take() {
            None => Number::Whole(value.to_string()),
            Some(Number::Digits(mut text)) => {
                // "nineteen twenty one": the digit takes the place of the zero.
                if after_ten && value < 10 {
                    text.pop();
                }
                Number::Digits(text + &value.to_string())
            }
            Some(Number::Whole(digits)) if after_one => Number::Digits(digits + &value.to_string()),
            Some(Number::Whole(digits)) => added(digits, value, if value < 10 { 1 } else { 2 }),
        }
    }

    /// The number with twenty to ninety after it. Takes the number.
    fn with_ten(&mut self, value: u8) -> Number {
        match self.number.take() {
            None => Number::Whole(value.to_string()),
            Some(Number::Digits(text)) => Number::Digits(text + &value.to_string()),
            Some(Number::Whole(digits)) => added(digits, value, 2),
        }
    }

    /// The number times a power of ten; only its last three digits are multiplied ("one million two hundred"). Takes
    /// the number. `zero_is_text` tells cardinals ("zero hundred" is zero) from plurals and ordinals.
    fn multiplied(&mut self, exponent: usize, zero_is_text: bool) -> Number {
        match self.number.take() {
            None => Number::Whole(power_of_ten(exponent)),
            Some(number)
                if matches!(number, Number::Digits(_)) || (zero_is_text && number.is_zero()) =>
            {
                let text = number.into_text();
                match shifted(&text, exponent) {
                    Some(whole) => Number::Whole(whole),
                    // No whole number: the power of ten stands for itself.
                    None => {
                        self.write(&text);
                        Number::Whole(power_of_ten(exponent))
                    }
                }
            }
            Some(number) => {
                let digits = number.into_text();
                let (thousands, rest) = digits.split_at(digits.len().saturating_sub(3));
                let thousands = if thousands.is_empty() {
                    String::new()
                } else {
                    format!("{thousands}000")
                };
                Number::Whole(sum(&thousands, &format!("{rest}{}", "0".repeat(exponent))))
            }
        }
    }

    /// Appends digits or a point. A number that is zero is forgotten, as the reference does.
    fn append(&mut self, digits: &str) {
        let text = match self.number.take() {
            Some(number) if !number.is_zero() => number.into_text(),
            _ => String::new(),
        };
        self.number = Some(Number::Digits(text + digits));
    }

    /// Writes the number, if there is one.
    fn flush(&mut self) {
        if let Some(number) = self.number.take() {
            self.write(&number.into_text());
        }
    }

    /// Writes a word with the prefix that is waiting, and forgets the number.
    fn write(&mut self, word: &str) {
        let prefix = self.prefix.take().unwrap_or_default();
        self.number = None;
        self.written.push(prefix + word);
    }
}

/// The sign or currency that a word begins with, and the rest.
fn split_sign(word: &str) -> (Option<&str>, &str) {
    match word.chars().next() {
        Some(sign @ ('-' | '+' | '£' | '€' | '$' | '¢')) => {
            let (sign, rest) = word.split_at(sign.len_utf8());
            (Some(sign), rest)
        }
        _ => (None, word),
    }
}

/// Adds a value in the place of the last `zeros` digits if they are zero, else puts it behind the number.
fn added(digits: String, value: u8, zeros: usize) -> Number {
    if digits == "0" {
        return Number::Whole(value.to_string());
    }
    match digits.strip_suffix(&"00"[..zeros]) {
        Some(start) => Number::Whole(format!("{start}{value:0>zeros$}")),
        None => Number::Digits(digits + &value.to_string()),
    }
}

fn power_of_ten(exponent: usize) -> String {
    format!("1{}", "0".repeat(exponent))
}

/// A decimal number times a power of ten, if that is a whole number; `None` also for text with several points.
fn shifted(text: &str, exponent: usize) -> Option<String> {
    let text: String = text.chars().map(ascii_digit).collect::<Option<_>>()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > exponent {
        return None;
    }
    let zeros = "0".repeat(exponent - fraction.len());
    Some(without_leading_zeros(&format!("{whole}{fraction}{zeros}")).to_owned())
}

/// The digit or point as ASCII; decimal digits of every script count, others give `None`.
fn ascii_digit(character: char) -> Option<char> {
    static DIGIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d"));
    if character.is_ascii_digit() || character == '.' {
        return Some(character);
    }
    let is_digit = |character: char| DIGIT.is_match(character.encode_utf8(&mut [0; 4]));
    if !is_digit(character) {
        return None;
    }
    // The digits of a script stand in a row from its zero on, and rows follow each other at most without a gap.
    let mut before = 0;
    while char::from_u32(u32::from(character) - before - 1).is_some_and(is_digit) {
        before += 1;
    }
    char::from_digit(before % 10, 10)
}

fn without_leading_zeros(digits: &str) -> &str {
    match digits.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    }
}

/// The sum of two numbers in decimal digits.
fn sum(a: &str, b: &str) -> String {
    let digit_at = |number: &str, place: usize| {
        let index = number.len().checked_sub(place + 1);
        index.map_or(0, |index| number.as_bytes()[index] - b'0')
    };
    let mut digits = Vec::new();
    let mut carry = 0;
    for place in 0..a.len().max(b.len()) + 1 {
        let digit = digit_at(a, place) + digit_at(b, place) + carry;
        digits.push(char::from(b'0' + digit % 10));
        carry = digit / 10;
    }
    let number: String = digits.iter().rev().collect();
    without_leading_zeros(&number).to_owned()
}
