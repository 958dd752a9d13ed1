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
use serde::de::{MapAccess, Visitor};
use serde_json::json;

use turaco_compute::WeightType;
use turaco_compute::cpu::packed::{MatrixSource, PackedMatrix, panels_len};
use turaco_compute::cpu::{self, pool::Pool};

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
    let Header {
        mut entries,
        panels,
    } = serde_json::from_slice(header)
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
        let (dtype, shape) = match panels.get(&name) {
            Some(text) => panel_shape(text).map_err(&tensor_error)?,
            None => (dtype(&entry.dtype).map_err(&tensor_error)?, entry.shape),
        };
        let shape = shape
            .iter()
            .map(|&size| usize::try_from(size))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|_| tensor_error(format!("shape {shape:?} is too large")))?;
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

/// Writes a safetensors file of `tensors` (canonical name, tensor, wanted type), each converted to its type: `F32`, `F16`,
/// `Bf16`, or `Panels` for matrices. One tensor is in memory at a time.
///
/// Panels are stored as `U8` of one axis; the metadata says what they are (`panels:NAME` = `TYPE ROWS COLUMNS`). They
/// come first, at multiples of 64 bytes of the file.
///
/// # Errors
/// When `out` fails; `InvalidData` when a value does not fit into its type, `InvalidInput` for another type.
pub fn write(out: &mut impl io::Write, tensors: &[(String, &Tensor, DType)]) -> io::Result<()> {
    let refused = |kind, message: String| Err(io::Error::new(kind, message));
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, _, dtype)| !matches!(dtype, DType::Panels(_)));
    let mut header = serde_json::Map::new();
    let mut metadata = serde_json::Map::new();
    metadata.insert("format".into(), json!("pt"));
    let mut end = 0;
    for (name, tensor, dtype) in &order {
        let begin = end;
        let (type_name, shape) = match (dtype, tensor.shape.as_slice()) {
            (DType::F32, _) => ("F32", tensor.shape.clone()),
            (DType::F16, _) => ("F16", tensor.shape.clone()),
            (DType::Bf16, _) => ("BF16", tensor.shape.clone()),
            (DType::Panels(packed), &[rows, cols]) => {
                metadata.insert(
                    format!("{PANELS}{name}"),
                    json!(format!("{} {rows} {cols}", packed.name())),
                );
                ("U8", vec![stored_len(tensor, *dtype)])
            }
            (other, _) => {
                let shape = super::shape_text(&tensor.shape);
                return refused(
                    io::ErrorKind::InvalidInput,
                    format!("cannot write `{name}` {shape} as {other}"),
                );
            }
        };
        end += stored_len(tensor, *dtype);
        header.insert(
            name.clone(),
            json!({"dtype": type_name, "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    let mut text = serde_json::Map::new();
    text.insert("__metadata__".into(), metadata.into());
    text.extend(header);
    let mut text = serde_json::to_vec(&text)?;
    // The data begins at a multiple of a cache line.
    text.resize((text.len() + 8).next_multiple_of(64) - 8, b' ');
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(&text)?;
    let pool = Pool::new(cpu::physical_cores());
    for (name, tensor, dtype) in order {
        if let DType::Panels(packed) = *dtype {
            let plain;
            let source = if matches!(tensor.dtype, DType::Panels(_)) {
                plain = Tensor::from_f32(&tensor.shape, &tensor.to_f32());
                plain.matrix()
            } else {
                tensor.matrix()
            };
            let source = MatrixSource {
                dtype: source.dtype,
                n: source.rows,
                k: source.cols,
                bytes: source.bytes,
                row_scales: source.row_scales,
            };
            let matrix = PackedMatrix::pack(&source, packed, &pool)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            matrix.store(out)?;
            continue;
        }
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
        if !super::finite::is_finite(*dtype, &bytes) {
            return refused(
                io::ErrorKind::InvalidData,
                format!("tensor `{name}` has values that do not fit into {dtype}; use bf16 or f32"),
            );
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Bytes that [`write`] makes of `tensors`, without the header.
pub fn data_len(tensors: &[(String, &Tensor, DType)]) -> usize {
    tensors
        .iter()
        .map(|(_, tensor, dtype)| stored_len(tensor, *dtype))
        .sum()
}

fn stored_len(tensor: &Tensor, dtype: DType) -> usize {
    match (dtype, tensor.shape.as_slice()) {
        (DType::Panels(packed), &[rows, cols]) => panels_len(packed, rows, cols).unwrap_or(0),
        _ => tensor.len() * dtype.block_bytes(),
    }
}

/// Begins the keys of the metadata that say which tensors are panels.
const PANELS: &str = "panels:";

/// Type and shape of a tensor from the metadata, `q8 51864 384`.
fn panel_shape(text: &str) -> std::result::Result<(DType, Vec<u64>), String> {
    let wrong = || {
        let text = printable(text);
        format!("its metadata `{text}` is not a type, a number of rows and a number of columns")
    };
    let mut words = text.split(' ');
    let packed = words
        .next()
        .and_then(|name| WeightType::ALL.into_iter().find(|t| t.name() == name))
        .ok_or_else(wrong)?;
    let shape = words
        .map(|word| word.parse().map_err(|_| wrong()))
        .collect::<std::result::Result<Vec<u64>, _>>()?;
    if shape.len() != 2 {
        return Err(wrong());
    }
    Ok((DType::Panels(packed), shape))
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
struct Header {
    entries: Vec<(String, Entry)>,
    /// What the metadata says of tensors that are panels.
    panels: BTreeMap<String, String>,
}

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
                let mut panels = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        entries.push((name, map.next_value()?));
                    } else if let serde_json::Value::Object(metadata) = map.next_value()? {
                        let panel = |(key, value): (String, serde_json::Value)| {
                            let name = key.strip_prefix(PANELS)?;
                            Some((name.to_owned(), value.as_str()?.to_owned()))
                        };
                        panels.extend(metadata.into_iter().filter_map(panel));
                    }
                }
                Ok(Header { entries, panels })
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
            let tensors: Vec<(String, &Tensor, DType)> = tensors
                .iter()
                .map(|&(name, tensor)| (name.to_owned(), tensor, dtype))
                .collect();
            write(&mut bytes, &tensors).map(|()| Bytes::from(bytes))
        };
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let weights = read(&write_to(&[("a", &a)], dtype).unwrap()).unwrap();
            let found = weights.get("a", &[2, 2]).unwrap();
            assert_eq!((found.dtype, found.to_f32()), (dtype, a.to_f32()));
        }
        let error = write_to(&[("a", &a), ("b", &b)], DType::F16).unwrap_err();
        assert!(error.to_string().contains("`b` has values that do not fit"));
        assert!(write_to(&[("a", &a)], DType::I8).is_err());

        // Panels come first, wherever they are in the list, and are what they were.
        let panels = DType::Panels(WeightType::Bf16);
        let mut bytes = Vec::new();
        let both = [
            ("b".to_owned(), &b, DType::F32),
            ("a".to_owned(), &a, panels),
        ];
        write(&mut bytes, &both).unwrap();
        let weights = read(&bytes.into()).unwrap();
        let found = weights.get("a", &[2, 2]).unwrap();
        assert_eq!((found.dtype, found.to_f32()), (panels, a.to_f32()));
        assert_eq!(weights.get("b", &[1]).unwrap().to_f32(), b.to_f32());
        assert!(write_to(&[("b", &b)], panels).is_err());
    }

    #[test]
    fn wrong_metadata_of_panels_is_an_error() {
        let header = |metadata: &str, bytes: usize| {
            let header = format!(
                r#"{{"__metadata__":{{"panels:a":"{metadata}"}},"a":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#
            );
            read(&file(&header, &vec![0; bytes]))
        };
        assert_eq!(
            header("q8 32 32", 1088)
                .unwrap()
                .get("a", &[32, 32])
                .unwrap()
                .len(),
            1024
        );
        for (metadata, bytes) in [
            ("q8 32 32", 1087),
            ("q8 33 32", 1088),
            ("q9 32 32", 1088),
            ("q8 32", 1088),
            ("q8 32 32 1", 1088),
            ("q8 0 32", 0),
            ("q8 18446744073709551615 32", 1088),
            ("q8 -1 32", 1088),
            ("", 1088),
        ] {
            let message = header(metadata, bytes).unwrap_err().to_string();
            assert!(message.contains("tensor `a`"), "{metadata}: {message}");
        }
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
