//! The bytes of a file as UTF-8 text: decompressed, without a byte order mark, decoded from UTF-16.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::DatasetError;

/// The longest line or JSON document, bytes.
const MAX_DOCUMENT: u64 = 1 << 30;

/// What a file is.
pub(super) enum Input {
    /// Rows in columns.
    Parquet(File),
    /// JSON Lines or one JSON document.
    Json(Text),
    /// Comma-separated values, or those of another separator.
    Csv(Text),
}

/// UTF-8 text.
pub(super) struct Text {
    reader: Box<dyn BufRead>,
    /// Lines read.
    pub(super) line: usize,
}

/// First bytes of files that are not text, and what to do with them.
const REFUSED: [(&[u8], &str, &str); 8] = [
    (b"PK\x03\x04", "a ZIP or Excel file", "unpack it, or save it as CSV"),
    (b"BZh", "compressed with bzip2", "compress it with gzip or zstd"),
    (b"\xfd7zXZ", "compressed with xz", "compress it with gzip or zstd"),
    (b"ARROW1", "an Arrow file", "write it as Parquet, as `dataset.to_parquet` does"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "write it as Parquet, as `dataset.to_parquet` does"),
    (b"\x80\x04", "a Python pickle", "write it as Parquet or JSON Lines"),
    (b"version https://git-lfs", "a pointer left by Git LFS", "fetch the file with `git lfs pull`"),
    (b"<", "a web page or XML", "download the file itself"),
];

/// Opens the file at `path`.
pub(super) fn open(path: &Path) -> Result<Input, DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut head = Vec::new();
    (&mut file).take(4).read_to_end(&mut head).map_err(io)?;
    io::Seek::rewind(&mut file).map_err(io)?;
    if head == b"PAR1" {
        return Ok(Input::Parquet(file));
    }
    let name = path.to_string_lossy().to_ascii_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    if name.ends_with(".parquet") {
        let reason = "it does not start with `PAR1`".to_owned();
        return Err(DatasetError::NotParquet { path: path.to_owned(), reason });
    }
    let mut reader = decompressed(file, &head).map_err(io)?;
    let start = reader.fill_buf().map_err(io)?;
    if let Some((_, kind, hint)) = REFUSED.iter().find(|(mark, ..)| start.starts_with(mark)) {
        return Err(DatasetError::Unreadable { path: path.to_owned(), kind, hint });
    }
    let text = Text { reader: decoded(reader).map_err(io)?, line: 0 };
    let is_csv = name.ends_with(".csv") || name.ends_with(".tsv");
    Ok(if is_csv { Input::Csv(text) } else { Input::Json(text) })
}

fn decompressed(file: File, head: &[u8]) -> io::Result<Box<dyn BufRead>> {
    const BUFFER: usize = 1 << 16;
    Ok(match head {
        [0x1f, 0x8b, ..] => {
            Box::new(BufReader::with_capacity(BUFFER, flate2::read::MultiGzDecoder::new(file)))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(BufReader::with_capacity(BUFFER, zstd::stream::read::Decoder::new(file)?))
        }
        _ => Box::new(BufReader::with_capacity(BUFFER, file)),
    })
}

/// Without its byte order mark, as UTF-8.
fn decoded(mut reader: Box<dyn BufRead>) -> io::Result<Box<dyn BufRead>> {
    let (length, is_big_endian) = match reader.fill_buf()? {
        [0xef, 0xbb, 0xbf, ..] => (3, None),
        [0xff, 0xfe, ..] => (2, Some(false)),
        [0xfe, 0xff, ..] => (2, Some(true)),
        _ => return Ok(reader),
    };
    reader.consume(length);
    Ok(match is_big_endian {
        None => reader,
        Some(is_big_endian) => {
            Box::new(BufReader::new(Utf16 { reader, is_big_endian, pending: Vec::new(), at: 0 }))
        }
    })
}

/// Reads UTF-16 as UTF-8.
struct Utf16 {
    reader: Box<dyn BufRead>,
    is_big_endian: bool,
    /// A decoded character that was not returned in full.
    pending: Vec<u8>,
    at: usize,
}

impl Utf16 {
    /// The next two bytes as a number; `None` at the end.
    fn unit(&mut self) -> io::Result<Option<u16>> {
        let mut bytes = [0; 2];
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.reader.read_exact(&mut bytes)?;
        let of = if self.is_big_endian { u16::from_be_bytes } else { u16::from_le_bytes };
        Ok(Some(of(bytes)))
    }

    fn character(&mut self) -> io::Result<Option<char>> {
        let Some(first) = self.unit()? else { return Ok(None) };
        let mut units = vec![first];
        if (0xd800..0xdc00).contains(&first) {
            units.extend(self.unit()?);
        }
        let mut characters = char::decode_utf16(units);
        match (characters.next(), characters.next()) {
            (Some(Ok(character)), None) => Ok(Some(character)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not well-formed UTF-16")),
        }
    }
}

impl Read for Utf16 {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < out.len() {
            if self.at == self.pending.len() {
                let Some(character) = self.character()? else { break };
                self.pending.clear();
                self.pending.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                self.at = 0;
            }
            let length = (out.len() - written).min(self.pending.len() - self.at);
            out[written..written + length]
                .copy_from_slice(&self.pending[self.at..self.at + length]);
            self.at += length;
            written += length;
        }
        Ok(written)
    }
}

impl Text {
    /// Reads a line into `line`, without its end. Returns whether there was one.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        let read = (&mut self.reader).take(MAX_DOCUMENT).read_until(b'\n', line)?;
        if read as u64 == MAX_DOCUMENT {
            return Err(too_long("a line"));
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        self.line += 1;
        Ok(read > 0)
    }

    /// Appends all that is left to `document`.
    pub(super) fn read_rest(&mut self, document: &mut Vec<u8>) -> io::Result<()> {
        let room = MAX_DOCUMENT.saturating_sub(document.len() as u64);
        let read = (&mut self.reader).take(room).read_to_end(document)?;
        if read as u64 == room { Err(too_long("the document")) } else { Ok(()) }
    }

    /// What is left, byte by byte.
    pub(super) fn into_reader(self) -> Box<dyn BufRead> {
        self.reader
    }

    /// Text in memory, whose first line is number `line` + 1.
    pub(super) fn of(document: Vec<u8>, line: usize) -> Self {
        Self { reader: Box::new(io::Cursor::new(document)), line }
    }
}

fn too_long(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} is longer than {MAX_DOCUMENT} bytes"),
    )
}
