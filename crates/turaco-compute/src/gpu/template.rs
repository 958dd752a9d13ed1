//! How the text of a shader is put together from the files in `shaders/`.
//!
//! A line that begins with `@name` is repeated as
//! often as the shader says for that name, with `$i` (or `$j`) being the number of the repetition: registers have names in WGSL,
//! and loops over them would become memory. Some names are conditions: their lines stay or go.

use super::shader::{Extras, Keys, MAX_BATCH};
use crate::device::WeightType;

/// A shader that is being put together.
pub(super) struct Template {
    text: String,
    words: Vec<(&'static str, String)>,
    /// The name, what stands for the number of the repetition, and how many there are.
    repeats: Vec<(&'static str, &'static str, u32)>,
    conditions: Vec<(&'static str, bool)>,
}

impl Template {
    pub fn new() -> Self {
        Self {
            text: String::new(),
            words: Vec::new(),
            repeats: Vec::new(),
            conditions: Vec::new(),
        }
    }

    /// Something that has to be switched on, before anything else.
    pub fn extension(mut self, name: &str, wanted: bool) -> Self {
        if wanted {
            self.text.push_str(&format!("enable {name};\n"));
        }
        self
    }

    /// A constant of the shader.
    pub fn number(mut self, name: &str, value: u32) -> Self {
        self.text
            .push_str(&format!("const {name}: u32 = {value}u;\n"));
        self
    }

    /// What stands for a word of the parts.
    pub fn word(mut self, name: &'static str, value: &str) -> Self {
        self.words.push((name, value.to_owned()));
        self
    }

    /// How often lines that begin with `@name` are repeated.
    pub fn repeat(mut self, name: &'static str, count: u32) -> Self {
        self.repeats.push((name, "$i", count));
        self
    }

    /// The same with `$j`, for lines that are repeated in two ways.
    pub fn repeat_across(mut self, name: &'static str, count: u32) -> Self {
        self.repeats.push((name, "$j", count));
        self
    }

    /// Whether lines that begin with `@name` stay.
    pub fn when(mut self, name: &'static str, holds: bool) -> Self {
        self.conditions.push((name, holds));
        self
    }

    pub fn part(mut self, part: &str) -> Self {
        for line in part.lines() {
            self.line(line);
        }
        self
    }

    fn line(&mut self, line: &str) {
        let prefix = line.trim_start().strip_prefix('@');
        if let Some((name, rest)) = prefix.and_then(|rest| rest.split_once(' ')) {
            if let Some(&(_, holds)) = self.conditions.iter().find(|(known, _)| *known == name) {
                if holds {
                    self.line(rest);
                }
                return;
            }
            if let Some(&(_, number, count)) = self.repeats.iter().find(|known| known.0 == name) {
                let rest = self.replaced(rest);
                for i in 0..count {
                    self.line(&rest.replace(number, &i.to_string()));
                }
                return;
            }
        }
        let line = self.replaced(line);
        self.text.push_str(&line);
        self.text.push('\n');
    }

    fn replaced(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (name, value) in &self.words {
            line = line.replace(name, value);
        }
        line
    }

    pub fn weights(self, weights: WeightType) -> Self {
        self.part(match weights {
            WeightType::F32 => include_str!("shaders/weights_f32.wgsl"),
            WeightType::F16 => include_str!("shaders/weights_f16.wgsl"),
            WeightType::Bf16 => include_str!("shaders/weights_bf16.wgsl"),
            WeightType::Int8 => include_str!("shaders/weights_int8.wgsl"),
            WeightType::Q8 => include_str!("shaders/weights_q8.wgsl"),
            WeightType::Q4 => include_str!("shaders/weights_q4.wgsl"),
        })
        .part(include_str!("shaders/quads.wgsl"))
    }

    /// Rows that are multiplied with weights: as they are, or windows of a convolution.
    pub fn inputs(self, windows: bool) -> Self {
        self.part(if windows {
            include_str!("shaders/input_windows.wgsl")
        } else {
            include_str!("shaders/input_rows.wgsl")
        })
    }

    /// Weights by four outputs at a time.
    pub fn lines(self, weights: WeightType) -> Self {
        let halves = include_str!("shaders/lines_halves.wgsl");
        match weights {
            WeightType::F32 => self.part(include_str!("shaders/lines_f32.wgsl")),
            WeightType::F16 => self.part(include_str!("shaders/lines_f16.wgsl")),
            WeightType::Bf16 => self.part(include_str!("shaders/lines_bf16.wgsl")),
            WeightType::Int8 => self.part(include_str!("shaders/lines_int8.wgsl")),
            WeightType::Q8 => self
                .part(halves)
                .part(include_str!("shaders/lines_q8.wgsl")),
            WeightType::Q4 => self
                .part(halves)
                .part(include_str!("shaders/lines_q4.wgsl")),
        }
    }

    /// Sums and maxima over a workgroup, and what the entry point has to do for them.
    pub fn reductions(self, wanted: bool, extras: Extras) -> Self {
        let (inputs, start) = if wanted && extras.subgroups {
            (
                "@builtin(subgroup_id) number_of_subgroup: u32, @builtin(num_subgroups) number_of_subgroups: u32, @builtin(subgroup_invocation_id) lane_of_subgroup: u32,",
                "subgroup_number = number_of_subgroup; subgroup_count = number_of_subgroups; subgroup_lane = lane_of_subgroup;",
            )
        } else {
            ("", "")
        };
        let template = self
            .word("SUBGROUP_INPUTS", inputs)
            .word("SUBGROUP_START", start);
        match (wanted, extras.subgroups) {
            (false, _) => template,
            (true, false) => template.part(include_str!("shaders/reduce.wgsl")),
            (true, true) => template.part(include_str!("shaders/reduce_subgroups.wgsl")),
        }
    }

    pub fn sequences(self) -> Self {
        self.number("MAX_BATCH", MAX_BATCH as u32)
            .part(include_str!("shaders/sequence.wgsl"))
    }

    pub fn cache(self, keys: Keys, caches: u32) -> Self {
        match keys {
            Keys::Rows => return self,
            Keys::F32 => self.part(include_str!("shaders/cache_f32.wgsl")),
            Keys::F16 => self.part(include_str!("shaders/cache_f16.wgsl")),
            Keys::Bf16 => self.part(include_str!("shaders/cache_bf16.wgsl")),
        }
        .repeat("caches", caches)
        .sequences()
        .part(include_str!("shaders/caches.wgsl"))
    }

    pub fn keys(self, keys: Keys, caches: u32) -> Self {
        match keys {
            Keys::Rows => self.part(include_str!("shaders/keys_rows.wgsl")),
            _ => self
                .cache(keys, caches)
                .part(include_str!("shaders/keys_cached.wgsl")),
        }
    }

    pub fn finish(self) -> String {
        self.text
    }
}
