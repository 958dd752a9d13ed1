//! Tensors, kernels and devices: everything in Turaco that touches hardware.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dtype;
pub mod error;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod fuse;
#[cfg(feature = "wgpu")]
pub mod gpu;
pub mod graph;
pub mod measure;
pub mod quant;
pub mod self_test;
mod slots;
pub mod step;
pub mod storage;
pub mod trace;

pub use cpu::isa::Isa;
pub use cpu::{CpuOptions, Precision};
#[cfg(feature = "cuda")]
pub use cuda::CudaOptions;
pub use device::{
    Activity, CacheShape, Device, HostMatrix, KeptKernels, KernelChoice, KvCache, Matrix,
    StateBuffer, Vector, WeightType,
};
pub use dtype::DType;
pub use error::{Error, Result};
#[cfg(feature = "wgpu")]
pub use gpu::GpuOptions;
pub use graph::{
    Activation, AttentionShape, ChooseTokens, FilterTokens, Ids, Mask, Slot, Snake, Value, Work,
};
pub use step::{Bindings, ConvShape, Epilogue, SlotBinding, Step, StepBuilder};
pub use storage::Bytes;
