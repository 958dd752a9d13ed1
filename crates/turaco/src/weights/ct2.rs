//! CTranslate2 `model.bin`, as faster-whisper users have it.
//!
//! Layout (upstream: `python/ctranslate2/specs/model_spec.py` and `src/models/model.cc`): binary version, name and
//! revision of the model specification, variables, aliases; little endian without alignment. Quantised variables have a
//! sibling `<name>_scale` that holds divisors; here it becomes [`Tensor::row_scales`], which multiply.

use std::collections::BTreeMap;
use std::path::Path;

use super::cursor::Cursor;
use super::{Bytes, DType, Tensor, Weights, byte_len, printable, shape_text};
use crate::Result;

/// Newest layout known.
const NEWEST_VERSION: u32 = 6;
/// Far above any network's rank.
const MAX_RANK: u8 = 8;

/// What stands before the variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Layout of the file, 2 to 6.
    pub binary_version: u32,
    /// Model family, `WhisperSpec` for Whisper.
    pub spec: String,
    /// Revision of the family's set of variables.
    pub revision: u32,
}

/// Whether the bytes begin like a `model.bin`: a small version number and the name of a specification.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    let Some((&[version, 0, 0, 0, len, 0], rest)) = bytes.split_first_chunk::<6>() else {
        return false;
    };
    (2..=64).contains(&version)
        && rest
            .get(..usize::from(len))
            .and_then(|name| name.split_last())
            .is_some_and(|(&end, name)| {
                end == 0 && name.len() > 1 && name.iter().all(u8::is_ascii_alphanumeric)
            })
}

/// Reads a `model.bin` that lies in `bytes`; `path` is for messages. Aliases become tensors of their own.
///
/// # Errors
/// On truncation, unknown versions and types, and inconsistent sizes, naming variable and byte offset.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<(Header, Weights)> {
    let mut cursor = Cursor::new(path, bytes);
    let binary_version = cursor.u32("CTranslate2 binary version")?;
    if !(2..=NEWEST_VERSION).contains(&binary_version) {
        return Err(cursor.error(format!(
            "CTranslate2 binary version {binary_version} is not supported (2 to {NEWEST_VERSION} are)"
        )));
    }
    let spec = string(&mut cursor, "specification name")?;
    let revision = cursor.u32("specification revision")?;

    let mut variables = BTreeMap::new();
    for _ in 0..cursor.u32("variable count")? {
        let (name, variable) = variable(&mut cursor, binary_version)?;
        let name_text = printable(&name);
        if variables.insert(name, variable).is_some() {
            return Err(cursor.error(format!("variable `{name_text}` occurs twice")));
        }
    }
    let mut aliases = Vec::new();
    if binary_version >= 3 {
        for _ in 0..cursor.u32("alias count")? {
            let alias = string(&mut cursor, "alias")?;
            let target = string(&mut cursor, "alias target")?;
            aliases.push((alias, target));
        }
    }
    if cursor.remaining() != 0 {
        return Err(cursor.error(format!(
            "{} bytes after the last alias, which ends at byte {}",
            cursor.remaining(),
            cursor.position()
        )));
    }

    let mut weights = Weights::new(path);
    for (name, variable) in &variables {
        let is_scale = name
            .strip_suffix("_scale")
            .is_some_and(|target| variables.contains_key(target));
        if is_scale {
            continue;
        }
        let mut tensor = variable.clone();
        if let Some(divisors) = variables.get(&format!("{name}_scale")) {
            let scales = row_scales(&tensor, divisors).map_err(|message| {
                cursor.error(format!("variable `{}_scale`: {message}", printable(name)))
            })?;
            tensor.row_scales = Some(scales.into());
        }
        weights.insert(name.clone(), tensor)?;
    }
    for (alias, target) in aliases {
        let tensor = weights.require(&target)?.clone();
        weights.insert(alias, tensor)?;
    }
    let header = Header {
        binary_version,
        spec,
        revision,
    };
    Ok((header, weights))
}

/// u16 length including a closing NUL, bytes, NUL.
fn string(cursor: &mut Cursor<'_>, what: &str) -> Result<String> {
    let start = cursor.position();
    let len = usize::from(cursor.u16(what)?);
    let bytes = cursor.take(len, what)?;
    bytes
        .split_last()
        .filter(|&(&end, text)| end == 0 && !text.contains(&0))
        .and_then(|(_, text)| std::str::from_utf8(text).ok())
        .map(str::to_owned)
        .ok_or_else(|| {
            cursor.error(format!(
                "{what} at byte {start} is no NUL-terminated UTF-8 text"
            ))
        })
}

fn variable(cursor: &mut Cursor<'_>, binary_version: u32) -> Result<(String, Tensor)> {
    let start = cursor.position();
    let name = string(cursor, "variable name")?;
    let what = format!("variable `{}`", printable(&name));
    let rank = cursor.u8(&what)?;
    if rank > MAX_RANK {
        return Err(cursor.error(format!(
            "{what} at byte {start} has rank {rank}, at most {MAX_RANK} is possible"
        )));
    }
    let shape = (0..rank)
        .map(|_| cursor.size(&what))
        .collect::<Result<Vec<_>>>()?;
    let type_code = cursor.u8(&what)?;
    let count = cursor.size(&what)?;
    // Before version 4, the size of an item stood for its type and items were counted instead of bytes.
    let dtype = if binary_version >= 4 {
        match type_code {
            0 => Some(DType::F32),
            1 => Some(DType::I8),
            2 => Some(DType::I16),
            3 => Some(DType::I32),
            4 => Some(DType::F16),
            5 => Some(DType::Bf16),
            _ => None,
        }
    } else {
        match type_code {
            4 => Some(DType::F32),
            2 => Some(DType::I16),
            1 => Some(DType::I8),
            _ => None,
        }
    };
    let Some(dtype) = dtype else {
        return Err(cursor.error(format!(
            "{what} at byte {start} has the unknown type {type_code}"
        )));
    };
    let expected = byte_len(dtype, &shape)
        .map_err(|message| cursor.error(format!("{what} at byte {start}: {message}")))?;
    let found = if binary_version >= 4 {
        Some(count)
    } else {
        count.checked_mul(dtype.block_bytes())
    };
    if found != Some(expected) {
        return Err(cursor.error(format!(
            "{what} at byte {start}: {dtype} {} takes {expected} bytes, found {}",
            shape_text(&shape),
            found.map_or_else(|| "too many".to_owned(), |found| found.to_string())
        )));
    }
    let data = cursor.take_shared(expected, &what)?;
    let tensor = Tensor {
        dtype,
        shape,
        bytes: data,
        row_scales: None,
    };
    Ok((name, tensor))
}

/// Divisors of a quantised variable (one, or one per row) to one factor per row.
fn row_scales(quantised: &Tensor, divisors: &Tensor) -> std::result::Result<Vec<f32>, String> {
    if !matches!(quantised.dtype, DType::I8 | DType::I16) {
        return Err(format!("scales for a variable of type {}", quantised.dtype));
    }
    if quantised.is_empty() {
        // Rows without values: their number is bounded by nothing in the file.
        return Err("scales for an empty variable".into());
    }
    let n_rows = quantised.n_rows();
    if divisors.len() != 1 && divisors.len() != n_rows {
        return Err(format!("{} scales for {n_rows} rows", divisors.len()));
    }
    let divisors = divisors.to_f32();
    if let Some(bad) = divisors
        .iter()
        .find(|&&divisor| !divisor.is_normal() || divisor < 0.0)
    {
        return Err(format!("scale {bad} is no positive number"));
    }
    Ok((0..n_rows)
        .map(|row| 1.0 / divisors[row % divisors.len()])
        .collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes version 6 files for tests here and of the models.
    pub(crate) struct Writer {
        pub(crate) bytes: Vec<u8>,
        count: u32,
    }

    impl Writer {
        pub(crate) fn new(spec: &str) -> Self {
            let mut writer = Self {
                bytes: 6u32.to_le_bytes().to_vec(),
                count: 0,
            };
            writer.string(spec);
            writer.bytes.extend(3u32.to_le_bytes());
            writer.bytes.extend(0u32.to_le_bytes());
            writer
        }

        fn string(&mut self, text: &str) {
            self.bytes.extend((text.len() as u16 + 1).to_le_bytes());
            self.bytes.extend(text.as_bytes());
            self.bytes.push(0);
        }

        pub(crate) fn variable(&mut self, name: &str, shape: &[u32], type_code: u8, data: &[u8]) {
            self.count += 1;
            self.string(name);
            self.bytes.push(shape.len() as u8);
            for size in shape {
                self.bytes.extend(size.to_le_bytes());
            }
            self.bytes.push(type_code);
            self.bytes.extend((data.len() as u32).to_le_bytes());
            self.bytes.extend(data);
        }

        pub(crate) fn finish(mut self, spec: &str, aliases: &[(&str, &str)]) -> Vec<u8> {
            let at = 4 + 2 + spec.len() + 1 + 4;
            self.bytes[at..at + 4].copy_from_slice(&self.count.to_le_bytes());
            self.bytes.extend((aliases.len() as u32).to_le_bytes());
            for (alias, target) in aliases {
                self.string(alias);
                self.string(target);
            }
            self.bytes
        }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new("WhisperSpec");
        writer.variable("a", &[2, 3], 1, &[1, 2, 3, 0xff, 0xfe, 0xfd]);
        writer.variable("a_scale", &[2], 0, &floats(&[2.0, 0.5]));
        writer.variable("b", &[2, 2], 2, &[1, 0, 2, 0, 3, 0, 0xff, 0xff]);
        writer.variable("b_scale", &[], 0, &floats(&[4.0]));
        writer.variable("heads", &[], 2, &[6, 0]);
        writer.variable("only_scale", &[1], 5, &[0x80, 0x3f]);
        writer.finish("WhisperSpec", &[("projection", "a")])
    }

    fn read(bytes: Vec<u8>) -> Result<(Header, Weights)> {
        parse(Path::new("model.bin"), &bytes.into())
    }

    #[test]
    fn scales_become_row_factors() {
        assert!(looks_like(&sample()));
        let (header, weights) = read(sample()).unwrap();
        assert_eq!(
            (header.binary_version, header.spec.as_str(), header.revision),
            (6, "WhisperSpec", 3)
        );
        let expected = [0.5, 1.0, 1.5, -2.0, -4.0, -6.0];
        assert_eq!(weights.get("a", &[2, 3]).unwrap().to_f32(), expected);
        assert_eq!(
            weights.get("projection", &[2, 3]).unwrap().to_f32(),
            expected
        );
        assert_eq!(
            weights.get("b", &[2, 2]).unwrap().to_f32(),
            [0.25, 0.5, 0.75, -0.25]
        );
        assert_eq!(weights.get("heads", &[]).unwrap().to_f32(), [6.0]);
        assert_eq!(
            weights.names().collect::<Vec<_>>(),
            ["a", "b", "heads", "only_scale", "projection"]
        );
    }

    #[test]
    fn every_truncation_names_the_offset() {
        let whole = sample();
        for len in 0..whole.len() {
            let message = read(whole[..len].to_vec()).unwrap_err().to_string();
            assert!(
                message.contains(&format!("truncated at byte {len}")),
                "{len}: {message}"
            );
        }
        let message = read([&whole[..], &[7]].concat()).unwrap_err().to_string();
        assert!(
            message.contains("1 bytes after the last alias"),
            "{message}"
        );
    }

    #[test]
    fn wrong_sizes_types_and_scales_are_errors() {
        let message = |build: &dyn Fn(&mut Writer)| {
            let mut writer = Writer::new("S1");
            build(&mut writer);
            read(writer.finish("S1", &[])).unwrap_err().to_string()
        };
        assert!(
            message(&|w| w.variable("a", &[3], 0, &[0; 8])).contains("takes 12 bytes, found 8")
        );
        assert!(
            message(&|w| w.variable("a", &[u32::MAX, u32::MAX, u32::MAX], 0, &[]))
                .contains("too large")
        );
        assert!(message(&|w| w.variable("a", &[1], 9, &[0])).contains("unknown type 9"));
        assert!(message(&|w| w.variable("a", &[1; 9], 1, &[0])).contains("rank 9"));
        assert!(
            message(&|w| {
                w.variable("a", &[1], 1, &[0]);
                w.variable("a", &[1], 1, &[0]);
            })
            .contains("occurs twice")
        );
        for (scales, expected) in [
            (&[0.0f32][..], "no positive number"),
            (&[f32::NAN], "no positive number"),
            (&[1.0, 1.0, 1.0], "3 scales for 2 rows"),
        ] {
            let text = message(&|w| {
                w.variable("a", &[2, 1], 1, &[0, 0]);
                w.variable("a_scale", &[scales.len() as u32], 0, &floats(scales));
            });
            assert!(text.contains(expected), "{text}");
        }
        let alias = Writer::new("S1").finish("S1", &[("x", "y")]);
        assert!(read(alias).unwrap_err().to_string().contains("`y`"));
        let mut future = sample();
        future[0] = 7;
        assert!(
            read(future)
                .unwrap_err()
                .to_string()
                .contains("binary version 7 is not supported")
        );
    }

    #[test]
    fn older_versions_count_items() {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for part in [
            &b"\x02\x00S\0"[..],
            &1u32.to_le_bytes(),
            &1u32.to_le_bytes(),
            b"\x02\x00w\0\x01",
            &2u32.to_le_bytes(),
            &[4],
            &2u32.to_le_bytes(),
            &floats(&[1.0, 2.0]),
        ] {
            bytes.extend(part);
        }
        let (_, weights) = read(bytes).unwrap();
        assert_eq!(weights.get("w", &[2]).unwrap().to_f32(), [1.0, 2.0]);
    }
}
