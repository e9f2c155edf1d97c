//! Looks at the headers of pages before any is decompressed: a file of a few bytes can claim, and
//! hold, gigabytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use parquet::file::metadata::ParquetMetaData;

use super::super::{DatasetError, Sink};

/// The most that a page may take when it is decompressed, bytes.
const MAX_PAGE: i64 = 256 << 20;
/// Structures inside structures, at most.
const MAX_DEPTH: u32 = 16;

/// Refuses a file with a page of more than [`MAX_PAGE`] bytes in a column that is read.
pub(super) fn check(
    path: &Path,
    file: File,
    metadata: &ParquetMetaData,
    rows: &dyn Sink,
) -> Result<(), DatasetError> {
    let damaged = |reason: String| DatasetError::NotParquet { path: path.to_owned(), reason };
    let mut file = BufReader::new(file);
    for (group, column) in metadata
        .row_groups()
        .iter()
        .enumerate()
        .flat_map(|(at, group)| group.columns().iter().map(move |column| (at + 1, column)))
    {
        let name = column.column_path().parts().first().cloned().unwrap_or_default();
        if !rows.wants(&name) {
            continue;
        }
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (Ok(start), Ok(length)) =
            (u64::try_from(start), u64::try_from(column.compressed_size()))
        else {
            return Err(damaged(format!("the column `{name}` lies nowhere")));
        };
        let size = largest_page(&mut file, start, length)
            .map_err(|error| damaged(format!("row group {group}, column `{name}`: {error}")))?;
        if size > MAX_PAGE {
            return Err(damaged(format!(
                "a page of the column `{name}` decompresses to {size} bytes, more than {MAX_PAGE}"
            )));
        }
    }
    Ok(())
}

/// The largest size of a page after decompression in the `length` bytes from `start`.
fn largest_page(file: &mut BufReader<File>, start: u64, length: u64) -> io::Result<i64> {
    let end = start.saturating_add(length);
    let (mut at, mut largest) = (start, 0);
    while at < end {
        file.seek(SeekFrom::Start(at))?;
        let mut header = Thrift { reader: file, read: 0 };
        let (decompressed, compressed) = header.page()?;
        at += header.read + compressed;
        largest = largest.max(decompressed);
    }
    Ok(largest)
}

/// Reads the compact protocol of Thrift.
struct Thrift<'a> {
    reader: &'a mut BufReader<File>,
    read: u64,
}

impl Thrift<'_> {
    /// A page's size after and before decompression, from its header.
    fn page(&mut self) -> io::Result<(i64, u64)> {
        let (mut decompressed, mut compressed) = (None, None);
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, 5) => decompressed = Some(self.zigzag()?),
                (3, 5) => compressed = u64::try_from(self.zigzag()?).ok(),
                _ => self.skip(kind, 0)?,
            }
        }
        decompressed.zip(compressed).ok_or_else(|| invalid("a page has no size"))
    }

    /// The type of the next field, whose number is put into `id`; `None` at the structure's end.
    fn field(&mut self, id: &mut i64) -> io::Result<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *id = match head >> 4 {
            0 => self.zigzag()?,
            step => *id + i64::from(step),
        };
        Ok(Some(head & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid("a page header is nested too deeply"));
        }
        match kind {
            // Truth values of a structure are in the type itself.
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.bytes(8),
            8 => {
                let length = self.varint()?;
                self.bytes(length)
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(invalid("a page header has a field of an unknown type")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn bytes(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut *self.reader).take(count), &mut io::sink())?;
        self.read += skipped;
        if skipped == count { Ok(()) } else { Err(invalid("a page header breaks off")) }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("a number of a page header does not end"))
    }

    fn zigzag(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
