//! Days, years and times in English words.

use super::numbers::{cardinal, ordinal, year};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const MONTHS_IN_SHORT: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// What a year of four digits stands behind.
const BEFORE_YEARS: [&str; 17] = [
    "in", "since", "by", "until", "till", "from", "of", "year", "during", "before", "after",
    "around", "circa", "early", "late", "mid", "summer",
];

/// `5 March`: and that the next token is part of it.
pub(super) fn day_and_month(core: &str, next: &str, previous: &str) -> Option<(String, bool)> {
    let month = month(next).filter(|_| next != "May" || !is_month(previous))?;
    let day = day(core)?;
    let article = if previous.eq_ignore_ascii_case("the") {
        ""
    } else {
        "the "
    };
    Some((format!("{article}{} of {month}", ordinal(day)), true))
}

/// `2024-03-05`, `5.3.2024`, `12/31/2024`.
pub(super) fn date(core: &str) -> Option<String> {
    let separator = core.chars().find(|c| matches!(c, '-' | '.' | '/'))?;
    let parts: Vec<&str> = core.split(separator).collect();
    let [first, second, third] = parts[..] else {
        return None;
    };
    let value = |part: &str, len: std::ops::RangeInclusive<usize>| {
        let fits = len.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u64>().ok().filter(|_| fits)
    };
    let (day, month, in_year) = match separator {
        '-' => (
            value(third, 2..=2)?,
            value(second, 2..=2)?,
            value(first, 4..=4)?,
        ),
        '.' => (
            value(first, 1..=2)?,
            value(second, 1..=2)?,
            value(third, 4..=4)?,
        ),
        _ => {
            let (first, second, in_year) = (
                value(first, 1..=2)?,
                value(second, 1..=2)?,
                value(third, 4..=4)?,
            );
            match (first, second) {
                (13.., _) => (first, second, in_year),
                (_, 13..) => (second, first, in_year),
                // Which is the day is for the listener to know.
                _ => {
                    return Some(format!(
                        "{} {} {}",
                        cardinal(first),
                        cardinal(second),
                        year(in_year)
                    ));
                }
            }
        }
    };
    let month = MONTHS.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    (1..=31)
        .contains(&day)
        .then(|| format!("{month} {}, {}", ordinal(day), year(in_year)))
}

/// `14:30`, `9:05pm`, `3pm`, `16:9`.
pub(super) fn time(core: &str, next: &str) -> Option<String> {
    let lower = core.to_ascii_lowercase();
    let half = ["am", "pm", "a.m", "p.m"]
        .into_iter()
        .find(|half| lower.ends_with(half));
    let clock = &core[..core.len() - half.map_or(0, str::len)];
    let halves = half.map_or(String::new(), |half| format!(" {half}"));
    let parts: Vec<&str> = clock.split(':').collect();
    let values: Option<Vec<u64>> = parts.iter().map(|part| small_number(part)).collect();
    match (&parts[..], &values?[..]) {
        ([_], [hour]) if half.is_some() && *hour <= 12 => {
            Some(format!("{}{halves}", cardinal(*hour)))
        }
        ([_, minutes], [hour, minute]) if minutes.len() == 2 && *hour <= 24 && *minute < 60 => {
            let next_is_half = matches!(
                next.to_ascii_lowercase().as_str(),
                "am" | "pm" | "a.m" | "p.m"
            );
            let minute = match minute {
                0 if half.is_some() || next_is_half => String::new(),
                0 if *hour <= 12 => " o'clock".into(),
                0 => " hundred".into(),
                1..=9 => format!(" oh {}", cardinal(*minute)),
                _ => format!(" {}", cardinal(*minute)),
            };
            Some(format!("{}{minute}{halves}", cardinal(*hour)))
        }
        ([_, _], [first, second]) if half.is_none() => {
            Some(format!("{} to {}", cardinal(*first), cardinal(*second)))
        }
        ([_, _, _], [hours, minutes, seconds]) if half.is_none() => Some(format!(
            "{} {} {}",
            cardinal(*hours),
            cardinal(*minutes),
            cardinal(*seconds)
        )),
        _ => None,
    }
}

/// A day behind its month, a year where one is meant.
pub(super) fn part_of_date(core: &str, previous: &str, dated: bool) -> Option<String> {
    if let Some(day) = day(core).filter(|_| is_month(previous)) {
        return Some(ordinal(day));
    }
    let value = year_number(core)?;
    let behind = BEFORE_YEARS
        .iter()
        .any(|word| previous.eq_ignore_ascii_case(word));
    (behind || dated).then(|| year(value))
}

fn month(word: &str) -> Option<&'static str> {
    let at = MONTHS.iter().position(|month| *month == word);
    at.map(|at| MONTHS[at]).or_else(|| month_in_short(word))
}

pub(super) fn is_month(word: &str) -> bool {
    month(word).is_some()
}

pub(super) fn day(core: &str) -> Option<u64> {
    small_number(core).filter(|day| (1..=31).contains(day) && core.len() <= 2)
}

pub(super) fn year_number(core: &str) -> Option<u64> {
    small_number(core).filter(|year| (1100..2100).contains(year) && core.len() == 4)
}

/// Digits alone, and not many.
pub(super) fn small_number(text: &str) -> Option<u64> {
    let fits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| fits)
}

/// `21st`.
pub(super) fn ordinal_number(core: &str) -> Option<u64> {
    let ends = ["st", "nd", "rd", "th"];
    let number = ends.iter().find_map(|end| core.strip_suffix(end))?;
    small_number(number)
}

/// The whole name of a month that is written in short.
pub(super) fn month_in_short(word: &str) -> Option<&'static str> {
    let at = MONTHS_IN_SHORT.iter().position(|short| *short == word);
    let at = at.or_else(|| (word == "Sept").then_some(8));
    at.map(|at| MONTHS[at])
}
