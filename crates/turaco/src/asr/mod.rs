//! Speech recognition: what is common to all recognisers.

pub mod dtw;
pub mod options;
pub mod segment;
pub mod vad;
mod vad_segmenter;
pub mod vad_stream;
pub mod vad_time_map;

pub use options::{Task, TranscribeOptions, VadOptions};
pub use segment::{Info, Segment, Word};
