//! Text comparison and measures: English normalisation, word error rate, compression ratio.

pub mod compression;
mod deflate_size;
pub mod python;

pub use compression::compression_ratio;
