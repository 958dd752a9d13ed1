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
use super::q4_search;
use crate::cpu::simd::Simd;
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

    /// [`from_values`](Self::from_values) of the rows in `wanted` (bit `r` is row `r`), written to a panel's block; false
    /// if one has none.
    #[inline(always)]
    fn store_rows<S: Simd>(
        _simd: S,
        rows: &[[f32; BLOCK]; PANEL],
        wanted: u32,
        out: &mut [u8],
    ) -> bool {
        Self::store_each(rows, wanted, out)
    }

    /// The same, row by row.
    #[inline(always)]
    fn store_each(rows: &[[f32; BLOCK]; PANEL], wanted: u32, out: &mut [u8]) -> bool {
        let mut wanted_rows = rows.iter().enumerate();
        wanted_rows.all(|(row, values)| {
            if wanted >> row & 1 == 0 {
                return true;
            }
            let block = Self::from_values(values);
            block.inspect(|block| block.store(row, out)).is_some()
        })
    }
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

    /// See [`q4_search`].
    #[inline(always)]
    fn from_values(values: &[f32; BLOCK]) -> Option<Self> {
        if !largest(values).is_finite() {
            return None;
        }
        let (scale, minimum) = q4_search::best_range(values);
        (scale.is_finite() && minimum.is_finite()).then(|| Self {
            scale,
            minimum,
            quants: q4_search::nearest(values, scale.to_f32(), minimum.to_f32())
                .map(|quant| quant as u8),
        })
    }

    #[inline(always)]
    fn store_rows<S: Simd>(
        simd: S,
        rows: &[[f32; BLOCK]; PANEL],
        wanted: u32,
        out: &mut [u8],
    ) -> bool {
        let ranges = q4_search::best_ranges(simd, rows);
        let mut wanted_rows = rows.iter().enumerate();
        wanted_rows.all(|(row, values)| {
            if wanted >> row & 1 == 0 {
                return true;
            }
            let (scale, minimum) = (ranges.scales[row], ranges.minimums[row]);
            let good = scale.is_finite() && minimum.is_finite() && largest(values).is_finite();
            if good {
                let quants = ranges.quants.map(|quants| quants[row] as u8);
                let block = Self {
                    scale,
                    minimum,
                    quants,
                };
                block.store(row, out);
            }
            good
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
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if scale > 0.0 && inverse.is_finite() {
        inverse
    } else {
        0.0
    }
}

/// Adding this to a number of moderate size rounds it to an integer, halves to even, which appears in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

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
