#![no_main]

use libfuzzer_sys::fuzz_target;
use turaco::audio::{DecodeOptions, decode_bytes};

fuzz_target!(|data: &[u8]| {
    // Starting another program for every rejected input would leave little to fuzz.
    let options = DecodeOptions::new().built_in_only(true);
    if let Ok(audio) = decode_bytes(data.to_vec(), "input.wav", &options) {
        assert!(audio.samples().iter().all(|sample| sample.is_finite()));
    }
});
