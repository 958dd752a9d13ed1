//! Every instruction set, vector width and cache format against plain loops in double precision.

use bytemuck::Zeroable as _;
use half::bf16;

use super::product::Product;
use super::*;
use crate::cpu::Precision;
use crate::cpu::cache::{CpuCache, with_planes};
use crate::cpu::pool::Pool;
use crate::cpu::simd::plain::Plain;
use crate::device::CacheShape;
use crate::dtype::DType;

/// Numbers from a fixed sequence, within ±1.
struct Numbers(u64);

impl Numbers {
    fn take(&mut self, count: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }
}

fn engine(isa: Isa, threads: usize) -> Engine {
    Engine {
        isa,
        pool: Pool::new(threads),
        precision: Precision::Exact,
    }
}

/// One attention: the last `queries` of `keys` positions attend.
#[derive(Clone)]
struct Case {
    shape: AttentionShape,
    queries: usize,
    keys: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(heads: (usize, usize, usize), mask: Mask, queries: usize, keys: usize) -> Self {
        let (n_heads, n_kv_heads, head_dim) = heads;
        let mut numbers = Numbers((queries * 7919 + keys * 31 + head_dim) as u64);
        Self {
            shape: AttentionShape {
                n_heads,
                n_kv_heads,
                head_dim,
                scale: 0.9,
                mask,
            },
            queries,
            keys,
            q: numbers.take(queries * n_heads * head_dim),
            k: numbers.take(keys * n_kv_heads * head_dim),
            v: numbers.take(keys * n_kv_heads * head_dim),
        }
    }

    fn name(&self) -> String {
        format!("{:?}, {} x {}", self.shape, self.queries, self.keys)
    }

    fn k(&self) -> Rows<'_> {
        let cols = self.shape.n_kv_heads * self.shape.head_dim;
        Rows::new(&self.k, self.keys, cols, cols)
    }

    fn v(&self) -> Rows<'_> {
        let cols = self.shape.n_kv_heads * self.shape.head_dim;
        Rows::new(&self.v, self.keys, cols, cols)
    }

    fn q(&self) -> Rows<'_> {
        let cols = self.shape.n_heads * self.shape.head_dim;
        Rows::new(&self.q, self.queries, cols, cols)
    }

    /// The definition, with every input rounded by `round`.
    fn expected(&self, round: impl Fn(f32) -> f32 + Copy) -> Vec<f64> {
        let AttentionShape {
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            mask,
        } = self.shape;
        let mut out = Vec::new();
        for query in 0..self.queries {
            for head in 0..n_heads {
                let column = head / (n_heads / n_kv_heads) * head_dim;
                let q = &self.q().row(query)[head * head_dim..][..head_dim];
                let seen = visible(mask, self.keys - self.queries + query, self.keys);
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|key| {
                        let k = &self.k().row(key)[column..][..head_dim];
                        let products = q.iter().zip(k);
                        let sum: f64 = products
                            .map(|(q, k)| f64::from(*q) * f64::from(round(*k)))
                            .sum();
                        sum * f64::from(scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                for index in column..column + head_dim {
                    let weighted = seen.clone().zip(&scores).map(|(key, score)| {
                        (score - max).exp() * f64::from(round(self.v().row(key)[index]))
                    });
                    out.push(weighted.sum::<f64>() / total);
                }
            }
        }
        out
    }

    /// With keys and values as a cache keeps them.
    fn expected_from(&self, dtype: DType) -> Vec<f64> {
        if dtype != DType::I8 {
            return self.expected(rounding(dtype));
        }
        let mut kept = self.clone();
        let heads = kept.k.chunks_exact_mut(self.shape.head_dim);
        for head in heads.chain(kept.v.chunks_exact_mut(self.shape.head_dim)) {
            let largest = head.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let (inverse, scale) = (127.0 / largest, largest / 127.0);
            for number in head {
                *number = (*number * inverse).round_ties_even() * scale;
            }
        }
        kept.expected(|x| x)
    }

    /// Through a cache; `split` allows ranges of keys.
    fn cached(&self, engine: &Engine, dtype: DType, split: bool) -> Vec<f32> {
        self.cached_rounded(engine, dtype, split, false)
    }

    fn cached_rounded(
        &self,
        engine: &Engine,
        dtype: DType,
        split: bool,
        rounded: bool,
    ) -> Vec<f32> {
        let mut cache = CpuCache::new(CacheShape {
            n_layers: 1,
            capacity: self.keys,
            kv_dim: self.shape.n_kv_heads * self.shape.head_dim,
            head_dim: self.shape.head_dim,
            dtype,
        })
        .unwrap();
        let len = if split {
            split_len(self.queries, self.queries, &self.shape)
        } else {
            0
        };
        let (mut scratch, mut out) = (vec![f32::NAN; len], vec![f32::NAN; self.q.len()]);
        with_planes!(&mut cache, planes => {
            planes.append((engine.isa, &engine.pool), 0, 0, self.k(), self.v());
            let sequence = Sequence {
                q: self.q(),
                panels: planes.layer(0),
                keys: (0, self.keys),
                first_position: self.keys - self.queries,
            };
            let each = (self.queries, rounded);
            attention(engine, sequence, each, &self.shape, &mut scratch, &mut out);
        });
        out
    }

    /// Without a cache, by the vector kernel of any width.
    fn of_width<S: Simd + Sync, P: Product<S> + Sync>(
        &self,
        s: S,
        product: P,
        pack: impl Fn(Rows<'_>, Rows<'_>, PanelsMut<'_, P::Number>),
    ) -> Vec<f32>
    where
        P::Number: CacheNumber,
    {
        let engine = engine(Isa::Scalar, 1);
        let head = head_panel_len(self.shape.head_dim, self.keys);
        let mut memory = vec![P::Number::zeroed(); 2 * self.shape.n_kv_heads * head];
        let mut panels = HeadPanels::new(&mut memory, self.keys, &self.shape);
        pack(self.k(), self.v(), panels.writable());
        let mut sequence = panels.sequence(self.q());
        sequence.first_position = self.keys - self.queries;
        let mut scratch = vec![f32::NAN; split_len(self.queries, self.queries, &self.shape)];
        let mut out = vec![f32::NAN; self.q.len()];
        over_pieces(
            &engine,
            sequence,
            &self.shape,
            &mut scratch,
            &mut out,
            |piece| Tiles::new(s, product, &piece).run(s, piece.stored()),
        );
        out
    }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        // Written so that NaN fails.
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "{name}: value {index} is {found}, not {expected}"
        );
    }
}

/// Rounds as a cache does.
fn rounding(dtype: DType) -> fn(f32) -> f32 {
    match dtype {
        DType::F16 => |x| half::f16::from_f32(x).to_f32(),
        DType::Bf16 => |x| bf16::from_f32(x).to_f32(),
        _ => |x| x,
    }
}

/// Numbers of keys around the edges of blocks, tiles and ranges.
const KEYS: [usize; 14] = [
    1, 15, 16, 17, 63, 64, 65, 130, 449, 511, 512, 513, 700, 1100,
];

fn check(case: &Case, isas: &[Isa]) {
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
        let expected = case.expected_from(dtype);
        for &isa in isas {
            let name = format!("{dtype} {isa:?} {}", case.name());
            let found = case.cached(&engine(isa, 1), dtype, true);
            assert_close(&found, &expected, 1e-5, &name);
            let threads = case.cached(&engine(isa, 3), dtype, true);
            assert_eq!(found, threads, "{name}: threads");
            let whole = case.cached(&engine(isa, 2), dtype, false);
            assert_close(&whole, &expected, 1e-5, &format!("{name}, not split"));
        }
    }
}

#[test]
fn every_head_width_is_right() {
    let isas = Isa::available();
    for head_dim in (1..=130).filter(|width| width % 16 == 0 || width % 7 < 2) {
        let case = Case::new((2, 1, head_dim), Mask::Causal, 3, 70);
        check(&case, &isas);
    }
}

#[test]
fn every_number_of_keys_and_queries_is_right() {
    let isas = Isa::available();
    for keys in KEYS {
        for queries in [1, 2, 3, 4, 5, 7, 13] {
            if queries <= keys {
                let grouped = Case::new((6, 2, 32), Mask::Causal, queries, keys);
                check(&grouped, &isas[isas.len() - 1..]);
            }
        }
        check(&Case::new((3, 3, 64), Mask::Full, 1, keys), &isas);
    }
}

#[test]
fn windows_are_right() {
    let isas = Isa::available();
    for window in [1, 2, 63, 64, 65, 500, 600] {
        for keys in [1, 64, 129, 700, 1000] {
            for queries in [1, 4, 50] {
                if queries <= keys {
                    let case = Case::new((4, 2, 16), Mask::Window(window), queries, keys);
                    check(&case, &isas[isas.len() - 1..]);
                }
            }
        }
    }
}

/// Where many queries are multiplied in bf16, straight from a cache of any format.
#[test]
fn rounded_attention_to_a_cache_is_close() {
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
            for (heads, mask) in [
                ((4, 4, 64), Mask::Window(100)),
                ((4, 2, 128), Mask::Causal),
                ((3, 1, 32), Mask::Full),
                ((2, 1, 48), Mask::Causal),
                // Too wide a head, and one of no whole vectors.
                ((2, 1, 144), Mask::Causal),
                ((2, 1, 24), Mask::Causal),
            ] {
                for (queries, keys) in [(11, 70), (12, 12), (13, 65), (24, 301), (66, 500)] {
                    let case = Case::new(heads, mask, queries, keys);
                    let expected = case.expected_from(dtype);
                    let found = case.cached_rounded(&engine(isa, 2), dtype, false, true);
                    let name = format!("{dtype} {isa:?} {}", case.name());
                    assert_close(&found, &expected, 3e-2, &name);
                    let alone = case.cached_rounded(&engine(isa, 1), dtype, false, true);
                    assert_eq!(found, alone, "{name}: threads");
                }
            }
        }
    }
}

/// What a ring held before, behind the last position, does not come back.
#[test]
fn rounded_attention_sees_no_values_behind_the_last() {
    let (heads, keys) = ((2, 2, 32), 65);
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let case = Case::new(heads, Mask::Causal, 13, keys);
        let mut before = Case::new(heads, Mask::Causal, 13, 128);
        before.v.fill(f32::NAN);
        let engine = engine(Isa::best(), 1);
        let mut cache = CpuCache::new(CacheShape {
            n_layers: 1,
            capacity: 128,
            kv_dim: 64,
            head_dim: 32,
            dtype,
        })
        .unwrap();
        let mut out = vec![0.0; case.q.len()];
        with_planes!(&mut cache, planes => {
            let with = (engine.isa, &engine.pool);
            planes.append(with, 0, 0, before.k(), before.v());
            planes.append(with, 0, 0, case.k(), case.v());
            let sequence = Sequence {
                q: case.q(),
                panels: planes.layer(0),
                keys: (0, keys),
                first_position: keys - 13,
            };
            attention(&engine, sequence, (13, true), &case.shape, &mut [], &mut out);
        });
        let expected = case.expected_from(dtype);
        assert_close(&out, &expected, 3e-2, &format!("{dtype} {}", case.name()));
    }
}

/// What is no number comes through to every row and head that sees it, and to no other.
#[test]
fn scores_that_are_no_numbers_come_through() {
    let pool = Pool::new(1);
    for (mask, keys, queries) in [
        (Mask::Full, 70, 40),
        (Mask::Causal, 70, 40),
        (Mask::Window(30), 600, 40),
        (Mask::Full, 1100, 1),
    ] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut case = Case::new((4, 2, 32), mask, queries, keys);
            // The last key of one head, so that the earlier queries of a causal mask do not see it.
            let width = 2 * 32;
            case.k[(keys - 2) * width + 5] = bad;
            // One head of the first query.
            case.q[2 * 32 + 7] = f32::NAN;
            let expected = case.expected(|x| x);
            let same = |found: &[f32], name: &str| {
                for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert_eq!(
                        found.is_nan(),
                        expected.is_nan(),
                        "{name} {bad} {}: value {index} is {found}, not {expected}",
                        case.name()
                    );
                }
            };
            for isa in Isa::available() {
                for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
                    // Bytes know no infinity: what has one is no number for the whole head.
                    if dtype == DType::I8 && bad.is_infinite() {
                        continue;
                    }
                    for split in [false, true] {
                        let found = case.cached(&engine(isa, 2), dtype, split);
                        same(&found, &format!("{isa:?} {dtype} split {split}"));
                    }
                    let found = case.cached_rounded(&engine(isa, 2), dtype, false, true);
                    same(&found, &format!("{isa:?} {dtype}, rounded"));
                }
                if mask == Mask::Full && queries > 1 {
                    let len = 2 * case.shape.n_kv_heads * head_panel_len(32, keys);
                    let (mut scratch, mut out) = (vec![0.0; len], vec![0.0; case.q.len()]);
                    let inputs = Stacked {
                        q: case.q(),
                        k: case.k(),
                        v: case.v(),
                        n_sequences: 1,
                    };
                    let engine = engine(isa, 2);
                    attention_of_rows(&engine, inputs, &case.shape, true, &mut scratch, &mut out);
                    same(&out, &format!("{isa:?}, without a cache"));
                }
            }
            let plain = |k: Rows<'_>, v: Rows<'_>, to: PanelsMut<'_, f32>| {
                pack(Isa::Scalar, &pool, k, v, 0, to)
            };
            let four = case.of_width(Plain::<4, false>, Widened(PhantomData::<f32>), plain);
            same(&four, "4 lanes");
            let pairs = case.of_width(Plain::<16, true>, PlainPairs, |k, v, to| {
                pack_pairs(Isa::Scalar, &pool, k, v, to);
            });
            same(&pairs, "pairs");
        }
    }
}

/// Pairs of bf16 as the vector instructions multiply them, in plain Rust.
#[derive(Clone, Copy)]
struct PlainPairs;

impl Product<Plain<16, true>> for PlainPairs {
    type Number = bf16;
    type Left = bf16;
    type Vector = [[f32; 2]; 16];
    const GROUP: usize = 2;

    unsafe fn broadcast(self, _: Plain<16, true>, from: *const bf16) -> [[f32; 2]; 16] {
        // SAFETY: the caller's promise.
        [unsafe { [from.read().to_f32(), from.add(1).read().to_f32()] }; 16]
    }
    unsafe fn load(self, _: Plain<16, true>, from: *const bf16) -> [[f32; 2]; 16] {
        std::array::from_fn(|lane| {
            // SAFETY: the caller's promise.
            std::array::from_fn(|index| unsafe { from.add(lane * 2 + index).read() }.to_f32())
        })
    }
    fn add(
        self,
        _: Plain<16, true>,
        left: [[f32; 2]; 16],
        right: [[f32; 2]; 16],
        sum: [f32; 16],
    ) -> [f32; 16] {
        std::array::from_fn(|lane| {
            sum[lane] + left[lane][0] * right[lane][0] + left[lane][1] * right[lane][1]
        })
    }
    unsafe fn store(self, _: Plain<16, true>, to: *mut bf16, numbers: [f32; 16]) {
        for (lane, number) in numbers.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(bf16::from_f32(number)) };
        }
    }
}

#[test]
fn every_vector_width_is_right() {
    let pool = Pool::new(1);
    for (heads, mask) in [
        ((6, 2, 32), Mask::Causal),
        ((3, 3, 80), Mask::Full),
        ((4, 4, 128), Mask::Window(70)),
    ] {
        for keys in [1, 17, 64, 65, 130, 600] {
            for queries in [1, 2, 3, 4, 5, 7, 50] {
                if queries > keys {
                    continue;
                }
                let case = Case::new(heads, mask, queries, keys);
                let name = case.name();
                let exact = case.expected(|x| x);
                let plain = |k: Rows<'_>, v: Rows<'_>, to: PanelsMut<'_, f32>| {
                    pack(Isa::Scalar, &pool, k, v, 0, to)
                };
                let f32s = Widened(PhantomData::<f32>);
                let few = case.of_width(Plain::<4, false>, f32s, plain);
                assert_close(&few, &exact, 1e-5, &format!("4 lanes, {name}"));
                let few = case.of_width(Plain::<4, true>, f32s, plain);
                assert_close(
                    &few,
                    &exact,
                    1e-5,
                    &format!("4 lanes, 32 registers, {name}"),
                );
                let some = case.of_width(Plain::<8, false>, f32s, plain);
                assert_close(&some, &exact, 1e-5, &format!("8 lanes, {name}"));
                let many = case.of_width(Plain::<16, true>, f32s, plain);
                assert_close(&many, &exact, 1e-5, &format!("16 lanes, {name}"));
                let pairs = case.of_width(Plain::<16, true>, PlainPairs, |k, v, to| {
                    pack_pairs(Isa::Scalar, &pool, k, v, to);
                });
                assert_close(&pairs, &exact, 3e-2, &format!("pairs, {name}"));
            }
        }
    }
}
