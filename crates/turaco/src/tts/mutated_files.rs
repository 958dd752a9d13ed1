//! What the fuzz targets of speaking models look at, some thousands of times: the seeds of `fuzz/`, changed at random.

use std::fs;
use std::path::{Path, PathBuf};

use crate::models::qwen3_tts::Qwen3TtsConfig;
use crate::models::qwen3_tts::codec::CodecConfig;
use crate::tokenizer::QwenTokenizer;
use crate::weights::Sidecars;

use super::ClonedVoice;

/// Changed files of each seed.
const MUTATIONS: usize = 3000;

/// Numbers that programs stumble over.
const NUMBERS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "0.5",
    "65535",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "1e308",
    "null",
];

/// Bytes that mean something to JSON, or nothing to anybody.
const BYTES: &[u8] = b"0123456789-.eE[]{}\",: tfn\0\xff\x80";

/// A sequence of numbers that are as good as random (xorshift64*), the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % end.max(1)
    }

    /// Up to four changes of a seed.
    fn mutated(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = bytes.len().min(at + 1 + self.below(12));
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = BYTES[self.below(BYTES.len())],
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                4 => bytes.truncate(at),
                _ => {
                    let is_digit = |byte: &u8| byte.is_ascii_digit();
                    let begin = bytes[at..]
                        .iter()
                        .position(is_digit)
                        .map(|digit| at + digit);
                    let Some(begin) = begin else { continue };
                    let len = bytes[begin..]
                        .iter()
                        .take_while(|byte| is_digit(byte))
                        .count();
                    let number = NUMBERS[self.below(NUMBERS.len())];
                    bytes.splice(begin..begin + len, number.bytes());
                }
            }
        }
        bytes
    }
}

/// Let `read` see changed files made of each seed of a fuzz target.
fn each(target: &str, mut read: impl FnMut(&Path, &[u8])) {
    let folder = tempfile::tempdir().unwrap();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let mut seeds: Vec<PathBuf> = fs::read_dir(seeds.join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    seeds.sort();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        let seed = fs::read(seed).unwrap();
        read(folder.path(), &seed);
        for _ in 0..MUTATIONS {
            read(folder.path(), &dice.mutated(&seed));
        }
    }
}

#[test]
fn voices_are_read_whatever_is_in_their_files() {
    let mut n_read = 0;
    each("voice", |folder, bytes| {
        let path = folder.join("voice.safetensors");
        fs::write(&path, bytes).unwrap();
        if let Ok(voice) = ClonedVoice::open(&path) {
            n_read += 1;
            assert!(voice.vector.iter().all(|value| value.is_finite()));
            assert!(voice.codes.is_empty() || voice.codes.len().is_multiple_of(voice.n_codes));
            // Each one waits for the disk.
            if n_read % 20 == 1 {
                voice.save(&path).unwrap();
                assert_eq!(ClonedVoice::open(&path).unwrap(), voice);
            }
        }
    });
    assert!(n_read > 0);
}

#[test]
fn settings_are_read_whatever_is_in_their_files() {
    let (mut n_codecs, mut n_talkers) = (0, 0);
    each("speech_config", |folder, bytes| {
        for name in ["config.json", "generation_config.json"] {
            fs::write(folder.join(name), bytes).unwrap();
        }
        let sidecars = Sidecars::new(folder);
        if let Ok(Some(config)) = CodecConfig::read(&sidecars) {
            n_codecs += 1;
            assert!(config.decoder.samples_per_frame() > 0);
            assert!(config.encoder.samples_per_frame() > 0);
            assert!(config.input_sample_rate >= 100 && config.output_sample_rate >= 100);
            let _ = (config.decoder.rows_per_frame(), config.encoder.last_width());
        }
        if let Ok(Some(config)) = Qwen3TtsConfig::read(&sidecars) {
            n_talkers += 1;
            let mut names = config.language_names();
            assert!(names.all(|name| config.language_id(name).is_some()));
        }
    });
    assert!(n_codecs > 0 && n_talkers > 0);
}

#[test]
fn tokenizers_are_read_whatever_is_in_their_files() {
    let mut n_read = 0;
    each("qwen_tokenizer", |folder, bytes| {
        let mut files = bytes.splitn(3, |byte| *byte == 0);
        for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
            fs::write(folder.join(name), files.next().unwrap_or_default()).unwrap();
        }
        if let Ok(tokenizer) = QwenTokenizer::read(&Sidecars::new(folder)) {
            n_read += 1;
            let text = String::from_utf8_lossy(bytes);
            for ids in [
                tokenizer.encode(&text),
                tokenizer.encode_with_special(&text),
            ] {
                assert!(ids.iter().all(|id| (*id as usize) < tokenizer.len()));
            }
        }
    });
    assert!(n_read > 0);
}
