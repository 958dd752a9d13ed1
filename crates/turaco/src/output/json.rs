//! JSON: the record of openai-whisper with Python's formatting, one segment per line, and OpenAI's `verbose_json`.

use std::io::{self, Write};

use super::{Transcript, Writer};
use crate::asr::{Segment, Task, Word};
use crate::text::python;
use crate::tokenizer::languages::language_name;

/// `{"text", "segments", "language"}`, byte for byte as Python's `json.dump` writes it.
pub(super) struct JsonWriter;

impl Writer for JsonWriter {
    fn segment(&mut self, _: &Segment, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, transcript: &Transcript, out: &mut dyn Write) -> io::Result<()> {
        let mut json = Json::ascii();
        json.object(|json| {
            json.string_field("text", &transcript.text);
            json.field("segments", |json| {
                json.list(&transcript.segments, |json, segment| {
                    json.segment(segment, true)
                });
            });
            json.string_field("language", &transcript.language);
        });
        out.write_all(json.text.as_bytes())
    }
}

/// One segment record per line, in UTF-8.
pub(super) struct JsonlWriter;

impl Writer for JsonlWriter {
    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        let mut json = Json::utf8();
        json.segment(segment, true);
        writeln!(out, "{}", json.text)
    }
}

/// The `verbose_json` answer of OpenAI's transcription API, in UTF-8.
pub(super) struct VerboseJsonWriter;

impl Writer for VerboseJsonWriter {
    fn segment(&mut self, _: &Segment, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, transcript: &Transcript, out: &mut dyn Write) -> io::Result<()> {
        let mut json = Json::utf8();
        json.object(|json| {
            let task = match transcript.task {
                Task::Transcribe => "transcribe",
                Task::Translate => "translate",
            };
            json.string_field("task", task);
            let language = language_name(&transcript.language).unwrap_or(&transcript.language);
            json.string_field("language", language);
            json.string_field("language_code", &transcript.language);
            json.field("duration", |json| json.float(transcript.duration));
            json.string_field("text", python::strip(&transcript.text));
            json.field("segments", |json| {
                json.list(&transcript.segments, |json, segment| {
                    json.segment(segment, false)
                });
            });
            // Words are apart from the segments, and without the space before them.
            if transcript
                .segments
                .iter()
                .any(|segment| segment.words.is_some())
            {
                let words = transcript
                    .segments
                    .iter()
                    .filter_map(|segment| segment.words.as_ref())
                    .flatten();
                json.field("words", |json| {
                    json.list(words, |json, word| {
                        json.object(|json| {
                            json.string_field("word", python::strip(&word.word));
                            json.field("start", |json| json.float(word.start));
                            json.field("end", |json| json.float(word.end));
                        });
                    });
                });
            }
            json.field("usage", |json| {
                json.object(|json| {
                    json.string_field("type", "duration");
                    json.field("seconds", |json| {
                        json.raw(&format!("{}", transcript.duration.max(0.0).ceil() as u64))
                    });
                });
            });
            if !transcript.warnings.is_empty() {
                json.field("warnings", |json| {
                    json.list(&transcript.warnings, |json, warning| json.string(warning))
                });
            }
        });
        writeln!(out, "{}", json.text)
    }
}

/// JSON text with the spacing of Python's `json.dumps`.
struct Json {
    text: String,
    /// Write characters beyond ASCII as escapes.
    ascii: bool,
    /// Whether something stands before the next element of the object or list.
    needs_comma: bool,
}

impl Json {
    fn ascii() -> Self {
        Self {
            text: String::new(),
            ascii: true,
            needs_comma: false,
        }
    }

    fn utf8() -> Self {
        Self {
            ascii: false,
            ..Self::ascii()
        }
    }

    fn segment(&mut self, segment: &Segment, with_words: bool) {
        self.object(|json| {
            json.field("id", |json| json.raw(&segment.id.to_string()));
            json.field("seek", |json| json.raw(&segment.seek.to_string()));
            json.field("start", |json| json.float(segment.start));
            json.field("end", |json| json.float(segment.end));
            json.string_field("text", &segment.text);
            json.field("tokens", |json| {
                json.list(&segment.tokens, |json, token| json.raw(&token.to_string()))
            });
            json.field("temperature", |json| json.float(segment.temperature));
            json.field("avg_logprob", |json| json.float(segment.avg_logprob));
            json.field("compression_ratio", |json| {
                json.float(segment.compression_ratio)
            });
            json.field("no_speech_prob", |json| json.float(segment.no_speech_prob));
            if let Some(words) = segment.words.as_ref().filter(|_| with_words) {
                json.field("words", |json| json.list(words, Self::word));
            }
        });
    }

    fn word(&mut self, word: &Word) {
        self.object(|json| {
            json.string_field("word", &word.word);
            json.field("start", |json| json.float(word.start));
            json.field("end", |json| json.float(word.end));
            json.field("probability", |json| json.float(word.probability));
        });
    }

    fn object(&mut self, fields: impl FnOnce(&mut Self)) {
        self.text.push('{');
        self.needs_comma = false;
        fields(self);
        self.text.push('}');
        self.needs_comma = true;
    }

    fn field(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        self.comma();
        self.string(name);
        self.text.push_str(": ");
        value(self);
        self.needs_comma = true;
    }

    fn string_field(&mut self, name: &str, value: &str) {
        self.field(name, |json| json.string(value));
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, write: impl Fn(&mut Self, T)) {
        self.text.push('[');
        self.needs_comma = false;
        for item in items {
            self.comma();
            write(self, item);
            self.needs_comma = true;
        }
        self.text.push(']');
        self.needs_comma = true;
    }

    fn comma(&mut self) {
        if self.needs_comma {
            self.text.push_str(", ");
        }
    }

    fn raw(&mut self, value: &str) {
        self.text.push_str(value);
    }

    /// A number as Python writes it; JSON has no other numbers, so they become `null`.
    fn float(&mut self, value: f64) {
        if value.is_finite() {
            self.text.push_str(&python::format_float(value));
        } else {
            self.text.push_str("null");
        }
    }

    fn string(&mut self, value: &str) {
        self.text.push('"');
        for character in value.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                ' '..='~' => self.text.push(character),
                '\u{7f}'.. if !self.ascii => self.text.push(character),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        self.text.push('"');
    }
}
