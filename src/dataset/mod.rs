//! Reads tasks and conversations from files in common published formats.
//!
//! One reader serves training and evaluation. It takes JSON Lines, JSON, CSV and Parquet, plain or
//! compressed, in the forms of [`Form`]. Everything that it does not use is counted and named in
//! the [`ReadSummary`]; what it does not understand is rejected.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::task::Task;

mod cell;
mod choices;
mod collect;
mod config;
mod csv;
mod error;
mod example;
mod example_row;
mod fields;
mod files;
mod form;
mod golds;
mod input;
mod json;
mod messages;
mod overlap;
mod parquet;
mod passage;
mod records;
mod summary;
mod task_row;
#[cfg(test)]
mod tests;

pub use config::ReadOptions;
pub use error::{DatasetError, Rejected};
pub use example::{ChatRole, ChatTurn, DemoTurn, Demonstration, Example};
pub use files::find as data_files;
pub use form::Form;
pub use overlap::{SameQuestion, duplicates, overlap};
pub use summary::ReadSummary;

use collect::Collector;
use example_row::ExampleRow;
use fields::Fields;
use input::Input;

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOutcome<T> {
    /// The rows that were wanted.
    pub rows: Vec<T>,
    /// The outcome of all rows.
    pub summary: ReadSummary,
}

/// Reads the tasks at `path`: a file, a folder or a glob.
///
/// Golds are the bare answers: of a worked solution, what follows its last `####` or is inside its
/// last `\boxed{…}`. Whole numbers have one form (`18.0` is `18`), and no digit is lost; true is
/// also `yes`. Options of a multiple-choice question become part of it. A recorded episode is not a
/// task, because its answer is only what the policy said.
///
/// # Errors
/// When a file cannot be read, there is no task, or more rows than `max_rejected` are rejected.
pub fn read_tasks(path: &Path, options: &ReadOptions) -> Result<ReadOutcome<Task>, DatasetError> {
    read(path, options)
}

/// Reads examples for supervised training at `path`: a file, a folder or a glob.
///
/// Every form becomes a conversation: a question and its answer are two messages, and the answer is
/// learnt verbatim. A recorded episode is learnt turn by turn if the policy answered.
///
/// # Errors
/// When a file cannot be read, there is no example, or more rows than `max_rejected` are rejected.
pub fn read_examples(
    path: &Path,
    options: &ReadOptions,
) -> Result<ReadOutcome<Example>, DatasetError> {
    let ReadOutcome { rows, summary } = read::<ExampleRow>(path, options)?;
    Ok(ReadOutcome { rows: rows.into_iter().map(|row| row.example).collect(), summary })
}

fn read<T: Row>(path: &Path, options: &ReadOptions) -> Result<ReadOutcome<T>, DatasetError> {
    if !(0.0..=1.0).contains(&options.max_rejected) {
        return Err(DatasetError::MaxRejected(options.max_rejected));
    }
    let found = files::find(path)?;
    let mut collector = Collector::<T>::new(path, options);
    for file in found {
        collector.begin(&file);
        match input::open(&file)? {
            Input::Parquet(content) => parquet::read(&file, content, &mut collector)?,
            Input::Json(text) => json::read(&file, text, &mut collector)?,
            Input::Csv(text) => csv::read(&file, text, &mut collector)?,
        }
    }
    collector.finish()
}

/// Receives the rows of a file.
trait Sink {
    /// Whether the column of this name is needed.
    fn wants(&self, column: &str) -> bool;

    /// Takes the row with this number, counted from 1.
    fn row(&mut self, number: usize, row: Result<Fields, String>) -> Result<(), DatasetError>;
}

/// What a row is parsed into.
trait Row: Sized {
    /// Reads a row.
    fn read(fields: &Fields, context: &Context<'_>) -> Result<(Self, Form), Unused>;

    /// Its id, which no other row of its data set may have.
    fn id(&self) -> Option<&str> {
        None
    }

    /// Gives it another id.
    fn set_id(&mut self, _: String) {}

    /// What is asked.
    fn question(&self) -> &str {
        ""
    }

    /// Its data set.
    fn source(&self) -> &str {
        ""
    }

    /// Its kind, by which it is selected.
    fn kind(&self) -> Option<&str>;

    /// The text it holds, bytes.
    fn bytes(&self) -> usize;
}

/// The context of parsing a row.
struct Context<'a> {
    options: &'a ReadOptions,
    /// The data set of rows that name none, and of all where the options name it.
    source: &'a Arc<str>,
    /// Every other that a row has named.
    sources: &'a RefCell<BTreeSet<Arc<str>>>,
    /// The prefix of generated ids.
    stem: &'a str,
    number: usize,
    notes: &'a RefCell<BTreeMap<&'static str, usize>>,
}

impl Context<'_> {
    /// The id of a row without one.
    fn id(&self) -> String {
        format!("{}:{}", self.stem, self.number)
    }

    /// The name of a data set, stored once for all its rows.
    fn shared(&self, source: String) -> Arc<str> {
        let mut sources = self.sources.borrow_mut();
        if let Some(known) = sources.get(source.as_str()) {
            return Arc::clone(known);
        }
        let source: Arc<str> = source.into();
        sources.insert(Arc::clone(&source));
        source
    }

    /// Counts something about a row that the user should know.
    fn note(&self, what: &'static str) {
        *self.notes.borrow_mut().entry(what).or_default() += 1;
    }
}

/// Why a row is not used.
#[derive(Debug)]
enum Unused {
    /// It cannot be parsed.
    Rejected(String),
    /// It can be parsed, but is of no use here.
    Skipped(&'static str),
}

impl From<String> for Unused {
    fn from(reason: String) -> Self {
        Self::Rejected(reason)
    }
}

impl From<&str> for Unused {
    fn from(reason: &str) -> Self {
        Self::Rejected(reason.to_owned())
    }
}
