//! The networks: config, weights and forward passes.

pub mod qwen3_tts;
mod random;
mod settings;
pub mod silero_vad;
mod voxtral;
pub mod voxtral_mini;
pub mod voxtral_realtime;
pub mod whisper;

use std::path::Path;

/// A name for people: `org/name` for a path in the hub's cache, else the name of the folder or file without what every
/// such name has (`ggml-`, the ending).
pub(crate) fn display_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let hub_id = absolute.components().find_map(|component| {
        let name = component.as_os_str().to_str()?;
        Some(name.strip_prefix("models--")?.replacen("--", "/", 1))
    });
    if let Some(id) = hub_id {
        return id;
    }
    let file_name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let name = file_name(&absolute);
    let is_usual = [
        "model.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "model.bin",
        "pytorch_model.bin",
    ]
    .contains(&name.as_str());
    if is_usual {
        return absolute.parent().map(file_name).unwrap_or_default();
    }
    let stem = [".safetensors", ".bin", ".pt", ".apr"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    stem.strip_prefix("ggml-").unwrap_or(stem).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_people() {
        for (path, name) in [
            (
                "/cache/models--openai--whisper-tiny/snapshots/abc",
                "openai/whisper-tiny",
            ),
            ("/models/ggml-base.en.bin", "base.en"),
            ("/models/small.pt", "small"),
            ("/models/faster-tiny/model.bin", "faster-tiny"),
            ("/models/tiny.en", "tiny.en"),
        ] {
            assert_eq!(display_name(Path::new(path)), name);
        }
    }
}
