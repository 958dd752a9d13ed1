//! What a run costs on NVIDIA's cards, and what happens when one fails: on an emulated driver, which counts what is asked of it.
#![cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use turaco_compute::{
    AttentionShape, Bindings, CacheShape, ChooseTokens, CudaOptions, DType, Device, Epilogue,
    Error, HostMatrix, KvCache, Mask, Matrix, Result, SlotBinding, Step, StepBuilder, WeightType,
    cuda,
};
use turaco_cuda_emulator::{Behaviour, Counts, Emulator, Order};

mod appending;
mod maps;

const WIDTH: usize = 64;
const VOCABULARY: usize = 3000;

/// The emulator for one test at a time, as new; nothing where it could not be built.
struct Card {
    emulator: Emulator,
    _alone: MutexGuard<'static, ()>,
}

impl Card {
    fn new() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(library) = turaco_cuda_emulator::library() else {
            eprintln!("SKIPPED: no C++ compiler to imitate a card with");
            return None;
        };
        let libraries = cuda::Libraries {
            driver: library.clone(),
            compiler: library.clone(),
        };
        assert!(libraries.use_them());
        let emulator = Emulator::open(&library).unwrap();
        let card = Self {
            emulator,
            _alone: alone,
        };
        card.behave(Behaviour::Well);
        card.behave(Behaviour::Cards(1));
        card.behave(Behaviour::Capability(90));
        card.behave(Behaviour::Memory(1 << 34));
        card.behave(Behaviour::Processors(132));
        card.behave(Behaviour::Order(Order::Backward));
        Some(card)
    }

    fn behave(&self, behaviour: Behaviour) {
        self.emulator.behave(behaviour).unwrap();
    }

    fn counts(&self) -> Counts {
        self.emulator.counts().unwrap()
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.emulator.behave(Behaviour::Well);
    }
}

fn open() -> Device {
    Device::cuda(&CudaOptions::default()).unwrap()
}

/// Numbers between -1 and 1 that are the same everywhere.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| (i * 7919 + seed * 104_729 + i * i % 911) % 2003;
    (0..len).map(|i| number(i) as f32 / 1001.0 - 1.0).collect()
}

fn matrix(device: &Device, rows: usize, cols: usize) -> Result<Arc<Matrix>> {
    let value = |i| (i * 37 % 101) as f32 * 0.01 - 0.5;
    let values: Vec<f32> = (0..rows * cols).map(value).collect();
    matrix_of(device, (rows, cols), &values, WeightType::Bf16)
}

fn matrix_of(
    device: &Device,
    (rows, cols): (usize, usize),
    values: &[f32],
    weight_type: WeightType,
) -> Result<Arc<Matrix>> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
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

/// A decoder of two layers for `n` sequences: tokens to the next tokens.
fn decoder(device: &Device, n: usize) -> Result<Step> {
    let mut step = StepBuilder::new(device).named("decoder");
    let ids = step.input_ids(n, 1);
    let positions = step.input_ids(n, 1);
    let choose = ChooseTokens {
        allowed: step.input_ids(n, VOCABULARY.div_ceil(32)),
        seen: None,
        controls: step.input(n, 3),
        seeds: step.input_ids(n, 2),
        prefer_from: VOCABULARY as u32,
        k: 1,
    };
    let slot = step.cache_slot();
    let table = matrix(device, VOCABULARY, WIDTH)?;
    let gamma = device.vector(&[1.0; WIDTH])?;
    let mut x = step.embedding(&table, ids, None)?;
    let heads = AttentionShape {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: WIDTH / 4,
        scale: 0.25,
        mask: Mask::Causal,
    };
    for layer in 0..2 {
        let h = step.rms_norm(x, &gamma, 1e-5)?;
        let qkv = step.linear(h, &matrix(device, 2 * WIDTH, WIDTH)?, Epilogue::default())?;
        let q = step.columns(qkv, 0, WIDTH)?;
        let k = step.columns(qkv, WIDTH, WIDTH / 2)?;
        let v = step.columns(qkv, WIDTH + WIDTH / 2, WIDTH / 2)?;
        let q = step.rope(q, positions, WIDTH / 4, 10_000.0, false)?;
        let k = step.rope(k, positions, WIDTH / 4, 10_000.0, false)?;
        step.cache_append(slot, layer, k, v)?;
        let mixed = step.cached_attention(q, slot, layer, n, heads)?;
        let weight = matrix(device, WIDTH, WIDTH)?;
        x = step.linear(mixed, &weight, Epilogue::default().residual(x))?;
        let h = step.rms_norm(x, &gamma, 1e-5)?;
        let both = step.linear(h, &matrix(device, 4 * WIDTH, WIDTH)?, Epilogue::default())?;
        let gate = step.columns(both, 0, 2 * WIDTH)?;
        let up = step.columns(both, 2 * WIDTH, 2 * WIDTH)?;
        let h = step.swiglu(gate, up)?;
        let weight = matrix(device, WIDTH, 2 * WIDTH)?;
        x = step.linear(h, &weight, Epilogue::default().residual(x))?;
    }
    let h = step.rms_norm(x, &gamma, 1e-5)?;
    let logits = step.linear(h, &table, Epilogue::default())?;
    let (tokens, _) = step.choose_tokens(logits, choose)?;
    step.output_ids(tokens);
    step.finish()
}

fn caches(device: &Device, n: usize) -> Result<Vec<KvCache>> {
    let shape = CacheShape {
        n_layers: 2,
        capacity: 50,
        kv_dim: WIDTH / 2,
        head_dim: WIDTH / 4,
        dtype: DType::F16,
    };
    (0..n).map(|_| device.kv_cache(shape)).collect()
}

fn run(step: &mut Step, caches: &mut [KvCache], tokens: &[u32], position: u32) -> Result<Vec<u32>> {
    let n = caches.len();
    let allowed = vec![u32::MAX; n * VOCABULARY.div_ceil(32)];
    let controls = [0.0, 1.0, 0.0].repeat(n);
    let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
    step.run(&mut Bindings {
        inputs: &[&controls],
        ids: &[tokens, &vec![position; n], &allowed, &vec![0; 2 * n]],
        slots: &mut [SlotBinding::Write(&mut caches)],
    })?;
    step.output_ids(0).map(<[u32]>::to_vec)
}

#[test]
fn a_token_is_one_launch_and_no_copy_back() {
    let Some(card) = Card::new() else { return };
    let device = open();
    for n in [1, 2, 5, 16] {
        let mut step = decoder(&device, n).unwrap();
        let mut caches = caches(&device, n).unwrap();
        let mut tokens = run(&mut step, &mut caches, &vec![3; n], 0).unwrap();
        let before = card.counts();
        for position in 1..6 {
            tokens = run(&mut step, &mut caches, &tokens, position).unwrap();
        }
        let cost = card.counts().since(&before);
        let expected = Counts {
            graphs: 5,
            // Results are written to the host's memory by the last kernel.
            uploads: 5,
            kernels: cost.kernels,
            uploaded: cost.uploaded,
            ..Counts::default()
        };
        assert_eq!(cost, expected, "{n} sequences");
        // Embedding, five for a layer (norms, rotation, append and SwiGLU are done in others), logits, choice, results.
        let most = if n <= 8 { 1 + 2 * 5 + 3 } else { 1 + 2 * 8 + 4 };
        assert!(cost.kernels <= 5 * most, "{} kernels", cost.kernels / 5);
    }
}

#[test]
fn tokens_are_those_of_the_processor() {
    let Some(card) = Card::new() else { return };
    let generate = |device: &Device| {
        let mut step = decoder(device, 3).unwrap();
        let mut caches = caches(device, 3).unwrap();
        let mut tokens = vec![3, 70, 2000];
        let mut all = Vec::new();
        for position in 0..20 {
            tokens = run(&mut step, &mut caches, &tokens, position).unwrap();
            all.extend_from_slice(&tokens);
        }
        all
    };
    let processor = Device::cpu(turaco_compute::CpuOptions::default());
    let expected = generate(&processor);
    // Work is cut by how many multiprocessors there are.
    for processors in [132, 4, 1] {
        card.behave(Behaviour::Processors(processors));
        assert_eq!(generate(&open()), expected, "{processors} multiprocessors");
    }
}

#[test]
fn caches_are_copied_and_cut() {
    let Some(_card) = Card::new() else { return };
    let device = open();
    let mut step = decoder(&device, 1).unwrap();
    let mut all = caches(&device, 2).unwrap();
    let mut other = all.pop().unwrap();
    let mut tokens = vec![5];
    for position in 0..6 {
        tokens = run(&mut step, &mut all, &tokens, position).unwrap();
    }
    device.copy_cache(&all[0], &mut other, 0).unwrap();
    let expected = run(&mut step, &mut all, &tokens, 6).unwrap();
    let found = run(&mut step, std::slice::from_mut(&mut other), &tokens, 6).unwrap();
    assert_eq!(found, expected);
    other.truncate(6);
    device.copy_cache(&all[0], &mut other, 6).unwrap();
    assert_eq!(other.len(), 7);
}

#[test]
fn no_card_is_an_error_and_so_is_an_old_one() {
    let Some(card) = Card::new() else { return };
    assert_eq!(cuda::cards().len(), 1);
    let error = Device::cuda(&CudaOptions {
        index: Some(7),
        ..CudaOptions::default()
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("cuda:7"), "{error}");
    card.behave(Behaviour::Capability(61));
    let error = Device::cuda(&CudaOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("6.1") && error.contains("7.5"), "{error}");
    card.behave(Behaviour::Cards(0));
    assert!(cuda::cards().is_empty());
}

#[test]
fn no_memory_is_an_error_that_says_for_what() {
    let Some(card) = Card::new() else { return };
    let device = open();
    card.behave(Behaviour::Memory(64 << 10));
    let error = caches(&device, 100).map(|_| ()).unwrap_err();
    let Error::OutOfMemory { what, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        what.contains("cache") && what.contains("emulated card"),
        "{error}"
    );
    assert!(decoder(&device, 1).is_err());
}

#[test]
fn a_lost_card_is_an_error_from_then_on() {
    let Some(card) = Card::new() else { return };
    let device = open();
    let mut step = decoder(&device, 1).unwrap();
    let mut caches = caches(&device, 1).unwrap();
    run(&mut step, &mut caches, &[1], 0).unwrap();
    card.behave(Behaviour::Lost(4));
    let length = caches[0].len();
    let error = run(&mut step, &mut caches, &[1], 1).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error}");
    assert!(
        error.to_string().contains("illegal memory access"),
        "{error}"
    );
    assert_eq!(caches[0].len(), length);
    assert!(run(&mut step, &mut caches, &[1], 1).is_err());
    assert!(device.vector(&[1.0]).is_err());
}

#[test]
fn a_kernel_that_hangs_is_given_up() {
    let Some(card) = Card::new() else { return };
    let device = Device::cuda(&CudaOptions {
        patience: Some(Duration::from_millis(50)),
        ..CudaOptions::default()
    });
    let device = device.unwrap();
    let mut step = decoder(&device, 1).unwrap();
    let mut caches = caches(&device, 1).unwrap();
    run(&mut step, &mut caches, &[1], 0).unwrap();
    card.behave(Behaviour::Hanging(4));
    let error = run(&mut step, &mut caches, &[1], 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("did not end within"), "{error}");
    assert!(error.contains("decode"), "{error}");
    // Nothing waits for it again, be it to free memory.
    let error = device.vector(&[1.0]).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("given up"), "{error}");
}

#[test]
fn a_second_start_compiles_nothing_and_a_damaged_file_is_replaced() {
    let Some(card) = Card::new() else { return };
    let folder = std::env::temp_dir().join(format!("turaco-kernels-{}", std::process::id()));
    let start = || {
        let options = CudaOptions {
            kernel_cache: Some(folder.clone()),
            ..CudaOptions::default()
        };
        let device = Device::cuda(&options).unwrap();
        let before = card.counts();
        let mut step = decoder(&device, 2).unwrap();
        let tokens = run(&mut step, &mut caches(&device, 2).unwrap(), &[1, 2], 0).unwrap();
        (card.counts().since(&before).compilations, tokens)
    };
    let files = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let (compiled, tokens) = start();
    assert!(compiled >= 4, "{compiled}");
    assert_eq!(start(), (0, tokens.clone()));
    for damage in [&b""[..], b"not a kernel"] {
        for file in files() {
            std::fs::write(file, damage).unwrap();
        }
        assert_eq!(start(), (compiled, tokens.clone()));
    }
    assert_eq!(start().0, 0);
    std::fs::remove_dir_all(folder).unwrap();
}
