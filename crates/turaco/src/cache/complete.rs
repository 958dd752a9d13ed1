//! Whether a folder or file on disk holds a whole model, and which format it seems to have.
//!
//! This looks at names, links and sizes only (plus a shard index, a magic number and the end of a ZIP file): enough to
//! tell a finished download from a broken one without reading weights. The loaders check the contents.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::names::is_safe_relative;

/// Kinds of model files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// `config.json` with `model.safetensors` or shards, as transformers writes it.
    Safetensors,
    /// `params.json` with `consolidated.safetensors`, as Mistral publishes it.
    Mistral,
    /// `config.json` with `model.bin`, as CTranslate2 writes it.
    CTranslate2,
    /// One ggml file of whisper.cpp.
    Ggml,
    /// One GGUF file.
    Gguf,
    /// One `.pt` checkpoint of openai-whisper.
    Pt,
    /// One `.apr` file.
    Apr,
}

impl Format {
    /// A short name for listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Mistral => "mistral",
            Self::CTranslate2 => "ctranslate2",
            Self::Ggml => "ggml",
            Self::Gguf => "gguf",
            Self::Pt => "pt",
            Self::Apr => "apr",
        }
    }
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completeness {
    /// The format, as far as the files present show it.
    pub format: Option<Format>,
    /// What a loader would miss; empty means complete.
    pub missing: Vec<String>,
}

impl Completeness {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Look at a model folder. If it holds more than one format, the first complete one counts.
pub fn check_folder(folder: &Path) -> Completeness {
    let checks = [
        check_safetensors(folder),
        check_mistral(folder),
        check_ctranslate2(folder),
    ];
    let mut seen: Vec<Completeness> = checks.into_iter().flatten().collect();
    if let Some(complete) = seen.iter().position(Completeness::is_complete) {
        return seen.swap_remove(complete);
    }
    // The one that lacks least tells the user most.
    seen.into_iter()
        .min_by_key(|check| check.missing.len())
        .unwrap_or_else(|| Completeness {
            format: None,
            missing: vec![
                "weights (model.safetensors, consolidated.safetensors or model.bin)".to_owned(),
            ],
        })
}

/// Whether `path` is a file with content. A link whose target is gone or is a partial download does not count.
pub fn is_present(path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else {
        return false;
    };
    let partial = std::fs::read_link(path)
        .ok()
        .and_then(|target| target.extension().map(|e| e == "incomplete"))
        .unwrap_or(false);
    metadata.is_file() && metadata.len() > 0 && !partial
}

/// The format of a single file, from its first bytes; `None` if it is none that holds a whole model.
pub fn sniff_file(path: &Path) -> Option<Format> {
    let mut magic = [0u8; 4];
    File::open(path).ok()?.read_exact(&mut magic).ok()?;
    match &magic {
        b"lmgg" => Some(Format::Ggml),
        b"GGUF" => Some(Format::Gguf),
        b"PK\x03\x04" => Some(Format::Pt),
        [b'A', b'P', b'R', _] => Some(Format::Apr),
        _ => None,
    }
}

/// Whether a `.pt` file ends the way a ZIP archive does. openai-whisper downloads in place, so a file may be half there.
pub fn is_whole_zip(path: &Path) -> bool {
    const END_SIGNATURE: &[u8] = b"PK\x05\x06";
    // The end record is 22 bytes plus a comment of at most 65535.
    const TAIL: u64 = 22 + 65_535;
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    tail().is_ok_and(|tail| {
        tail.windows(END_SIGNATURE.len())
            .any(|window| window == END_SIGNATURE)
    })
}

fn check_safetensors(folder: &Path) -> Option<Completeness> {
    let single = is_present(&folder.join("model.safetensors"));
    let index = folder.join("model.safetensors.index.json");
    if !single && !exists(&index) && !exists(&folder.join("model.safetensors")) {
        return None;
    }
    let mut missing = Vec::new();
    if !single {
        missing.extend(missing_shards(folder, "model.safetensors"));
    }
    require(folder, "config.json", &mut missing);
    require_tokenizer(folder, &mut missing);
    // Qwen3-TTS keeps its codec in a folder of its own.
    if model_type(folder).as_deref() == Some("qwen3_tts") {
        require(folder, "speech_tokenizer/config.json", &mut missing);
        require(folder, "speech_tokenizer/model.safetensors", &mut missing);
    }
    Some(Completeness {
        format: Some(Format::Safetensors),
        missing,
    })
}

fn check_mistral(folder: &Path) -> Option<Completeness> {
    let single = is_present(&folder.join("consolidated.safetensors"));
    let index = folder.join("consolidated.safetensors.index.json");
    if !single && !exists(&index) && !exists(&folder.join("consolidated.safetensors")) {
        return None;
    }
    let mut missing = Vec::new();
    if !single {
        missing.extend(missing_shards(folder, "consolidated.safetensors"));
    }
    require(folder, "params.json", &mut missing);
    require(folder, "tekken.json", &mut missing);
    Some(Completeness {
        format: Some(Format::Mistral),
        missing,
    })
}

fn check_ctranslate2(folder: &Path) -> Option<Completeness> {
    if !exists(&folder.join("model.bin")) {
        return None;
    }
    let mut missing = Vec::new();
    require(folder, "model.bin", &mut missing);
    require(folder, "config.json", &mut missing);
    let vocabulary = ["tokenizer.json", "vocabulary.json", "vocabulary.txt"];
    if !vocabulary.iter().any(|name| is_present(&folder.join(name))) {
        missing.push("tokenizer.json (or vocabulary.json, vocabulary.txt)".to_owned());
    }
    Some(Completeness {
        format: Some(Format::CTranslate2),
        missing,
    })
}

/// There is an entry of this name, even if it is a dangling link.
fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn require(folder: &Path, name: &str, missing: &mut Vec<String>) {
    if !is_present(&folder.join(name)) {
        missing.push(name.to_owned());
    }
}

fn require_tokenizer(folder: &Path, missing: &mut Vec<String>) {
    let has = |name: &str| is_present(&folder.join(name));
    if !(has("tokenizer.json") || has("tekken.json") || (has("vocab.json") && has("merges.txt"))) {
        missing.push("tokenizer.json (or vocab.json with merges.txt)".to_owned());
    }
}

/// The shards named by `<stem>.index.json` that are not there.
fn missing_shards(folder: &Path, stem: &str) -> Vec<String> {
    let name = format!("{stem}.index.json");
    let index = folder.join(&name);
    if !is_present(&index) {
        return vec![stem.to_owned()];
    }
    let shards = read_json(&index).and_then(|json| {
        let map = json.get("weight_map")?.as_object()?;
        let mut shards: Vec<String> = map
            .values()
            .map(|v| v.as_str().map(str::to_owned))
            .collect::<Option<_>>()?;
        shards.sort();
        shards.dedup();
        (!shards.is_empty() && shards.iter().all(|shard| is_safe_relative(shard))).then_some(shards)
    });
    match shards {
        Some(shards) => shards
            .into_iter()
            .filter(|shard| !is_present(&folder.join(shard)))
            .collect(),
        None => vec![format!("a readable {name}")],
    }
}

/// `model_type` of a folder's `config.json`.
pub fn model_type(folder: &Path) -> Option<String> {
    let json = read_json(&folder.join("config.json"))?;
    Some(json.get("model_type")?.as_str()?.to_owned())
}

fn read_json(path: &Path) -> Option<serde_json::Value> {
    const LIMIT: u64 = 16 << 20;
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(LIMIT)
        .read_to_string(&mut text)
        .ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn each_folder_format_is_told_apart() {
        let hf = folder(&[
            ("config.json", "{}"),
            ("model.safetensors", "x"),
            ("tokenizer.json", "{}"),
        ]);
        let check = check_folder(hf.path());
        assert_eq!(check.format, Some(Format::Safetensors));
        assert!(check.is_complete());
        let ct2 = folder(&[
            ("config.json", "{}"),
            ("model.bin", "x"),
            ("vocabulary.txt", "a"),
        ]);
        let check = check_folder(ct2.path());
        assert_eq!(check.format, Some(Format::CTranslate2));
        assert!(check.is_complete());
        let mistral = folder(&[
            ("params.json", "{}"),
            ("consolidated.safetensors", "x"),
            ("tekken.json", "{}"),
        ]);
        assert_eq!(check_folder(mistral.path()).format, Some(Format::Mistral));
        assert!(check_folder(mistral.path()).is_complete());
        let none = folder(&[("README.md", "hello")]);
        assert_eq!(check_folder(none.path()).format, None);
        assert!(!check_folder(none.path()).is_complete());
    }

    #[test]
    fn a_sharded_model_needs_every_shard() {
        let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
        let sharded = folder(&[
            ("config.json", "{}"),
            ("vocab.json", "{}"),
            ("merges.txt", "a b"),
            ("model.safetensors.index.json", index),
            ("model-00001-of-00002.safetensors", "x"),
        ]);
        assert_eq!(
            check_folder(sharded.path()).missing,
            ["model-00002-of-00002.safetensors"]
        );
        std::fs::write(sharded.path().join("model-00002-of-00002.safetensors"), "x").unwrap();
        assert!(check_folder(sharded.path()).is_complete());
        for broken in [
            "{",
            "{}",
            r#"{"weight_map":{}}"#,
            r#"{"weight_map":{"a":"../x"}}"#,
            r#"{"weight_map":{"a":1}}"#,
        ] {
            std::fs::write(sharded.path().join("model.safetensors.index.json"), broken).unwrap();
            assert!(!check_folder(sharded.path()).is_complete(), "{broken}");
        }
    }

    #[test]
    fn empty_files_and_missing_parts_are_named() {
        let hf = folder(&[("config.json", ""), ("model.safetensors", "x")]);
        let check = check_folder(hf.path());
        assert_eq!(
            check.missing,
            [
                "config.json",
                "tokenizer.json (or vocab.json with merges.txt)"
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn dangling_links_and_links_to_partial_downloads_do_not_count() {
        use std::os::unix::fs::symlink;
        let hf = folder(&[
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("abc.incomplete", "half"),
        ]);
        symlink("gone", hf.path().join("model.safetensors")).unwrap();
        assert_eq!(check_folder(hf.path()).missing, ["model.safetensors"]);
        std::fs::remove_file(hf.path().join("model.safetensors")).unwrap();
        symlink("abc.incomplete", hf.path().join("model.safetensors")).unwrap();
        assert_eq!(check_folder(hf.path()).missing, ["model.safetensors"]);
    }

    #[test]
    fn half_a_zip_is_not_a_whole_one() {
        let files = folder(&[
            ("half.pt", "PK\x03\x04 and so on"),
            ("whole.pt", "PK\x03\x04 data PK\x05\x06 and 18 bytes"),
        ]);
        assert!(!is_whole_zip(&files.path().join("half.pt")));
        assert!(is_whole_zip(&files.path().join("whole.pt")));
        assert_eq!(sniff_file(&files.path().join("whole.pt")), Some(Format::Pt));
        assert_eq!(sniff_file(&files.path().join("none.pt")), None);
    }
}
