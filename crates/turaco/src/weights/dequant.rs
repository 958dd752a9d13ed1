//! Stored numbers to `f32`, plainly: the reference for everything faster.
//!
//! The block layouts are those of ggml (`ggml-common.h` and the row functions of `ggml-quants.c`).

use half::{bf16, f16};

use super::DType;

/// All values of `bytes`, which hold whole blocks (a rest is ignored).
pub(super) fn to_f32(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => map_chunks(bytes, f32::from_le_bytes),
        DType::F64 => map_chunks(bytes, |raw| f64::from_le_bytes(raw) as f32),
        DType::F16 => map_chunks(bytes, |raw| f16::from_le_bytes(raw).to_f32()),
        DType::Bf16 => map_chunks(bytes, |raw| bf16::from_le_bytes(raw).to_f32()),
        DType::I8 => map_chunks(bytes, |raw| f32::from(i8::from_le_bytes(raw))),
        DType::U8 => map_chunks(bytes, |raw: [u8; 1]| f32::from(raw[0])),
        DType::I16 => map_chunks(bytes, |raw| f32::from(i16::from_le_bytes(raw))),
        DType::I32 => map_chunks(bytes, |raw| i32::from_le_bytes(raw) as f32),
        DType::I64 => map_chunks(bytes, |raw| i64::from_le_bytes(raw) as f32),
        _ => {
            let block_bytes = dtype.block_bytes();
            let mut values = vec![0.0; bytes.len() / block_bytes * dtype.block_len()];
            let blocks = bytes.chunks_exact(block_bytes);
            for (block, out) in blocks.zip(values.chunks_exact_mut(dtype.block_len())) {
                block_to_f32(dtype, block, out);
            }
            values
        }
    }
}

/// Whether no value (for blocks: no scale and no minimum) is infinite or not a number.
pub(super) fn is_finite(dtype: DType, bytes: &[u8]) -> bool {
    // An exponent of all ones marks both. The comparison is folded over fixed runs without an early exit, so that it is
    // vectorised.
    fn none_reach<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool) -> bool {
        bytes.chunks(4096 * N).all(|run| {
            !run.as_chunks::<N>()
                .0
                .iter()
                .fold(false, |bad, &raw| bad | is_bad(raw))
        })
    }
    let half_is_bad = |raw: [u8; 2]| u16::from_le_bytes(raw) & 0x7c00 == 0x7c00;
    match dtype {
        DType::F32 => none_reach(bytes, |raw| {
            u32::from_le_bytes(raw) & 0x7f80_0000 == 0x7f80_0000
        }),
        DType::F64 => none_reach(bytes, |raw| !f64::from_le_bytes(raw).is_finite()),
        DType::F16 => none_reach(bytes, half_is_bad),
        DType::Bf16 => none_reach(bytes, |raw| u16::from_le_bytes(raw) & 0x7f80 == 0x7f80),
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => bytes
            .chunks_exact(dtype.block_bytes())
            .all(|block| !half_is_bad([block[0], block[1]])),
        DType::Q4_1 | DType::Q5_1 => bytes
            .chunks_exact(dtype.block_bytes())
            .all(|block| !half_is_bad([block[0], block[1]]) && !half_is_bad([block[2], block[3]])),
        _ => true,
    }
}

fn map_chunks<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&raw| value(raw))
        .collect()
}

/// One block of 32 values. `block` has `dtype.block_bytes()` bytes.
fn block_to_f32(dtype: DType, block: &[u8], out: &mut [f32]) {
    let half_at = |offset: usize| f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32();
    let scale = half_at(0);
    // Value i < 16 is the low nibble of byte i, value i + 16 the high one.
    let nibble = |offset: usize, i: usize| {
        let byte = block[offset + i % 16];
        i32::from(if i < 16 { byte & 15 } else { byte >> 4 })
    };
    let fifth_bit = |offset: usize, i: usize| i32::from(block[offset + i / 8] >> (i % 8) & 1) << 4;
    for (i, out) in out.iter_mut().enumerate() {
        *out = match dtype {
            DType::Q4_0 => scale * (nibble(2, i) - 8) as f32,
            DType::Q4_1 => scale * nibble(4, i) as f32 + half_at(2),
            DType::Q5_0 => scale * ((nibble(6, i) | fifth_bit(2, i)) - 16) as f32,
            DType::Q5_1 => scale * (nibble(8, i) | fifth_bit(4, i)) as f32 + half_at(2),
            _ => scale * f32::from(block[2 + i] as i8),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks made by whisper.cpp's quantiser.
    #[test]
    fn ggml_blocks_are_those_of_the_reference() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/golden/whisper/ggml_blocks.json"
        );
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: no golden folder");
            return;
        };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, dtype) in [
            ("q4_0", DType::Q4_0),
            ("q5_0", DType::Q5_0),
            ("q5_1", DType::Q5_1),
            ("q8_0", DType::Q8_0),
        ] {
            let case = &golden[name];
            for (hex, expected) in case["blocks_hex"]
                .as_array()
                .unwrap()
                .iter()
                .zip(case["values"].as_array().unwrap())
            {
                let hex = hex.as_str().unwrap();
                let bytes: Vec<u8> = (0..hex.len() / 2)
                    .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                    .collect();
                let expected: Vec<f32> = expected
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|value| value.as_f64().unwrap() as f32)
                    .collect();
                assert_eq!(to_f32(dtype, &bytes), expected, "{name}");
            }
        }
    }

    /// d = 0.5, m = -1, nibbles 0..15 low and 15..0 high.
    #[test]
    fn q4_1_has_scale_and_minimum() {
        let mut block = vec![0x00, 0x38, 0x00, 0xbc];
        block.extend((0..16u8).map(|i| i | (15 - i) << 4));
        let values = to_f32(DType::Q4_1, &block);
        for i in 0..16 {
            assert_eq!(values[i], 0.5 * i as f32 - 1.0);
            assert_eq!(values[i + 16], 0.5 * (15 - i) as f32 - 1.0);
        }
    }
}
