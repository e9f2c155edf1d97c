//! Reads little-endian values from bytes, never past their end.

use std::ops::Range;

use super::error::ParseError;

/// A position in the bytes of a file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The range of the next `len` bytes, which are skipped.
    pub fn skip(&mut self, len: u64, what: &str) -> Result<Range<usize>, ParseError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => {
                let start = self.at;
                self.at += len;
                Ok(start..self.at)
            }
            _ => Err(ParseError::Damaged(format!(
                "{what} at byte {} takes {len} bytes, of which {} are there",
                self.at,
                self.left()
            ))),
        }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ParseError> {
        let range = self.skip(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, ParseError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, ParseError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The range of a text: its length, then its bytes, which must be UTF-8.
    pub fn text(&mut self, what: &str) -> Result<(&'a str, Range<usize>), ParseError> {
        let len = self.u64(what)?;
        let range = self.skip(len, what)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(text) => Ok((text, range)),
            Err(_) => Err(ParseError::Damaged(format!(
                "{what} at byte {} is not UTF-8 text",
                range.start
            ))),
        }
    }

    /// A count of items of at least `least` bytes each, all of which must be in the file.
    pub fn count(&mut self, least: usize, what: &str) -> Result<usize, ParseError> {
        let count = self.u64(what)?;
        let room = self.left() / least;
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(ParseError::Damaged(format!(
                "it claims {count} {what}, but has room for {room} at most"
            ))),
        }
    }
}
