//! The activations of a matrix product in the order in which the tiles read them.
//!
//! A strip of up to a dozen rows is stored `[groups][rows]`, each element the 32 bits that a tile broadcasts at
//! a time: one f32, two bf16 or four bytes of consecutive inputs. Inputs beyond the end are zeros.

/// How a kernel wants its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// One f32 per group.
    Float,
    /// Two bf16 per group, rounded halves to even.
    Bf16,
    /// Four bytes per group, `round(x * 127 / largest)` of each row, halves to even. With `shifted`, 128 is
    /// added, for instructions that want one operand without sign.
    Int8 { shifted: bool },
}

impl Left {
    /// Inputs per group.
    pub(super) const fn group(self) -> usize {
        match self {
            Self::Float => 1,
            Self::Bf16 => 2,
            Self::Int8 { .. } => 4,
        }
    }
}

/// Groups converted at a time, so that the lines being written stay in the first-level cache.
const CHUNK: usize = 64;

/// Below this a row counts as zero when it is quantised: 127 over it would not be finite.
const SMALLEST: f32 = 1e-35;

/// Packs `rows` rows of `k` inputs as a strip. `scales` receives the factor of each row for [`Left::Int8`].
///
/// A row with a value that is not finite gets the scale NaN.
#[inline(always)]
pub(super) fn pack(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    if k == 0 {
        scales.fill(0.0);
        return;
    }
    match left {
        Left::Float => floats(x, rows, k, out),
        Left::Bf16 => pairs(x, rows, k, out),
        Left::Int8 { shifted } => quads(
            x,
            rows,
            k,
            if shifted { 0x8080_8080 } else { 0 },
            out,
            scales,
        ),
    }
}

#[inline(always)]
fn floats(x: &[f32], rows: usize, k: usize, out: &mut [u32]) {
    let groups = out.len() / rows;
    for start in (0..groups).step_by(CHUNK) {
        for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
            for group in start..groups.min(start + CHUNK) {
                out[group * rows + row] = values.get(group).map_or(0, |v| v.to_bits());
            }
        }
    }
}

#[inline(always)]
fn pairs(x: &[f32], rows: usize, k: usize, out: &mut [u32]) {
    let groups = out.len() / rows;
    for start in (0..groups).step_by(CHUNK) {
        for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
            for group in start..groups.min(start + CHUNK) {
                let at = |i: usize| values.get(2 * group + i).map_or(0, |&v| bf16_bits(v));
                out[group * rows + row] = at(0) | at(1) << 16;
            }
        }
    }
}

/// The upper half of the nearest value that has only one, halves to even.
#[inline(always)]
fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    if value.is_nan() {
        bits >> 16 | 0x40
    } else {
        (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    }
}

/// Factor from values to bytes, and back.
#[inline(always)]
pub(super) fn scales_of(values: &[f32]) -> (f32, f32) {
    // As integers, magnitudes order like the numbers, with infinity and NaN on top.
    let largest = values
        .iter()
        .fold(0, |largest: u32, v| largest.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (0.0, f32::NAN)
    } else if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (127.0 / largest, largest / 127.0)
    }
}

#[inline(always)]
fn quads(x: &[f32], rows: usize, k: usize, shift: u32, out: &mut [u32], scales: &mut [f32]) {
    let groups = out.len() / rows;
    let mut inverses = [0.0; super::MAX_TILE_ROWS];
    for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
        (inverses[row], scales[row]) = scales_of(values);
    }
    for start in (0..groups).step_by(CHUNK) {
        for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
            let inverse = inverses[row];
            for group in start..groups.min(start + CHUNK) {
                let at = |i: usize| values.get(4 * group + i).map_or(0, |&v| byte(v * inverse));
                out[group * rows + row] = (at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24) ^ shift;
            }
        }
    }
}

/// Rounds a value within ±127 to a byte, halves to even. (NaN, from a row whose result is NaN anyway, gives any byte.)
#[inline(always)]
fn byte(value: f32) -> u32 {
    // The integer appears in the low bits of the sum; unlike `round_ties_even` this is fast everywhere.
    (value + 12_582_912.0).to_bits() & 0xff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_are_transposed_and_padded() {
        let x = [1.0, 2.0, 3.0, -4.0, -5.0, -6.0];
        let mut out = [9; 8];
        pack(Left::Float, &x, 2, 3, &mut out, &mut []);
        assert_eq!(
            out.map(f32::from_bits),
            [1.0, -4.0, 2.0, -5.0, 3.0, -6.0, 0.0, 0.0]
        );
        let mut out = [9; 4];
        pack(Left::Bf16, &x, 2, 3, &mut out, &mut []);
        assert_eq!(out, [0x4000_3f80, 0xc0a0_c080, 0x0000_4040, 0x0000_c0c0]);
        let (mut out, mut scales) = ([9; 2], [0.0; 2]);
        pack(
            Left::Int8 { shifted: false },
            &x,
            2,
            3,
            &mut out,
            &mut scales,
        );
        // 127/3 * [1, 2, 3] = 42.3, 84.7, 127.
        assert_eq!(out[0], u32::from_le_bytes([42, 85, 127, 0]));
        assert_eq!(scales, [3.0 / 127.0, 6.0 / 127.0]);
        let plain = out;
        pack(
            Left::Int8 { shifted: true },
            &x,
            2,
            3,
            &mut out,
            &mut scales,
        );
        assert_eq!(out, plain.map(|quad| quad ^ 0x8080_8080));
    }

    #[test]
    fn bf16_rounds_halves_to_even() {
        for value in [
            0.0,
            -0.0,
            1.0,
            1.003_906_2,
            1.011_718_8,
            3.4e38,
            f32::INFINITY,
            f32::NAN,
            -1e-40,
            0.1,
        ] {
            let expected = half::bf16::from_f32(value);
            let found = half::bf16::from_bits(bf16_bits(value) as u16);
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{value}"
            );
        }
    }

    #[test]
    fn rows_without_a_scale() {
        assert_eq!(scales_of(&[0.0, -0.0]), (0.0, 0.0));
        assert_eq!(scales_of(&[1e-38]), (0.0, 0.0));
        assert!(scales_of(&[1.0, f32::NAN, 2.0]).1.is_nan());
        assert!(scales_of(&[1.0, f32::NEG_INFINITY]).1.is_nan());
    }
}
