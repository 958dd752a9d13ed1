//! Whisper.

pub mod config;
pub mod names;
pub mod vocabulary;

pub use config::{GenerationDefaults, WhisperConfig};
pub use names::WhisperCheckpoint;
pub use vocabulary::{TokenEncoding, VocabularySource};
