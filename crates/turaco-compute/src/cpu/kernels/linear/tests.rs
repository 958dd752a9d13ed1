//! One table of cases for every instruction set and weight type, against plain loops in double precision.

use super::*;
use crate::DType;
use crate::cpu::packed::MatrixSource;
use half::bf16;

const TYPES: [WeightType; 6] = WeightType::ALL;

const ACTIVATIONS: [Activation; 8] = [
    Activation::None,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Relu,
    Activation::Sigmoid,
    Activation::Elu,
    Activation::Tanh,
];

/// Numbers from a fixed sequence, within ±1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / 8_388_608.0 - 1.0
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

fn packed(
    values: &[f32],
    n: usize,
    k: usize,
    weight_type: WeightType,
    pool: &Pool,
) -> PackedMatrix {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let source = MatrixSource {
        dtype: DType::F32,
        n,
        k,
        bytes: &bytes,
        row_scales: None,
    };
    PackedMatrix::pack(&source, weight_type, pool).unwrap()
}

fn multiplies_bf16(isa: Isa) -> bool {
    isa >= Isa::Avx512Dot || isa == Isa::Neon && crate::cpu::has_bf16_products()
}

/// Whether q8 and q4 weights are widened to bf16.
fn widens_blocks(isa: Isa, weight_type: WeightType, m: usize) -> bool {
    Kernels::new(isa, weight_type, m).left == Left::Bf16Rows && weight_type != WeightType::Bf16
}

/// What the kernels see of a row of activations, as (value, factor).
fn seen(isa: Isa, weight_type: WeightType, m: usize, row: &[f32]) -> (Vec<f64>, f64) {
    let as_bf16 = || row.iter().map(|&v| bf16::from_f32(v).to_f64()).collect();
    match weight_type {
        WeightType::Q8 | WeightType::Q4 if widens_blocks(isa, weight_type, m) => (as_bf16(), 1.0),
        WeightType::Q8 | WeightType::Q4 => {
            let rounded = row.chunks(BLOCK).flat_map(|block| {
                let (inverse, scale) = left::scales_of(block);
                let round =
                    move |v: &f32| f64::from((v * inverse).round_ties_even()) * f64::from(scale);
                block.iter().map(round)
            });
            (rounded.collect(), 1.0)
        }
        WeightType::Int8 => {
            let (inverse, scale) = left::scales_of(row);
            (
                row.iter()
                    .map(|v| f64::from((v * inverse).round_ties_even()))
                    .collect(),
                f64::from(scale),
            )
        }
        WeightType::Bf16 if m > STREAM_ROWS && multiplies_bf16(isa) => (as_bf16(), 1.0),
        _ => (row.iter().map(|&v| f64::from(v)).collect(), 1.0),
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::GeluErf => {
            0.5 * x * (1.0 + f64::from(epilogue::erf((x / 2.0_f64.sqrt()) as f32)))
        }
        Activation::GeluTanh => {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Elu => {
            if x < 0.0 {
                x.exp() - 1.0
            } else {
                x
            }
        }
        Activation::Tanh => x.tanh(),
    }
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    activation: Activation,
    bias: bool,
    scale: f32,
    residual: bool,
    accumulate: bool,
}

/// Runs one case on every instruction set and compares all outputs.
fn check_case(case: &Case, weight_type: WeightType, pools: &[Pool]) {
    let &Case {
        m,
        n,
        k,
        activation,
        scale,
        accumulate,
        ..
    } = case;
    let mut numbers = Numbers((m * 1_000_003 + n * 1009 + k) as u64);
    let weights = packed(&numbers.take(n * k), n, k, weight_type, &pools[0]);
    // One value too many at the front, so that no row starts on a vector boundary.
    let (x, bias, residual) = (
        numbers.take(m * k + 1),
        numbers.take(n),
        numbers.take(m * n),
    );
    let (x, before) = (&x[1..], numbers.take(m * n + 3));
    let epilogue = Epilogue {
        bias: case.bias.then_some(&bias),
        activation,
        scale,
        residual: case.residual.then_some(&residual),
        accumulate,
        snake: None,
    };
    let rows: Vec<Vec<f64>> = (0..n)
        .map(|row| {
            let mut values = vec![0.0; k];
            weights.row_f32(row, &mut values);
            values.into_iter().map(f64::from).collect()
        })
        .collect();
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        let mut scratch = LinearScratch::new();
        scratch.reserve(linear_scratch_bytes(m, &weights)).unwrap();
        let reserved = scratch.buffer.as_ref().map_or(0, Buffer::len);
        let mut out = before.clone();
        linear(
            isa,
            &pools[0],
            x,
            m,
            &weights,
            &epilogue,
            &mut scratch,
            &mut out[3..],
        )
        .unwrap();
        let name = format!(
            "{} {weight_type:?} m {m} n {n} k {k} {activation:?} bias {} scale {scale} residual {} accumulate {accumulate}",
            isa.name(),
            case.bias,
            case.residual
        );
        assert_eq!(
            scratch.buffer.as_ref().map_or(0, Buffer::len),
            reserved,
            "{name}: scratch grew"
        );
        for pool in &pools[1..] {
            let mut again = before.clone();
            linear(
                isa,
                pool,
                x,
                m,
                &weights,
                &epilogue,
                &mut scratch,
                &mut again[3..],
            )
            .unwrap();
            assert!(out == again, "{name}: depends on the number of threads");
        }
        let widened = widens_blocks(isa, weight_type, m);
        if weight_type.is_integer() && !widened {
            let first = first.get_or_insert_with(|| out.clone());
            assert!(*first == out, "{name}: differs from the scalar kernel");
        }
        assert_eq!(out[..3], before[..3], "{name}: wrote before the output");
        for i in 0..m {
            let (row, factor) = seen(isa, weight_type, m, &x[i * k..(i + 1) * k]);
            for (j, column) in rows.iter().enumerate() {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for (value, &weight) in row.iter().zip(column) {
                    let weight = if widened {
                        bf16::from_f64(weight).to_f64()
                    } else {
                        weight
                    };
                    sum += value * weight;
                    magnitude += (value * weight).abs();
                }
                let mut expected = sum * factor + if case.bias { f64::from(bias[j]) } else { 0.0 };
                expected = activate(activation, expected) * f64::from(scale);
                expected += if case.residual {
                    f64::from(residual[i * n + j])
                } else {
                    0.0
                };
                expected += if accumulate {
                    f64::from(before[3 + i * n + j])
                } else {
                    0.0
                };
                // Rounding of the sums (far below one unit in the last place per step), then of the epilogue.
                let tolerance = magnitude * factor * (3.0 + (k as f64).sqrt()) * 6e-8 + 1e-6;
                let found = f64::from(out[3 + i * n + j]);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name}: at {i},{j} {found} instead of {expected}"
                );
            }
        }
    }
}

fn pools() -> [Pool; 2] {
    [Pool::new(1), Pool::new(3)]
}

#[test]
fn all_sizes_around_block_edges() {
    let pools = pools();
    let mut index = 0_usize;
    let mut check = |m, n, k| {
        for weight_type in TYPES {
            index += 1;
            let case = Case {
                m,
                n,
                k,
                activation: ACTIVATIONS[index % 5],
                bias: !index.is_multiple_of(3),
                scale: if index.is_multiple_of(7) { 0.125 } else { 1.0 },
                residual: index % 4 == 1,
                accumulate: index % 6 == 2,
            };
            check_case(&case, weight_type, &pools);
        }
    };
    for m in (1..=17).chain([31, 32, 33]) {
        for n in [1, 31, 32, 33, 64] {
            for k in [1, 2, 3, 31, 32, 33, 63, 64, 65] {
                check(m, n, k);
            }
        }
    }
    for (m, n, k) in [
        (95, 33, 65),
        (96, 32, 3),
        (97, 1, 64),
        (188, 31, 33),
        (25, 64, 384),
        (97, 33, 384),
        (1, 1000, 384),
        (5, 384, 1500),
        (8, 33, 1501),
        (12, 1000, 384),
        (13, 64, 1500),
        (188, 33, 1500),
        (96, 384, 64),
        (2, 33, 5120),
        (30, 33, 5121),
        (385, 33, 513),
        (400, 65, 1025),
    ] {
        check(m, n, k);
    }
}

#[test]
fn all_epilogues() {
    let pools = pools();
    for (m, n, k) in [(3, 37, 20), (14, 37, 20)] {
        for weight_type in TYPES {
            for activation in ACTIVATIONS {
                for bits in 0..16 {
                    let (bias, residual, accumulate) =
                        (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                    let scale = if bits & 8 != 0 { -2.5 } else { 1.0 };
                    check_case(
                        &Case {
                            m,
                            n,
                            k,
                            activation,
                            bias,
                            scale,
                            residual,
                            accumulate,
                        },
                        weight_type,
                        &pools,
                    );
                }
            }
        }
    }
}

/// A value that is not finite spoils the outputs that depend on it and no others.
#[test]
fn nan_and_infinity_pass_through() {
    let pool = Pool::new(2);
    for (m, n, k) in [(1, 33, 5), (8, 40, 33), (13, 33, 35), (30, 64, 64)] {
        for weight_type in TYPES {
            for isa in Isa::available() {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let name = format!("{} {weight_type:?} m {m} n {n} k {k} {bad}", isa.name());
                    let mut numbers = Numbers(7);
                    let mut values = numbers.take(n * k);
                    values.iter_mut().for_each(|v| *v = v.abs() + 0.5);
                    let weights = packed(&values, n, k, weight_type, &pool);
                    let mut x = numbers.take(m * k);
                    let row = m / 2;
                    x[row * k + k - 1] = bad;
                    let mut out = vec![0.0; m * n];
                    let mut scratch = LinearScratch::new();
                    linear(
                        isa,
                        &pool,
                        &x,
                        m,
                        &weights,
                        &Epilogue::default(),
                        &mut scratch,
                        &mut out,
                    )
                    .unwrap();
                    for (i, values) in out.chunks(n).enumerate() {
                        for value in values {
                            if i != row {
                                assert!(value.is_finite(), "{name}: row {i}");
                            } else if bad.is_nan()
                                || weight_type.is_integer() && !widens_blocks(isa, weight_type, m)
                            {
                                assert!(value.is_nan(), "{name}: {value}");
                            } else {
                                assert_eq!(*value, bad, "{name}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_bytes_are_exact() {
    // Largest magnitudes of both operands, and a stored -128, which no symmetric quantiser makes.
    let pool = Pool::new(1);
    let (m, n, k) = (13, 33, 4097);
    for (weight, value) in [
        (127_i8, 1.0_f32),
        (-127, 1.0),
        (-128, -1.0),
        (-128, 1.0),
        (127, -1.0),
    ] {
        let bytes = vec![weight as u8; n * k];
        let source = MatrixSource {
            dtype: DType::I8,
            n,
            k,
            bytes: &bytes,
            row_scales: None,
        };
        let weights = PackedMatrix::pack(&source, WeightType::Int8, &pool).unwrap();
        let x = vec![value; m * k];
        for isa in Isa::available() {
            let mut out = vec![0.0; m * n];
            linear(
                isa,
                &pool,
                &x,
                m,
                &weights,
                &Epilogue::default(),
                &mut LinearScratch::new(),
                &mut out,
            )
            .unwrap();
            let sum = (k as i32 * i32::from(weight) * 127 * value as i32) as f32;
            let expected = sum * (1.0 / 127.0);
            assert!(
                out.iter().all(|&v| v == expected),
                "{} {weight} {value}: {} {expected}",
                isa.name(),
                out[0]
            );
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let pool = Pool::new(1);
    let weights = packed(&[0.0; 6], 2, 3, WeightType::F32, &pool);
    let call = |x: &[f32], m, epilogue: &Epilogue<'_>, out: &mut [f32]| {
        linear(
            Isa::best(),
            &pool,
            x,
            m,
            &weights,
            epilogue,
            &mut LinearScratch::new(),
            out,
        )
    };
    let plain = Epilogue::default();
    let mut out = [0.0; 4];
    assert!(call(&[0.0; 6], 2, &plain, &mut out).is_ok());
    assert!(call(&[], 0, &plain, &mut []).is_ok());
    assert!(call(&[0.0; 5], 2, &plain, &mut out).is_err());
    assert!(call(&[0.0; 6], 2, &plain, &mut out[..3]).is_err());
    assert!(call(&[0.0; 6], usize::MAX, &plain, &mut out).is_err());
    assert!(
        call(
            &[0.0; 6],
            2,
            &Epilogue {
                bias: Some(&[0.0]),
                ..plain
            },
            &mut out
        )
        .is_err()
    );
    assert!(
        call(
            &[0.0; 6],
            2,
            &Epilogue {
                residual: Some(&[0.0; 5]),
                ..plain
            },
            &mut out
        )
        .is_err()
    );
}
