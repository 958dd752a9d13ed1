//! Speech from text: what is common to all of it.
//!
//! [`Synthesizer`] loads a model; [`Synthesizer::speak`] says a text, [`Synthesizer::stream`] gives its sound while it is made.
//! Inside: `normalize` makes words of what is written otherwise, `sentences` cuts long texts, `utterance` says one piece of text,
//! `guard` ends speech that does not end by itself, [`voice`] is who speaks.

mod guard;
mod loaded;
#[cfg(test)]
mod mutated_files;
mod normalize;
pub mod options;
mod sentences;
pub mod speech;
pub mod synthesizer;
mod utterance;
pub mod voice;
mod voice_store;

pub use guard::StopReason;
pub use normalize::plain_text;
pub use options::{SpeakOptions, TextLayout};
pub use sentences::SentenceSplitter;
pub use speech::{CarriedVoice, Chunk, Speech, SpeechStream, SpeechTimings};
pub use synthesizer::Synthesizer;
pub use voice::{ClonedVoice, Voice};
pub use voice_store::VoiceStore;
