//! Mel spectrograms: what the recognisers hear.
//!
//! [`LogMel`] turns 16 kHz samples into the features of Whisper and its relatives; [`MelFilterBank`] and
//! [`Stft`] are the parts it is made of, for models with other sizes.

mod log_mel;
mod mel;
mod stft;

pub use log_mel::{HOP_LENGTH, LogMel, Mel, N_FFT, SAMPLE_RATE};
pub use mel::MelFilterBank;
pub use stft::{PaddedSignal, Stft};
