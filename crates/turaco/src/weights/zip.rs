//! The part of ZIP that PyTorch's files use: members stored without compression, possibly with 64-bit sizes.
//!
//! After PKWARE's APPNOTE 6.3; offsets are checked against the file, nothing is copied.

use std::collections::BTreeMap;
use std::path::Path;

use super::cursor::Cursor;
use super::{Bytes, printable};
use crate::Result;

/// Local file header, at the beginning of a non-empty archive.
pub(super) const MAGIC: [u8; 4] = *b"PK\x03\x04";

const CENTRAL_ENTRY: u32 = 0x0201_4b50;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: usize = 22;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const LOCATOR_64_LEN: usize = 20;

/// Content of every member by its name.
pub(super) fn members(path: &Path, bytes: &Bytes) -> Result<BTreeMap<String, Bytes>> {
    let (directory, n_entries) = central_directory(path, bytes)?;
    let mut cursor = Cursor::at(path, bytes, directory, "ZIP directory")?;
    let mut members: BTreeMap<String, Bytes> = BTreeMap::new();
    for _ in 0..n_entries {
        let entry = Entry::read(&mut cursor)?;
        let content = entry.content(path, bytes)?;
        if members.contains_key(&entry.name) {
            return Err(cursor.error(format!(
                "ZIP member `{}` occurs twice",
                printable(&entry.name)
            )));
        }
        members.insert(entry.name, content);
    }
    Ok(members)
}

/// Offset of the directory and its number of entries.
fn central_directory(path: &Path, bytes: &Bytes) -> Result<(usize, u64)> {
    // The end record is the last thing except for a comment of at most 65535 bytes.
    let search_from = bytes.len().saturating_sub(END_LEN + 0xffff);
    let end = bytes[search_from..]
        .windows(END.len())
        .rposition(|window| window == END)
        .map(|at| search_from + at);
    let Some(end) = end else {
        return Err(Cursor::new(path, bytes).error(format!(
            "file is truncated at byte {}: the ZIP archive has no end record",
            bytes.len()
        )));
    };
    let mut cursor = Cursor::at(path, bytes, end + END.len(), "ZIP end record")?;
    let what = "ZIP end record";
    let disk = cursor.u16(what)?;
    let directory_disk = cursor.u16(what)?;
    cursor.u16(what)?;
    let n_entries = cursor.u16(what)?;
    cursor.u32(what)?;
    let offset = cursor.u32(what)?;
    let comment_len = usize::from(cursor.u16(what)?);
    cursor.take(comment_len, what)?;
    if n_entries != u16::MAX && offset != u32::MAX {
        if disk != 0 || directory_disk != 0 {
            return Err(cursor.error("ZIP archives of several parts are not supported"));
        }
        return Ok((offset as usize, u64::from(n_entries)));
    }
    let locator = end
        .checked_sub(LOCATOR_64_LEN)
        .ok_or_else(|| cursor.error("the ZIP archive has no 64-bit locator"))?;
    let what = "ZIP 64-bit end record";
    let mut cursor = Cursor::at(path, bytes, locator, what)?;
    if cursor.u32(what)? != LOCATOR_64 {
        return Err(cursor.error(format!(
            "the ZIP archive has no 64-bit locator at byte {locator}"
        )));
    }
    cursor.u32(what)?;
    let end_64 = cursor.offset(what)?;
    let mut cursor = Cursor::at(path, bytes, end_64, what)?;
    if cursor.u32(what)? != END_64 {
        return Err(cursor.error(format!(
            "the ZIP archive has no 64-bit end record at byte {end_64}"
        )));
    }
    // Length, two versions, two disks, entries of this disk.
    cursor.take(8 + 2 + 2 + 4 + 4 + 8, what)?;
    let n_entries = cursor.u64(what)?;
    cursor.u64(what)?;
    Ok((cursor.offset(what)?, n_entries))
}

struct Entry {
    name: String,
    len: usize,
    local_header: usize,
}

impl Entry {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let start = cursor.position();
        let what = "ZIP directory entry";
        if cursor.u32(what)? != CENTRAL_ENTRY {
            return Err(cursor.error(format!("no ZIP directory entry at byte {start}")));
        }
        cursor.take(4, what)?;
        let flags = cursor.u16(what)?;
        let method = cursor.u16(what)?;
        cursor.take(8, what)?;
        let compressed_len = cursor.u32(what)?;
        let len = cursor.u32(what)?;
        let name_len = usize::from(cursor.u16(what)?);
        let extra_len = usize::from(cursor.u16(what)?);
        let comment_len = usize::from(cursor.u16(what)?);
        cursor.take(8, what)?;
        let local_header = cursor.u32(what)?;
        let name = String::from_utf8_lossy(cursor.take(name_len, what)?).into_owned();
        let extra = cursor.take(extra_len, what)?;
        cursor.take(comment_len, what)?;
        let error =
            |message: &str| cursor.error(format!("ZIP member `{}` {message}", printable(&name)));
        if flags & 1 != 0 {
            return Err(error("is encrypted"));
        }
        if method != 0 {
            return Err(error(
                "is compressed, which PyTorch does not do (unpack the archive if it holds a model file)",
            ));
        }
        // Numbers that do not fit into 32 bits are all ones there and stand in field 1 of the extra data, in this order.
        let mut wide = wide_fields(extra).into_iter();
        let mut resolve = |value: u32| {
            if value == u32::MAX {
                wide.next()
            } else {
                Some(u64::from(value))
            }
        };
        let len = resolve(len);
        let compressed_len = resolve(compressed_len);
        let local_header = resolve(local_header);
        let as_size = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok());
        match (as_size(len), as_size(compressed_len), as_size(local_header)) {
            (Some(len), Some(compressed_len), Some(local_header)) if len == compressed_len => {
                Ok(Self {
                    name,
                    len,
                    local_header,
                })
            }
            _ => Err(error("has sizes that contradict each other")),
        }
    }

    fn content(&self, path: &Path, bytes: &Bytes) -> Result<Bytes> {
        let what = format!("ZIP member `{}`", printable(&self.name));
        let mut cursor = Cursor::at(path, bytes, self.local_header, &what)?;
        if cursor.u32(&what)? != LOCAL_HEADER {
            return Err(cursor.error(format!(
                "{what} has no header at byte {}",
                self.local_header
            )));
        }
        cursor.take(22, &what)?;
        let name_len = usize::from(cursor.u16(&what)?);
        let extra_len = usize::from(cursor.u16(&what)?);
        cursor.take(name_len + extra_len, &what)?;
        cursor.take_shared(self.len, &what)
    }
}

/// The 64-bit numbers in field 1 of the extra data.
fn wide_fields(mut extra: &[u8]) -> Vec<u64> {
    while let Some((&[id_low, id_high, len_low, len_high], rest)) = extra.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([len_low, len_high]));
        let Some(field) = rest.get(..len) else { break };
        if u16::from_le_bytes([id_low, id_high]) == 1 {
            return field
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&raw| u64::from_le_bytes(raw))
                .collect();
        }
        extra = &rest[len..];
    }
    Vec::new()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes an archive of stored members. With `wide`, all sizes and offsets are 64-bit, as PyTorch does for large files.
    pub(crate) fn write(members: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut directory = Vec::new();
        for (name, content) in members {
            let at = bytes.len();
            let short = |value: usize| if wide { u32::MAX } else { value as u32 };
            bytes.extend(MAGIC);
            bytes.extend([0; 14]);
            bytes.extend(short(content.len()).to_le_bytes());
            bytes.extend(short(content.len()).to_le_bytes());
            bytes.extend((name.len() as u16).to_le_bytes());
            // PyTorch pads here so that contents lie at multiples of 64.
            let padding = 64 - (bytes.len() + 2 + name.len() + 4) % 64;
            bytes.extend((padding as u16 + 4).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(*b"FB");
            bytes.extend((padding as u16).to_le_bytes());
            bytes.extend(vec![b'Z'; padding]);
            bytes.extend(*content);

            directory.extend(CENTRAL_ENTRY.to_le_bytes());
            directory.extend([0; 16]);
            directory.extend(short(content.len()).to_le_bytes());
            directory.extend(short(content.len()).to_le_bytes());
            directory.extend((name.len() as u16).to_le_bytes());
            directory.extend((if wide { 28u16 } else { 0 }).to_le_bytes());
            directory.extend([0; 10]);
            directory.extend(short(at).to_le_bytes());
            directory.extend(name.as_bytes());
            if wide {
                directory.extend([1, 0, 24, 0]);
                for value in [content.len(), content.len(), at] {
                    directory.extend((value as u64).to_le_bytes());
                }
            }
        }
        let directory_at = bytes.len();
        bytes.extend(&directory);
        if wide {
            let end_64 = bytes.len() as u64;
            bytes.extend(END_64.to_le_bytes());
            bytes.extend(44u64.to_le_bytes());
            bytes.extend([0; 12]);
            for value in [members.len(), members.len(), directory.len(), directory_at] {
                bytes.extend((value as u64).to_le_bytes());
            }
            bytes.extend(LOCATOR_64.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(end_64.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
        }
        bytes.extend(END);
        bytes.extend([0; 4]);
        let count = if wide { u16::MAX } else { members.len() as u16 };
        bytes.extend(count.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend((directory.len() as u32).to_le_bytes());
        let at = if wide { u32::MAX } else { directory_at as u32 };
        bytes.extend(at.to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<BTreeMap<String, Bytes>> {
        members(Path::new("m.pt"), &bytes.into())
    }

    const SAMPLE: [(&str, &[u8]); 3] = [
        ("a/data.pkl", b"pickle"),
        ("a/data/0", &[7; 100]),
        ("a/version", b"3\n"),
    ];

    #[test]
    fn reads_narrow_and_wide_archives() {
        for wide in [false, true] {
            let members = read(write(&SAMPLE, wide)).unwrap();
            assert_eq!(members.len(), 3);
            for (name, content) in SAMPLE {
                assert_eq!(&members[name][..], content);
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for wide in [false, true] {
            let whole = write(&SAMPLE, wide);
            for len in 0..whole.len() {
                assert!(read(whole[..len].to_vec()).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn compressed_twice_and_wild_members_are_errors() {
        let find = |bytes: &[u8]| {
            bytes
                .windows(4)
                .position(|window| window == CENTRAL_ENTRY.to_le_bytes())
                .unwrap()
        };
        let mut bytes = write(&SAMPLE, false);
        let at = find(&bytes);
        bytes[at + 10] = 8;
        assert!(
            read(bytes.clone())
                .unwrap_err()
                .to_string()
                .contains("is compressed")
        );
        bytes[at + 10] = 0;
        bytes[at + 8] = 1;
        assert!(
            read(bytes.clone())
                .unwrap_err()
                .to_string()
                .contains("is encrypted")
        );
        bytes[at + 8] = 0;
        bytes[at + 20] += 1;
        assert!(
            read(bytes.clone())
                .unwrap_err()
                .to_string()
                .contains("contradict")
        );
        let twice = write(&[("x", b"1"), ("x", b"2")], false);
        assert!(
            read(twice)
                .unwrap_err()
                .to_string()
                .contains("occurs twice")
        );
    }
}
