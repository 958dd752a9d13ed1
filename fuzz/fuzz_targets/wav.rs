#![no_main]

use libfuzzer_sys::fuzz_target;
use turaco::audio::Audio;

fuzz_target!(|data: &[u8]| {
    if let Ok(audio) = Audio::from_bytes(data.to_vec(), "input.wav") {
        assert!(audio.samples().iter().all(|sample| sample.is_finite()));
    }
});
