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
        rows.row(first, fields(&line, None, rows))?;
    }
    while text.read_line(&mut line).map_err(io)? {
        if !line.trim_ascii().is_empty() {
            rows.row(text.line, fields(&line, None, rows))?;
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
    let mut emit = |row: Result<&RawValue, String>, passage: Option<&RawValue>| {
        number += 1;
        let row = row.and_then(|row| fields(row.get().as_bytes(), passage, &*rows));
        rows.row(number, row)
    };
    let items = match document.get().starts_with('{') {
        true => match list_of(&pairs(document.get()).map_err(wrong)?) {
            Some(list) => list,
            None => return emit(Ok(document), None),
        },
        false => document,
    };
    let items: Vec<&RawValue> = serde_json::from_str(items.get()).map_err(wrong)?;
    for item in items {
        let members = pairs(item.get()).unwrap_or_default();
        let Some(paragraphs) = squad(&members) else {
            emit(previewed(item, &members), None)?;
            continue;
        };
        for paragraph in paragraphs {
            let members = pairs(paragraph.get()).unwrap_or_default();
            match list(&members, "qas") {
                Some(questions) => questions
                    .into_iter()
                    .try_for_each(|one| emit(Ok(one), member(&members, "context")))?,
                None => emit(Ok(paragraph), None)?,
            }
        }
    }
    Ok(())
}

/// The paragraphs of an article in SQuAD's own format: at least one of them has questions. Those of
/// other data sets are passages of one question.
fn squad<'r>(article: &[(String, &'r RawValue)]) -> Option<Vec<&'r RawValue>> {
    let paragraphs = list(article, "paragraphs")?;
    let has_questions = |paragraph: &&RawValue| {
        pairs(paragraph.get()).is_ok_and(|members| list(&members, "qas").is_some())
    };
    paragraphs.iter().any(has_questions).then_some(paragraphs)
}

/// The row inside an item in the form of a preview by the hub, else the item.
fn previewed<'r>(
    item: &'r RawValue,
    members: &[(String, &'r RawValue)],
) -> Result<&'r RawValue, String> {
    let is_preview = members.len() == 1 || member(members, "row_idx").is_some();
    let row = member(members, "row").filter(|row| is_preview && row.get().starts_with('{'));
    match list(members, "truncated_cells") {
        Some(cut) if row.is_some() && !cut.is_empty() => {
            Err("it is cut short: the preview has `truncated_cells`".to_owned())
        }
        _ => Ok(row.unwrap_or(item)),
    }
}

fn member<'r>(members: &[(String, &'r RawValue)], name: &str) -> Option<&'r RawValue> {
    members.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
}

fn list<'r>(members: &[(String, &'r RawValue)], name: &str) -> Option<Vec<&'r RawValue>> {
    serde_json::from_str(member(members, name)?.get()).ok()
}

/// The fields of a row, and the passage that stands beside it as its `context`.
fn fields(line: &[u8], passage: Option<&RawValue>, rows: &dyn Sink) -> Result<Fields, String> {
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
    let members = pairs(text).map_err(wrong)?;
    let passage = passage.filter(|_| member(&members, "context").is_none());
    let passage = passage.map(|passage| ("context".to_owned(), passage));
    for (name, value) in members.into_iter().chain(passage) {
        let cell = match rows.wants(&name) {
            true => Cell::from_json(value)?,
            false if value.get() == "null" => Cell::Null,
            false => Cell::Unread,
        };
        cells.push((name, cell));
    }
    Fields::new(cells)
}
