//! Speech recognition: what is common to all recognisers.

pub mod options;
pub mod segment;

pub use options::{Task, TranscribeOptions, VadOptions};
pub use segment::{Info, Segment, Word};
