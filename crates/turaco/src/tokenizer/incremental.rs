//! UTF-8-safe text from token bytes as they arrive.

/// Collects bytes and gives out text as soon as its characters are complete.
///
/// A character may straddle tokens, so decoding token by token would show broken characters. The concatenation of
/// everything given out equals the lossy decoding of all bytes at once.
#[derive(Debug, Clone, Default)]
pub struct TextAssembler {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl TextAssembler {
    /// An assembler that waits for the first byte of a character.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes and returns the text that is now complete. Bytes that can never become a character come out as
    /// U+FFFD, one for each maximal broken part.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(broken) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[broken..];
                }
            }
        }
        self.pending.drain(..self.pending.len() - rest.len());
        text
    }

    /// Ends the text: a character that was never completed comes out as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_decoding_at_once(chunks in prop::collection::vec(prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(vec![0xe6u8, 0x97, 0xa5, 0xf0, 0x9f, 0x98, 0x80, b'a'])], 0..6), 0..20)) {
            let mut assembler = TextAssembler::new();
            let mut text: String = chunks.iter().map(|chunk| assembler.push(chunk)).collect();
            text += &assembler.finish();
            let all = chunks.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&all).into_owned());
        }
    }

    #[test]
    fn gives_out_complete_characters_at_once() {
        let mut assembler = TextAssembler::new();
        assert_eq!(assembler.push(b" a\xe6\x97"), " a");
        assert_eq!(assembler.push(b"\xa5b"), "日b");
        assert_eq!(assembler.push(b"\xf0\x9f"), "");
        assert_eq!(assembler.finish(), "\u{fffd}");
        assert_eq!(assembler.finish(), "");
    }
}
