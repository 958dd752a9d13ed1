//! Voxtral Mini beside the reference's numbers, stage by stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use turaco::features::LogMel;
use turaco::models::voxtral_mini::{
    DecoderState, Draw, Runner, Stages, VoxtralMini, VoxtralMiniCheckpoint, VoxtralMiniConfig,
};
use turaco::weights::{self, WeightType, Weights};
use turaco::{Audio, Control};
use turaco_compute::{CpuOptions, Device};

use crate::support::{Effort, graphics_processors};

/// The reference sets that are at hand: the one in the repository, the larger one beside a developer's checkout, and those that
/// a developer made with other sizes (`TURACO_VOXTRAL_MINI_GOLDENS`, folders as in `PATH`).
fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let others = std::env::var_os("TURACO_VOXTRAL_MINI_GOLDENS").unwrap_or_default();
    let mut all = vec![
        root.join("../../testdata/voxtral-mini"),
        root.join("../../../shared/golden/voxtral-mini"),
    ];
    all.extend(std::env::split_paths(&others));
    all.retain(|path| path.join("golden.json").exists());
    all
}

/// One prompt of a reference set, with the numbers that the reference made of it.
struct Case<'a> {
    folder: &'a Path,
    name: &'a str,
    facts: &'a Value,
    tensors: &'a Weights,
}

impl Case<'_> {
    #[track_caller]
    fn check(&self, name: &str, found: &[f32], tolerance: f32) {
        let name = format!("{}.{name}", self.name);
        let Some(expected) = self.tensors.find(&name) else {
            return;
        };
        let expected = expected.to_f32();
        assert_eq!(found.len(), expected.len(), "{name}");
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let worst = differences.clone().fold(0.0, f32::max);
        println!("{name}: {worst:e}");
        let first = differences
            .clone()
            .position(|difference| difference > tolerance);
        if let Some(index) = first {
            panic!(
                "{name}: value {index} is {} instead of {}; the largest difference is {worst} (tolerance {tolerance})",
                found[index], expected[index]
            );
        }
        assert!(found.iter().all(|value| value.is_finite()), "{name}");
    }

    /// The names of its recordings.
    fn audios(&self) -> impl Iterator<Item = &str> {
        let names = self.facts["audios"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap())
    }

    /// A recording, at the model's rate.
    fn samples(&self, name: &str) -> Vec<f32> {
        let here = self.folder.join(format!("{name}.wav"));
        let path = match here.exists() {
            true => here,
            false => self.folder.join("../audio/jfk.wav"),
        };
        Audio::open(path).unwrap().into_samples()
    }

    fn prompt(&self) -> Vec<u32> {
        let runs = self.facts["input_ids_rle"].as_array().unwrap();
        let number = |value: &Value| value.as_u64().unwrap() as usize;
        runs.iter()
            .flat_map(|run| vec![number(&run[0]) as u32; number(&run[1])])
            .collect()
    }

    fn greedy(&self) -> Vec<u32> {
        let ids = self.facts["greedy"].as_array().unwrap();
        ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }
}

fn load(folder: &Path, device: &Device) -> Arc<VoxtralMini> {
    let checkpoint = VoxtralMiniCheckpoint::open(folder).unwrap();
    VoxtralMini::load(&checkpoint, device, WeightType::F32, &Control::new()).unwrap()
}

/// Every `every`th of `rows` rows of `width`.
fn every(values: &[f32], width: usize, every: usize) -> Vec<f32> {
    let rows = values.chunks_exact(width).step_by(every);
    rows.flatten().copied().collect()
}

/// `[n_mels, frames]` of all chunks of a recording, chunk by chunk.
fn mel_chunks(config: &VoxtralMiniConfig, samples: &[f32]) -> Vec<Vec<f32>> {
    let n_chunks = config.n_chunks(samples.len());
    let padding = n_chunks * config.samples_per_chunk() - samples.len();
    let mel = LogMel::new(config.encoder.n_mels).compute(samples, padding);
    let frames = config.frames_per_chunk();
    (0..n_chunks)
        .map(|chunk| mel.window(chunk * frames, frames, 0.0))
        .collect()
}

fn check_all(layouts: &[&str], device: &Device) {
    for folder in fixtures() {
        let json = std::fs::read(folder.join("golden.json")).unwrap();
        let facts: Value = serde_json::from_slice(&json).unwrap();
        let tensors = weights::open(&folder.join("golden.safetensors")).unwrap();
        for layout in layouts {
            if !folder.join(layout).exists() {
                continue;
            }
            let model = load(&folder.join(layout), device);
            let mut heard = Heard::new();
            for (name, facts) in facts["cases"].as_object().unwrap() {
                let case = Case {
                    folder: &folder,
                    name,
                    facts,
                    tensors: &tensors.weights,
                };
                check_case(&model, &case, &mut heard);
            }
        }
    }
}

/// Mel features and encoder stages of every chunk of the recordings that were encoded, by name.
type Heard = BTreeMap<String, Vec<(Vec<f32>, Stages)>>;

fn hear<'a>(
    runner: &mut Runner,
    case: &Case<'_>,
    name: &str,
    heard: &'a mut Heard,
) -> &'a [(Vec<f32>, Stages)] {
    heard.entry(name.into()).or_insert_with(|| {
        let config = runner.model().config().clone();
        let chunks = mel_chunks(&config, &case.samples(name)).into_iter();
        chunks
            .map(|mel| {
                let stages = runner.encoder_stages(&mel).unwrap();
                assert_eq!(runner.encode(&mel).unwrap(), stages.last().unwrap().1);
                (mel, stages)
            })
            .collect()
    })
}

fn check_case(model: &Arc<VoxtralMini>, case: &Case<'_>, heard: &mut Heard) {
    let config = model.config();
    let mut runner = Runner::new(model);

    let mut all: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let (n_state, dim) = (config.encoder.n_state, config.decoder.dim);
    let frames = config.frames_per_chunk();
    for name in case.audios() {
        for (mel, stages) in hear(&mut runner, case, name, heard) {
            let mut add = |name: &str, values: &[f32]| {
                let values = values.iter().copied();
                all.entry(name.into()).or_default().extend(values);
            };
            add("mel", mel);
            let by_band = mel.chunks_exact(frames);
            let shown: Vec<f32> = by_band.flat_map(|band| every(band, 1, 25)).collect();
            add("mel_every25", &shown);
            for (name, values) in stages {
                match name.as_str() {
                    "proj" => add("proj", values),
                    "enc" => {
                        add("enc", values);
                        add("enc_every25", &every(values, n_state, 25));
                    }
                    name => add(&format!("{name}_every25"), &every(values, n_state, 25)),
                }
            }
        }
    }
    let audio = all.get("proj").cloned().unwrap_or_default();
    if let Some(projected) = all.get("proj") {
        let shown = every(projected, dim, 5);
        all.insert("proj_every5".into(), shown);
    }
    for (name, values) in &all {
        // The reference's features are single precision throughout.
        case.check(
            name,
            values,
            if name.starts_with("mel") { 3e-5 } else { 2e-4 },
        );
    }

    let prompt = case.prompt();
    assert_eq!(
        prompt.len(),
        case.facts["n_prompt"].as_u64().unwrap() as usize
    );
    let mut rows = Vec::new();
    let mut vectors = audio.chunks_exact(dim);
    for &id in &prompt {
        match id {
            24 => rows.extend_from_slice(vectors.next().expect("as many vectors as tokens")),
            id => model.embed(id, &mut rows),
        }
    }
    assert!(vectors.next().is_none(), "{}", case.name);

    let n_vocab = config.n_vocab;
    let greedy = case.greedy();
    let mut state = runner.new_state(prompt.len() + greedy.len()).unwrap();
    let stages = runner.decoder_stages(&mut state, &rows).unwrap();
    let mut step_logits = Vec::new();
    for (name, values) in &stages {
        match name.as_str() {
            "logits" => {
                let wanted = case
                    .tensors
                    .find(&format!("{}.prefill_logits_pos", case.name));
                let wanted = wanted.unwrap().to_f32();
                let wanted = wanted
                    .iter()
                    .map(|&row| &values[row as usize * n_vocab..][..n_vocab]);
                case.check(
                    "prefill_logits",
                    &wanted.flatten().copied().collect::<Vec<_>>(),
                    1e-3,
                );
                step_logits.extend_from_slice(&values[values.len() - n_vocab..]);
            }
            name => case.check(&format!("{name}_last"), &values[values.len() - dim..], 2e-4),
        }
    }
    let feed = |state: &mut DecoderState, token: u32| {
        let mut row = Vec::new();
        model.embed(token, &mut row);
        runner.decoder_stages(state, &row).unwrap().pop().unwrap().1
    };
    for &token in &greedy[..7] {
        step_logits.extend(feed(&mut state, token));
    }
    case.check("step_logits_first8", &step_logits, 1e-3);

    // The same by choosing, with the prompt in parts and a state that grows, beside another conversation.
    let draw = Draw {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        seed: 0,
    };
    let mut state = runner.new_state(1).unwrap();
    let split = (prompt.len() / 2).min(300) * dim;
    runner.reserve(&mut state, split / dim).unwrap();
    runner.prefill(&mut state, &rows[..split]).unwrap();
    runner
        .reserve(&mut state, prompt.len() + greedy.len())
        .unwrap();
    let mut fed = rows[split..].to_vec();
    let mut other = runner.new_state(greedy.len() + 1).unwrap();
    for (index, &expected) in greedy.iter().enumerate() {
        let chosen = match index {
            0 => runner.next_tokens(&mut [&mut state], &fed, &[draw]),
            _ => {
                let both = [fed.as_slice(), &fed].concat();
                runner.next_tokens(&mut [&mut other, &mut state], &both, &[draw; 2])
            }
        }
        .unwrap();
        let (token, logprob) = (
            chosen.tokens.last().unwrap(),
            chosen.logprobs.last().unwrap(),
        );
        assert_eq!(*token, expected, "{} token {index}", case.name);
        assert!(*logprob <= 0.0);
        fed.clear();
        model.embed(expected, &mut fed);
    }
    assert_eq!(state.position(), prompt.len() + greedy.len() - 1);
}

#[test]
fn every_stage_of_every_case() {
    check_all(&["hf", "mistral"], &Device::cpu(CpuOptions::default()));
}

/// Rows of every head from pairs of neighbours to two halves, as bytes.
fn halves(bytes: &[u8], row: usize, head_dim: usize) -> Vec<u8> {
    let heads = bytes.chunks_exact(row * head_dim);
    let rows = heads.flat_map(|head| {
        let of = move |index: usize| &head[index * row..][..row];
        let even = (0..head_dim).step_by(2).map(of);
        even.chain((1..head_dim).step_by(2).map(of))
    });
    rows.flatten().copied().collect()
}

#[test]
fn both_layouts_hold_the_same_model() {
    for folder in fixtures() {
        if !folder.join("hf").exists() {
            continue;
        }
        let [hf, mistral] = ["hf", "mistral"]
            .map(|layout| VoxtralMiniCheckpoint::open(&folder.join(layout)).unwrap());
        assert_eq!(hf.config, mistral.config);
        assert_eq!(hf.weights.len(), mistral.weights.len());
        for (name, expected) in hf.weights.iter() {
            let found = mistral.weights.get(name, &expected.shape).unwrap();
            if name.ends_with("embed_positions.weight") {
                // Mistral's layout leaves it out; the reference's sines are single precision.
                let pairs = found.to_f32().into_iter().zip(expected.to_f32());
                let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 2e-7, "{worst}");
                continue;
            }
            let rotated = name.starts_with("language_model.")
                && (name.contains("q_proj") || name.contains("k_proj"));
            let found = match rotated {
                true => {
                    let row = found.bytes.len() / found.n_rows();
                    halves(&found.bytes, row, hf.config.decoder.head_dim)
                }
                false => found.bytes.to_vec(),
            };
            assert!(found == expected.bytes[..], "{name}");
        }
    }
}

/// The same stages and tokens on graphics processors (imitated ones count).
#[test]
fn every_stage_on_a_graphics_processor() {
    for gpu in graphics_processors(Effort::Large) {
        check_all(&["mistral"], &gpu);
    }
}
