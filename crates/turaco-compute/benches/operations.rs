//! Times of the operations other than linear maps, on the shapes of our models: medians with one and with all
//! threads, and for attention the share of the multiply-add peak measured in the same run.
//!
//! `cargo bench -p turaco-compute --bench operations [-- part of a name]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use turaco_compute::{
    AttentionShape, Bindings, CacheShape, ChooseTokens, CpuOptions, DType, Device, KvCache, Mask,
    Precision, SlotBinding, Step, StepBuilder,
};

fn main() {
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    for threads in [1, 0] {
        let options = CpuOptions {
            threads,
            ..CpuOptions::default()
        };
        let device = Device::cpu(options);
        let fast = Device::cpu(CpuOptions {
            precision: Precision::Fast,
            ..options
        });
        println!("\n{}", device.description());
        for (model, heads) in [("tiny", 6), ("base", 8)] {
            if wanted("encoder attention") {
                encoder_attention(&device, model, heads);
                encoder_attention(&fast, &format!("{model} bf16"), heads);
            }
            if wanted("append") {
                append(&device, model, heads);
            }
            if wanted("cross attention") {
                for dtype in [DType::F32, DType::F16, DType::Bf16] {
                    single_query(
                        &device,
                        &format!("{model} cross attention {dtype}"),
                        heads,
                        heads,
                        1500,
                        dtype,
                    );
                }
            }
            if wanted("self attention") {
                single_query(
                    &device,
                    &format!("{model} self attention 100"),
                    heads,
                    heads,
                    100,
                    DType::F16,
                );
            }
            if wanted("layer_norm") {
                layer_norm(&device, 1500, heads * 64);
                layer_norm(&device, 1, heads * 64);
            }
        }
        if wanted("grouped") {
            single_query(
                &device,
                "grouped attention 32/8 x 128, 4096",
                32,
                8,
                4096,
                DType::F16,
            );
        }
        if wanted("choose_tokens") {
            for (k, temperature) in [(1, 0.0), (5, 0.0), (10, 0.0), (1, 1.0)] {
                choose_tokens(&device, k, temperature);
            }
        }
    }
}

/// Median time of many runs, after a few to warm up.
fn median(mut run: impl FnMut()) -> Duration {
    let begin = Instant::now();
    run();
    run();
    let each = begin.elapsed() / 2;
    let count = (Duration::from_millis(400).as_nanos() / each.as_nanos().max(1)).clamp(11, 20_001);
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn time(step: &mut Step, inputs: &[&[f32]], ids: &[&[u32]]) -> Duration {
    median(|| {
        step.run(&mut Bindings {
            inputs,
            ids,
            slots: &mut [],
        })
        .expect("a valid step");
        black_box(step.output(0).expect("one output"));
    })
}

fn encoder_attention(device: &Device, model: &str, heads: usize) {
    let (rows, cols) = (1500, heads * 64);
    let shape = AttentionShape {
        n_heads: heads,
        n_kv_heads: heads,
        head_dim: 64,
        scale: 0.125,
        mask: Mask::Full,
    };
    let mut builder = StepBuilder::new(device);
    let qkv = builder.input(rows, 3 * cols);
    let [q, k, v] = [0, 1, 2].map(|i| builder.columns(qkv, i * cols, cols).expect("columns"));
    let out = builder.attention(q, k, v, 1, shape).expect("shapes");
    builder.output(out);
    let time = time(
        &mut builder.finish().expect("memory"),
        &[&numbers(rows * 3 * cols)],
        &[],
    );
    let flops = 4.0 * (rows * rows * cols) as f64;
    println!(
        "{model} encoder attention, one layer: {:.2} ms, {:.0} GFLOP/s",
        time.as_secs_f64() * 1e3,
        flops / time.as_secs_f64() / 1e9
    );
}

fn append(device: &Device, model: &str, heads: usize) {
    let (rows, cols) = (1500, heads * 64);
    let shape = CacheShape {
        n_layers: 1,
        capacity: rows,
        kv_dim: cols,
        dtype: DType::F16,
    };
    let mut cache = device.kv_cache(shape).expect("memory");
    let mut builder = StepBuilder::new(device);
    let k = builder.input(rows, cols);
    let slot = builder.cache_slot();
    builder.cache_append(slot, 0, k, k).expect("shapes");
    builder.output(k);
    let mut step = builder.finish().expect("memory");
    let input = numbers(rows * cols);
    let time = median(|| {
        cache.truncate(0);
        let slots = &mut [SlotBinding::Write(&mut [&mut cache])];
        step.run(&mut Bindings {
            inputs: &[&input],
            ids: &[],
            slots,
        })
        .expect("a valid step");
    });
    println!(
        "{model} append of 1500 keys and values, one layer: {:.0} us",
        micros(time)
    );
}

fn filled(device: &Device, keys: usize, cols: usize, dtype: DType) -> KvCache {
    let shape = CacheShape {
        n_layers: 1,
        capacity: keys,
        kv_dim: cols,
        dtype,
    };
    let mut cache = device.kv_cache(shape).expect("memory");
    let mut builder = StepBuilder::new(device);
    let k = builder.input(keys, cols);
    let slot = builder.cache_slot();
    builder.cache_append(slot, 0, k, k).expect("shapes");
    let slots = &mut [SlotBinding::Write(&mut [&mut cache])];
    let input = numbers(keys * cols);
    let bindings = &mut Bindings {
        inputs: &[&input],
        ids: &[],
        slots,
    };
    builder
        .finish()
        .expect("memory")
        .run(bindings)
        .expect("a valid step");
    cache
}

fn single_query(
    device: &Device,
    name: &str,
    n_heads: usize,
    n_kv_heads: usize,
    keys: usize,
    dtype: DType,
) {
    let head_dim = if n_heads == n_kv_heads { 64 } else { 128 };
    let shape = AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim,
        scale: 0.1,
        mask: Mask::Full,
    };
    // As many caches as layers, so that each is as cold as in a model.
    let caches: Vec<KvCache> = (0..6)
        .map(|_| filled(device, keys, n_kv_heads * head_dim, dtype))
        .collect();
    let mut builder = StepBuilder::new(device);
    let mut q = builder.input(1, n_heads * head_dim);
    let slots: Vec<_> = caches.iter().map(|_| builder.shared_cache_slot()).collect();
    for slot in slots {
        q = builder
            .cached_attention(q, slot, 0, 1, shape)
            .expect("shapes");
    }
    builder.output(q);
    let mut step = builder.finish().expect("memory");
    let input = numbers(n_heads * head_dim);
    let time = median(|| {
        let lists: Vec<[&KvCache; 1]> = caches.iter().map(|cache| [cache]).collect();
        let mut slots: Vec<_> = lists.iter().map(|list| SlotBinding::Read(list)).collect();
        step.run(&mut Bindings {
            inputs: &[&input],
            ids: &[],
            slots: &mut slots,
        })
        .expect("a valid step");
        black_box(step.output(0).expect("one output"));
    }) / 6;
    let bytes = 2 * keys * n_kv_heads * head_dim * dtype.block_bytes();
    println!(
        "{name}, one query, one layer: {:.1} us, {:.1} GB/s",
        micros(time),
        bytes as f64 / time.as_secs_f64() / 1e9
    );
}

fn layer_norm(device: &Device, rows: usize, cols: usize) {
    let mut builder = StepBuilder::new(device);
    let input = builder.input(rows, cols);
    let gamma = device.vector(&numbers(cols)).expect("memory");
    // Several, because the copy of the input is part of a run.
    let mut x = input;
    for _ in 0..10 {
        x = builder.layer_norm(x, &gamma, &gamma, 1e-5).expect("shapes");
    }
    builder.output(x);
    let time = time(
        &mut builder.finish().expect("memory"),
        &[&numbers(rows * cols)],
        &[],
    ) / 10;
    println!("layer_norm {rows} x {cols}: {:.2} us", micros(time));
}

fn choose_tokens(device: &Device, k: usize, temperature: f32) {
    let vocabulary = 51_865_usize;
    let words = vocabulary.div_ceil(32);
    let mut builder = StepBuilder::new(device);
    let logits = builder.input(1, vocabulary);
    let controls = builder.input(1, 3);
    let allowed = builder.input_ids(1, words);
    let seeds = builder.input_ids(1, 2);
    let choose = ChooseTokens {
        allowed,
        seen: None,
        controls,
        seeds,
        prefer_from: 50_364,
        k,
    };
    // Several, because the copy of the logits is part of a run.
    for _ in 0..10 {
        let (_, logprobs) = builder.choose_tokens(logits, choose).expect("shapes");
        builder.output(logprobs);
    }
    let mut step = builder.finish().expect("memory");
    let logits: Vec<f32> = numbers(vocabulary).iter().map(|x| x * 10.0).collect();
    let time = time(
        &mut step,
        &[&logits, &[temperature, 1.0, 1.0]],
        &[&vec![u32::MAX; words], &[1, 2]],
    );
    println!(
        "choose_tokens {vocabulary}, k {k}, temperature {temperature}: {:.1} us",
        micros(time)
    );
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
