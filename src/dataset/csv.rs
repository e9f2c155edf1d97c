//! Comma-separated values: a header, then a row a record.

use std::io;
use std::path::Path;

use super::cell::{Cell, plain_number};
use super::fields::Fields;
use super::input::Text;
use super::records::{Record, Records, wrong};
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
    let mut records = Records::new(Box::new(whole), delimiter);
    let Some(header) = records.next_record().map_err(io)? else { return Ok(()) };
    let names = names(path, &header)?;
    while let Some(record) = records.next_record().map_err(io)? {
        rows.row(record.line, fields(&names, &record))?;
    }
    Ok(())
}

fn names(path: &Path, header: &Record) -> Result<Vec<String>, DatasetError> {
    let io = |reason: &str| {
        let source = wrong(format!("its header {reason}"));
        DatasetError::Io { path: path.to_owned(), source }
    };
    if header.is_broken {
        return Err(io("has text behind a closing quote"));
    }
    let names = header.fields.iter().map(|name| String::from_utf8(name.clone()));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(|_| io("is not UTF-8"))?;
    for (at, name) in names.iter().enumerate() {
        if names.iter().take(at).any(|other| other == name) {
            return Err(DatasetError::DuplicateColumn {
                path: path.to_owned(),
                column: name.into(),
            });
        }
    }
    Ok(names)
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

fn fields(names: &[String], record: &Record) -> Result<Fields, String> {
    if record.is_broken {
        return Err("it has text behind a closing quote (a quote in a field is doubled)".to_owned());
    }
    if record.fields.len() != names.len() {
        let (found, wanted) = (record.fields.len(), names.len());
        return Err(format!("it has {found} columns, and the header {wanted}"));
    }
    let cell = |(name, value): (&String, &Vec<u8>)| {
        let text = std::str::from_utf8(value).map_err(|_| format!("its `{name}` is not UTF-8"))?;
        Ok((name.clone(), cell(text)))
    };
    names.iter().zip(&record.fields).map(cell).collect::<Result<_, String>>().and_then(Fields::new)
}

/// An empty field is null, as pandas writes it. Whole numbers in a column with gaps, which pandas
/// writes as `18.0`, are read as `18`.
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
