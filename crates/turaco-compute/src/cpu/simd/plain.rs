//! Vectors in plain Rust, so that tests on any machine see the code paths of every vector width.

use half::{bf16, f16};

use super::Simd;
use super::math::ROUND;

/// `LANES` lanes, and 32 registers if `MANY`.
#[derive(Clone, Copy)]
pub(crate) struct Plain<const LANES: usize, const MANY: bool>;

type Lanes = [f32; 16];

fn each(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl<const LANES: usize, const MANY: bool> Simd for Plain<LANES, MANY> {
    type F32 = Lanes;
    type Mask = u32;
    const LANES: usize = LANES;
    const MANY_REGISTERS: bool = MANY;

    fn splat(self, value: f32) -> Lanes {
        [value; 16]
    }
    unsafe fn load_ptr(self, from: *const f32) -> Lanes {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's promise.
        lanes[..LANES].copy_from_slice(unsafe { std::slice::from_raw_parts(from, LANES) });
        lanes
    }
    unsafe fn store_ptr(self, to: *mut f32, value: Lanes) {
        for (lane, &value) in value[..LANES].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(value) };
        }
    }
    unsafe fn load_f16(self, from: *const f16) -> Lanes {
        let mut lanes = [0.0; 16];
        for (lane, to) in lanes[..LANES].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *to = unsafe { from.add(lane).read() }.to_f32();
        }
        lanes
    }
    unsafe fn load_bf16(self, from: *const bf16) -> Lanes {
        let mut lanes = [0.0; 16];
        for (lane, to) in lanes[..LANES].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *to = unsafe { from.add(lane).read() }.to_f32();
        }
        lanes
    }
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a + b)
    }
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a - b)
    }
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a * b)
    }
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a / b)
    }
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if b < a { a } else { b })
    }
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, f32::min)
    }
    fn less(self, a: Lanes, b: Lanes) -> u32 {
        (0..16)
            .map(|lane| u32::from(a[lane] < b[lane]) << lane)
            .sum()
    }
    fn select(self, mask: u32, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| {
            if mask >> lane & 1 == 1 {
                a[lane]
            } else {
                b[lane]
            }
        })
    }
    fn mask_from_bits(self, bits: u32) -> u32 {
        bits
    }
    fn mask_bits(self, mask: u32) -> u32 {
        mask & ((1 << LANES) - 1)
    }
    fn power_of_two(self, shifted: Lanes) -> Lanes {
        shifted
            .map(|value| f32::from_bits(value.to_bits().wrapping_sub(ROUND.to_bits() - 127) << 23))
    }
    fn split_exponent(self, a: Lanes) -> (Lanes, Lanes) {
        let exponent = a.map(|a| (a.to_bits() >> 23) as f32 - 127.0);
        let mantissa = a.map(|a| f32::from_bits(a.to_bits() & 0x007f_ffff | 0x3f80_0000));
        (mantissa, exponent)
    }
    fn reduce_sum(self, a: Lanes) -> f32 {
        a[..LANES].iter().sum()
    }
    fn reduce_max(self, a: Lanes) -> f32 {
        a[..LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}
