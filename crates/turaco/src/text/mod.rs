//! Text comparison and measures: English normalisation, word error rate, compression ratio.

pub mod python;
