//! What the operations mean: every device against independent loops.

use turaco_compute::{
    Activation, AttentionShape, Bindings, CacheShape, ChooseTokens, ConvShape, DType, Device,
    Epilogue, Mask, SlotBinding, StepBuilder,
};

use crate::support::{Numbers, all_devices, assert_close, matrix};

#[test]
fn linear_adds_bias_activates_scales_and_adds_a_dying_residual() {
    all_devices()
        .iter()
        .for_each(linear_adds_bias_activates_scales_and_adds_a_dying_residual_on);
}

fn linear_adds_bias_activates_scales_and_adds_a_dying_residual_on(device: &Device) {
    let (rows, k, n) = (5, 7, 9);
    let mut numbers = Numbers::new(1);
    let (x, w, b) = (
        numbers.take(rows * (k + 3)),
        numbers.take(n * k),
        numbers.take(n),
    );
    let residual = numbers.take(rows * n);
    let mut step = StepBuilder::new(device);
    let wide = step.input(rows, k + 3);
    let given = step.input(rows, n);
    // A computed residual that nothing reads afterwards: the result may take over its memory.
    let residual_value = step.add(given, 1.0, given, 0.0).unwrap();
    let window = step.columns(wide, 2, k).unwrap();
    let epilogue = Epilogue {
        bias: Some(device.vector(&b).unwrap()),
        activation: Activation::Relu,
        scale: Some(0.5),
        residual: Some(residual_value),
    };
    let out = step
        .linear(window, &matrix(device, n, k, &w), epilogue)
        .unwrap();
    step.output(out);
    let part = step.columns(out, 1, 3).unwrap();
    step.output(part);
    let mut step = step.finish().unwrap();
    for _ in 0..2 {
        step.run(&mut Bindings {
            inputs: &[&x, &residual],
            ids: &[],
            slots: &mut [],
        })
        .unwrap();
        let mut expected = Vec::new();
        for r in 0..rows {
            for c in 0..n {
                let sum: f32 = (0..k).map(|i| x[r * (k + 3) + 2 + i] * w[c * k + i]).sum();
                expected.push((sum + b[c]).max(0.0) * 0.5 + residual[r * n + c]);
            }
        }
        assert_close(step.output(0).unwrap(), &expected, 1e-6, "linear");
        let window: Vec<f32> = expected
            .chunks(n)
            .flat_map(|row| row[1..4].to_vec())
            .collect();
        assert_close(step.output(1).unwrap(), &window, 1e-6, "columns as output");
    }
}

#[test]
fn conv1d_pads_each_sequence_by_itself() {
    all_devices()
        .iter()
        .for_each(conv1d_pads_each_sequence_by_itself_on);
}

fn conv1d_pads_each_sequence_by_itself_on(device: &Device) {
    let (n, t, c_in, c_out, kernel, stride, padding) = (2, 9, 3, 4, 3, 2, (1, 1));
    let mut numbers = Numbers::new(2);
    let (x, w, b) = (
        numbers.take(n * t * c_in),
        numbers.take(c_out * kernel * c_in),
        numbers.take(c_out),
    );
    let mut step = StepBuilder::new(device);
    let input = step.input(n * t, c_in);
    let shape = ConvShape {
        n_sequences: n,
        kernel,
        stride,
        padding,
        ..ConvShape::default()
    };
    let weight = matrix(device, c_out, kernel * c_in, &w);
    let bias = device.vector(&b).unwrap();
    let out = step
        .conv1d(input, &weight, Some(&bias), Activation::None, shape)
        .unwrap();
    step.output(out);
    let mut step = step.finish().unwrap();
    step.run(&mut Bindings {
        inputs: &[&x],
        ids: &[],
        slots: &mut [],
    })
    .unwrap();
    let t_out = (t + 2 - kernel) / stride + 1;
    let mut expected = Vec::new();
    for s in 0..n {
        for o in 0..t_out {
            for c in 0..c_out {
                let mut sum = b[c];
                for j in 0..kernel {
                    let time = (o * stride + j) as isize - 1;
                    if (0..t as isize).contains(&time) {
                        for i in 0..c_in {
                            sum += x[(s * t + time as usize) * c_in + i]
                                * w[(c * kernel + j) * c_in + i];
                        }
                    }
                }
                expected.push(sum);
            }
        }
    }
    assert_close(step.output(0).unwrap(), &expected, 1e-6, "conv1d");
}

/// Attention by its formula, one sequence.
fn plain_attention(q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) -> Vec<f32> {
    let AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim,
        scale,
        mask,
    } = *shape;
    let (q_cols, k_cols) = (n_heads * head_dim, n_kv_heads * head_dim);
    let n_keys = k.len() / k_cols;
    let mut out = vec![0.0; q.len()];
    for i in 0..q.len() / q_cols {
        for head in 0..n_heads {
            let q = &q[i * q_cols + head * head_dim..][..head_dim];
            let column = head / (n_heads / n_kv_heads) * head_dim;
            let visible = |j: usize| match mask {
                Mask::Full => true,
                Mask::Causal => j <= i,
                Mask::Window(w) => j <= i && j + w > i,
            };
            let scores: Vec<f64> = (0..n_keys)
                .map(|j| {
                    (0..head_dim)
                        .map(|d| f64::from(q[d] * k[j * k_cols + column + d]))
                        .sum::<f64>()
                })
                .map(|score| score * f64::from(scale))
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = (0..n_keys)
                .map(|j| {
                    if visible(j) {
                        (scores[j] - max).exp()
                    } else {
                        0.0
                    }
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let value: f64 = (0..n_keys)
                    .map(|j| weights[j] * f64::from(v[j * k_cols + column + d]))
                    .sum();
                out[i * q_cols + head * head_dim + d] = (value / sum) as f32;
            }
        }
    }
    out
}

#[test]
fn attention_and_cached_attention_follow_the_formula() {
    all_devices()
        .iter()
        .for_each(attention_and_cached_attention_follow_the_formula_on);
}

fn attention_and_cached_attention_follow_the_formula_on(device: &Device) {
    for (mask, n_heads, n_kv_heads, head_dim, t) in [
        (Mask::Full, 2, 2, 8, 21),
        (Mask::Causal, 4, 2, 5, 40),
        (Mask::Window(7), 6, 1, 16, 35),
        (Mask::Window(1), 1, 1, 4, 3),
    ] {
        let case = format!("{mask:?} {n_heads} {n_kv_heads} {head_dim} {t}");
        let shape = AttentionShape {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.4,
            mask,
        };
        let (q_cols, k_cols) = (n_heads * head_dim, n_kv_heads * head_dim);
        let mut numbers = Numbers::new(3);
        let (q, k, v) = (
            numbers.take(t * q_cols),
            numbers.take(t * k_cols),
            numbers.take(t * k_cols),
        );
        let expected = plain_attention(&q, &k, &v, &shape);
        let mut builder = StepBuilder::new(device);
        let values = [
            builder.input(t, q_cols),
            builder.input(t, k_cols),
            builder.input(t, k_cols),
        ];
        let out = builder
            .attention(values[0], values[1], values[2], 1, shape)
            .unwrap();
        builder.output(out);
        let mut step = builder.finish().unwrap();
        step.run(&mut Bindings {
            inputs: &[&q, &k, &v],
            ids: &[],
            slots: &mut [],
        })
        .unwrap();
        assert_close(step.output(0).unwrap(), &expected, 1e-5, &case);
        if mask == Mask::Full {
            continue;
        }
        // The same through a cache, in pieces of one and more rows.
        let capacity = t;
        let cache_shape = CacheShape {
            n_layers: 2,
            capacity,
            kv_dim: k_cols,
            head_dim: shape.head_dim,
            dtype: DType::F32,
        };
        let mut cache = device.kv_cache(cache_shape).unwrap();
        let mut done = 0;
        let mut piece = 1;
        while done < t {
            let rows = piece.min(t - done);
            let mut builder = StepBuilder::new(device);
            let values = [
                builder.input(rows, q_cols),
                builder.input(rows, k_cols),
                builder.input(rows, k_cols),
            ];
            let slot = builder.cache_slot();
            builder.cache_append(slot, 1, values[1], values[2]).unwrap();
            let out = builder
                .cached_attention(values[0], slot, 1, 1, shape)
                .unwrap();
            builder.output(out);
            let mut step = builder.finish().unwrap();
            let part = |x: &[f32], cols: usize| x[done * cols..(done + rows) * cols].to_vec();
            let (q, k, v) = (part(&q, q_cols), part(&k, k_cols), part(&v, k_cols));
            let bind = |cache: &mut turaco_compute::KvCache, step: &mut turaco_compute::Step| {
                step.run(&mut Bindings {
                    inputs: &[&q, &k, &v],
                    ids: &[],
                    slots: &mut [SlotBinding::Write(&mut [cache])],
                })
            };
            bind(&mut cache, &mut step).unwrap();
            assert_eq!(cache.len(), done + rows);
            assert_close(
                step.output(0).unwrap(),
                &part(&expected, q_cols),
                1e-5,
                &case,
            );
            done += rows;
            piece += 3;
            if done == t {
                assert!(bind(&mut cache, &mut step).is_err(), "{case}: a full cache");
                assert_eq!(cache.len(), t);
            }
        }
    }
}

#[test]
fn choose_tokens_masks_penalises_prefers_and_ranks() {
    all_devices()
        .iter()
        .for_each(choose_tokens_masks_penalises_prefers_and_ranks_on);
}

fn choose_tokens_masks_penalises_prefers_and_ranks_on(device: &Device) {
    let vocabulary = 40;
    let mut builder = StepBuilder::new(device);
    let logits = builder.input(2, vocabulary);
    let controls = builder.input(2, 3);
    let (allowed, seen, seeds) = (
        builder.input_ids(2, 2),
        builder.input_ids(2, 2),
        builder.input_ids(2, 2),
    );
    let choose = ChooseTokens {
        allowed,
        seen: Some(seen),
        controls,
        seeds,
        prefer_from: 30,
        k: 2,
    };
    let (tokens, logprobs) = builder.choose_tokens(logits, choose).unwrap();
    builder.output(logprobs);
    builder.output_ids(tokens);
    let mut step = builder.finish().unwrap();
    let mut row = vec![0.0; vocabulary];
    row[3] = 5.0;
    row[4] = 4.0;
    row[5] = 3.9;
    let mut run = |row: &[f32], allowed: [u32; 2], seen: [u32; 2], control: [f32; 3]| {
        let logits = [row, row].concat();
        let ids = [
            [allowed, allowed].concat(),
            [seen, seen].concat(),
            vec![1, 2, 3, 4],
        ];
        step.run(&mut Bindings {
            inputs: &[&logits, &[control, control].concat()],
            ids: &[&ids[0], &ids[1], &ids[2]],
            slots: &mut [],
        })
        .unwrap();
        (
            step.output_ids(0).unwrap().to_vec(),
            step.output(0).unwrap().to_vec(),
        )
    };
    let all = [u32::MAX; 2];
    let total = (row.iter().map(|x| f64::from(*x).exp()).sum::<f64>()).ln() as f32;
    let (tokens, logprobs) = run(&row, all, [0; 2], [0.0, 1.0, 0.0]);
    assert_eq!(tokens, [3, 4, 3, 4]);
    assert_close(
        &logprobs[..2],
        &[5.0 - total, 4.0 - total],
        1e-6,
        "log-probabilities",
    );
    // Token 3 is forbidden, token 4 was seen.
    assert_eq!(
        run(&row, [!8, !0], [16, 0], [0.0, 2.0, 0.0]).0,
        [5, 4, 5, 4]
    );
    // Ten preferred tokens of logit 3 outweigh one of logit 5.
    let mut preferred = row.clone();
    preferred[30..].fill(3.0);
    assert_eq!(
        run(&preferred, all, [0; 2], [0.0, 1.0, 1.0]).0,
        [30, 31, 30, 31]
    );
    // Nothing allowed.
    let (tokens, logprobs) = run(&row, [0; 2], [0; 2], [1.0, 1.0, 1.0]);
    assert_eq!(tokens, [u32::MAX; 4]);
    assert_eq!(logprobs, [f32::NEG_INFINITY; 4]);
}

#[test]
fn bad_bindings_and_numbers_are_errors() {
    all_devices()
        .iter()
        .for_each(bad_bindings_and_numbers_are_errors_on);
}

fn bad_bindings_and_numbers_are_errors_on(device: &Device) {
    let mut builder = StepBuilder::new(device);
    let ids = builder.input_ids(2, 1);
    let table = matrix(device, 3, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let x = builder.embedding(&table, ids, Some((&table, ids))).unwrap();
    let slot = builder.cache_slot();
    builder.cache_append(slot, 0, x, x).unwrap();
    builder.output(x);
    let mut step = builder.finish().unwrap();
    let shape = CacheShape {
        n_layers: 1,
        capacity: 4,
        kv_dim: 2,
        head_dim: 2,
        dtype: DType::F16,
    };
    let mut cache = device.kv_cache(shape).unwrap();
    let mut wide = device.kv_cache(CacheShape { kv_dim: 3, ..shape }).unwrap();
    let mut run = |ids: &[u32], caches: &mut [&mut turaco_compute::KvCache]| {
        step.run(&mut Bindings {
            inputs: &[],
            ids: &[ids],
            slots: &mut [SlotBinding::Write(caches)],
        })
        .map(|()| step.output(0).unwrap().to_vec())
    };
    assert_eq!(
        run(&[2, 0], &mut [&mut cache]).unwrap(),
        [10.0, 12.0, 2.0, 4.0]
    );
    assert!(run(&[3, 0], &mut [&mut cache]).is_err());
    assert!(run(&[2, 0], &mut []).is_err());
    assert!(run(&[2, 0], &mut [&mut wide]).is_err());
    assert_eq!(cache.len(), 2);
    assert!(run(&[1, 1], &mut [&mut cache]).is_ok());
    assert!(run(&[1, 1], &mut [&mut cache]).is_err());
    assert_eq!(cache.len(), 4);
}
