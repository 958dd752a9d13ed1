//! What a run costs, and what happens when a device fails.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::dtype::DType;
use crate::graph::{AttentionShape, ChooseTokens, Mask};
use crate::step::{Bindings, Epilogue, SlotBinding, Step, StepBuilder};

const WIDTH: usize = 64;
const VOCABULARY: usize = 3000;

/// A device with its inside; nothing where there is no graphics processor at all.
fn open(options: GpuOptions) -> Option<(Arc<Context>, Device)> {
    let options = GpuOptions {
        software: true,
        ..options
    };
    match wait(Context::open(&options)) {
        Ok(context) => {
            let context = Arc::new(context);
            let device = Device(Arc::new(GpuBackend {
                context: Arc::clone(&context),
                pool: Pool::new(1),
            }));
            Some((context, device))
        }
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn matrix(device: &Device, rows: usize, cols: usize) -> Arc<Matrix> {
    let bytes: Vec<u8> = (0..rows * cols)
        .flat_map(|i| ((i * 37 % 101) as f32 * 0.01 - 0.5).to_le_bytes())
        .collect();
    let source = HostMatrix {
        dtype: DType::F32,
        rows,
        cols,
        bytes: &bytes,
        row_scales: None,
        storage: None,
    };
    device.matrix(&[source], WeightType::F16).unwrap()
}

/// A decoder of two layers for `n` sequences: tokens to the next tokens. Output 0 is the log-probabilities, 1 the logits
/// (on demand).
fn decoder(device: &Device, n: usize) -> Result<Step> {
    let mut step = StepBuilder::new(device).named("decoder");
    let ids = step.input_ids(n, 1);
    let choose = ChooseTokens {
        allowed: step.input_ids(n, VOCABULARY.div_ceil(32)),
        seen: None,
        controls: step.input(n, 3),
        seeds: step.input_ids(n, 2),
        prefer_from: VOCABULARY as u32,
        k: 1,
    };
    let slot = step.cache_slot();
    let table = matrix(device, VOCABULARY, WIDTH);
    let gamma = device.vector(&[1.0; WIDTH])?;
    let mut x = step.embedding(&table, ids, None)?;
    let heads = AttentionShape {
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: WIDTH / 4,
        scale: 0.25,
        mask: Mask::Causal,
    };
    for layer in 0..2 {
        let h = step.rms_norm(x, &gamma, 1e-5)?;
        let qkv = step.linear(h, &matrix(device, 3 * WIDTH, WIDTH), Epilogue::default())?;
        let k = step.columns(qkv, WIDTH, WIDTH)?;
        let v = step.columns(qkv, 2 * WIDTH, WIDTH)?;
        let q = step.columns(qkv, 0, WIDTH)?;
        step.cache_append(slot, layer, k, v)?;
        let attended = step.cached_attention(q, slot, layer, n, heads)?;
        let out = matrix(device, WIDTH, WIDTH);
        x = step.linear(attended, &out, Epilogue::default().residual(x))?;
    }
    let h = step.rms_norm(x, &gamma, 1e-5)?;
    let logits = step.linear(h, &table, Epilogue::default())?;
    let (tokens, logprobs) = step.stage("choice", |step| step.choose_tokens(logits, choose))?;
    step.output(logprobs);
    step.output_on_demand(logits);
    step.output_ids(tokens);
    step.finish()
}

fn caches(device: &Device, n: usize) -> Result<Vec<KvCache>> {
    let shape = CacheShape {
        n_layers: 2,
        capacity: 200,
        kv_dim: WIDTH,
        head_dim: WIDTH,
        dtype: DType::F16,
    };
    (0..n).map(|_| device.kv_cache(shape)).collect()
}

/// Feed one token to every sequence.
fn run(step: &mut Step, caches: &mut [KvCache], token: u32) -> Result<()> {
    run_tokens(step, caches, &vec![token; caches.len()])
}

/// Feed each sequence its own token.
fn run_tokens(step: &mut Step, caches: &mut [KvCache], tokens: &[u32]) -> Result<()> {
    let n = caches.len();
    let allowed = vec![u32::MAX; n * VOCABULARY.div_ceil(32)];
    let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
    step.run(&mut Bindings {
        inputs: &[&[0.0, 1.0, 0.0].repeat(n)],
        ids: &[tokens, &allowed, &vec![1; 2 * n]],
        slots: &mut [SlotBinding::Write(&mut caches)],
    })
}

#[test]
fn a_token_is_one_submission_and_one_read_of_what_was_chosen() {
    let Some((context, device)) = open(GpuOptions::default()) else {
        return;
    };
    for n in [1, 5, 11] {
        let mut step = decoder(&device, n).unwrap();
        let mut caches = caches(&device, n).unwrap();
        // Shaders that are new run by themselves at first; long contexts are cut into parts.
        for token in 0..2 {
            run(&mut step, &mut caches, token).unwrap();
        }
        for token in 2..150 {
            let before = context.counters.activity();
            run(&mut step, &mut caches, token).unwrap();
            if token == 128 {
                // The first one whose parts are put together.
                continue;
            }
            let done = context.counters.activity().since(&before);
            // A token and its log-probability for each sequence.
            let expected = crate::Activity {
                submissions: 1,
                dispatches: done.dispatches,
                readbacks: 1,
                read_bytes: 8 * n as u64,
                ..crate::Activity::default()
            };
            assert_eq!(done, expected, "token {token} of {n} sequences");
        }
        let before = context.counters.activity();
        assert_eq!(step.output(1).unwrap().len(), n * VOCABULARY);
        assert_eq!(context.counters.activity().since(&before).readbacks, 1);
        let logits = step.output(1).unwrap();
        // Of equal logits the first one is chosen.
        let best = (0..VOCABULARY)
            .rev()
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        assert_eq!(step.output_ids(0).unwrap()[0] as usize, best.unwrap());
    }
}

#[test]
fn runs_of_threads_that_must_not_wait_give_the_same() {
    let Some((context, device)) = open(GpuOptions::default()) else {
        return;
    };
    let n = 2;
    let mut step = decoder(&device, n).unwrap();
    let mut caches = caches(&device, n).unwrap();
    let run_later = |step: &mut Step, caches: &mut [KvCache], token: u32| {
        let allowed = vec![u32::MAX; n * VOCABULARY.div_ceil(32)];
        let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
        let mut slots = [SlotBinding::Write(&mut caches)];
        let mut bindings = Bindings {
            inputs: &[&[0.0, 1.0, 0.0].repeat(n)],
            ids: &[&vec![token; n], &allowed, &vec![1; 2 * n]],
            slots: &mut slots,
        };
        wait(async {
            step.run_async(&mut bindings).await?;
            step.fetch_async(1).await
        })
    };
    for token in 0..4 {
        let lengths = caches[0].len();
        let before = context.counters.activity();
        run_later(&mut step, &mut caches, token).unwrap();
        let done = context.counters.activity().since(&before);
        // The token, and the logits that were asked for.
        assert_eq!(done.readbacks, 2);
        assert!(token == 0 || done.submissions == 2, "{done:?}");
        assert_eq!(caches[0].len(), lengths + 1);
        let found = (
            step.output_ids(0).unwrap().to_vec(),
            step.output(1).unwrap().to_vec(),
        );
        caches.iter_mut().for_each(|cache| cache.truncate(lengths));
        run(&mut step, &mut caches, token).unwrap();
        assert_eq!(found.0, step.output_ids(0).unwrap());
        assert_eq!(found.1, step.output(1).unwrap());
    }
}

#[test]
fn beams_that_change_places_need_no_new_objects() {
    let Some((_, device)) = open(GpuOptions::default()) else {
        return;
    };
    let mut step = decoder(&device, 3).unwrap();
    let mut caches = caches(&device, 3).unwrap();
    for token in 0..6 {
        run(&mut step, &mut caches, token).unwrap();
        caches.rotate_left(1);
    }
    // All have seen the same tokens.
    let chosen = step.output_ids(0).unwrap();
    assert!(chosen.iter().all(|&token| token == chosen[0]));
}

#[test]
fn beams_with_new_parents_are_one_submission_and_one_read_too() {
    let Some((context, device)) = open(GpuOptions::default()) else {
        return;
    };
    let n = 5;
    let mut step = decoder(&device, n).unwrap();
    let mut caches = caches(&device, n).unwrap();
    run(&mut step, &mut caches, 1).unwrap();
    run_tokens(&mut step, &mut caches, &[1, 2, 3, 4, 5]).unwrap();
    for token in 2..20 {
        let before = context.counters.activity();
        // Two beams go on from others, in a chain.
        let (first, rest) = caches.split_at_mut(1);
        device.copy_cache(&first[0], &mut rest[2], 1).unwrap();
        let (second, rest) = rest.split_at_mut(3);
        device.copy_cache(&second[2], &mut rest[0], 0).unwrap();
        caches.rotate_left(1);
        run_tokens(&mut step, &mut caches, &[token, 7, 9, 7, 7]).unwrap();
        let done = context.counters.activity().since(&before);
        let expected = crate::Activity {
            submissions: 1,
            dispatches: done.dispatches,
            readbacks: 1,
            read_bytes: 8 * n as u64,
            ..crate::Activity::default()
        };
        assert_eq!(done, expected, "token {token}");
        // Places after the rotation: 0 is in 4, its children in 2 and 3.
        let logits = step.output(1).unwrap().to_vec();
        let row = |index: usize| &logits[index * VOCABULARY..][..VOCABULARY];
        assert_eq!(row(3), row(4), "token {token}");
        assert_ne!(row(1), row(4), "token {token}: others saw other tokens");
        run_tokens(&mut step, &mut caches, &[3, 5, 8, 8, 8]).unwrap();
        let logits = step.output(1).unwrap();
        let row = |index: usize| &logits[index * VOCABULARY..][..VOCABULARY];
        assert_eq!(row(3), row(4), "token {token}");
        assert_ne!(row(2), row(4), "token {token}: it went another way");
    }
}

#[test]
fn a_cache_that_is_given_up_leaves_nothing_to_copy() {
    let Some((context, device)) = open(GpuOptions::default()) else {
        return;
    };
    let mut step = decoder(&device, 1).unwrap();
    let [from, mut to, mut third] = <[KvCache; 3]>::try_from(caches(&device, 3).unwrap()).unwrap();
    let mut from = [from];
    run(&mut step, &mut from, 3).unwrap();
    device.copy_cache(&from[0], &mut to, 0).unwrap();
    device.copy_cache(&to, &mut third, 0).unwrap();
    let before = context.counters.activity();
    drop(to);
    assert_eq!(context.counters.activity().since(&before).submissions, 1);
    // What was copied on from it is there.
    let mut third = [third];
    run(&mut step, &mut third, 8).unwrap();
    let found = step.output(1).unwrap().to_vec();
    run(&mut step, &mut from, 8).unwrap();
    assert_eq!(found, step.output(1).unwrap());
}

#[test]
fn recorded_runs_have_the_times_of_the_device() {
    let Some((context, device)) = open(GpuOptions::default()) else {
        return;
    };
    let mut step = decoder(&device, 1).unwrap();
    let mut caches = caches(&device, 1).unwrap();
    run(&mut step, &mut caches, 0).unwrap();
    let mut recorder = crate::trace::Recorder::start(crate::trace::Detail::Stages).unwrap();
    run(&mut step, &mut caches, 1).unwrap();
    run(&mut step, &mut caches, 2).unwrap();
    let spans = recorder.take();
    drop(recorder);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["decoder", "choice", "decoder", "choice"]);
    let activity = spans[2].activity.unwrap();
    // Recording costs no submission where the device has a clock.
    if context.tick.is_some() {
        assert_eq!((activity.submissions, activity.readbacks), (1, 1));
        assert!(activity.device_nanoseconds > 0);
        let length = spans[2].end - spans[2].begin;
        assert!(
            activity.device_nanoseconds <= length,
            "{activity:?} of {length}"
        );
    }
}

#[test]
fn the_choice_of_kernels_says_which_path_is_taken() {
    for plain in [false, true] {
        let options = GpuOptions {
            plain,
            ..GpuOptions::default()
        };
        let Some((context, device)) = open(options) else {
            return;
        };
        let list = device.kernels();
        assert!(list.len() > 5, "{list:?}");
        let subgroups = list
            .iter()
            .any(|choice| choice.kernel.contains("subgroups"));
        assert_eq!(subgroups, context.extras.subgroups, "{list:?}");
        let half = list.iter().any(|choice| choice.kernel.contains("16-bit"));
        match context.trials().chosen {
            None => assert_eq!(half, context.extras.half, "{list:?}"),
            Some(kind) => {
                let kind = format!("cooperative matrices of {kind}");
                assert!(list.iter().any(|choice| choice.kernel.contains(&kind)));
            }
        }
        assert!(!plain || (!subgroups && !half && context.trials().chosen.is_none()));
    }
}

#[test]
fn adapters_that_are_not_there_are_errors() {
    let options = GpuOptions {
        index: Some(1000),
        ..GpuOptions::default()
    };
    let error = Device::gpu(options).unwrap_err().to_string();
    assert!(error.contains("1000"), "{error}");
}

#[test]
fn a_lost_device_is_an_error_from_then_on() {
    let fault = Some(Fault::Lost(10));
    let options = GpuOptions {
        fault,
        ..GpuOptions::default()
    };
    let Some((_, device)) = open(options) else {
        return;
    };
    let mut step = decoder(&device, 1).unwrap();
    let mut caches = caches(&device, 1).unwrap();
    let mut results = (0..40).map(|token| run(&mut step, &mut caches, token));
    let error = results.find_map(|result| result.err()).expect("it is lost");
    assert!(matches!(error, Error::Device { .. }), "{error}");
    assert!(results.all(|result| result.is_err()));
    assert!(device.vector(&[1.0]).is_err());
    assert!(device.state_buffer(3).is_err());
}

#[test]
fn no_memory_is_an_error_that_says_for_what() {
    let fault = Some(Fault::Memory(1 << 20));
    let options = GpuOptions {
        fault,
        ..GpuOptions::default()
    };
    let Some((_, device)) = open(options) else {
        return;
    };
    let error = caches(&device, 100).map(|_| ()).unwrap_err();
    let Error::OutOfMemory { what, .. } = &error else {
        panic!("{error}");
    };
    assert!(what.contains("cache"), "{error}");
}

#[test]
fn the_watchdog_names_the_kernel() {
    let options = GpuOptions {
        patience: Some(Duration::ZERO),
        ..GpuOptions::default()
    };
    let Some((context, device)) = open(options) else {
        return;
    };
    let mut step = decoder(&device, 1).unwrap();
    let mut caches = caches(&device, 1).unwrap();
    // A quick machine may be done before it is asked.
    let mut results = (0..40).map(|token| run(&mut step, &mut caches, token));
    if let Some(error) = results.find_map(|result| result.err()) {
        let text = error.to_string();
        assert!(text.contains("did not end within"), "{text}");
        assert!(text.contains("Lookup") || text.contains("Matvec"), "{text}");
        assert!(context.check().is_err());
    }
}

#[test]
fn a_second_start_compiles_nothing_and_a_damaged_file_is_replaced() {
    let folder = std::env::temp_dir().join(format!("turaco-shaders-{}", std::process::id()));
    // Whether the driver had something to add to what the file held, and whether that shows in what it compiled.
    let start = || {
        let options = GpuOptions {
            shader_cache: Some(folder.clone()),
            ..GpuOptions::default()
        };
        let (context, device) = open(options)?;
        let mut step = decoder(&device, 2).unwrap();
        run(&mut step, &mut caches(&device, 2).unwrap(), 0).unwrap();
        let tokens = step.output_ids(0).unwrap().to_vec();
        let cache = context.shader_cache.as_ref()?;
        let news = cache.news().is_some();
        let (made, compiled) = (&context.counters.pipelines, &context.counters.compiled);
        assert!(made.load(Ordering::Relaxed) > 5);
        let compiled = compiled.load(Ordering::Relaxed);
        if cache.keeps_shaders() {
            assert_eq!(compiled > 0, news, "{compiled} shaders compiled");
        } else {
            eprintln!(
                "SKIPPED: whether shaders are compiled twice, as this driver does not let them be kept"
            );
            assert_eq!(compiled, 0);
        }
        let kept = device.keep_kernels()?;
        assert_eq!(kept.made, made.load(Ordering::Relaxed));
        assert_eq!(kept.compiled, cache.keeps_shaders().then_some(compiled));
        assert_eq!((kept.file, kept.failure), (Some(cache.path().into()), None));
        assert!(cache.news().is_none());
        Some((news, tokens))
    };
    let file = || {
        let entries = std::fs::read_dir(&folder).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "shaders"));
        assert_eq!(paths.len(), 1, "{paths:?}");
        paths[0].clone()
    };
    let Some((news, tokens)) = start() else {
        eprintln!("SKIPPED: no graphics processor that keeps shaders");
        return;
    };
    assert!(news);
    let written = std::fs::read(file()).unwrap();
    assert_eq!(start(), Some((false, tokens.clone())));
    assert_eq!(std::fs::read(file()).unwrap(), written);
    let mut turned = written.clone();
    for byte in &mut turned {
        *byte = !*byte;
    }
    for damaged in [
        &[][..],
        b"not shaders",
        &written[..written.len() / 2],
        &turned,
    ] {
        std::fs::write(file(), damaged).unwrap();
        assert_eq!(
            start(),
            Some((true, tokens.clone())),
            "{} bytes",
            damaged.len()
        );
        assert_eq!(std::fs::read(file()).unwrap(), written);
    }
    // A folder that cannot be made takes nothing but time.
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "a file").unwrap();
    let options = GpuOptions {
        shader_cache: Some(folder.clone()),
        ..GpuOptions::default()
    };
    let (_, device) = open(options).unwrap();
    let mut step = decoder(&device, 2).unwrap();
    run(&mut step, &mut caches(&device, 2).unwrap(), 0).unwrap();
    assert_eq!(step.output_ids(0).unwrap(), tokens);
    assert!(device.keep_kernels().unwrap().failure.is_some());
    drop((step, device));
    std::fs::remove_file(folder).unwrap();
}
