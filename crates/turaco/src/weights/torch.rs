//! PyTorch files: OpenAI's `.pt` and Hugging Face's `pytorch_model.bin`.
//!
//! A ZIP archive with a pickle that describes the tensors and one member per storage (upstream: `torch/serialization.py`).
//! The pickle is read by a machine that can build data only; see [`super::pickle`].

use std::collections::BTreeMap;
use std::path::Path;

use super::pickle::{Pickle, StridedTensor, Value};
use super::{Bytes, Tensor, Weights, byte_len, invalid, printable, shape_text, zip};
use crate::Result;

/// Integers that stand beside the tensors (OpenAI's `dims`); empty for plain state dictionaries.
pub type Dimensions = BTreeMap<String, i64>;

/// Reads a PyTorch file that lies in `bytes`; `path` is for messages.
///
/// # Errors
/// When the archive or the pickle is broken, describes anything but tensors, or a tensor does not fit its storage.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<(Dimensions, Weights)> {
    let members = zip::members(path, bytes)?;
    let (prefix, pickle) = members
        .iter()
        .find_map(|(name, content)| Some((name.strip_suffix("data.pkl")?, content)))
        .filter(|(prefix, _)| prefix.is_empty() || prefix.ends_with('/'))
        .ok_or_else(|| {
            invalid(
                path,
                format!(
                    "a ZIP archive, but not of PyTorch: none of its {} members is `data.pkl`",
                    members.len()
                ),
            )
        })?;
    if let Some(order) = members.get(&format!("{prefix}byteorder"))
        && order.trim_ascii() != b"little"
    {
        return Err(invalid(path, "big-endian PyTorch files are not supported"));
    }
    let pickle = Pickle::parse(path, pickle)?;
    let Value::Dict(root) = pickle.root() else {
        return Err(invalid(
            path,
            "the PyTorch file holds no dictionary of tensors",
        ));
    };
    let member = |key: &str| pickle.entries(root).find(|(name, _)| *name == key);
    let (state, dims) = match member("model_state_dict") {
        Some((_, Value::Dict(state))) => (state, member("dims")),
        Some(_) => return Err(invalid(path, "`model_state_dict` is no dictionary")),
        None => (root, None),
    };
    let mut dimensions = Dimensions::new();
    if let Some((_, Value::Dict(dims))) = dims {
        for (name, value) in pickle.entries(dims) {
            if let Value::Int(value) = value {
                dimensions.insert(name.to_owned(), *value);
            }
        }
    }

    let mut weights = Weights::new(path);
    // Tensors that are not contiguous have to be copied; all copies together are no larger than the file.
    let mut copy_budget = bytes.len();
    for (name, value) in pickle.entries(state) {
        let Value::Tensor(strided) = value else {
            continue;
        };
        let storage_name = format!("{prefix}data/{}", strided.storage.key);
        let storage = members.get(&storage_name).ok_or_else(|| {
            invalid(
                path,
                format!(
                    "tensor `{}`: the archive has no member `{}`",
                    printable(name),
                    printable(&storage_name)
                ),
            )
        })?;
        let tensor = materialise(strided, storage, &mut copy_budget)
            .map_err(|message| invalid(path, format!("tensor `{}`: {message}", printable(name))))?;
        weights.insert(name.to_owned(), tensor)?;
    }
    if weights.is_empty() {
        return Err(invalid(path, "the PyTorch file holds no tensors"));
    }
    Ok((dimensions, weights))
}

/// The tensor in row-major order: a slice of its storage if it lies there so, else a copy.
fn materialise(
    strided: &StridedTensor,
    storage: &Bytes,
    copy_budget: &mut usize,
) -> std::result::Result<Tensor, String> {
    let StridedTensor {
        storage: description,
        offset,
        shape,
        strides,
    } = strided;
    let dtype = description.dtype;
    let item = dtype.block_bytes();
    if description.len.checked_mul(item) != Some(storage.len()) {
        return Err(format!(
            "its storage should have {} {dtype} values, found {} bytes",
            description.len,
            storage.len()
        ));
    }
    let len_bytes = byte_len(dtype, shape)?;
    if len_bytes == 0 {
        return Tensor::new(dtype, shape.clone(), Bytes::default());
    }
    // No axis is empty from here on; the last value decides whether all lie inside.
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |last, (&size, &stride)| {
            last.checked_add((size - 1).checked_mul(stride)?)
        });
    if last.is_none_or(|last| last >= description.len) {
        return Err(format!(
            "shape {} with strides {} at {offset} lies outside of its storage of {} values",
            shape_text(shape),
            shape_text(strides),
            description.len
        ));
    }
    let mut contiguous_stride = 1;
    let is_contiguous = shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == contiguous_stride;
        contiguous_stride *= size;
        fits
    });
    if is_contiguous {
        let start = offset * item;
        return Tensor::new(
            dtype,
            shape.clone(),
            storage.slice(start..start + len_bytes),
        );
    }
    *copy_budget = copy_budget
        .checked_sub(len_bytes)
        .ok_or("tensors overlap more often than the file is long")?;
    let mut bytes = Vec::with_capacity(len_bytes);
    let mut index = vec![0; shape.len()];
    for _ in 0..len_bytes / item {
        let at = offset
            + index
                .iter()
                .zip(strides)
                .map(|(&index, &stride)| index * stride)
                .sum::<usize>();
        bytes.extend_from_slice(&storage[at * item..(at + 1) * item]);
        for (index, &size) in index.iter_mut().zip(shape).rev() {
            *index += 1;
            if *index < size {
                break;
            }
            *index = 0;
        }
    }
    Tensor::new(dtype, shape.clone(), bytes.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tensor for [`write`]: name, offset, shape, strides and f32 values of its own storage.
    pub(crate) type Described<'a> = (&'a str, usize, &'a [usize], &'a [usize], &'a [f32]);

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.push(b'X');
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    fn integer(bytes: &mut Vec<u8>, value: usize) {
        bytes.extend([0x8a, 8]);
        bytes.extend((value as u64).to_le_bytes());
    }

    fn tuple(bytes: &mut Vec<u8>, values: &[usize]) {
        bytes.push(b'(');
        for &value in values {
            integer(bytes, value);
        }
        bytes.push(b't');
    }

    /// Writes what `torch.save({"dims": dims, "model_state_dict": tensors})` does; without dims, the state dictionary alone.
    pub(crate) fn write(dims: &[(&str, usize)], tensors: &[Described<'_>], wide: bool) -> Vec<u8> {
        let mut pickle = b"\x80\x02".to_vec();
        if !dims.is_empty() {
            pickle.extend(b"}q\x00(");
            text(&mut pickle, "dims");
            pickle.extend(b"}q\x01(");
            for (name, value) in dims {
                text(&mut pickle, name);
                integer(&mut pickle, *value);
            }
            pickle.push(b'u');
            text(&mut pickle, "model_state_dict");
        }
        pickle.extend(b"ccollections\nOrderedDict\n)R(");
        let mut members = Vec::new();
        for (i, (name, offset, shape, strides, values)) in tensors.iter().enumerate() {
            text(&mut pickle, name);
            pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(&mut pickle, "storage");
            pickle.extend(b"ctorch\nFloatStorage\n");
            text(&mut pickle, &i.to_string());
            text(&mut pickle, "cpu");
            integer(&mut pickle, values.len());
            pickle.extend(b"tQ");
            integer(&mut pickle, *offset);
            tuple(&mut pickle, shape);
            tuple(&mut pickle, strides);
            pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
            let data: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            members.push((format!("model/data/{i}"), data));
        }
        pickle.push(b'u');
        if !dims.is_empty() {
            pickle.push(b'u');
        }
        pickle.push(b'.');
        let mut all: Vec<(&str, &[u8])> = vec![("model/data.pkl", &pickle)];
        all.extend(
            members
                .iter()
                .map(|(name, data)| (name.as_str(), &data[..])),
        );
        all.push(("model/version", b"3\n"));
        all.push(("model/byteorder", b"little"));
        zip::tests::write(&all, wide)
    }

    fn read(bytes: Vec<u8>) -> Result<(Dimensions, Weights)> {
        parse(Path::new("m.pt"), &bytes.into())
    }

    #[test]
    fn strides_are_honoured() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for wide in [false, true] {
            let (dims, weights) = read(write(
                &[("n_mels", 80)],
                &[
                    ("plain", 1, &[2, 3], &[3, 1], &values),
                    ("transposed", 0, &[3, 2], &[1, 3], &values),
                    ("expanded", 2, &[2, 2], &[0, 1], &values),
                    ("scalar", 6, &[], &[], &values),
                    ("empty", 0, &[0, 5], &[5, 1], &values),
                    ("one row", 3, &[1, 2], &[77, 1], &values),
                ],
                wide,
            ))
            .unwrap();
            assert_eq!(dims["n_mels"], 80);
            let get = |name| weights.find(name).unwrap().to_f32();
            assert_eq!(get("plain"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            assert_eq!(get("transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
            assert_eq!(get("expanded"), [2.0, 3.0, 2.0, 3.0]);
            assert_eq!(get("scalar"), [6.0]);
            assert_eq!(get("one row"), [3.0, 4.0]);
            assert!(get("empty").is_empty());
        }
    }

    #[test]
    fn reads_what_pytorch_wrote() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/weights/torch-small.pt");
        let (dims, weights) = read(std::fs::read(path).unwrap()).unwrap();
        assert_eq!(dims, Dimensions::from([("n_mels".to_owned(), 80)]));
        let a = weights.get("a", &[3, 2]).unwrap().to_f32();
        assert_eq!(a, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(weights.get("b", &[2]).unwrap().to_f32(), [0.0, 0.0]);
    }

    #[test]
    fn tensors_outside_of_their_storage_are_errors() {
        let values = [0.0; 6];
        let message = |offset, shape: &[usize], strides: &[usize]| {
            read(write(&[], &[("t", offset, shape, strides, &values)], false))
                .unwrap_err()
                .to_string()
        };
        assert!(message(1, &[2, 3], &[3, 1]).contains("outside of its storage of 6 values"));
        assert!(message(usize::MAX >> 1, &[2], &[1]).contains("outside"));
        assert!(message(0, &[2, 2], &[usize::MAX >> 1, 1]).contains("outside"));
        assert!(message(0, &[1 << 62], &[0]).contains("too large"));
        assert!(message(0, &[1 << 40], &[0]).contains("overlap"));
        assert!(message(0, &[2], &[1, 1]).contains("unknown way"));
        assert!(message(usize::MAX, &[2], &[1]).contains("unknown way"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = write(
            &[("n_vocab", 1)],
            &[("t", 0, &[2], &[1], &[1.0, 2.0])],
            true,
        );
        for len in 0..whole.len() {
            assert!(read(whole[..len].to_vec()).is_err(), "{len}");
        }
    }

    #[test]
    fn other_archives_are_named() {
        let other = zip::tests::write(&[("word/document.xml", b"<x/>")], false);
        let message = read(other).unwrap_err().to_string();
        assert!(message.contains("not of PyTorch"), "{message}");
        let big = zip::tests::write(&[("m/data.pkl", b"}."), ("m/byteorder", b"big")], false);
        assert!(read(big).unwrap_err().to_string().contains("big-endian"));
        let nothing = zip::tests::write(&[("m/data.pkl", b"}.")], false);
        assert!(
            read(nothing)
                .unwrap_err()
                .to_string()
                .contains("no tensors")
        );
    }
}
