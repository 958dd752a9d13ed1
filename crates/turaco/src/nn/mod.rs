//! Layers shared by models, and how they are loaded from a checkpoint.

mod conv;
mod linear;
mod loader;
mod norm;

pub use conv::Conv1d;
pub use linear::Linear;
pub use loader::Loader;
pub use norm::LayerNorm;
