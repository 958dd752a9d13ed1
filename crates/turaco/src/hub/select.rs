//! Which files of a repository a model needs.

/// The files to download, weights last, out of all `names` of a repository; empty if there are no weights that can be
/// read. Of several copies of the weights one is taken: safetensors before CTranslate2, `model` before `consolidated`,
/// the default precision before `fp32` duplicates.
pub fn model_files(names: &[String]) -> Vec<String> {
    let has = |name: &str| names.iter().any(|known| known == name);
    let weights: Vec<String> = if has("model.safetensors") {
        vec!["model.safetensors".to_owned()]
    } else if has("model.safetensors.index.json") {
        shards(names, "model")
    } else if has("consolidated.safetensors") {
        vec!["consolidated.safetensors".to_owned()]
    } else if has("consolidated.safetensors.index.json") {
        shards(names, "consolidated")
    } else if has("model.bin") {
        vec!["model.bin".to_owned()]
    } else {
        return Vec::new();
    };
    // Qwen3-TTS keeps its codec, a model with a config of its own, in a folder.
    let codec = names
        .iter()
        .filter(|name| name.starts_with("speech_tokenizer/"))
        .filter(|name| name.ends_with(".json") || name.ends_with("/model.safetensors"));
    let mut files: Vec<String> = SMALL_FILES
        .iter()
        .filter(|name| has(name))
        .map(|&name| name.to_owned())
        .chain(codec.cloned())
        .collect();
    files.extend(weights);
    files
}

/// Everything beside weights that some loader reads.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "params.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "normalizer.json",
    "special_tokens_map.json",
    "vocabulary.json",
    "vocabulary.txt",
];

/// The index and the shards `STEM-00001-of-00002.safetensors`.
fn shards(names: &[String], stem: &str) -> Vec<String> {
    let is_shard = |name: &str| {
        name.strip_prefix(stem)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(".safetensors"))
            .and_then(|numbers| numbers.split_once("-of-"))
            .is_some_and(|(part, parts)| {
                [part, parts]
                    .iter()
                    .all(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty())
            })
    };
    let mut files = vec![format!("{stem}.safetensors.index.json")];
    files.extend(names.iter().filter(|name| is_shard(name)).cloned());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(names: &[&str]) -> Vec<String> {
        model_files(
            &names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn one_copy_of_the_weights_is_taken() {
        let whisper = [
            ".gitattributes",
            "README.md",
            "added_tokens.json",
            "config.json",
            "flax_model.msgpack",
            "merges.txt",
            "model.fp32-00001-of-00002.safetensors",
            "model.safetensors",
            "model.safetensors.index.fp32.json",
            "preprocessor_config.json",
            "pytorch_model.bin",
            "tf_model.h5",
            "tokenizer.json",
            "vocab.json",
        ];
        assert_eq!(
            pick(&whisper),
            [
                "config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "vocab.json",
                "merges.txt",
                "added_tokens.json",
                "model.safetensors"
            ]
        );
        assert_eq!(
            pick(&["config.json", "model.bin", "vocabulary.txt", "x.md"]),
            ["config.json", "vocabulary.txt", "model.bin"]
        );
        assert!(pick(&["config.json", "pytorch_model.bin"]).is_empty());
    }

    #[test]
    fn shards_come_with_their_index() {
        let files = pick(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model-x-of-y.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
        ]);
        assert_eq!(
            files,
            [
                "config.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors"
            ]
        );
    }

    #[test]
    fn a_codec_in_a_folder_comes_along() {
        let files = pick(&[
            "config.json",
            "model.safetensors",
            "speech_tokenizer/config.json",
            "speech_tokenizer/model.safetensors",
            "other/x.json",
        ]);
        assert_eq!(
            files,
            [
                "config.json",
                "speech_tokenizer/config.json",
                "speech_tokenizer/model.safetensors",
                "model.safetensors"
            ]
        );
    }
}
