//! Parquet. Only the columns that a form needs are decoded, and no page beyond a bound.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::cell::{Cell, plain_number};
use super::fields::Fields;
use super::{DatasetError, Sink};

mod pages;

/// Reads every row of `file`.
pub(super) fn read(path: &Path, file: File, rows: &mut dyn Sink) -> Result<(), DatasetError> {
    let not_parquet = |error: ParquetError| DatasetError::NotParquet {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let pages = file.try_clone().map_err(io)?;
    let reader = SerializedFileReader::new(file).map_err(not_parquet)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns: Vec<&str> = schema.get_fields().iter().map(|column| column.name()).collect();
    for (at, name) in columns.iter().enumerate() {
        if columns[..at].contains(name) && rows.wants(name) {
            let column = (*name).to_owned();
            return Err(DatasetError::DuplicateColumn { path: path.to_owned(), column });
        }
    }
    pages::check(path, pages, reader.metadata(), rows)?;
    let wanted: Vec<_> = schema
        .get_fields()
        .iter()
        .filter(|field| rows.wants(field.name()))
        .map(Arc::clone)
        .collect();
    let unread: Vec<String> =
        columns.iter().filter(|name| !rows.wants(name)).map(|name| (*name).to_owned()).collect();
    if wanted.is_empty() {
        // Without a column there is nothing to iterate over.
        let found = columns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(DatasetError::NoKnownColumn { path: path.to_owned(), found });
    }
    let projection =
        Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(not_parquet)?;
    for (index, row) in reader.get_row_iter(Some(projection)).map_err(not_parquet)?.enumerate() {
        let row = row.map_err(|error| DatasetError::Undecodable {
            path: path.to_owned(),
            row: index + 1,
            reason: error.to_string(),
        })?;
        let read = row.into_columns().into_iter().map(|(name, field)| (name, cell(field)));
        let unread = unread.iter().map(|name| (name.clone(), Cell::Unread));
        rows.row(index + 1, Fields::new(read.chain(unread).collect()))?;
    }
    Ok(())
}

fn cell(field: Field) -> Cell {
    let integer = |number: String| Cell::Number(number);
    match field {
        Field::Null => Cell::Null,
        Field::Bool(truth) => Cell::Bool(truth),
        Field::Byte(n) => integer(n.to_string()),
        Field::Short(n) => integer(n.to_string()),
        Field::Int(n) => integer(n.to_string()),
        Field::Long(n) => integer(n.to_string()),
        Field::UByte(n) => integer(n.to_string()),
        Field::UShort(n) => integer(n.to_string()),
        Field::UInt(n) => integer(n.to_string()),
        Field::ULong(n) => integer(n.to_string()),
        // By the shortest digits of the f32, which differ from those of the same number as f64.
        Field::Float16(n) if n.is_finite() => Cell::Number(plain_number(&n.to_string())),
        Field::Float(n) if n.is_finite() => Cell::Number(plain_number(&n.to_string())),
        Field::Float16(n) => Cell::from_f64(n.to_f64()),
        Field::Float(n) => Cell::from_f64(n.into()),
        Field::Double(n) => Cell::from_f64(n),
        decimal @ Field::Decimal(_) => Cell::Number(plain_number(&decimal.to_string())),
        Field::Str(text) => Cell::Text(text),
        Field::Bytes(bytes) => match String::from_utf8(bytes.data().to_vec()) {
            Ok(text) => Cell::Text(text),
            Err(_) => Cell::Opaque("binary data that is not UTF-8"),
        },
        Field::Group(row) => {
            Cell::Record(row.into_columns().into_iter().map(|(name, f)| (name, cell(f))).collect())
        }
        Field::ListInternal(list) => {
            Cell::List(list.elements().iter().cloned().map(cell).collect())
        }
        Field::MapInternal(_) => Cell::Opaque("a map"),
        date => Cell::Text(date.to_string()),
    }
}
