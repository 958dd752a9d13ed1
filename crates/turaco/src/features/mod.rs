//! Mel spectrograms.
