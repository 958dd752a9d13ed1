//! Every device and instruction set against the scalar reference, over sizes around every vector and tile edge; the
//! same bits for every number of threads and on every replay.

use turaco_compute::{
    Activation, AttentionShape, Bindings, CacheShape, ConvShape, CpuOptions, DType, Device,
    Epilogue, KvCache, Mask, Precision, SlotBinding, Step, StepBuilder, Value,
};

use crate::support::{Numbers, all_devices, assert_close, cards, devices, gpus, matrix};

const SIZES: [usize; 17] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257];

/// Graphics processors have rougher exponentials and roots, and add in other orders.
const GPU_TOLERANCE: f32 = 2e-5;

/// Run `case` on every device and compare with the first one (scalar, one thread). Devices come in two halves of the
/// same instruction sets, with one thread and with several, whose results must be the same bits.
fn agree(name: &str, tolerance: f32, case: impl Fn(&Device) -> Vec<f32>) {
    let results: Vec<(String, Vec<f32>)> = devices()
        .iter()
        .map(|device| (device.description(), case(device)))
        .collect();
    let (one_thread, several) = results.split_at(results.len() / 2);
    for ((device, one), (_, several)) in one_thread.iter().zip(several) {
        assert_close(
            one,
            &one_thread[0].1,
            tolerance,
            &format!("{name} on {device}"),
        );
        let same = one
            .iter()
            .zip(several)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name} on {device} depends on the number of threads");
    }
    for gpu in gpus().into_iter().chain(cards()) {
        let tolerance = if tolerance == 0.0 {
            0.0
        } else {
            tolerance.max(GPU_TOLERANCE)
        };
        let name = format!("{name} on {gpu:?}");
        assert_close(&case(&gpu), &one_thread[0].1, tolerance, &name);
    }
}

/// Run twice, without caches; the results must be the same bits.
fn replay(step: &mut Step, inputs: &[&[f32]], ids: &[&[u32]]) -> Vec<f32> {
    let mut run = || {
        step.run(&mut Bindings {
            inputs,
            ids,
            slots: &mut [],
        })
        .unwrap();
        step.output(0).unwrap().to_vec()
    };
    let first = run();
    let second = run();
    assert!(
        first
            .iter()
            .zip(&second)
            .all(|(a, b)| a.to_bits() == b.to_bits()),
        "replay differs"
    );
    second
}

/// One operation on `[rows, cols]`, given as a window of a wider input so that rows have gaps.
fn unary(
    name: &str,
    tolerance: f32,
    scale: f32,
    sizes: impl Iterator<Item = (usize, usize)>,
    record: impl Fn(&mut StepBuilder, &Device, Value, &mut Numbers) -> Value,
) {
    for (rows, cols) in sizes {
        agree(&format!("{name} [{rows}, {cols}]"), tolerance, |device| {
            let mut numbers = Numbers::new((rows * 1000 + cols) as u64);
            let mut builder = StepBuilder::new(device);
            let wide = builder.input(rows, cols + 3);
            let x = builder.columns(wide, 2, cols).unwrap();
            let out = record(&mut builder, device, x, &mut numbers);
            builder.output(out);
            let input: Vec<f32> = numbers
                .take(rows * (cols + 3))
                .iter()
                .map(|x| x * scale)
                .collect();
            replay(&mut builder.finish().unwrap(), &[&input], &[])
        });
    }
}

fn sizes() -> impl Iterator<Item = (usize, usize)> {
    let rows = [0, 1, 3, 40].into_iter();
    rows.flat_map(|rows| SIZES.into_iter().map(move |cols| (rows, cols)))
}

#[test]
fn norms_agree() {
    unary(
        "layer_norm",
        2e-6,
        3.0,
        sizes(),
        |builder, device, x, numbers| {
            let gamma = device.vector(&numbers.take(x.cols())).unwrap();
            let beta = device.vector(&numbers.take(x.cols())).unwrap();
            builder.layer_norm(x, &gamma, &beta, 1e-5).unwrap()
        },
    );
    let sizes = || sizes().filter(|(_, cols)| *cols > 0);
    unary(
        "rms_norm",
        2e-6,
        3.0,
        sizes(),
        |builder, device, x, numbers| {
            let gamma = device.vector(&numbers.take(x.cols())).unwrap();
            builder.rms_norm(x, &gamma, 1e-6).unwrap()
        },
    );
    let sizes = sizes().map(|(rows, cols)| (rows, cols * 3));
    unary(
        "rms_norm of heads",
        2e-6,
        3.0,
        sizes,
        |builder, device, x, numbers| {
            let gamma = device.vector(&numbers.take(x.cols() / 3)).unwrap();
            builder.rms_norm(x, &gamma, 1e-6).unwrap()
        },
    );
}

#[test]
fn elementwise_operations_agree() {
    for activation in [
        Activation::None,
        Activation::Gelu,
        Activation::Silu,
        Activation::Relu,
        Activation::Sigmoid,
        Activation::Elu,
        Activation::Tanh,
    ] {
        for scale in [1.0, 20.0, 200.0] {
            unary(
                &format!("{activation:?}"),
                3e-7,
                scale,
                sizes(),
                |builder, _, x, _| builder.activate(x, activation),
            );
        }
    }
    unary("swiglu", 3e-7, 10.0, sizes(), |builder, _, x, _| {
        let up = builder.activate(x, Activation::Relu);
        builder.swiglu(x, up).unwrap()
    });
    unary("softmax", 1e-6, 10.0, sizes(), |builder, _, x, _| {
        builder.softmax(x)
    });
    let even = sizes().map(|(rows, cols)| (rows, 2 * cols));
    unary("magnitude", 1e-6, 5.0, even, |builder, _, x, _| {
        builder.magnitude(x).unwrap()
    });
    unary("transpose", 0.0, 1.0, sizes(), |builder, _, x, _| {
        let sequences = if x.rows() == 40 { 5 } else { 1 };
        builder.transpose(x, sequences).unwrap()
    });
    let some = sizes().filter(|(rows, cols)| rows * cols > 0);
    unary(
        "add_table",
        1e-6,
        1.0,
        some,
        |builder, device, x, numbers| {
            let period = if x.rows() == 40 { 8 } else { x.rows() };
            let table = matrix(device, period, x.cols(), &numbers.take(period * x.cols()));
            builder.add_table(x, &table).unwrap()
        },
    );
}

#[test]
fn rope_agrees() {
    for interleaved in [false, true] {
        for head_dim in [2, 6, 16, 64, 128] {
            for (rows, heads) in [(0, 1), (1, 1), (5, 3), (33, 2)] {
                let name = format!("rope {head_dim} x {heads}, {rows} rows, {interleaved}");
                agree(&name, 2e-6, |device| {
                    let mut numbers = Numbers::new(7);
                    let mut builder = StepBuilder::new(device);
                    let x = builder.input(rows, heads * head_dim);
                    let positions = builder.input_ids(rows, 1);
                    let out = builder
                        .rope(x, positions, head_dim, 10_000.0, interleaved)
                        .unwrap();
                    builder.output(out);
                    let x = numbers.take(rows * heads * head_dim);
                    let positions: Vec<u32> = (0..rows as u32).map(|i| i * 37).collect();
                    replay(&mut builder.finish().unwrap(), &[&x], &[&positions])
                });
            }
        }
    }
}

#[test]
fn conv1d_and_linear_agree() {
    let case = |n_sequences, rows, c_in, c_out, kernel, stride, padding| {
        let name = format!("conv1d {n_sequences} x {rows} x {c_in} to {c_out}, {kernel}/{stride}");
        // Three maps after each other, with values around 10.
        agree(&name, 1e-4, |device| {
            let mut numbers = Numbers::new(8);
            let mut builder = StepBuilder::new(device);
            let x = builder.input(n_sequences * rows, c_in + 1);
            let x = builder.columns(x, 1, c_in).unwrap();
            let weight = numbers.take(c_out * kernel * c_in);
            let weight = matrix(device, c_out, kernel * c_in, &weight);
            let bias = device.vector(&numbers.take(c_out)).unwrap();
            let shape = ConvShape {
                n_sequences,
                kernel,
                stride,
                padding,
                ..ConvShape::default()
            };
            let conv = builder
                .conv1d(x, &weight, Some(&bias), Activation::Gelu, shape)
                .unwrap();
            let square = matrix(device, c_out, c_out, &numbers.take(c_out * c_out));
            let epilogue = Epilogue::bias(&bias)
                .activation(Activation::Silu)
                .residual(conv);
            let out = builder.linear(conv, &square, epilogue.clone()).unwrap();
            // Here the residual is not the input, and dies.
            let out = builder.linear(out, &square, epilogue).unwrap();
            builder.output(out);
            let input = numbers.take(n_sequences * rows * (c_in + 1));
            replay(&mut builder.finish().unwrap(), &[&input], &[])
        });
    };
    case(1, 1, 1, 1, 1, 1, (0, 0));
    case(1, 9, 3, 5, 3, 1, (1, 1));
    case(3, 40, 8, 33, 3, 2, (1, 1));
    case(2, 25, 4, 7, 5, 3, (4, 0));
    case(1, 100, 16, 64, 4, 4, (0, 2));
}

/// Heads, key heads and head width: around the widths that the vector kernels take, and grouped.
const HEADS: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (2, 1, 5),
    (3, 3, 16),
    (8, 2, 16),
    (7, 1, 32),
    (2, 2, 64),
    (4, 2, 80),
    (2, 1, 128),
];

fn masks() -> [Mask; 5] {
    [
        Mask::Full,
        Mask::Causal,
        Mask::Window(1),
        Mask::Window(20),
        Mask::Window(1000),
    ]
}

#[test]
fn attention_agrees() {
    for (n_heads, n_kv_heads, head_dim) in HEADS {
        for mask in masks() {
            for (n, rows, keys) in [
                (1, 1, 1),
                (2, 7, 7),
                (1, 70, 70),
                (1, 3, 65),
                (3, 1, 16),
                (1, 130, 130),
                (1, 17, 300),
                (1, 300, 300),
                (1, 2, 0),
            ] {
                if mask != Mask::Full && rows != keys {
                    continue;
                }
                let scale = 1.0;
                let shape = AttentionShape {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    scale,
                    mask,
                };
                let case = |device: &Device| {
                    let mut numbers = Numbers::new(9);
                    let mut builder = StepBuilder::new(device);
                    let (q_cols, k_cols) = (n_heads * head_dim, n_kv_heads * head_dim);
                    let q = builder.input(n * rows, q_cols);
                    let both = builder.input(n * keys, 2 * k_cols);
                    let k = builder.columns(both, 0, k_cols).unwrap();
                    let v = builder.columns(both, k_cols, k_cols).unwrap();
                    let out = builder.attention(q, k, v, n, shape).unwrap();
                    builder.output(out);
                    let q = numbers.take(n * rows * q_cols);
                    let both = numbers.take(n * keys * 2 * k_cols);
                    replay(&mut builder.finish().unwrap(), &[&q, &both], &[])
                };
                let name = format!("attention {shape:?}, {n} x {rows} x {keys}");
                agree(&name, 3e-5, case);
                // With permission to round: bf16 has 8 bits, and scores reach about 10 here.
                let fast = |threads| {
                    case(&Device::cpu(CpuOptions {
                        threads,
                        precision: Precision::Fast,
                        ..CpuOptions::default()
                    }))
                };
                let found = fast(1);
                assert_close(&found, &case(&devices()[0]), 3e-2, &format!("fast {name}"));
                assert_eq!(found, fast(3), "fast {name}: threads");
            }
        }
    }
}

/// Appends pieces of several lengths to caches up to their capacity, attending each time.
fn cached(
    device: &Device,
    n: usize,
    heads: (usize, usize, usize),
    mask: Mask,
    dtype: DType,
    pieces: &[usize],
) -> Vec<f32> {
    let (n_heads, n_kv_heads, head_dim) = heads;
    let shape = AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim,
        scale: 0.7,
        mask,
    };
    let (q_cols, k_cols) = (n_heads * head_dim, n_kv_heads * head_dim);
    let capacity = pieces.iter().sum();
    let cache_shape = CacheShape {
        n_layers: 3,
        capacity,
        kv_dim: k_cols,
        head_dim,
        dtype,
    };
    let mut caches: Vec<KvCache> = (0..n)
        .map(|_| device.kv_cache(cache_shape).unwrap())
        .collect();
    let mut numbers = Numbers::new(11);
    let mut results = Vec::new();
    for &rows in pieces {
        let mut builder = StepBuilder::new(device);
        let q = builder.input(n * rows, q_cols);
        let k = builder.input(n * rows, k_cols);
        let v = builder.input(n * rows, k_cols);
        let slot = builder.cache_slot();
        builder.cache_append(slot, 2, k, v).unwrap();
        let (out, scores) = builder
            .cached_attention_scores(q, slot, 2, n, shape, &[n_heads - 1, 0], capacity)
            .unwrap();
        builder.output(out);
        builder.output(scores);
        let mut step = builder.finish().unwrap();
        let given = [q, k, v].map(|x| numbers.take(x.rows() * x.cols()));
        let mut bound: Vec<&mut KvCache> = caches.iter_mut().collect();
        step.run(&mut Bindings {
            inputs: &[&given[0], &given[1], &given[2]],
            ids: &[],
            slots: &mut [SlotBinding::Write(&mut bound)],
        })
        .unwrap();
        results.extend_from_slice(step.output(0).unwrap());
        let len = caches[0].len();
        for row in step.output(1).unwrap().chunks(capacity) {
            results.extend_from_slice(&row[..len]);
        }
    }
    results
}

#[test]
fn cached_attention_agrees() {
    for heads in HEADS {
        for mask in masks() {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let name = format!("cached attention {heads:?} {mask:?} {dtype}");
                agree(&name, 3e-5, |device| {
                    cached(device, 2, heads, mask, dtype, &[1, 1, 14, 50, 1, 3, 64, 1])
                });
            }
        }
    }
}

#[test]
fn caches_of_bytes_agree_on_cards() {
    let reference = &devices()[0];
    for device in cards() {
        for (heads, mask) in HEADS.into_iter().zip(masks().into_iter().cycle()) {
            let run = |device| {
                let pieces = [1, 1, 14, 50, 1, 3, 64, 1];
                cached(device, 2, heads, mask, DType::I8, &pieces)
            };
            let case = format!("cached attention of bytes {heads:?} {mask:?}");
            assert_close(&run(&device), &run(reference), 3e-5, &case);
        }
    }
}

#[test]
fn read_caches_can_be_shared_and_a_batch_equals_its_members() {
    for device in all_devices() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let shape = AttentionShape {
                n_heads: 4,
                n_kv_heads: 4,
                head_dim: 16,
                scale: 0.25,
                mask: Mask::Full,
            };
            let (keys, cols) = (150, 64);
            let mut numbers = Numbers::new(12);
            let cache_shape = CacheShape {
                n_layers: 1,
                capacity: 150,
                kv_dim: cols,
                head_dim: 16,
                dtype,
            };
            let mut caches: Vec<KvCache> = (0..2)
                .map(|_| device.kv_cache(cache_shape).unwrap())
                .collect();
            let mut builder = StepBuilder::new(&device);
            let (k, v) = (builder.input(2 * keys, cols), builder.input(2 * keys, cols));
            let slot = builder.cache_slot();
            builder.cache_append(slot, 0, k, v).unwrap();
            let given = [numbers.take(2 * keys * cols), numbers.take(2 * keys * cols)];
            let mut bound: Vec<&mut KvCache> = caches.iter_mut().collect();
            builder
                .finish()
                .unwrap()
                .run(&mut Bindings {
                    inputs: &[&given[0], &given[1]],
                    ids: &[],
                    slots: &mut [SlotBinding::Write(&mut bound)],
                })
                .unwrap();
            let attend = |q: &[f32], caches: &[&KvCache]| {
                let mut builder = StepBuilder::new(&device);
                let value = builder.input(q.len() / cols, cols);
                let slot = builder.shared_cache_slot();
                let out = builder
                    .cached_attention(value, slot, 0, caches.len(), shape)
                    .unwrap();
                builder.output(out);
                let mut step = builder.finish().unwrap();
                step.run(&mut Bindings {
                    inputs: &[q],
                    ids: &[],
                    slots: &mut [SlotBinding::Read(caches)],
                })
                .unwrap();
                step.output(0).unwrap().to_vec()
            };
            let q = numbers.take(3 * cols);
            let order = [&caches[1], &caches[0], &caches[1]];
            let together = attend(&q, &order);
            for (index, cache) in order.into_iter().enumerate() {
                let part = index * cols..(index + 1) * cols;
                let alone = attend(&q[part.clone()], &[cache]);
                assert_eq!(together[part], alone[..], "{device:?} {dtype}");
            }
            // A copy gives the same, also after it was made on top of an equal beginning.
            let mut copy = device.kv_cache(cache_shape).unwrap();
            device.copy_cache(&caches[0], &mut copy, 0).unwrap();
            copy.truncate(70);
            device.copy_cache(&caches[0], &mut copy, 70).unwrap();
            assert_eq!(copy.len(), keys);
            assert_eq!(attend(&q, &[&copy]), attend(&q, &[&caches[0]]));
        }
    }
}

#[test]
fn lstm_agrees_and_carries_its_state() {
    for (inputs, hidden) in [(1, 1), (5, 7), (64, 128), (3, 33)] {
        agree(&format!("lstm {inputs} to {hidden}"), 1e-5, |device| {
            let mut numbers = Numbers::new(13);
            let w_ih = matrix(
                device,
                4 * hidden,
                inputs,
                &numbers.take(4 * hidden * inputs),
            );
            let w_hh = matrix(
                device,
                4 * hidden,
                hidden,
                &numbers.take(4 * hidden * hidden),
            );
            let bias = device.vector(&numbers.take(4 * hidden)).unwrap();
            let x = numbers.take(6 * inputs);
            let run = |pieces: &[usize]| {
                let mut state = device.state_buffer(2 * hidden).unwrap();
                let mut done = 0;
                let mut result = Vec::new();
                for rows in pieces {
                    let mut builder = StepBuilder::new(device);
                    let value = builder.input(*rows, inputs);
                    let slot = builder.buffer_slot();
                    let out = builder.lstm(value, &w_ih, &w_hh, &bias, slot).unwrap();
                    builder.output(out);
                    let mut step = builder.finish().unwrap();
                    step.run(&mut Bindings {
                        inputs: &[&x[done * inputs..(done + rows) * inputs]],
                        ids: &[],
                        slots: &mut [SlotBinding::Buffer(&mut state)],
                    })
                    .unwrap();
                    result.extend_from_slice(step.output(0).unwrap());
                    done += rows;
                }
                result.extend(device.read_buffer(&state).unwrap());
                result
            };
            let whole = run(&[6]);
            // One row and several take different kernels, which add in different orders.
            assert_close(&run(&[1, 2, 3]), &whole, 4e-6, "in pieces");
            whole
        });
    }
}
