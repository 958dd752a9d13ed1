//! Layers shared by models, and how they are loaded from a checkpoint.

mod attention;
mod causal;
mod conv;
mod embedding_table;
mod layer;
mod linear;
mod loader;
mod metered_cache;
mod mlp;
mod norm;
mod progress;
mod stacking_projector;
mod token_choice;

pub(crate) use attention::halves_of_pairs;
pub use attention::{AttentionConfig, CacheAt, CachedSelfAttention, RotaryPairs};
pub use causal::{
    CausalConv1d, CausalDepthwiseConv1d, CausalOutputConv1d, CausalUpsample1d, StateLayout, Taps,
    load_snake,
};
pub use conv::Conv1d;
pub(crate) use conv::taps_outermost;
pub use embedding_table::EmbeddingTable;
pub use layer::{DECODER_NORMS, LayerConfig, LayerStack, RotaryLayer};
pub use linear::Linear;
pub use loader::Loader;
pub use metered_cache::{CacheMeter, MeteredCache};
pub use mlp::SwiGluMlp;
pub use norm::{LayerNorm, RmsNorm};
pub use progress::LayerProgress;
pub use stacking_projector::StackingProjector;
pub use token_choice::TokenChoice;
