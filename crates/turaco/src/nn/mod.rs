//! Layers shared by models, and how they are loaded from a checkpoint.

mod attention;
mod conv;
mod linear;
mod loader;
mod mlp;
mod norm;

pub(crate) use attention::halves_of_pairs;
pub use attention::{AttentionConfig, CacheAt, CachedSelfAttention, RotaryPairs};
pub use conv::Conv1d;
pub use linear::Linear;
pub use loader::Loader;
pub use mlp::SwiGluMlp;
pub use norm::{LayerNorm, RmsNorm};
