#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use turaco::tokenizer::Tekken;

fuzz_target!(|data: &[u8]| {
    if let Ok(vocabulary) = Tekken::from_json(Path::new("input"), data, 131_072) {
        assert!(vocabulary.n_special() <= vocabulary.len());
        for id in 0..=vocabulary.len() as u32 {
            assert_eq!(vocabulary.is_text(id), vocabulary.text(id).is_some());
        }
        let _ = (vocabulary.special("<s>"), vocabulary.audio());
    }
});
