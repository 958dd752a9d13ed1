//! A report as a picture.

use std::fmt::Write as _;

use super::report::{Measure, Report, Role};
use super::table::table;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 20.0;
/// Where bars begin.
const LEFT: f64 = 300.0;
/// Where they end at most; numbers stand to the right of them.
const RIGHT: f64 = 760.0;
const ROW: f64 = 22.0;

/// Colours of the steps, so that neighbours differ.
const COLORS: [&str; 12] = [
    "#b0b0b0", "#c9b458", "#8fbc8f", "#d9a066", "#a0a0d0", "#5ba3a3", "#3b6fb6", "#c8553d",
    "#e0a458", "#7a9e7e", "#967aa1", "#707070",
];

/// The report as an SVG picture: where a pass goes step by step, and every measure with its floor and target. With a
/// `baseline`, each measure's former value stands below it.
pub fn svg(report: &Report, baseline: Option<&Report>) -> String {
    let mut picture = Picture::default();
    picture.heading(&title(report), 18);
    let machine = &report.machine;
    picture.heading(
        &format!(
            "{}, {}, {} threads",
            machine.processor, machine.instructions, machine.threads
        ),
        12,
    );
    if let Some(transcription) = &report.transcription {
        let total: f64 = transcription
            .steps
            .iter()
            .filter(|step| !step.name.starts_with("of it"))
            .map(|step| step.ms)
            .sum();
        picture.heading(&format!("One pass: {} ms", short(total)), 14);
        picture.stack(
            transcription
                .steps
                .iter()
                .filter(|step| !step.name.starts_with("of it"))
                .enumerate()
                .map(|(index, step)| {
                    let letter = step
                        .letter
                        .map(|letter| format!("{letter} "))
                        .unwrap_or_default();
                    (
                        format!("{letter}{}: {} ms", step.name, short(step.ms)),
                        step.ms / total.max(f64::MIN_POSITIVE),
                        COLORS[index % COLORS.len()],
                    )
                }),
        );
    }
    let mut groups: Vec<(String, Vec<&Measure>)> = Vec::new();
    for measure in &report.measures {
        let group = group(measure);
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, members)) => members.push(measure),
            None => groups.push((group, vec![measure])),
        }
    }
    if !groups.is_empty() {
        picture.legend(baseline.is_some());
    }
    for (name, measures) in groups {
        picture.heading(&name, 14);
        picture.bars(&measures, baseline);
    }
    picture.finish()
}

/// The picture and the table in one page.
pub fn html(report: &Report, baseline: Option<&Report>) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em; }} pre {{ overflow-x: auto; }}</style>\n\
         </head>\n<body>\n{}<pre>\n{}</pre>\n</body>\n</html>\n",
        escape(&title(report)),
        svg(report, baseline),
        escape(&table(report))
    )
}

fn title(report: &Report) -> String {
    let commit = report
        .commit
        .as_deref()
        .map(|c| format!(" ({c})"))
        .unwrap_or_default();
    match &report.model {
        Some(model) => format!(
            "turaco {}{commit}: {} {}",
            report.version, model.name, model.weights
        ),
        None => format!("turaco {}{commit}: kernels", report.version),
    }
}

/// Measures of one scale stand together.
fn group(measure: &Measure) -> String {
    let first = measure.name.split(' ').next().unwrap_or_default();
    match (measure.role, &*measure.unit) {
        (_, "") => "Time over length of sound".into(),
        (Role::Quality, _) => "Errors (%)".into(),
        (Role::Whole, unit) => format!("Whole runs ({unit})"),
        (Role::Component, "us") => {
            let words: Vec<&str> = measure.name.split(' ').collect();
            let words = &words[..words.len().saturating_sub(1).clamp(1, 2)];
            format!("{} (us)", words.join(" "))
        }
        (Role::Component, unit) if first.len() == 1 => format!("Steps of a pass ({unit})"),
        (Role::Component, unit) => format!("Components ({unit})"),
    }
}

/// An SVG that grows downwards.
#[derive(Default)]
struct Picture {
    body: String,
    y: f64,
}

impl Picture {
    fn text(&mut self, x: f64, y: f64, size: u32, anchor: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        );
    }

    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), color: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{color}\"><title>{}</title></rect>",
            width.max(0.5),
            escape(title)
        );
    }

    fn mark(&mut self, x: f64, color: &str, title: &str) {
        let (top, bottom) = (self.y + 2.0, self.y + ROW - 4.0);
        let _ = writeln!(
            self.body,
            "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{color}\" stroke-width=\"2\"><title>{}</title></line>",
            escape(title)
        );
    }

    fn heading(&mut self, text: &str, size: u32) {
        self.y += f64::from(size) + 12.0;
        self.text(MARGIN, self.y, size, "start", text);
        self.y += 6.0;
    }

    fn legend(&mut self, with_baseline: bool) {
        self.y += 10.0;
        let mut x = MARGIN;
        let mut entry = |picture: &mut Self, color: &str, text: &str| {
            let at = (x, picture.y);
            picture.rect(at, (12.0, 12.0), color, text);
            picture.text(x + 18.0, picture.y + 11.0, 12, "start", text);
            x += 130.0;
        };
        entry(self, "#3b6fb6", "measured");
        entry(self, "#2e8b57", "floor");
        entry(self, "#c8553d", "target");
        if with_baseline {
            entry(self, "#bbbbbb", "baseline");
        }
        self.y += 18.0;
    }

    /// One bar of several parts, and a line of text for each.
    fn stack<'a>(&mut self, parts: impl Iterator<Item = (String, f64, &'a str)>) {
        self.y += 4.0;
        let top = self.y;
        self.y += 44.0;
        let mut x = MARGIN;
        let mut column = 0;
        for (label, share, color) in parts {
            let width = share * (WIDTH - 2.0 * MARGIN);
            self.rect((x, top), (width, 30.0), color, &label);
            x += width;
            let left = MARGIN + f64::from(column) * 300.0;
            let at = (left, self.y);
            self.rect(at, (12.0, 12.0), color, &label);
            self.text(left + 18.0, self.y + 11.0, 12, "start", &label);
            column += 1;
            if column == 3 {
                column = 0;
                self.y += 18.0;
            }
        }
        if column > 0 {
            self.y += 18.0;
        }
    }

    /// A bar for each measure on one scale.
    fn bars(&mut self, measures: &[&Measure], baseline: Option<&Report>) {
        let former = |measure: &Measure| {
            let all = baseline.map(|report| &report.measures)?;
            let found = all.iter().find(|other| other.name == measure.name)?;
            Some(found.value)
        };
        let largest = measures
            .iter()
            .flat_map(|m| [Some(m.value), m.floor, m.target, former(m)])
            .flatten()
            .filter(|value| value.is_finite())
            .fold(f64::MIN_POSITIVE, f64::max);
        let scale = |value: f64| {
            let share = (value / largest).clamp(0.0, 1.0);
            if share.is_nan() {
                0.0
            } else {
                share * (RIGHT - LEFT)
            }
        };
        self.y += 4.0;
        for measure in measures {
            let unit = &measure.unit;
            self.text(LEFT - 8.0, self.y + 14.0, 12, "end", &measure.name);
            let label = format!("{} {unit}", short(measure.value));
            let at = (LEFT, self.y + 3.0);
            self.rect(at, (scale(measure.value), ROW - 9.0), "#3b6fb6", &label);
            if let Some(value) = former(measure) {
                let title = format!("baseline {} {unit}", short(value));
                let at = (LEFT, self.y + ROW - 6.0);
                self.rect(at, (scale(value), 4.0), "#bbbbbb", &title);
            }
            let mut label = label;
            if let Some(floor) = measure.floor {
                let title = format!("floor {} {unit}", short(floor));
                self.mark(LEFT + scale(floor), "#2e8b57", &title);
                if let Some(ratio) = measure.ratio() {
                    let _ = write!(label, ", {ratio:.1} x floor");
                }
            }
            if let Some(target) = measure.target {
                let title = format!("target {} {unit}", short(target));
                self.mark(LEFT + scale(target), "#c8553d", &title);
            }
            self.text(RIGHT + 10.0, self.y + 14.0, 12, "start", label.trim_end());
            self.y += ROW;
        }
    }

    fn finish(self) -> String {
        let height = self.y + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to write these.
            control if control.is_control() && control != '\n' && control != '\t' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::report;
    use super::*;

    /// Tags open and close in order, attributes are quoted, and nothing stands bare that needs an entity.
    #[track_caller]
    fn is_well_formed(xml: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = xml;
        while let Some(start) = rest.find('<') {
            let text = &rest[..start];
            assert!(!text.contains('>'), "{text}");
            for (at, _) in text.match_indices('&') {
                let entity = text[at..].split(';').next().unwrap();
                assert!(
                    ["&amp", "&lt", "&gt", "&quot"].contains(&entity),
                    "{entity}"
                );
            }
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else if !tag.ends_with('/') && !tag.starts_with('!') {
                open.push(tag.split_whitespace().next().unwrap());
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn pictures_are_well_formed_xml() {
        let mut strange = report();
        strange.measures[0].value = f64::NAN;
        strange.measures[1].floor = Some(f64::INFINITY);
        strange.measures[1].name = "\u{1}<b>&".into();
        for report in [report(), strange] {
            for baseline in [None, Some(&report)] {
                let picture = svg(&report, baseline);
                is_well_formed(&picture);
                assert!(picture.starts_with("<svg xmlns="));
                assert!(picture.contains("decode step") || picture.contains("&lt;b&gt;"));
            }
        }
        let mut empty = report();
        empty.measures.clear();
        is_well_formed(&svg(&empty, None));
    }

    #[test]
    fn pages_hold_the_picture_and_the_table() {
        let page = html(&report(), Some(&report()));
        assert!(page.starts_with("<!DOCTYPE html>"));
        assert!(page.contains("<svg ") && page.contains("<pre>"));
        assert!(page.contains("a &lt;fast&gt; &amp; &quot;cheap&quot; one"));
    }
}
