//! Mel spectrograms: what the recognisers hear.
//!
//! [`LogMel`] turns 16 kHz samples into the features of Whisper and its relatives, [`LogMelStreamer`] does so while the
//! sound is still arriving; [`SpeakerMel`] is what a
//! speaker encoder hears; [`MelFilterBank`] and [`Stft`] are the parts it is made of, for models with other sizes.

mod log_mel;
mod log_mel_stream;
mod mel;
mod speaker_mel;
mod stft;

pub use log_mel::{HOP_LENGTH, LogMel, Mel, N_FFT, SAMPLE_RATE};
pub use log_mel_stream::{LogMelSettings, LogMelStream, LogMelStreamer};
pub use mel::MelFilterBank;
pub use speaker_mel::SpeakerMel;
pub use stft::{PaddedSignal, Stft};
