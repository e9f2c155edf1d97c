//! JSON: one object a line, or one document that holds a list of them.

use std::io;
use std::path::Path;

use serde_json::value::RawValue;

use super::cell::{Cell, pairs};
use super::fields::Fields;
use super::input::Text;
use super::{DatasetError, Sink};

/// The keys of a document that may contain its rows.
const LISTS: [&str; 5] = ["data", "rows", "examples", "instances", "questions"];

/// Reads every row. Blank lines are skipped but counted.
pub(super) fn read(path: &Path, mut text: Text, rows: &mut dyn Sink) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut line = Vec::new();
    loop {
        if !text.read_line(&mut line).map_err(io)? {
            return Ok(());
        }
        if !line.trim_ascii().is_empty() {
            break;
        }
    }
    let first = text.line;
    if may_be_document(&line) {
        line.push(b'\n');
        text.read_rest(&mut line).map_err(io)?;
        match serde_json::from_slice::<&RawValue>(&line) {
            Ok(document) => return read_document(path, document, rows),
            Err(error) if line.trim_ascii().starts_with(b"[") => {
                let source = io::Error::new(io::ErrorKind::InvalidData, error);
                return Err(DatasetError::Io { path: path.to_owned(), source });
            }
            Err(_) => text = Text::of(std::mem::take(&mut line), first - 1),
        }
    } else {
        rows.row(first, fields(&line, rows))?;
    }
    while text.read_line(&mut line).map_err(io)? {
        if !line.trim_ascii().is_empty() {
            rows.row(text.line, fields(&line, rows))?;
        }
    }
    Ok(())
}

/// Whether the first line begins a multi-line document, or is a document with a list of rows.
fn may_be_document(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let Some(members) = std::str::from_utf8(line).ok().and_then(|text| pairs(text).ok()) else {
        return line.starts_with(b"[") || line.starts_with(b"{");
    };
    list_of(&members).is_some()
}

fn list_of<'r>(members: &[(String, &'r RawValue)]) -> Option<&'r RawValue> {
    let is_list = |(name, value): &&(String, &RawValue)| {
        LISTS.contains(&name.to_ascii_lowercase().as_str())
            && value.get().starts_with('[')
            && value.get()[1..].trim_start().starts_with('{')
    };
    members.iter().find(is_list).map(|(_, value)| *value)
}

fn read_document(
    path: &Path,
    document: &RawValue,
    rows: &mut dyn Sink,
) -> Result<(), DatasetError> {
    let wrong = |error: serde_json::Error| DatasetError::Io {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    };
    let mut number = 0;
    let mut emit = |row: &RawValue| {
        number += 1;
        rows.row(number, fields(row.get().as_bytes(), rows))
    };
    let list = match document.get().starts_with('{') {
        true => match list_of(&pairs(document.get()).map_err(wrong)?) {
            Some(list) => list,
            None => return emit(document),
        },
        false => document,
    };
    let items: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(wrong)?;
    for item in items {
        match member(item, "paragraphs") {
            // SQuAD's own format: articles of paragraphs of questions.
            Some(paragraphs) => {
                let paragraphs: Vec<&RawValue> =
                    serde_json::from_str(paragraphs.get()).map_err(wrong)?;
                for questions in paragraphs.into_iter().filter_map(|one| member(one, "qas")) {
                    let questions: Vec<&RawValue> =
                        serde_json::from_str(questions.get()).map_err(wrong)?;
                    questions.into_iter().try_for_each(&mut emit)?;
                }
            }
            // The form of a preview by the hub.
            None => emit(member(item, "row").unwrap_or(item))?,
        }
    }
    Ok(())
}

/// A member that is itself an object or a list.
fn member<'r>(object: &'r RawValue, name: &str) -> Option<&'r RawValue> {
    let members = pairs(object.get()).ok()?;
    let found = members.into_iter().find(|(member, _)| member == name)?;
    found.1.get().starts_with(['{', '[']).then_some(found.1)
}

fn fields(line: &[u8], rows: &dyn Sink) -> Result<Fields, String> {
    let text = std::str::from_utf8(line).map_err(|error| {
        format!(
            "it is not UTF-8 at byte {} (is the file in Latin-1? convert it with `iconv`)",
            error.valid_up_to() + 1
        )
    })?;
    if !text.trim_start().starts_with('{') {
        return match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Err("it is not a JSON object".to_owned()),
            Err(error) => Err(format!("it is not JSON: {error}")),
        };
    }
    let wrong = |error: serde_json::Error| format!("it is not JSON: {error}");
    let mut cells = Vec::new();
    for (name, value) in pairs(text).map_err(wrong)? {
        let cell = match rows.wants(&name) {
            true => Cell::from_json(value).map_err(wrong)?,
            false if value.get() == "null" => Cell::Null,
            false => Cell::Unread,
        };
        cells.push((name, cell));
    }
    Fields::new(cells)
}
