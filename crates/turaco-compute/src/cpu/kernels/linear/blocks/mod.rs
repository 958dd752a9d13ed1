//! Tiles for weights in blocks (q8, q4), one file per instruction set.
//!
//! A tile adds `scale_x * scale_w * sum(q_x * q_w)` of each block to its f32 sums, and for q4 the minimum times
//! [`Correction::Sum`](super::left::Correction). The sum of a block is an exact integer below 2^24, and both multiply-adds are
//! fused, in this order, on every instruction set: results are equal to the bit. (On wasm none is fused, the scalar ones
//! neither.)

pub(super) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon_matrix;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) mod simd128;
