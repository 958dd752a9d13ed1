//! Numbers, dates, sums of money, signs and abbreviations as English words.

use super::dates::{
    date, day, day_and_month, is_month, month_in_short, ordinal_number, part_of_date, small_number,
    time, year_number,
};
use super::numbers::{cardinal, decade, digits, number, ordinal, year};
use super::words::{
    ABBREVIATIONS, BEFORE_NUMBERS, CURRENCIES, MAGNITUDES, MAGNITUDES_IN_SHORT, POWERS_AND_PARTS,
    SIGNS, UNITS,
};

/// `text` with English words for what is written otherwise. What no rule is for stays as it is.
pub(super) fn in_words(text: &str) -> String {
    let tokens = tokens(text);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        out.push_str(token.space);
        out.push_str(token.open);
        let (words, n_tokens, close) = say(&tokens, at);
        out.push_str(&words);
        out.push_str(close);
        at += n_tokens;
    }
    let end = text.trim_end().len();
    out.push_str(&text[end..]);
    out
}

/// A word with what is around it.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    space: &'a str,
    open: &'a str,
    core: &'a str,
    close: &'a str,
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let begin = rest.len() - rest.trim_start().len();
        let (space, word) = rest.split_at(begin);
        if word.is_empty() {
            return tokens;
        }
        let (word, behind) = word.split_at(word.find(char::is_whitespace).unwrap_or(word.len()));
        rest = behind;
        let core = word.trim_start_matches(['(', '[', '{', '"', '\'', '“', '‘', '«', '¿', '¡']);
        let (open, _) = word.split_at(word.len() - core.len());
        let len = core
            .trim_end_matches([
                '.', ',', '!', '?', ';', ':', ')', ']', '}', '"', '\'', '”', '’', '»', '…',
            ])
            .len();
        let (core, close) = core.split_at(len);
        tokens.push(Token {
            space,
            open,
            core,
            close,
        });
    }
}

/// What is said for the token at `at`, how many tokens that takes, and what closes it.
fn say<'a>(tokens: &[Token<'a>], at: usize) -> (String, usize, &'a str) {
    let Token { core, close, .. } = tokens[at];
    let next = tokens
        .get(at + 1)
        .filter(|next| close.is_empty() && next.open.is_empty());
    let next_core = next.map_or("", |next| next.core);
    let next_close = next.map_or("", |next| next.close);
    let previous = |back: usize| {
        at.checked_sub(back)
            .map_or("", |before| tokens[before].core)
    };
    if let Some((words, takes_next)) = money(core, next_core)
        .or_else(|| measure(core, next_core))
        .or_else(|| day_and_month(core, next_core, previous(1)))
    {
        return match takes_next {
            true => (words, 2, next_close),
            false => (words, 1, close),
        };
    }
    if let Some((word, full_stop)) =
        abbreviation(core, close, tokens.get(at + 1).map(|next| next.core))
    {
        return (word, 1, if full_stop { close } else { &close[1..] });
    }
    let is_day = |word: &str| day(word).or_else(|| ordinal_number(word)).is_some();
    let dated = is_month(previous(1)) || (is_month(previous(2)) && is_day(previous(1)));
    let words = date(core)
        .or_else(|| time(core, next_core))
        .or_else(|| part_of_date(core, previous(1), dated))
        .or_else(|| counted(core))
        .or_else(|| several_numbers(core))
        .or_else(|| sign(core, next_core))
        .or_else(|| address(core))
        .or_else(|| signs_inside(core));
    (words.unwrap_or_else(|| core.to_owned()), 1, close)
}

/// `$3.50`, `5€`, `$2 million`: and whether the next token is part of it.
fn money(core: &str, next: &str) -> Option<(String, bool)> {
    let sign_of = |character: Option<char>| CURRENCIES.iter().find(|c| Some(c.0) == character);
    let (minus, unsigned) = match core.strip_prefix(['-', '−']) {
        Some(rest) => ("minus ", rest),
        None => ("", core),
    };
    let before = sign_of(unsigned.chars().next());
    let behind = sign_of(unsigned.chars().last());
    let apart = sign_of(next.chars().next()).filter(|c| next.len() == c.0.len_utf8());
    let (currency, amount, takes_next) = match (before, behind, apart) {
        (Some(currency), _, _) => (currency, &unsigned[currency.0.len_utf8()..], false),
        (_, Some(currency), _) => (
            currency,
            &unsigned[..unsigned.len() - currency.0.len_utf8()],
            false,
        ),
        (_, _, Some(currency)) => (currency, unsigned, true),
        _ => return None,
    };
    let (_, one, several, hundredth, hundredths) = *currency;
    if let Some((short, magnitude)) = MAGNITUDES_IN_SHORT
        .iter()
        .find(|(short, _)| amount.ends_with(short))
    {
        let amount = number(&amount[..amount.len() - short.len()])?;
        return Some((format!("{minus}{amount} {magnitude} {several}"), takes_next));
    }
    let words = number(amount)?;
    if !takes_next && MAGNITUDES.contains(&next) {
        return Some((format!("{minus}{words} {next} {several}"), true));
    }
    let named = |count: &str, one: &str, several: &str| match count {
        "one" => format!("one {one}"),
        _ => format!("{count} {several}"),
    };
    let words = match amount.split_once('.') {
        Some((whole, part)) if part.len() == 2 && !hundredth.is_empty() => {
            let (whole, part) = (number(whole), number(part.trim_start_matches('0')));
            let whole = whole.filter(|whole| whole != "zero" || part.is_none());
            let whole = whole.map(|whole| named(&whole, one, several));
            let part = part.map(|part| named(&part, hundredth, hundredths));
            match (whole, part) {
                (Some(whole), Some(part)) => format!("{whole} and {part}"),
                (whole, part) => whole.or(part)?,
            }
        }
        _ => named(&words, one, several),
    };
    Some((format!("{minus}{words}"), takes_next))
}

/// `20 km`, `5%`: and whether the next token is part of it.
fn measure(core: &str, next: &str) -> Option<(String, bool)> {
    let named = |count: &str, (_, one, several): &(&str, &str, &str)| {
        let unit = if matches!(count, "one" | "minus one") {
            one
        } else {
            several
        };
        format!("{count} {unit}")
    };
    if let Some(unit) = UNITS.iter().find(|unit| unit.0 == next && next != "x") {
        return Some((named(&number(core)?, unit), true));
    }
    // The longest unit that fits: "km/h" ends with "h", "°C" is not "C".
    let begin = core.rfind(|c: char| c.is_ascii_digit())? + 1;
    let (count, unit) = core.split_at(begin);
    let unit = UNITS.iter().find(|known| known.0 == unit)?;
    Some((named(&number(count)?, unit), false))
}

/// `Mr.`, `e.g.`, `Jan. 5`: the word, and whether the full stop stays.
fn abbreviation(core: &str, close: &str, next: Option<&str>) -> Option<(String, bool)> {
    let next_is_number = next.is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit()));
    if core == "etc" {
        return Some(("et cetera".into(), true));
    }
    if let Some(month) = month_in_short(core).filter(|_| next_is_number) {
        return Some((month.into(), !close.starts_with('.')));
    }
    if !close.starts_with('.') {
        return None;
    }
    if matches!(core, "No" | "no") && next_is_number {
        return Some(("number".into(), false));
    }
    let (_, word) = ABBREVIATIONS.iter().find(|(short, _)| *short == core)?;
    Some(((*word).into(), false))
}

/// A number, an ordinal, a decade, a number behind a sign or a word.
fn counted(core: &str) -> Option<String> {
    if let Some(words) = number(core).or_else(|| ordinal_number(core).map(ordinal)) {
        return Some(words);
    }
    let decades = core
        .strip_suffix('s')
        .map(|number| number.trim_start_matches(['\'', '’']));
    if let Some(number) = decades
        .and_then(small_number)
        .filter(|number| number % 10 == 0 && (20..3000).contains(number))
    {
        return Some(decade(number));
    }
    if let Some((sign, words)) = BEFORE_NUMBERS
        .iter()
        .find(|(sign, _)| core.starts_with(sign))
    {
        let counted = &core[sign.len()..];
        let counted = number(counted).or_else(|| {
            measure(counted, "")
                .or_else(|| money(counted, ""))
                .map(|(words, _)| words)
        })?;
        return Some(format!("{words} {counted}"));
    }
    let (word, counted) = core.rsplit_once('-')?;
    let is_name = !word.is_empty() && word.chars().all(|c| c.is_alphabetic() || c == '-');
    let counted = number(counted).filter(|_| is_name)?;
    Some(format!("{word} {counted}"))
}

/// `10-20`, `555-1234`, `1/2`, `3x4`, `1.2.3`.
fn several_numbers(core: &str) -> Option<String> {
    let split = |separators: &[char]| -> Option<Vec<&str>> {
        let parts: Vec<&str> = core.split(separators).collect();
        let are_numbers = parts.len() > 1
            && parts
                .iter()
                .all(|part| number(part).is_some() && !part.starts_with(['-', '+', '−']));
        are_numbers.then_some(parts)
    };
    let joined = |parts: &[&str], word: &str| {
        let words: Vec<String> = parts.iter().filter_map(|part| number(part)).collect();
        Some(words.join(word))
    };
    if let Some(parts) = split(&['-', '–', '—']) {
        return match parts[..] {
            [first, second] if !(first.len() == 3 && second.len() == 4) => {
                match (year_number(first), year_number(second)) {
                    (Some(first), Some(second)) => {
                        Some(format!("{} to {}", year(first), year(second)))
                    }
                    _ => joined(&parts, " to "),
                }
            }
            _ => {
                let groups: Vec<String> = parts.iter().map(|part| digits(part)).collect();
                Some(groups.join(", "))
            }
        };
    }
    if let Some(parts) = split(&['/']) {
        return match (
            &parts[..],
            parts.first().and_then(|part| small_number(part)),
            parts.last().and_then(|part| small_number(part)),
        ) {
            ([_, _], Some(1), Some(2)) => Some("one half".into()),
            ([_, _], Some(above), Some(below @ 3..=10)) if above < below => {
                let part = if below == 4 {
                    "quarter".into()
                } else {
                    ordinal(below)
                };
                let plural = if above == 1 { "" } else { "s" };
                Some(format!("{} {part}{plural}", cardinal(above)))
            }
            ([_, _], Some(24), Some(7)) => Some("twenty-four seven".into()),
            _ => joined(&parts, " slash "),
        };
    }
    if let Some(parts) = split(&['x', '×', '*']) {
        return joined(
            &parts,
            if core.contains('x') {
                " by "
            } else {
                " times "
            },
        );
    }
    if let Some(parts) = split(&['+']) {
        return joined(&parts, " plus ");
    }
    let parts: Vec<&str> = core.strip_prefix('v').unwrap_or(core).split('.').collect();
    let is_version = parts.len() > 1 && parts.iter().all(|part| small_number(part).is_some());
    let version = is_version.then(|| joined(&parts, " point ")).flatten()?;
    Some(if core.starts_with('v') {
        format!("version {version}")
    } else {
        version
    })
}

/// A sign by itself, before a word or after one.
fn sign(core: &str, next: &str) -> Option<String> {
    if let Some((_, word)) = SIGNS.iter().find(|(sign, _)| *sign == core) {
        // A star or a tilde without anything behind it is a mark.
        return (!next.is_empty() || !matches!(core, "*" | "~" | "#")).then(|| (*word).to_owned());
    }
    let tag = core
        .strip_prefix('#')
        .filter(|tag| tag.starts_with(char::is_alphabetic));
    tag.map(|tag| format!("hashtag {tag}"))
}

/// `name@example.com`, `example.com/path`, `main.rs`.
fn address(core: &str) -> Option<String> {
    if let Some((name, host)) = core
        .split_once('@')
        .filter(|(_, host)| !host.is_empty() && !host.contains('@'))
    {
        let name = name.replace('.', " dot ").replace('_', " underscore ");
        let host = host.replace('.', " dot ");
        return Some(format!("{name} at {host}").trim_start().to_owned());
    }
    let (host, path) = match core.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (core, None),
    };
    let parts: Vec<&str> = host.split('.').collect();
    let is_part = |part: &&str| {
        part.len() > 1
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    let last = parts.last()?;
    let is_name = parts.len() > 1
        && parts.iter().all(is_part)
        && (2..=6).contains(&last.len())
        && last.chars().all(|c| c.is_ascii_lowercase());
    let path = path.map_or(String::new(), |path| match path.trim_end_matches('/') {
        "" => String::new(),
        path => format!(" slash {}", path.replace('/', " slash ")),
    });
    is_name.then(|| format!("{}{path}", parts.join(" dot ")))
}

/// `R&D`, `x²`, `2½`, `Name™`.
fn signs_inside(core: &str) -> Option<String> {
    let mut words = String::with_capacity(core.len());
    for character in core.chars() {
        let part = POWERS_AND_PARTS.iter().find(|(sign, _)| *sign == character);
        match (character, part) {
            ('™' | '®', _) => {}
            ('&', _) => words.push_str(" and "),
            (_, Some((_, part))) if part.starts_with(' ') || words.is_empty() => {
                words.push_str(part)
            }
            (_, Some((_, part))) => {
                let whole = number(&words).unwrap_or(words);
                words = format!("{whole} and {part}");
            }
            _ => words.push(character),
        }
    }
    (words != core).then(|| words.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::in_words;

    #[test]
    fn what_is_written_otherwise_becomes_words() {
        for (written, said) in [
            (
                "It costs $3.50, not $1 or 5€.",
                "It costs three dollars and fifty cents, not one dollar or five euros.",
            ),
            (
                "$2.5M, £3 million and 20 €",
                "two point five million dollars, three million pounds and twenty euros",
            ),
            ("-$0.05 and $0.00", "minus five cents and zero dollars"),
            ("5% of 1,000 kg", "five percent of one thousand kilograms"),
            (
                "1 km at 90 km/h, -3°C",
                "one kilometer at ninety kilometers per hour, minus three degrees Celsius",
            ),
            ("On March 5, 2024", "On March fifth, twenty twenty-four"),
            ("on 5 March 1905", "on the fifth of March nineteen oh five"),
            (
                "Jan. 5 and Sept 30",
                "January fifth and September thirtieth",
            ),
            (
                "2024-03-05, 31.12.1999, 12/31/2000, 1/2/2003",
                "March fifth, twenty twenty-four, December thirty-first, nineteen ninety-nine, December thirty-first, two thousand, one two two thousand three",
            ),
            (
                "In 1984, the 1990s and 90s",
                "In nineteen eighty-four, the nineteen nineties and nineties",
            ),
            (
                "at 14:30, 9:05pm, 9:00 and 3pm",
                "at fourteen thirty, nine oh five pm, nine o'clock and three pm",
            ),
            ("16:9", "sixteen to nine"),
            ("the 21st of 3rd", "the twenty-first of third"),
            (
                "10-20 people, 1939–1945",
                "ten to twenty people, nineteen thirty-nine to nineteen forty-five",
            ),
            ("555-1234", "five five five, one two three four"),
            (
                "1/2, 3/4, 24/7",
                "one half, three quarters, twenty-four seven",
            ),
            ("3x4 = 12", "three by four equals twelve"),
            (
                "v1.2.3 and 1.10.0",
                "version one point two point three and one point ten point zero",
            ),
            ("Tom & Ann's R&D", "Tom and Ann's R and D"),
            (
                "#5 #rust ~20 GPT-4",
                "number five hashtag rust about twenty GPT four",
            ),
            (
                "mail a.b@example.com or example.com/docs, main.rs",
                "mail a dot b at example dot com or example dot com slash docs, main dot rs",
            ),
            (
                "Mr. Smith vs. Dr. Who, e.g. etc.",
                "Mister Smith versus Doctor Who, for example et cetera.",
            ),
            ("No. 7? No. Yes.", "number seven? No. Yes."),
            ("x² is 2½ Name™", "x squared is two and one half Name"),
            ("1. One\n2. Two ", "one. One\ntwo. Two "),
            (
                "U.S. a.m. 4K mp3 H2O (e.g. this)",
                "U.S. a.m. 4K mp3 H2O (for example this)",
            ),
        ] {
            assert_eq!(in_words(written), said, "{written:?}");
        }
    }

    proptest! {
        #[test]
        fn ordinary_words_stay(words in prop::collection::vec("[b-df-hj-np-tv-z][aeiou][a-z]{2,7}[,.!?;:]?", 0..30)) {
            let text = words.join(" ");
            prop_assert_eq!(in_words(&text), text);
        }

        #[test]
        fn words_beside_anything_stay(word in "[b-d][aeiou][l-n][a-z]{1,5}", beside in "[-0-9$€%&#@.,:/x°km +]{0,12}") {
            let said = in_words(&format!("{word} {beside} {word}"));
            prop_assert!(said.starts_with(&word) && said.ends_with(&word), "{}", said);
        }

        #[test]
        fn no_number_is_left(number in any::<i64>(), decimals in any::<Option<u16>>()) {
            let decimals = decimals.map_or(String::new(), |decimals| format!(".{decimals}"));
            let said = in_words(&format!("{number}{decimals}"));
            prop_assert!(!said.is_empty() && !said.contains(|c: char| c.is_ascii_digit()), "{}", said);
        }

        #[test]
        fn any_text_is_read(text in any::<String>(), likely in "[-0-9$€£%&#@.,:/x°kKmM²½™ \n'()aeJanMay]{0,60}") {
            in_words(&text);
            in_words(&likely);
        }
    }
}
