//! Maps of few rows, cut as those of large models are, on new cards and on old ones: more panels of outputs than processors, rows of
//! inputs that are put in place in several parts, and those for which there is more room.

use turaco_compute::{Bindings, CpuOptions, Device, Epilogue, StepBuilder, WeightType};

use super::{Behaviour, Card, matrix_of, numbers, open};

/// What the weights stand for, row by row.
fn weights(shape: (usize, usize), weight_type: WeightType) -> Vec<f64> {
    let device = Device::cpu(CpuOptions::default());
    let matrix = matrix_of(&device, shape, &numbers(shape.0 * shape.1, 1), weight_type).unwrap();
    let mut builder = StepBuilder::new(&device);
    let ids = builder.input_ids(shape.0, 1);
    let rows = builder.embedding(&matrix, ids, None).unwrap();
    builder.output(rows);
    let mut step = builder.finish().unwrap();
    let all: Vec<u32> = (0..shape.0 as u32).collect();
    let mut bindings = Bindings {
        inputs: &[],
        ids: &[&all],
        slots: &mut [],
    };
    step.run(&mut bindings).unwrap();
    step.output(0)
        .unwrap()
        .iter()
        .map(|&x| f64::from(x))
        .collect()
}

fn check(device: &Device, shape: (usize, usize), weight_type: WeightType, rows: &[usize]) {
    const EPS: f32 = 1e-5;
    let (outputs, inputs) = shape;
    let weights = weights(shape, weight_type);
    let matrix = matrix_of(device, shape, &numbers(outputs * inputs, 1), weight_type).unwrap();
    let gamma = numbers(inputs, 2);
    for &rows in rows {
        let x = numbers(rows * inputs, 3);
        for is_normed in [false, true] {
            let mut builder = StepBuilder::new(device);
            let mut value = builder.input(rows, inputs);
            if is_normed {
                let gamma = device.vector(&gamma).unwrap();
                value = builder.rms_norm(value, &gamma, EPS).unwrap();
            }
            let out = builder.linear(value, &matrix, Epilogue::default()).unwrap();
            builder.output(out);
            let mut step = builder.finish().unwrap();
            let mut bindings = Bindings {
                inputs: &[&x],
                ids: &[],
                slots: &mut [],
            };
            step.run(&mut bindings).unwrap();
            let found = step.output(0).unwrap();
            for (x, found) in x.chunks(inputs).zip(found.chunks(outputs)) {
                let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let factor = 1.0 / (squares / inputs as f64 + f64::from(EPS)).sqrt();
                let input = |i: usize| match is_normed {
                    true => f64::from(x[i]) * f64::from(gamma[i]) * factor,
                    false => f64::from(x[i]),
                };
                for (nth, &found) in found.iter().enumerate() {
                    let row = &weights[nth * inputs..][..inputs];
                    let expected: f64 = (row.iter().enumerate()).map(|(i, w)| w * input(i)).sum();
                    assert!(
                        (f64::from(found) - expected).abs() <= 1e-5 * (inputs as f64).sqrt(),
                        "{shape:?} {weight_type:?}, {rows} rows, normed: {is_normed}, output {nth}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn maps_of_all_sizes_follow_the_formula() {
    let Some(card) = Card::new() else { return };
    card.behave(Behaviour::Processors(4));
    let device = open();
    for weight_type in WeightType::ALL {
        for shape in [(300, 1060), (40, 9000)] {
            check(&device, shape, weight_type, &[1, 8]);
        }
    }
}

#[test]
fn older_cards_follow_the_formula() {
    let Some(card) = Card::new() else { return };
    card.behave(Behaviour::Processors(4));
    // Less shared memory, and no tensor cores of bf16.
    for capability in [86, 75] {
        card.behave(Behaviour::Capability(capability));
        let device = open();
        for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Q4] {
            for shape in [(300, 1060), (40, 9000)] {
                check(&device, shape, weight_type, &[1]);
            }
        }
        card.behave(Behaviour::Capability(90));
    }
}
