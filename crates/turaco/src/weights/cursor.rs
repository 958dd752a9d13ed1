//! Reading little-endian fields of untrusted bytes, with the offset in every error.

use std::path::Path;

use super::{Bytes, invalid};
use crate::{Error, Result};

/// A position in the bytes of one file. Reading past the end is an error that names file and offset.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a Bytes,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a Bytes) -> Self {
        Self {
            path,
            bytes,
            position: 0,
        }
    }

    /// A cursor that starts at an absolute offset, at most the end; `what` lies there.
    pub(super) fn at(
        path: &'a Path,
        bytes: &'a Bytes,
        position: usize,
        what: &str,
    ) -> Result<Self> {
        let mut cursor = Self::new(path, bytes);
        if position > bytes.len() {
            return Err(cursor.error(format!(
                "file is truncated at byte {}: {what} would be at byte {position}",
                bytes.len()
            )));
        }
        cursor.position = position;
        Ok(cursor)
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// An error about this file; the message should name the offset where that helps.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        invalid(self.path, message)
    }

    /// The next `len` bytes; `what` names the field in the error.
    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.error(format!(
                "file is truncated at byte {}: {what} at byte {} takes {len} bytes",
                self.bytes.len(),
                self.position,
            )));
        }
        let bytes: &'a Bytes = self.bytes;
        let part = &bytes[self.position..self.position + len];
        self.position += len;
        Ok(part)
    }

    /// The next `len` bytes as a shared view.
    pub(super) fn take_shared(&mut self, len: usize, what: &str) -> Result<Bytes> {
        let start = self.position;
        self.take(len, what)?;
        Ok(self.bytes.slice(start..start + len))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A `u64` that counts or measures something.
    pub(super) fn offset(&mut self, what: &str) -> Result<usize> {
        let value = self.u64(what)?;
        usize::try_from(value).map_err(|_| self.error(format!("{what}: {value} is too large")))
    }

    pub(super) fn f32(&mut self, what: &str) -> Result<f32> {
        Ok(f32::from_le_bytes(self.array(what)?))
    }

    /// A non-negative `i32`.
    pub(super) fn count(&mut self, what: &str) -> Result<usize> {
        let value = i32::from_le_bytes(self.array(what)?);
        usize::try_from(value).map_err(|_| {
            self.error(format!(
                "{what} at byte {} is {value}, expected a number from 0 up",
                self.position - 4
            ))
        })
    }

    /// A `u32` that counts or measures something.
    pub(super) fn size(&mut self, what: &str) -> Result<usize> {
        let value = self.u32(what)?;
        // `usize` has 32 bits at least on every target.
        Ok(value as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_names_field_and_offset() {
        let bytes = Bytes::from(vec![1, 0, 2, 0, 0, 0, 9]);
        let mut cursor = Cursor::new(Path::new("f.bin"), &bytes);
        assert_eq!(cursor.u16("a").unwrap(), 1);
        assert_eq!(cursor.u32("b").unwrap(), 2);
        assert_eq!(cursor.remaining(), 1);
        let message = cursor.u32("tensor count").unwrap_err().to_string();
        assert_eq!(
            message,
            "file is truncated at byte 7: tensor count at byte 6 takes 4 bytes [f.bin]"
        );
        assert!(Cursor::at(Path::new("f.bin"), &bytes, 7, "end").is_ok());
        assert!(Cursor::at(Path::new("f.bin"), &bytes, 8, "end").is_err());
    }
}
