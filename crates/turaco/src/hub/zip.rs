//! Reading members of a ZIP file (a Python wheel), streaming.
//!
//! Follows PKWARE's APPNOTE sections 4.3.6 to 4.3.16: the end record points to the central directory, whose entries
//! point to the members. Methods 0 (stored) and 8 (deflate); no encryption, no ZIP64: the wheels read here need neither.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use crate::{Control, Error, Result};

const END_SIGNATURE: &[u8; 4] = b"PK\x05\x06";
const ENTRY_SIGNATURE: &[u8; 4] = b"PK\x01\x02";
const MEMBER_SIGNATURE: &[u8; 4] = b"PK\x03\x04";
const END_LENGTH: usize = 22;
const ENTRY_LENGTH: usize = 46;
const MEMBER_LENGTH: u64 = 30;
/// A directory of more bytes than this belongs to no wheel we know.
const LARGEST_DIRECTORY: u32 = 16 << 20;

/// An open archive.
pub struct Archive {
    file: File,
    path: PathBuf,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    method: u16,
    compressed: u64,
    size: u64,
    offset: u64,
}

impl Archive {
    /// Open an archive and read its directory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Model`] if it is no ZIP file or a broken one.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let broken = |what: &str| Error::Model {
            path: path.to_owned(),
            message: format!("no readable ZIP file: {what}"),
        };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let tail_length = length.min((END_LENGTH + usize::from(u16::MAX)) as u64);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(length - tail_length))
            .map_err(failed)?;
        (&file)
            .take(tail_length)
            .read_to_end(&mut tail)
            .map_err(failed)?;
        let end = tail
            .windows(END_LENGTH)
            .rposition(|window| window.starts_with(END_SIGNATURE))
            .ok_or_else(|| broken("it has no end record; the file may be cut off"))?;
        let end = &tail[end..];
        let count = u16_at(end, 10);
        let (size, offset) = (u32_at(end, 12), u32_at(end, 16));
        if size > LARGEST_DIRECTORY || u64::from(offset) + u64::from(size) > length {
            return Err(broken("its directory lies outside the file"));
        }
        let mut directory = Vec::new();
        file.seek(SeekFrom::Start(offset.into())).map_err(failed)?;
        (&file)
            .take(size.into())
            .read_to_end(&mut directory)
            .map_err(failed)?;
        let mut members = Vec::new();
        let mut rest = directory.as_slice();
        for _ in 0..count {
            if rest.len() < ENTRY_LENGTH || !rest.starts_with(ENTRY_SIGNATURE) {
                return Err(broken("its directory is cut off"));
            }
            let name_length = usize::from(u16_at(rest, 28));
            let skip = name_length + usize::from(u16_at(rest, 30)) + usize::from(u16_at(rest, 32));
            let name = rest
                .get(ENTRY_LENGTH..ENTRY_LENGTH + name_length)
                .ok_or_else(|| broken("its directory is cut off"))?;
            members.push(Member {
                name: String::from_utf8_lossy(name).into_owned(),
                method: u16_at(rest, 10),
                compressed: u32_at(rest, 20).into(),
                size: u32_at(rest, 24).into(),
                offset: u32_at(rest, 42).into(),
            });
            rest = rest
                .get(ENTRY_LENGTH + skip..)
                .ok_or_else(|| broken("its directory is cut off"))?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            members,
        })
    }

    /// Write the content of the member `name`, which must have `size` bytes, to `output`, telling `progress` how many
    /// bytes came each time.
    ///
    /// # Errors
    /// [`Error::Model`] if there is no such member or it is broken; what `output` returns; [`Error::Cancelled`].
    pub fn extract(
        &mut self,
        name: &str,
        size: u64,
        output: &mut dyn FnMut(&[u8]) -> Result<()>,
        control: &Control,
    ) -> Result<()> {
        let broken = |what: String| Error::Model {
            path: self.path.clone(),
            message: format!("member {name}: {what}"),
        };
        let failed = |source| Error::Io {
            action: "read",
            path: self.path.clone(),
            source,
        };
        let member = self
            .members
            .iter()
            .find(|member| member.name == name)
            .ok_or_else(|| broken("the archive does not have it".to_owned()))?;
        if member.size != size {
            return Err(broken(format!(
                "it has {} bytes and should have {size}",
                member.size
            )));
        }
        let mut head = [0u8; MEMBER_LENGTH as usize];
        self.file
            .seek(SeekFrom::Start(member.offset))
            .map_err(failed)?;
        self.file.read_exact(&mut head).map_err(failed)?;
        if !head.starts_with(MEMBER_SIGNATURE) {
            return Err(broken("the directory points to something else".to_owned()));
        }
        let skip = u64::from(u16_at(&head, 26)) + u64::from(u16_at(&head, 28));
        self.file
            .seek(SeekFrom::Start(member.offset + MEMBER_LENGTH + skip))
            .map_err(failed)?;
        let mut input = (&self.file).take(member.compressed);
        let mut left = size;
        let mut emit = |bytes: &[u8]| {
            control.check()?;
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| broken(format!("it holds more than {size} bytes")))?;
            output(bytes)
        };
        match member.method {
            0 => copy_stored(&mut input, &mut emit).map_err(|error| error.or(failed))?,
            8 => copy_deflated(&mut input, &mut emit).map_err(|error| match error {
                Stop::Data => broken("its compressed data is broken".to_owned()),
                other => other.or(failed),
            })?,
            other => {
                return Err(broken(format!(
                    "compression method {other}; expected 0 or 8"
                )));
            }
        }
        if left > 0 {
            return Err(broken(format!("it ends {left} bytes early")));
        }
        Ok(())
    }
}

/// Why copying stopped.
enum Stop {
    Read(std::io::Error),
    Output(Error),
    Data,
}

impl Stop {
    fn or(self, failed: impl Fn(std::io::Error) -> Error) -> Error {
        match self {
            Self::Read(source) => failed(source),
            Self::Output(error) => error,
            Self::Data => failed(std::io::ErrorKind::InvalidData.into()),
        }
    }
}

type Emit<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

fn copy_stored(input: &mut dyn Read, emit: &mut Emit<'_>) -> std::result::Result<(), Stop> {
    let mut buffer = vec![0u8; 1 << 17];
    loop {
        match input.read(&mut buffer).map_err(Stop::Read)? {
            0 => return Ok(()),
            count => emit(&buffer[..count]).map_err(Stop::Output)?,
        }
    }
}

fn copy_deflated(input: &mut dyn Read, emit: &mut Emit<'_>) -> std::result::Result<(), Stop> {
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    let mut compressed = vec![0u8; 1 << 16];
    let mut plain = vec![0u8; 1 << 17];
    let (mut begin, mut end) = (0, 0);
    loop {
        if begin == end {
            begin = 0;
            end = input.read(&mut compressed).map_err(Stop::Read)?;
        }
        let result = inflate(
            &mut state,
            &compressed[begin..end],
            &mut plain,
            MZFlush::None,
        );
        begin += result.bytes_consumed;
        emit(&plain[..result.bytes_written]).map_err(Stop::Output)?;
        match result.status {
            Ok(MZStatus::StreamEnd) => return Ok(()),
            Ok(_) if result.bytes_consumed > 0 || result.bytes_written > 0 => {}
            // The output buffer is empty each time, so a call without progress wants input that does not exist.
            Ok(_) | Err(MZError::Buf) => return Err(Stop::Data),
            Err(_) => return Err(Stop::Data),
        }
    }
}

/// Little-endian number at an offset that the caller knows to be inside.
fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Write an archive; every second member is stored, the others are deflated.
    pub fn write_archive(path: &Path, members: &[(&str, &[u8])]) {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for (index, (name, content)) in members.iter().enumerate() {
            let stored = index % 2 == 1;
            let data = if stored {
                content.to_vec()
            } else {
                miniz_oxide::deflate::compress_to_vec(content, 6)
            };
            let mut fields = vec![20, 0, 0, 0, if stored { 0 } else { 8 }, 0];
            fields.extend([0; 8]);
            fields.extend((data.len() as u32).to_le_bytes());
            fields.extend((content.len() as u32).to_le_bytes());
            fields.extend((name.len() as u16).to_le_bytes());
            fields.extend([0; 2]);
            let offset = bytes.len() as u32;
            bytes.extend(MEMBER_SIGNATURE);
            bytes.extend(&fields);
            bytes.extend(name.as_bytes());
            bytes.extend(data);
            directory.extend(ENTRY_SIGNATURE);
            directory.extend([20, 0]);
            directory.extend(&fields);
            directory.extend([0; 10]);
            directory.extend(offset.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (offset, count) = (bytes.len() as u32, members.len() as u16);
        bytes.extend(&directory);
        bytes.extend(END_SIGNATURE);
        bytes.extend([0; 4]);
        bytes.extend(count.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend((directory.len() as u32).to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend([0; 2]);
        std::fs::write(path, bytes).unwrap();
    }

    fn extract(path: &Path, name: &str, size: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut output = |bytes: &[u8]| {
            content.extend_from_slice(bytes);
            Ok(())
        };
        Archive::open(path)?.extract(name, size, &mut output, &Control::new())?;
        Ok(content)
    }

    fn sample() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        let content: Vec<u8> = (0..400_000u32)
            .map(|i| (i.wrapping_mul(i) / 7) as u8)
            .collect();
        write_archive(
            &path,
            &[
                ("p/deflated", &content),
                ("p/stored", &content),
                ("p/empty", b""),
            ],
        );
        (folder, path, content)
    }

    #[test]
    fn members_come_out_as_they_went_in() {
        let (_folder, path, content) = sample();
        for name in ["p/deflated", "p/stored"] {
            assert_eq!(extract(&path, name, content.len() as u64).unwrap(), content);
            let error = extract(&path, name, 5).unwrap_err();
            assert!(error.to_string().contains("should have 5"), "{error}");
        }
        assert!(extract(&path, "p/empty", 0).unwrap().is_empty());
        assert!(extract(&path, "p/none", 0).is_err());
    }

    #[test]
    fn a_cut_off_archive_is_an_error_everywhere() {
        let (_folder, path, content) = sample();
        let whole = std::fs::read(&path).unwrap();
        for length in [
            0,
            1,
            21,
            22,
            100,
            5_000,
            whole.len() / 2,
            whole.len() - 100,
            whole.len() - 1,
        ] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(
                extract(&path, "p/deflated", content.len() as u64).is_err(),
                "{length}"
            );
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn damage_never_panics(position in 0.0..1.0f64, value in 0u8.., from_end in 0usize..300) {
            let (_folder, path, content) = sample();
            let mut bytes = std::fs::read(&path).unwrap();
            let anywhere = (position * bytes.len() as f64) as usize;
            bytes[anywhere] = value;
            // The directory is small beside the data and deserves more than its share.
            let end = bytes.len() - 1 - from_end.min(bytes.len() - 1);
            bytes[end] = value;
            std::fs::write(&path, bytes).unwrap();
            for name in ["p/deflated", "p/stored"] {
                if let Ok(found) = extract(&path, name, content.len() as u64) {
                    assert_eq!(found.len(), content.len());
                }
            }
        }
    }
}
