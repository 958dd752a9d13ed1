//! One suite of cases for every operation, on every device and instruction set.

mod agreement;
mod choosing;
mod fused;
mod meaning;
mod rings;
mod signal;
mod support;
mod tracing;
mod weights;
