//! Layer and root-mean-square normalisation.

use super::Rows;
use crate::cpu::simd::{Kernel, Simd};

/// `out = (x - mean) / sqrt(var + eps) * gamma + beta`, per row; variance around the mean, in two passes.
pub(crate) struct LayerNorm<'a> {
    pub x: Rows<'a>,
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

/// `out = x / sqrt(mean(x^2) + eps) * gamma * gain`, per group of `gamma.len()` columns.
pub(crate) struct RmsNorm<'a> {
    pub x: Rows<'a>,
    pub gamma: &'a [f32],
    pub gain: Option<Gain<'a>>,
    pub eps: f32,
    pub out: &'a mut [f32],
}

/// A factor for every column, different for each of several stacked sequences.
#[derive(Clone, Copy)]
pub(crate) struct Gain<'a> {
    /// One row for each sequence.
    pub rows: Rows<'a>,
    /// Rows of a sequence.
    pub each: usize,
    /// Where the rows that are normed begin among those of all sequences.
    pub first: usize,
}

impl RmsNorm<'_> {
    /// What multiplies row `row` after the norm.
    fn gain(&self, row: usize) -> Option<&[f32]> {
        self.gain
            .as_ref()
            .map(|gain| gain.rows.row((gain.first + row) / gain.each))
    }
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    fn run_scalar(self) {
        for (x, out) in self
            .x
            .iter()
            .zip(self.out.chunks_exact_mut(self.x.cols().max(1)))
        {
            let n = x.len() as f32;
            let mean = x.iter().sum::<f32>() / n;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
            let factor = 1.0 / (variance + self.eps).sqrt();
            for (((out, &x), &gamma), &beta) in out.iter_mut().zip(x).zip(self.gamma).zip(self.beta)
            {
                *out = (x - mean) * factor * gamma + beta;
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.x.cols();
        assert!(self.gamma.len() >= cols && self.beta.len() >= cols);
        for (x, out) in self.x.iter().zip(self.out.chunks_exact_mut(cols.max(1))) {
            let mean = sum(s, x) / cols as f32;
            let variance = squares(s, x, mean) / cols as f32;
            let factor = s.splat(1.0 / (variance + self.eps).sqrt());
            let center = s.splat(mean);
            let mut at = 0;
            while at + S::LANES <= cols {
                let value = s.mul(s.sub(s.load(&x[at..]), center), factor);
                let value = s.fma(value, s.load(&self.gamma[at..]), s.load(&self.beta[at..]));
                s.store(&mut out[at..], value);
                at += S::LANES;
            }
            if at < cols {
                let value = s.mul(s.sub(s.load_part(&x[at..], 0.0), center), factor);
                let gamma = s.load_part(&self.gamma[at..cols], 0.0);
                let beta = s.load_part(&self.beta[at..cols], 0.0);
                s.store_part(&mut out[at..], s.fma(value, gamma, beta));
            }
        }
    }
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    fn run_scalar(mut self) {
        let group = self.gamma.len();
        let cols = self.x.cols().max(1);
        let out = std::mem::take(&mut self.out);
        for (row, (x, out)) in self.x.iter().zip(out.chunks_exact_mut(cols)).enumerate() {
            for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
                let mean = x.iter().map(|x| x * x).sum::<f32>() / group as f32;
                let factor = 1.0 / (mean + self.eps).sqrt();
                for ((out, &x), &gamma) in out.iter_mut().zip(x).zip(self.gamma) {
                    *out = x * factor * gamma;
                }
            }
            if let Some(gain) = self.gain(row) {
                out.iter_mut()
                    .zip(gain)
                    .for_each(|(out, gain)| *out *= gain);
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let group = self.gamma.len();
        let cols = self.x.cols().max(1);
        let out = std::mem::take(&mut self.out);
        for (row, (x, out)) in self.x.iter().zip(out.chunks_exact_mut(cols)).enumerate() {
            for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
                let mean = squares(s, x, 0.0) / group as f32;
                let factor = s.splat(1.0 / (mean + self.eps).sqrt());
                let mut at = 0;
                while at + S::LANES <= group {
                    let value = s.mul(s.load(&x[at..]), factor);
                    s.store(&mut out[at..], s.mul(value, s.load(&self.gamma[at..])));
                    at += S::LANES;
                }
                if at < group {
                    let value = s.mul(s.load_part(&x[at..], 0.0), factor);
                    let gamma = s.load_part(&self.gamma[at..], 0.0);
                    s.store_part(&mut out[at..], s.mul(value, gamma));
                }
            }
            if let Some(gain) = self.gain(row) {
                out.iter_mut()
                    .zip(gain)
                    .for_each(|(out, gain)| *out *= gain);
            }
        }
    }
}

/// The sum of all values.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    let mut at = 0;
    while at + 4 * S::LANES <= x.len() {
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = s.add(*sum, s.load(&x[at + index * S::LANES..]));
        }
        at += 4 * S::LANES;
    }
    while at + S::LANES <= x.len() {
        sums[0] = s.add(sums[0], s.load(&x[at..]));
        at += S::LANES;
    }
    sums[1] = s.add(sums[1], s.load_part(&x[at..], 0.0));
    s.reduce_sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// The sum of the squares of the distances from `center`.
#[inline(always)]
fn squares<S: Simd>(s: S, x: &[f32], center: f32) -> f32 {
    let middle = s.splat(center);
    let mut sums = [s.splat(0.0); 4];
    let mut at = 0;
    while at + 4 * S::LANES <= x.len() {
        for (index, sum) in sums.iter_mut().enumerate() {
            let distance = s.sub(s.load(&x[at + index * S::LANES..]), middle);
            *sum = s.fma(distance, distance, *sum);
        }
        at += 4 * S::LANES;
    }
    while at + S::LANES <= x.len() {
        let distance = s.sub(s.load(&x[at..]), middle);
        sums[0] = s.fma(distance, distance, sums[0]);
        at += S::LANES;
    }
    let distance = s.sub(s.load_part(&x[at..], center), middle);
    sums[1] = s.fma(distance, distance, sums[1]);
    s.reduce_sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
