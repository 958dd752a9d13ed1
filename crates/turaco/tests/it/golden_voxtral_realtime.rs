//! Voxtral Realtime beside the reference's numbers, stage by stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use turaco::Control;
use turaco::features::LogMelStreamer;
use turaco::models::voxtral_realtime::{Rows, Runner, VoxtralRealtime, VoxtralRealtimeCheckpoint};
use turaco::weights::{self, WeightType, Weights};
use turaco_compute::{CpuOptions, Device};

use crate::support::{Effort, graphics_processors};

/// The whole reference set, or what of it is in the repository: the Mistral layout and some of the cases.
pub fn fixtures() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = root.join("../../../shared/golden/voxtral-realtime");
    if whole.exists() {
        whole
    } else {
        root.join("../../testdata/voxtral-realtime")
    }
}

struct Case {
    name: String,
    facts: serde_json::Value,
    tensors: Weights,
}

impl Case {
    fn all(fixtures: &Path) -> Vec<Self> {
        let json = std::fs::read(fixtures.join("golden/cases.json")).unwrap();
        let cases: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&json).unwrap();
        let case = |(name, facts): (String, serde_json::Value)| {
            let path = fixtures.join(format!("golden/{name}.safetensors"));
            let tensors = weights::open(&path).unwrap().weights;
            Self {
                name,
                facts,
                tensors,
            }
        };
        cases.into_iter().map(case).collect()
    }

    fn number(&self, key: &str) -> usize {
        self.facts[key].as_u64().unwrap() as usize
    }

    /// The audio of the case itself or of the one whose audio it shares.
    fn audio(&self, all: &[Self]) -> Vec<f32> {
        let own = |case: &Self| Some(case.tensors.find("audio")?.to_f32());
        own(self)
            .unwrap_or_else(|| own(all.iter().find(|case| case.name == "synth").unwrap()).unwrap())
    }

    #[track_caller]
    fn check(&self, name: &str, found: &[f32], tolerance: f32) {
        let Some(expected) = self.tensors.find(name) else {
            return;
        };
        let expected = expected.to_f32();
        assert_eq!(found.len(), expected.len(), "{} {name}", self.name);
        let difference = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        println!("{} {name}: {difference:e}", self.name);
        assert!(
            difference <= tolerance,
            "{} {name}: {difference}",
            self.name
        );
    }
}

fn load(folder: &Path, device: &Device) -> Arc<VoxtralRealtime> {
    let checkpoint = VoxtralRealtimeCheckpoint::open(folder).unwrap();
    VoxtralRealtime::load(&checkpoint, device, WeightType::F32, &Control::new()).unwrap()
}

fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    (0..cols)
        .flat_map(|c| (0..rows).map(move |r| values[r * cols + c]))
        .collect()
}

#[test]
fn every_stage_of_every_case() {
    let fixtures = fixtures();
    let cases = Case::all(&fixtures);
    let cpu = Device::cpu(CpuOptions::default());
    for layout in ["hf", "mistral"] {
        if !fixtures.join(layout).exists() {
            continue;
        }
        let model = load(&fixtures.join(layout), &cpu);
        for case in &cases {
            check_case(&model, case, &cases);
        }
    }
}

fn check_case(model: &Arc<VoxtralRealtime>, case: &Case, cases: &[Case]) {
    let config = model.config();
    let delay = case.number("n_delay_tokens");
    assert_eq!(config.prompt_len(delay), case.number("prompt_len"));
    let per_token = config.samples_per_token();
    let mut signal = vec![0.0; config.n_left_pad * per_token];
    signal.extend(case.audio(cases));
    let padded = signal.len().next_multiple_of(per_token) + config.right_pad(delay) * per_token;
    assert_eq!(padded, case.number("padded_samples"));
    signal.resize(padded + config.n_fft / 2, 0.0);

    let streamer = LogMelStreamer::new(config.log_mel());
    let mut frames = Vec::new();
    streamer.push(&mut streamer.stream(), &signal, &mut frames);
    let n_tokens = case.number("audio_tokens");
    frames.truncate(n_tokens * config.frames_per_token() * config.n_mels);
    // The reference computes in f32: it differs from exact numbers by up to 2.3e-5 on `speech`.
    case.check("mel", &transposed(&frames, config.n_mels), 3e-5);
    case.check("ada_scale", &model.delay_scales(delay), 1e-5);

    // The whole signal at once, as the reference computes it.
    let mut runner = Runner::new(model);
    let mut encoder = runner.new_encoder_state(n_tokens).unwrap();
    let stages = runner.encoder_stages(&mut encoder, &frames).unwrap();
    for (name, values) in &stages {
        case.check(name, values, if name == "conv_stem" { 2e-5 } else { 1e-4 });
    }
    let audio = &stages.last().unwrap().1;
    // In chunks of one, two and more tokens.
    let mut state = runner.new_encoder_state(16).unwrap();
    let mut streamed = Vec::new();
    let mut rest = frames.as_slice();
    for count in [31, 1, 1, 2, 5, 1, 16, 3].into_iter().cycle() {
        let chunk = count.min(16) * config.frames_per_token() * config.n_mels;
        let (now, later) = rest.split_at(chunk.min(rest.len()));
        if now.is_empty() {
            break;
        }
        streamed.extend_from_slice(runner.encode(&mut [&mut state], now).unwrap());
        rest = later;
    }
    case.check("adapter_out", &streamed, 1e-4);
    let difference = audio
        .iter()
        .zip(&streamed)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        difference < 1e-4,
        "{}: chunks differ by {difference}",
        case.name
    );

    let dim = config.decoder.dim;
    let prompt: Vec<u32> = case
        .tensors
        .find("prompt_ids")
        .unwrap()
        .to_f32()
        .iter()
        .map(|&id| id as u32)
        .collect();
    let tokens: Vec<u32> = case.facts["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect();
    let mut decoder = runner
        .new_decoder_state(delay, prompt.len() + tokens.len())
        .unwrap();
    // The prompt, then each token as the next one's input.
    let stages = runner
        .decoder_stages(&mut decoder, &audio[..prompt.len() * dim], &prompt)
        .unwrap();
    let n_vocab = config.n_vocab;
    let mut step_logits = Vec::new();
    let mut final_hidden = Vec::new();
    for (name, values) in &stages {
        match name.as_str() {
            "logits" => {
                case.check("prefill_logits", values, 2e-3);
                step_logits.extend_from_slice(&values[values.len() - n_vocab..]);
            }
            "dec_final_hidden" => final_hidden.extend_from_slice(&values[values.len() - dim..]),
            name => case.check(&name.replace("dec_", "dec_prefill_"), values, 2e-4),
        }
    }
    for (index, &token) in tokens[..tokens.len() - 1].iter().enumerate() {
        let at = prompt.len() + index;
        let stages = runner
            .decoder_stages(&mut decoder, &audio[at * dim..][..dim], &[token])
            .unwrap();
        step_logits.extend_from_slice(&stages.last().unwrap().1);
        final_hidden.extend_from_slice(&stages[stages.len() - 2].1);
    }
    case.check("step_logits", &step_logits, 2e-3);
    case.check("dec_final_hidden", &final_hidden, 2e-4);

    // The same by choosing, with the prompt in two parts.
    let mut decoder = runner.new_decoder_state(delay, prompt.len()).unwrap();
    let split = prompt.len() - 8;
    let first = Rows {
        audio: &audio[..split * dim],
        tokens: &prompt[..split],
        candidates: 0,
        every: false,
    };
    runner.decode(&mut [&mut decoder], first).unwrap();
    let mut fed = prompt[split..].to_vec();
    let mut at = split;
    for &expected in &tokens {
        let rows = Rows {
            audio: &audio[at * dim..][..fed.len() * dim],
            tokens: &fed,
            candidates: 3,
            every: false,
        };
        at += fed.len();
        let chosen = runner.decode(&mut [&mut decoder], rows).unwrap();
        assert_eq!(chosen.tokens[0], expected, "{} position {at}", case.name);
        assert!(chosen.logprobs[0] >= chosen.logprobs[1] && chosen.logprobs[0] <= 0.0);
        fed = vec![expected];
    }
}

#[test]
fn both_layouts_give_identical_numbers() {
    let fixtures = fixtures();
    if !fixtures.join("hf").exists() {
        eprintln!("skipped: ../shared is absent");
        return;
    }
    let cpu = Device::cpu(CpuOptions::default());
    let results = ["hf", "mistral"].map(|layout| {
        let model = load(&fixtures.join(layout), &cpu);
        let config = model.config();
        let mut runner = Runner::new(&model);
        let frames: Vec<f32> = (0..12 * config.frames_per_token() * config.n_mels)
            .map(|i| ((i * 37 % 101) as f32 / 101.0) - 0.5)
            .collect();
        let mut encoder = runner.new_encoder_state(12).unwrap();
        let audio = runner
            .encode(&mut [&mut encoder], &frames)
            .unwrap()
            .to_vec();
        let mut decoder = runner.new_decoder_state(3, 12).unwrap();
        let stages = runner
            .decoder_stages(&mut decoder, &audio, &[32; 12])
            .unwrap();
        (config.clone(), audio, stages)
    });
    assert_eq!(results[0], results[1]);
}

/// The same stages and tokens on graphics processors (imitated ones count).
#[test]
fn every_stage_on_a_graphics_processor() {
    let fixtures = fixtures();
    let cases = Case::all(&fixtures);
    for gpu in graphics_processors(Effort::Large) {
        let model = load(&fixtures.join("mistral"), &gpu);
        for case in &cases {
            check_case(&model, case, &cases);
        }
    }
}
