//! Products of cooperative matrices: those that the adapter offers, and imitated ones, which run everywhere.

use std::sync::Arc;

use super::super::adapter::{Fault, GpuOptions, wait};
use super::super::{Context, GpuBackend};
use super::*;
use crate::device::{Device, Matrix};
use crate::graph::Activation;
use crate::self_test::noise;
use crate::step::{Bindings, ConvShape, Epilogue, StepBuilder};

/// An open adapter; nothing where there is none at all.
fn open(options: GpuOptions) -> Option<Context> {
    let options = GpuOptions {
        software: true,
        ..options
    };
    wait(Context::open(&options))
        .inspect_err(|error| eprintln!("SKIPPED: {error}"))
        .ok()
}

/// A device that makes products of these matrices, or of none; they have been tried.
fn device(mut context: Context, kind: Option<Cooperative>) -> Device {
    context.matrices = kind.into_iter().collect();
    assert_eq!(context.trials().chosen, kind, "{:?}", context.trials());
    Device(Arc::new(GpuBackend {
        context: Arc::new(context),
        pool: Pool::new(1),
    }))
}

/// Imitated matrices of each size. Software devices take seconds for one shader, so these are few.
fn imitated() -> [Cooperative; 2] {
    let imitated = |size, half, threads, lanes| Cooperative {
        size,
        half,
        threads,
        imitated: Some(lanes),
    };
    [imitated(8, false, 32, 8), imitated(16, true, 32, 16)]
}

/// The one type of weights that these imitated matrices are tried with.
fn imitated_type(kind: Cooperative) -> WeightType {
    if kind.half {
        WeightType::Int8
    } else {
        WeightType::F32
    }
}

/// All that can be tried on an adapter.
fn kinds(context: &Context) -> Vec<Cooperative> {
    let fits = |kind: &Cooperative| context.extras.half || !kind.half;
    let offered = context.matrices.iter().copied();
    offered.chain(imitated()).filter(fits).collect()
}

fn matrix(
    device: &Device,
    (rows, cols): (usize, usize),
    values: &[f32],
    weight_type: WeightType,
) -> Arc<Matrix> {
    let source = HostMatrix {
        dtype: DType::F32,
        rows,
        cols,
        bytes: bytemuck::cast_slice(values),
        row_scales: None,
        storage: None,
    };
    device.matrix(&[source], weight_type).unwrap()
}

/// `gelu(x W^T + bias) + residual`.
fn linear(
    device: &Device,
    (rows, inputs, outputs): (usize, usize, usize),
    weight_type: WeightType,
) -> Vec<f32> {
    let weights = noise(outputs * inputs, 1);
    let weights = matrix(device, (outputs, inputs), &weights, weight_type);
    let bias = device.vector(&noise(outputs, 2)).unwrap();
    let mut step = StepBuilder::new(device);
    let x = step.input(rows, inputs);
    let residual = step.input(rows, outputs);
    let epilogue = Epilogue::bias(&bias)
        .activation(Activation::Gelu)
        .residual(residual);
    let out = step.linear(x, &weights, epilogue).unwrap();
    step.output(out);
    let mut step = step.finish().unwrap();
    let (x, residual) = (noise(rows * inputs, 3), noise(rows * outputs, 4));
    step.run(&mut Bindings {
        inputs: &[&x, &residual],
        ids: &[],
        slots: &mut [],
    })
    .unwrap();
    step.output(0).unwrap().to_vec()
}

/// Differences relative to the largest value, of products of so many inputs between -1 and 1.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], kind: Cooperative, case: &str) {
    let largest = expected.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    let allowed = if kind.half { 1e-3 } else { 1e-5 } * largest;
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (found - expected).abs();
        assert!(
            apart <= allowed,
            "{case} of {kind:?}: value {index} is {found}, not {expected}"
        );
    }
}

#[test]
fn products_of_all_weights_and_odd_sizes_are_as_without() {
    let Some(context) = open(GpuOptions::default()) else {
        return;
    };
    let kinds = kinds(&context);
    let plain = device(context, None);
    let sizes = [(16, 1, 1), (17, 3, 33), (64, 64, 64), (65, 131, 97)];
    for kind in kinds {
        let Some(context) = open(GpuOptions::default()) else {
            return;
        };
        let device = device(context, Some(kind));
        for weight_type in WeightType::ALL {
            // What is staged depends on the type, the rest does not.
            let plain_type = [WeightType::F32, WeightType::F16].contains(&weight_type);
            let sizes = match kind.imitated {
                None if plain_type => &sizes[..],
                None => &sizes[3..],
                Some(_) if weight_type == imitated_type(kind) => &sizes[2..],
                Some(_) => continue,
            };
            for &size in sizes {
                let found = linear(&device, size, weight_type);
                let expected = linear(&plain, size, weight_type);
                let case = format!("{weight_type:?} {size:?}");
                assert_close(&found, &expected, kind, &case);
            }
        }
    }
}

#[test]
fn convolutions_are_as_without() {
    let Some(context) = open(GpuOptions::default()) else {
        return;
    };
    let kinds = kinds(&context);
    let plain = device(context, None);
    let run = |device: &Device, weight_type| {
        let (n_sequences, frames, channels, kernel, outputs) = (2, 40, 5, 3, 37);
        let weights = noise(outputs * kernel * channels, 5);
        let weights = matrix(device, (outputs, kernel * channels), &weights, weight_type);
        let bias = device.vector(&noise(outputs, 6)).unwrap();
        let mut step = StepBuilder::new(device);
        let x = step.input(n_sequences * frames, channels);
        let shape = ConvShape {
            n_sequences,
            kernel,
            stride: 2,
            padding: (1, 1),
            ..ConvShape::default()
        };
        let out = step
            .conv1d(x, &weights, Some(&bias), Activation::Relu, shape)
            .unwrap();
        step.output(out);
        let mut step = step.finish().unwrap();
        let x = noise(n_sequences * frames * channels, 7);
        step.run(&mut Bindings {
            inputs: &[&x],
            ids: &[],
            slots: &mut [],
        })
        .unwrap();
        step.output(0).unwrap().to_vec()
    };
    for kind in kinds {
        let Some(context) = open(GpuOptions::default()) else {
            return;
        };
        let device = device(context, Some(kind));
        for weight_type in [WeightType::F32, WeightType::F16] {
            if kind.imitated.is_some() && weight_type != imitated_type(kind) {
                continue;
            }
            let found = run(&device, weight_type);
            let expected = run(&plain, weight_type);
            assert_close(&found, &expected, kind, &format!("{weight_type:?}"));
        }
    }
}

#[test]
fn rows_and_weights_beyond_f16_are_scaled() {
    let Some(context) = open(GpuOptions::default()) else {
        return;
    };
    let (rows, inputs, outputs) = (70, 40, 33);
    let kinds: Vec<_> = (kinds(&context).into_iter())
        .filter(|kind| kind.half)
        .collect();
    for kind in kinds {
        let Some(context) = open(GpuOptions::default()) else {
            return;
        };
        let device = device(context, Some(kind));
        for (of_rows, of_weights) in [(1e30, 1e-20), (1e-30, 1e25), (3e-12, 1e-12)] {
            let mut weights = noise(outputs * inputs, 8);
            weights.iter_mut().for_each(|weight| *weight *= of_weights);
            // Types whose own factors are f16 cannot be so large.
            for weight_type in [WeightType::Bf16, WeightType::Int8] {
                let weights = matrix(&device, (outputs, inputs), &weights, weight_type);
                let mut step = StepBuilder::new(&device);
                let input = step.input(rows, inputs);
                let out = (step.linear(input, &weights, Epilogue::default())).unwrap();
                step.output(out);
                let mut step = step.finish().unwrap();
                let mut x = noise(rows * inputs, 9);
                // Zeros, and one that is not finite.
                x[..inputs].fill(0.0);
                x.iter_mut().for_each(|x| *x *= of_rows);
                x[inputs + 3] = f32::INFINITY;
                step.run(&mut Bindings {
                    inputs: &[&x],
                    ids: &[],
                    slots: &mut [],
                })
                .unwrap();
                let out = step.output(0).unwrap();
                let case = format!("{weight_type:?} {of_rows:e} {of_weights:e}");
                assert!(out[..outputs].iter().all(|x| *x == 0.0), "{case}");
                assert!(
                    out[outputs..2 * outputs].iter().all(|x| !x.is_finite()),
                    "{case}"
                );
                let unit = of_rows * of_weights;
                let rest: Vec<f32> = out[2 * outputs..].iter().map(|x| x / unit).collect();
                let weights = noise(outputs * inputs, 8);
                let expected: Vec<f32> = (x[2 * inputs..].chunks(inputs))
                    .flat_map(|x| {
                        weights.chunks(inputs).map(move |weights| {
                            let products = x.iter().zip(weights).map(|(x, w)| x / of_rows * w);
                            products.sum::<f32>()
                        })
                    })
                    .collect();
                for (found, expected) in rest.iter().zip(&expected) {
                    // What weights lose in their own type.
                    assert!(
                        (found - expected).abs() < 0.05,
                        "{case}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn wrong_matrices_are_not_used_and_said() {
    let options = GpuOptions {
        fault: Some(Fault::Matrices(1)),
        ..GpuOptions::default()
    };
    let Some(mut context) = open(options) else {
        return;
    };
    let [wrong, _] = imitated();
    let right = Cooperative {
        threads: 48,
        ..wrong
    };
    context.matrices = vec![wrong, right];
    assert_eq!(context.cooperative(WeightType::F32), Some(right));
    let [refused] = &context.trials().refused.clone()[..] else {
        panic!("{:?}", context.trials());
    };
    assert!(
        refused.contains("8x8 of f32: products were wrong"),
        "{refused}"
    );
    let device = Device(Arc::new(GpuBackend {
        context: Arc::new(context),
        pool: Pool::new(1),
    }));
    assert!((device.kernels().iter()).any(|choice| choice.kernel == *refused));
}

#[test]
fn verdicts_are_kept_by_the_version_of_the_driver() {
    let folder = std::env::temp_dir().join(format!("turaco-matrices-{}", std::process::id()));
    let Some(mut context) = open(GpuOptions::default()) else {
        return;
    };
    let [kind, ..] = imitated();
    context.matrices = vec![kind];
    let verdicts = |driver: &str| Verdicts::new(folder.join("adapter"), driver);
    let trials = |driver: &str, wrong| Trials::make(&context, Some(&verdicts(driver)), wrong);
    let pipelines = || context.counters.activity().pipelines;
    assert_eq!(trials("first", 0).chosen, Some(kind));
    assert_eq!(pipelines(), 1);
    let submissions = context.counters.activity().submissions;
    // What is known is not tried.
    assert_eq!(trials("first", 1).chosen, Some(kind));
    assert_eq!(context.counters.activity().submissions, submissions);
    // Another driver is, and what came of it is known too.
    for wrong in [1, 0] {
        let trials = trials("second", wrong);
        assert_eq!(trials.chosen, None);
        assert!(
            trials.refused[0].contains("products were wrong"),
            "{trials:?}"
        );
    }
    // As is one that took the program with it.
    verdicts("third").write(kind, UNFINISHED);
    let found = trials("third", 0);
    assert!(found.refused[0].contains("did not end"), "{found:?}");
    assert!(found.refused[0].contains("8xf32.matrices"), "{found:?}");
    std::fs::remove_file(verdicts("third").file(kind)).unwrap();
    assert_eq!(trials("third", 0).chosen, Some(kind));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_exact_or_fast_comes_first() {
    use wgpu::CooperativeScalarType::{F16, F32, I32};
    let properties = |size: [u32; 3], ab_type, cr_type| wgpu::CooperativeMatrixProperties {
        m_size: size[0],
        n_size: size[1],
        k_size: size[2],
        ab_type,
        cr_type,
        saturating_accumulation: false,
    };
    let found = |list: &[_], with_f16| choice(list, with_f16).collect::<Vec<_>>();
    let apple = [
        properties([8; 3], F32, F32),
        properties([8; 3], F16, F16),
        properties([8; 3], F16, F32),
    ];
    assert_eq!(found(&apple, true), [(8, false), (8, true)]);
    assert_eq!(found(&apple, false), [(8, false)]);
    let card = [
        properties([16, 8, 16], F16, F32),
        properties([16; 3], F16, F16),
        properties([16; 3], F16, F32),
    ];
    assert_eq!(found(&card, true), [(16, true)]);
    assert_eq!(found(&card, false), []);
    // Not square, or not of numbers with fractions.
    let others = [
        properties([8, 16, 16], F16, F32),
        properties([16; 3], I32, I32),
    ];
    assert_eq!(found(&others, true), []);
}
