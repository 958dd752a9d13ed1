//! Kernels by themselves, beside the limits of the machine.

use std::time::Duration;

use turaco_compute::measure::kernels::{KernelTime, Limit, Selection, measure};
use turaco_compute::measure::{Machine, peak_memory};
use turaco_compute::{Isa, WeightType};

use super::baseline::Subject;
use super::limits::{self, Measured, machine_facts};
use super::report::{FORMAT, KernelRow, Kind, Measure, Report, Role};
use super::targets::MEL;
use crate::features::{LogMel, SAMPLE_RATE};
use crate::{Control, Error, Result};

/// How to measure kernels.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KernelProtocol {
    /// Words that have to occur in `group type sizes` of a kernel; none = all kernels.
    pub words: Vec<String>,
    /// Times that each kernel is measured, the limits in between.
    pub repeats: usize,
    /// Time of one such measurement.
    pub budget: Duration,
    /// Threads; 0 = one per physical core.
    pub threads: usize,
    /// Beginning of the name of an instruction set; `None` = the best of this machine.
    pub instructions: Option<String>,
    /// Commit that the program was built from.
    pub commit: Option<String>,
}

impl Default for KernelProtocol {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            repeats: 5,
            budget: Duration::from_millis(50),
            threads: 0,
            instructions: None,
            commit: None,
        }
    }
}

/// Measure the kernels of this machine. `done` is told the name of each that is finished.
///
/// # Errors
/// An instruction set that is not there, words that no kernel holds, no memory, or cancellation.
pub fn kernels(
    protocol: &KernelProtocol,
    control: &Control,
    done: &mut dyn FnMut(&str),
) -> Result<Report> {
    let machine = machine(protocol)?;
    let subject = subject(protocol, &machine);
    let selection = Selection {
        words: protocol.words.clone(),
        rounds: protocol.repeats.max(1),
        budget: protocol.budget,
    };
    let mut limits = vec![limits::measure(&machine, 0, &WeightType::ALL)?];
    let mut times = Vec::new();
    let mut add = |time: KernelTime| -> Result<()> {
        control.check()?;
        done(&title(&time));
        times.push(time);
        Ok(())
    };
    for threads in [1, machine.threads()] {
        log_mel(threads, &selection, &mut add)?;
        if machine.threads() == 1 {
            break;
        }
    }
    measure(&machine, &selection, &mut add)?;
    if times.is_empty() {
        return Err(Error::InvalidOption {
            option: "filter",
            message: format!("no kernel has all of `{}`", protocol.words.join(" ")),
        });
    }
    limits.push(limits::measure(&machine, 0, &WeightType::ALL)?);
    Ok(Report {
        format: FORMAT,
        kind: subject.kind,
        time: super::summary::now(),
        version: env!("CARGO_PKG_VERSION").into(),
        commit: protocol.commit.clone(),
        machine: machine_facts(&machine),
        limits: Measured::new(&limits).limits,
        model: subject.model,
        options: subject.options,
        inputs: subject.inputs,
        repeats: selection.rounds,
        peak_memory: peak_memory(),
        memory_limit: None,
        measures: times.iter().map(measure_of).collect(),
        transcription: None,
        speech: None,
        kernels: times.iter().map(row).collect(),
    })
}

/// What [`kernels`] would measure.
///
/// # Errors
/// An instruction set that is not there.
pub fn kernel_subject(protocol: &KernelProtocol) -> Result<Subject> {
    Ok(subject(protocol, &machine(protocol)?))
}

fn machine(protocol: &KernelProtocol) -> Result<Machine> {
    let isa = protocol.instructions.as_deref().map(isa).transpose()?;
    Ok(Machine::new(protocol.threads, isa))
}

fn subject(protocol: &KernelProtocol, machine: &Machine) -> Subject {
    let mut options = serde_json::Map::new();
    if !protocol.words.is_empty() {
        options.insert("filter".into(), protocol.words.clone().into());
    }
    if protocol.instructions.is_some() {
        options.insert("isa".into(), machine.isa().name().into());
    }
    Subject {
        kind: Kind::Kernels,
        model: None,
        options,
        inputs: Vec::new(),
        threads: machine.threads(),
    }
}

fn isa(name: &str) -> Result<Isa> {
    let available = Isa::available();
    // The last that fits: `avx512` alone is not `avx512 vnni+bf16`.
    let exact = available.iter().find(|isa| isa.name() == name);
    let found = exact.or_else(|| available.iter().find(|isa| isa.name().starts_with(name)));
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
        Error::InvalidOption {
            option: "isa",
            message: format!("`{name}` is none of {}", names.join(", ")),
        }
    })
}

/// 30 s of sound to log-mel features.
fn log_mel(
    threads: usize,
    selection: &Selection,
    add: &mut dyn FnMut(KernelTime) -> Result<()>,
) -> Result<()> {
    const GROUP: &str = "log-mel";
    const SECONDS: usize = 30;
    for n_mels in [80, 128] {
        let plural = if threads == 1 { "" } else { "s" };
        let name = format!("{SECONDS} s, {threads} thread{plural}");
        let variant = format!("{n_mels} bands");
        if !selection.wants(GROUP, &variant, &name) {
            continue;
        }
        let samples: Vec<f32> = (0..SECONDS * SAMPLE_RATE as usize)
            .map(|n| ((n as f64 * 0.1).sin() * (n as f64 * 0.013).cos() * 0.5) as f32)
            .collect();
        let log_mel = LogMel::new(n_mels);
        let (seconds, _) = selection.rounds(
            || {
                std::hint::black_box(log_mel.compute_with_threads(&samples, 0, threads));
            },
            || 0.0,
        );
        add(KernelTime {
            group: GROUP,
            variant,
            name,
            seconds,
            bytes: 0,
            operations: 0,
            limit: Limit::None,
            target: Some(MEL * SECONDS as f64),
        })?;
    }
    Ok(())
}

fn title(time: &KernelTime) -> String {
    let words = [time.group, &time.variant, &time.name];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

fn measure_of(time: &KernelTime) -> Measure {
    Measure {
        name: title(time),
        role: Role::Component,
        value: time.seconds * 1e6,
        unit: "us".into(),
        floor: time.floor().map(|seconds| seconds * 1e6),
        target: time.target.map(|seconds| seconds * 1e6),
    }
}

fn row(time: &KernelTime) -> KernelRow {
    let rate = |count: u64| (count > 0).then(|| count as f64 / time.seconds * 1e-9);
    KernelRow {
        group: time.group.into(),
        variant: time.variant.clone(),
        name: time.name.clone(),
        us: time.seconds * 1e6,
        gbytes_per_second: rate(time.bytes),
        gflops: rate(time.operations),
        limit: match time.limit {
            Limit::Bandwidth(rate) => Some(format!("{:.1} GB/s", rate * 1e-9)),
            Limit::Peak(rate) => Some(format!("{:.0} GFLOP/s", rate * 1e-9)),
            Limit::None => None,
        },
        share: time.share(),
        target_us: time.target.map(|seconds| seconds * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(words: &[&str]) -> KernelProtocol {
        KernelProtocol {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            repeats: 1,
            budget: Duration::from_millis(1),
            threads: 1,
            ..KernelProtocol::default()
        }
    }

    #[test]
    fn chosen_kernels_are_measured() {
        let mut names = Vec::new();
        let mut done = |name: &str| names.push(name.to_owned());
        let report = kernels(&protocol(&["1x384x384"]), &Control::new(), &mut done).unwrap();
        assert_eq!(report.kernels.len(), WeightType::ALL.len());
        assert_eq!(names.len(), report.measures.len());
        assert_eq!(names[0], "matrix-vector f32 1x384x384");
        assert!(
            report
                .measures
                .iter()
                .all(|m| m.value > 0.0 && m.floor > Some(0.0))
        );
        let mel = kernels(&protocol(&["log-mel 80"]), &Control::new(), &mut |_| {}).unwrap();
        assert_eq!(mel.kernels.len(), 1);
        assert_eq!(mel.kernels[0].target_us.map(f64::round), Some(4000.0));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let control = Control::new();
        let error = kernels(&protocol(&["abacus"]), &control, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("abacus"), "{error}");
        let wrong = KernelProtocol {
            instructions: Some("z80".into()),
            ..protocol(&["parallel"])
        };
        let error = kernels(&wrong, &control, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("scalar"), "{error}");
        control.cancel();
        let cancelled = kernels(&protocol(&["parallel"]), &control, &mut |_| {});
        assert!(matches!(cancelled, Err(Error::Cancelled)));
    }
}
