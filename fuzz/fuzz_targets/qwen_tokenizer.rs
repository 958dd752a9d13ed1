#![no_main]

mod folder;

use libfuzzer_sys::fuzz_target;
use turaco::tokenizer::qwen::QwenTokenizer;
use turaco::weights::Sidecars;

/// Between the files in an input.
const SEPARATOR: u8 = 0;

fuzz_target!(|data: &[u8]| {
    let mut files = data.splitn(3, |byte| *byte == SEPARATOR);
    let mut next = || files.next().unwrap_or_default();
    let folder = folder::with(&[
        ("vocab.json", next()),
        ("merges.txt", next()),
        ("tokenizer_config.json", next()),
    ]);
    if let Ok(tokenizer) = QwenTokenizer::read(&Sidecars::new(folder)) {
        let text = String::from_utf8_lossy(data);
        for ids in [tokenizer.encode(&text), tokenizer.encode_with_special(&text)] {
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.len()));
        }
    }
});
