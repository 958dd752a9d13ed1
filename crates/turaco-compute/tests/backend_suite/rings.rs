//! Caches that go around, rotations far from the start, and norms with a gain.

use turaco_compute::{
    AttentionShape, Bindings, CacheShape, DType, Device, Ids, KvCache, Mask, SlotBinding,
    StepBuilder,
};

use super::support::{Numbers, all_devices, assert_close};

const SHAPE: AttentionShape = AttentionShape {
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 16,
    scale: 0.3,
    mask: Mask::Window(37),
};

const KV_DIM: usize = 32;

fn cache_shape(capacity: usize, dtype: DType) -> CacheShape {
    CacheShape {
        n_layers: 2,
        capacity,
        kv_dim: KV_DIM,
        head_dim: SHAPE.head_dim,
        dtype,
    }
}

/// Appends `rows` random rows to every cache and attends to them.
fn feed(
    device: &Device,
    caches: &mut [&mut KvCache],
    rows: usize,
    numbers: &mut Numbers,
) -> turaco_compute::Result<Vec<f32>> {
    let n = caches.len();
    let mut builder = StepBuilder::new(device);
    let q = builder.input(n * rows, SHAPE.n_heads * SHAPE.head_dim);
    let k = builder.input(n * rows, KV_DIM);
    let v = builder.input(n * rows, KV_DIM);
    let slot = builder.cache_slot();
    builder.cache_append(slot, 1, k, v)?;
    let out = builder.cached_attention(q, slot, 1, n, SHAPE)?;
    builder.output(out);
    let mut step = builder.finish()?;
    let given = [q, k, v].map(|x| numbers.take(x.rows() * x.cols()));
    step.run(&mut Bindings {
        inputs: &[&given[0], &given[1], &given[2]],
        ids: &[],
        slots: &mut [SlotBinding::Write(caches)],
    })?;
    Ok(step.output(0)?.to_vec())
}

#[test]
fn a_ring_is_an_endless_cache() {
    let pieces = [1, 40, 3, 28, 1, 1, 17, 29, 64, 5, 1, 30, 44, 1, 1, 90, 2];
    let total = pieces.iter().sum();
    for device in all_devices() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
            // A window of 37 and 90 rows, and an odd capacity.
            let mut ring = device.ring_cache(cache_shape(127, dtype)).unwrap();
            let mut whole = device.kv_cache(cache_shape(total, dtype)).unwrap();
            let (mut a, mut b) = (Numbers::new(3), Numbers::new(3));
            for rows in pieces {
                let found = feed(&device, &mut [&mut ring], rows, &mut a).unwrap();
                let expected = feed(&device, &mut [&mut whole], rows, &mut b).unwrap();
                assert_close(&found, &expected, 1e-6, &format!("{device:?} {dtype}"));
            }
            assert!(ring.is_ring() && ring.len() == total);
        }
    }
}

#[test]
fn a_copy_of_a_ring_goes_on_like_the_ring() {
    for device in all_devices() {
        for before in [20, 200] {
            let shape = cache_shape(70, DType::F16);
            let mut ring = device.ring_cache(shape).unwrap();
            let mut copy = device.ring_cache(shape).unwrap();
            let mut numbers = Numbers::new(5);
            for rows in std::iter::repeat_n(10, before / 10) {
                feed(&device, &mut [&mut ring], rows, &mut numbers).unwrap();
            }
            device.copy_cache(&ring, &mut copy, 0).unwrap();
            assert_eq!(copy.len(), before);
            let (mut a, mut b) = (Numbers::new(6), Numbers::new(6));
            for rows in [1, 30, 1] {
                let found = feed(&device, &mut [&mut copy], rows, &mut a).unwrap();
                let expected = feed(&device, &mut [&mut ring], rows, &mut b).unwrap();
                assert_eq!(found, expected, "{device:?} {before}");
            }
            let mut other = device.kv_cache(shape).unwrap();
            assert!(device.copy_cache(&ring, &mut other, 0).is_err());
            // Another capacity will do as long as nothing has gone around.
            let mut large = device.ring_cache(cache_shape(300, DType::F16)).unwrap();
            assert_eq!(
                device.copy_cache(&ring, &mut large, 0).is_ok(),
                before == 20
            );
        }
    }
}

#[test]
fn a_short_beginning_can_be_kept_in_a_small_cache() {
    for device in all_devices() {
        let mut beginning = device.ring_cache(cache_shape(20, DType::F16)).unwrap();
        feed(&device, &mut [&mut beginning], 20, &mut Numbers::new(5)).unwrap();
        let mut ring = device.ring_cache(cache_shape(70, DType::F16)).unwrap();
        device.copy_cache(&beginning, &mut ring, 0).unwrap();
        let mut alone = device.ring_cache(cache_shape(70, DType::F16)).unwrap();
        feed(&device, &mut [&mut alone], 20, &mut Numbers::new(5)).unwrap();
        let (mut a, mut b) = (Numbers::new(6), Numbers::new(6));
        for rows in [1, 30, 25] {
            let found = feed(&device, &mut [&mut ring], rows, &mut a).unwrap();
            let expected = feed(&device, &mut [&mut alone], rows, &mut b).unwrap();
            assert_eq!(found, expected, "{device:?} {rows}");
        }
    }
}

#[test]
fn sequences_of_a_batch_go_around_at_different_places() {
    for device in all_devices() {
        let shape = cache_shape(64, DType::F16);
        let mut caches: Vec<_> = (0..3).map(|_| device.ring_cache(shape).unwrap()).collect();
        for (index, cache) in caches.iter_mut().enumerate() {
            for _ in 0..5 * index {
                feed(&device, &mut [cache], 23, &mut Numbers::new(7)).unwrap();
            }
        }
        let mut alone: Vec<_> = caches
            .iter()
            .map(|cache| {
                let mut copy = device.ring_cache(shape).unwrap();
                device.copy_cache(cache, &mut copy, 0).unwrap();
                copy
            })
            .collect();
        let mut bound: Vec<&mut KvCache> = caches.iter_mut().collect();
        let together = feed(&device, &mut bound, 1, &mut Numbers::new(8)).unwrap();
        // The same numbers for each sequence by itself.
        let mut numbers = Numbers::new(8);
        let cols = SHAPE.n_heads * SHAPE.head_dim;
        let [q, k, v] = [cols, KV_DIM, KV_DIM].map(|cols| numbers.take(3 * cols));
        for (index, cache) in alone.iter_mut().enumerate() {
            let mut builder = StepBuilder::new(&device);
            let values = [cols, KV_DIM, KV_DIM].map(|cols| builder.input(1, cols));
            let slot = builder.cache_slot();
            builder.cache_append(slot, 1, values[1], values[2]).unwrap();
            let out = builder
                .cached_attention(values[0], slot, 1, 1, SHAPE)
                .unwrap();
            builder.output(out);
            let mut step = builder.finish().unwrap();
            let row = |x: &[f32], cols: usize| x[index * cols..][..cols].to_vec();
            step.run(&mut Bindings {
                inputs: &[&row(&q, cols), &row(&k, KV_DIM), &row(&v, KV_DIM)],
                ids: &[],
                slots: &mut [SlotBinding::Write(&mut [cache])],
            })
            .unwrap();
            assert_close(
                &together[index * cols..][..cols],
                step.output(0).unwrap(),
                1e-6,
                &format!("{device:?} {index}"),
            );
        }
    }
}

#[test]
fn a_ring_too_small_for_the_window_is_refused_when_it_would_matter() {
    for device in all_devices() {
        let mut ring = device.ring_cache(cache_shape(48, DType::F16)).unwrap();
        let mut numbers = Numbers::new(9);
        feed(&device, &mut [&mut ring], 40, &mut numbers).unwrap();
        // Twelve rows still leave a window of 37 for the first of them.
        feed(&device, &mut [&mut ring], 12, &mut numbers).unwrap();
        let error = feed(&device, &mut [&mut ring], 13, &mut numbers).unwrap_err();
        assert!(
            error.to_string().contains("the last 36 positions"),
            "{error}"
        );
        assert_eq!(ring.len(), 52);
    }
}

#[test]
fn rotations_depend_on_distances_alone() {
    let (rows, cols, head_dim) = (3, 64, 32);
    for device in all_devices() {
        for interleaved in [false, true] {
            let mut builder = StepBuilder::new(&device);
            let x = builder.input(rows, cols);
            let positions: Ids = builder.input_ids(rows, 1);
            let out = builder
                .rope(x, positions, head_dim, 1e6, interleaved)
                .unwrap();
            builder.output(out);
            let mut step = builder.finish().unwrap();
            let given = Numbers::new(1).take(rows * cols);
            // Ten hours of 50 positions a second lie between these.
            let [near, far] = [[2, 5, 700], [1_800_002, 1_800_005, 1_800_700]].map(|positions| {
                step.run(&mut Bindings {
                    inputs: &[&given],
                    ids: &[&positions],
                    slots: &mut [],
                })
                .unwrap();
                let rotated = step.output(0).unwrap();
                let dot = |a: usize, b: usize| -> f32 {
                    (0..cols)
                        .map(|c| rotated[a * cols + c] * rotated[b * cols + c])
                        .sum()
                };
                [dot(0, 1), dot(0, 2), dot(1, 2)]
            });
            assert_close(&near, &far, 1e-5, "scores of rotated rows");
        }
    }
}

#[test]
fn a_gain_multiplies_the_rows_of_its_sequence() {
    for device in all_devices() {
        for (n, each, cols) in [(1, 1, 96), (1, 5, 33), (3, 1, 7), (3, 4, 64)] {
            let mut numbers = Numbers::new(2);
            let gamma_values = numbers.take(cols);
            let gamma = device.vector(&gamma_values).unwrap();
            let mut builder = StepBuilder::new(&device);
            let x = builder.input(n * each, cols);
            let gain = builder.input(n, cols);
            let out = builder.rms_norm_with_gain(x, &gamma, gain, 1e-5).unwrap();
            builder.output(out);
            assert!(builder.rms_norm_with_gain(gain, &gamma, x, 1e-5).is_err() || each == 1);
            let mut step = builder.finish().unwrap();
            let (x, gain) = (numbers.take(n * each * cols), numbers.take(n * cols));
            step.run(&mut Bindings {
                inputs: &[&x, &gain],
                ids: &[],
                slots: &mut [],
            })
            .unwrap();
            let mut expected = Vec::new();
            for (row, x) in x.chunks(cols).enumerate() {
                let mean = x.iter().map(|x| x * x).sum::<f32>() / cols as f32;
                let gain = &gain[row / each * cols..][..cols];
                expected.extend(
                    (0..cols).map(|c| x[c] / (mean + 1e-5).sqrt() * gamma_values[c] * gain[c]),
                );
            }
            assert_close(
                step.output(0).unwrap(),
                &expected,
                1e-5,
                "rms_norm with gain",
            );
        }
    }
}

/// Appends pieces one after the other, all in one step, and attends after each.
fn feed_at_once(
    device: &Device,
    caches: &mut [&mut KvCache],
    pieces: &[usize],
    numbers: &mut Numbers,
) -> Vec<f32> {
    let n = caches.len();
    let mut builder = StepBuilder::new(device);
    let mut given = Vec::new();
    let slot = builder.cache_slot();
    for &rows in pieces {
        let q = builder.input(n * rows, SHAPE.n_heads * SHAPE.head_dim);
        let k = builder.input(n * rows, KV_DIM);
        let v = builder.input(n * rows, KV_DIM);
        builder.cache_append(slot, 1, k, v).unwrap();
        let out = builder.cached_attention(q, slot, 1, n, SHAPE).unwrap();
        builder.output(out);
        given.extend([q, k, v].map(|x| numbers.take(x.rows() * x.cols())));
    }
    let mut step = builder.finish().unwrap();
    step.run(&mut Bindings {
        inputs: &given.iter().map(|x| &x[..]).collect::<Vec<_>>(),
        ids: &[],
        slots: &mut [SlotBinding::Write(caches)],
    })
    .unwrap();
    (0..pieces.len())
        .flat_map(|index| step.output(index).unwrap().to_vec())
        .collect()
}

#[test]
fn appends_of_one_step_are_those_of_several() {
    for device in all_devices() {
        for (ring, capacity) in [(false, 90), (true, 60)] {
            let cache = || match ring {
                true => device
                    .ring_cache(cache_shape(capacity, DType::F16))
                    .unwrap(),
                false => device.kv_cache(cache_shape(capacity, DType::F16)).unwrap(),
            };
            let mut at_once = [cache(), cache(), cache()];
            let mut in_turn = [cache(), cache(), cache()];
            let (mut a, mut b) = (Numbers::new(11), Numbers::new(11));
            for pieces in [
                &[2, 1, 1, 1][..],
                &[17],
                &[1, 5, 1, 1, 3, 1],
                &[1, 1],
                &[16, 3],
            ] {
                let found = feed_at_once(
                    &device,
                    &mut at_once.each_mut().map(|cache| cache),
                    pieces,
                    &mut a,
                );
                let expected: Vec<f32> = (pieces.iter())
                    .flat_map(|&rows| {
                        let mut caches = in_turn.each_mut().map(|cache| cache);
                        feed(&device, &mut caches, rows, &mut b).unwrap()
                    })
                    .collect();
                assert_close(&found, &expected, 1e-6, &format!("{device:?} {ring}"));
                assert_eq!(at_once[1].len(), in_turn[1].len());
            }
        }
    }
}
