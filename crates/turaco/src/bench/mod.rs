//! Measuring this machine and a model: what `turaco bench` does.
//!
//! [`transcription`] runs clips from their files to their texts several times and measures in between what the machine
//! can do; [`kernels`] measures the parts that the time goes to. Both give a [`Report`], which [`table`] writes for
//! people, `serde` for programs and [`svg`] as a chart; [`compare`] judges it against one that was saved.
//!
//! ```no_run
//! use turaco::bench::{Clip, Protocol, compare, table, transcription};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let control = turaco::Control::new();
//! let model = turaco::Recognizer::load_path("models/base".as_ref(), &Default::default(), &control)?;
//! let clips = [Clip::file("talk.wav")];
//! let outcome = transcription(&model, &clips, &Protocol::default(), &control, &mut |_| {})?;
//! print!("{}", table(&outcome.report));
//! let saved = serde_json::from_str(&std::fs::read_to_string("baseline.json")?)?;
//! assert!(!compare(&saved, &outcome.report, false)?.failed());
//! # Ok(())
//! # }
//! ```

mod activity;
mod baseline;
mod chart;
mod clip;
mod codec;
mod frame_table;
mod frames;
mod kernels;
mod limits;
mod live;
mod positions;
mod report;
mod run;
mod spoken_texts;
mod statistics;
mod steps;
mod summary;
mod table;
mod targets;
#[cfg(test)]
mod testing;
mod trace_file;
mod voice;

pub use activity::RunReport;
pub use baseline::{
    COMPONENT_LIMIT, Change, Comparison, Finding, Mismatch, Subject, WHOLE_LIMIT, compare,
};
pub use chart::{html, svg};
pub use clip::Clip;
pub use codec::CodecRow;
pub use frames::{FrameBatch, FrameProtocol, FrameReport, frame_subject, frames};
pub use kernels::{KernelProtocol, kernel_subject, kernels};
pub use live::{LiveReport, live};
pub use positions::{PositionReport, positions};
pub use report::{
    ClipReport, DeviceReport, FORMAT, KernelRow, Kind, Limits, MachineFacts, Measure, ModelFacts,
    Peak, Report, Role, StepRow, TranscriptionReport,
};
pub use run::{Outcome, Protocol, transcription};
pub use spoken_texts::SpokenText;
pub use statistics::{Percentiles, Spread};
pub use steps::Step;
pub use summary::subject;
pub use table::{comparison_table, table};
pub use trace_file::chrome_trace;
pub use voice::{GOAL_MS, ReadyMind, VoiceProtocol, VoiceReport, voice};
