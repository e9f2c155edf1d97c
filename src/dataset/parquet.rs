//! Parquet: one row per task. Only the columns that make a task are decoded.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::row::FIELDS;
use super::{Collector, DatasetError};

/// Reads every row of `path`.
pub(super) fn read(path: &Path, rows: &mut Collector) -> Result<(), DatasetError> {
    let file =
        File::open(path).map_err(|source| DatasetError::Io { path: path.to_owned(), source })?;
    let not_parquet = |error: parquet::errors::ParquetError| DatasetError::NotParquet {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let reader = SerializedFileReader::new(file).map_err(not_parquet)?;
    let schema = reader.metadata().file_metadata().schema();
    check_columns(path, schema)?;
    let wanted = schema
        .get_fields()
        .iter()
        .filter(|column| FIELDS.contains(&column.name()))
        .map(Arc::clone)
        .collect();
    let projection =
        Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(not_parquet)?;
    for (index, row) in reader.get_row_iter(Some(projection)).map_err(not_parquet)?.enumerate() {
        let row = row.map_err(|error| DatasetError::Undecodable {
            path: path.to_owned(),
            row: index + 1,
            reason: error.to_string(),
        })?;
        let fields = row.into_columns().into_iter().map(|(name, field)| (name, value(&field)));
        rows.push(index + 1, Ok(fields.collect()));
    }
    Ok(())
}

fn check_columns(path: &Path, schema: &Type) -> Result<(), DatasetError> {
    let found: Vec<&str> = schema.get_fields().iter().map(|column| column.name()).collect();
    let has = |names: &[&str]| names.iter().any(|name| found.contains(name));
    let column = if !has(&["question", "prompt"]) {
        "`question` or `prompt`"
    } else if !has(&["answer", "answers", "reward_model"]) {
        "`answer`, `answers` or `reward_model`"
    } else {
        return Ok(());
    };
    let found = found.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Err(DatasetError::MissingColumn { path: path.to_owned(), column, found })
}

/// The field as JSON; what JSON cannot hold, such as a date, becomes text.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => (*truth).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        // As text, since its decimals would change on the way to f64.
        Field::Float(n) => n.to_string().into(),
        Field::Double(n) => (*n).into(),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => row
            .get_column_iter()
            .map(|(name, field)| (name.clone(), value(field)))
            .collect::<Map<_, _>>()
            .into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => other.to_string().into(),
    }
}
