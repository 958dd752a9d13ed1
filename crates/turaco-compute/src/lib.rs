//! Tensors, kernels and devices: everything in Turaco that touches hardware.

pub mod cpu;
pub mod dtype;
pub mod error;

pub use dtype::DType;
pub use error::{Error, Result};
