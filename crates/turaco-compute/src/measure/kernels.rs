//! Micro-benchmarks of kernels on the shapes of our models.

use std::hint::black_box;
use std::time::Duration;

use super::{Machine, Pause, median, median_time};
use crate::cpu::kernels::linear::{self, LinearScratch, linear, linear_scratch_bytes};
use crate::cpu::packed::{MatrixSource, PackedMatrix};
use crate::cpu::{CpuOptions, Precision};
use crate::device::{CacheShape, Device, KvCache, WeightType};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{AttentionShape, ChooseTokens, Mask};
use crate::step::{Bindings, SlotBinding, StepBuilder};

/// Rows, inputs and outputs of products that read their weights once per call: a decode step of one sequence, of five
/// beams, and of a few sequences at once.
const VECTOR_SHAPES: [(usize, usize, usize); 17] = [
    // Voxtral.
    (1, 3072, 9216),
    (1, 9216, 3072),
    (1, 3072, 131_072),
    (2, 3072, 9216),
    (4, 3072, 9216),
    (8, 3072, 9216),
    // Qwen3-TTS.
    (1, 1024, 3072),
    // Whisper tiny, base and large-v3-turbo.
    (1, 384, 384),
    (1, 384, 1536),
    (1, 1536, 384),
    (1, 384, 51_864),
    (1, 512, 2048),
    (1, 512, 51_865),
    (1, 1280, 5120),
    (1, 1280, 51_866),
    (5, 384, 51_864),
    (5, 1280, 5120),
];

/// Rows, inputs and outputs of products that are limited by arithmetic: encoders and prefills, some in the pieces of a
/// live stream.
const MATRIX_SHAPES: [(usize, usize, usize); 17] = [
    (1500, 384, 384),
    (1500, 384, 1536),
    (1500, 1536, 384),
    (1500, 512, 2048),
    (1500, 1280, 3840),
    (1500, 1280, 5120),
    (1500, 5120, 1280),
    // A prompt of Voxtral Mini.
    (188, 3072, 6144),
    (188, 3072, 9216),
    (188, 9216, 3072),
    // Streams.
    (16, 1280, 5120),
    (24, 1280, 6144),
    (24, 1280, 5120),
    (24, 5120, 1280),
    (50, 1280, 5120),
    (100, 1280, 5120),
    (100, 5120, 1280),
];

/// What the fastest possible kernel would be stopped by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Bytes per second of a plain read of as many bytes.
    Bandwidth(f64),
    /// Operations per second of the multiply instruction.
    Peak(f64),
    /// None that could be stated: the time counts by itself.
    None,
}

/// How long a kernel takes.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// Kind of kernel, such as `matrix-vector`.
    pub group: &'static str,
    /// Weight type or shape of the state, or nothing.
    pub variant: String,
    /// Sizes.
    pub name: String,
    /// Median of one call.
    pub seconds: f64,
    /// Bytes of weights, keys and values that a call reads.
    pub bytes: u64,
    /// Multiplications and additions of a call.
    pub operations: u64,
    /// The limit, measured between the calls.
    pub limit: Limit,
    /// What the time should not exceed, where a target is set in seconds.
    pub target: Option<f64>,
}

impl KernelTime {
    /// The time at the limit in seconds.
    pub fn floor(&self) -> Option<f64> {
        match self.limit {
            Limit::Bandwidth(rate) => Some(self.bytes as f64 / rate),
            Limit::Peak(rate) => Some(self.operations as f64 / rate),
            Limit::None => None,
        }
    }

    /// Achieved share of the limit, 1 = at it.
    pub fn share(&self) -> Option<f64> {
        Some(self.floor()? / self.seconds)
    }
}

/// Which kernels to measure, and how long.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Words that have to occur in `group variant name` of a kernel; none = all kernels.
    pub words: Vec<String>,
    /// Times that each is measured, limits between them; the median counts.
    pub rounds: usize,
    /// Time of one such round.
    pub budget: Duration,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            rounds: 5,
            budget: Duration::from_millis(50),
        }
    }
}

impl Selection {
    /// Whether a kernel is wanted.
    pub fn wants(&self, group: &str, variant: &str, name: &str) -> bool {
        let text = format!("{group} {variant} {name}");
        self.words.iter().all(|word| text.contains(word.as_str()))
    }

    /// The median of the rounds of `f`, with the median of `limit` measured in between.
    pub fn rounds(&self, mut f: impl FnMut(), mut limit: impl FnMut() -> f64) -> (f64, f64) {
        let (mut times, mut limits) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds.max(1) {
            limits.push(limit());
            times.push(median_time(self.budget, &mut f));
        }
        (median(times), median(limits))
    }
}

/// Measures the wanted kernels one after the other; `done` gets each result at once and may stop the rest by an error.
///
/// # Errors
/// No memory, or what `done` returns.
pub fn measure<E: From<crate::Error>>(
    machine: &Machine,
    selection: &Selection,
    done: &mut dyn FnMut(KernelTime) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    regions(machine, selection, done)?;
    for weight_type in WeightType::ALL {
        for shape in VECTOR_SHAPES {
            vector(machine, selection, weight_type, shape, done)?;
        }
        for shape in MATRIX_SHAPES {
            matrix(machine, selection, weight_type, shape, done)?;
        }
    }
    let options = CpuOptions {
        threads: machine.threads(),
        isa: Some(machine.isa()),
        precision: Precision::Exact,
    };
    let exact = Device::cpu(options);
    let fast = Device::cpu(CpuOptions {
        precision: Precision::Fast,
        ..options
    });
    let run = Run { machine, selection };
    for (model, heads) in [("tiny", 6), ("base", 8), ("turbo", 20)] {
        run.encoder_attention(&exact, WeightType::F32, model, heads, done)?;
        run.encoder_attention(&fast, WeightType::Bf16, model, heads, done)?;
    }
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
        for (name, heads, keys) in [
            ("tiny cross 6x64, 1500 keys", (6, 6, 64), 1500),
            ("base cross 8x64, 1500 keys", (8, 8, 64), 1500),
            ("base self 8x64, 100 keys", (8, 8, 64), 100),
            ("grouped 32/8x128, 4096 keys", (32, 8, 128), 4096),
        ] {
            run.query(&exact, name, heads, keys, dtype, done)?;
        }
    }
    run.append(&exact, done)?;
    for rows in [1, 1500] {
        run.layer_norm(&exact, rows, 512, done)?;
    }
    for (k, temperature) in [(1, 0.0), (6, 0.0), (1, 1.0)] {
        run.choose_tokens(&exact, k, temperature, done)?;
    }
    Ok(())
}

type Done<'a, E> = &'a mut dyn FnMut(KernelTime) -> std::result::Result<(), E>;

fn regions<E: From<crate::Error>>(
    machine: &Machine,
    selection: &Selection,
    done: Done<'_, E>,
) -> std::result::Result<(), E> {
    let work = |micros| Pause::Work(Duration::from_micros(micros));
    // The first two are what a model's step does.
    for (name, pause, target) in [
        ("back to back", work(0), Some(2e-6)),
        ("after 50 us of serial work", work(50), Some(2e-6)),
        ("after 1 ms of serial work", work(1000), None),
        (
            "after 2 ms of sleep",
            Pause::Sleep(Duration::from_millis(2)),
            None,
        ),
    ] {
        let late = format!("{name}, 95 of 100");
        if !(selection.wants("parallel region", "", name)
            || selection.wants("parallel region", "", &late))
        {
            continue;
        }
        let rounds: Vec<[f64; 2]> = (0..selection.rounds.max(1))
            .map(|_| machine.region(pause))
            .collect();
        for (index, name, target) in [(0, name.to_owned(), target), (1, late, None)] {
            if selection.wants("parallel region", "", &name) {
                done(KernelTime {
                    group: "parallel region",
                    variant: String::new(),
                    name,
                    seconds: median(rounds.iter().map(|round| round[index]).collect()),
                    bytes: 0,
                    operations: 0,
                    limit: Limit::None,
                    target,
                })?;
            }
        }
    }
    Ok(())
}

fn vector<E: From<crate::Error>>(
    machine: &Machine,
    selection: &Selection,
    weight_type: WeightType,
    (m, k, n): (usize, usize, usize),
    done: Done<'_, E>,
) -> std::result::Result<(), E> {
    let name = format!("{m}x{k}x{n}");
    if !selection.wants("matrix-vector", weight_type.name(), &name) {
        return Ok(());
    }
    let weights = weights(machine, weight_type, n, k)?;
    let bytes = weights.bytes();
    let mut product = Product::new(machine, &weights, m)?;
    let mut failed = None;
    let (seconds, rate) = selection.rounds(
        || product.run(),
        || match machine.bandwidth(bytes, selection.budget / 2) {
            Ok(rate) => rate,
            Err(error) => {
                failed = Some(error);
                0.0
            }
        },
    );
    if let Some(error) = failed {
        return Err(error.into());
    }
    done(KernelTime {
        group: "matrix-vector",
        variant: weight_type.name().into(),
        name,
        seconds,
        bytes: bytes as u64,
        operations: 2 * (m * k * n) as u64,
        limit: Limit::Bandwidth(rate),
        target: Some(bytes as f64 / rate / 0.9),
    })
}

fn matrix<E: From<crate::Error>>(
    machine: &Machine,
    selection: &Selection,
    weight_type: WeightType,
    (m, k, n): (usize, usize, usize),
    done: Done<'_, E>,
) -> std::result::Result<(), E> {
    let name = format!("{m}x{k}x{n}");
    if !selection.wants("matrix-matrix", weight_type.name(), &name) {
        return Ok(());
    }
    let weights = weights(machine, weight_type, n, k)?;
    let mut product = Product::new(machine, &weights, m)?;
    let (seconds, rate) = selection.rounds(
        || product.run(),
        || machine.peak(weight_type, selection.budget / 4),
    );
    let operations = 2 * (m * k * n) as u64;
    done(KernelTime {
        group: "matrix-matrix",
        variant: weight_type.name().into(),
        name,
        seconds,
        bytes: weights.bytes() as u64,
        operations,
        limit: Limit::Peak(rate),
        target: Some(operations as f64 / rate / 0.75),
    })
}

/// A packed matrix of made-up numbers. Its rows repeat, so that only the packed copy is large.
fn weights(machine: &Machine, weight_type: WeightType, n: usize, k: usize) -> Result<PackedMatrix> {
    const ROWS: usize = 64;
    let bytes: Vec<u8> = numbers(ROWS * k)
        .iter()
        .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
        .collect();
    let sources: Vec<MatrixSource<'_>> = (0..n)
        .step_by(ROWS)
        .map(|first| {
            let rows = ROWS.min(n - first);
            MatrixSource {
                dtype: DType::Bf16,
                n: rows,
                k,
                bytes: &bytes[..2 * rows * k],
                row_scales: None,
            }
        })
        .collect();
    PackedMatrix::pack_stacked(&sources, weight_type, machine.pool())
}

/// A linear map with its operands.
struct Product<'a> {
    machine: &'a Machine,
    weights: &'a PackedMatrix,
    m: usize,
    x: Vec<f32>,
    out: Vec<f32>,
    scratch: LinearScratch,
}

impl<'a> Product<'a> {
    fn new(machine: &'a Machine, weights: &'a PackedMatrix, m: usize) -> Result<Self> {
        let mut scratch = LinearScratch::new();
        scratch.reserve(linear_scratch_bytes(m, weights))?;
        Ok(Self {
            machine,
            weights,
            m,
            x: numbers(m * weights.k()),
            out: vec![0.0; m * weights.n()],
            scratch,
        })
    }

    fn run(&mut self) {
        let done = linear(
            self.machine.isa(),
            self.machine.pool(),
            &self.x,
            self.m,
            self.weights,
            &linear::Epilogue::default(),
            &mut self.scratch,
            &mut self.out,
        );
        debug_assert!(done.is_ok(), "{done:?}");
        black_box(&mut self.out);
    }
}

/// Measures operations of steps.
struct Run<'a> {
    machine: &'a Machine,
    selection: &'a Selection,
}

impl Run<'_> {
    /// Hands over the time of one of `repeats` equal operations of a step that `run` replays.
    #[expect(clippy::too_many_arguments, reason = "all facts about one kernel")]
    fn report<E: From<crate::Error>>(
        &self,
        group: &'static str,
        (variant, name): (&str, String),
        repeats: usize,
        (bytes, operations): (usize, usize),
        limit: &dyn Fn(&Machine, Duration) -> Result<Limit>,
        mut run: impl FnMut() -> Result<()>,
        done: Done<'_, E>,
    ) -> std::result::Result<(), E> {
        let mut failed = None;
        let mut kind = Limit::None;
        let (seconds, rate) = self.selection.rounds(
            || {
                if let Err(error) = run() {
                    failed = Some(error);
                }
            },
            || match limit(self.machine, self.selection.budget / 4) {
                Ok(limit) => {
                    kind = limit;
                    match limit {
                        Limit::Bandwidth(rate) | Limit::Peak(rate) => rate,
                        Limit::None => 0.0,
                    }
                }
                Err(_) => 0.0,
            },
        );
        if let Some(error) = failed {
            return Err(error.into());
        }
        done(KernelTime {
            group,
            variant: variant.into(),
            name,
            seconds: seconds / repeats as f64,
            bytes: bytes as u64,
            operations: operations as u64,
            limit: match kind {
                Limit::Bandwidth(_) => Limit::Bandwidth(rate),
                Limit::Peak(_) => Limit::Peak(rate),
                Limit::None => Limit::None,
            },
            target: None,
        })
    }

    fn encoder_attention<E: From<crate::Error>>(
        &self,
        device: &Device,
        rounded_to: WeightType,
        model: &str,
        heads: usize,
        done: Done<'_, E>,
    ) -> std::result::Result<(), E> {
        const GROUP: &str = "encoder attention";
        let (rows, cols) = (1500, heads * 64);
        let name = format!("{model} {heads}x64, 1500 queries and keys");
        if !self.selection.wants(GROUP, rounded_to.name(), &name) {
            return Ok(());
        }
        let shape = AttentionShape {
            n_heads: heads,
            n_kv_heads: heads,
            head_dim: 64,
            scale: 0.125,
            mask: Mask::Full,
        };
        let mut builder = StepBuilder::new(device);
        let qkv = builder.input(rows, 3 * cols);
        let q = builder.columns(qkv, 0, cols)?;
        let k = builder.columns(qkv, cols, cols)?;
        let v = builder.columns(qkv, 2 * cols, cols)?;
        let out = builder.attention(q, k, v, 1, shape)?;
        builder.output(out);
        let mut step = builder.finish()?;
        let input = numbers(rows * 3 * cols);
        let peak = |machine: &Machine, budget| Ok(Limit::Peak(machine.peak(rounded_to, budget)));
        self.report(
            GROUP,
            (rounded_to.name(), name),
            1,
            (0, 4 * rows * rows * cols),
            &peak,
            || {
                step.run(&mut Bindings {
                    inputs: &[&input],
                    ids: &[],
                    slots: &mut [],
                })
            },
            done,
        )
    }

    fn query<E: From<crate::Error>>(
        &self,
        device: &Device,
        name: &str,
        (n_heads, n_kv_heads, head_dim): (usize, usize, usize),
        keys: usize,
        dtype: DType,
        done: Done<'_, E>,
    ) -> std::result::Result<(), E> {
        const GROUP: &str = "one query";
        // As many caches as layers, so that each is as cold as in a model.
        const CACHES: usize = 6;
        if !self.selection.wants(GROUP, dtype.name(), name) {
            return Ok(());
        }
        let cols = n_kv_heads * head_dim;
        let shape = AttentionShape {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.1,
            mask: Mask::Full,
        };
        let caches: Vec<KvCache> = (0..CACHES)
            .map(|_| filled(device, keys, (n_kv_heads, head_dim), dtype))
            .collect::<Result<_>>()?;
        let mut builder = StepBuilder::new(device);
        let mut q = builder.input(1, n_heads * head_dim);
        for _ in &caches {
            let slot = builder.shared_cache_slot();
            q = builder.cached_attention(q, slot, 0, 1, shape)?;
        }
        builder.output(q);
        let mut step = builder.finish()?;
        let input = numbers(n_heads * head_dim);
        let bytes = 2 * keys * cols * dtype.block_bytes();
        let bandwidth = |machine: &Machine, budget| {
            Ok(Limit::Bandwidth(machine.bandwidth(CACHES * bytes, budget)?))
        };
        self.report(
            GROUP,
            (dtype.name(), name.into()),
            CACHES,
            (bytes, 4 * keys * n_heads * head_dim),
            &bandwidth,
            || {
                let lists: Vec<[&KvCache; 1]> = caches.iter().map(|cache| [cache]).collect();
                let mut slots: Vec<_> = lists.iter().map(|list| SlotBinding::Read(list)).collect();
                step.run(&mut Bindings {
                    inputs: &[&input],
                    ids: &[],
                    slots: &mut slots,
                })
            },
            done,
        )
    }

    fn append<E: From<crate::Error>>(
        &self,
        device: &Device,
        done: Done<'_, E>,
    ) -> std::result::Result<(), E> {
        const GROUP: &str = "cache append";
        let (rows, cols) = (1500, 512);
        let name = "base, 1500 keys and values".to_owned();
        if !self.selection.wants(GROUP, "f16", &name) {
            return Ok(());
        }
        let mut cache = device.kv_cache(cache_shape(rows, (cols / 64, 64), DType::F16))?;
        let mut builder = StepBuilder::new(device);
        let k = builder.input(rows, cols);
        let slot = builder.cache_slot();
        builder.cache_append(slot, 0, k, k)?;
        let mut step = builder.finish()?;
        let input = numbers(rows * cols);
        self.report(
            GROUP,
            ("f16", name),
            1,
            (0, 0),
            &|_, _| Ok(Limit::None),
            || {
                cache.truncate(0);
                step.run(&mut Bindings {
                    inputs: &[&input],
                    ids: &[],
                    slots: &mut [SlotBinding::Write(&mut [&mut cache])],
                })
            },
            done,
        )
    }

    fn layer_norm<E: From<crate::Error>>(
        &self,
        device: &Device,
        rows: usize,
        cols: usize,
        done: Done<'_, E>,
    ) -> std::result::Result<(), E> {
        const GROUP: &str = "layer norm";
        // Several, because the copy of the input is part of a run.
        const REPEATS: usize = 10;
        let name = format!("{rows}x{cols}");
        if !self.selection.wants(GROUP, "f32", &name) {
            return Ok(());
        }
        let mut builder = StepBuilder::new(device);
        let gamma = device.vector(&numbers(cols))?;
        let mut x = builder.input(rows, cols);
        for _ in 0..REPEATS {
            x = builder.layer_norm(x, &gamma, &gamma, 1e-5)?;
        }
        builder.output(x);
        let mut step = builder.finish()?;
        let input = numbers(rows * cols);
        self.report(
            GROUP,
            ("f32", name),
            REPEATS,
            (0, 0),
            &|_, _| Ok(Limit::None),
            || {
                step.run(&mut Bindings {
                    inputs: &[&input],
                    ids: &[],
                    slots: &mut [],
                })
            },
            done,
        )
    }

    fn choose_tokens<E: From<crate::Error>>(
        &self,
        device: &Device,
        k: usize,
        temperature: f32,
        done: Done<'_, E>,
    ) -> std::result::Result<(), E> {
        const GROUP: &str = "token choice";
        const REPEATS: usize = 10;
        const VOCABULARY: usize = 51_865;
        let name = format!("{k} of {VOCABULARY}, temperature {temperature}");
        if !self.selection.wants(GROUP, "f32", &name) {
            return Ok(());
        }
        let words = VOCABULARY.div_ceil(32);
        let mut builder = StepBuilder::new(device);
        let logits = builder.input(1, VOCABULARY);
        let choose = ChooseTokens {
            controls: builder.input(1, 3),
            allowed: builder.input_ids(1, words),
            seeds: builder.input_ids(1, 2),
            seen: None,
            prefer_from: 50_364,
            k,
        };
        for _ in 0..REPEATS {
            let (_, logprobs) = builder.choose_tokens(logits, choose)?;
            builder.output(logprobs);
        }
        let mut step = builder.finish()?;
        let logits: Vec<f32> = numbers(VOCABULARY).iter().map(|x| x * 10.0).collect();
        let allowed = vec![u32::MAX; words];
        self.report(
            GROUP,
            ("f32", name),
            REPEATS,
            (0, 0),
            &|_, _| Ok(Limit::None),
            || {
                step.run(&mut Bindings {
                    inputs: &[&logits, &[temperature, 1.0, 1.0]],
                    ids: &[&allowed, &[1, 2]],
                    slots: &mut [],
                })
            },
            done,
        )
    }
}

fn cache_shape(capacity: usize, (n_heads, head_dim): (usize, usize), dtype: DType) -> CacheShape {
    CacheShape {
        n_layers: 1,
        capacity,
        kv_dim: n_heads * head_dim,
        head_dim,
        dtype,
    }
}

/// A cache full of keys and values.
fn filled(device: &Device, keys: usize, heads: (usize, usize), dtype: DType) -> Result<KvCache> {
    let cols = heads.0 * heads.1;
    let mut cache = device.kv_cache(cache_shape(keys, heads, dtype))?;
    let mut builder = StepBuilder::new(device);
    let k = builder.input(keys, cols);
    let slot = builder.cache_slot();
    builder.cache_append(slot, 0, k, k)?;
    builder.finish()?.run(&mut Bindings {
        inputs: &[&numbers(keys * cols)],
        ids: &[],
        slots: &mut [SlotBinding::Write(&mut [&mut cache])],
    })?;
    Ok(cache)
}

/// Made-up numbers from -1 to 1 that are the same everywhere.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(words: &[&str]) -> Selection {
        Selection {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            rounds: 1,
            budget: Duration::from_millis(1),
        }
    }

    fn times(words: &[&str]) -> Vec<KernelTime> {
        let mut found = Vec::new();
        let machine = Machine::new(1, None);
        measure::<crate::Error>(&machine, &small(words), &mut |time| {
            found.push(time);
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn one_of_each_kind_is_measured() {
        for (words, count) in [
            (&["parallel region"][..], 8),
            (&["matrix-vector", "1x384x384"], WeightType::ALL.len()),
            (&["matrix-matrix", "bf16 1500x384x384"], 1),
            (&["one query", "base self"], 4),
            (&["layer norm"], 2),
            (&["token choice", "1 of"], 2),
            (&["cache append"], 1),
            (&["no such kernel"], 0),
        ] {
            let found = times(words);
            assert_eq!(found.len(), count, "{words:?}");
            for time in found {
                assert!(time.seconds > 0.0, "{time:?}");
                match time.limit {
                    Limit::None => assert_eq!(time.share(), None),
                    _ => assert!(time.share().is_some_and(|share| share > 0.0), "{time:?}"),
                }
            }
        }
    }

    #[test]
    fn the_rest_is_left_when_the_caller_stops() {
        let machine = Machine::new(1, None);
        let mut calls = 0;
        let stopped = measure::<crate::Error>(&machine, &small(&["parallel"]), &mut |_| {
            calls += 1;
            Err(crate::Error::Unsupported {
                what: "more".into(),
                reason: "enough".into(),
            })
        });
        assert!(stopped.is_err());
        assert_eq!(calls, 1);
    }
}
