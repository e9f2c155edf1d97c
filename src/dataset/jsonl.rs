//! JSON Lines: one object per line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use super::row::Fields;
use super::{Collector, DatasetError};

/// Reads every line of `path`; blank ones are skipped but counted.
pub(super) fn read(path: &Path, rows: &mut Collector) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        // Some editors mark UTF-8 at the start of a file.
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if number == 1 && text.starts_with(b"[") {
            return Err(DatasetError::JsonArray { path: path.to_owned() });
        }
        if !text.is_empty() {
            rows.push(number, fields(text));
        }
    }
    Ok(())
}

fn fields(line: &[u8]) -> Result<Fields, String> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}
