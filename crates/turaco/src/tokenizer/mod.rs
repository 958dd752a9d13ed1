//! Text to token ids and back.
//!
//! [`bpe`] is the byte-level merge engine that all models share, [`vocabulary`] reads the files in which
//! vocabularies are kept, [`whisper`] adds Whisper's special tokens, [`tekken`] reads Mistral's, [`qwen`] Qwen's, and [`incremental`]
//! turns token bytes into text while they arrive.

pub mod bpe;
pub mod incremental;
pub mod languages;
pub mod qwen;
mod split;
pub mod tekken;
pub mod vocabulary;
pub mod whisper;

pub use bpe::{Bpe, TokenTable};
pub use incremental::TextAssembler;
pub use languages::{LANGUAGES, language_code, language_name, language_of_tag};
pub use qwen::QwenTokenizer;
pub use tekken::Tekken;
pub use vocabulary::Vocabulary;
pub use whisper::WhisperTokenizer;
