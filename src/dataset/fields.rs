//! A row's fields by name.

use super::cell::{self, Cell};

/// The fields of a row, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields(pub(super) Vec<(String, Cell)>);

impl Fields {
    /// The fields, unless a name occurs twice: which one is meant would be unclear.
    pub(super) fn new(fields: Vec<(String, Cell)>) -> Result<Self, String> {
        for (at, (name, value)) in fields.iter().enumerate() {
            if *value != Cell::Unread && fields[..at].iter().any(|(other, _)| other == name) {
                return Err(format!("it has the column `{name}` twice"));
            }
        }
        Ok(Self(fields))
    }

    /// The field of this name, in any case, that is not null.
    pub(super) fn get(&self, name: &str) -> Option<&Cell> {
        cell::find(&self.0, name).filter(|value| **value != Cell::Null)
    }

    /// The first of these fields that exists.
    pub(super) fn first<'f>(&'f self, names: &[&'f str]) -> Option<(&'f str, &'f Cell)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    /// The names of all columns, for a reason.
    pub(super) fn names(&self) -> String {
        match self.0.len() {
            0 => "no column at all".to_owned(),
            _ => {
                let name = |(name, value): &(String, Cell)| match value {
                    Cell::Null => format!("`{name}` (null)"),
                    _ => format!("`{name}`"),
                };
                self.0.iter().map(name).collect::<Vec<_>>().join(", ")
            }
        }
    }
}
