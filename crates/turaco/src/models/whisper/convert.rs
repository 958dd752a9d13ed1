//! Writing a checkpoint of any format as a Hugging Face folder.

use std::io::Write;

use serde_json::{Map, Value, json};
use turaco_compute::WeightType;

use super::careful_type;
use super::checkpoint::WhisperCheckpoint;
use super::config::WhisperConfig;
use super::vocabulary::{TokenEncoding, VocabularySource};
use crate::tokenizer::bpe::byte_of_gpt2_char;
use crate::tokenizer::languages::LANGUAGES;
use crate::weights::DType;
use crate::weights::new_folder::NewFolder;
use crate::{Control, Error, Result};

/// Writes `checkpoint` into `folder`: `model.safetensors` with all numbers as `dtype` (`F32`, `F16` or `Bf16`; or `Panels`,
/// which packs the matrices of all layers and keeps the rest plain), `config.json`, `generation_config.json`,
/// `preprocessor_config.json` and the vocabulary in the form it was found in.
///
/// The folder appears whole or not at all, also when `control` is cancelled; progress is in bytes of weights.
///
/// # Errors
/// When the file system refuses (full disk, no permission), naming the file, or on cancellation.
pub fn write_hugging_face(
    checkpoint: &WhisperCheckpoint,
    folder: NewFolder,
    dtype: DType,
    control: &Control,
) -> Result<()> {
    if !matches!(
        dtype,
        DType::F32 | DType::F16 | DType::Bf16 | DType::Panels(_)
    ) {
        return Err(Error::InvalidOption {
            option: "compute_type",
            message: format!("cannot convert to {dtype}; f32, f16, bf16 and panels are possible"),
        });
    }
    // A copy of a broken tokenizer would be a broken model.
    if let Some(source) = &checkpoint.vocab {
        source.tokenizer(&checkpoint.path, checkpoint.config.n_vocab)?;
    }
    let tensors: Vec<_> = checkpoint
        .weights
        .iter()
        .map(|(name, tensor)| {
            let dtype = stored_type(name, dtype, &checkpoint.config);
            (format!("model.{name}"), tensor, dtype)
        })
        .collect();
    folder.write_weights(&tensors, control)?;
    for (name, value) in [
        ("config.json", config_json(checkpoint, dtype)),
        ("generation_config.json", generation_json(checkpoint)),
        ("preprocessor_config.json", preprocessor_json(checkpoint)),
    ] {
        folder.write_json(name, &value, control)?;
    }
    for (name, content) in vocabulary_files(checkpoint) {
        folder.write_silently(name, control, |out| out.write_all(&content))?;
    }
    folder.publish()
}

/// How tensor `name` is written. Positions, biases and norms are used as they are, and the convolutions are
/// rearranged while loading: panels are for the matrices of the blocks and for the token embedding.
fn stored_type(name: &str, dtype: DType, config: &WhisperConfig) -> DType {
    let DType::Panels(packed) = dtype else {
        return dtype;
    };
    let matrices = [
        "_proj.weight",
        "fc1.weight",
        "fc2.weight",
        "embed_tokens.weight",
    ];
    if matrices.iter().any(|ending| name.ends_with(ending)) {
        let careful = name.starts_with("encoder.") || name.ends_with("embed_tokens.weight");
        return DType::Panels(match careful {
            true => careful_type(packed, config),
            false => packed,
        });
    }
    match packed {
        // As precise as the encoder's stem is computed.
        WeightType::Bf16 | WeightType::Q8 | WeightType::Q4
            if name.contains("conv") && name.ends_with(".weight") =>
        {
            DType::Bf16
        }
        _ => DType::F32,
    }
}

fn config_json(checkpoint: &WhisperCheckpoint, dtype: DType) -> Value {
    let config = &checkpoint.config;
    let ids = Ids::of(checkpoint);
    let mut json = config.to_json();
    json["num_hidden_layers"] = config.n_audio_layers.into();
    json["scale_embedding"] = false.into();
    json["is_encoder_decoder"] = true.into();
    json["tie_word_embeddings"] = true.into();
    for token in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        json[token] = ids.eot.into();
    }
    json["decoder_start_token_id"] = ids.sot.into();
    json["torch_dtype"] = match dtype {
        DType::F16 | DType::Panels(WeightType::F16) => "float16",
        DType::Bf16 | DType::Panels(WeightType::Bf16) => "bfloat16",
        _ => "float32",
    }
    .into();
    json
}

fn generation_json(checkpoint: &WhisperCheckpoint) -> Value {
    let config = &checkpoint.config;
    let generation = &checkpoint.generation;
    let ids = Ids::of(checkpoint);
    let mut json = json!({
        "alignment_heads": generation.alignment_heads,
        "bos_token_id": ids.eot,
        "eos_token_id": ids.eot,
        "pad_token_id": ids.eot,
        "decoder_start_token_id": ids.sot,
        "is_multilingual": config.is_multilingual(),
        "max_initial_timestamp_index": 50,
        "max_length": config.n_text_ctx,
        "no_timestamps_token_id": ids.translate + 5,
        "prev_sot_token_id": ids.translate + 3,
    });
    let more = [
        ("suppress_tokens", &generation.suppress_tokens),
        ("begin_suppress_tokens", &generation.begin_suppress_tokens),
    ];
    for (key, list) in more {
        if let Some(list) = list {
            json[key] = json!(list);
        }
    }
    if config.is_multilingual() {
        let languages: Map<String, Value> = LANGUAGES
            .iter()
            .zip(ids.sot + 1..ids.translate)
            .map(|((code, _), id)| (format!("<|{code}|>"), id.into()))
            .collect();
        json["lang_to_id"] = languages.into();
        json["task_to_id"] = json!({"translate": ids.translate, "transcribe": ids.translate + 1});
    }
    json
}

/// The special tokens that Whisper's vocabularies have at fixed places.
struct Ids {
    eot: usize,
    sot: usize,
    translate: usize,
}

impl Ids {
    fn of(checkpoint: &WhisperCheckpoint) -> Self {
        let config = &checkpoint.config;
        let eot = 50_256 + usize::from(config.is_multilingual());
        Self {
            eot,
            sot: eot + 1,
            translate: eot + 2 + config.num_languages(),
        }
    }
}

fn preprocessor_json(checkpoint: &WhisperCheckpoint) -> Value {
    json!({
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": checkpoint.config.n_mels,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": false,
    })
}

/// Names and contents of the files of the vocabulary.
fn vocabulary_files(checkpoint: &WhisperCheckpoint) -> Vec<(&'static str, Vec<u8>)> {
    match &checkpoint.vocab {
        None => Vec::new(),
        Some(VocabularySource::TokenizerJson(json)) => vec![("tokenizer.json", json.to_vec())],
        Some(VocabularySource::VocabJsonMerges {
            vocab,
            merges,
            added_tokens,
        }) => {
            let mut files = vec![
                ("vocab.json", vocab.to_vec()),
                ("merges.txt", merges.to_vec()),
            ];
            files.extend(
                added_tokens
                    .as_ref()
                    .map(|added| ("added_tokens.json", added.to_vec())),
            );
            files
        }
        // A plain list, as CTranslate2 has it.
        Some(VocabularySource::TokenList { tokens, encoding }) => {
            let alphabet = gpt2_alphabet();
            let texts: Value = tokens
                .iter()
                .map(|token| match encoding {
                    TokenEncoding::RawBytes => token
                        .iter()
                        .map(|&byte| alphabet[usize::from(byte)])
                        .collect::<String>(),
                    TokenEncoding::Gpt2Alphabet => String::from_utf8_lossy(token).into_owned(),
                })
                .collect();
            vec![("vocabulary.json", texts.to_string().into_bytes())]
        }
    }
}

/// GPT-2's character for every byte.
fn gpt2_alphabet() -> [char; 256] {
    let mut alphabet = ['\0'; 256];
    for character in ('\0'..='\u{17f}').filter(|&c| byte_of_gpt2_char(c).is_some()) {
        if let Some(byte) = byte_of_gpt2_char(character) {
            alphabet[usize::from(byte)] = character;
        }
    }
    alphabet
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::Error;
    use crate::models::whisper::testing;
    use crate::weights::safetensors;

    fn write(checkpoint: &WhisperCheckpoint, folder: &Path, dtype: DType) -> Result<()> {
        let folder = NewFolder::create(folder)?;
        write_hugging_face(checkpoint, folder, dtype, &Control::new())
    }

    #[test]
    fn a_written_folder_is_the_same_model() {
        let model = testing::RandomModel::new(7);
        let folder = tempfile::tempdir().unwrap();
        let source = model.write_ggml(&folder.path().join("ggml-x.bin"), 1);
        let original = WhisperCheckpoint::open(&source).unwrap();
        let types = [
            DType::F32,
            DType::F16,
            DType::Bf16,
            DType::Panels(WeightType::F32),
            DType::Panels(WeightType::Bf16),
        ];
        for (index, dtype) in types.into_iter().enumerate() {
            let target = folder.path().join("deep/er").join(dtype.name());
            write(&original, &target, dtype).unwrap();
            let written = WhisperCheckpoint::open(&target).unwrap();
            assert_eq!(written.config, original.config);
            assert_eq!(
                written.generation.alignment_heads,
                original.generation.alignment_heads
            );
            let tolerance = match dtype {
                DType::Bf16 | DType::Panels(WeightType::Bf16) => 1.0 / 256.0,
                DType::F16 => 1.0 / 2048.0,
                _ => 0.0,
            };
            testing::assert_same_tensors(&original, &written, tolerance);
            let Some(VocabularySource::TokenList { tokens, encoding }) = written.vocab else {
                panic!("the vocabulary is lost")
            };
            assert_eq!(encoding, TokenEncoding::Gpt2Alphabet);
            assert_eq!(tokens[1], "Ġa".as_bytes());
            // Nothing else is left beside it.
            let n_entries = fs::read_dir(target.parent().unwrap()).unwrap().count();
            assert_eq!(n_entries, index + 1);
        }
    }

    #[test]
    fn failures_leave_nothing_behind() {
        let model = testing::RandomModel::new(8);
        let folder = tempfile::tempdir().unwrap();
        let source = model.write_ggml(&folder.path().join("ggml-x.bin"), 1);
        let mut original = WhisperCheckpoint::open(&source).unwrap();
        let count = || fs::read_dir(folder.path()).unwrap().count();

        let message = write(&original, folder.path(), DType::F32)
            .unwrap_err()
            .to_string();
        assert!(message.contains("cannot create"), "{message}");
        assert!(write(&original, &folder.path().join("x"), DType::I8).is_err());
        assert!(write(&original, &source, DType::F32).is_err());
        assert_eq!(count(), 1);

        // The last tensor in order of names does not fit into f16: everything before it has been written by then.
        let huge = crate::weights::Tensor::from_f32(&[1], &[1e6]);
        original.weights.insert("z".into(), huge).unwrap();
        let error = write(&original, &folder.path().join("x"), DType::F16).unwrap_err();
        assert!(matches!(
            error,
            Error::Io {
                action: "write",
                ..
            }
        ));
        assert_eq!(count(), 1);
    }

    #[test]
    fn cancelling_stops_between_two_pieces_and_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let source = testing::RandomModel::new(9).write_ggml(&parent.path().join("ggml-x.bin"), 1);
        let original = WhisperCheckpoint::open(&source).unwrap();
        for dtype in [DType::F32, DType::Panels(WeightType::Q8)] {
            let target = parent.path().join("x");
            let stop = Control::new();
            // The first report comes after the first piece.
            let stopped = stop.clone();
            let control = stop.clone().on_progress(move |progress| {
                assert!(progress.done <= progress.total.unwrap() + 1e6);
                stopped.cancel();
            });
            let folder = NewFolder::create(&target).unwrap();
            let error = write_hugging_face(&original, folder, dtype, &control).unwrap_err();
            assert!(matches!(error, Error::Cancelled), "{error}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let result = safetensors::write(
            &mut File::options().write(true).open("/dev/full").unwrap(),
            &[(
                "a".to_owned(),
                &crate::weights::Tensor::from_f32(&[1], &[1.0]),
                DType::F32,
            )],
        );
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
