//! The search for the scale and the minimum of a q4 block.
//!
//! Several ranges of the block's values are each refined in turns: the nearest quants for a scale and a minimum, then the
//! scale and the minimum that fit those quants best. The one with the smallest squared error wins, as f16 keeps it.
//!
//! With vectors a lane is a row of the panel, so that 32 searches run side by side without a sum across lanes; every
//! instruction set finds the same numbers as the plain search of one row.

use super::PANEL;
use super::blocks::{BLOCK, ROUND, inverse};
use crate::cpu::simd::Simd;
use half::f16;

/// Ranges from which the search starts: cutting off this much of a step at both ends serves the values between, and how
/// far is best depends on the block.
const SHRINKS: [f32; 6] = [0.0, 0.6, 1.2, 1.8, 2.4, 3.2];

/// Times that a range and its quants are fitted to each other.
const FITS: usize = 3;

/// Sums that are formed side by side, so that no addition waits for all others.
const SUMS: usize = 4;

/// The largest quant.
const TOP: f32 = 15.0;

/// The scale and the minimum for one block. Values that are all equal are their minimum exactly, as f16 goes.
#[inline(always)]
pub(super) fn best_range(values: &[f32; BLOCK]) -> (f16, f16) {
    let (mut low, mut high) = (values[0], values[0]);
    for &v in values {
        low = if v < low { v } else { low };
        high = if v > high { v } else { high };
    }
    let mut best: Option<(f32, f16, f16)> = None;
    for shrink in SHRINKS {
        let mut scale = (high - low) / (TOP + shrink);
        let mut minimum = low + 0.5 * shrink * scale;
        for _ in 0..FITS {
            let Some(better) = fit(values, &nearest(values, scale, minimum)) else {
                break;
            };
            (scale, minimum) = better;
        }
        // As they are kept, so that their own rounding is made up for.
        let (scale, minimum) = (f16::from_f32(scale), f16::from_f32(minimum));
        let error = squared_error(values, scale, minimum);
        if best.as_ref().is_none_or(|(least, ..)| error < *least) {
            best = Some((error, scale, minimum));
        }
    }
    best.map_or((f16::NAN, f16::NAN), |(_, scale, minimum)| (scale, minimum))
}

/// The nearest quants, as numbers.
#[inline(always)]
pub(super) fn nearest(values: &[f32; BLOCK], scale: f32, minimum: f32) -> [f32; BLOCK] {
    let inverse = inverse(scale);
    values.map(|value| (((value - minimum) * inverse).clamp(0.0, TOP) + ROUND) - ROUND)
}

/// Of the nearest quants.
#[inline(always)]
fn squared_error(values: &[f32; BLOCK], scale: f16, minimum: f16) -> f32 {
    let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
    let mut errors = nearest(values, scale, minimum);
    for (error, value) in errors.iter_mut().zip(values) {
        let difference = scale * *error + minimum - value;
        *error = difference * difference;
    }
    sum(&errors)
}

#[inline(always)]
fn sum(terms: &[f32; BLOCK]) -> f32 {
    let mut sums = [0.0; SUMS];
    for terms in terms.as_chunks::<SUMS>().0 {
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += term;
        }
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

/// Scale and minimum with the least squared error for these quants; `None` if they are all equal.
#[inline(always)]
fn fit(values: &[f32; BLOCK], quants: &[f32; BLOCK]) -> Option<(f32, f32)> {
    let (mut squares, mut products) = (*quants, *quants);
    for i in 0..BLOCK {
        squares[i] *= quants[i];
        products[i] *= values[i];
    }
    let (q, v) = (sum(quants), sum(values));
    let (qq, qv) = (sum(&squares), sum(&products));
    let n = BLOCK as f32;
    let determinant = n * qq - q * q;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (n * qv - q * v) / determinant;
    let minimum = (v - scale * q) / n;
    (scale > 0.0 && scale.is_finite() && minimum.is_finite()).then_some((scale, minimum))
}

/// What was found for all rows of a panel.
pub(super) struct Ranges {
    pub scales: [f16; PANEL],
    pub minimums: [f16; PANEL],
    /// The nearest quants, `[input][row]`.
    pub quants: [[f32; PANEL]; BLOCK],
}

/// [`best_range`] of all rows.
#[inline(always)]
pub(super) fn best_ranges<S: Simd>(s: S, rows: &[[f32; BLOCK]; PANEL]) -> Ranges {
    let mut columns = [[0.0; PANEL]; BLOCK];
    for (row, values) in rows.iter().enumerate() {
        for (column, &value) in columns.iter_mut().zip(values) {
            column[row] = value;
        }
    }
    let mut ranges = Ranges {
        scales: [f16::ZERO; PANEL],
        minimums: [f16::ZERO; PANEL],
        quants: [[0.0; PANEL]; BLOCK],
    };
    for first in (0..PANEL).step_by(S::LANES) {
        Lanes {
            s,
            columns: &columns,
            first,
        }
        .search(&mut ranges);
    }
    ranges
}

/// As many rows as a vector has lanes, from row `first` on.
struct Lanes<'a, S> {
    s: S,
    columns: &'a [[f32; PANEL]; BLOCK],
    first: usize,
}

impl<S: Simd> Lanes<'_, S> {
    #[inline(always)]
    fn column(&self, index: usize) -> S::F32 {
        self.s.load(&self.columns[index][self.first..])
    }

    #[inline(always)]
    fn search(&self, out: &mut Ranges) {
        let s = self.s;
        let (mut low, mut high) = (self.column(0), self.column(0));
        let mut sums = [s.splat(0.0); SUMS];
        for index in 0..BLOCK {
            let value = self.column(index);
            low = s.select(s.less(value, low), value, low);
            high = s.select(s.less(high, value), value, high);
            sums[index % SUMS] = s.add(sums[index % SUMS], value);
        }
        let total = self.total(sums);
        let mut best = [s.splat(f32::INFINITY); 3];
        for (index, shrink) in SHRINKS.into_iter().enumerate() {
            let mut scale = s.div(s.sub(high, low), s.splat(TOP + shrink));
            let mut minimum = s.add(low, s.mul(s.splat(0.5 * shrink), scale));
            for _ in 0..FITS {
                (scale, minimum) = self.fit(total, scale, minimum);
            }
            let (scale, minimum) = (self.as_kept(scale), self.as_kept(minimum));
            let error = self.squared_error(scale, minimum);
            // The first one counts whatever it is, as in the plain search.
            let better = match index {
                0 => s.mask_from_bits(u32::MAX),
                _ => s.less(error, best[0]),
            };
            for (best, new) in best.iter_mut().zip([error, scale, minimum]) {
                *best = s.select(better, new, *best);
            }
        }
        let [_, scale, minimum] = best;
        let inverse = self.inverse(scale);
        for (index, quants) in out.quants.iter_mut().enumerate() {
            let quant = self.nearest(self.column(index), minimum, inverse);
            s.store(&mut quants[self.first..], quant);
        }
        self.narrow(scale, &mut out.scales);
        self.narrow(minimum, &mut out.minimums);
    }

    #[inline(always)]
    fn total(&self, sums: [S::F32; SUMS]) -> S::F32 {
        let s = self.s;
        s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3]))
    }

    /// `1 / scale`, or 0 as [`inverse`] has it.
    #[inline(always)]
    fn inverse(&self, scale: S::F32) -> S::F32 {
        let s = self.s;
        let (zero, inverse) = (s.splat(0.0), s.div(s.splat(1.0), scale));
        let finite = s.select(s.less(inverse, s.splat(f32::INFINITY)), inverse, zero);
        s.select(s.less(zero, scale), finite, zero)
    }

    #[inline(always)]
    fn nearest(&self, value: S::F32, minimum: S::F32, inverse: S::F32) -> S::F32 {
        let s = self.s;
        let steps = s.mul(s.sub(value, minimum), inverse);
        let steps = s.min(s.max(steps, s.splat(0.0)), s.splat(TOP));
        s.sub(s.add(steps, s.splat(ROUND)), s.splat(ROUND))
    }

    /// The next scale and minimum; those that there are where none fit better.
    #[inline(always)]
    fn fit(&self, v: S::F32, scale: S::F32, minimum: S::F32) -> (S::F32, S::F32) {
        let s = self.s;
        let inverse = self.inverse(scale);
        let mut sums = [[s.splat(0.0); SUMS]; 3];
        for index in 0..BLOCK {
            let value = self.column(index);
            let quant = self.nearest(value, minimum, inverse);
            let terms = [quant, s.mul(quant, quant), s.mul(quant, value)];
            for (sums, term) in sums.iter_mut().zip(terms) {
                sums[index % SUMS] = s.add(sums[index % SUMS], term);
            }
        }
        let [q, qq, qv] = sums.map(|sums| self.total(sums));
        let (n, zero) = (s.splat(BLOCK as f32), s.splat(0.0));
        let (infinity, below) = (s.splat(f32::INFINITY), s.splat(f32::NEG_INFINITY));
        let determinant = s.sub(s.mul(n, qq), s.mul(q, q));
        let new_scale = s.div(s.sub(s.mul(n, qv), s.mul(q, v)), determinant);
        let new_minimum = s.div(s.sub(v, s.mul(new_scale, q)), n);
        let conditions = s.mask_bits(s.less(zero, determinant))
            & s.mask_bits(s.less(zero, new_scale))
            & s.mask_bits(s.less(new_scale, infinity))
            & s.mask_bits(s.less(below, new_minimum))
            & s.mask_bits(s.less(new_minimum, infinity));
        let fits = s.mask_from_bits(conditions);
        (
            s.select(fits, new_scale, scale),
            s.select(fits, new_minimum, minimum),
        )
    }

    #[inline(always)]
    fn squared_error(&self, scale: S::F32, minimum: S::F32) -> S::F32 {
        let s = self.s;
        let inverse = self.inverse(scale);
        let mut sums = [s.splat(0.0); SUMS];
        for index in 0..BLOCK {
            let value = self.column(index);
            let quant = self.nearest(value, minimum, inverse);
            let difference = s.sub(s.add(s.mul(scale, quant), minimum), value);
            sums[index % SUMS] = s.add(sums[index % SUMS], s.mul(difference, difference));
        }
        self.total(sums)
    }

    /// Rounded to f16.
    #[inline(always)]
    fn as_kept(&self, value: S::F32) -> S::F32 {
        let mut kept = [f16::ZERO; 16];
        // SAFETY: a vector has at most 16 lanes.
        unsafe {
            self.s.store_f16(kept.as_mut_ptr(), value);
            self.s.load_f16(kept.as_ptr())
        }
    }

    #[inline(always)]
    fn narrow(&self, value: S::F32, out: &mut [f16; PANEL]) {
        assert!(self.first + S::LANES <= PANEL);
        // SAFETY: just checked.
        unsafe { self.s.store_f16(out.as_mut_ptr().add(self.first), value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::simd::{Kernel, dispatch};

    fn numbers(seed: u32) -> [f32; BLOCK] {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        std::array::from_fn(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / 2e9 - 1.0
        })
    }

    /// Nearly normal numbers, as weights are.
    fn weights(seed: u32) -> [f32; BLOCK] {
        let parts: [[f32; BLOCK]; 4] = std::array::from_fn(|i| numbers(seed * 4 + i as u32));
        std::array::from_fn(|i| parts.iter().map(|p| p[i]).sum())
    }

    struct Search<'a>(&'a [[f32; BLOCK]; PANEL]);

    impl Kernel for Search<'_> {
        type Output = Ranges;

        fn run_scalar(self) -> Ranges {
            self.run(crate::cpu::simd::plain::Plain::<8, true>)
        }

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Ranges {
            best_ranges(s, self.0)
        }
    }

    #[test]
    fn every_instruction_set_finds_the_same_blocks() {
        for seed in 0..20 {
            let rows: [[f32; BLOCK]; PANEL] = std::array::from_fn(|row| {
                let values = weights(seed * PANEL as u32 + row as u32);
                match row {
                    3 => [0.0; BLOCK],
                    4 => [-2.5; BLOCK],
                    5 => values.map(|v| v * 1e-6),
                    6 => std::array::from_fn(|i| f32::from(i == 7)),
                    7 => std::array::from_fn(|i| f32::from(i % 2 == 0)),
                    8 => values.map(|v| v * 1e3),
                    _ => values,
                }
            });
            for isa in Isa::available() {
                let found = dispatch(isa, Search(&rows));
                for (row, values) in rows.iter().enumerate() {
                    let (scale, minimum) = best_range(values);
                    assert_eq!(
                        (found.scales[row], found.minimums[row]),
                        (scale, minimum),
                        "{} row {row}",
                        isa.name()
                    );
                    let quants = nearest(values, scale.to_f32(), minimum.to_f32());
                    for (index, quant) in quants.into_iter().enumerate() {
                        assert_eq!(found.quants[index][row], quant, "{} row {row}", isa.name());
                    }
                }
            }
        }
    }

    /// The search must be well below the plain range from smallest to largest.
    #[test]
    fn the_search_beats_the_plain_range() {
        let (mut searched, mut plain) = (0.0, 0.0);
        for seed in 0..500 {
            let values = weights(seed);
            let (low, high) = values
                .iter()
                .fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            let (scale, minimum) = best_range(&values);
            searched += squared_error(&values, scale, minimum);
            let range = f16::from_f32((high - low) / TOP);
            plain += squared_error(&values, range, f16::from_f32(low));
        }
        assert!(searched < 0.85 * plain, "{searched} against {plain}");
    }
}
