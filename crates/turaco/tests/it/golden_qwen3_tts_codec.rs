//! The codec of Qwen3-TTS beside the reference's numbers, stage by stage.

use std::path::PathBuf;
use std::sync::Arc;

use turaco::Control;
use turaco::models::qwen3_tts::codec::{
    CodecCheckpoint, CodecDecoder, CodecEncoder, CodecRunner, random,
};
use turaco::models::qwen3_tts::speaker_encoder::SpeakerEncoder;
use turaco::weights::{WeightType, Weights};
use turaco_compute::{CpuOptions, Device};

use crate::support::{Effort, assert_close, graphics_processors, shared, tensors, testdata};

/// The whole reference set, or what of it is in the repository.
fn fixtures() -> PathBuf {
    shared("golden/qwen3-tts").unwrap_or_else(|| testdata("qwen3-tts"))
}

fn golden(name: &str) -> Weights {
    tensors(&fixtures().join(format!("golden/{name}.safetensors")))
}

fn values(golden: &Weights, name: &str) -> Vec<f32> {
    golden.require(name).unwrap().to_f32()
}

fn codes(golden: &Weights) -> Vec<u32> {
    let codes = golden.require("codes").unwrap();
    codes.to_f32().iter().map(|&code| code as u32).collect()
}

fn decoder(device: &Device, weight_type: WeightType) -> Arc<CodecDecoder> {
    let checkpoint = CodecCheckpoint::open(&fixtures().join("base/speech_tokenizer")).unwrap();
    CodecDecoder::load(&checkpoint, device, weight_type, &Control::new()).unwrap()
}

fn cpu() -> Device {
    Device::cpu(CpuOptions::default())
}

/// Rows of time to rows of channels.
fn channels_first(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols)
        .flat_map(|col| values[col..].iter().step_by(cols).copied())
        .collect()
}

fn every_stage_on(device: &Device) {
    let golden = golden("codec_decode");
    let decoder = decoder(device, WeightType::F32);
    let codes = codes(&golden);
    let runner = CodecRunner::new(&decoder);
    let mut compared = 0;
    for (name, found) in runner.stages(&codes).unwrap() {
        let Some(expected) = golden.find(&name) else {
            continue;
        };
        compared += 1;
        let (shape, expected) = (expected.shape.clone(), expected.to_f32());
        if name == "wav" {
            let clamped: Vec<f32> = found.iter().map(|x| x.clamp(-1.0, 1.0)).collect();
            assert_close(&name, &clamped, &expected, 5e-4);
        } else if name == "pre_transformer_out" {
            assert_close(&name, &found, &expected, 2e-4);
        } else {
            assert_close(&name, &channels_first(&found, shape[0]), &expected, 2e-4);
        }
    }
    assert_eq!(compared, 8);
}

/// Decode in chunks of so many frames.
fn decode(runner: &mut CodecRunner, codes: &[u32], frames: usize) -> Vec<f32> {
    let mut stream = runner.new_stream().unwrap();
    let mut samples = Vec::new();
    let n_groups = runner.decoder().config().n_groups;
    for codes in codes.chunks(frames * n_groups) {
        runner.decode(&mut stream, codes, &mut samples).unwrap();
    }
    samples
}

fn chunks_on(device: &Device, weight_type: WeightType, tolerance: f32) {
    let golden = golden("codec_decode");
    let mut runner = CodecRunner::new(&decoder(device, weight_type));
    let codes = codes(&golden);
    let whole = decode(&mut runner, &codes, codes.len());
    for frames in [1, 2, 3, 7] {
        let stage = format!("{weight_type:?} chunks of {frames}");
        assert_close(
            &stage,
            &decode(&mut runner, &codes, frames),
            &whole,
            tolerance,
        );
    }
    if weight_type == WeightType::F32 {
        assert_close("stream", &whole, &values(&golden, "wav"), 5e-4);
    }
}

fn encoder_on(device: &Device) {
    let golden = golden("codec_encode");
    let checkpoint = CodecCheckpoint::open(&fixtures().join("base/speech_tokenizer")).unwrap();
    let encoder =
        CodecEncoder::load(&checkpoint, device, WeightType::F32, &Control::new()).unwrap();
    // Longer than a piece, and no whole number of rows.
    let samples = values(&golden, "wav24k");
    let (found, stages) = encoder.stages(&samples).unwrap();
    for (name, values) in stages {
        let expected = golden.require(&name).unwrap();
        let found = match name.as_str() {
            "transformer_out" => values,
            _ => channels_first(&values, expected.shape[0]),
        };
        assert_close(&name, &found, &expected.to_f32(), 2e-4);
    }
    assert_eq!(found, codes(&golden));
    assert_eq!(encoder.encode(&samples, &Control::new()).unwrap(), found);
    assert!(encoder.encode(&[], &Control::new()).is_err());
    assert_eq!(encoder.encode(&[0.1], &Control::new()).unwrap().len(), 16);
}

fn speaker_on(device: &Device) {
    let golden = golden("speaker");
    let checkpoint = turaco::weights::open(&fixtures().join("base")).unwrap();
    let (weights, sidecars) = (&checkpoint.weights, &checkpoint.sidecars);
    let encoder = SpeakerEncoder::load(weights, sidecars, device, WeightType::F32).unwrap();
    let samples = values(&golden, "wav24k");
    let mut compared = 0;
    for (name, found) in encoder.stages(&samples).unwrap() {
        let expected = golden.require(&name).unwrap();
        compared += 1;
        let tolerance = if name == "mel" { 2e-3 } else { 2e-4 };
        let found = match name.as_str() {
            "asp_out" | "xvector" => found,
            _ => channels_first(&found, expected.shape[0]),
        };
        assert_close(&name, &found, &expected.to_f32(), tolerance);
    }
    assert_eq!(compared, 8);
    let vector = encoder.embed(&samples, &Control::new()).unwrap();
    assert_close("embed", &vector, &values(&golden, "xvector"), 2e-4);
    let error = encoder.embed(&samples[..500], &Control::new()).unwrap_err();
    assert!(error.to_string().contains("at least"), "{error}");
}

#[test]
fn every_stage_of_the_encoder() {
    encoder_on(&cpu());
}

#[test]
fn every_stage_of_the_speaker_encoder() {
    speaker_on(&cpu());
}

#[test]
fn every_stage_of_the_decoder() {
    every_stage_on(&cpu());
}

#[test]
fn a_stream_in_any_chunks_is_the_whole() {
    for weight_type in WeightType::ALL {
        chunks_on(&cpu(), weight_type, 0.0);
    }
}

/// A stream that skipped frames goes on as one that decoded them.
fn skipping(runner: &mut CodecRunner, codes: &[u32]) {
    let n_groups = runner.decoder().config().n_groups;
    let (before, behind) = codes.split_at(codes.len() - 5 * n_groups);
    let mut found: Vec<Vec<f32>> = Vec::new();
    for skips in [false, true] {
        let mut stream = runner.new_stream().unwrap();
        let (mut samples, mut rest) = (Vec::new(), before);
        if skips {
            runner.skip(&mut stream, before, || Ok(())).unwrap();
            rest = &[];
        }
        runner.decode(&mut stream, rest, &mut samples).unwrap();
        assert_eq!(stream.position(), before.len() / n_groups);
        samples.clear();
        runner.decode(&mut stream, behind, &mut samples).unwrap();
        found.push(samples);
    }
    assert!(found[0] == found[1]);
}

#[test]
fn frames_that_are_skipped_leave_behind_what_decoded_ones_do() {
    let codes = codes(&golden("codec_decode")).repeat(20);
    for weight_type in WeightType::ALL {
        let mut runner = CodecRunner::new(&decoder(&cpu(), weight_type));
        let n_groups = runner.decoder().config().n_groups;
        for frames in [5, 6, 20, 101] {
            skipping(&mut runner, &codes[..frames * n_groups]);
        }
    }
}

/// Other ratios, groups and widths than the published ones, also on other instruction sets.
#[test]
fn other_sizes_stream_the_same() {
    let folder = std::env::temp_dir().join(format!("turaco-codec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = random::tiny();
    random::write_random(&config, &folder, 1, &Control::new()).unwrap();
    let checkpoint = CodecCheckpoint::open(&folder).unwrap();
    assert_eq!(checkpoint.config, config);
    let codes: Vec<u32> = (0..23 * 6).map(|i| (i * i + 7 * i) % 40).collect();
    let mut wholes: Vec<Vec<f32>> = Vec::new();
    for isa in turaco_compute::Isa::available() {
        let device = Device::cpu(CpuOptions {
            isa: Some(isa),
            ..CpuOptions::default()
        });
        let decoder =
            CodecDecoder::load(&checkpoint, &device, WeightType::F32, &Control::new()).unwrap();
        let mut runner = CodecRunner::new(&decoder);
        let whole = decode(&mut runner, &codes, 23);
        assert_eq!(whole.len(), 23 * 24);
        skipping(&mut runner, &codes.repeat(10));
        for frames in [1, 5] {
            let stage = format!("{isa:?} chunks of {frames}");
            assert_close(&stage, &decode(&mut runner, &codes, frames), &whole, 0.0);
        }
        wholes.push(whole);
    }
    for whole in &wholes {
        assert_close("instruction sets", whole, &wholes[0], 2e-5);
    }
    let encoder =
        CodecEncoder::load(&checkpoint, &cpu(), WeightType::F32, &Control::new()).unwrap();
    let codes = encoder.encode(&wholes[0][..100], &Control::new()).unwrap();
    assert_eq!(codes.len(), 100usize.div_ceil(24) * 6);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn streams_are_independent_and_begin_anew() {
    let mut runner = CodecRunner::new(&decoder(&cpu(), WeightType::F32));
    let codes = codes(&golden("codec_decode"));
    let expected = decode(&mut runner, &codes, 4);
    let (mut one, mut other) = (runner.new_stream().unwrap(), runner.new_stream().unwrap());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for frames in codes.chunks(4 * 16) {
        runner.decode(&mut one, frames, &mut first).unwrap();
        runner.decode(&mut other, &[0; 16], &mut second).unwrap();
    }
    assert_eq!(first, expected);
    runner.restart(&mut other).unwrap();
    let mut again = Vec::new();
    for frames in codes.chunks(4 * 16) {
        runner.decode(&mut other, frames, &mut again).unwrap();
    }
    assert_eq!(again, expected);
}

#[test]
fn codes_that_no_codebook_has_are_refused() {
    let mut runner = CodecRunner::new(&decoder(&cpu(), WeightType::F32));
    let mut stream = runner.new_stream().unwrap();
    let mut samples = Vec::new();
    let mut codes = vec![0; 32];
    codes[19] = 64;
    let error = runner
        .decode(&mut stream, &codes, &mut samples)
        .unwrap_err();
    assert!(error.to_string().contains("code 3 of frame 1"), "{error}");
    let error = runner.decode(&mut stream, &codes[..15], &mut samples);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("whole frames of 16")
    );
    assert!(samples.is_empty() && stream.position() == 0);
}

/// The same stages and chunks on graphics processors (imitated ones count).
#[test]
fn every_stage_on_a_graphics_processor() {
    for gpu in graphics_processors(Effort::Small) {
        every_stage_on(&gpu);
        encoder_on(&gpu);
        speaker_on(&gpu);
        chunks_on(&gpu, WeightType::F32, 1e-5);
    }
}
