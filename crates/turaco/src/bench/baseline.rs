//! Comparing a benchmark with one that was saved.

use super::report::{FORMAT, Kind, Measure, ModelFacts, Report, Role};

/// A component that takes this much more of its former time fails.
pub const COMPONENT_LIMIT: f64 = 1.20;

/// The whole may take this much more of its former time before that is worth a warning.
pub const WHOLE_LIMIT: f64 = 1.10;

/// A limit of the machine that changed this much is said, because times changed with it.
const MACHINE_CHANGE: f64 = 1.10;

/// Differences below this are the clock's and the system's, whatever share of a very short time they are.
fn resolution(unit: &str) -> f64 {
    match unit {
        "ms" => 0.1,
        "us" => 0.3,
        _ => 0.0,
    }
}

/// How a measure changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Change {
    /// Within the limits.
    Same,
    /// As much better as would fail or warn the other way round.
    Better,
    /// Only one of the two reports has it.
    Missing,
    /// Worth a look; does not fail.
    Warning,
    /// Fails the comparison.
    Failure,
}

impl Change {
    /// As tables show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Better => "better",
            Self::Missing => "missing",
            Self::Warning => "WARNING",
            Self::Failure => "FAILED",
        }
    }
}

/// One measure then and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The recorded number.
    pub before: Option<f64>,
    /// The number now.
    pub now: Option<f64>,
    /// Now over before, by whichever rule was asked for.
    pub ratio: Option<f64>,
    /// How that is judged.
    pub change: Change,
}

/// All measures then and now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// Measures in the order of the report.
    pub findings: Vec<Finding>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Whether something failed.
    pub fn failed(&self) -> bool {
        self.worst() == Change::Failure
    }

    /// The worst change.
    pub fn worst(&self) -> Change {
        let changes = self.findings.iter().map(|finding| finding.change);
        changes.max().unwrap_or(Change::Same)
    }

    /// The findings of one kind.
    pub fn of(&self, change: Change) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.change == change)
    }
}

/// Why two reports cannot be compared: each line names what differs, then and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub Vec<String>);

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the baseline measured something else: {}",
            self.0.join("; ")
        )
    }
}

impl std::error::Error for Mismatch {}

/// Compare `now` with `before`. With `by_floor`, a measure that has a floor in both is compared as a multiple of it, so
/// that a machine that is slower today does not count.
///
/// # Errors
/// As [`Subject::check`].
pub fn compare(before: &Report, now: &Report, by_floor: bool) -> Result<Comparison, Mismatch> {
    Subject::of(now).check(before)?;
    let mut comparison = Comparison {
        findings: Vec::new(),
        notes: notes(before, now, by_floor),
    };
    for measure in &now.measures {
        let former = before.measures.iter().find(|m| m.name == measure.name);
        comparison.findings.push(finding(former, measure, by_floor));
    }
    for measure in &before.measures {
        if !now.measures.iter().any(|m| m.name == measure.name) {
            comparison.findings.push(Finding {
                name: measure.name.clone(),
                unit: measure.unit.clone(),
                before: Some(measure.value),
                now: None,
                ratio: None,
                change: Change::Missing,
            });
        }
    }
    comparison.findings.extend(memory(before, now));
    Ok(comparison)
}

/// What a benchmark measures. Only reports of the same can be compared.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Subject {
    /// Kind.
    pub kind: Kind,
    /// The model, for a transcription.
    pub model: Option<ModelFacts>,
    /// Options that differ from the defaults.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Inputs, by name.
    pub inputs: Vec<String>,
    /// Threads that compute.
    pub threads: usize,
}

impl Subject {
    /// What `report` measured.
    pub fn of(report: &Report) -> Self {
        Self {
            kind: report.kind,
            model: report.model.clone(),
            options: report.options.clone(),
            inputs: report.inputs.clone(),
            threads: report.machine.threads,
        }
    }

    /// Whether a report of this can be compared with `before`, so that nobody measures for nothing.
    ///
    /// # Errors
    /// Reports of different things: kind, model, weight type, device, options, inputs, threads or layout of the file.
    pub fn check(&self, before: &Report) -> Result<(), Mismatch> {
        let then = Self::of(before);
        if then.kind != self.kind {
            return Err(Mismatch(vec![format!(
                "{}, now {}",
                then.kind.name(),
                self.kind.name()
            )]));
        }
        let mut differences = Vec::new();
        let mut differ = |what: &str, before: String, now: String| {
            if before != now {
                differences.push(format!("{what} {before}, now {now}"));
            }
        };
        differ("format", before.format.to_string(), FORMAT.to_string());
        let fact = |subject: &Self, of: fn(&ModelFacts) -> &str| {
            let facts = subject.model.as_ref();
            facts.map_or("none", of).to_owned()
        };
        let mut differ_in = |what: &str, of: fn(&ModelFacts) -> &str| {
            differ(what, fact(&then, of), fact(self, of));
        };
        differ_in("model", |model| &model.name);
        differ_in("compute type", |model| &model.weights);
        // Which processor it was exactly belongs to the machine, and another machine is allowed.
        differ_in("device", |model| match model.device.starts_with("cpu") {
            true => "cpu",
            false => "graphics processor",
        });
        let options = |subject: &Self| serde_json::to_string(&subject.options).unwrap_or_default();
        differ("options", options(&then), options(self));
        differ("inputs", then.inputs.join(", "), self.inputs.join(", "));
        differ(
            "threads",
            then.threads.to_string(),
            self.threads.to_string(),
        );
        if differences.is_empty() {
            Ok(())
        } else {
            Err(Mismatch(differences))
        }
    }
}

fn notes(before: &Report, now: &Report, by_floor: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let (then, today) = (&before.machine, &now.machine);
    if (&then.processor, &then.system, &then.instructions)
        != (&today.processor, &today.system, &today.instructions)
    {
        notes.push(format!(
            "the baseline is of another machine: {}, {}, {}",
            then.processor, then.system, then.instructions
        ));
    }
    let mut speed = |what: &str, before: f64, now: f64| {
        if before <= 0.0 || now <= 0.0 {
            return;
        }
        let change = now / before;
        if !(1.0 / MACHINE_CHANGE..=MACHINE_CHANGE).contains(&change) {
            let direction = if change < 1.0 { "slower" } else { "faster" };
            let percent = 100.0 * (change - 1.0).abs();
            let hint = if by_floor {
                ""
            } else {
                "; `--by-floor` compares multiples of the floor instead of times"
            };
            notes.push(format!(
                "the machine's {what} is {percent:.0} % {direction} than when the baseline was taken{hint}"
            ));
        }
    };
    speed("memory", before.limits.memory, now.limits.memory);
    for peak in &now.limits.peaks {
        let former = before.limits.peaks.iter();
        if let Some(former) = former.into_iter().find(|p| p.weights == peak.weights) {
            let what = format!("{} arithmetic", peak.weights);
            speed(&what, former.rate, peak.rate);
        }
    }
    notes
}

fn finding(before: Option<&Measure>, now: &Measure, by_floor: bool) -> Finding {
    let mut finding = Finding {
        name: now.name.clone(),
        unit: now.unit.clone(),
        before: before.map(|measure| measure.value),
        now: Some(now.value),
        ratio: None,
        change: Change::Missing,
    };
    let Some(before) = before else {
        return finding;
    };
    let floors = (before.ratio(), now.ratio());
    let (then, today) = match floors {
        (Some(then), Some(today)) if by_floor => (then, today),
        _ => (before.value, now.value),
    };
    if !(then.is_finite() && today.is_finite()) {
        return finding;
    }
    let ratio = if then > 0.0 {
        today / then
    } else if today > 0.0 {
        f64::INFINITY
    } else {
        1.0
    };
    let visible = (now.value - before.value).abs() >= resolution(&now.unit)
        // The times may be equal although the floors are not.
        || (by_floor && matches!(floors, (Some(_), Some(_))));
    let (limit, worse) = match now.role {
        Role::Component => (COMPONENT_LIMIT, Change::Failure),
        Role::Whole => (WHOLE_LIMIT, Change::Warning),
        Role::Quality => (1.0, Change::Warning),
    };
    finding.ratio = ratio.is_finite().then_some(ratio);
    finding.change = if !visible {
        Change::Same
    } else if ratio > limit {
        worse
    } else if ratio < 1.0 / limit {
        Change::Better
    } else {
        Change::Same
    };
    finding
}

/// Memory is judged by the recorded limit, not by the recorded use.
fn memory(before: &Report, now: &Report) -> Option<Finding> {
    const MEGABYTE: f64 = 1e6;
    let (limit, used) = (before.memory_limit?, now.peak_memory?);
    Some(Finding {
        name: "peak memory".into(),
        unit: "MB".into(),
        before: before.peak_memory.map(|bytes| bytes as f64 / MEGABYTE),
        now: Some(used as f64 / MEGABYTE),
        ratio: before
            .peak_memory
            .filter(|&bytes| bytes > 0)
            .map(|bytes| used as f64 / bytes as f64),
        change: if used > limit {
            Change::Failure
        } else {
            Change::Same
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::report;
    use super::*;

    /// The change of one measure from `before` to `now`.
    #[track_caller]
    fn change(role: Role, unit: &str, before: f64, now: f64) -> Change {
        let with = |value: f64| {
            let mut report = report();
            report.measures = vec![Measure {
                name: "it".into(),
                role,
                value,
                unit: unit.into(),
                floor: None,
                target: None,
            }];
            report.memory_limit = None;
            report
        };
        let comparison = compare(&with(before), &with(now), false).unwrap();
        assert_eq!(comparison.findings.len(), 1);
        assert_eq!(
            comparison.failed(),
            comparison.findings[0].change == Change::Failure
        );
        comparison.findings[0].change
    }

    #[test]
    fn components_fail_above_twenty_percent() {
        for (before, now, expected) in [
            (10.0, 10.0, Change::Same),
            (10.0, 11.9, Change::Same),
            (10.0, 12.0, Change::Same),
            (10.0, 12.1, Change::Failure),
            (10.0, 1000.0, Change::Failure),
            (10.0, 8.5, Change::Same),
            (10.0, 8.0, Change::Better),
            // Too short to tell.
            (0.05, 0.12, Change::Same),
            (0.05, 0.16, Change::Failure),
            (0.0, 0.05, Change::Same),
            (0.0, 5.0, Change::Failure),
            (5.0, 0.0, Change::Better),
            (0.0, 0.0, Change::Same),
            (f64::NAN, 1.0, Change::Missing),
            (1.0, f64::INFINITY, Change::Missing),
        ] {
            assert_eq!(
                change(Role::Component, "ms", before, now),
                expected,
                "{before} {now}"
            );
        }
        assert_eq!(change(Role::Component, "us", 0.5, 0.75), Change::Same);
        assert_eq!(change(Role::Component, "us", 2.0, 2.5), Change::Failure);
    }

    #[test]
    fn the_whole_only_warns_and_from_ten_percent() {
        for (before, now, expected) in [
            (0.0250, 0.0270, Change::Same),
            (0.0250, 0.0280, Change::Warning),
            (0.0250, 0.2500, Change::Warning),
            (0.0250, 0.0220, Change::Better),
        ] {
            assert_eq!(
                change(Role::Whole, "", before, now),
                expected,
                "{before} {now}"
            );
        }
    }

    #[test]
    fn more_wrong_words_warn() {
        assert_eq!(change(Role::Quality, "%", 5.0, 5.0), Change::Same);
        assert_eq!(change(Role::Quality, "%", 0.0, 0.1), Change::Warning);
        assert_eq!(change(Role::Quality, "%", 5.0, 5.1), Change::Warning);
        assert_eq!(change(Role::Quality, "%", 5.0, 4.9), Change::Better);
    }

    #[test]
    fn memory_fails_above_the_recorded_limit() {
        let before = report();
        for (used, fails) in [
            (90, false),
            (100, false),
            (110, false),
            (111, true),
            (1000, true),
        ] {
            let mut now = report();
            now.peak_memory = Some(used * 1_000_000);
            let comparison = compare(&before, &now, false).unwrap();
            assert_eq!(comparison.failed(), fails, "{used} MB");
        }
        let mut unknown = report();
        unknown.peak_memory = None;
        assert!(!compare(&before, &unknown, false).unwrap().failed());
        assert!(!compare(&unknown, &before, false).unwrap().failed());
    }

    #[test]
    fn what_only_one_report_has_is_missing_and_does_not_fail() {
        let (before, mut now) = (report(), report());
        now.measures[0].name = "renamed".into();
        let comparison = compare(&before, &now, false).unwrap();
        assert_eq!(comparison.of(Change::Missing).count(), 2);
        assert!(!comparison.failed());
    }

    #[test]
    fn reports_of_different_things_are_refused() {
        type Edit = fn(&mut Report);
        let edits: [(&str, Edit); 7] = [
            ("model tiny", |r| {
                r.model.as_mut().unwrap().name = "base".into();
            }),
            ("compute type int8", |r| {
                r.model.as_mut().unwrap().weights = "f32".into();
            }),
            ("device cpu", |r| {
                r.model.as_mut().unwrap().device = "vulkan".into();
            }),
            ("options", |r| {
                r.options.insert("beam_size".into(), 1.into());
            }),
            ("inputs", |r| r.inputs.push("more.wav".into())),
            ("threads", |r| r.machine.threads = 7),
            ("speech to text, now kernels", |r| r.kind = Kind::Kernels),
        ];
        for (part, edit) in edits {
            let mut now = report();
            edit(&mut now);
            let mismatch = compare(&report(), &now, false).unwrap_err();
            assert_eq!(mismatch.0.len(), 1, "{mismatch}");
            assert!(mismatch.to_string().contains(part), "{mismatch}");
        }
        let mut old = report();
        old.format = FORMAT + 1;
        assert!(compare(&old, &report(), false).is_err());
    }

    #[test]
    fn another_machine_and_other_speeds_are_said() {
        let mut before = report();
        assert!(compare(&before, &report(), false).unwrap().notes.is_empty());
        before.machine.processor = "abacus".into();
        before.limits.memory *= 2.0;
        before.limits.peaks[0].rate /= 2.0;
        let notes = compare(&before, &report(), false).unwrap().notes;
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[0].contains("abacus"));
        assert!(notes[1].contains("50 % slower") && notes[1].contains("--by-floor"));
        assert!(notes[2].contains("100 % faster"));
        // Another commit, another number of repeats: that is what comparisons are for.
        let mut now = report();
        now.commit = Some("other".into());
        now.repeats = 1;
        assert!(compare(&report(), &now, false).unwrap().notes.is_empty());
    }

    #[test]
    fn by_floor_a_slower_machine_does_not_count() {
        let with = |value: f64, floor: Option<f64>| {
            let mut report = report();
            report.measures = vec![Measure {
                name: "it".into(),
                role: Role::Component,
                value,
                unit: "ms".into(),
                floor,
                target: None,
            }];
            report
        };
        let judge = |before: &Report, now: &Report, by_floor| {
            compare(before, now, by_floor).unwrap().findings[0].change
        };
        let before = with(10.0, Some(5.0));
        assert_eq!(
            judge(&before, &with(20.0, Some(10.0)), false),
            Change::Failure
        );
        assert_eq!(judge(&before, &with(20.0, Some(10.0)), true), Change::Same);
        // The same time on a machine that has become twice as fast.
        assert_eq!(
            judge(&before, &with(10.0, Some(2.5)), true),
            Change::Failure
        );
        assert_eq!(judge(&before, &with(20.0, None), true), Change::Failure);
    }
}
