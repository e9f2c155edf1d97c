//! Comma-separated values: a header, then a row a record.

use std::io;
use std::path::Path;

use super::cell::{Cell, plain_number};
use super::fields::Fields;
use super::input::Text;
use super::{DatasetError, Sink};

/// Reads every record. The separator is that of the header: a comma, a semicolon or a tab.
pub(super) fn read(path: &Path, mut text: Text, rows: &mut dyn Sink) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut header = Vec::new();
    if !text.read_line(&mut header).map_err(io)? {
        return Ok(());
    }
    let delimiter = [b',', b';', b'\t']
        .into_iter()
        .max_by_key(|&mark| (count(&header, mark), mark == b','))
        .unwrap_or(b',');
    header.push(b'\n');
    let whole = io::Read::chain(io::Cursor::new(header), text.into_reader());
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        // With its own pair of `\r` and `\n` the line of a record cannot be determined.
        .terminator(csv::Terminator::Any(b'\n'))
        .from_reader(whole);
    let names = reader.headers().map_err(|error| io(wrong(&error)))?.clone();
    for (at, name) in names.iter().enumerate() {
        if names.iter().take(at).any(|other| other == name) {
            return Err(DatasetError::DoubleColumn { path: path.to_owned(), column: name.into() });
        }
    }
    let mut record = csv::ByteRecord::new();
    loop {
        let line = usize::try_from(reader.position().line()).unwrap_or(usize::MAX);
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let line = record.position().map_or(line, |at| at.line() as usize);
                rows.row(line, fields(&names, &record))?;
            }
            Err(_) if record.len() == 1 && record.get(0) == Some(b"\r") => {}
            Err(error) if matches!(error.kind(), csv::ErrorKind::UnequalLengths { .. }) => {
                let found = record.len();
                let wanted = names.len();
                let reason = format!("it has {found} columns, and the header {wanted}");
                rows.row(line, Err(reason))?;
            }
            Err(error) => return Err(io(wrong(&error))),
        }
    }
}

/// How often a separator stands in a line outside of quotes.
fn count(line: &[u8], mark: u8) -> usize {
    let mut is_quoted = false;
    line.iter()
        .filter(|&&byte| {
            is_quoted ^= byte == b'"';
            byte == mark && !is_quoted
        })
        .count()
}

fn wrong(error: &csv::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn fields(names: &csv::StringRecord, record: &csv::ByteRecord) -> Result<Fields, String> {
    let cell = |(name, value): (&str, &[u8])| {
        let text = std::str::from_utf8(value).map_err(|_| format!("its `{name}` is not UTF-8"))?;
        Ok((name.to_owned(), cell(text)))
    };
    let last = record.len().saturating_sub(1);
    let values = record.iter().enumerate().map(|(at, value)| match value.strip_suffix(b"\r") {
        Some(bare) if at == last => bare,
        _ => value,
    });
    names.iter().zip(values).map(cell).collect::<Result<_, String>>().and_then(Fields::new)
}

/// An empty field is null, as pandas writes it. So is `18.0` a whole number of a column that had
/// gaps.
fn cell(text: &str) -> Cell {
    match text {
        "" => Cell::Null,
        "NaN" | "nan" => Cell::Opaque("NaN"),
        _ if text.strip_suffix(".0").is_some_and(|whole| whole.parse::<i64>().is_ok()) => {
            Cell::Number(plain_number(text))
        }
        _ => Cell::Text(text.to_owned()),
    }
}
