//! Every operation on one device, compared with another: what `turaco doctor` asks of a driver.

use std::sync::Arc;

use crate::device::{CacheShape, Device, HostMatrix, Matrix, WeightType};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Activation, AttentionShape, ChooseTokens, FilterTokens, Mask, Value};
use crate::step::{Bindings, ConvShape, Epilogue, SlotBinding, StepBuilder};

/// How far two devices are apart in one operation.
#[derive(Debug)]
pub struct Comparison {
    /// The operation.
    pub operation: &'static str,
    /// Largest difference, relative to the largest value; the error of a device that cannot do it.
    pub difference: Result<f32>,
    /// What rounding explains.
    pub allowed: f32,
}

impl Comparison {
    /// Whether the devices agree.
    pub fn passed(&self) -> bool {
        // Not the other way round: NaN is a difference.
        self.difference.as_ref().is_ok_and(|d| *d <= self.allowed)
    }
}

/// Do every operation on both devices; takes a moment for a device that compiles its shaders first.
pub fn compare(device: &Device, reference: &Device) -> Vec<Comparison> {
    CASES
        .iter()
        .map(|&(operation, allowed, case)| Comparison {
            operation,
            difference: case(device).and_then(|found| Ok(difference(&found, &case(reference)?))),
            allowed,
        })
        .collect()
}

type Case = (&'static str, f32, fn(&Device) -> Result<Vec<f32>>);

/// Integer types differ because the processor rounds activations to bytes; cooperative matrices round many rows to f16.
const CASES: [Case; 25] = [
    ("linear f32", 1e-5, |device| {
        linear(device, WeightType::F32, 3)
    }),
    ("linear f16", 1e-5, |device| {
        linear(device, WeightType::F16, 3)
    }),
    ("linear bf16", 2e-2, |device| {
        linear(device, WeightType::Bf16, 3)
    }),
    ("linear int8", 3e-2, |device| {
        linear(device, WeightType::Int8, 3)
    }),
    ("linear q8", 3e-2, |device| {
        linear(device, WeightType::Q8, 3)
    }),
    ("linear q4", 3e-2, |device| {
        linear(device, WeightType::Q4, 3)
    }),
    ("linear of many rows", 1e-5, |device| {
        linear(device, WeightType::F32, 70)
    }),
    ("linear of many rows f16", 2e-3, |device| {
        linear(device, WeightType::F16, 70)
    }),
    ("conv1d", 1e-5, conv1d),
    ("layer_norm", 1e-5, |device| {
        let (gamma, beta) = (
            device.vector(&noise(COLS, 2))?,
            device.vector(&noise(COLS, 3))?,
        );
        unary(device, |step, x| step.layer_norm(x, &gamma, &beta, 1e-5))
    }),
    ("rms_norm", 1e-5, |device| {
        let gamma = device.vector(&noise(COLS, 2))?;
        unary(device, |step, x| step.rms_norm(x, &gamma, 1e-5))
    }),
    ("rope", 1e-5, rope),
    ("attention", 1e-4, attention),
    ("cached attention f32", 1e-4, |device| {
        cached(device, DType::F32)
    }),
    ("cached attention f16", 1e-3, |device| {
        cached(device, DType::F16)
    }),
    ("activate", 1e-5, |device| {
        unary(device, |step, x| Ok(step.activate(x, Activation::Gelu)))
    }),
    ("swiglu", 1e-5, |device| {
        unary(device, |step, x| step.swiglu(x, x))
    }),
    ("add", 1e-6, |device| {
        unary(device, |step, x| step.add(x, 2.0, x, -0.5))
    }),
    ("add_table and embedding", 1e-6, tables),
    ("transpose and gather_rows", 0.0, rearranged),
    ("softmax", 1e-5, |device| {
        unary(device, |step, x| Ok(step.softmax(x)))
    }),
    ("magnitude", 1e-5, |device| {
        unary(device, |step, x| {
            let even = step.columns(x, 0, COLS - 1)?;
            step.magnitude(even)
        })
    }),
    ("lstm", 1e-5, lstm),
    ("filter_tokens", 1e-5, filter_tokens),
    ("choose_tokens", 1e-5, choose_tokens),
];

/// Odd sizes, so that tails are computed too.
const ROWS: usize = 5;
const COLS: usize = 131;

/// Numbers between -1 and 1 that are the same everywhere.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn difference(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::INFINITY;
    }
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let apart = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        // NaN counts as a difference.
        .fold(0.0_f32, |most, d| if d <= most { most } else { d });
    apart / largest.max(1e-9)
}

fn matrix(
    device: &Device,
    (rows, cols): (usize, usize),
    weight_type: WeightType,
    seed: u64,
) -> Result<Arc<Matrix>> {
    let values = noise(rows * cols, seed);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let source = HostMatrix {
        dtype: DType::F32,
        rows,
        cols,
        bytes: &bytes,
        row_scales: None,
        storage: None,
    };
    device.matrix(&[source], weight_type)
}

/// Run a recording without states and give its only output.
fn run(builder: StepBuilder, inputs: &[&[f32]], ids: &[&[u32]]) -> Result<Vec<f32>> {
    let mut step = builder.finish()?;
    step.run(&mut Bindings {
        inputs,
        ids,
        slots: &mut [],
    })?;
    Ok(step.output(0)?.to_vec())
}

fn unary(
    device: &Device,
    record: impl FnOnce(&mut StepBuilder, Value) -> Result<Value>,
) -> Result<Vec<f32>> {
    let mut builder = StepBuilder::new(device);
    let x = builder.input(ROWS, COLS);
    let out = record(&mut builder, x)?;
    builder.output(out);
    run(builder, &[&noise(ROWS * COLS, 1)], &[])
}

fn linear(device: &Device, weight_type: WeightType, rows: usize) -> Result<Vec<f32>> {
    let weight = matrix(device, (97, COLS), weight_type, 2)?;
    let bias = device.vector(&noise(97, 3))?;
    let mut builder = StepBuilder::new(device);
    let x = builder.input(rows, COLS);
    let epilogue = Epilogue::bias(&bias).activation(Activation::Silu);
    let out = builder.linear(x, &weight, epilogue)?;
    builder.output(out);
    run(builder, &[&noise(rows * COLS, 1)], &[])
}

fn conv1d(device: &Device) -> Result<Vec<f32>> {
    let weight = matrix(device, (33, 3 * COLS), WeightType::F32, 2)?;
    let conv = ConvShape {
        n_sequences: 1,
        kernel: 3,
        stride: 2,
        padding: (1, 1),
        ..ConvShape::default()
    };
    unary(device, |step, x| {
        step.conv1d(x, &weight, None, Activation::None, conv)
    })
}

fn rope(device: &Device) -> Result<Vec<f32>> {
    let mut builder = StepBuilder::new(device);
    let x = builder.input(ROWS, 128);
    let positions = builder.input_ids(ROWS, 1);
    let out = builder.rope(x, positions, 64, 10_000.0, false)?;
    builder.output(out);
    let x = noise(ROWS * 128, 1);
    run(builder, &[&x], &[&[0, 1, 100, 1000, 30_000]])
}

const HEADS: AttentionShape = AttentionShape {
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 64,
    scale: 0.125,
    mask: Mask::Causal,
};

fn attention(device: &Device) -> Result<Vec<f32>> {
    let mut builder = StepBuilder::new(device);
    let (q, k, v) = (
        builder.input(70, 256),
        builder.input(70, 128),
        builder.input(70, 128),
    );
    let out = builder.attention(q, k, v, 1, HEADS)?;
    builder.output(out);
    let (q, k, v) = (noise(70 * 256, 1), noise(70 * 128, 2), noise(70 * 128, 3));
    run(builder, &[&q, &k, &v], &[])
}

/// Many rows, then one, whose keys may be shared out.
fn cached(device: &Device, dtype: DType) -> Result<Vec<f32>> {
    let shape = CacheShape {
        n_layers: 2,
        capacity: 402,
        kv_dim: 128,
        head_dim: HEADS.head_dim,
        dtype,
    };
    let mut cache = device.kv_cache(shape)?;
    let mut results = Vec::new();
    for rows in [400, 1] {
        let mut builder = StepBuilder::new(device);
        let (q, k, v) = (
            builder.input(rows, 256),
            builder.input(rows, 128),
            builder.input(rows, 128),
        );
        let slot = builder.cache_slot();
        builder.cache_append(slot, 1, k, v)?;
        let out = builder.cached_attention(q, slot, 1, 1, HEADS)?;
        builder.output(out);
        let mut step = builder.finish()?;
        let given = [
            noise(rows * 256, 1),
            noise(rows * 128, 2),
            noise(rows * 128, 3),
        ];
        step.run(&mut Bindings {
            inputs: &[&given[0], &given[1], &given[2]],
            ids: &[],
            slots: &mut [SlotBinding::Write(&mut [&mut cache])],
        })?;
        results.extend_from_slice(step.output(0)?);
    }
    Ok(results)
}

fn tables(device: &Device) -> Result<Vec<f32>> {
    let table = matrix(device, (ROWS, COLS), WeightType::F16, 2)?;
    let mut builder = StepBuilder::new(device);
    let ids = builder.input_ids(2 * ROWS, 1);
    let x = builder.embedding(&table, ids, None)?;
    let out = builder.add_table(x, &table)?;
    builder.output(out);
    run(builder, &[], &[&[0, 4, 2, 2, 1, 3, 3, 0, 1, 4]])
}

fn rearranged(device: &Device) -> Result<Vec<f32>> {
    let mut builder = StepBuilder::new(device);
    let x = builder.input(ROWS, COLS);
    let rows = builder.input_ids(3, 1);
    let turned = builder.transpose(x, 1)?;
    let out = builder.gather_rows(turned, rows)?;
    builder.output(out);
    run(builder, &[&noise(ROWS * COLS, 1)], &[&[130, 0, 64]])
}

fn lstm(device: &Device) -> Result<Vec<f32>> {
    let w_ih = matrix(device, (4 * 64, COLS), WeightType::F32, 2)?;
    let w_hh = matrix(device, (4 * 64, 64), WeightType::F32, 3)?;
    let bias = device.vector(&noise(4 * 64, 4))?;
    let mut state = device.state_buffer(2 * 64)?;
    let mut builder = StepBuilder::new(device);
    let x = builder.input(ROWS, COLS);
    let slot = builder.buffer_slot();
    let out = builder.lstm(x, &w_ih, &w_hh, &bias, slot)?;
    builder.output(out);
    let mut step = builder.finish()?;
    step.run(&mut Bindings {
        inputs: &[&noise(ROWS * COLS, 1)],
        ids: &[],
        slots: &mut [SlotBinding::Buffer(&mut state)],
    })?;
    let mut results = step.output(0)?.to_vec();
    results.extend(device.read_buffer(&state)?);
    Ok(results)
}

/// Top-k and top-p; what is left out counts as 0.
fn filter_tokens(device: &Device) -> Result<Vec<f32>> {
    let vocabulary = 1000;
    let mut builder = StepBuilder::new(device);
    let logits = builder.input(2, vocabulary);
    let filter = FilterTokens {
        controls: builder.input(2, 4),
        allowed: builder.input_ids(2, vocabulary.div_ceil(32)),
        seen: None,
    };
    let out = builder.filter_tokens(logits, filter)?;
    builder.output(out);
    let mut step = builder.finish()?;
    let logits: Vec<f32> = noise(2 * vocabulary, 1).iter().map(|x| 8.0 * x).collect();
    let bits = vec![0x7777_7777; 2 * vocabulary.div_ceil(32)];
    step.run(&mut Bindings {
        inputs: &[&logits, &[0.9, 1.0, 50.0, 1.0, 0.8, 1.0, 0.0, 0.9]],
        ids: &[&bits],
        slots: &mut [],
    })?;
    let kept = |x: &f32| if x.is_finite() { *x } else { 0.0 };
    Ok(step.output(0)?.iter().map(kept).collect())
}

/// Greedy and drawn: the tokens and their log-probabilities.
fn choose_tokens(device: &Device) -> Result<Vec<f32>> {
    let vocabulary = 1000;
    let mut builder = StepBuilder::new(device);
    let logits = builder.input(2, vocabulary);
    let controls = builder.input(2, 3);
    let allowed = builder.input_ids(2, vocabulary.div_ceil(32));
    let seeds = builder.input_ids(2, 2);
    let choose = ChooseTokens {
        allowed,
        seen: None,
        controls,
        seeds,
        prefer_from: 900,
        k: 1,
    };
    let (tokens, logprobs) = builder.choose_tokens(logits, choose)?;
    builder.output(logprobs);
    builder.output_ids(tokens);
    let mut step = builder.finish()?;
    let logits: Vec<f32> = noise(2 * vocabulary, 1).iter().map(|x| 8.0 * x).collect();
    let bits = vec![0x7777_7777; 2 * vocabulary.div_ceil(32)];
    step.run(&mut Bindings {
        inputs: &[&logits, &[0.0, 1.0, 1.0, 0.8, 1.0, 0.0]],
        ids: &[&bits, &[1, 2, 3, 4]],
        slots: &mut [],
    })?;
    let mut results = step.output(0)?.to_vec();
    results.extend(step.output_ids(0)?.iter().map(|&token| token as f32));
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{CpuOptions, isa::Isa};

    #[test]
    fn the_processor_agrees_with_its_plain_kernels() {
        let plain = Device::cpu(CpuOptions {
            isa: Some(Isa::Scalar),
            ..CpuOptions::default()
        });
        for comparison in compare(&Device::cpu(CpuOptions::default()), &plain) {
            assert!(comparison.passed(), "{comparison:?}");
        }
    }
}
