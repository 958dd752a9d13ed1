//! Sound in and out: decoding, resampling, incremental sources.
