//! Where the time goes.

/// Where the time of a transcription went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Timings {
    /// Voice activity detection.
    pub vad: f64,
    /// Log-mel features.
    pub features: f64,
    /// Language detection, its encoder run included.
    pub language: f64,
    /// Encoder.
    pub encoder: f64,
    /// Decoder, fallbacks included.
    pub decoder: f64,
    /// Word alignment.
    pub words: f64,
    /// Windows decoded.
    pub windows: usize,
    /// Tokens in the results.
    pub tokens: usize,
}
