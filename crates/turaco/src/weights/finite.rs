//! Looking for infinities and NaN in stored numbers, at the speed of memory.

use super::DType;

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
