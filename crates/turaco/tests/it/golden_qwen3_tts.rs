//! Qwen3-TTS from text to codes beside the reference's numbers, stage by stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use turaco::Control;
use turaco::models::qwen3_tts::{
    FrameInput, PromptRequest, Qwen3Tts, Qwen3TtsCheckpoint, Reference, Runner, Sampling,
    VoicePrompt,
};
use turaco::tokenizer::QwenTokenizer;
use turaco::weights::{self, Sidecars, WeightType, Weights};
use turaco_compute::{CpuOptions, Device};

use crate::support::{Effort, graphics_processors};

/// The whole reference set, or what of it is in the repository.
pub fn fixtures() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = root.join("../../../shared/golden/qwen3-tts");
    if whole.exists() {
        whole
    } else {
        root.join("../../testdata/qwen3-tts")
    }
}

fn load(folder: &Path, device: &Device) -> Arc<Qwen3Tts> {
    let checkpoint = Qwen3TtsCheckpoint::open(folder).unwrap();
    Qwen3Tts::load(&checkpoint, device, WeightType::F32, &Control::new()).unwrap()
}

pub fn tensors(name: &str) -> Option<Weights> {
    let path = fixtures().join(format!("golden/{name}.safetensors"));
    path.exists().then(|| weights::open(&path).unwrap().weights)
}

pub fn cases() -> Vec<Value> {
    let json = std::fs::read(fixtures().join("golden/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&json).unwrap();
    index["cases"].as_array().unwrap().clone()
}

/// Number `index` of a value that is a list in batches.
fn text(value: &Value, index: usize) -> &str {
    let value = if value.is_array() {
        &value[index]
    } else {
        value
    };
    value.as_str().unwrap_or_default()
}

#[track_caller]
fn check(case: &str, name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{case} {name}");
    let difference = (found.iter().zip(expected))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    println!("{case} {name}: {difference:e}");
    assert!(difference <= tolerance, "{case} {name}: {difference}");
}

/// What a case asks for, of utterance `index` of a batch.
struct Request {
    text: String,
    instruct: String,
    language: Option<u32>,
    speaker: Option<u32>,
    vector: Option<Vec<f32>>,
    /// Codes and text.
    recording: Option<(Vec<u32>, String)>,
    streams_text: bool,
}

impl Request {
    fn new(model: &Qwen3Tts, case: &Value, index: usize) -> Self {
        let config = model.config();
        let speaker = config.speaker(text(&case["speaker"], index));
        let language = match (text(&case["language"], index), speaker) {
            ("auto" | "chinese", Some(speaker)) if speaker.dialect.is_some() => {
                config.language_id(speaker.dialect.as_deref().unwrap())
            }
            ("auto", _) => None,
            (name, _) => config.language_id(name),
        };
        let mode = case.get("mode").and_then(Value::as_str);
        let speaker_golden = mode.map(|_| tensors("speaker").unwrap());
        let recording = (speaker_golden.as_ref())
            .filter(|_| mode == Some("icl"))
            .map(|golden| {
                (
                    integers(golden, "ref_codes"),
                    text(&case["ref_text"], 0).to_owned(),
                )
            });
        let vector = speaker_golden.map(|golden| golden.find("xvector").unwrap().to_f32());
        Self {
            text: text(&case["text"], index).to_owned(),
            instruct: match config.takes_instructions() {
                true => text(&case["instruct"], index).to_owned(),
                false => String::new(),
            },
            language,
            speaker: speaker.map(|speaker| speaker.id),
            vector,
            recording,
            streams_text: case["non_streaming_mode"] == false,
        }
    }
}

pub fn integers(weights: &Weights, name: &str) -> Vec<u32> {
    let tensor = weights.find(name).unwrap();
    let size = tensor.bytes.len() / tensor.len();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    tensor.bytes.chunks_exact(size).map(number).collect()
}

fn greedy(model: &Qwen3Tts) -> Sampling {
    let mut values = model.config().generation;
    values.temperature = 0.0;
    values.subtalker_temperature = 0.0;
    Sampling { values, seed: 0 }
}

fn check_case(model: &Arc<Qwen3Tts>, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let Some(expected) = tensors(name) else {
        return;
    };
    let floats = |name: &str| expected.find(name).unwrap().to_f32();
    let (dim, n_codes) = (model.config().talker.dim, model.config().n_codes);
    let n_utterances = case["frames"].as_array().unwrap().len();
    let n_frames = case["frames"][0].as_u64().unwrap() as usize;
    let mut runner = Runner::new(model);
    let mut prompts = Vec::new();
    for index in 0..n_utterances {
        let request = Request::new(model, case, index);
        let instruct = match request.instruct.as_str() {
            "" => Vec::new(),
            instruct => model.instruct_tokens(instruct),
        };
        let reference_turn = request.recording.as_ref().map(|(_, text)| model.turn(text));
        let voice = match (&request.vector, &request.recording, &reference_turn) {
            (Some(vector), Some((codes, _)), Some(turn)) => {
                let text = &turn.text;
                VoicePrompt::InContext(vector, Reference { codes, text })
            }
            (Some(vector), ..) => VoicePrompt::Vector(vector),
            (None, ..) => request
                .speaker
                .map_or(VoicePrompt::None, VoicePrompt::Speaker),
        };
        let prompt = PromptRequest {
            turn: &model.turn(&request.text),
            instruct: &instruct,
            language: request.language,
            voice,
            streams_text: request.streams_text,
        };
        prompts.push(runner.prompt(&prompt, &Control::new()).unwrap());
    }
    // Shorter prompts are padded in front.
    let all = floats("prompt_embeds");
    let each = all.len() / n_utterances;
    for (index, prompt) in prompts.iter().enumerate() {
        let padded = &all[index * each..][..each];
        let expected = &padded[each - prompt.rows.len()..];
        check(name, "prompt_embeds", &prompt.rows, expected, 1e-5);
        check(
            name,
            "tts_pad_embed",
            &prompt.pad,
            &floats("tts_pad_embed"),
            1e-5,
        );
    }
    if case["non_streaming_mode"] == false {
        let trailing = floats("trailing_text_hidden");
        check(
            name,
            "trailing_text_hidden",
            &prompts[0].trailing,
            &trailing[..prompts[0].trailing.len()],
            1e-5,
        );
    }

    // The stages of every frame.
    let (inputs, hidden) = (floats("step_inputs"), floats("step_hidden"));
    let (logits, sub_logits) = (floats("step_logits"), floats("sub_logits"));
    for (index, prompt) in prompts.iter().enumerate() {
        let of = |all: &[f32], frame: usize| {
            let size = all.len() / (n_utterances * n_frames);
            all[(index * n_frames + frame) * size..][..size].to_vec()
        };
        let state = |runner: &Runner| {
            let n_positions = prompt.rows.len() / dim + n_frames + 1;
            runner.new_state(n_positions, greedy(model)).unwrap()
        };
        let mut stages_of = state(&runner);
        let mut found = Vec::new();
        for frame in 0..=n_frames {
            let input = match frame.checked_sub(1) {
                None => FrameInput::Prompt(&prompt.rows),
                Some(frame) => FrameInput::Text(text_at(prompt, frame, dim)),
            };
            let stages = runner.frame_stages(&mut stages_of, input).unwrap();
            if let Some(before) = frame.checked_sub(1) {
                check(
                    name,
                    "step_inputs",
                    &stages.inputs,
                    &of(&inputs, before),
                    2e-4,
                );
                check(
                    name,
                    "step_hidden",
                    &stages.hidden_state,
                    &of(&hidden, before),
                    2e-4,
                );
                check(
                    name,
                    "step_logits",
                    &stages.logits,
                    &of(&logits, before),
                    2e-4,
                );
            } else {
                let whole = floats("prefill_hidden");
                let last = &whole[..each * (index + 1)][each * (index + 1) - dim..];
                check(name, "prefill_hidden", &stages.hidden_state, last, 2e-4);
                let first = floats("prefill_logits_last");
                let size = first.len() / n_utterances;
                check(
                    name,
                    "prefill_logits_last",
                    &stages.logits,
                    &first[index * size..][..size],
                    2e-4,
                );
            }
            if frame < n_frames {
                check(
                    name,
                    "sub_logits",
                    &stages.sub_logits,
                    &of(&sub_logits, frame),
                    2e-4,
                );
                found.extend_from_slice(stages_of.codes());
            }
        }
        let end = model.config().codec_tokens.eos;
        assert_eq!(
            case["stops_by_eos"] == true,
            stages_of.codes()[0] == end,
            "{name}"
        );
        let codes = match n_utterances {
            1 => integers(&expected, "codes"),
            _ => integers(&expected, &format!("codes{index}")),
        };
        assert_eq!(found, codes, "{name}");

        // The same without a look inside.
        let mut state = state(&runner);
        let mut again = Vec::new();
        for frame in 0..n_frames {
            let input = match frame.checked_sub(1) {
                None => FrameInput::Prompt(&prompt.rows),
                Some(frame) => FrameInput::Text(text_at(prompt, frame, dim)),
            };
            again.extend_from_slice(runner.next_frames(&mut [&mut state], input).unwrap());
        }
        assert_eq!(again, found, "{name}");
        assert_eq!(again.len(), n_frames * n_codes);
    }
}

fn text_at(prompt: &turaco::models::qwen3_tts::Prompt, frame: usize, dim: usize) -> &[f32] {
    let word = prompt.trailing.get(frame * dim..(frame + 1) * dim);
    word.unwrap_or(&prompt.pad)
}

fn check_all(device: &Device) {
    for variant in ["custom_voice", "voice_design", "base"] {
        let folder = fixtures().join(variant);
        if !folder.exists() {
            continue;
        }
        let model = load(&folder, device);
        for case in cases().iter().filter(|case| case["variant"] == variant) {
            check_case(&model, case);
        }
    }
}

#[test]
fn every_stage_of_every_case() {
    check_all(&Device::cpu(CpuOptions::default()));
}

#[test]
fn every_stage_on_a_graphics_processor() {
    for gpu in graphics_processors(Effort::Large) {
        check_all(&gpu);
    }
}

/// One copy in, one submission, one read of the frame's codes, and no memory.
#[test]
fn a_frame_on_a_graphics_processor_is_one_submission() {
    for gpu in graphics_processors(Effort::Small) {
        check_cost_of_a_frame(&gpu);
    }
}

fn check_cost_of_a_frame(gpu: &Device) {
    use turaco_compute::trace::{Detail, Recorder};
    let model = load(&fixtures().join("voice_design"), gpu);
    let mut runner = Runner::new(&model);
    let vector = runner.project_text(&[33], &Control::new()).unwrap();
    let mut state = runner.new_state(8, greedy(&model)).unwrap();
    let mut frame = |input| {
        let mut recorder = Recorder::start(Detail::Stages).unwrap();
        runner.next_frames(&mut [&mut state], input).unwrap();
        let spans = recorder.take();
        let activity = spans.iter().find_map(|span| span.activity);
        activity.expect("the device counts what it does")
    };
    frame(FrameInput::Prompt(&vector));
    // The first of these is compiled.
    frame(FrameInput::Text(&vector));
    for _ in 0..3 {
        let activity = frame(FrameInput::Text(&vector));
        assert_eq!((activity.submissions, activity.readbacks), (1, 1));
        assert_eq!(activity.allocated_bytes, 0);
        assert!(activity.read_bytes <= 256, "{activity:?}");
    }
}

#[test]
fn prompts_are_tokenised_as_by_the_reference() {
    let json = std::fs::read(fixtures().join("golden/tokenizer.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&json).unwrap();
    let folder = ["base", "voice_design"].map(|name| fixtures().join(name));
    let folder = folder.iter().find(|folder| folder.exists()).unwrap();
    let tokenizer = QwenTokenizer::read(&Sidecars::new(folder)).unwrap();
    for case in expected {
        let ids = tokenizer.encode_with_special(case["text"].as_str().unwrap());
        assert_eq!(
            serde_json::to_value(ids).unwrap(),
            case["ids"],
            "{}",
            case["text"]
        );
    }
}
