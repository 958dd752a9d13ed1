//! Reading the settings files of models (`config.json`, `params.json`): nested JSON objects with clear errors.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::weights::{Sidecars, invalid};
use crate::{Result, audio};

/// A JSON object of a model's folder, or one inside it.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    path: PathBuf,
    /// Where in the file this object is, for messages: empty or `a.b.`.
    place: String,
    object: Map<String, Value>,
}

impl Settings {
    /// The file `name` of a folder; `None` if there is none.
    pub fn read(sidecars: &Sidecars, name: &str) -> Result<Option<Self>> {
        let object = sidecars.json(name)?;
        Ok(object.map(|object| Self {
            path: sidecars.path(name),
            place: String::new(),
            object,
        }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An object inside; empty if there is none.
    pub fn at(&self, key: &str) -> Self {
        let object = self.object.get(key).and_then(Value::as_object);
        Self {
            path: self.path.clone(),
            place: format!("{}{key}.", self.place),
            object: object.cloned().unwrap_or_default(),
        }
    }

    /// Whether the key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.present(key).is_some()
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.object.get(key).and_then(Value::as_str)
    }

    /// A rate in samples per second that sound can have.
    ///
    /// # Errors
    /// The key is missing without a `default`, or holds something else.
    pub fn sample_rate(&self, key: &str, default: Option<usize>) -> Result<u32> {
        let rate = u32::try_from(self.size(key, default)?).unwrap_or(u32::MAX);
        match audio::is_rate(rate) {
            true => Ok(rate),
            false => Err(invalid(
                &self.path,
                format!("key `{}{key}`: {}", self.place, audio::rate_refusal(rate)),
            )),
        }
    }

    /// A size: a positive whole number that is not absurd.
    ///
    /// # Errors
    /// The key is missing without a `default`, or holds something else.
    pub fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.present(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.missing(key)),
            (Some(value), _) => value
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .filter(|&size| (1..=1 << 30).contains(&size))
                .ok_or_else(|| self.wrong(key, value, "a positive whole number")),
        }
    }

    /// A list of sizes, at least one of them.
    ///
    /// # Errors
    /// The key is missing, or holds something else.
    pub fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        let value = self.present(key).ok_or_else(|| self.missing(key))?;
        let size = |value: &Value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (1..=1 << 30).contains(&size).then_some(size)
        };
        value
            .as_array()
            .filter(|list| (1..=64).contains(&list.len()))
            .and_then(|list| list.iter().map(size).collect())
            .ok_or_else(|| self.wrong(key, value, "a list of positive whole numbers"))
    }

    /// A whole number that may be 0: an id.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn count(&self, key: &str) -> Result<usize> {
        let value = self.present(key).ok_or_else(|| self.missing(key))?;
        as_count(value).ok_or_else(|| self.wrong(key, value, "a whole number"))
    }

    /// An object of ids by name, in the file's order; empty if there is none.
    ///
    /// # Errors
    /// It holds something else.
    pub fn counts(&self, key: &str) -> Result<Vec<(String, u32)>> {
        let object = self.object.get(key).and_then(Value::as_object);
        object
            .into_iter()
            .flatten()
            .map(|(name, value)| match as_count(value) {
                Some(count) => Ok((name.clone(), count as u32)),
                None => Err(self.wrong(&format!("{key}.{name}"), value, "a whole number")),
            })
            .collect()
    }

    /// The texts of an object by name; what is no text is left out.
    pub fn texts(&self, key: &str) -> Vec<(String, String)> {
        let object = self.object.get(key).and_then(Value::as_object);
        let text =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        object.into_iter().flatten().filter_map(text).collect()
    }

    /// True or false, if the key is there and one of them.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.object.get(key).and_then(Value::as_bool)
    }

    /// Refuses a text that is none of `known`; the key may be missing.
    ///
    /// # Errors
    /// It holds something else.
    pub fn expect_text(&self, key: &str, known: &[&str]) -> Result<()> {
        match self.present(key) {
            Some(value) if !value.as_str().is_some_and(|text| known.contains(&text)) => {
                Err(self.wrong(key, value, &format!("`{}`", known.join("` or `"))))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a flag of another value; the key may be missing.
    ///
    /// # Errors
    /// It holds something else.
    pub fn expect_flag(&self, key: &str, wanted: bool) -> Result<()> {
        match self.present(key) {
            Some(value) if value.as_bool() != Some(wanted) => {
                Err(self.wrong(key, value, &wanted.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// The error for a number that is not in its range.
    pub fn outside(&self, key: &str, least: f32, most: f32) -> crate::Error {
        let value = self.present(key).unwrap_or(&Value::Null);
        self.wrong(key, value, &format!("{least} to {most}"))
    }

    /// A positive number.
    ///
    /// # Errors
    /// As [`size`](Self::size).
    pub fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.present(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.missing(key)),
            (Some(value), _) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .ok_or_else(|| self.wrong(key, value, "a positive number")),
        }
    }

    /// Whether a number is there, and is 0.
    pub fn is_zero(&self, key: &str) -> bool {
        self.present(key).and_then(serde_json::Value::as_f64) == Some(0.0)
    }

    /// The base of rotary frequencies: in an object of its own in newer files, beside the other keys in older ones.
    ///
    /// # Errors
    /// As [`number`](Self::number); also frequencies that are scaled, which no model here has.
    pub fn rope_theta(&self, default: f64) -> Result<f32> {
        let inner = self.at("rope_parameters");
        let is_plain = matches!(inner.text("rope_type"), None | Some("default"));
        if !is_plain || self.has("rope_scaling") {
            let message = format!(
                "keys `{0}rope_parameters` or `{0}rope_scaling` scale the rotary frequencies, which this program does not do",
                self.place
            );
            return Err(invalid(&self.path, message));
        }
        let beside = self.number("rope_theta", Some(default))?;
        Ok(inner.number("rope_theta", Some(beside))? as f32)
    }

    /// The value of a key that is there and not null.
    fn present(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn missing(&self, key: &str) -> crate::Error {
        invalid(&self.path, format!("key `{}{key}` is missing", self.place))
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> crate::Error {
        let found: String = value.to_string().chars().take(60).collect();
        invalid(
            &self.path,
            format!("key `{}{key}` is {found}, expected {expected}", self.place),
        )
    }
}

/// Refuses sizes above what is far beyond every published model, so that products of a few of them fit into 64 bits: each a
/// name, a size, and the most that it may be.
///
/// # Errors
/// The first size that is above.
pub(super) fn check_limits(path: &Path, sizes: &[(&str, usize, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size, most)| size > most) {
        Some((what, size, most)) => Err(invalid(
            path,
            format!("{size} {what} are more than this program runs ({most})"),
        )),
        None => Ok(()),
    }
}

fn as_count(value: &Value) -> Option<usize> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.filter(|count| *count <= 1 << 30)
}
