//! Values of options: how their text is read and how their defaults are shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use turaco::ComputeType;

use super::serve::KeepAlive;

/// A value that can be switched off with `none` (also `null` and `off`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: fmt::Display> fmt::Display for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl<T: FromStr> FromStr for OrNone<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_none(text) {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(value) => Ok(Self(Some(value))),
            Err(error) => Err(format!("{error} (`none` switches it off)")),
        }
    }
}

fn is_none(text: &str) -> bool {
    ["none", "null", "off"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

/// A finite number; NaN and infinity are never meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `1.0`, not `1`: the reader sees that fractions are possible.
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Self(number)),
            _ => Err("expected a number".into()),
        }
    }
}

/// Seconds, zero or more; `90`, `1.5`, `1:30` or `0:01:30.5`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds(pub f64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected seconds (`90`, `1.5`) or a time (`1:30`, `0:01:30.5`)";
        let parts: Vec<&str> = text.trim().split(':').collect();
        if parts.len() > 3 {
            return Err(EXPECTED.into());
        }
        let mut seconds = 0.0;
        for (index, part) in parts.iter().enumerate() {
            let Number(number) = part.parse().map_err(|_| EXPECTED.to_string())?;
            if number < 0.0 || (index > 0 && number >= 60.0) {
                return Err(EXPECTED.into());
            }
            seconds = seconds * 60.0 + number;
        }
        Ok(Self(seconds))
    }
}

/// Values between commas; an empty text is an empty list.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T>(pub Vec<T>);

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            value.fmt(f)?;
        }
        Ok(())
    }
}

impl<T: FromStr> FromStr for List<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Python users paste lists as they print them.
        let text = text.trim();
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if inner.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        inner
            .split(',')
            .map(|part| {
                part.trim()
                    .parse()
                    .map_err(|error| format!("`{}`: {error}", part.trim()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Yes or no, in the spellings that shells, Python and environment variables use.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected `true` or `false`".into()),
    }
}

/// The path of a socket in the file system, of an address `unix://PATH`.
pub fn socket_path(address: &str) -> Option<&Path> {
    let path = address.strip_prefix("unix://")?;
    (!path.is_empty()).then_some(Path::new(path))
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortOrSocket {
    /// At a port of its address.
    Port(u16),
    /// At a socket in the file system.
    Socket(PathBuf),
}

impl std::str::FromStr for PortOrSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (socket_path(text), text.parse()) {
            (Some(path), _) => Ok(Self::Socket(path.to_owned())),
            (None, Ok(port)) => Ok(Self::Port(port)),
            (None, Err(_)) => Err("expected a port up to 65535, or unix:///PATH".into()),
        }
    }
}

/// A count that can be `none` as in the `whisper` command, where that means 1.
pub fn parse_count(text: &str) -> Result<usize, String> {
    if is_none(text) {
        return Ok(1);
    }
    match text.parse() {
        Ok(0) => Err("expected 1 or more".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("expected a whole number".into()),
    }
}

/// A limit, which faster-whisper's users switch off with `inf`.
pub fn parse_limit(text: &str) -> Result<OrNone<Number>, String> {
    if text.trim().eq_ignore_ascii_case("inf") {
        return Ok(OrNone(None));
    }
    text.parse()
}

/// A length of time: seconds, or a number with `ms`, `s`, `m` or `h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a time such as 90, 1.5s, 5m or 1h";
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(EXPECTED.into()),
    };
    let Number(number) = digits.parse().map_err(|_| EXPECTED.to_string())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| EXPECTED.into())
}

/// How long a model stays loaded; a negative number is for ever.
pub fn parse_keep_alive(text: &str) -> Result<KeepAlive, String> {
    match text.trim().starts_with('-') {
        true => text
            .parse::<Number>()
            .map(|_| KeepAlive(None))
            .map_err(|_| "expected a time such as 5m, 0, or -1 for ever".into()),
        false => parse_duration(text).map(|time| KeepAlive(Some(time))),
    }
}

/// A number of bytes, also with `KiB`, `MiB`, `GiB` (or their first letter).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size such as 1000000, 200MiB or 1GiB";
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(EXPECTED.into()),
    };
    let Number(number) = digits.parse().map_err(|_| EXPECTED.to_string())?;
    let bytes = number * (1_u64 << shift) as f64;
    match (1.0..=1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(EXPECTED.into()),
    }
}

/// The name of a device; whether it exists shows when the model is loaded.
pub fn parse_device(text: &str) -> Result<String, String> {
    let (kind, index) = match text.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (text, None),
    };
    let known = match kind {
        "auto" | "cpu" => index.is_none(),
        "wgpu" | "vulkan" | "metal" | "dx12" | "cuda" => {
            index.is_none_or(|index| index.parse::<u16>().is_ok())
        }
        _ => false,
    };
    if known {
        Ok(text.to_string())
    } else {
        Err("expected auto, cpu, wgpu[:N], vulkan[:N], metal[:N], dx12[:N] or cuda[:N]".into())
    }
}

/// How weights are kept.
pub fn parse_compute_type(text: &str) -> Result<ComputeType, String> {
    text.parse().map_err(|error| match error {
        // The parser shows the value itself.
        turaco::Error::InvalidOption { message, .. } => {
            message.replacen(&format!("`{text}` is not"), "expected", 1)
        }
        other => other.to_string(),
    })
}

/// A compute capability of NVIDIA's, as 90 for 9.0.
pub fn capability(text: &str) -> Result<u32, String> {
    let parts = text
        .split_once('.')
        .map(|(major, minor)| (major.parse::<u32>(), minor.parse::<u32>()));
    match parts {
        Some((Ok(major), Ok(minor))) if (7..100).contains(&major) && minor < 10 => Ok(10 * major + minor),
        _ => Err("expected a number such as 9.0; `nvidia-smi --query-gpu=compute_cap --format=csv` says a card's".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_switches_off_in_any_case() {
        for text in ["none", "None", "NULL", "off"] {
            assert_eq!(text.parse(), Ok(OrNone::<Number>(None)));
        }
        assert_eq!("-1".parse(), Ok(OrNone(Some(Number(-1.0)))));
        assert!("abc".parse::<OrNone<Number>>().is_err());
        assert!("nan".parse::<OrNone<Number>>().is_err());
        assert!("inf".parse::<OrNone<Number>>().is_err());
        assert_eq!(parse_limit("inf"), Ok(OrNone(None)));
        assert_eq!(parse_limit("30"), Ok(OrNone(Some(Number(30.0)))));
    }

    #[test]
    fn seconds_may_be_clock_times() {
        for (text, seconds) in [
            ("90", 90.0),
            ("1.5", 1.5),
            ("1:30", 90.0),
            ("0:01:30.5", 90.5),
            ("100:00", 6000.0),
        ] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["", "-1", "1:60", "1:2:3:4", "x", "1:", "inf"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_and_sizes_have_units() {
        for (text, seconds) in [
            ("90", 90.0),
            ("1.5s", 1.5),
            ("5m", 300.0),
            ("1h", 3600.0),
            ("20ms", 0.02),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        assert_eq!(parse_keep_alive("-1"), Ok(KeepAlive(None)));
        assert_eq!(parse_keep_alive("0"), Ok(KeepAlive(Some(Duration::ZERO))));
        for (text, bytes) in [
            ("1GiB", 1 << 30),
            ("200M", 200 << 20),
            ("17", 17),
            ("1.5k", 1536),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "5 days", "-5m", "1e30h", "nan"] {
            assert!(parse_duration(text).is_err(), "{text}");
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_come_with_and_without_brackets() {
        assert_eq!("-1".parse(), Ok(List(vec![-1i64])));
        assert_eq!("[1, 2]".parse(), Ok(List(vec![1i64, 2])));
        assert_eq!("".parse(), Ok(List::<i64>(vec![])));
        assert!("1,,2".parse::<List<i64>>().is_err());
        assert_eq!(List(vec![Number(0.0), Number(0.2)]).to_string(), "0.0,0.2");
    }

    #[test]
    fn devices_are_checked_by_their_form() {
        for good in ["auto", "cpu", "wgpu", "cuda:1", "vulkan:0", "metal", "dx12"] {
            assert!(parse_device(good).is_ok(), "{good}");
        }
        for bad in ["", "gpu", "cpu:0", "cuda:x", "cuda:"] {
            assert!(parse_device(bad).is_err(), "{bad}");
        }
    }
}
