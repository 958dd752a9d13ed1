//! whisper.cpp's ggml `.bin` files.
//!
//! Layout (upstream: `models/convert-pt-to-ggml.py` and `whisper_model_load` in `src/whisper.cpp`): magic, eleven sizes,
//! mel filters, vocabulary as raw bytes, then tensors until the end of the file with their axes in reversed order.

use std::path::Path;

use super::cursor::Cursor;
use super::{Bytes, DType, Tensor, Weights, byte_len, printable};
use crate::Result;

/// `ggml` as a little-endian number.
pub(super) const MAGIC: [u8; 4] = 0x6767_6d6c_u32.to_le_bytes();

/// What stands before the tensors.
#[derive(Debug, Clone)]
pub struct Header {
    /// The sizes.
    pub hyperparameters: Hyperparameters,
    /// Filter bank of the file, `[n_mels, n_frequencies]`.
    pub mel_filters: Tensor,
    /// Raw bytes of the tokens in the order of their ids, special tokens left out.
    pub vocabulary: Vec<Vec<u8>>,
}

/// The sizes, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of whisper.cpp and OpenAI")]
pub struct Hyperparameters {
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
    /// Type of most tensors: quantisation version times 1000 plus ggml's number.
    pub ftype: usize,
}

/// Reads a ggml file that lies in `bytes`; `path` is for messages.
///
/// # Errors
/// On truncation, unknown types and inconsistent sizes, naming tensor and byte offset.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<(Header, Weights)> {
    let mut cursor = Cursor::new(path, bytes);
    if cursor.take(4, "magic number")? != MAGIC {
        return Err(cursor.error("no ggml magic number at byte 0"));
    }
    let hyperparameters = Hyperparameters {
        n_vocab: cursor.count("n_vocab")?,
        n_audio_ctx: cursor.count("n_audio_ctx")?,
        n_audio_state: cursor.count("n_audio_state")?,
        n_audio_head: cursor.count("n_audio_head")?,
        n_audio_layer: cursor.count("n_audio_layer")?,
        n_text_ctx: cursor.count("n_text_ctx")?,
        n_text_state: cursor.count("n_text_state")?,
        n_text_head: cursor.count("n_text_head")?,
        n_text_layer: cursor.count("n_text_layer")?,
        n_mels: cursor.count("n_mels")?,
        ftype: cursor.count("ftype")?,
    };
    let filters_shape = vec![
        cursor.count("number of mel filters")?,
        cursor.count("length of mel filters")?,
    ];
    if filters_shape[0] != hyperparameters.n_mels {
        return Err(cursor.error(format!(
            "{} mel filters although n_mels is {}",
            filters_shape[0], hyperparameters.n_mels
        )));
    }
    let mel_filters = tensor(&mut cursor, "mel filters", DType::F32, filters_shape)?;

    let n_tokens = cursor.count("number of tokens")?;
    if n_tokens > hyperparameters.n_vocab {
        return Err(cursor.error(format!(
            "{n_tokens} tokens although n_vocab is {}",
            hyperparameters.n_vocab
        )));
    }
    let mut vocabulary = Vec::new();
    for _ in 0..n_tokens {
        let len = cursor.size("length of a token")?;
        vocabulary.push(cursor.take(len, "token")?.to_vec());
    }

    let mut weights = Weights::new(path);
    while cursor.remaining() > 0 {
        let start = cursor.position();
        let n_dims = cursor.count("number of axes of a tensor")?;
        let name_len = cursor.count("length of a tensor's name")?;
        let type_id = cursor.count("type of a tensor")?;
        if !(1..=4).contains(&n_dims) {
            return Err(cursor.error(format!(
                "tensor at byte {start} has {n_dims} axes, expected 1 to 4"
            )));
        }
        let mut shape = (0..n_dims)
            .map(|_| cursor.count("axis of a tensor"))
            .collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let name = cursor.take(name_len, "tensor name")?;
        let name = std::str::from_utf8(name)
            .map_err(|_| cursor.error(format!("name of the tensor at byte {start} is no UTF-8")))?
            .to_owned();
        let dtype = dtype(type_id).map_err(|message| {
            cursor.error(format!(
                "tensor `{}` at byte {start}: {message}",
                printable(&name)
            ))
        })?;
        let what = format!("tensor `{}`", printable(&name));
        let tensor = tensor(&mut cursor, &what, dtype, shape)?;
        weights.insert(name, tensor)?;
    }
    let header = Header {
        hyperparameters,
        mel_filters,
        vocabulary,
    };
    Ok((header, weights))
}

fn tensor(cursor: &mut Cursor<'_>, what: &str, dtype: DType, shape: Vec<usize>) -> Result<Tensor> {
    let start = cursor.position();
    let len = byte_len(dtype, &shape)
        .map_err(|message| cursor.error(format!("{what} at byte {start}: {message}")))?;
    Ok(Tensor {
        dtype,
        shape,
        bytes: cursor.take_shared(len, what)?,
        row_scales: None,
    })
}

/// The numbers of `enum ggml_type`.
fn dtype(type_id: usize) -> std::result::Result<DType, String> {
    Ok(match type_id {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        30 => DType::Bf16,
        10..=15 => {
            return Err(format!(
                "type q{}_K is not supported (f32, f16, bf16, q4_0, q4_1, q5_0, q5_1 and q8_0 are)",
                [2, 3, 4, 5, 6, 8][type_id - 10]
            ));
        }
        _ => return Err(format!("unknown type {type_id}")),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Beginning of a file with these sizes, an empty filter bank of one column and a vocabulary.
    pub(crate) fn begin(sizes: &[i32; 11], vocabulary: &[&[u8]]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for size in sizes {
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(sizes[9].to_le_bytes());
        bytes.extend(1i32.to_le_bytes());
        bytes.extend(vec![0; sizes[9] as usize * 4]);
        bytes.extend((vocabulary.len() as i32).to_le_bytes());
        for token in vocabulary {
            bytes.extend((token.len() as u32).to_le_bytes());
            bytes.extend(*token);
        }
        bytes
    }

    /// Appends a tensor; `shape` with the slowest axis first.
    pub(crate) fn push(
        bytes: &mut Vec<u8>,
        name: &str,
        type_id: i32,
        shape: &[usize],
        data: &[u8],
    ) {
        for number in [shape.len() as i32, name.len() as i32, type_id] {
            bytes.extend(number.to_le_bytes());
        }
        for &size in shape.iter().rev() {
            bytes.extend((size as i32).to_le_bytes());
        }
        bytes.extend(name.as_bytes());
        bytes.extend(data);
    }

    fn sample() -> Vec<u8> {
        let mut bytes = begin(&[5, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1], &[b"a", b"", &[0xff, 0]]);
        push(&mut bytes, "x", 1, &[2, 1], &[0x00, 0x3c, 0x00, 0xc0]);
        push(&mut bytes, "y", 8, &[1, 32], &[0; 34]);
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<(Header, Weights)> {
        parse(Path::new("ggml.bin"), &bytes.into())
    }

    #[test]
    fn axes_are_turned_around() {
        let (header, weights) = read(sample()).unwrap();
        assert_eq!(header.hyperparameters.n_vocab, 5);
        assert_eq!(header.mel_filters.shape, [2, 1]);
        assert_eq!(header.vocabulary, [&b"a"[..], b"", &[0xff, 0]]);
        assert_eq!(weights.get("x", &[2, 1]).unwrap().to_f32(), [1.0, -2.0]);
        assert_eq!(weights.get("y", &[1, 32]).unwrap().dtype, DType::Q8_0);
    }

    #[test]
    fn every_truncation_is_an_error_except_between_tensors() {
        let whole = sample();
        let second = whole.len() - 34 - 1 - 8 - 12;
        let first = second - 4 - 1 - 8 - 12;
        for len in 0..whole.len() {
            let result = read(whole[..len].to_vec());
            assert_eq!(result.is_ok(), len == first || len == second, "{len}");
        }
    }

    #[test]
    fn wrong_numbers_are_errors() {
        let message = |shape: &[usize], type_id: i32| {
            let mut bytes = begin(&[5, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1], &[]);
            push(&mut bytes, "t", type_id, shape, &[0; 64]);
            read(bytes).unwrap_err().to_string()
        };
        assert!(message(&[1; 5], 0).contains("5 axes"));
        assert!(message(&[31], 8).contains("no whole number of q8_0 blocks"));
        assert!(message(&[256], 12).contains("type q4_K is not supported"));
        assert!(message(&[1], 99).contains("unknown type 99"));
        assert!(message(&[i32::MAX as usize; 4], 0).contains("too large"));
        assert!(message(&[usize::MAX], 0).contains("is -1"));
        assert!(message(&[1000], 0).contains("truncated"));
        let mut twice = sample();
        push(&mut twice, "x", 0, &[1], &[0; 4]);
        assert!(
            read(twice)
                .unwrap_err()
                .to_string()
                .contains("occurs twice")
        );
        assert!(read(begin(&[-1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1], &[])).is_err());
        assert!(read(begin(&[0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1], &[b"x"])).is_err());
    }
}
