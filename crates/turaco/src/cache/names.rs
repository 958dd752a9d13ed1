//! What a user may call a model: short aliases and Hugging Face ids.

use crate::{Error, Result};

/// A model that has a short name, and where copies of it are found.
#[derive(Debug)]
pub struct Alias {
    /// The short names; the first one is canonical.
    pub names: &'static [&'static str],
    /// Hub copies, best first, each `org/name` or `org/name:file`. The first one is what gets downloaded; the others
    /// are used when the user already has them.
    pub sources: &'static [&'static str],
    /// File name of the copy that the `whisper` command of openai-whisper keeps, if it has one.
    pub openai_file: Option<&'static str>,
}

impl Alias {
    /// Whether it is a Whisper model, of whatever size and training.
    pub fn is_whisper(&self) -> bool {
        self.sources
            .iter()
            .all(|source| source.to_ascii_lowercase().contains("whisper"))
    }

    /// Whether it is a model that speaks.
    pub fn speaks(&self) -> bool {
        self.sources.iter().all(|source| source.contains("-TTS-"))
    }
}

/// Every alias. Within one model the order is: the publisher's full-precision weights, then conversions that users of
/// faster-whisper and whisper.cpp have on disk already. Quantised conversions are never chosen for an alias.
pub static ALIASES: &[Alias] = &[
    Alias {
        names: &["tiny"],
        sources: &[
            "openai/whisper-tiny",
            "Systran/faster-whisper-tiny",
            "guillaumekln/faster-whisper-tiny",
            "ggerganov/whisper.cpp:ggml-tiny.bin",
        ],
        openai_file: Some("tiny.pt"),
    },
    Alias {
        names: &["tiny.en"],
        sources: &[
            "openai/whisper-tiny.en",
            "Systran/faster-whisper-tiny.en",
            "guillaumekln/faster-whisper-tiny.en",
            "ggerganov/whisper.cpp:ggml-tiny.en.bin",
        ],
        openai_file: Some("tiny.en.pt"),
    },
    Alias {
        names: &["base"],
        sources: &[
            "openai/whisper-base",
            "Systran/faster-whisper-base",
            "guillaumekln/faster-whisper-base",
            "ggerganov/whisper.cpp:ggml-base.bin",
        ],
        openai_file: Some("base.pt"),
    },
    Alias {
        names: &["base.en"],
        sources: &[
            "openai/whisper-base.en",
            "Systran/faster-whisper-base.en",
            "guillaumekln/faster-whisper-base.en",
            "ggerganov/whisper.cpp:ggml-base.en.bin",
        ],
        openai_file: Some("base.en.pt"),
    },
    Alias {
        names: &["small"],
        sources: &[
            "openai/whisper-small",
            "Systran/faster-whisper-small",
            "guillaumekln/faster-whisper-small",
            "ggerganov/whisper.cpp:ggml-small.bin",
        ],
        openai_file: Some("small.pt"),
    },
    Alias {
        names: &["small.en"],
        sources: &[
            "openai/whisper-small.en",
            "Systran/faster-whisper-small.en",
            "guillaumekln/faster-whisper-small.en",
            "ggerganov/whisper.cpp:ggml-small.en.bin",
        ],
        openai_file: Some("small.en.pt"),
    },
    Alias {
        names: &["medium"],
        sources: &[
            "openai/whisper-medium",
            "Systran/faster-whisper-medium",
            "guillaumekln/faster-whisper-medium",
            "ggerganov/whisper.cpp:ggml-medium.bin",
        ],
        openai_file: Some("medium.pt"),
    },
    Alias {
        names: &["medium.en"],
        sources: &[
            "openai/whisper-medium.en",
            "Systran/faster-whisper-medium.en",
            "guillaumekln/faster-whisper-medium.en",
            "ggerganov/whisper.cpp:ggml-medium.en.bin",
        ],
        openai_file: Some("medium.en.pt"),
    },
    Alias {
        names: &["large-v1"],
        sources: &[
            "openai/whisper-large",
            "Systran/faster-whisper-large-v1",
            "guillaumekln/faster-whisper-large-v1",
            "ggerganov/whisper.cpp:ggml-large-v1.bin",
        ],
        openai_file: Some("large-v1.pt"),
    },
    Alias {
        names: &["large-v2"],
        sources: &[
            "openai/whisper-large-v2",
            "Systran/faster-whisper-large-v2",
            "guillaumekln/faster-whisper-large-v2",
            "ggerganov/whisper.cpp:ggml-large-v2.bin",
        ],
        openai_file: Some("large-v2.pt"),
    },
    Alias {
        names: &["large-v3", "large"],
        sources: &[
            "openai/whisper-large-v3",
            "Systran/faster-whisper-large-v3",
            "ggerganov/whisper.cpp:ggml-large-v3.bin",
        ],
        openai_file: Some("large-v3.pt"),
    },
    Alias {
        names: &["large-v3-turbo", "turbo"],
        sources: &[
            "openai/whisper-large-v3-turbo",
            "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
            "deepdml/faster-whisper-large-v3-turbo-ct2",
            "dropbox-dash/faster-whisper-large-v3-turbo",
            "ggerganov/whisper.cpp:ggml-large-v3-turbo.bin",
        ],
        openai_file: Some("large-v3-turbo.pt"),
    },
    Alias {
        names: &["distil-small.en"],
        sources: &[
            "distil-whisper/distil-small.en",
            "Systran/faster-distil-whisper-small.en",
            "distil-whisper/distil-small.en:ggml-distil-small.en.bin",
        ],
        openai_file: None,
    },
    Alias {
        names: &["distil-medium.en"],
        sources: &[
            "distil-whisper/distil-medium.en",
            "Systran/faster-distil-whisper-medium.en",
            "distil-whisper/distil-medium.en:ggml-medium-32-2.en.bin",
        ],
        openai_file: None,
    },
    Alias {
        names: &["distil-large-v2"],
        sources: &[
            "distil-whisper/distil-large-v2",
            "Systran/faster-distil-whisper-large-v2",
            "distil-whisper/distil-large-v2:ggml-large-32-2.en.bin",
        ],
        openai_file: None,
    },
    Alias {
        names: &["distil-large-v3"],
        sources: &[
            "distil-whisper/distil-large-v3",
            "Systran/faster-distil-whisper-large-v3",
            "distil-whisper/distil-large-v3-ggml:ggml-distil-large-v3.bin",
        ],
        openai_file: None,
    },
    Alias {
        names: &["distil-large-v3.5"],
        sources: &[
            "distil-whisper/distil-large-v3.5",
            "distil-whisper/distil-large-v3.5-ct2",
            "distil-whisper/distil-large-v3.5-ggml:ggml-model.bin",
        ],
        openai_file: None,
    },
    Alias {
        names: &["voxtral-realtime"],
        sources: &["mistralai/Voxtral-Mini-4B-Realtime-2602"],
        openai_file: None,
    },
    Alias {
        names: &["voxtral-mini"],
        sources: &["mistralai/Voxtral-Mini-3B-2507"],
        openai_file: None,
    },
    Alias {
        names: &["voxtral-small"],
        sources: &["mistralai/Voxtral-Small-24B-2507"],
        openai_file: None,
    },
    // Without a suffix: the variant with named voices, which speaks without any further input.
    Alias {
        names: &["qwen3-tts-0.6b-customvoice", "qwen3-tts-0.6b"],
        sources: &["Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice"],
        openai_file: None,
    },
    Alias {
        names: &["qwen3-tts-0.6b-base"],
        sources: &["Qwen/Qwen3-TTS-12Hz-0.6B-Base"],
        openai_file: None,
    },
    Alias {
        names: &["qwen3-tts-1.7b-customvoice", "qwen3-tts-1.7b"],
        sources: &["Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice"],
        openai_file: None,
    },
    Alias {
        names: &["qwen3-tts-1.7b-base"],
        sources: &["Qwen/Qwen3-TTS-12Hz-1.7B-Base"],
        openai_file: None,
    },
    Alias {
        names: &["qwen3-tts-1.7b-voicedesign"],
        sources: &["Qwen/Qwen3-TTS-12Hz-1.7B-VoiceDesign"],
        openai_file: None,
    },
];

/// A repository on the hub, or one file of it: `org/name[@revision][:file]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit, if one was named.
    pub revision: Option<String>,
    /// Path of one file in the repository, if one was named.
    pub file: Option<String>,
}

impl ModelId {
    /// Read `org/name[@revision][:file]`; `None` if the text does not have that form or holds characters that the hub
    /// does not allow.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, file) = match text.split_once(':') {
            Some((head, file)) => (head, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = match head.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (head, None),
        };
        let (organisation, name) = repo.split_once('/')?;
        let valid = is_repo_part(organisation)
            && is_repo_part(name)
            && revision.is_none_or(is_safe_relative)
            && file.is_none_or(is_safe_relative);
        valid.then(|| Self {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// The revision to look for: the one named, else `main`.
    pub fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl std::fmt::Display for ModelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

/// A model name that is not a path.
#[derive(Debug)]
pub enum ModelName {
    /// A short name.
    Alias(&'static Alias),
    /// A Hugging Face id.
    Id(ModelId),
}

impl ModelName {
    /// Understand a name; [`Error::ModelNotFound`] with the nearest aliases if it is neither an alias nor an id.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some(alias) = find_alias(name) {
            return Ok(Self::Alias(alias));
        }
        if let Some(id) = ModelId::parse(name) {
            return Ok(Self::Id(id));
        }
        let message = if name.is_empty() {
            "the name is empty".to_owned()
        } else if looks_like_path(name) {
            "no such file or folder".to_owned()
        } else {
            let near = suggestions(name);
            let known = "it is neither a file, a folder, a known name nor a Hugging Face id";
            if near.is_empty() {
                known.to_owned()
            } else {
                let near: Vec<String> = near.iter().map(|alias| format!("`{alias}`")).collect();
                format!("{known}; did you mean {}?", near.join(" or "))
            }
        };
        Err(Error::ModelNotFound {
            model: name.to_owned(),
            message,
        })
    }

    /// The hub copies to look for, best first.
    pub fn candidates(&self) -> Vec<ModelId> {
        match self {
            Self::Alias(alias) => alias
                .sources
                .iter()
                .filter_map(|id| ModelId::parse(id))
                .collect(),
            Self::Id(id) => vec![id.clone()],
        }
    }
}

/// The alias with this name, in any letter case.
pub fn find_alias(name: &str) -> Option<&'static Alias> {
    ALIASES.iter().find(|alias| {
        alias
            .names
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// The canonical short name of a hub copy (`org/name` or `org/name:file`), if it is one of an alias.
pub fn alias_of(id: &str) -> Option<&'static str> {
    ALIASES
        .iter()
        .find(|alias| alias.sources.contains(&id))
        .map(|alias| alias.names[0])
}

/// Up to three aliases that differ from `name` by few letters, nearest first.
pub fn suggestions(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_lowercase();
    // Long inputs cannot be near any alias, and the distance is quadratic.
    if name.len() > 64 {
        return Vec::new();
    }
    let limit = (name.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &'static str)> = ALIASES
        .iter()
        .flat_map(|alias| alias.names)
        .map(|known| (edit_distance(&name, known), *known))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, known)| known).collect()
}

/// Whether a `/`-separated path stays below the folder it is joined to on every operating system.
pub fn is_safe_relative(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && path.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.chars().all(|c| {
                    !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
                })
        })
}

fn is_repo_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 96
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        // `--` separates organisation and name in cache folder names.
        && !part.contains("--")
        && !part.contains("..")
}

fn looks_like_path(name: &str) -> bool {
    name.starts_with(['.', '/', '~', '\\'])
        || name.contains('\\')
        || [".bin", ".pt", ".safetensors", ".gguf", ".apr"]
            .iter()
            .any(|extension| name.ends_with(extension))
        || name.matches('/').count() > 1
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart() {
        let id = ModelId::parse("org/name@v1.0:sub/ggml-tiny.bin").unwrap();
        assert_eq!(id.repo, "org/name");
        assert_eq!(id.revision.as_deref(), Some("v1.0"));
        assert_eq!(id.file.as_deref(), Some("sub/ggml-tiny.bin"));
        assert_eq!(id.to_string(), "org/name@v1.0:sub/ggml-tiny.bin");
        assert_eq!(
            ModelId::parse("org/name").unwrap().revision_or_main(),
            "main"
        );
        assert_eq!(
            ModelId::parse("org/name@refs/pr/1")
                .unwrap()
                .revision_or_main(),
            "refs/pr/1"
        );
    }

    #[test]
    fn ids_cannot_leave_the_cache() {
        for text in [
            "",
            "/",
            "org/",
            "/name",
            "../name",
            "org/..",
            "org/a/b",
            "org--x/name",
            "org/na me",
            "org/name@",
            "org/name@../../x",
            "org/name:",
            "org/name:../x",
            "org/name:/etc/passwd",
            "org/name:a\\b",
            "org/name:a//b",
            "org/name@a:b:c",
            "org\0/name",
        ] {
            assert!(ModelId::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn every_alias_source_is_a_valid_id_and_names_are_unique() {
        let mut names: Vec<&str> = ALIASES
            .iter()
            .flat_map(|alias| alias.names)
            .copied()
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for alias in ALIASES {
            assert!(!alias.sources.is_empty());
            for source in alias.sources {
                assert!(ModelId::parse(source).is_some(), "{source}");
            }
        }
    }

    #[test]
    fn every_name_of_the_interface_is_known() {
        for name in [
            "tiny",
            "tiny.en",
            "base",
            "base.en",
            "small",
            "small.en",
            "medium",
            "medium.en",
            "large-v1",
            "large-v2",
            "large-v3",
            "large",
            "large-v3-turbo",
            "turbo",
            "distil-small.en",
            "distil-medium.en",
            "distil-large-v2",
            "distil-large-v3",
            "distil-large-v3.5",
            "voxtral-realtime",
            "voxtral-mini",
            "voxtral-small",
            "qwen3-tts-0.6b",
            "qwen3-tts-0.6b-base",
            "qwen3-tts-0.6b-customvoice",
            "qwen3-tts-1.7b",
            "qwen3-tts-1.7b-base",
            "qwen3-tts-1.7b-customvoice",
            "qwen3-tts-1.7b-voicedesign",
        ] {
            assert!(find_alias(name).is_some(), "{name}");
        }
        assert_eq!(find_alias("large").unwrap().names[0], "large-v3");
        assert_eq!(find_alias("Turbo").unwrap().names[0], "large-v3-turbo");
    }

    #[test]
    fn a_slip_of_the_finger_gets_a_suggestion() {
        assert_eq!(suggestions("tinny.en")[0], "tiny.en");
        assert_eq!(suggestions("larg-v3")[0], "large-v3");
        assert!(suggestions("completely-different-thing").is_empty());
        assert!(suggestions(&"x".repeat(100_000)).is_empty());
        let error = ModelName::parse("tinyen").unwrap_err();
        assert!(error.to_string().contains("`tiny.en`"), "{error}");
        let error = ModelName::parse("./nowhere/model.bin").unwrap_err();
        assert!(error.to_string().contains("no such file"), "{error}");
    }
}
