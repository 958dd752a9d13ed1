//! How repetitive a text is.

use super::deflate_size::zlib_size;

/// Bytes of UTF-8 text over bytes after zlib compression at its default level; 0 for the empty text.
///
/// Whisper decodes a window again when this exceeds 2.4. To take the same decision as openai-whisper on texts near
/// the threshold, the compressed size is the one that zlib itself arrives at, byte for byte.
pub fn compression_ratio(text: &str) -> f64 {
    text.len() as f64 / zlib_size(text.as_bytes()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_text_has_no_ratio() {
        assert_eq!(compression_ratio(""), 0.0);
    }

    #[test]
    fn reference_segments_have_the_reference_ratio() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/whisper/transcripts.json"
        );
        let transcripts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).expect("testdata")).expect("JSON");
        let mut windows: Vec<(u64, String, f64)> = Vec::new();
        for (_, transcript) in transcripts.as_object().expect("object") {
            for segment in transcript["segments"].as_array().expect("list") {
                // The ratio is that of all text of the window, so segments of one window are joined.
                let seek = segment["seek"].as_u64().expect("seek");
                let ratio = segment["compression_ratio"].as_f64().expect("ratio");
                let text = segment["text"].as_str().expect("text");
                match windows.last_mut() {
                    Some((last, joined, known)) if *last == seek && *known == ratio => {
                        joined.push_str(text)
                    }
                    _ => windows.push((seek, text.to_owned(), ratio)),
                }
            }
        }
        assert!(windows.len() > 1);
        for (_, text, ratio) in windows {
            // The JSON reader may be off by one unit in the last place.
            let ours = compression_ratio(text.trim());
            assert!(
                (ours - ratio).abs() <= f64::EPSILON * ratio,
                "{ours} {ratio} {text}"
            );
        }
    }
}
