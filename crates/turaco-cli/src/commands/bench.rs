//! `turaco bench`.

use std::fs;
use std::path::Path;

use turaco::asr::Task;
use turaco::bench::{
    Clip, Comparison, FrameProtocol, KernelProtocol, Mismatch, Outcome as Measured, Protocol,
    Report, chrome_trace, comparison_table, html, svg, table,
};
use turaco::models::qwen3_tts::Qwen3TtsConfig;
use turaco::trace::Detail;
use turaco::weights::Sidecars;

use super::plan::check_recognition;
use super::{Context, bench_voice};
use crate::args::values::List;
use crate::args::{BenchArgs, InputArgs};
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::files;
use crate::inputs;
use crate::printer::Level;

/// The clip for when none is named: 11 seconds of a speech of 1961.
const BUILT_IN_CLIP: &[u8] = include_bytes!("../../../../testdata/audio/jfk.wav");

/// What is said in it.
const BUILT_IN_TEXT: &str = include_str!("../../../../testdata/audio/jfk.txt");

/// Measure, print, save and compare.
pub fn run(args: &BenchArgs, context: &Context) -> Outcome {
    check(args)?;
    if args.conversation.voice {
        return bench_voice::run(args, context);
    }
    if args.measuring.live {
        return live(args, context);
    }
    if let Some(List(lengths)) = &args.measuring.positions {
        return positions(lengths, args, context);
    }
    let speaks = !args.measuring.kernels && speaks(context)?;
    if args.measuring.texts && !speaks {
        return Err(Failure::usage("`--texts` needs a model that speaks")
            .hint("`turaco bench --texts -m qwen3-tts-0.6b-customvoice` measures one")
            .into());
    }
    // A baseline that cannot be read shows before minutes of work.
    let baseline = args.results.against.as_deref().map(read).transpose()?;
    let mut report = if args.measuring.kernels {
        kernels(args, baseline.as_ref(), context)?
    } else if speaks {
        frames(args, baseline.as_ref(), context)?
    } else {
        transcription(args, baseline.as_ref(), context)?
    };
    if let Some(limit) = args.results.memory_limit {
        report.memory_limit = Some((limit.0 * 1e6) as u64);
    }

    let comparison = match &baseline {
        None => None,
        Some(before) => Some(
            turaco::bench::compare(before, &report, args.results.by_floor)
                .map_err(|mismatch| incomparable(args, &mismatch))?,
        ),
    };
    if let Some(path) = &args.results.plot {
        let picture = if is_html(path) {
            html(&report, baseline.as_ref())
        } else {
            svg(&report, baseline.as_ref())
        };
        files::write_all_or_keep(&[(path.clone(), picture.into_bytes())])?;
    }
    if let Some(path) = &args.results.save {
        let text = format!("{}\n", json(&report, true));
        files::write_all_or_keep(&[(path.clone(), text.into_bytes())])?;
    }
    print(args, &report, comparison.as_ref(), context)
}

/// A baseline of something else is no error of the measurement but of the command line.
fn incomparable(args: &BenchArgs, mismatch: &Mismatch) -> Failure {
    let failure = Failure::usage(mismatch.to_string())
        .hint("measure the same again, or save a new baseline with `--save`");
    match &args.results.against {
        Some(path) => failure.at(path),
        None => failure,
    }
}

/// Contradictions, before anything is loaded.
fn check(args: &BenchArgs) -> Result<(), Failure> {
    let measuring = &args.measuring;
    check_recognition(args.recognition())?;
    let (live, voice) = (measuring.live, args.conversation.voice);
    let lengths = measuring.positions.is_some();
    if live || voice || lengths {
        let results = &args.results;
        let other = [
            ("--kernels", measuring.kernels),
            ("--positions", lengths && (live || voice)),
            ("--live", live && voice),
            ("--save", results.save.is_some()),
            ("--against", results.against.is_some()),
            ("--trace", results.trace.is_some()),
            ("--plot", results.plot.is_some()),
            ("--texts", measuring.texts),
        ];
        if let Some((option, _)) = other.into_iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format!(
                "`{option}` cannot be used with `{}`",
                match (voice, live) {
                    (true, _) => "--voice",
                    (_, true) => "--live",
                    _ => "--positions",
                }
            )));
        }
        if measuring.sessions.0.contains(&0) {
            return Err(Failure::usage("`--sessions` has to be at least 1"));
        }
        return Ok(());
    }
    if measuring.sessions.0 != [1] {
        return Err(Failure::usage("`--sessions` needs `--live`"));
    }
    if measuring.kernels {
        if !args.audio.is_empty() {
            return Err(Failure::usage("`--kernels` cannot be used with recordings"));
        }
        if args.results.trace.is_some() {
            return Err(Failure::usage("`--trace` cannot be used with `--kernels`"));
        }
    } else if !measuring.filter.is_empty() || measuring.isa.is_some() {
        let option = if measuring.isa.is_some() {
            "--isa"
        } else {
            "--filter"
        };
        return Err(Failure::usage(format!("`{option}` needs `--kernels`")));
    }
    if args.results.by_floor && args.results.against.is_none() {
        return Err(Failure::usage("`--by-floor` needs `--against`"));
    }
    if let Some(limit) = args.results.memory_limit {
        if args.results.save.is_none() {
            return Err(Failure::usage("`--memory-limit` needs `--save`"));
        }
        if limit.0 <= 0.0 {
            return Err(Failure::usage(
                "invalid value for `--memory-limit`: expected a number above 0",
            ));
        }
    }
    match &args.results.plot {
        Some(path) if !is_html(path) && !has_extension(path, &["svg"]) => {
            Err(Failure::usage("`--plot` draws to files that end in .svg or .html").at(path))
        }
        _ => Ok(()),
    }
}

fn is_html(path: &Path) -> bool {
    has_extension(path, &["html", "htm"])
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default();
    wanted
        .iter()
        .any(|wanted| extension.eq_ignore_ascii_case(wanted))
}

/// The commit that this program was built from; `build.rs` asks git.
fn commit() -> Option<String> {
    option_env!("TURACO_COMMIT")
        .filter(|commit| !commit.is_empty())
        .map(str::to_owned)
}

fn transcription(
    args: &BenchArgs,
    baseline: Option<&Report>,
    context: &Context,
) -> Result<Report, Stop> {
    let printer = &context.printer;
    let clips = clips(args)?;
    let load_options = engine::load_options(&context.global);
    let mut protocol = Protocol::default();
    protocol.repeats = args.measuring.repeats;
    protocol.warm_up = args.measuring.warm_up;
    protocol.long_from = args.measuring.long_from.0;
    let task = args.language.task.unwrap_or(Task::Transcribe);
    protocol.options = args.recognition().options(task);
    protocol.trace = args.results.trace.as_ref().map(|_| Detail::Operations);
    protocol.commit = commit();

    let recognizer = engine::load(&load_options, context)?;
    // One of something else shows before minutes of work.
    if let Some(before) = baseline {
        turaco::bench::subject(&recognizer, &clips, &protocol)
            .check(before)
            .map_err(|mismatch| incomparable(args, &mismatch))?;
    }
    let mut say = |what: &str| printer.note(&format!("{what}…"));
    let outcome =
        turaco::bench::transcription(&recognizer, &clips, &protocol, &context.control, &mut say)?;
    write_trace(args, &outcome)?;
    Ok(outcome.report)
}

fn write_trace(args: &BenchArgs, outcome: &Measured) -> Result<(), Failure> {
    if let Some(path) = &args.results.trace {
        let trace = chrome_trace(&outcome.spans, &outcome.report);
        files::write_all_or_keep(&[(path.clone(), trace.into_bytes())])?;
    }
    Ok(())
}

/// Listen against the clock.
fn live(args: &BenchArgs, context: &Context) -> Outcome {
    let printer = &context.printer;
    let clips = clips(args)?;
    let recognizer = engine::load(&engine::load_options(&context.global), context)?;
    let Some(realtime) = recognizer.realtime() else {
        return Err(Failure::model(format!(
            "model `{}` needs whole recordings and cannot listen",
            recognizer.model_name()
        ))
        .hint("`turaco bench --live -m voxtral-realtime` measures one that can")
        .into());
    };
    let task = args.language.task.unwrap_or(Task::Transcribe);
    let mut options = args.recognition().options(task).realtime;
    options.continuous = args.stream.continuous.unwrap_or(true);
    if !args.results.json {
        printer.result_line(
            "streams  seconds  factor  encoder  ms/piece  ms/run  streams/run  ms/step  steps/s  tokens/s  text ms p50    p95  word ms p50    p95  round ms p50    p95  behind s",
        )?;
    }
    let mut kept_up = 0;
    for &sessions in &args.measuring.sessions.0 {
        let mut runs = Vec::new();
        for index in 0..args.measuring.repeats {
            printer.note(&format!("{sessions} at once, pass {}…", index + 1));
            runs.push(turaco::bench::live(
                realtime,
                &clips,
                &options,
                sessions,
                &context.control,
            )?);
        }
        // The middle one by its factor stands for all.
        runs.sort_by(|a, b| a.factor.total_cmp(&b.factor));
        let run = &runs[runs.len() / 2];
        if run.keeps_up() {
            kept_up = kept_up.max(sessions);
        }
        if args.results.json {
            printer.result_line(&serde_json::to_string(run).unwrap_or_default())?;
            continue;
        }
        printer.result_line(&format!(
            "{:>7}  {:>7.1}  {:>6.3}  {:>7.3}  {:>8.1}  {:>6.1}  {:>11.1}  {:>7.1}  {:>7.1}  {:>8.1}  {:>11.0}  {:>5.0}  {:>11.0}  {:>5.0}  {:>12.0}  {:>5.0}  {:>8.2}",
            run.sessions,
            run.seconds,
            run.factor,
            run.encoder_factor,
            run.encoder_piece_ms,
            run.encoder_run_ms,
            run.encoder_streams,
            run.step_ms,
            run.steps_per_second,
            run.tokens_per_second,
            run.latency_ms.p50,
            run.latency_ms.p95,
            run.word_latency_ms.p50,
            run.word_latency_ms.p95,
            run.round_ms.p50,
            run.round_ms.p95,
            run.behind,
        ))?;
    }
    if !args.results.json {
        printer.result_line(&match kept_up {
            0 => "none of these in real time".to_owned(),
            streams => format!("{streams} in real time"),
        })?;
    }
    Ok(Exit::Success)
}

/// Whether the model is one that speaks. One that is not here is known by its name: mistakes on the command line come before
/// downloads.
fn speaks(context: &Context) -> Result<bool, Failure> {
    let name = context.global.recogniser();
    let Ok(path) = engine::find_here(name, context) else {
        return Ok(name.to_lowercase().contains("qwen3-tts"));
    };
    let config = match path.is_dir() {
        true => Sidecars::new(&path),
        false => Sidecars::new(path.parent().unwrap_or(&path)),
    };
    let config = Qwen3TtsConfig::read(&config).map_err(engine::model_failure)?;
    Ok(config.is_some())
}

/// Frames of a model that speaks.
fn frames(args: &BenchArgs, baseline: Option<&Report>, context: &Context) -> Result<Report, Stop> {
    let printer = &context.printer;
    let measuring = &args.measuring;
    if args.results.plot.is_some() {
        return Err(Failure::usage("`--plot` cannot be used with a model that speaks").into());
    }
    if !args.audio.is_empty() {
        return Err(Failure::usage("a model that speaks takes no recordings").into());
    }
    let protocol = FrameProtocol {
        frames: measuring.frames,
        repeats: measuring.repeats,
        warm_up: measuring.warm_up,
        utterances: measuring.utterances.0.clone(),
        texts: measuring.texts,
        trace: args.results.trace.as_ref().map(|_| Detail::Operations),
        commit: commit(),
    };
    let synthesizer = engine::load_synthesizer(context.global.recogniser(), context)?;
    if let Some(before) = baseline {
        turaco::bench::frame_subject(&synthesizer, &protocol)
            .check(before)
            .map_err(|mismatch| incomparable(args, &mismatch))?;
    }
    let mut say = |what: &str| printer.note(&format!("{what}…"));
    let outcome = turaco::bench::frames(&synthesizer, &protocol, &context.control, &mut say)?;
    write_trace(args, &outcome)?;
    Ok(outcome.report)
}

/// Decode steps of a stream by its length.
fn positions(lengths: &[usize], args: &BenchArgs, context: &Context) -> Outcome {
    let printer = &context.printer;
    let recognizer = engine::load(&engine::load_options(&context.global), context)?;
    let Some(realtime) = recognizer.realtime() else {
        return Err(Failure::model(format!(
            "model `{}` forgets after each window: its steps are equally long",
            recognizer.model_name()
        ))
        .hint("`turaco bench --positions 100,8000 -m voxtral-realtime` measures one with a long memory")
        .into());
    };
    let mut say = |what: &str| printer.note(&format!("{what}…"));
    let reports = turaco::bench::positions(
        realtime,
        lengths,
        args.measuring.repeats,
        &context.control,
        &mut say,
    )?;
    if args.results.json {
        for report in &reports {
            printer.result_line(&serde_json::to_string(report).unwrap_or_default())?;
        }
        return Ok(Exit::Success);
    }
    printer.result_line("positions  ms/step    p95  of the first  GB/s")?;
    let first = reports.first().map_or(1.0, |report| report.step_ms.p50);
    for report in &reports {
        printer.result_line(&format!(
            "{:>9}  {:>7.1}  {:>5.1}  {:>11.2}x  {:>4.1}",
            report.position,
            report.step_ms.p50,
            report.step_ms.p95,
            report.step_ms.p50 / first,
            report.memory / 1e9,
        ))?;
    }
    Ok(Exit::Success)
}

/// The named recordings, or the built-in one.
pub(super) fn clips(args: &BenchArgs) -> Result<Vec<Clip>, Failure> {
    if args.audio.is_empty() {
        let reference = Some(BUILT_IN_TEXT.to_owned());
        return Ok(vec![Clip::bytes("jfk.wav", BUILT_IN_CLIP, reference)]);
    }
    let mut inputs = inputs::collect(&InputArgs {
        audio: args.audio.clone(),
        recursive: false,
        from_file: None,
        null: false,
        raw: None,
        channel: None,
        offset: None,
        duration: None,
    })?;
    // A benchmark of half the clips would be another benchmark.
    if !inputs.failures.is_empty() {
        return Err(inputs.failures.swap_remove(0));
    }
    if inputs.found.iter().any(inputs::Input::is_stdin) {
        return Err(Failure::usage(
            "standard input cannot be read several times",
        ));
    }
    Ok(inputs
        .found
        .into_iter()
        .map(|input| Clip::file(input.path))
        .collect())
}

fn kernels(args: &BenchArgs, baseline: Option<&Report>, context: &Context) -> Result<Report, Stop> {
    let mut protocol = KernelProtocol::default();
    protocol.words.clone_from(&args.measuring.filter);
    protocol.repeats = args.measuring.repeats;
    protocol.threads = context.global.threads;
    protocol.instructions.clone_from(&args.measuring.isa);
    protocol.commit = commit();
    if let Some(before) = baseline {
        turaco::bench::kernel_subject(&protocol)?
            .check(before)
            .map_err(|mismatch| incomparable(args, &mismatch))?;
    }
    let mut done = |name: &str| context.printer.message(Level::Verbose, name);
    Ok(turaco::bench::kernels(
        &protocol,
        &context.control,
        &mut done,
    )?)
}

fn read(path: &Path) -> Result<Report, Failure> {
    let bytes = fs::read(path).map_err(|error| inputs::unreadable(path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::usage("this is no baseline that `turaco bench --save` wrote")
            .at(path)
            .caused_by(&error)
    })
}

fn json(report: &Report, for_people: bool) -> String {
    let text = if for_people {
        serde_json::to_string_pretty(report)
    } else {
        serde_json::to_string(report)
    };
    text.unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
}

fn print(
    args: &BenchArgs,
    report: &Report,
    comparison: Option<&Comparison>,
    context: &Context,
) -> Outcome {
    let printer = &context.printer;
    let text = if args.results.json {
        format!("{}\n", json(report, false))
    } else {
        table(report)
    };
    printer.result(text.as_bytes())?;
    let Some(comparison) = comparison else {
        return Ok(Exit::Success);
    };
    let text = comparison_table(comparison);
    if args.results.json {
        // stdout is for the object alone.
        printer.note(text.trim_end());
    } else {
        printer.result(format!("\n{text}").as_bytes())?;
    }
    if !comparison.failed() {
        return Ok(Exit::Success);
    }
    let failed: Vec<&str> = comparison
        .of(turaco::bench::Change::Failure)
        .map(|finding| finding.name.as_str())
        .collect();
    Err(Failure {
        code: "benchmark_regression",
        exit: Exit::InputFailed,
        ..Failure::usage(format!("worse than the baseline: {}", failed.join(", ")))
    }
    .into())
}
