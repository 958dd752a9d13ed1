//! Token choice on random logits: every device against the scalar one, and the distribution of draws.

use turaco_compute::{
    Bindings, ChooseTokens, Device, Epilogue, FilterTokens, Step, StepBuilder, WeightType,
};

use crate::support::{Numbers, all_devices, assert_close, devices, matrix_of};

struct Request<'a> {
    logits: &'a [f32],
    allowed: &'a [u32],
    seen: &'a [u32],
    controls: [f32; 3],
    seed: [u32; 2],
}

fn chooser(device: &Device, vocabulary: usize, prefer_from: u32, k: usize) -> Step {
    let mut builder = StepBuilder::new(device);
    let words = vocabulary.div_ceil(32);
    let logits = builder.input(1, vocabulary);
    let controls = builder.input(1, 3);
    let allowed = builder.input_ids(1, words);
    let seen = builder.input_ids(1, words);
    let seeds = builder.input_ids(1, 2);
    let choose = ChooseTokens {
        allowed,
        seen: Some(seen),
        controls,
        seeds,
        prefer_from,
        k,
    };
    let (tokens, logprobs) = builder.choose_tokens(logits, choose).unwrap();
    builder.output(logprobs);
    builder.output_ids(tokens);
    builder.finish().unwrap()
}

fn choose(step: &mut Step, request: &Request<'_>) -> (Vec<u32>, Vec<f32>) {
    step.run(&mut Bindings {
        inputs: &[request.logits, &request.controls],
        ids: &[request.allowed, request.seen, &request.seed],
        slots: &mut [],
    })
    .unwrap();
    (
        step.output_ids(0).unwrap().to_vec(),
        step.output(0).unwrap().to_vec(),
    )
}

#[test]
fn choices_agree() {
    let mut numbers = Numbers::new(1);
    for (vocabulary, prefer_from) in [
        (1_usize, 0),
        (3, 1),
        (31, 40),
        (33, 32),
        (100, 37),
        (1000, 900),
        (51_865, 50_364),
    ] {
        let words = vocabulary.div_ceil(32);
        for k in [1, 2, 5, 10] {
            if k > vocabulary {
                continue;
            }
            for temperature in [0.0, 0.3, 1.0] {
                for (penalty, prefer) in [(1.0, 0.0), (1.3, 1.0)] {
                    let mut logits: Vec<f32> =
                        numbers.take(vocabulary).iter().map(|x| x * 12.0).collect();
                    // Equal logits, and numbers that are none.
                    for index in (0..vocabulary).step_by(7) {
                        logits[index] = logits[index].round();
                    }
                    logits[vocabulary / 2] = f32::NAN;
                    logits[vocabulary / 3] = f32::NEG_INFINITY;
                    let bits = |numbers: &mut Numbers| -> Vec<u32> {
                        (0..words)
                            .map(|_| numbers.bits() | numbers.bits())
                            .collect()
                    };
                    let (allowed, seen) = (bits(&mut numbers), bits(&mut numbers));
                    let request = Request {
                        logits: &logits,
                        allowed: &allowed,
                        seen: &seen,
                        controls: [temperature, penalty, prefer],
                        seed: [numbers.bits(), numbers.bits()],
                    };
                    let mut expected: Option<(Vec<u32>, Vec<f32>)> = None;
                    for device in all_devices() {
                        let mut step = chooser(&device, vocabulary, prefer_from, k);
                        let found = choose(&mut step, &request);
                        let expected = expected.get_or_insert_with(|| found.clone());
                        let case = format!("{vocabulary} {k} {temperature} on {device:?}");
                        assert_eq!(found.0, expected.0, "{case}");
                        assert_close(&found.1, &expected.1, 2e-6, &case);
                        assert_eq!(choose(&mut step, &request), found, "{case}: replay");
                    }
                }
            }
        }
    }
}

/// Logits that are made in the same step: a norm, a linear map and the choice, which graphics processors do at once.
#[test]
fn choices_among_the_outputs_of_a_linear_map_agree() {
    let width = 40;
    let mut numbers = Numbers::new(3);
    for (rows, vocabulary, prefer_from) in [
        (1_usize, 1_usize, 0),
        (1, 33, 32),
        (1, 1000, 900),
        (2, 100, 37),
        (3, 5000, 4990),
        (7, 64, 70),
    ] {
        let words = vocabulary.div_ceil(32);
        let table = numbers.take(vocabulary * width);
        let x = numbers.take(rows * width);
        let gamma: Vec<f32> = numbers.take(width).iter().map(|x| 9.0 * x).collect();
        for (k, temperature, penalty, prefer) in [
            (1, 0.0, 1.0, 0.0),
            (1, 0.7, 1.3, 1.0),
            (5, 0.0, 1.3, 1.0),
            (7, 0.0, 1.0, 0.0),
            (8, 0.0, 1.0, 1.0),
        ] {
            if k > vocabulary {
                continue;
            }
            let mut bits = || -> Vec<u32> {
                (0..rows * words)
                    .map(|_| numbers.bits() | numbers.bits())
                    .collect()
            };
            let (allowed, seen) = (bits(), bits());
            let seeds: Vec<u32> = (0..2 * rows as u32).collect();
            let controls = [temperature, penalty, prefer];
            for device in all_devices() {
                // Of several rows, one type: every one is a shader to compile.
                let types = [WeightType::F32, WeightType::Int8, WeightType::Q4];
                let types = if rows == 1 { &types[..] } else { &types[..1] };
                for &weight_type in types {
                    let mut builder = StepBuilder::new(&device);
                    let input = builder.input(rows, width);
                    let wanted = ChooseTokens {
                        allowed: builder.input_ids(rows, words),
                        seen: Some(builder.input_ids(rows, words)),
                        controls: builder.input(rows, 3),
                        seeds: builder.input_ids(rows, 2),
                        prefer_from,
                        k,
                    };
                    let gamma = device.vector(&gamma).unwrap();
                    let normed = builder.rms_norm(input, &gamma, 1e-5).unwrap();
                    let table = matrix_of(&device, (vocabulary, width), &table, weight_type);
                    let logits = builder.linear(normed, &table, Epilogue::default()).unwrap();
                    let (tokens, logprobs) = builder.choose_tokens(logits, wanted).unwrap();
                    let chosen = builder.output(logprobs);
                    let asked = builder.output_on_demand(logits);
                    builder.output_ids(tokens);
                    let mut step = builder.finish().unwrap();
                    step.run(&mut Bindings {
                        inputs: &[&x, &controls.repeat(rows)],
                        ids: &[&allowed, &seen, &seeds],
                        slots: &mut [],
                    })
                    .unwrap();
                    // What the processor chooses of the same logits.
                    let logits = step.output(asked).unwrap();
                    let mut plain = chooser(&devices()[0], vocabulary, prefer_from, k);
                    for row in 0..rows {
                        let request = Request {
                            logits: &logits[row * vocabulary..][..vocabulary],
                            allowed: &allowed[row * words..][..words],
                            seen: &seen[row * words..][..words],
                            controls,
                            seed: [seeds[2 * row], seeds[2 * row + 1]],
                        };
                        let (tokens, logprobs) = choose(&mut plain, &request);
                        let case = format!(
                            "row {row} of {rows}, {vocabulary} {k} {temperature} {weight_type:?} on {device:?}"
                        );
                        let found = &step.output_ids(0).unwrap()[row * k..][..k];
                        assert_eq!(found, tokens, "{case}");
                        let found = &step.output(chosen).unwrap()[row * k..][..k];
                        assert_close(found, &logprobs, 5e-6, &case);
                    }
                }
            }
        }
    }
}

#[test]
fn draws_have_the_frequencies_of_the_softmax() {
    let device = &devices()[devices().len() / 2 - 1];
    let vocabulary = 50;
    let mut step = chooser(device, vocabulary, 0, 1);
    let mut numbers = Numbers::new(3);
    let logits: Vec<f32> = numbers.take(vocabulary).iter().map(|x| x * 2.0).collect();
    let temperature = 0.8;
    let (all, none) = ([u32::MAX; 2], [0; 2]);
    let weights: Vec<f64> = logits
        .iter()
        .map(|x| f64::from(x / temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    // Seeds that differ in few bits, as counters do.
    let draws = 40_000_u32;
    let mut counts = vec![0_u32; vocabulary];
    for draw in 0..draws {
        let request = Request {
            logits: &logits,
            allowed: &all,
            seen: &none,
            controls: [temperature, 1.0, 0.0],
            seed: [draw / 200, draw % 200],
        };
        counts[choose(&mut step, &request).0[0] as usize] += 1;
    }
    let chi_squared: f64 = counts
        .iter()
        .zip(&weights)
        .map(|(&count, weight)| {
            let expected = weight / total * f64::from(draws);
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum();
    // 49 degrees of freedom: mean 49, deviation 10; the seeds are fixed, so this never fails by chance.
    assert!(chi_squared < 90.0, "chi squared {chi_squared}: {counts:?}");
}

/// The rules of `FilterTokens`, over sorted logits and in f64.
fn filtered(logits: &[f32], allowed: &[u32], seen: &[u32], controls: [f32; 4]) -> Vec<f32> {
    let [temperature, penalty, top_k, top_p] = controls;
    let bit = |words: &[u32], token: usize| words[token / 32] >> (token % 32) & 1 != 0;
    let mut result: Vec<f32> = (logits.iter().enumerate())
        .map(|(token, &logit)| match bit(allowed, token) {
            true if !logit.is_nan() => match bit(seen, token) {
                true if logit > 0.0 => logit / penalty,
                true => logit * penalty,
                false => logit,
            },
            _ => f32::NEG_INFINITY,
        })
        .collect();
    if temperature == 0.0 {
        return result;
    }
    let mut order: Vec<f32> = result.iter().copied().filter(|x| x.is_finite()).collect();
    order.sort_by(|a, b| b.total_cmp(a));
    if top_k > 0.0 && (top_k as usize) < order.len() {
        let least = order[top_k as usize - 1];
        order.retain(|&x| x >= least);
    }
    let mass = |x: f32| f64::from(x / temperature).exp();
    let total: f64 = order.iter().map(|&x| mass(x)).sum();
    let left: Vec<f32> = (order.iter().enumerate())
        .filter(|&(nth, &x)| {
            let above: f64 = order.iter().filter(|&&y| y > x).map(|&y| mass(y)).sum();
            nth == 0 || x == order[0] || above < f64::from(top_p) * total || top_p >= 1.0
        })
        .map(|(_, &x)| x)
        .collect();
    for x in &mut result {
        if !left.contains(x) {
            *x = f32::NEG_INFINITY;
        }
    }
    result
}

#[test]
fn filters_keep_top_k_and_top_p() {
    let mut numbers = Numbers::new(5);
    for vocabulary in [1_usize, 3, 33, 100, 1000, 3072] {
        let words = vocabulary.div_ceil(32);
        for (temperature, top_k, top_p) in [
            (0.0, 5.0, 0.5),
            (0.9, 50.0, 1.0),
            (0.9, 0.0, 0.8),
            (0.7, 50.0, 0.9),
            (1.3, 1.0, 1.0),
            (1.0, 3.0, 0.0),
            (1.0, 1e6, 0.95),
        ] {
            let mut logits: Vec<f32> = numbers.take(vocabulary).iter().map(|x| x * 8.0).collect();
            for index in (0..vocabulary).step_by(5) {
                logits[index] = logits[index].round();
            }
            if vocabulary > 3 {
                logits[vocabulary / 2] = f32::NAN;
                logits[vocabulary / 3] = f32::NEG_INFINITY;
            }
            let bits = |numbers: &mut Numbers| -> Vec<u32> {
                (0..words)
                    .map(|_| numbers.bits() | numbers.bits() | 1)
                    .collect()
            };
            let (allowed, seen) = (bits(&mut numbers), bits(&mut numbers));
            let controls = [temperature, 1.05, top_k, top_p];
            let expected = filtered(&logits, &allowed, &seen, controls);
            for device in all_devices() {
                let mut builder = StepBuilder::new(&device);
                // Two rows, the second one without a filter.
                let given = builder.input(2, vocabulary);
                let filter = FilterTokens {
                    controls: builder.input(2, 4),
                    allowed: builder.input_ids(2, words),
                    seen: Some(builder.input_ids(2, words)),
                };
                let out = builder.filter_tokens(given, filter).unwrap();
                builder.output(out);
                let mut step = builder.finish().unwrap();
                let off = [1.0, 1.0, 0.0, 1.0];
                step.run(&mut Bindings {
                    inputs: &[&[&logits[..], &logits].concat(), &[controls, off].concat()],
                    ids: &[
                        &[&allowed[..], &allowed].concat(),
                        &[&seen[..], &seen].concat(),
                    ],
                    slots: &mut [],
                })
                .unwrap();
                let case = format!("{vocabulary} {controls:?} on {device:?}");
                let out = step.output(0).unwrap();
                let stays = |x: &[f32]| x.iter().map(|x| x.is_finite()).collect::<Vec<_>>();
                assert_eq!(stays(&out[..vocabulary]), stays(&expected), "{case}");
                for (found, expected) in out.iter().zip(&expected) {
                    let same = found == expected || (found - expected).abs() < 1e-5;
                    assert!(same, "{case}: {found} {expected}");
                }
                let off = filtered(&logits, &allowed, &seen, off);
                assert_eq!(out[vocabulary..], off, "{case}");
            }
        }
    }
}

#[test]
fn filtered_draws_have_the_frequencies_of_what_is_left() {
    let device = &devices()[devices().len() / 2 - 1];
    let vocabulary = 64;
    let mut numbers = Numbers::new(9);
    let logits: Vec<f32> = numbers.take(vocabulary).iter().map(|x| x * 3.0).collect();
    let (all, none) = ([u32::MAX; 2], [0; 2]);
    for (temperature, top_k, top_p) in [(0.9, 10.0, 1.0), (0.7, 0.0, 0.8), (1.1, 30.0, 0.9)] {
        let mut builder = StepBuilder::new(device);
        let given = builder.input(1, vocabulary);
        let controls = builder.input(1, 4);
        let choice = builder.input(1, 3);
        let (allowed, seen) = (builder.input_ids(1, 2), builder.input_ids(1, 2));
        let seeds = builder.input_ids(1, 2);
        let filter = FilterTokens {
            allowed,
            seen: Some(seen),
            controls,
        };
        let left = builder.filter_tokens(given, filter).unwrap();
        let choose = ChooseTokens {
            allowed,
            seen: None,
            controls: choice,
            seeds,
            prefer_from: 0,
            k: 1,
        };
        let (tokens, _) = builder.choose_tokens(left, choose).unwrap();
        builder.output_ids(tokens);
        let mut step = builder.finish().unwrap();
        let controls = [temperature, 1.0, top_k, top_p];
        let left = filtered(&logits, &all, &none, controls);
        let mass = |x: &f32| f64::from(x / temperature).exp();
        let total: f64 = left.iter().map(mass).sum();
        let draws = 20_000_u32;
        let mut counts = vec![0_u32; vocabulary];
        for draw in 0..draws {
            step.run(&mut Bindings {
                inputs: &[&logits, &controls, &[temperature, 1.0, 0.0]],
                ids: &[&all, &none, &[draw / 100, draw % 100]],
                slots: &mut [],
            })
            .unwrap();
            counts[step.output_ids(0).unwrap()[0] as usize] += 1;
        }
        let (mut chi_squared, mut kinds) = (0.0, 0.0);
        for (&count, x) in counts.iter().zip(&left) {
            let expected = mass(x) / total * f64::from(draws);
            if expected == 0.0 {
                assert_eq!(count, 0);
                continue;
            }
            kinds += 1.0;
            chi_squared += (f64::from(count) - expected).powi(2) / expected;
        }
        // Mean `kinds - 1`, five standard deviations.
        let limit = kinds - 1.0 + 5.0 * (2.0_f64 * (kinds - 1.0)).sqrt();
        assert!(chi_squared < limit, "{chi_squared} of {limit}");
    }
}
