//! The 12 Hz codec of Qwen3-TTS (`speech_tokenizer/`): frames of 80 ms as 16 codes, and back to samples at 24 kHz.
//!
//! - Decoder: sums of codebook entries, a causal convolution, a transformer over a sliding window, transposed convolutions
//!   and ConvNeXt blocks to 50 rows per second, then a stack of SnakeBeta residual units that ends in samples.
//!   Everything is causal, so that decoding is a stream: [`CodecStream`] keeps what each layer has to know of the past, and
//!   any cut into chunks gives the same samples.
//! - Encoder: Mimi's, for reference recordings of a voice that is cloned in context.
//!
//! Behaviour follows `qwen_tts/core/tokenizer_12hz` of the Python package; unlike its decoding in blocks of 300 frames with 25
//! frames of context there are no seams.

mod checkpoint;
mod config;
mod decoder;
mod encoder;
mod quantizer;
pub mod random;
mod runner;

pub use checkpoint::CodecCheckpoint;
pub use config::{CodecConfig, CodecDecoderConfig, CodecEncoderConfig};
pub use decoder::CodecDecoder;
pub use encoder::CodecEncoder;
pub use runner::{CodecRunner, CodecStream, MAX_FRAMES};
