//! Graphics processors that are not there, fail, or have too little memory.

use crate::support::{Home, Run, SHORT, has_graphics, model, run, wav};

/// Transcribe two windows of a tone.
fn transcribe(device: &str, environment: &[(&str, &str)]) -> Run {
    let home = Home::new();
    home.write("a.wav", wav(35.0));
    let mut command = home.command(["transcribe", "a.wav", "-f", "tsv", "--device", device]);
    command.args(["--compute-type", "f32", "--no-speech-threshold", "1"]);
    command.args(SHORT).arg("-m").arg(model());
    run(command.envs(environment.iter().copied()))
}

#[test]
fn one_that_is_not_there_is_6() {
    transcribe("vulkan:99", &[]).fails(6, &["vulkan:99", "no such graphics processor"]);
    if cfg!(target_os = "linux") {
        let nowhere = [
            ("VK_ICD_FILENAMES", "nowhere.json"),
            ("VK_DRIVER_FILES", "nowhere.json"),
        ];
        transcribe("vulkan", &nowhere).fails(6, &["no graphics processor"]);
    }
}

#[test]
fn one_with_too_little_memory_is_6() {
    if has_graphics() {
        transcribe("wgpu", &[("TURACO_GPU_FAULT", "memory:1000")])
            .fails(6, &["out of memory", "bytes for"]);
    }
}

#[test]
fn one_that_is_lost_is_6() {
    if has_graphics() {
        let run = transcribe("wgpu", &[("TURACO_GPU_FAULT", "lost:2")]);
        assert_eq!(run.code, 6, "{run:?}");
        assert!(run.stderr.contains("it was lost"), "{run:?}");
    }
}

#[test]
fn the_processor_goes_on_where_auto_was_wrong_and_no_text_is_lost() {
    if !has_graphics() {
        return;
    }
    let expected = transcribe("cpu", &[]);
    expected.succeeds();
    // At once, between the windows, while memory is taken for the first one, and where values are larger than its kernels see.
    for fault in ["lost:0", "lost:38", "memory:1500000", "buffers:60000"] {
        let run = transcribe(
            "auto",
            &[("TURACO_GPU_AUTO", "1"), ("TURACO_GPU_FAULT", fault)],
        );
        assert_eq!(run.code, 0, "{fault}: {run:?}");
        assert_eq!(run.stdout, expected.stdout, "{fault}");
        let warnings = run.stderr.matches("the processor is used").count();
        assert_eq!(warnings, 1, "{fault}: {}", run.stderr);
    }
}

#[test]
fn weights_larger_than_what_its_kernels_see_are_split_and_write_the_same() {
    if !has_graphics() {
        return;
    }
    let expected = transcribe("wgpu", &[]);
    expected.succeeds();
    let split = transcribe("wgpu", &[("TURACO_GPU_FAULT", "buffers:2000000")]);
    split.succeeds();
    assert_eq!(split.stdout, expected.stdout);
    // Where nothing can be split any more, it is said what does not fit.
    transcribe("wgpu", &[("TURACO_GPU_FAULT", "buffers:1000")])
        .fails(6, &["largest buffer of", "32 of its rows"]);
}

#[test]
fn a_kernel_that_hangs_is_named() {
    if has_graphics() {
        let run = transcribe("wgpu", &[("TURACO_GPU_FAULT", "patience:0")]);
        assert_eq!(run.code, 6, "{run:?}");
        assert!(run.stderr.contains("did not end within 0 s"), "{run:?}");
    }
}
