//! From stored numbers to `f32`, one row at a time.
//!
//! The block formats are those of ggml (`ggml-common.h`, `ggml-quants.c`): 32 consecutive values share one f16 scale
//! and, in the `_1` types, one f16 minimum. Nibble `i` of the low halves is value `i`, of the high halves value
//! `i + 16`.

use crate::{DType, Error, Result};
use half::{bf16, f16};

/// Values per ggml block.
const BLOCK: usize = 32;

/// Writes the values of `bytes` (whole blocks of `dtype`, little endian, any alignment) to `out`.
///
/// Integers become their plain value; scales that live beside the tensor are the caller's business. 64-bit types
/// are rounded to `f32`.
///
/// # Errors
/// [`Error::Shape`] if `bytes` is not exactly as long as `out.len()` values need.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.bytes_for(out.len()) != Some(bytes.len()) {
        return Err(Error::Shape {
            what: format!("dequantising {dtype}"),
            expected: match dtype.bytes_for(out.len()) {
                Some(expected) => format!("{expected} bytes for {} values", out.len()),
                None => format!("a multiple of {} values", dtype.block_len()),
            },
            found: format!("{} bytes for {} values", bytes.len(), out.len()),
        });
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        DType::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DType::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
        DType::U8 => each(bytes, out, |b| f32::from(u8::from_le_bytes(b))),
        DType::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
        DType::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        DType::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        DType::Q4_0 => blocks(bytes, out, |block: &[u8; 18], values| {
            let scale = half_at(block, 0);
            nibbles(&block[2..], |i, q| values[i] = scale * (f32::from(q) - 8.0));
        }),
        DType::Q4_1 => blocks(bytes, out, |block: &[u8; 20], values| {
            let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
            nibbles(&block[4..], |i, q| {
                values[i] = scale * f32::from(q) + minimum
            });
        }),
        DType::Q5_0 => blocks(bytes, out, |block: &[u8; 22], values| {
            let (scale, high) = (half_at(block, 0), fifth_bits(block, 2));
            nibbles(&block[6..], |i, q| {
                values[i] = scale * (f32::from(q | high(i)) - 16.0)
            });
        }),
        DType::Q5_1 => blocks(bytes, out, |block: &[u8; 24], values| {
            let (scale, minimum, high) =
                (half_at(block, 0), half_at(block, 2), fifth_bits(block, 4));
            nibbles(&block[8..], |i, q| {
                values[i] = scale * f32::from(q | high(i)) + minimum
            });
        }),
        DType::Q8_0 => blocks(bytes, out, |block: &[u8; 34], values| {
            let scale = half_at(block, 0);
            for (value, &q) in values.iter_mut().zip(&block[2..]) {
                *value = scale * f32::from(q as i8);
            }
        }),
        // Refused above: no length fits.
        DType::Panels(_) => {}
    }
    Ok(())
}

/// The scale and the quants (as stored, nibbles without sign) of one ggml block; `None` for other types and lengths.
pub(crate) fn block_quants(dtype: DType, block: &[u8]) -> Option<(f16, [i8; BLOCK])> {
    if dtype.block_len() != BLOCK || block.len() != dtype.block_bytes() {
        return None;
    }
    let scale = f16::from_le_bytes([block[0], block[1]]);
    let mut quants = [0; BLOCK];
    match dtype {
        DType::Q8_0 => quants
            .iter_mut()
            .zip(&block[2..])
            .for_each(|(quant, &byte)| *quant = byte as i8),
        DType::Q4_0 => nibbles(&block[2..], |i, q| quants[i] = q as i8),
        DType::Q4_1 => nibbles(&block[4..], |i, q| quants[i] = q as i8),
        DType::Q5_0 => {
            let high = fifth_bits(block, 2);
            nibbles(&block[6..], |i, q| quants[i] = (q | high(i)) as i8);
        }
        DType::Q5_1 => {
            let high = fifth_bits(block, 4);
            nibbles(&block[8..], |i, q| quants[i] = (q | high(i)) as i8);
        }
        _ => return None,
    }
    Some((scale, quants))
}

fn each<const SIZE: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; SIZE]) -> f32) {
    for (out, chunk) in out.iter_mut().zip(bytes.as_chunks::<SIZE>().0) {
        *out = value(*chunk);
    }
}

fn blocks<const SIZE: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; SIZE], &mut [f32; BLOCK]),
) {
    for (values, block) in out
        .as_chunks_mut::<BLOCK>()
        .0
        .iter_mut()
        .zip(bytes.as_chunks::<SIZE>().0)
    {
        decode(block, values);
    }
}

fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// The fifth bit of value `i`, in place (0 or 16).
fn fifth_bits(block: &[u8], offset: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([
        block[offset],
        block[offset + 1],
        block[offset + 2],
        block[offset + 3],
    ]);
    move |i| ((bits >> i & 1) << 4) as u8
}

fn nibbles(packed: &[u8], mut value: impl FnMut(usize, u8)) {
    for (i, &byte) in packed.iter().enumerate() {
        value(i, byte & 15);
        value(i + BLOCK / 2, byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of 32 values made by hand: scale 0.5, minimum -1, quants counting up.
    #[test]
    fn blocks_follow_their_formulas() {
        let half = |v: f32| f16::from_f32(v).to_le_bytes();
        let low: Vec<u8> = (0..16_u8).map(|i| i | (15 - i) << 4).collect();
        let quant = |i: usize| if i < 16 { i as f32 } else { (31 - i) as f32 };
        // The fifth bit is set for values 3 and 20.
        let high = (1_u32 << 3 | 1 << 20).to_le_bytes();
        let quant5 = move |i: usize| quant(i) + if i == 3 || i == 20 { 16.0 } else { 0.0 };
        let bytes: Vec<u8> = (0..32).map(|i| (i * 8 - 128_i32) as i8 as u8).collect();
        type Formula = Box<dyn Fn(usize) -> f32>;
        let cases: Vec<(DType, Vec<u8>, Formula)> = vec![
            (
                DType::Q4_0,
                [&half(0.5)[..], &low].concat(),
                Box::new(move |i| 0.5 * (quant(i) - 8.0)),
            ),
            (
                DType::Q4_1,
                [&half(0.5)[..], &half(-1.0), &low].concat(),
                Box::new(move |i| 0.5 * quant(i) - 1.0),
            ),
            (
                DType::Q5_0,
                [&half(0.5)[..], &high, &low].concat(),
                Box::new(move |i| 0.5 * (quant5(i) - 16.0)),
            ),
            (
                DType::Q5_1,
                [&half(0.5)[..], &half(-1.0), &high, &low].concat(),
                Box::new(move |i| 0.5 * quant5(i) - 1.0),
            ),
            (
                DType::Q8_0,
                [&half(0.5)[..], &bytes].concat(),
                Box::new(|i| 0.5 * (i as f32 * 8.0 - 128.0)),
            ),
        ];
        for (dtype, block, formula) in cases {
            let mut out = vec![0.0; 64];
            dequantize(dtype, &[block.clone(), block].concat(), &mut out).unwrap();
            for (i, &value) in out.iter().enumerate() {
                assert_eq!(value, formula(i % 32), "{dtype} value {i}");
            }
        }
    }

    #[test]
    fn plain_types_keep_their_values() {
        let values = [-2.0_f32, 0.0, 1.0, 100.0];
        let bytes =
            |f: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|&v| f(v)).collect::<Vec<u8>>();
        let cases = [
            (DType::F32, bytes(&|v| v.to_le_bytes().to_vec())),
            (DType::F64, bytes(&|v| f64::from(v).to_le_bytes().to_vec())),
            (
                DType::F16,
                bytes(&|v| f16::from_f32(v).to_le_bytes().to_vec()),
            ),
            (
                DType::Bf16,
                bytes(&|v| bf16::from_f32(v).to_le_bytes().to_vec()),
            ),
            (DType::I8, bytes(&|v| (v as i8).to_le_bytes().to_vec())),
            (DType::I16, bytes(&|v| (v as i16).to_le_bytes().to_vec())),
            (DType::I32, bytes(&|v| (v as i32).to_le_bytes().to_vec())),
            (DType::I64, bytes(&|v| (v as i64).to_le_bytes().to_vec())),
        ];
        for (dtype, bytes) in cases {
            let mut out = [0.0; 4];
            dequantize(dtype, &bytes, &mut out).unwrap();
            assert_eq!(out, values, "{dtype}");
        }
        let mut out = [0.0; 2];
        dequantize(DType::U8, &[0, 255], &mut out).unwrap();
        assert_eq!(out, [0.0, 255.0]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let mut out = [0.0; 33];
        assert!(dequantize(DType::Q8_0, &[0; 34], &mut out).is_err());
        assert!(dequantize(DType::Q8_0, &[0; 33], &mut out[..32]).is_err());
        assert!(dequantize(DType::F16, &[0; 67], &mut out).is_err());
        assert!(dequantize(DType::F16, &[0; 66], &mut out).is_ok());
    }

    /// Blocks made by ggml itself, with the values that ggml reads back from them.
    #[test]
    fn ggml_blocks_match_the_reference() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/golden/whisper/ggml_blocks.json"
        );
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: {path} is absent");
            return;
        };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        for dtype in [
            DType::Q4_0,
            DType::Q4_1,
            DType::Q5_0,
            DType::Q5_1,
            DType::Q8_0,
        ] {
            let Some(case) = golden.get(dtype.name()) else {
                continue;
            };
            let hex: Vec<&str> = case["blocks_hex"]
                .as_array()
                .unwrap()
                .iter()
                .map(|b| b.as_str().unwrap())
                .collect();
            for (hex, values) in hex.iter().zip(case["values"].as_array().unwrap()) {
                let block: Vec<u8> = (0..hex.len() / 2)
                    .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                    .collect();
                let mut out = [0.0; BLOCK];
                dequantize(dtype, &block, &mut out).unwrap();
                let expected: Vec<f32> = values
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|v| v.as_f64().unwrap() as f32)
                    .collect();
                assert_eq!(&out[..], &expected[..], "{dtype}");
            }
        }
    }
}
