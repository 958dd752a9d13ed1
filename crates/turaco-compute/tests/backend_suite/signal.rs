//! Operations of networks that make or read sound: every device against independent loops.

use turaco_compute::{
    Activation, Bindings, ConvShape, DType, Device, Epilogue, HostMatrix, SlotBinding, Snake,
    StepBuilder, Value, WeightType,
};

use crate::support::{Numbers, all_devices, assert_close, matrix};

/// The outputs of one run without states.
fn outputs(builder: StepBuilder, inputs: &[&[f32]], ids: &[&[u32]], count: usize) -> Vec<Vec<f32>> {
    let mut step = builder.finish().unwrap();
    let mut run = || {
        step.run(&mut Bindings {
            inputs,
            ids,
            slots: &mut [],
        })
        .unwrap();
    };
    run();
    run();
    (0..count)
        .map(|index| step.output(index).unwrap().to_vec())
        .collect()
}

fn snake_of(device: &Device, cols: usize, numbers: &mut Numbers) -> (Snake, Vec<f32>, Vec<f32>) {
    let rate: Vec<f32> = numbers.take(cols).iter().map(|x| (2.0 * x).exp()).collect();
    let gain: Vec<f32> = numbers.take(cols).iter().map(|x| x.exp()).collect();
    let snake = Snake {
        rate: device.vector(&rate).unwrap(),
        gain: device.vector(&gain).unwrap(),
    };
    (snake, rate, gain)
}

fn snake_formula(x: &[f32], rate: &[f32], gain: &[f32]) -> Vec<f32> {
    let cols = rate.len();
    x.iter()
        .enumerate()
        .map(|(i, &x)| {
            let sine = f64::from(rate[i % cols] * x).sin();
            (f64::from(x) + f64::from(gain[i % cols]) * sine * sine) as f32
        })
        .collect()
}

#[test]
fn snake_follows_its_formula() {
    for device in all_devices() {
        for (rows, cols) in [(1, 1), (3, 5), (40, 16), (7, 33), (0, 4)] {
            let mut numbers = Numbers::new(rows as u64 * 100 + cols as u64);
            let (snake, rate, gain) = snake_of(&device, cols, &mut numbers);
            let x: Vec<f32> = numbers.take(rows * cols).iter().map(|x| 20.0 * x).collect();
            let mut builder = StepBuilder::new(&device);
            let input = builder.input(rows, cols);
            let out = builder.snake(input, &snake).unwrap();
            builder.output(out);
            let found = outputs(builder, &[&x], &[], 1);
            let case = format!("snake [{rows}, {cols}] on {device:?}");
            assert_close(&found[0], &snake_formula(&x, &rate, &gain), 3e-6, &case);
        }
    }
}

/// What stands before each run, with and without a snake, over three runs; the two states are parts of one buffer.
#[test]
fn history_goes_on_from_run_to_run() {
    for device in all_devices() {
        let (rows, cols, kept) = (4, 3, 6);
        let mut numbers = Numbers::new(7);
        let (snake, rate, gain) = snake_of(&device, cols, &mut numbers);
        let mut builder = StepBuilder::new(&device);
        let wide = builder.input(rows, cols + 2);
        let x = builder.columns(wide, 1, cols).unwrap();
        let slot = builder.buffer_slot();
        // More than a run has, and less.
        let plain = builder.history(x, None, (slot, 2), kept).unwrap();
        let snaked = builder.history(x, Some(&snake), (slot, 20), 1).unwrap();
        builder.output(plain);
        builder.output(snaked);
        let mut step = builder.finish().unwrap();
        let mut state = device.state_buffer(23).unwrap();
        let mut past = vec![0.0; kept * cols];
        for _ in 0..3 {
            let input = numbers.take(rows * (cols + 2));
            step.run(&mut Bindings {
                inputs: &[&input],
                ids: &[],
                slots: &mut [SlotBinding::Buffer(&mut state)],
            })
            .unwrap();
            let before = past.len();
            for row in input.chunks(cols + 2) {
                past.extend_from_slice(&row[1..1 + cols]);
            }
            let case = format!("history on {device:?}");
            let seen = &past[before - kept * cols..];
            assert_close(step.output(0).unwrap(), seen, 0.0, &case);
            let seen = snake_formula(&past[before - cols..], &rate, &gain);
            assert_close(step.output(1).unwrap(), &seen, 3e-6, &case);
        }
        // A buffer that is too short is refused.
        let mut short = device.state_buffer(22).unwrap();
        let input = vec![0.0; rows * (cols + 2)];
        let refused = step.run(&mut Bindings {
            inputs: &[&input],
            ids: &[],
            slots: &mut [SlotBinding::Buffer(&mut short)],
        });
        assert!(refused.is_err());
    }
}

/// A causal convolution with gaps between its taps, over a stream in unequal pieces and at once.
#[test]
fn dilated_convolutions_skip_rows() {
    for device in all_devices() {
        for (c_in, c_out, kernel, dilation, stride) in [
            (3, 5, 3, 2, 1),
            (32, 33, 7, 9, 1),
            (4, 4, 2, 5, 3),
            (96, 8, 7, 3, 1),
        ] {
            let rows = 70;
            let mut numbers = Numbers::new(5);
            let weight = numbers.take(c_out * kernel * c_in);
            let x = numbers.take(rows * c_in);
            let mut builder = StepBuilder::new(&device);
            let input = builder.input(rows, c_in);
            let shape = ConvShape {
                kernel,
                dilation,
                stride,
                padding: (2, 1),
                ..ConvShape::default()
            };
            let uploaded = matrix(&device, c_out, kernel * c_in, &weight);
            let out = builder
                .conv1d(input, &uploaded, None, Activation::None, shape)
                .unwrap();
            builder.output(out);
            let mut expected = Vec::new();
            for o in 0..out.rows() {
                for c in 0..c_out {
                    let mut sum = 0.0;
                    for tap in 0..kernel {
                        let row = (o * stride + tap * dilation) as isize - 2;
                        if (0..rows as isize).contains(&row) {
                            for i in 0..c_in {
                                sum += f64::from(x[row as usize * c_in + i])
                                    * f64::from(weight[(c * kernel + tap) * c_in + i]);
                            }
                        }
                    }
                    expected.push(sum as f32);
                }
            }
            assert_eq!(
                out.rows(),
                (rows + 3 - (kernel - 1) * dilation - 1) / stride + 1
            );
            let found = outputs(builder, &[&x], &[], 1);
            let case = format!("conv1d {c_in} {kernel} {dilation} {stride} on {device:?}");
            assert_close(&found[0], &expected, 1e-5, &case);
        }
    }
}

#[test]
fn depthwise_convolutions_keep_columns_apart() {
    for device in all_devices() {
        for (rows, cols, kernel) in [(9, 5, 7), (1, 3, 1), (40, 33, 4)] {
            let mut numbers = Numbers::new(6);
            let (x, weight) = (numbers.take(rows * cols), numbers.take(kernel * cols));
            let bias = numbers.take(cols);
            let mut builder = StepBuilder::new(&device);
            let input = builder.input(rows, cols);
            let weights = device.vector(&weight).unwrap();
            let biases = device.vector(&bias).unwrap();
            for bias in [None, Some(&biases)] {
                let out = builder
                    .depthwise_conv1d(input, &weights, bias, kernel)
                    .unwrap();
                builder.output(out);
            }
            let expected = |with_bias: f32| -> Vec<f32> {
                (0..(rows - kernel + 1) * cols)
                    .map(|i| {
                        let (row, col) = (i / cols, i % cols);
                        let taps = (0..kernel)
                            .map(|tap| x[(row + tap) * cols + col] * weight[tap * cols + col]);
                        taps.sum::<f32>() + with_bias * bias[col]
                    })
                    .collect()
            };
            let found = outputs(builder, &[&x], &[], 2);
            let case = format!("depthwise [{rows}, {cols}] {kernel} on {device:?}");
            assert_close(&found[0], &expected(0.0), 1e-6, &case);
            assert_close(&found[1], &expected(1.0), 1e-6, &case);
        }
    }
}

#[test]
fn products_side_by_side_and_in_other_rows() {
    for device in all_devices() {
        let (rows, cols) = (6, 5);
        let mut numbers = Numbers::new(9);
        let (a, b) = (numbers.take(rows * cols), numbers.take(2 * cols));
        let one = numbers.take(3);
        let weight = numbers.take(4 * 10);
        let mut builder = StepBuilder::new(&device);
        let (x, y) = (builder.input(rows, cols), builder.input(2, cols));
        let z = builder.input(1, 3);
        let product = builder.multiply(x, y).unwrap();
        let part = builder.columns(x, 1, 2).unwrap();
        let joined = builder.concat(&[product, z, part]).unwrap();
        // Half as many rows of twice the width, and columns of those.
        let wide = builder.reshape(product, 2 * cols).unwrap();
        let window = builder.columns(wide, 3, 4).unwrap();
        let gone = builder.add(wide, 1.0, wide, 1.0).unwrap();
        let narrow: Value = builder.reshape(gone, 4 * 10 / 8).unwrap();
        let map = matrix(&device, 4, 10, &weight);
        let linear = builder.linear(wide, &map, Epilogue::default()).unwrap();
        for value in [product, joined, wide, window, narrow, linear] {
            builder.output(value);
        }
        assert!(builder.reshape(window, 2).is_err());
        assert!(builder.reshape(product, 7).is_err());
        let found = outputs(builder, &[&a, &b, &one], &[], 6);
        let case = format!("on {device:?}");
        let expected: Vec<f32> = (0..rows * cols)
            .map(|i| a[i] * b[i / cols % 2 * cols + i % cols])
            .collect();
        assert_close(&found[0], &expected, 0.0, &format!("multiply {case}"));
        let mut side_by_side = Vec::new();
        for (product, a) in expected.chunks(cols).zip(a.chunks(cols)) {
            side_by_side.extend_from_slice(product);
            side_by_side.extend_from_slice(&one);
            side_by_side.extend_from_slice(&a[1..3]);
        }
        assert_close(&found[1], &side_by_side, 0.0, &format!("concat {case}"));
        assert_close(&found[2], &expected, 0.0, &format!("reshape {case}"));
        let columns: Vec<f32> = expected
            .chunks(2 * cols)
            .flat_map(|row| row[3..7].to_vec())
            .collect();
        assert_close(&found[3], &columns, 0.0, &format!("columns {case}"));
        let doubled: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
        assert_close(&found[4], &doubled, 0.0, &format!("reshape twice {case}"));
        let mapped: Vec<f32> = expected
            .chunks(10)
            .flat_map(|row| {
                let rows = weight.chunks(10);
                rows.map(|w| row.iter().zip(w).map(|(x, w)| x * w).sum::<f32>())
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_close(&found[5], &mapped, 2e-6, &format!("linear {case}"));
    }
}

#[test]
fn statistics_over_rows() {
    for device in all_devices() {
        for (rows, cols) in [(1, 3), (50, 17)] {
            let mut numbers = Numbers::new(11);
            let x: Vec<f32> = numbers.take(rows * cols).iter().map(|x| 3.0 + x).collect();
            let mut weights: Vec<f32> = numbers.take(rows * cols).iter().map(|x| x.abs()).collect();
            for col in 0..cols {
                let sum: f32 = (0..rows).map(|row| weights[row * cols + col]).sum();
                (0..rows).for_each(|row| weights[row * cols + col] /= sum);
            }
            let mut builder = StepBuilder::new(&device);
            let (input, given) = (builder.input(rows, cols), builder.input(rows, cols));
            for weights in [None, Some(given)] {
                let out = builder.statistics(input, weights, 1e-4).unwrap();
                builder.output(out);
            }
            let expected = |weight: &dyn Fn(usize) -> f64| -> Vec<f32> {
                let column = |col: usize| (0..rows).map(move |row| row * cols + col);
                let mean = |col| {
                    column(col)
                        .map(|i| weight(i) * f64::from(x[i]))
                        .sum::<f64>()
                };
                let deviation = |col| {
                    let mean = mean(col);
                    let apart = |i: usize| weight(i) * (f64::from(x[i]) - mean).powi(2);
                    column(col).map(apart).sum::<f64>().max(1e-4).sqrt()
                };
                let both = (0..cols).map(mean).chain((0..cols).map(deviation));
                both.map(|value| value as f32).collect()
            };
            let found = outputs(builder, &[&x, &weights], &[], 2);
            let case = format!("statistics [{rows}, {cols}] on {device:?}");
            assert_close(&found[0], &expected(&|_| 1.0 / rows as f64), 5e-6, &case);
            assert_close(
                &found[1],
                &expected(&|i| f64::from(weights[i])),
                5e-6,
                &case,
            );
        }
    }
}

#[test]
fn several_entries_of_a_table_add_up() {
    for device in all_devices() {
        for (entries, cols) in [(70, 6), (20, 33)] {
            let mut numbers = Numbers::new(12);
            let table = numbers.take(entries * cols);
            let ids: Vec<u32> = (0..12).map(|_| numbers.bits() % entries as u32).collect();
            let mut builder = StepBuilder::new(&device);
            let given = builder.input_ids(4, 3);
            let uploaded = matrix(&device, entries, cols, &table);
            let out = builder.embedding(&uploaded, given, None).unwrap();
            builder.output(out);
            let found = outputs(builder, &[], &[&ids], 1);
            let expected: Vec<f32> = ids
                .chunks(3)
                .flat_map(|ids| {
                    let entry = |col: usize| ids.iter().map(move |&id| id as usize * cols + col);
                    (0..cols)
                        .map(|col| entry(col).map(|at| table[at]).sum::<f32>())
                        .collect::<Vec<_>>()
                })
                .collect();
            let case = format!("embedding of several on {device:?}");
            assert_close(&found[0], &expected, 1e-6, &case);
        }
    }
}

/// Windows that a product takes from where they are give the same bits as windows that were laid out, and with `uniform` as
/// any other number of rows.
#[test]
fn windows_in_place_are_windows() {
    for device in all_devices() {
        for weight_type in WeightType::ALL {
            for (cols, kernel, dilation) in [(64, 7, 3), (32, 2, 1), (24, 3, 1), (10, 4, 2)] {
                let (rows, c_out) = (37, 40);
                let mut numbers = Numbers::new(13);
                let seen = rows + (kernel - 1) * dilation;
                let x = numbers.take(seen * cols);
                let values = numbers.take(c_out * kernel * cols);
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                let source = HostMatrix {
                    dtype: DType::F32,
                    rows: c_out,
                    cols: kernel * cols,
                    bytes: &bytes,
                    row_scales: None,
                    storage: None,
                };
                let weight = device.matrix(&[source], weight_type).unwrap();
                let conv = |first: usize, rows: usize| {
                    let mut builder = StepBuilder::new(&device).uniform();
                    let seen = rows + (kernel - 1) * dilation;
                    let input = builder.input(seen, cols);
                    let shape = ConvShape {
                        kernel,
                        dilation,
                        ..ConvShape::default()
                    };
                    let out = builder
                        .conv1d(input, &weight, None, Activation::None, shape)
                        .unwrap();
                    builder.output(out);
                    outputs(builder, &[&x[first * cols..][..seen * cols]], &[], 1).remove(0)
                };
                let mut builder = StepBuilder::new(&device).uniform();
                let windows = builder.input(rows, kernel * cols);
                let out = builder
                    .linear(windows, &weight, Epilogue::default())
                    .unwrap();
                builder.output(out);
                let laid_out: Vec<f32> = (0..rows)
                    .flat_map(|row| (0..kernel).map(move |tap| row + tap * dilation))
                    .flat_map(|row| x[row * cols..][..cols].to_vec())
                    .collect();
                let expected = outputs(builder, &[&laid_out], &[], 1).remove(0);
                let case = format!("{weight_type:?} {cols} {kernel} {dilation} on {device:?}");
                // Graphics processors add in other orders.
                let tolerance = if device.description().starts_with("cpu") {
                    0.0
                } else {
                    2e-4
                };
                assert_close(&conv(0, rows), &expected, tolerance, &case);
                let part = &expected[5 * c_out..7 * c_out];
                assert_close(&conv(5, 2), part, tolerance, &case);
            }
        }
    }
}

/// A snake behind a convolution, over some of the rows of a value: the same bits as one after the other on the processor.
#[test]
fn snakes_follow_convolutions_of_some_rows() {
    for device in all_devices() {
        for (cols, c_out, weight_type) in [(64, 33, WeightType::F32), (32, 40, WeightType::Bf16)] {
            let (rows, first, kernel) = (60, 7, 3);
            let mut numbers = Numbers::new(14);
            let (snake, ..) = snake_of(&device, c_out, &mut numbers);
            let x = numbers.take(rows * cols);
            let values = numbers.take(c_out * kernel * cols);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let source = HostMatrix {
                dtype: DType::F32,
                rows: c_out,
                cols: kernel * cols,
                bytes: &bytes,
                row_scales: None,
                storage: None,
            };
            let weight = device.matrix(&[source], weight_type).unwrap();
            let shape = ConvShape {
                kernel,
                ..ConvShape::default()
            };
            let mut builder = StepBuilder::new(&device);
            let input = builder.input(rows, cols);
            let whole = builder.add(input, 2.0, input, 0.0).unwrap();
            let some = builder.rows(whole, first, 40).unwrap();
            let both = builder
                .conv1d_then_snake(some, &weight, None, &snake, shape)
                .unwrap();
            let conv = builder
                .conv1d(some, &weight, None, Activation::None, shape)
                .unwrap();
            let after = builder.snake(conv, &snake).unwrap();
            let part = builder.columns(some, 2, 5).unwrap();
            let last = builder.rows(part, 3, 2).unwrap();
            for value in [both, after, last] {
                builder.output(value);
            }
            assert!(builder.rows(part, 39, 2).is_err());
            let found = outputs(builder, &[&x], &[], 3);
            let case = format!("{weight_type:?} on {device:?}");
            // The reference has the library's sine.
            let tolerance = if case.contains("scalar") || !case.contains("cpu") {
                1e-5
            } else {
                0.0
            };
            assert_close(&found[0], &found[1], tolerance, &case);
            let expected: Vec<f32> = (0..2)
                .flat_map(|row| (0..5).map(move |col| (first + 3 + row) * cols + 2 + col))
                .map(|at| 2.0 * x[at])
                .collect();
            assert_close(&found[2], &expected, 0.0, &format!("rows {case}"));
        }
    }
}
