//! Speech to text, text to speech, and conversations with models that hear, on your own machine.
#![forbid(unsafe_code)]

#[cfg(feature = "hub")]
pub mod address;
pub mod asr;
pub mod audio;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod control;
mod device_queue;
pub mod diagnostics;
pub mod engine;
pub mod error;
pub mod features;
#[cfg(feature = "hub")]
pub mod hub;
mod idle;
pub mod load;
mod loop_guard;
pub mod models;
pub mod nn;
pub mod output;
mod recycle;
pub mod text;
pub mod tokenizer;
pub mod tts;
pub mod voice;
pub mod weights;

pub use asr::{Recognizer, Segment, Task, TranscribeOptions, Transcriber, Transcription, Word};
pub use audio::Audio;
pub use chat::{ChatModel, ChatOptions, ChatSession, Message};
pub use control::{Control, Progress};
pub use error::{Error, Result};
pub use load::{ComputeType, LoadOptions};
pub use tts::{SpeakOptions, Speech, Synthesizer, Voice};
pub use turaco_compute::cpu::memory::return_freed_memory;
pub use turaco_compute::trace;
