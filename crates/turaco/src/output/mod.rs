//! Transcripts to bytes: txt, srt, vtt, tsv, json, jsonl, csv, lrc and verbose JSON.
//!
//! A [`Writer`] takes segments as they become final, so that a run that is interrupted keeps its finished text;
//! [`write()`] writes a whole [`Transcript`] with it. txt, srt, vtt, tsv and json are byte for byte those of
//! openai-whisper's writers (`whisper/utils.py`), csv and lrc follow whisper.cpp.

mod csv;
mod json;
mod lrc;
mod plot;
mod srt;
mod subtitles;
mod time;
mod tsv;
mod txt;
mod vtt;

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

pub use plot::plot_sound;
pub use time::format_timestamp;

use crate::asr::{Segment, Task};
use crate::{Error, Result};

/// A finished transcription.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transcript {
    /// The whole text, as the segments' texts follow each other.
    pub text: String,
    /// The segments in order.
    pub segments: Vec<Segment>,
    /// Language code.
    pub language: String,
    /// What was done.
    pub task: Task,
    /// Seconds of audio.
    pub duration: f64,
    /// Options that the model could not honour (verbose JSON only).
    pub warnings: Vec<String>,
}

/// How subtitles are laid out; only for segments that have words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Characters in a line.
    pub max_line_width: Option<usize>,
    /// Lines in a subtitle. Together with `max_line_width`, subtitles no longer follow segments.
    pub max_line_count: Option<usize>,
    /// Words in a line.
    pub max_words_per_line: Option<usize>,
    /// One subtitle for each word, with that word underlined.
    pub highlight_words: bool,
}

/// A format that transcripts can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutputFormat {
    /// One segment per line.
    Txt,
    /// WebVTT subtitles.
    Vtt,
    /// SubRip subtitles.
    Srt,
    /// Tab-separated start, end (milliseconds) and text.
    Tsv,
    /// The result record of openai-whisper.
    Json,
    /// One segment record per line.
    Jsonl,
    /// Comma-separated start, end (milliseconds) and quoted text.
    Csv,
    /// Lyrics with times.
    Lrc,
    /// The `verbose_json` answer of OpenAI's transcription API.
    VerboseJson,
}

impl OutputFormat {
    /// Every format.
    pub const KNOWN: [Self; 9] = [
        Self::Txt,
        Self::Vtt,
        Self::Srt,
        Self::Tsv,
        Self::Json,
        Self::Jsonl,
        Self::Csv,
        Self::Lrc,
        Self::VerboseJson,
    ];

    /// The formats that `all` stands for: those of the `whisper` command.
    pub const fn all() -> [Self; 5] {
        [Self::Txt, Self::Vtt, Self::Srt, Self::Tsv, Self::Json]
    }

    /// The name that [`FromStr`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Vtt => "vtt",
            Self::Srt => "srt",
            Self::Tsv => "tsv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Lrc => "lrc",
            Self::VerboseJson => "verbose_json",
        }
    }

    /// The file name extension, different for each format.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::VerboseJson => "verbose.json",
            other => other.name(),
        }
    }

    /// Whether the format is about times, so that decoding without timestamps makes no sense for it.
    pub const fn has_times(self) -> bool {
        !matches!(self, Self::Txt)
    }

    /// A writer of this format.
    pub fn writer(self, options: &WriteOptions) -> Box<dyn Writer + Send> {
        match self {
            Self::Txt => Box::new(txt::TxtWriter),
            Self::Vtt => Box::new(vtt::VttWriter::new(options)),
            Self::Srt => Box::new(srt::SrtWriter::new(options)),
            Self::Tsv => Box::new(tsv::TsvWriter),
            Self::Json => Box::new(json::JsonWriter),
            Self::Jsonl => Box::new(json::JsonlWriter),
            Self::Csv => Box::new(csv::CsvWriter),
            Self::Lrc => Box::new(lrc::LrcWriter),
            Self::VerboseJson => Box::new(json::VerboseJsonWriter),
        }
    }
}

impl FromStr for OutputFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::KNOWN
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::InvalidOption {
                option: "output_format",
                message: format!(
                    "`{name}` is not known; known are {}",
                    Self::KNOWN.map(Self::name).join(" ")
                ),
            })
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Writes one transcript, a segment at a time. The calls come in the order of the methods.
pub trait Writer {
    /// What stands before the first segment.
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let _ = out;
        Ok(())
    }

    /// A segment that is final. Formats that need the whole transcript first write nothing here.
    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()>;

    /// What was held back, and what stands at the end. `transcript` holds all segments that were given.
    fn finish(&mut self, transcript: &Transcript, out: &mut dyn Write) -> io::Result<()> {
        let _ = (transcript, out);
        Ok(())
    }
}

/// Writes a whole transcript.
pub fn write(
    transcript: &Transcript,
    format: OutputFormat,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut writer = format.writer(options);
    writer.begin(out)?;
    for segment in &transcript.segments {
        writer.segment(segment, out)?;
    }
    writer.finish(transcript, out)
}

#[cfg(test)]
mod tests;
