//! Who speaks.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use crate::weights::{Bytes, DType, Tensor, invalid, safetensors};
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

    /// Writes a small safetensors file: `ref_spk_embedding`, `ref_code`, and the text among its metadata. What was there is
    /// replaced; pipes and devices are written to.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes()).map_err(|source| failed_to_write(path, source))
    }

    /// As [`save`](Self::save), where nothing is yet. Of several at the same time one is first.
    ///
    /// # Errors
    /// There is something, which is an [`Error::Io`] of the kind `AlreadyExists`, or the file system refuses.
    pub fn save_new(&self, path: &Path) -> Result<()> {
        write_new(path, &self.to_bytes()).map_err(|source| failed_to_write(path, source))
    }

    fn to_bytes(&self) -> Vec<u8> {
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
        bytes
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Voice`] if it is broken or something else.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::map(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &bytes).map_err(|error| match error {
            // The same words, but other advice.
            Error::Model { path, message } => Error::Voice { path, message },
            other => other,
        })
    }

    fn parse(path: &Path, bytes: &Bytes) -> Result<Self> {
        let metadata = metadata(bytes);
        let text = |key: &str| {
            let value = metadata.as_ref().and_then(|metadata| metadata.get(key));
            value.and_then(Value::as_str).unwrap_or_default()
        };
        if text("format") != FORMAT {
            return Err(invalid(
                path,
                "this is no voice file of turaco (`turaco voices create` makes them)",
            ));
        }
        let tensors = safetensors::parse(path, bytes)?;
        let wrong = |name: &str, found: &Tensor, expected: &str| {
            let message = format!(
                "tensor `{name}` of this voice is {} {:?} instead of {expected}",
                found.dtype, found.shape
            );
            Err(invalid(path, message))
        };
        let vector = tensors.require("ref_spk_embedding")?;
        if vector.dtype != DType::F32 || vector.shape.len() != 1 || vector.is_empty() {
            return wrong("ref_spk_embedding", vector, "F32 [width]");
        }
        if !vector.is_finite() {
            let message =
                "tensor `ref_spk_embedding` of this voice holds values that are no numbers";
            return Err(invalid(path, message));
        }
        let codes = tensors.require("ref_code")?;
        let (DType::I32, [_, n_codes]) = (codes.dtype, &codes.shape[..]) else {
            return wrong("ref_code", codes, "I32 [frames, codes]");
        };
        let number = |bytes: &[u8; 4]| i32::from_le_bytes(*bytes);
        let (codes, _) = codes.bytes.as_chunks::<4>();
        let codes = codes.iter().map(|bytes| u32::try_from(number(bytes)));
        let codes: Vec<u32> = codes.collect::<std::result::Result<_, _>>().map_err(|_| {
            invalid(
                path,
                "tensor `ref_code` of this voice holds a negative code",
            )
        })?;
        let said = text("ref_text");
        if !codes.is_empty() && said.trim().is_empty() {
            let message = "this voice holds a recording, but not what is said in it (`ref_text`)";
            return Err(invalid(path, message));
        }
        Ok(Self {
            vector: vector.to_f32(),
            codes,
            n_codes: *n_codes,
            text: said.to_owned(),
        })
    }
}

fn failed_to_write(path: &Path, source: io::Error) -> Error {
    Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    }
}

/// What was there stays whole if the disk is full.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Pipes and devices are no files that could be replaced.
    if fs::metadata(path).is_ok_and(|known| !known.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    // What a link leads to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let partial = Partial::write(&target, bytes)?;
    fs::rename(&partial.0, &target)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = Partial::write(path, bytes)?;
    match fs::hard_link(&partial.0, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // Not every file system has links: an empty file keeps the name until the whole one takes its place.
            OpenOptions::new().write(true).create_new(true).open(path)?;
            fs::rename(&partial.0, path)
        }
        linked => linked,
    }
}

/// A file under a name that nothing else has; removed when dropped.
struct Partial(PathBuf);

impl Partial {
    /// Write it beside `target`.
    fn write(target: &Path, bytes: &[u8]) -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (partial, mut file) = loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".turaco-voice-{}-{count}.tmp", std::process::id());
            let path = target.with_file_name(name);
            let opened = OpenOptions::new().write(true).create_new(true).open(&path);
            match opened {
                // A process of the same number left it behind.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => break (Self(path), opened?),
            }
        };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(partial)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
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

    fn voice(value: f32) -> ClonedVoice {
        ClonedVoice {
            vector: vec![value; 2000],
            codes: vec![1, 2],
            n_codes: 2,
            text: "a".into(),
        }
    }

    #[test]
    fn voices_that_are_saved_at_the_same_time_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = |n: u16| folder.path().join(format!("{n}.safetensors"));
        std::thread::scope(|scope| {
            for n in 0..8 {
                scope.spawn(move || {
                    (0..20).for_each(|_| voice(f32::from(n)).save(&path(n)).unwrap())
                });
            }
        });
        for n in 0..8 {
            assert_eq!(ClonedVoice::open(&path(n)).unwrap(), voice(f32::from(n)));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 8);
    }

    #[test]
    fn one_of_several_new_voices_of_a_name_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anna.safetensors");
        let saved: Vec<bool> = std::thread::scope(|scope| {
            let save = |n: u16| {
                scope.spawn({
                    let path = &path;
                    move || voice(f32::from(n)).save_new(path).is_ok()
                })
            };
            let threads: Vec<_> = (0..8).map(save).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(saved.iter().filter(|saved| **saved).count(), 1);
        let first = saved.iter().position(|saved| *saved).unwrap();
        assert_eq!(ClonedVoice::open(&path).unwrap(), voice(first as f32));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_stay_what_they_are() {
        use std::os::unix::fs::FileTypeExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [far, link, pipe] = ["far/anna", "link", "pipe"].map(|name| folder.path().join(name));
        fs::create_dir(folder.path().join("far")).unwrap();
        voice(1.0).save(&far).unwrap();
        std::os::unix::fs::symlink(&far, &link).unwrap();
        voice(2.0).save(&link).unwrap();
        assert!(link.is_symlink());
        assert_eq!(ClonedVoice::open(&far).unwrap(), voice(2.0));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        voice(3.0).save(&pipe).unwrap();
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(reader.join().unwrap(), voice(3.0).to_bytes());
    }

    /// A voice file with these tensors (name, type, shape, data) and this text.
    fn file(tensors: &[(&str, &str, Vec<usize>, Vec<u8>)], text: &str) -> Vec<u8> {
        let mut header = json!({"__metadata__": {"format": FORMAT, "ref_text": text}});
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in tensors {
            let begin = data.len();
            data.extend(bytes);
            header[*name] =
                json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]});
        }
        let header = header.to_string().into_bytes();
        let len = (header.len() as u64).to_le_bytes();
        [&len[..], &header, &data].concat()
    }

    #[test]
    fn what_is_no_voice_is_told_by_tensor_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("berta.safetensors");
        let vector = |dtype, shape: &[usize], value: f32| {
            let data = value.to_le_bytes().repeat(shape.iter().product());
            ("ref_spk_embedding", dtype, shape.to_vec(), data)
        };
        let codes = |dtype, shape: &[usize], value: i32| {
            let data = value.to_le_bytes().repeat(shape.iter().product());
            ("ref_code", dtype, shape.to_vec(), data)
        };
        let good = vector("F32", &[4], 1.0);
        for (tensors, text, message) in [
            (
                vec![good.clone(), codes("F32", &[2, 3], 0)],
                "a",
                "ref_code",
            ),
            (vec![good.clone(), codes("I32", &[6], 0)], "a", "[6]"),
            (
                vec![good.clone(), codes("I32", &[2, 3], -1)],
                "a",
                "negative",
            ),
            (
                vec![good.clone(), codes("I32", &[2, 3], 1)],
                " ",
                "ref_text",
            ),
            (vec![good.clone()], "a", "ref_code"),
            (vec![codes("I32", &[2, 3], 1)], "a", "ref_spk_embedding"),
            (
                vec![vector("F32", &[2, 2], 1.0), codes("I32", &[2, 3], 1)],
                "a",
                "[2, 2]",
            ),
            (
                vec![vector("I32", &[4], 1.0), codes("I32", &[2, 3], 1)],
                "a",
                "i32 [4]",
            ),
            (
                vec![vector("F32", &[0], 1.0), codes("I32", &[2, 3], 1)],
                "a",
                "[0]",
            ),
            (
                vec![vector("F32", &[4], f32::NAN), codes("I32", &[2, 3], 1)],
                "a",
                "no numbers",
            ),
        ] {
            std::fs::write(&path, file(&tensors, text)).unwrap();
            let error = ClonedVoice::open(&path).unwrap_err();
            assert!(matches!(error, Error::Voice { .. }), "{error:?}");
            let told = error.to_string();
            assert!(told.contains(message) && told.contains("berta"), "{told}");
        }
        std::fs::write(&path, file(&[good, codes("I32", &[2, 3], 7)], "a")).unwrap();
        assert_eq!(ClonedVoice::open(&path).unwrap().codes, [7; 6]);
    }
}
