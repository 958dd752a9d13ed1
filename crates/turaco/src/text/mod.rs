//! Text comparison: English normalisation and word error rate.
