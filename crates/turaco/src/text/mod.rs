//! Text comparison and measures: English normalisation, word error rate, compression ratio.

pub mod compression;
mod deflate_size;
pub mod normalize;
pub(crate) mod number_words;
mod numbers;
pub mod python;
mod rewrite;
pub mod wer;

pub use compression::compression_ratio;
pub use normalize::{normalize_basic, normalize_english};
pub use wer::{Errors, character_errors, word_errors};
