//! Speech to text and text to speech on your own machine.
#![forbid(unsafe_code)]

pub mod error;

pub use error::{Error, Result};
