//! Mean and standard deviation over rows (time).

use super::Rows;
use super::elementwise::plain_kernel;
use crate::cpu::simd::{Kernel, Simd};

/// `out = [mean of each column, sqrt(max(variance, floor)) of each column]`; without `weights` all rows count alike.
pub(crate) struct Statistics<'a> {
    pub x: Rows<'a>,
    pub weights: Option<Rows<'a>>,
    pub floor: f32,
    pub out: &'a mut [f32],
}

impl Statistics<'_> {
    #[inline(always)]
    fn plain(self) {
        let (means, deviations) = self.out.split_at_mut(self.x.cols());
        let alike = 1.0 / self.x.len() as f32;
        means.fill(0.0);
        deviations.fill(0.0);
        for row in 0..self.x.len() {
            let x = self.x.row(row);
            match self.weights {
                Some(weights) => {
                    for ((mean, &x), &weight) in means.iter_mut().zip(x).zip(weights.row(row)) {
                        *mean += weight * x;
                    }
                }
                None => means.iter_mut().zip(x).for_each(|(mean, x)| *mean += x),
            }
        }
        if self.weights.is_none() {
            means.iter_mut().for_each(|mean| *mean *= alike);
        }
        for row in 0..self.x.len() {
            let sums = deviations.iter_mut().zip(&*means).zip(self.x.row(row));
            match self.weights {
                Some(weights) => {
                    for (((sum, &mean), &x), &weight) in sums.zip(weights.row(row)) {
                        *sum += weight * (x - mean) * (x - mean);
                    }
                }
                None => sums.for_each(|((sum, &mean), &x)| *sum += alike * (x - mean) * (x - mean)),
            }
        }
        for deviation in deviations {
            *deviation = deviation.max(self.floor).sqrt();
        }
    }
}

plain_kernel!(Statistics);
