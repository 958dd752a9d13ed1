//! Layers shared by models, and how they are loaded from a checkpoint.

mod attention;
mod causal;
mod conv;
mod linear;
mod loader;
mod mlp;
mod norm;

pub(crate) use attention::halves_of_pairs;
pub use attention::{AttentionConfig, CacheAt, CachedSelfAttention, RotaryPairs};
pub use causal::{
    CausalConv1d, CausalDepthwiseConv1d, CausalOutputConv1d, CausalUpsample1d, StateLayout, Taps,
    load_snake,
};
pub use conv::Conv1d;
pub(crate) use conv::taps_outermost;
pub use linear::Linear;
pub use loader::Loader;
pub use mlp::SwiGluMlp;
pub use norm::{LayerNorm, RmsNorm};
