//! `.apr` version 1, the format of the whisper.apr project.
//!
//! Layout (upstream: `src/format/mod.rs` and `src/tokenizer/vocab.rs` of paiml/whisper.apr): "APR1", 48 bytes of header,
//! index of 96 bytes per tensor, for int8 one scale per tensor, data, vocabulary, filter bank, CRC-32 of everything before.

use std::path::Path;

use super::cursor::Cursor;
use super::{Bytes, DType, Tensor, Weights, byte_len, printable};
use crate::Result;

/// The first bytes.
pub(super) const MAGIC: [u8; 4] = *b"APR1";

/// What stands around the tensors.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are those of OpenAI")]
pub struct Header {
    pub n_vocab: usize,
    pub n_audio_ctx: usize,
    pub n_audio_state: usize,
    pub n_audio_head: usize,
    pub n_audio_layer: usize,
    pub n_text_ctx: usize,
    pub n_text_state: usize,
    pub n_text_head: usize,
    pub n_text_layer: usize,
    pub n_mels: usize,
    /// Tokens in the order of their ids, if stored.
    pub vocabulary: Option<Vec<Vec<u8>>>,
    /// Filter bank `[n_mels, n_frequencies]`, if stored.
    pub mel_filters: Option<Tensor>,
}

/// Reads an `.apr` file that lies in `bytes`; `path` is for messages.
///
/// # Errors
/// On truncation, a wrong checksum, unsupported number types and inconsistent sizes, naming tensor and byte offset.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<(Header, Weights)> {
    let mut cursor = Cursor::new(path, bytes);
    if cursor.take(4, "magic number")? != MAGIC {
        return Err(cursor.error("no APR1 magic number at byte 0"));
    }
    let version = cursor.u16("version")?;
    if version > 1 {
        return Err(cursor.error(format!(
            "version {version} of the apr format is not supported (1 is)"
        )));
    }
    let _model_type = cursor.u8("model type")?;
    let quantisation = cursor.u8("quantisation")?;
    let dtype = match quantisation {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::I8,
        3 => {
            return Err(cursor.error(
                "int4 is not supported in the apr format, which does not define its layout (f32, f16 and int8 are)",
            ));
        }
        other => return Err(cursor.error(format!("unknown quantisation {other} at byte 7"))),
    };
    if cursor.u8("compression")? != 0 {
        return Err(cursor.error("compressed apr files are not supported"));
    }
    let n_tensors = usize::from(cursor.u16("number of tensors")?);
    let flags = cursor.u8("flags")?;
    let mut header = Header {
        n_vocab: cursor.size("n_vocab")?,
        n_audio_ctx: cursor.size("n_audio_ctx")?,
        n_audio_state: cursor.size("n_audio_state")?,
        n_audio_head: cursor.size("n_audio_head")?,
        n_audio_layer: cursor.size("n_audio_layer")?,
        n_text_ctx: cursor.size("n_text_ctx")?,
        n_text_state: cursor.size("n_text_state")?,
        n_text_head: cursor.size("n_text_head")?,
        n_text_layer: cursor.size("n_text_layer")?,
        n_mels: cursor.size("n_mels")?,
        vocabulary: None,
        mel_filters: None,
    };
    let index = (0..n_tensors)
        .map(|_| Entry::read(&mut cursor, dtype))
        .collect::<Result<Vec<_>>>()?;
    let scales = (0..if dtype == DType::I8 { n_tensors } else { 0 })
        .map(|_| cursor.f32("scale of a tensor"))
        .collect::<Result<Vec<_>>>()?;

    let data_start = cursor.position();
    let mut data_len = 0usize;
    let mut weights = Weights::new(path);
    for (i, entry) in index.into_iter().enumerate() {
        let name = printable(&entry.name);
        let outside = || {
            cursor.error(format!(
                "file is truncated at byte {}: tensor `{name}` has {} bytes at {} + {data_start}",
                bytes.len(),
                entry.len,
                entry.offset
            ))
        };
        let start = usize::try_from(entry.offset)
            .ok()
            .and_then(|offset| offset.checked_add(data_start))
            .ok_or_else(outside)?;
        let end = start.checked_add(entry.len).ok_or_else(outside)?;
        // Sections behind the data are found by the sum of all lengths, as upstream does.
        data_len = data_len
            .checked_add(entry.len)
            .filter(|&len| len <= bytes.len() - data_start)
            .ok_or_else(outside)?;
        let data = bytes.get(start..end).ok_or_else(outside)?;
        let mut tensor = Tensor::new(dtype, entry.shape.clone(), data)
            .map_err(|message| cursor.error(format!("tensor `{name}`: {message}")))?;
        if let Some(&scale) = scales.get(i) {
            if !scale.is_finite() || scale < 0.0 {
                return Err(cursor.error(format!(
                    "tensor `{name}` has scale {scale}, expected a positive number"
                )));
            }
            // The number of rows is bounded by that of the bytes.
            let n_rows = if tensor.is_empty() {
                0
            } else {
                tensor.n_rows()
            };
            tensor.row_scales = Some(vec![scale; n_rows].into());
        }
        weights.insert(entry.name, tensor)?;
    }

    let behind = data_start
        .checked_add(data_len)
        .ok_or_else(|| cursor.error("tensors are too large"))?;
    let mut cursor = Cursor::at(path, bytes, behind, "end of the tensors")?;
    if flags & 1 != 0 {
        header.vocabulary = Some(vocabulary(&mut cursor)?);
    }
    if flags & 2 != 0 {
        header.mel_filters = Some(mel_filters(&mut cursor)?);
    }
    let end = cursor.position();
    let stored = cursor.u32("checksum")?;
    if cursor.remaining() != 0 {
        return Err(cursor.error(format!(
            "{} bytes after the checksum at byte {end}",
            cursor.remaining()
        )));
    }
    let computed = crc32(&bytes[..end]);
    if stored != computed {
        return Err(cursor.error(format!(
            "checksum is {stored:08x}, but the content has {computed:08x}: the file is damaged"
        )));
    }
    Ok((header, weights))
}

struct Entry {
    name: String,
    offset: u64,
    len: usize,
    shape: Vec<usize>,
}

impl Entry {
    fn read(cursor: &mut Cursor<'_>, dtype: DType) -> Result<Self> {
        let start = cursor.position();
        let name = cursor.take(48, "tensor name")?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name)
            .map_err(|_| cursor.error(format!("name of the tensor at byte {start} is no UTF-8")))?
            .to_owned();
        let offset = cursor.u64("tensor offset")?;
        let len = cursor.u64("tensor size")?;
        let n_values = cursor.u64("tensor length")?;
        let axes = [
            cursor.size("tensor shape")?,
            cursor.size("tensor shape")?,
            cursor.size("tensor shape")?,
            cursor.size("tensor shape")?,
        ];
        let n_axes = usize::from(cursor.u8("number of axes")?);
        cursor.take(7, "reserved bytes")?;
        let error = |message: String| {
            cursor.error(format!(
                "tensor `{}` in the index at byte {start}: {message}",
                printable(&name)
            ))
        };
        let shape = axes
            .get(..n_axes)
            .ok_or_else(|| error(format!("{n_axes} axes, at most 4 are possible")))?
            .to_vec();
        let expected = byte_len(dtype, &shape).map_err(error)?;
        if u64::try_from(expected) != Ok(len)
            || u64::try_from(expected / dtype.block_bytes()) != Ok(n_values)
        {
            return Err(error(format!(
                "shape {shape:?} of {dtype} takes {expected} bytes, the index says {len} bytes and {n_values} values"
            )));
        }
        Ok(Self {
            name,
            offset,
            len: expected,
            shape,
        })
    }
}

/// u32 byte length, then u32 number of tokens, u32 number of merges, and each token as u16 length and bytes. The merges are
/// left: the order of the tokens says the same.
fn vocabulary(cursor: &mut Cursor<'_>) -> Result<Vec<Vec<u8>>> {
    let len = cursor.size("length of the vocabulary")?;
    let end = cursor.position().saturating_add(len);
    let section = cursor.take_shared(len, "vocabulary")?;
    let mut inner = Cursor::new(cursor.path(), &section);
    let error =
        |message: &str| cursor.error(format!("vocabulary, which ends at byte {end}: {message}"));
    let inner_error = |_| error("shorter than its tokens");
    let n_tokens = inner.u32("number of tokens").map_err(inner_error)?;
    inner.u32("number of merges").map_err(inner_error)?;
    let mut tokens = Vec::new();
    for _ in 0..n_tokens {
        let len = usize::from(inner.u16("length of a token").map_err(inner_error)?);
        tokens.push(inner.take(len, "token").map_err(inner_error)?.to_vec());
    }
    Ok(tokens)
}

/// u32 byte length, u32 number of filters, u32 their length, f32 values.
fn mel_filters(cursor: &mut Cursor<'_>) -> Result<Tensor> {
    let len = cursor.size("length of the filter bank")?;
    let start = cursor.position();
    let shape = vec![
        cursor.size("number of mel filters")?,
        cursor.size("length of mel filters")?,
    ];
    let expected = byte_len(DType::F32, &shape)
        .map_err(|message| cursor.error(format!("filter bank at byte {start}: {message}")))?;
    if expected.checked_add(8) != Some(len) {
        return Err(cursor.error(format!(
            "filter bank at byte {start} of shape {shape:?} takes {expected} + 8 bytes, found {len}"
        )));
    }
    Ok(Tensor {
        dtype: DType::F32,
        shape,
        bytes: cursor.take_shared(expected, "filter bank")?,
        row_scales: None,
    })
}

/// CRC-32 of IEEE 802.3 (reflected, as in ZIP).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ if value & 1 == 1 { 0xedb8_8320 } else { 0 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a file for tests here and of the models: quantisation 0 (f32) or 2 (int8, scales as upstream computes them).
    pub(crate) fn write(
        sizes: &[u32; 10],
        quantisation: u8,
        tensors: &[(&str, &[usize], Vec<f32>)],
        vocabulary: Option<&[&[u8]]>,
    ) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0, 0, quantisation, 0]);
        bytes.extend((tensors.len() as u16).to_le_bytes());
        bytes.push(if vocabulary.is_some() { 3 } else { 2 });
        for size in sizes {
            bytes.extend(size.to_le_bytes());
        }
        let mut data = Vec::new();
        let mut scales = Vec::new();
        for (name, shape, values) in tensors {
            let mut padded = [0u8; 48];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            let start = data.len();
            if quantisation == 2 {
                let largest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
                scales.extend(scale.to_le_bytes());
                data.extend(
                    values
                        .iter()
                        .map(|value| (value / scale).round() as i8 as u8),
                );
            } else {
                data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            bytes.extend(padded);
            bytes.extend((start as u64).to_le_bytes());
            bytes.extend(((data.len() - start) as u64).to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            for axis in 0..4 {
                bytes.extend((shape.get(axis).copied().unwrap_or(0) as u32).to_le_bytes());
            }
            bytes.extend([shape.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes.extend(scales);
        bytes.extend(data);
        if let Some(vocabulary) = vocabulary {
            let mut section = (vocabulary.len() as u32).to_le_bytes().to_vec();
            section.extend(0u32.to_le_bytes());
            for token in vocabulary {
                section.extend((token.len() as u16).to_le_bytes());
                section.extend(*token);
            }
            bytes.extend((section.len() as u32).to_le_bytes());
            bytes.extend(section);
        }
        for number in [12u32, 1, 1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(0.5f32.to_le_bytes());
        let crc = crc32(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<(Header, Weights)> {
        parse(Path::new("m.apr"), &bytes.into())
    }

    fn sample(quantisation: u8) -> Vec<u8> {
        write(
            &[9, 8, 7, 6, 5, 4, 3, 2, 1, 80],
            quantisation,
            &[
                ("a", &[2, 2], vec![1.0, -2.0, 0.5, 4.0]),
                ("b.c", &[1], vec![3.0]),
            ],
            Some(&[b"x", b"yz"]),
        )
    }

    #[test]
    fn reads_floats_and_bytes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let (header, weights) = read(sample(0)).unwrap();
        assert_eq!(
            (header.n_vocab, header.n_text_layer, header.n_mels),
            (9, 1, 80)
        );
        assert_eq!(header.vocabulary.unwrap(), [&b"x"[..], b"yz"]);
        assert_eq!(header.mel_filters.unwrap().to_f32(), [0.5]);
        assert_eq!(
            weights.get("a", &[2, 2]).unwrap().to_f32(),
            [1.0, -2.0, 0.5, 4.0]
        );
        let (_, weights) = read(sample(2)).unwrap();
        for (found, expected) in weights
            .get("a", &[2, 2])
            .unwrap()
            .to_f32()
            .into_iter()
            .zip([1.0, -2.0, 0.5, 4.0])
        {
            assert!(
                (found - expected).abs() <= 4.0 / 254.0,
                "{found} {expected}"
            );
        }
        assert_eq!(weights.get("b.c", &[1]).unwrap().to_f32(), [3.0]);
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error() {
        for quantisation in [0, 2] {
            let whole = sample(quantisation);
            for len in 0..whole.len() {
                assert!(read(whole[..len].to_vec()).is_err(), "{len}");
                let mut flipped = whole.clone();
                flipped[len] ^= 0x41;
                assert!(read(flipped).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn codes_without_a_layout_are_refused() {
        let message = |at: usize, value: u8| {
            let mut bytes = sample(0);
            bytes[at] = value;
            read(bytes).unwrap_err().to_string()
        };
        assert!(message(7, 3).contains("int4 is not supported"));
        assert!(message(7, 9).contains("unknown quantisation 9"));
        assert!(message(8, 1).contains("compressed"));
        assert!(message(4, 2).contains("version 2"));
        assert!(message(52 + 55, 0x80).contains("tensor `a`"));
    }
}
