//! Tests of the library through its public interface, in one binary.

#[cfg(feature = "hub")]
mod allocations;
#[cfg(feature = "hub")]
mod bench;
#[cfg(feature = "hub")]
mod chat_sessions;
mod golden_qwen3_tts;
#[cfg(feature = "hub")]
mod golden_qwen3_tts_codec;
mod golden_voxtral_mini;
mod golden_voxtral_realtime;
#[cfg(feature = "hub")]
mod golden_whisper;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod mock_hub;
#[cfg(feature = "hub")]
mod realtime_batches;
mod realtime_sessions;
#[cfg(feature = "hub")]
mod support;
mod synthesizer;
mod tekken;
#[cfg(feature = "hub")]
mod voice;
#[cfg(feature = "hub")]
mod whisper_options;
