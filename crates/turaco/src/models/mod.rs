//! The networks: config, weights and forward passes.

pub mod silero_vad;
pub mod whisper;
