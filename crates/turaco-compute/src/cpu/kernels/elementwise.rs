//! Sums, copies and magnitudes. Plain loops, which compilers turn into vectors by themselves.

use super::Rows;
use crate::cpu::simd::{Kernel, Simd};

/// `out = a * a_scale + b * b_scale` for the rows of `a` from `first` on; row `r` meets row `r % b.len()` of `b`.
pub(crate) struct Add<'a> {
    pub a: Rows<'a>,
    pub a_scale: f32,
    pub b: Rows<'a>,
    pub b_scale: f32,
    pub first: usize,
    pub out: &'a mut [f32],
}

/// `out = a * b` for the rows of `a` from `first` on; row `r` meets row `r % b.len()` of `b`.
pub(crate) struct Multiply<'a> {
    pub a: Rows<'a>,
    pub b: Rows<'a>,
    pub first: usize,
    pub out: &'a mut [f32],
}

/// `out[c] = sqrt(x[c]^2 + x[c + cols]^2)` per row.
pub(crate) struct Magnitude<'a> {
    pub x: Rows<'a>,
    pub out: &'a mut [f32],
}

/// A kernel of plain loops is the same code for every instruction set.
macro_rules! plain_kernel {
    ($name:ident) => {
        impl Kernel for $name<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, _: S) {
                self.plain();
            }
            fn run_scalar(self) {
                self.plain();
            }
        }
    };
}
pub(super) use plain_kernel;

impl Add<'_> {
    #[inline(always)]
    fn plain(self) {
        let Self {
            a_scale, b_scale, ..
        } = self;
        for (index, out) in self.out.chunks_exact_mut(self.a.cols().max(1)).enumerate() {
            let row = self.first + index;
            let (a, b) = (self.a.row(row), self.b.row(row % self.b.len()));
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = a * a_scale + b * b_scale;
            }
        }
    }
}

plain_kernel!(Add);

impl Multiply<'_> {
    #[inline(always)]
    fn plain(self) {
        for (index, out) in self.out.chunks_exact_mut(self.a.cols().max(1)).enumerate() {
            let row = self.first + index;
            let (a, b) = (self.a.row(row), self.b.row(row % self.b.len()));
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = a * b;
            }
        }
    }
}

plain_kernel!(Multiply);

impl Magnitude<'_> {
    #[inline(always)]
    fn plain(self) {
        let cols = self.x.cols() / 2;
        for (x, out) in self.x.iter().zip(self.out.chunks_exact_mut(cols.max(1))) {
            let (real, imaginary) = x.split_at(cols);
            for ((out, &re), &im) in out.iter_mut().zip(real).zip(imaginary) {
                *out = (re * re + im * im).sqrt();
            }
        }
    }
}

plain_kernel!(Magnitude);

/// `out = x`.
pub(crate) fn copy(x: Rows<'_>, out: &mut [f32]) {
    for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
        out.copy_from_slice(x);
    }
}
