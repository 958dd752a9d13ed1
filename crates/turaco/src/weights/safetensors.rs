//! The safetensors container, as one file or as shards with an index.
//!
//! Layout: u64 header length, a JSON object (name → dtype, shape, data_offsets; optionally `__metadata__`), then the
//! data. As the format description of huggingface/safetensors demands, the tensors have to cover the data exactly:
//! no holes, no overlaps, nothing behind the last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::{fmt, io};

use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::json;

use super::{Bytes, DType, Tensor, Weights, invalid, map, printable, unreadable};
use crate::Result;

/// Longest header, the limit of the reference implementation.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// Reads one safetensors file that lies in `bytes`; `path` is for messages.
///
/// # Errors
/// On anything the format forbids, naming tensor and offsets.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<Weights> {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(invalid(
            path,
            format!(
                "file of {} bytes is too short for a safetensors header",
                bytes.len()
            ),
        ));
    };
    let header_len = usize::try_from(u64::from_le_bytes(*len))
        .ok()
        .filter(|&len| len <= MAX_HEADER_BYTES)
        .ok_or_else(|| {
            invalid(
                path,
                format!(
                    "safetensors header length {} is above the limit of {MAX_HEADER_BYTES}",
                    u64::from_le_bytes(*len)
                ),
            )
        })?;
    let Some(header) = rest.get(..header_len) else {
        return Err(invalid(
            path,
            format!(
                "file is truncated at byte {}: the safetensors header ends at byte {}",
                bytes.len(),
                8 + header_len
            ),
        ));
    };
    let Header(mut entries) = serde_json::from_slice(header)
        .map_err(|error| invalid(path, format!("safetensors header: {error}")))?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);

    let data = bytes.slice(8 + header_len..bytes.len());
    let mut weights = Weights::new(path);
    let mut covered = 0usize;
    for (name, entry) in entries {
        let tensor_error = |message: String| {
            invalid(
                path,
                format!(
                    "tensor `{}` (data offsets {}..{}): {message}",
                    printable(&name),
                    entry.data_offsets.0,
                    entry.data_offsets.1
                ),
            )
        };
        let (begin, end) = match (
            usize::try_from(entry.data_offsets.0),
            usize::try_from(entry.data_offsets.1),
        ) {
            (Ok(begin), Ok(end)) if begin <= end && end <= data.len() => (begin, end),
            _ => {
                return Err(tensor_error(format!(
                    "outside of the {} data bytes (file truncated at byte {}, or offsets wrong)",
                    data.len(),
                    bytes.len()
                )));
            }
        };
        if begin != covered {
            return Err(tensor_error(format!(
                "{} the tensor before it, which ends at {covered}",
                if begin < covered {
                    "overlaps"
                } else {
                    "leaves a hole after"
                }
            )));
        }
        covered = end;
        let dtype = dtype(&entry.dtype).map_err(&tensor_error)?;
        let shape = entry
            .shape
            .iter()
            .map(|&size| usize::try_from(size))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|_| tensor_error(format!("shape {:?} is too large", entry.shape)))?;
        let tensor = Tensor::new(dtype, shape, data.slice(begin..end)).map_err(&tensor_error)?;
        weights.insert(name, tensor)?;
    }
    if covered != data.len() {
        return Err(invalid(
            path,
            format!(
                "{} bytes after the last tensor, which ends at byte {}",
                data.len() - covered,
                8 + header_len + covered
            ),
        ));
    }
    Ok(weights)
}

/// Reads the shards that the index file `path` (`model.safetensors.index.json`) names, from its folder.
///
/// # Errors
/// As [`parse`]; also when a shard's name is not a plain file name, a shard is missing, or a tensor is not in the shard that
/// the index says.
pub fn read_sharded(path: &Path) -> Result<Weights> {
    let bytes = map(path)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| invalid(path, format!("safetensors index: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut weights = Weights::new(folder);
    let mut shards: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map.0 {
        // An index must not lead out of its folder.
        let mut components = Path::new(shard).components();
        let plain = matches!(components.next(), Some(Component::Normal(_)))
            && components.next().is_none()
            && !shard.contains(['/', '\\']);
        if !plain {
            return Err(invalid(
                path,
                format!(
                    "shard `{}` of tensor `{}` is no plain file name",
                    printable(shard),
                    printable(tensor)
                ),
            ));
        }
        if !shards.entry(shard).or_default().insert(tensor) {
            return Err(invalid(
                path,
                format!("tensor `{}` occurs twice", printable(tensor)),
            ));
        }
    }
    for (shard, names) in shards {
        let shard_path = folder.join(shard);
        let bytes = Bytes::map(&shard_path).map_err(|source| unreadable(&shard_path, source))?;
        let part = parse(&shard_path, &bytes)?;
        for name in names {
            let tensor = part.find(name).ok_or_else(|| {
                invalid(
                    &shard_path,
                    format!(
                        "tensor `{}` is missing, which `{}` says to be in this shard",
                        printable(name),
                        path.file_name()
                            .map(|name| name.to_string_lossy())
                            .unwrap_or_default()
                    ),
                )
            })?;
            weights.insert(name.to_owned(), tensor.clone())?;
        }
    }
    Ok(weights)
}

/// Writes a safetensors file of `tensors` (canonical name, tensor) with all numbers converted to `dtype`, which is `F32`, `F16`
/// or `Bf16`. One tensor is in memory at a time.
///
/// # Errors
/// When `out` fails; `InvalidData` when a value does not fit into `dtype`, `InvalidInput` for another `dtype`.
pub fn write(
    out: &mut impl io::Write,
    tensors: &[(String, &Tensor)],
    dtype: DType,
) -> io::Result<()> {
    let type_name = match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        other => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot write {other} (f32, f16 and bf16 are possible)"),
            ));
        }
    };
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for (name, tensor) in tensors {
        let begin = end;
        end += tensor.len() * dtype.block_bytes();
        header.insert(
            name.clone(),
            json!({"dtype": type_name, "shape": tensor.shape, "data_offsets": [begin, end]}),
        );
    }
    let mut header = serde_json::to_vec(&header)?;
    // The data begins at a multiple of eight, for readers that cast instead of copying.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (name, tensor) in tensors {
        let values = tensor.to_f32();
        let bytes: Vec<u8> = match dtype {
            DType::F16 => values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            DType::Bf16 => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        };
        if !super::finite::is_finite(dtype, &bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("tensor `{name}` has values that do not fit into {dtype}; use bf16 or f32"),
            ));
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn dtype(name: &str) -> std::result::Result<DType, String> {
    Ok(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::Bf16,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I16" => DType::I16,
        "I8" => DType::I8,
        "U8" | "BOOL" => DType::U8,
        other => {
            return Err(format!(
                "type `{}` is not supported (F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL are)",
                printable(other)
            ));
        }
    })
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

/// The header in file order. An ordinary map would hide duplicate names.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// An object as pairs in file order, duplicates kept.
struct Pairs<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct PairsVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.into()
    }

    fn read(bytes: &Bytes) -> Result<Weights> {
        parse(Path::new("m.safetensors"), bytes)
    }

    fn message(header: &str, data: &[u8]) -> String {
        read(&file(header, data)).unwrap_err().to_string()
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}} "#;

    #[test]
    fn reads_tensors_in_any_header_order() {
        let mut data = Vec::new();
        data.extend(1.0f32.to_le_bytes());
        data.extend((-2.0f32).to_le_bytes());
        data.extend([0x00, 0x3c, 0x00, 0x40]);
        let weights = read(&file(GOOD, &data)).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(weights.get("a", &[1, 2]).unwrap().to_f32(), [1.0, -2.0]);
        assert_eq!(weights.get("b", &[2]).unwrap().to_f32(), [1.0, 2.0]);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(GOOD, &[0; 12]);
        for len in 0..whole.len() {
            assert!(read(&whole[..len].to_vec().into()).is_err(), "{len}");
        }
        assert!(read(&[&whole[..], &[0]].concat().into()).is_err());
    }

    #[test]
    fn overlaps_holes_and_outside_offsets_are_errors() {
        let two = |first: &str, second: &str| {
            message(
                &format!(
                    r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{first}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{second}}}}}"#
                ),
                &[0; 8],
            )
        };
        assert!(two("[0,4]", "[2,6]").contains("`b` (data offsets 2..6): overlaps"));
        assert!(two("[0,4]", "[0,4]").contains("overlaps"));
        assert!(two("[0,3]", "[4,8]").contains("takes 4 bytes, found 3"));
        assert!(two("[0,4]", "[5,9]").contains("outside of the 8 data bytes"));
        assert!(two("[4,0]", "[4,8]").contains("outside"));
        assert!(two("[0,4]", "[4,9223372036854775808]").contains("outside"));
        assert!(two("[0,4]", "[-4,8]").contains("header"));
        let hole = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
        assert!(message(hole, &[0; 8]).contains("leaves a hole"));
        let rest = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        assert!(message(rest, &[0; 8]).contains("4 bytes after the last tensor"));
    }

    #[test]
    fn impossible_headers_are_errors() {
        let entry = |dtype: &str, shape: &str| {
            message(
                &format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,8]}}}}"#),
                &[0; 8],
            )
        };
        assert!(entry("F32", "[3]").contains("takes 12 bytes, found 8"));
        assert!(entry("F32", "[9223372036854775807, 8]").contains("too large"));
        assert!(entry("F32", "[4611686018427387904]").contains("too large"));
        assert!(entry("F32", "[18446744073709551616]").contains("header"));
        assert!(entry("Q9", "[8]").contains("type `Q9` is not supported"));
        assert!(message("[]", &[]).contains("header"));
        assert!(message("{", &[]).contains("header"));
        let twice = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
        assert!(message(twice, &[]).contains("`a` occurs twice"));
        for len in [1u64 << 63, u64::MAX, 100_000_001, 3] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend(b"{}");
            assert!(read(&bytes.into()).is_err());
        }
        assert!(read(&file("{}", &[])).unwrap().is_empty());
    }

    #[test]
    fn written_files_are_read_back() {
        let a = Tensor::from_f32(&[2, 2], &[1.0, -0.5, 3.25, 0.0]);
        let b = Tensor::from_f32(&[1], &[70_000.0]);
        let write_to = |tensors: &[(&str, &Tensor)], dtype| {
            let mut bytes = Vec::new();
            let tensors: Vec<(String, &Tensor)> = tensors
                .iter()
                .map(|&(name, tensor)| (name.to_owned(), tensor))
                .collect();
            write(&mut bytes, &tensors, dtype).map(|()| Bytes::from(bytes))
        };
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let weights = read(&write_to(&[("a", &a)], dtype).unwrap()).unwrap();
            let found = weights.get("a", &[2, 2]).unwrap();
            assert_eq!((found.dtype, found.to_f32()), (dtype, a.to_f32()));
        }
        let error = write_to(&[("a", &a), ("b", &b)], DType::F16).unwrap_err();
        assert!(error.to_string().contains("`b` has values that do not fit"));
        assert!(write_to(&[("a", &a)], DType::I8).is_err());
    }

    #[test]
    fn shards_are_joined() {
        let folder = tempfile::tempdir().unwrap();
        let shard = |name: &str, tensor: &str, value: u8| {
            let header =
                format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
            std::fs::write(folder.path().join(name), &file(&header, &[value])[..]).unwrap();
        };
        shard("one.safetensors", "a", 1);
        shard("two.safetensors", "b", 2);
        let index = folder.path().join("model.safetensors.index.json");
        let write = |map: &str| {
            std::fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap()
        };
        write(r#"{"a":"one.safetensors","b":"two.safetensors"}"#);
        let weights = read_sharded(&index).unwrap();
        assert_eq!(weights.get("b", &[1]).unwrap().to_f32(), [2.0]);

        let message = |map: &str| {
            write(map);
            read_sharded(&index).unwrap_err().to_string()
        };
        assert!(message(r#"{"a":"two.safetensors"}"#).contains("tensor `a` is missing"));
        assert!(message(r#"{"a":"three.safetensors"}"#).contains("cannot read"));
        for bad in ["../one.safetensors", "/etc/passwd", "..", "", "x\\\\y"] {
            assert!(
                message(&format!(r#"{{"a":"{bad}"}}"#)).contains("no plain file name"),
                "{bad}"
            );
        }
        assert!(
            message(r#"{"a":"one.safetensors","a":"one.safetensors"}"#).contains("occurs twice")
        );
    }
}
