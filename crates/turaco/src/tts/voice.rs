//! Who speaks.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::weights::{Bytes, DType, invalid, safetensors};
use crate::{Error, Result};

/// Who speaks.
#[derive(Debug, Clone, Default)]
pub enum Voice {
    /// The model's first voice by name, or whoever it makes up.
    #[default]
    Default,
    /// A voice that the model knows by name.
    Named(String),
    /// The voice of a recording.
    Cloned(Arc<ClonedVoice>),
}

impl From<&str> for Voice {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

impl From<Arc<ClonedVoice>> for Voice {
    fn from(voice: Arc<ClonedVoice>) -> Self {
        Self::Cloned(voice)
    }
}

/// What a Base model has to know of a recording to speak in its voice.
#[derive(Debug, Clone, PartialEq)]
pub struct ClonedVoice {
    /// The speaker encoder's vector, as wide as the talker: models of another size cannot use it.
    pub vector: Vec<f32>,
    /// The recording as codes, `[frames, n_codes]`; empty where only the vector is used.
    pub codes: Vec<u32>,
    /// Codes of a frame.
    pub n_codes: usize,
    /// What is said in the recording.
    pub text: String,
}

/// Marks files of this kind.
const FORMAT: &str = "turaco-voice";

impl ClonedVoice {
    /// Whether the recording itself goes into the prompt.
    pub fn is_in_context(&self) -> bool {
        !self.codes.is_empty()
    }

    /// Writes a small safetensors file: `ref_spk_embedding`, `ref_code`, and the text among its metadata.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        let failed = |source| Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        };
        let vector_bytes = 4 * self.vector.len();
        let n_frames = self.codes.len() / self.n_codes.max(1);
        let header = json!({
            "__metadata__": {
                "format": FORMAT,
                "version": "1",
                "ref_text": self.text,
                "icl_mode": self.is_in_context().to_string(),
            },
            "ref_spk_embedding": {
                "dtype": "F32",
                "shape": [self.vector.len()],
                "data_offsets": [0, vector_bytes],
            },
            "ref_code": {
                "dtype": "I32",
                "shape": [n_frames, self.n_codes],
                "data_offsets": [vector_bytes, vector_bytes + 4 * self.codes.len()],
            },
        });
        let mut header = header.to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(self.vector.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.codes.iter().flat_map(|code| code.to_le_bytes()));
        // A voice that exists stays whole if the disk is full.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let partial = path.with_file_name(name);
        let write = || {
            let mut file = std::fs::File::create(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&partial, path)
        };
        write().map_err(|source| {
            let _ = std::fs::remove_file(&partial);
            failed(source)
        })
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// It is not there, broken, or something else.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::map(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let not_one = || {
            invalid(
                path,
                "this is no voice file of turaco (`turaco voices create` makes them)",
            )
        };
        let metadata = metadata(&bytes).ok_or_else(not_one)?;
        let text = |key: &str| {
            metadata
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        if text("format") != FORMAT {
            return Err(not_one());
        }
        let tensors = safetensors::parse(path, &bytes)?;
        let vector = tensors.require("ref_spk_embedding")?;
        let codes = tensors.require("ref_code")?;
        let (DType::F32, [_], [_, n_codes]) = (vector.dtype, &vector.shape[..], &codes.shape[..])
        else {
            return Err(invalid(
                path,
                "the tensors of this voice have other shapes than a voice's",
            ));
        };
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if codes.bytes.len() != 4 * codes.len() || !vector.is_finite() {
            return Err(invalid(path, "the values of this voice are no numbers"));
        }
        Ok(Self {
            vector: vector.to_f32(),
            codes: codes.bytes.chunks_exact(4).map(number).collect(),
            n_codes: *n_codes,
            text: text("ref_text").to_owned(),
        })
    }
}

fn metadata(bytes: &[u8]) -> Option<Map<String, Value>> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    header.get("__metadata__")?.as_object().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voice_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anna.safetensors");
        let voice = ClonedVoice {
            vector: vec![0.5, -1.25, 3.0],
            codes: vec![1, 2, 3, 4, 5, 2047],
            n_codes: 2,
            text: "it was a calm \"morning\" — 今天".into(),
        };
        voice.save(&path).unwrap();
        assert_eq!(ClonedVoice::open(&path).unwrap(), voice);
        let only_vector = ClonedVoice {
            codes: Vec::new(),
            ..voice
        };
        only_vector.save(&path).unwrap();
        assert_eq!(ClonedVoice::open(&path).unwrap(), only_vector);
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 7, 60, whole.len() - 3] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = ClonedVoice::open(&path).unwrap_err().to_string();
            assert!(error.contains("anna.safetensors"), "{error}");
        }
    }
}
