//! A layer of a decoder: operations that a device may do at once give what they give one by one.

use std::sync::Arc;

use turaco_compute::{
    AttentionShape, Bindings, CacheShape, DType, Device, Epilogue, KvCache, Mask, Matrix,
    SlotBinding, StepBuilder, WeightType,
};

use crate::support::{Numbers, all_devices, assert_close, cards, devices, gpus, matrix_of};

const WIDTH: usize = 48;
const INNER: usize = 64;
const HEADS: AttentionShape = AttentionShape {
    n_heads: 6,
    n_kv_heads: 2,
    head_dim: 8,
    scale: 0.4,
    mask: Mask::Window(200),
};
const KV: usize = 16;

/// Whether a device is shown everything in between, so that it cannot do operations at once.
#[derive(Clone, Copy, PartialEq)]
enum Between {
    Hidden,
    Shown,
}

/// How queries and keys are rotated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rotations {
    QueriesFirst,
    KeysFirst,
    /// Side by side, in one operation.
    Together,
    /// After a norm of every head.
    Normed,
}

fn weights(device: &Device, rows: usize, cols: usize, weight_type: WeightType) -> Arc<Matrix> {
    let values = Numbers::new((rows * cols) as u64).take(rows * cols);
    let values: Vec<f32> = values.iter().map(|value| value * 0.3).collect();
    matrix_of(device, (rows, cols), &values, weight_type)
}

/// One layer for `rows` new rows of every cache.
fn layer(
    device: &Device,
    weight_type: WeightType,
    caches: &mut [KvCache],
    rows: usize,
    (between, rotations): (Between, Rotations),
) -> Vec<f32> {
    let n = caches.len();
    let mut step = StepBuilder::new(device);
    let x = step.input(n * rows, WIDTH);
    let gain = step.input(n, WIDTH);
    let positions = step.input_ids(n * rows, 1);
    let slot = step.cache_slot();
    let mut seen = Vec::new();
    let gamma = device.vector(&Numbers::new(1).take(WIDTH)).unwrap();
    let beta = device.vector(&Numbers::new(2).take(WIDTH)).unwrap();
    let matrix = |rows, cols| weights(device, rows, cols, weight_type);

    let h = step.rms_norm_with_gain(x, &gamma, gain, 1e-5).unwrap();
    seen.push(h);
    let qkv = matrix(WIDTH + 2 * KV, WIDTH);
    let qkv = step.linear(h, &qkv, Epilogue::default()).unwrap();
    let [q, k, v] = [(0, WIDTH), (WIDTH, KV), (WIDTH + KV, KV)]
        .map(|(offset, cols)| step.columns(qkv, offset, cols).unwrap());
    let head_gammas = [4, 5].map(|seed| {
        let gamma = Numbers::new(seed).take(HEADS.head_dim);
        device.vector(&gamma).unwrap()
    });
    let interleaved = rotations == Rotations::KeysFirst;
    let rotate = |step: &mut StepBuilder, x| {
        let rotated = step.rope(x, positions, HEADS.head_dim, 1e4, interleaved);
        rotated.unwrap()
    };
    let (q, k) = match rotations {
        Rotations::QueriesFirst => (rotate(&mut step, q), rotate(&mut step, k)),
        Rotations::KeysFirst => {
            let k = rotate(&mut step, k);
            (rotate(&mut step, q), k)
        }
        Rotations::Together => {
            let both = step.columns(qkv, 0, WIDTH + KV).unwrap();
            let both = rotate(&mut step, both);
            let q = step.columns(both, 0, WIDTH).unwrap();
            (q, step.columns(both, WIDTH, KV).unwrap())
        }
        Rotations::Normed => {
            let q = step.rms_norm(q, &head_gammas[0], 1e-5).unwrap();
            let k = step.rms_norm(k, &head_gammas[1], 1e-3).unwrap();
            seen.extend([q, k]);
            (rotate(&mut step, q), rotate(&mut step, k))
        }
    };
    seen.extend([q, k]);
    step.cache_append(slot, 1, k, v).unwrap();
    let attended = step.cached_attention(q, slot, 1, n, HEADS).unwrap();
    let out = matrix(WIDTH, WIDTH);
    let x = step
        .linear(attended, &out, Epilogue::default().residual(x))
        .unwrap();
    let h = step.layer_norm(x, &gamma, &beta, 1e-5).unwrap();
    seen.push(h);
    let gate_up = matrix(2 * INNER, WIDTH);
    let both = step.linear(h, &gate_up, Epilogue::default()).unwrap();
    seen.push(both);
    let gate = step.columns(both, 0, INNER).unwrap();
    let up = step.columns(both, INNER, INNER).unwrap();
    let h = step.swiglu(gate, up).unwrap();
    let down = matrix(WIDTH, INNER);
    let x = step
        .linear(h, &down, Epilogue::default().residual(x))
        .unwrap();
    step.output(x);
    if between == Between::Shown {
        for value in seen {
            step.output_on_demand(value);
        }
    }
    let mut step = step.finish().unwrap();
    let positions: Vec<u32> = caches
        .iter()
        .flat_map(|cache| (0..rows).map(|row| (cache.len() + row) as u32))
        .collect();
    let mut numbers = Numbers::new(7);
    let (x, gain) = (numbers.take(n * rows * WIDTH), numbers.take(n * WIDTH));
    let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
    step.run(&mut Bindings {
        inputs: &[&x, &gain],
        ids: &[&positions],
        slots: &mut [SlotBinding::Write(&mut caches)],
    })
    .unwrap();
    step.output(0).unwrap().to_vec()
}

/// Caches with some positions each.
fn caches(device: &Device, dtype: DType, lengths: &[usize], ring: bool) -> Vec<KvCache> {
    let shape = CacheShape {
        n_layers: 2,
        capacity: if ring { 240 } else { 700 },
        kv_dim: KV,
        head_dim: HEADS.head_dim,
        dtype,
    };
    let new = || match ring {
        true => device.ring_cache(shape).unwrap(),
        false => device.kv_cache(shape).unwrap(),
    };
    let fill = |&length: &usize| {
        let mut cache = vec![new()];
        // As many at once as a ring takes beside its window.
        let piece = if ring { 40 } else { length.max(1) };
        let pieces = std::iter::repeat_n(piece, length / piece).chain([length % piece]);
        for rows in pieces.filter(|&rows| rows > 0) {
            let how = (Between::Hidden, Rotations::QueriesFirst);
            layer(device, WeightType::F32, &mut cache, rows, how);
        }
        cache.remove(0)
    };
    lengths.iter().map(fill).collect()
}

#[test]
fn a_decoder_layer_agrees() {
    let reference = &devices()[0];
    // A single sequence, beams, more than a dispatch takes; short and long, and one whose keys are cut into parts.
    for lengths in [
        &[0][..],
        &[300],
        &[21, 22, 23, 24, 25],
        &[5, 180, 1, 7, 40, 9, 0, 11, 12],
    ] {
        for (dtype, ring) in [
            (DType::F32, false),
            (DType::F16, true),
            (DType::Bf16, false),
            (DType::I8, true),
        ] {
            let run = |device: &Device, rows, between, rotations| {
                let mut caches = caches(device, dtype, lengths, ring);
                layer(
                    device,
                    WeightType::F32,
                    &mut caches,
                    rows,
                    (between, rotations),
                )
            };
            let ways = [
                (1, Rotations::QueriesFirst),
                (1, Rotations::Normed),
                (2, Rotations::QueriesFirst),
                (1, Rotations::KeysFirst),
                (1, Rotations::Together),
                (2, Rotations::Normed),
            ];
            let most = if dtype == DType::F32 { 6 } else { 3 };
            for &(rows, rotations) in &ways[..most] {
                let expected = run(reference, rows, Between::Hidden, rotations);
                let tolerance = match dtype {
                    DType::F32 => 2e-5,
                    // Where there are no caches of bytes, halves are kept.
                    DType::I8 => 3e-2,
                    _ => 2e-3,
                };
                for device in gpus().into_iter().chain(cards()) {
                    for between in [Between::Hidden, Between::Shown] {
                        let found = run(&device, rows, between, rotations);
                        let case =
                            format!("{lengths:?} {dtype} {rows} rows {rotations:?} on {device:?}");
                        assert_close(&found, &expected, tolerance, &case);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_done_at_once_is_the_same_for_all_weights() {
    for device in gpus().into_iter().chain(cards()) {
        for weight_type in WeightType::ALL {
            for lengths in [&[3][..], &[1, 2], &[1; 6], &[2; 10]] {
                let run = |between| {
                    let mut caches = caches(&device, DType::F32, lengths, false);
                    let how = (between, Rotations::QueriesFirst);
                    layer(&device, weight_type, &mut caches, 1, how)
                };
                let (hidden, shown) = (run(Between::Hidden), run(Between::Shown));
                let case = format!("{} rows {weight_type:?} on {device:?}", lengths.len());
                assert_close(&hidden, &shown, 1e-5, &case);
            }
        }
    }
}

#[test]
fn outputs_on_demand_are_those_of_the_last_run() {
    for device in all_devices() {
        let mut builder = StepBuilder::new(&device);
        let x = builder.input(2, 3);
        let sum = builder.add(x, 1.0, x, 1.0).unwrap();
        let window = builder.columns(sum, 1, 2).unwrap();
        let all = builder.output_on_demand(sum);
        let part = builder.output_on_demand(window);
        let mut step = builder.finish().unwrap();
        for first in [1.0_f32, 10.0] {
            let x: Vec<f32> = (0..6).map(|i| first + i as f32).collect();
            step.run(&mut Bindings {
                inputs: &[&x],
                ids: &[],
                slots: &mut [],
            })
            .unwrap();
            let twice = |index: usize| 2.0 * x[index];
            let expected: Vec<f32> = (0..6).map(twice).collect();
            for _ in 0..2 {
                assert_eq!(step.output(all).unwrap(), expected);
                assert_eq!(step.output(part).unwrap(), [1, 2, 4, 5].map(twice));
            }
        }
        assert!(step.output(2).is_err());
    }
}
