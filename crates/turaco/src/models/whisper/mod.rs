//! Whisper.
