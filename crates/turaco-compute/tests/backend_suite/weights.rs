//! Weights of every type on graphics processors: the same numbers as on the processor, and products with them.

use std::sync::Arc;

use turaco_compute::{
    Bindings, DType, Device, Epilogue, HostMatrix, Matrix, StepBuilder, WeightType,
};

use crate::support::{Numbers, assert_close, cards, devices, gpus};

fn upload(device: &Device, shape: (usize, usize), as_type: WeightType) -> Arc<Matrix> {
    let (rows, cols) = shape;
    let values = Numbers::new(21).take(rows * cols);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    // Two sources, one below the other.
    let upper = rows / 2;
    let (above, below) = bytes.split_at(4 * upper * cols);
    let source = |rows, bytes| HostMatrix {
        dtype: DType::F32,
        rows,
        cols,
        bytes,
        row_scales: None,
        storage: None,
    };
    let sources = [source(upper, above), source(rows - upper, below)];
    let sources = if upper == 0 { &sources[1..] } else { &sources };
    device.matrix(sources, as_type).unwrap()
}

/// All values of a matrix, by looking up its rows.
fn values(device: &Device, matrix: &Arc<Matrix>) -> Vec<f32> {
    let mut builder = StepBuilder::new(device);
    let ids = builder.input_ids(matrix.rows(), 1);
    let out = builder.embedding(matrix, ids, None).unwrap();
    builder.output(out);
    let mut step = builder.finish().unwrap();
    let all: Vec<u32> = (0..matrix.rows() as u32).collect();
    step.run(&mut Bindings {
        inputs: &[],
        ids: &[&all],
        slots: &mut [],
    })
    .unwrap();
    step.output(0).unwrap().to_vec()
}

/// Differences that are allowed in products of so many rows and inputs.
type Tolerance = fn(usize, usize) -> f32;

fn check(
    device: &Device,
    shape: (usize, usize),
    weight_type: WeightType,
    (rows, tolerance): (&[usize], Tolerance),
) {
    let (outputs, inputs) = shape;
    let case = format!("{outputs} x {inputs} {weight_type:?} on {device:?}");
    let matrix = upload(device, shape, weight_type);
    let found = values(device, &matrix);
    let processor = &devices()[0];
    let expected = values(processor, &upload(processor, shape, weight_type));
    assert_close(&found, &expected, 1e-6, &case);
    for &rows in rows {
        let x = Numbers::new(22).take(rows * inputs);
        let bias = Numbers::new(23).take(outputs);
        let mut builder = StepBuilder::new(device);
        let input = builder.input(rows, inputs);
        let epilogue = Epilogue::bias(&device.vector(&bias).unwrap());
        let out = builder.linear(input, &matrix, epilogue).unwrap();
        builder.output(out);
        let mut step = builder.finish().unwrap();
        step.run(&mut Bindings {
            inputs: &[&x],
            ids: &[],
            slots: &mut [],
        })
        .unwrap();
        let product: Vec<f32> = x
            .chunks(inputs)
            .flat_map(|x| {
                expected.chunks(inputs).zip(&bias).map(|(weights, bias)| {
                    let products = x.iter().zip(weights).map(|(x, w)| f64::from(x * w));
                    (products.sum::<f64>() + f64::from(*bias)) as f32
                })
            })
            .collect();
        let case = format!("{rows} rows by {case}");
        assert_close(
            step.output(0).unwrap(),
            &product,
            tolerance(rows, inputs),
            &case,
        );
    }
}

#[test]
fn all_weight_types_on_graphics_processors() {
    for device in gpus() {
        for weight_type in WeightType::ALL {
            let tolerance = gpu_tolerance(&device, weight_type);
            for shape in [(1, 1), (5, 3), (33, 31), (64, 96), (97, 131), (40, 1060)] {
                check(
                    &device,
                    shape,
                    weight_type,
                    (&[1, 2, 3, 7, 16, 65], tolerance),
                );
            }
        }
    }
}

/// Cooperative matrices of f16 round inputs and what weights stand for to 11 bits each.
fn gpu_tolerance(device: &Device, weight_type: WeightType) -> Tolerance {
    let kernels = device.kernels();
    let rounds = (kernels.iter()).any(|choice| choice.kernel.contains("of f16"));
    match weight_type {
        WeightType::F32 => |_, _| 2e-5,
        _ if !rounds => |_, _| 2e-5,
        _ => |rows, inputs| match rows {
            0..16 => 2e-5,
            _ => 6e-4 * (inputs as f32).sqrt(),
        },
    }
}

#[test]
fn all_weight_types_on_cards() {
    for device in cards() {
        for weight_type in WeightType::ALL {
            // Tensor cores take inputs of 10 or 7 bits of mantissa; a sum's error grows with the root of its length.
            let tolerance: Tolerance = match weight_type {
                WeightType::F32 => |_, _| 2e-5,
                WeightType::F16 => |rows, inputs| match rows {
                    0..=8 => 2e-5,
                    _ => 6e-4 * (inputs as f32).sqrt(),
                },
                _ => |rows, inputs| match rows {
                    0..=8 => 2e-5,
                    _ => 2.5e-3 * (inputs as f32).sqrt(),
                },
            };
            for shape in [(1, 1), (5, 3), (33, 31), (64, 96), (97, 131), (40, 1060)] {
                let rows = &[1, 2, 3, 7, 16, 40, 65, 130];
                check(&device, shape, weight_type, (rows, tolerance));
            }
        }
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn weights_beyond_the_largest_buffer_are_split() {
    let options = turaco_compute::GpuOptions {
        software: true,
        max_weights_buffer: Some(40_000),
        ..turaco_compute::GpuOptions::default()
    };
    let Ok(device) = Device::gpu(options) else {
        eprintln!("SKIPPED: no graphics processor");
        return;
    };
    for weight_type in WeightType::ALL {
        let tolerance = gpu_tolerance(&device, weight_type);
        check(&device, (130, 270), weight_type, (&[1, 3, 20], tolerance));
    }
    // 32 rows do not fit.
    let bytes = vec![0; 4 * 400];
    let source = HostMatrix {
        dtype: DType::F32,
        rows: 1,
        cols: 400,
        bytes: &bytes,
        row_scales: None,
        storage: None,
    };
    assert!(device.matrix(&[source], WeightType::F32).is_err());
}
