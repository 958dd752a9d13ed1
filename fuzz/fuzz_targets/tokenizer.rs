#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use turaco::tokenizer::WhisperTokenizer;
use turaco::tokenizer::vocabulary::Vocabulary;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("input");
    let half = data.len() / 2;
    for vocabulary in [
        Vocabulary::from_tokenizer_json(path, data),
        Vocabulary::from_vocabulary_json(path, data),
        Vocabulary::from_vocabulary_txt(path, data),
        Vocabulary::from_vocab_and_merges((path, &data[..half]), (path, &data[half..]), None),
    ]
    .into_iter()
    .flatten()
    {
        if let Ok(tokenizer) = WhisperTokenizer::new(path, vocabulary, 51_865) {
            let tokens = tokenizer.encode(&String::from_utf8_lossy(data));
            let _ = tokenizer.decode(&tokens);
        }
    }
});
