#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use turaco::weights::{Bytes, ggml};

fuzz_target!(|data: &[u8]| {
    if let Ok(weights) =
        ggml::parse(Path::new("input"), &Bytes::from(data.to_vec())).map(|(_, weights)| weights)
    {
        for (_, tensor) in weights.iter() {
            assert_eq!(tensor.to_f32().len(), tensor.len());
            let _ = tensor.is_finite();
            if let Some(first) = tensor.rows(0..tensor.n_rows().min(1)) {
                assert!(first.len() <= tensor.len());
            }
        }
    }
});
