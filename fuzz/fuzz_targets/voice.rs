#![no_main]

mod folder;

use libfuzzer_sys::fuzz_target;
use turaco::tts::ClonedVoice;

fuzz_target!(|data: &[u8]| {
    let path = folder::with(&[("voice.safetensors", data)]).join("voice.safetensors");
    if let Ok(voice) = ClonedVoice::open(&path) {
        assert!(voice.vector.iter().all(|value| value.is_finite()));
        assert!(voice.codes.is_empty() || voice.codes.len().is_multiple_of(voice.n_codes));
        let copy = path.with_file_name("copy.safetensors");
        voice.save(&copy).expect("room for temporary files");
        assert_eq!(ClonedVoice::open(&copy).expect("a voice that was saved"), voice);
    }
});
