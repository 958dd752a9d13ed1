//! Where and how a model runs: its device, the type of its weights, whether it fits, and what happens when the device fails.

pub mod compute_type;
pub(crate) mod device_choice;
pub(crate) mod memory;
pub mod options;
pub(crate) mod rescue;

pub use compute_type::ComputeType;
#[cfg(feature = "cuda")]
pub(crate) use device_choice::kernel_cache;
pub use memory::available as available_memory;
pub use options::LoadOptions;
