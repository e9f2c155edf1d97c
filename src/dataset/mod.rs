//! Where tasks come from: Parquet and JSON Lines files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::task::Task;

mod error;
mod jsonl;
mod parquet;
mod row;
#[cfg(test)]
mod tests;

pub use error::{DatasetError, Rejected};

/// Which tasks of a file are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOptions {
    /// The data set's name, for rows that do not say it themselves; the file's stem when absent.
    pub source: Option<String>,
    /// Only tasks of these data sets; all when empty.
    pub sources: Vec<String>,
    /// Only tasks of these kinds; all when empty.
    pub kinds: Vec<String>,
    /// Shuffle with this seed before the limit is applied; file order when absent.
    pub shuffle_seed: Option<u64>,
    /// At most this many tasks.
    pub limit: Option<usize>,
}

/// What a file held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The tasks that were wanted.
    pub tasks: Vec<Task>,
    /// The rows that are no tasks, in file order.
    pub rejected: Vec<Rejected>,
}

/// Reads the tasks in the file at `path`.
///
/// A file that starts with Parquet's mark is read as Parquet, any other as JSON Lines. In both a
/// row is a task in one of two forms:
/// - `question` with `answer` (text, number, truth value or list) or `answers` (list);
/// - `prompt` (messages with `role` and `content`; the last user message counts) with
///   `reward_model.ground_truth` (text or list). A message that starts with `Question:` and ends in
///   an instruction with the protocol's tags is reduced to the question; any other is kept whole.
///
/// Optional are `id`, `source` or `data_source`, `kind` and `hops`. Other fields are ignored. A row
/// that is no task is rejected by its number; a file without a single task is an error.
pub fn read_tasks(path: &Path, options: &ReadOptions) -> Result<ReadOutcome, DatasetError> {
    let mut collector = Collector::new(path, options);
    if is_parquet(path)? {
        parquet::read(path, &mut collector)?;
    } else {
        jsonl::read(path, &mut collector)?;
    }
    collector.finish(options)
}

fn is_parquet(path: &Path) -> Result<bool, DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut head = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(4).read_to_end(&mut head).map_err(io)?;
    let named_so = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("parquet"));
    match (head.as_slice() == b"PAR1", named_so) {
        (false, true) => Err(DatasetError::NotParquet {
            path: path.to_owned(),
            reason: "it does not start with `PAR1`".to_owned(),
        }),
        (is_parquet, _) => Ok(is_parquet),
    }
}

/// Gathers a file's rows.
struct Collector {
    path: PathBuf,
    stem: String,
    source: String,
    rows_by_id: BTreeMap<String, usize>,
    outcome: ReadOutcome,
}

impl Collector {
    fn new(path: &Path, options: &ReadOptions) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            path: path.to_owned(),
            source: options.source.clone().unwrap_or_else(|| stem.clone()),
            stem,
            rows_by_id: BTreeMap::new(),
            outcome: ReadOutcome::default(),
        }
    }

    /// Takes the row with this number, counted from 1.
    fn push(&mut self, number: usize, row: Result<row::Fields, String>) {
        let task = row.and_then(|fields| {
            let id = || format!("{}:{number}", self.stem);
            row::task(&fields, &self.source, id)
        });
        let task = task.and_then(|task| match self.rows_by_id.get(&task.id) {
            Some(first) => Err(format!("its id `{}` is that of row {first}", task.id)),
            None => Ok(task),
        });
        match task {
            Ok(task) => {
                self.rows_by_id.insert(task.id.clone(), number);
                self.outcome.tasks.push(task);
            }
            Err(reason) => {
                let file = self.path.clone();
                self.outcome.rejected.push(Rejected { file, row: number, reason });
            }
        }
    }

    fn finish(self, options: &ReadOptions) -> Result<ReadOutcome, DatasetError> {
        let Self { path, mut outcome, .. } = self;
        if outcome.tasks.is_empty() {
            return Err(match outcome.rejected.first() {
                None => DatasetError::Empty { path },
                Some(first) => DatasetError::NoTask {
                    path,
                    rejected: outcome.rejected.len(),
                    first: first.to_string(),
                },
            });
        }
        let found = describe(&outcome.tasks);
        outcome.tasks.retain(|task| is_wanted(task, options));
        if outcome.tasks.is_empty() {
            return Err(DatasetError::NothingSelected { path, found });
        }
        if let Some(seed) = options.shuffle_seed {
            outcome.tasks.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        outcome.tasks.truncate(options.limit.unwrap_or(usize::MAX));
        Ok(outcome)
    }
}

fn is_wanted(task: &Task, options: &ReadOptions) -> bool {
    let kind = task.kind.as_ref();
    (options.sources.is_empty() || options.sources.contains(&task.source))
        && (options.kinds.is_empty() || kind.is_some_and(|kind| options.kinds.contains(kind)))
}

/// The data sets and kinds in `tasks`, as `source` or `source/kind`.
fn describe(tasks: &[Task]) -> String {
    let classes: BTreeSet<String> = tasks
        .iter()
        .map(|task| match &task.kind {
            Some(kind) => format!("`{}/{kind}`", task.source),
            None => format!("`{}`", task.source),
        })
        .collect();
    classes.into_iter().collect::<Vec<_>>().join(", ")
}

/// Two tasks that ask the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameQuestion<'a> {
    /// The one that came first.
    pub first: &'a Task,
    /// The other.
    pub again: &'a Task,
}

/// Every task whose question was asked before in `tasks`, but for case, punctuation and spaces.
pub fn duplicates(tasks: &[Task]) -> Vec<SameQuestion<'_>> {
    let mut seen = BTreeMap::new();
    let mut found = Vec::new();
    for again in tasks {
        match seen.entry(normalised(&again.question)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(again);
            }
            std::collections::btree_map::Entry::Occupied(entry) => {
                found.push(SameQuestion { first: entry.get(), again });
            }
        }
    }
    found
}

/// Every task of `test` whose question is asked in `train` too, but for case, punctuation and
/// spaces.
pub fn overlap<'a>(train: &'a [Task], test: &'a [Task]) -> Vec<SameQuestion<'a>> {
    let asked: BTreeMap<String, &Task> =
        train.iter().rev().map(|task| (normalised(&task.question), task)).collect();
    test.iter()
        .filter_map(|again| {
            let first = asked.get(&normalised(&again.question))?;
            Some(SameQuestion { first, again })
        })
        .collect()
}

fn normalised(question: &str) -> String {
    let lower = question.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    // A question without a single letter or digit is told apart by its own characters.
    if words.is_empty() { lower } else { words.join(" ") }
}
