//! Weights in blocks of 32 inputs with a scale of their own: `q8` and `q4`.
//!
//! | type | value | block of one panel |
//! | --- | --- | --- |
//! | q8 | `scale * (q - 128)` | 32 f16 scales, then `[8][32][4]` bytes: quads of inputs of 32 outputs |
//! | q4 | `scale * q + minimum` | 32 f16 scales, 32 f16 minimums, then `[4][32][4]` bytes: in byte `j` of group `g` input `8 g + j` (low half) and `8 g + 4 + j` (high half) |
//!
//! `q` has no sign, because the multiplying instructions of x86 want one operand without. The symmetric blocks of ggml
//! fit exactly: q8_0, q5_0 and q4_0 as q8, q4_0 and q4_1 as q4. Everything else is rounded from f32.

use super::PANEL;
use crate::{DType, quant};
use half::f16;

/// Inputs that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Bytes of the scales of a panel's block.
pub(crate) const SCALE_BYTES: usize = 2 * PANEL;

/// Bytes of a panel's block.
pub(crate) const Q8_BYTES: usize = SCALE_BYTES + BLOCK * PANEL;

/// Bytes of a panel's block.
pub(crate) const Q4_BYTES: usize = 2 * SCALE_BYTES + BLOCK / 2 * PANEL;

/// What makes up for the missing sign of q8.
pub(crate) const Q8_ZERO: i32 = 128;

/// A block of one row.
pub(super) trait Block: Sized {
    /// Bytes of a panel's block.
    const BYTES: usize;

    /// The same numbers as a stored block of `dtype`, if that type fits without rounding.
    fn from_stored(dtype: DType, block: &[u8]) -> Option<Self>;

    /// The nearest block; `None` if a value is not finite or too large for an f16 scale.
    fn from_values(values: &[f32; BLOCK]) -> Option<Self>;

    /// Writes the block as row `row` of a panel's block.
    fn store(&self, row: usize, out: &mut [u8]);
}

/// A block of one row as q8.
pub(super) struct Q8 {
    pub(super) scale: f16,
    /// Without sign: 128 stands for zero.
    pub(super) quants: [u8; BLOCK],
}

/// A block of one row as q4.
pub(super) struct Q4 {
    pub(super) scale: f16,
    pub(super) minimum: f16,
    /// 0 to 15.
    pub(super) quants: [u8; BLOCK],
}

impl Block for Q8 {
    const BYTES: usize = Q8_BYTES;

    fn from_stored(dtype: DType, block: &[u8]) -> Option<Self> {
        let zero = match dtype {
            DType::Q8_0 => 0,
            DType::Q5_0 => 16,
            DType::Q4_0 => 8,
            _ => return None,
        };
        let (scale, quants) = quant::block_quants(dtype, block)?;
        scale.is_finite().then(|| Self {
            scale,
            quants: quants.map(|q| (i32::from(q) - zero + Q8_ZERO) as u8),
        })
    }

    #[inline(always)]
    fn from_values(values: &[f32; BLOCK]) -> Option<Self> {
        let largest = largest(values);
        let mut scale = f16::from_f32(largest / 127.0);
        if scale.to_f32() * 127.5 < largest {
            // Very small scales have few digits; one that is too small would cut off the largest values.
            scale = f16::from_bits(scale.to_bits() + 1);
        }
        if !scale.is_finite() || !largest.is_finite() {
            return None;
        }
        // Rounding to the scale that is kept, so that its own rounding is made up for.
        let inverse = inverse(scale.to_f32());
        let mut quants = [0; BLOCK];
        for (quant, value) in quants.iter_mut().zip(values) {
            *quant = (round(value * inverse).clamp(-127, 127) + Q8_ZERO) as u8;
        }
        Some(Self { scale, quants })
    }

    fn store(&self, row: usize, out: &mut [u8]) {
        out[2 * row..2 * row + 2].copy_from_slice(&self.scale.to_le_bytes());
        let quads = out[SCALE_BYTES..].as_chunks_mut::<4>().0;
        for (group, quad) in self.quants.as_chunks::<4>().0.iter().enumerate() {
            quads[group * PANEL + row] = *quad;
        }
    }
}

impl Q8 {
    pub(super) fn value(scale: f16, quant: u8) -> f32 {
        scale.to_f32() * (i32::from(quant) - Q8_ZERO) as f32
    }

    /// Reads row `row` of a panel's block.
    pub(super) fn load(row: usize, block: &[u8]) -> [f32; BLOCK] {
        let scale = f16::from_le_bytes([block[2 * row], block[2 * row + 1]]);
        let quads = block[SCALE_BYTES..].as_chunks::<4>().0;
        std::array::from_fn(|i| Self::value(scale, quads[i / 4 * PANEL + row][i % 4]))
    }
}

/// Ranges from which the search for a q4 block starts: cutting off this much of a step at both ends serves the values
/// between, and how far is best depends on the block.
const SHRINKS: [f32; 6] = [0.0, 0.6, 1.2, 1.8, 2.4, 3.2];

/// Times that a range and its quants are fitted to each other.
const FITS: usize = 3;

impl Block for Q4 {
    const BYTES: usize = Q4_BYTES;

    fn from_stored(dtype: DType, block: &[u8]) -> Option<Self> {
        let (scale, quants) = match dtype {
            DType::Q4_0 | DType::Q4_1 => quant::block_quants(dtype, block)?,
            _ => return None,
        };
        let minimum = if dtype == DType::Q4_1 {
            f16::from_le_bytes([block[2], block[3]])
        } else {
            f16::from_f32(-8.0 * scale.to_f32())
        };
        (scale.is_finite() && minimum.is_finite()).then(|| Self {
            scale,
            minimum,
            quants: quants.map(|q| q as u8),
        })
    }

    /// The block with the smallest squared error of what comes out of several ranges, each refined in turns: the nearest
    /// quants for a scale and a minimum, then the scale and the minimum that fit those quants best.
    #[inline(always)]
    fn from_values(values: &[f32; BLOCK]) -> Option<Self> {
        if !largest(values).is_finite() {
            return None;
        }
        let (mut low, mut high) = (values[0], values[0]);
        for &v in values {
            low = if v < low { v } else { low };
            high = if v > high { v } else { high };
        }
        // Values that are all equal are their minimum exactly, as f16 goes.
        let mut best: Option<(f32, f16, f16)> = None;
        for shrink in SHRINKS {
            let mut scale = (high - low) / (15.0 + shrink);
            let mut minimum = low + 0.5 * shrink * scale;
            for _ in 0..FITS {
                let Some(better) = fit(values, &nearest(values, scale, minimum)) else {
                    break;
                };
                (scale, minimum) = better;
            }
            // As they are kept, so that their own rounding is made up for.
            let (scale, minimum) = (f16::from_f32(scale), f16::from_f32(minimum));
            let error = Self::squared_error(values, scale, minimum);
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, scale, minimum));
            }
        }
        let (_, scale, minimum) = best?;
        (scale.is_finite() && minimum.is_finite()).then(|| Self {
            scale,
            minimum,
            quants: nearest(values, scale.to_f32(), minimum.to_f32()).map(|quant| quant as u8),
        })
    }

    fn store(&self, row: usize, out: &mut [u8]) {
        out[2 * row..2 * row + 2].copy_from_slice(&self.scale.to_le_bytes());
        let minimum = SCALE_BYTES + 2 * row;
        out[minimum..minimum + 2].copy_from_slice(&self.minimum.to_le_bytes());
        let quads = out[2 * SCALE_BYTES..].as_chunks_mut::<4>().0;
        for (group, octet) in self.quants.as_chunks::<8>().0.iter().enumerate() {
            quads[group * PANEL + row] = std::array::from_fn(|j| octet[j] | octet[j + 4] << 4);
        }
    }
}

impl Q4 {
    /// Of the nearest quants.
    #[inline(always)]
    fn squared_error(values: &[f32; BLOCK], scale: f16, minimum: f16) -> f32 {
        let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
        let mut errors = nearest(values, scale, minimum);
        for (error, value) in errors.iter_mut().zip(values) {
            let difference = scale * *error + minimum - value;
            *error = difference * difference;
        }
        sum(errors)
    }

    pub(super) fn value(scale: f16, minimum: f16, quant: u8) -> f32 {
        scale.to_f32() * f32::from(quant) + minimum.to_f32()
    }

    /// Reads row `row` of a panel's block.
    pub(super) fn load(row: usize, block: &[u8]) -> [f32; BLOCK] {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let (scale, minimum) = (half(2 * row), half(SCALE_BYTES + 2 * row));
        let quads = block[2 * SCALE_BYTES..].as_chunks::<4>().0;
        std::array::from_fn(|i| {
            let byte = quads[i / 8 * PANEL + row][i % 4];
            let quant = if i % 8 < 4 { byte & 15 } else { byte >> 4 };
            Self::value(scale, minimum, quant)
        })
    }
}

/// The nearest quants, as numbers.
#[inline(always)]
fn nearest(values: &[f32; BLOCK], scale: f32, minimum: f32) -> [f32; BLOCK] {
    let inverse = inverse(scale);
    let mut quants = *values;
    for quant in &mut quants {
        let steps = ((*quant - minimum) * inverse).clamp(0.0, 15.0);
        *quant = (steps + ROUND) - ROUND;
    }
    quants
}

/// The sum of all, in pairs, so that no addition waits for all others.
#[inline(always)]
fn sum(terms: [f32; BLOCK]) -> f32 {
    let (mut half, mut quarter, mut eighth) = ([0.0; 16], [0.0; 8], [0.0; 4]);
    for i in 0..16 {
        half[i] = terms[i] + terms[i + 16];
    }
    for i in 0..8 {
        quarter[i] = half[i] + half[i + 8];
    }
    for i in 0..4 {
        eighth[i] = quarter[i] + quarter[i + 4];
    }
    (eighth[0] + eighth[2]) + (eighth[1] + eighth[3])
}

/// Scale and minimum with the least squared error for these quants; `None` if they are all equal.
#[inline(always)]
fn fit(values: &[f32; BLOCK], quants: &[f32; BLOCK]) -> Option<(f32, f32)> {
    let (mut squares, mut products) = (*quants, *quants);
    for i in 0..BLOCK {
        squares[i] *= quants[i];
        products[i] *= values[i];
    }
    let (q, v) = (sum(*quants), sum(*values));
    let (qq, qv) = (sum(squares), sum(products));
    let n = BLOCK as f32;
    let determinant = n * qq - q * q;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (n * qv - q * v) / determinant;
    let minimum = (v - scale * q) / n;
    (scale > 0.0 && scale.is_finite() && minimum.is_finite()).then_some((scale, minimum))
}

/// The largest magnitude; not finite if any value is not.
#[inline(always)]
fn largest(values: &[f32; BLOCK]) -> f32 {
    let bits = values
        .iter()
        .fold(0, |largest: u32, v| largest.max(v.to_bits() & 0x7fff_ffff));
    f32::from_bits(bits)
}

/// `1 / scale`, or 0 for a scale too small to divide by.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if scale > 0.0 && inverse.is_finite() {
        inverse
    } else {
        0.0
    }
}

/// Adding this to a number of moderate size rounds it to an integer, halves to even, which appears in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Rounds a value of moderate size to an integer, halves to even.
#[inline(always)]
fn round(value: f32) -> i32 {
    ((value.clamp(-1e6, 1e6) + ROUND).to_bits() as i32) - 0x4b40_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u32) -> [f32; BLOCK] {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        std::array::from_fn(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / 2e9 - 1.0
        })
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for (value, expected) in [
            (0.5, 0),
            (1.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (7.4, 7),
            (-127.6, -128),
        ] {
            assert_eq!(round(value), expected, "{value}");
        }
    }

    #[test]
    fn blocks_come_back_through_their_panel() {
        for seed in 0..200 {
            let values = numbers(seed).map(|v| v * 10_f32.powi(seed as i32 % 5 - 3));
            let row = seed as usize % PANEL;
            let reach = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let mut panel = vec![0; Q8_BYTES];
            Q8::from_values(&values).unwrap().store(row, &mut panel);
            for (found, value) in Q8::load(row, &panel).iter().zip(&values) {
                assert!(
                    (found - value).abs() <= reach / 127.0 * 0.502,
                    "{seed}: {found} {value}"
                );
            }
            let mut panel = vec![0; Q4_BYTES];
            Q4::from_values(&values).unwrap().store(row, &mut panel);
            for (found, value) in Q4::load(row, &panel).iter().zip(&values) {
                assert!(
                    (found - value).abs() <= 2.0 * reach / 15.0,
                    "{seed}: {found} {value}"
                );
            }
        }
    }

    /// The search must be well below the plain range from smallest to largest.
    #[test]
    fn q4_beats_the_plain_range() {
        let (mut searched, mut plain) = (0.0, 0.0);
        for seed in 0..500 {
            // Nearly normal numbers, as weights are.
            let parts: [[f32; BLOCK]; 4] = std::array::from_fn(|i| numbers(seed * 4 + i as u32));
            let values: [f32; BLOCK] = std::array::from_fn(|i| parts.iter().map(|p| p[i]).sum());
            let (low, high) = values
                .iter()
                .fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            let error = |scale: f16, minimum: f16| Q4::squared_error(&values, scale, minimum);
            let block = Q4::from_values(&values).unwrap();
            searched += error(block.scale, block.minimum);
            plain += error(f16::from_f32((high - low) / 15.0), f16::from_f32(low));
        }
        assert!(searched < 0.85 * plain, "{searched} against {plain}");
    }

    #[test]
    fn equal_and_zero_values_are_exact() {
        for value in [0.0, 0.25, -3.0] {
            let values = [value; BLOCK];
            let mut panel = vec![0; Q4_BYTES];
            Q4::from_values(&values).unwrap().store(0, &mut panel);
            assert_eq!(Q4::load(0, &panel), values);
        }
        let mut panel = vec![0; Q8_BYTES];
        Q8::from_values(&[0.0; BLOCK]).unwrap().store(3, &mut panel);
        assert_eq!(Q8::load(3, &panel), [0.0; BLOCK]);
    }

    #[test]
    fn what_is_not_finite_has_no_block() {
        for bad in [f32::NAN, f32::INFINITY, 1e10] {
            let mut values = numbers(1);
            values[9] = bad;
            assert!(Q8::from_values(&values).is_none(), "{bad}");
            assert!(Q4::from_values(&values).is_none(), "{bad}");
        }
    }
}
