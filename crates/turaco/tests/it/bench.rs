//! The benchmark of a real model on a real clip.

use turaco::bench::{
    Change, Clip, Protocol, Report, Role, chrome_trace, compare, comparison_table, html, table,
    transcription,
};
use turaco::trace::{Detail, Recorder};
use turaco::{Control, LoadOptions, Recognizer};

use crate::support::{real_model, testdata};

#[test]
fn a_real_run_has_every_number() {
    let control = Control::new();
    let model = Recognizer::load_path(&real_model("tiny.en"), &LoadOptions::new(), &control)
        .expect("the model loads");
    let clips = [Clip::file(testdata("audio/jfk.wav"))];
    let mut protocol = Protocol::default();
    protocol.repeats = 2;
    protocol.options.beam_size = 1;
    protocol.trace = Some(Detail::Operations);
    let mut said = Vec::new();
    let outcome = transcription(&model, &clips, &protocol, &control, &mut |what| {
        said.push(what.to_owned());
    })
    .expect("a benchmark");
    assert_eq!(
        said,
        [
            "warm-up 1 of 1",
            "pass 1 of 2",
            "pass 2 of 2",
            "a pass for the trace"
        ]
    );
    let report = outcome.report;
    numbers(&report);
    spans(&outcome.spans, &report);

    // What was saved is what is read back, and the same as itself.
    let text = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    let comparison = compare(&read, &report, false).unwrap();
    assert!(!comparison.failed(), "{}", comparison_table(&comparison));
    assert_eq!(comparison.of(Change::Missing).count(), 0);
    assert!(table(&report).contains("target 120 ms"));
    assert!(html(&report, Some(&read)).contains("overall_rtf"));

    // The recorder is free again, and a second one is refused while it is not.
    let _recorder = Recorder::start(Detail::Stages).expect("no recording is left over");
    assert!(transcription(&model, &clips, &protocol, &control, &mut |_| {}).is_err());
}

fn numbers(report: &Report) {
    let summary = report.transcription.as_ref().unwrap();
    let clip = &summary.clips[0];
    assert!(
        clip.text.contains("ask what you can do for your country"),
        "{}",
        clip.text
    );
    assert_eq!(clip.word_error_rate, Some(0.0));
    assert_eq!((clip.windows, clip.run_seconds.len()), (1, 2));
    // One step less than tokens and the end, because the prefill chooses the first.
    assert_eq!(clip.steps, clip.tokens);
    assert_eq!(summary.step_ms.count, 2 * clip.steps);
    assert_eq!(summary.prefill_ms.count, 2);
    assert_eq!(summary.audio_seconds, 22.0);
    assert!((summary.overall_rtf - summary.runtime_seconds / 22.0).abs() < 1e-12);
    assert!(summary.overall_rtf_with_load > summary.overall_rtf);
    assert!(summary.short_rtf.is_some() && summary.long_rtf.is_none());
    assert!(summary.first_token_ms.p50 > summary.encoder_ms.p50);
    assert!(summary.first_token_ms.p50 <= summary.first_text_ms.p50);
    assert!(summary.tokens_per_second > 0.0);

    // The steps make up the run.
    let parts: f64 = summary
        .steps
        .iter()
        .filter(|step| !step.name.starts_with("of it"))
        .map(|step| step.ms)
        .sum();
    let whole = summary.pass_seconds.p50 * 1e3;
    assert!((parts / whole - 1.0).abs() < 0.05, "{parts} of {whole} ms");
    for (letter, name) in [('G', "encoder"), ('H', "decoder"), ('F', "mel")] {
        let step = summary.steps.iter().find(|s| s.letter == Some(letter));
        let step = step.unwrap();
        assert_eq!(step.name, name);
        assert!(step.ms > 0.0 && step.target_ms.is_some());
    }
    for name in ["encoder per window", "prefill", "decode step"] {
        let measure = report.measures.iter().find(|m| m.name == name).unwrap();
        assert_eq!(measure.role, Role::Component);
        assert!(measure.ratio().is_some_and(|ratio| ratio > 0.0), "{name}");
    }
    let limits = &report.limits;
    assert!(limits.memory > 0.0 && limits.step_memory > 0.0);
    // The matrices of tiny.en's decoder, by whichever type is the default here.
    assert!((10_000_000..200_000_000).contains(&limits.step_bytes));
    assert!(!limits.peaks.is_empty());
    if cfg!(target_os = "linux") {
        assert!(report.memory_limit > report.peak_memory && report.peak_memory.is_some());
    }
}

fn spans(spans: &[turaco::trace::Span], report: &Report) {
    let find = |name: &str| {
        let found = spans.iter().find(|span| &*span.name == name);
        found.unwrap_or_else(|| panic!("no span {name}"))
    };
    for (outer, inner) in [
        ("run", "transcribe"),
        ("transcribe", "mel"),
        ("transcribe", "encoder"),
        ("encoder", "encoder.layer.0"),
        ("encoder", "encoder.layer.3"),
        ("encoder", "cross_keys.layer.3"),
        ("encoder.layer.0", "attention"),
        ("transcribe", "search"),
        ("search", "prefill"),
        ("prefill", "decoder.prefill"),
        ("search", "step"),
        ("step", "decoder.step"),
        ("decoder.prefill", "decoder.layer.3"),
        ("decoder.prefill", "token choice"),
        ("run", "write"),
    ] {
        assert!(
            find(outer).contains(find(inner)),
            "{inner} is not in {outer}"
        );
    }
    // Side by side or inside each other, never across.
    let mut open: Vec<&turaco::trace::Span> = Vec::new();
    for span in spans {
        while open.pop_if(|outer| outer.end <= span.begin).is_some() {}
        if let Some(outer) = open.last() {
            assert!(outer.contains(span), "{outer:?} {span:?}");
        }
        open.push(span);
    }
    let trace: serde_json::Value = serde_json::from_str(&chrome_trace(spans, report)).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.len(), spans.len() + 1);
    let steps = events
        .iter()
        .filter(|event| event["name"] == "decoder.step");
    assert_eq!(
        steps.count(),
        report.transcription.as_ref().unwrap().clips[0].steps
    );
}

#[cfg(feature = "wgpu")]
#[test]
fn frames_on_a_graphics_processor_are_one_submission_and_one_read() {
    use turaco::bench::{FrameProtocol, frames};

    let Some(model) = crate::synthesizer::designed_voice_on_gpu() else {
        return;
    };
    let protocol = FrameProtocol {
        frames: 3,
        repeats: 1,
        warm_up: 1,
        utterances: vec![1, 2],
        texts: false,
        trace: None,
        commit: None,
    };
    let outcome = frames(&model, &protocol, &Control::new(), &mut |_| {}).unwrap();
    let speech = outcome.report.speech.as_ref().unwrap();
    for batch in &speech.batches {
        let (frame, prompt) = (&batch.device, &batch.device_prompt);
        let frame = frame.as_ref().expect("the model runs on this device");
        assert_eq!((frame.submissions, frame.readbacks), (1.0, 1.0));
        assert_eq!(frame.allocated_bytes, 0.0);
        assert!(frame.dispatches > 1.0 && frame.read_bytes > 0.0, "{frame}");
        assert!(frame.ms <= batch.frame_ms.p99, "{frame} {batch:?}");
        let prompt = prompt.as_ref().expect("the same for prompts");
        assert_eq!((prompt.submissions, prompt.readbacks), (1.0, 1.0));
    }
    let chunks = speech.codec.iter().map(|row| row.device.as_ref());
    for chunk in chunks {
        let chunk = chunk.expect("the codec runs on this device");
        assert_eq!((chunk.submissions, chunk.readbacks), (1.0, 1.0), "{chunk}");
        assert_eq!(chunk.allocated_bytes, 0.0, "{chunk}");
    }
    let text = table(&outcome.report);
    for line in ["device frame, 2 at once: ", "device codec, chunks of "] {
        assert!(text.contains(line), "{text}");
    }
    let saved = serde_json::to_string(&outcome.report).unwrap();
    let read: Report = serde_json::from_str(&saved).unwrap();
    let device = |report: &Report| report.speech.as_ref().unwrap().batches[1].device.is_some();
    assert!(device(&read) && device(&outcome.report));
}
