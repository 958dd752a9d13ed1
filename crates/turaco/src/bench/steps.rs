//! The twelve steps from a file to text, A to L, and how the time of a run divides among them.
//!
//! Every moment of a run belongs to one step: the innermost span that holds it decides. The sum over the steps is
//! the run.

use serde::Serialize;

use crate::trace::Span;

/// A step from the file to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Step {
    /// Find the input.
    A,
    /// Read its bytes.
    B,
    /// Parse and decode them to samples.
    C,
    /// Resample to 16 kHz.
    D,
    /// Cut a window of features.
    E,
    /// Log-mel features.
    F,
    /// Encoder, with the cross-attention keys.
    G,
    /// Decoder: prefills and steps.
    H,
    /// Choice of the next tokens: rules, the choice itself, beams.
    I,
    /// Tokens to text.
    J,
    /// Segments, and their times.
    K,
    /// Write the result.
    L,
}

impl Step {
    /// All steps in order.
    pub const ALL: [Self; 12] = [
        Self::A,
        Self::B,
        Self::C,
        Self::D,
        Self::E,
        Self::F,
        Self::G,
        Self::H,
        Self::I,
        Self::J,
        Self::K,
        Self::L,
    ];

    /// The letter.
    pub const fn letter(self) -> char {
        (b'A' + self as u8) as char
    }

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "find",
            Self::B => "load",
            Self::C => "parse",
            Self::D => "resample",
            Self::E => "window",
            Self::F => "mel",
            Self::G => "encoder",
            Self::H => "decoder",
            Self::I => "token choice",
            Self::J => "detokenise",
            Self::K => "assemble",
            Self::L => "output",
        }
    }

    /// The step that the time of a span belongs to, unless a span inside it says otherwise.
    fn of_span(name: &str) -> Part {
        match name {
            "find" => Part::Step(Self::A),
            "read" => Part::Step(Self::B),
            "decode audio" => Part::Step(Self::C),
            "resample" => Part::Step(Self::D),
            "window" => Part::Step(Self::E),
            "mel" => Part::Step(Self::F),
            "encoder" => Part::Step(Self::G),
            "decoder.prefill" | "decoder.step" | "compile" => Part::Step(Self::H),
            "token choice" | "search" | "prefill" | "step" => Part::Step(Self::I),
            "detokenise" => Part::Step(Self::J),
            "assemble" => Part::Step(Self::K),
            "write" => Part::Step(Self::L),
            "vad" => Part::Other(Extra::Vad),
            "language" => Part::Other(Extra::Language),
            "words" | "decoder.align" => Part::Other(Extra::Words),
            _ => Part::Other(Extra::Rest),
        }
    }
}

/// Work that not every run has, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Voice activity detection.
    Vad,
    /// Language detection, without its encoder and decoder runs.
    Language,
    /// Word times.
    Words,
    /// What no span names.
    Rest,
}

impl Extra {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vad, Self::Language, Self::Words, Self::Rest];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vad => "speech detection",
            Self::Language => "language detection",
            Self::Words => "word times",
            Self::Rest => "between the steps",
        }
    }
}

enum Part {
    Step(Step),
    Other(Extra),
}

/// How the seconds of a run divide.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares {
    steps: [f64; 12],
    extras: [f64; 4],
    /// Decoder time in prefills.
    pub prefill: f64,
    /// Decoder time in steps.
    pub decode: f64,
}

impl Shares {
    /// Divide the time of `spans`, which are of one thread and sorted as a recorder gives them.
    pub fn new(spans: &[Span]) -> Self {
        let mut shares = Self::default();
        for (span, seconds) in spans.iter().zip(own_seconds(spans)) {
            match Step::of_span(&span.name) {
                Part::Step(step) => shares.steps[step as usize] += seconds,
                Part::Other(extra) => shares.extras[extra as usize] += seconds,
            }
            match &*span.name {
                "decoder.prefill" => shares.prefill += seconds,
                "decoder.step" => shares.decode += seconds,
                _ => {}
            }
        }
        shares
    }

    /// Seconds of a step.
    pub fn of(&self, step: Step) -> f64 {
        self.steps[step as usize]
    }

    /// Seconds of work beside the steps.
    pub fn extra(&self, extra: Extra) -> f64 {
        self.extras[extra as usize]
    }

    /// Seconds of the run.
    pub fn total(&self) -> f64 {
        self.steps.iter().chain(&self.extras).sum()
    }
}

/// The seconds of each span that no span inside it holds.
pub fn own_seconds(spans: &[Span]) -> Vec<f64> {
    let mut own: Vec<f64> = spans.iter().map(Span::seconds).collect();
    let mut open: Vec<usize> = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        while open.pop_if(|outer| !spans[*outer].contains(span)).is_some() {}
        if let Some(&outer) = open.last() {
            own[outer] -= span.seconds();
        }
        open.push(index);
    }
    own
}

#[cfg(test)]
mod tests {
    use super::super::testing::span;
    use super::*;

    #[test]
    fn every_moment_belongs_to_the_innermost_step() {
        let spans = [
            span("run", 0, 100),
            span("read", 1, 3),
            span("language", 5, 20),
            span("encoder", 6, 16),
            span("search", 20, 90),
            span("prefill", 20, 35),
            span("decoder.prefill", 22, 34),
            span("token choice", 33, 34),
            span("step", 40, 60),
            span("decoder.step", 42, 58),
            span("token choice", 56, 58),
            span("step", 60, 80),
            span("decoder.step", 62, 78),
            span("token choice", 76, 78),
            span("detokenise", 85, 86),
        ];
        let shares = Shares::new(&spans);
        let milliseconds = |seconds: f64| (seconds * 1e3).round() as i64;
        let step = |step| milliseconds(shares.of(step));
        assert_eq!(step(Step::B), 2);
        assert_eq!(step(Step::G), 10);
        assert_eq!(step(Step::H), 11 + 14 + 14);
        assert_eq!(milliseconds(shares.prefill), 11);
        assert_eq!(milliseconds(shares.decode), 28);
        assert_eq!(step(Step::I), 70 - 11 - 28 - 1);
        assert_eq!(step(Step::J), 1);
        assert_eq!(milliseconds(shares.extra(Extra::Language)), 5);
        assert_eq!(milliseconds(shares.extra(Extra::Rest)), 100 - 2 - 15 - 70);
        assert_eq!(milliseconds(shares.total()), 100);
    }

    #[test]
    fn letters_are_in_order() {
        let letters: String = Step::ALL.iter().map(|step| step.letter()).collect();
        assert_eq!(letters, "ABCDEFGHIJKL");
    }
}
