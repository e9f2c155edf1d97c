//! Collects the rows of files, and counts those that are not used.

use std::cell::RefCell;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::cell::Cell;
use super::fields::Fields;
use super::form::{Form, is_known, is_metadata};
use super::passage::PASSAGES;
use super::task_row::{class, named_source};
use super::{
    Context, DatasetError, ReadOptions, ReadOutcome, ReadSummary, Rejected, Row, Sink, Unused,
};

/// Rejected rows whose reasons are kept.
const NAMED: usize = 5;

pub(super) struct Collector<'a, T> {
    path: &'a Path,
    options: &'a ReadOptions,
    file: PathBuf,
    /// The prefix of generated ids: the file's name, or its path below a folder.
    stem: String,
    /// The prefixes of the files before.
    stems: BTreeSet<String>,
    source: Arc<str>,
    /// Every other data set that a row has named.
    sources: RefCell<BTreeSet<Arc<str>>>,
    rows: Vec<T>,
    /// How many rows of a data set have had an id, by the hash of both.
    ids: HashMap<u64, u32>,
    /// The file and row of each data set, id and question, by their hash.
    questions: HashMap<u64, (u32, u32)>,
    /// Data sets and kinds that were not wanted.
    filtered_out: BTreeSet<String>,
    /// Columns that were already checked for the warning about unread columns.
    checked_columns: HashSet<String>,
    /// Text in `rows`, bytes.
    bytes: u64,
    notes: RefCell<BTreeMap<&'static str, usize>>,
    summary: ReadSummary,
}

impl<'a, T: Row> Collector<'a, T> {
    pub(super) fn new(path: &'a Path, options: &'a ReadOptions) -> Self {
        Self {
            path,
            options,
            file: PathBuf::new(),
            stem: String::new(),
            stems: BTreeSet::new(),
            source: options.source.clone().unwrap_or_else(|| name_of(path)).into(),
            sources: RefCell::default(),
            rows: Vec::new(),
            ids: HashMap::new(),
            questions: HashMap::new(),
            filtered_out: BTreeSet::new(),
            checked_columns: HashSet::new(),
            bytes: 0,
            notes: RefCell::default(),
            summary: ReadSummary::default(),
        }
    }

    /// The rows that follow are those of `file`.
    pub(super) fn begin(&mut self, file: &Path) {
        self.stem = match file.strip_prefix(self.path) {
            Ok(below) if !below.as_os_str().is_empty() => {
                below.with_extension("").display().to_string()
            }
            _ if self.path.is_file() => name_of(file),
            _ => file.display().to_string(),
        };
        // `a.csv` beside `a.jsonl`.
        if !self.stems.insert(self.stem.clone()) {
            let name = file.strip_prefix(self.path).unwrap_or(file);
            self.stem = name.display().to_string();
        }
        self.file = file.to_owned();
        self.summary.files.push(file.to_owned());
    }

    fn take(&mut self, number: usize, row: Result<Fields, String>) -> Result<(), Unused> {
        let context = Context {
            options: self.options,
            source: &self.source,
            sources: &self.sources,
            stem: &self.stem,
            number,
            notes: &self.notes,
        };
        let fields = row?;
        let (mut row, form) = T::read(&fields, &context)?;
        // Generated ids are unique by construction.
        let own = row.id().filter(|id| *id != context.id()).map(str::to_owned);
        if let Some(id) = own {
            self.identify(&mut row, id, number)?;
        }
        // The server's own records are known.
        if form != Form::Record {
            self.note_unread_columns(&fields, form);
        }
        self.summary.count(row.source(), form);
        let named = named_source(&fields);
        let named = named.as_deref().unwrap_or(&self.source);
        if !self.options.selects(named, row.kind()) {
            self.filtered_out.insert(class(named, row.kind()));
            self.summary.filtered_out += 1;
            return Ok(());
        }
        let is_full = self.options.shuffle_seed.is_none()
            && self.options.limit.is_some_and(|limit| self.rows.len() >= limit);
        if is_full {
            self.summary.beyond_limit += 1;
        } else {
            self.bytes += row.bytes() as u64;
            self.rows.push(row);
        }
        Ok(())
    }

    /// Adds a number to the id of a row if another of its data set has it: files that are read
    /// together may each number their rows from 0. Rejects a row that is there twice.
    fn identify(&mut self, row: &mut T, id: String, number: usize) -> Result<(), Unused> {
        let file = self.summary.files.len() as u32;
        match self.questions.entry(hash(&(row.source(), &id, row.question()))) {
            Entry::Occupied(first) => {
                let (first_file, first) = *first.get();
                let place = match self.summary.files.get(first_file as usize - 1) {
                    Some(other) if first_file != file => format!(" of `{}`", other.display()),
                    _ => String::new(),
                };
                return Err(format!(
                    "its id `{id}` and its question are those of row {first}{place}"
                )
                .into());
            }
            Entry::Vacant(free) => free.insert((file, number as u32)),
        };
        let source = row.source().to_owned();
        let key = |id: &str| hash(&(source.as_str(), id));
        let mut times = self.ids.get(&key(&id)).map_or(1, |times| times + 1);
        if times > 1 {
            let mut numbered = format!("{id}#{times}");
            while self.ids.contains_key(&key(&numbered)) {
                times += 1;
                numbered = format!("{id}#{times}");
            }
            self.ids.insert(key(&numbered), 1);
            row.set_id(numbered);
        }
        self.ids.insert(key(&id), times);
        Ok(())
    }

    /// Whether the options name the column.
    fn is_chosen(&self, column: &str) -> bool {
        let ReadOptions { question, answer, context, .. } = self.options;
        let mut chosen = [question, answer, context].into_iter().flatten();
        chosen.any(|name| name.eq_ignore_ascii_case(column))
    }

    /// Notes the columns that are not read although they may belong to the question or the answer.
    fn note_unread_columns(&mut self, fields: &Fields, form: Form) {
        for (name, value) in &fields.0 {
            if *value == Cell::Null || self.checked_columns.contains(name) {
                continue;
            }
            self.checked_columns.insert(name.clone());
            let has_own_note = self.options.context.is_none()
                && PASSAGES.iter().any(|passage| passage.eq_ignore_ascii_case(name));
            // A column of one letter is only read as that of an option.
            let is_option = name.len() == 1 && form != Form::MultipleChoice;
            let is_read = self.is_chosen(name) || (is_known(name) && !is_option);
            if !is_read && !is_metadata(name) && !has_own_note {
                self.summary.unread.insert(name.clone());
            }
        }
    }

    pub(super) fn finish(self) -> Result<ReadOutcome<T>, DatasetError> {
        let Self { path, options, mut rows, filtered_out, notes, mut summary, .. } = self;
        let path = path.to_owned();
        summary.notes = notes.into_inner();
        let used = rows.len() + summary.filtered_out + summary.beyond_limit;
        if summary.rows == 0 {
            return Err(DatasetError::Empty { path });
        }
        if used == 0 {
            return Err(DatasetError::NoTask { path, summary: Box::new(summary) });
        }
        if summary.rejected as f64 > options.max_rejected * summary.rows as f64 {
            let allowed = options.max_rejected;
            return Err(DatasetError::TooManyRejected {
                path,
                allowed,
                summary: Box::new(summary),
            });
        }
        if rows.is_empty() && summary.beyond_limit == 0 {
            let found = filtered_out.into_iter().collect::<Vec<_>>().join(", ");
            return Err(DatasetError::NothingSelected { path, found });
        }
        if let Some(seed) = options.shuffle_seed {
            rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        let limit = options.limit.unwrap_or(usize::MAX);
        summary.beyond_limit += rows.len().saturating_sub(limit);
        rows.truncate(limit);
        summary.used = rows.len();
        Ok(ReadOutcome { rows, summary })
    }
}

impl<T: Row> Sink for Collector<'_, T> {
    fn wants(&self, column: &str) -> bool {
        is_known(column) || self.is_chosen(column)
    }

    fn row(&mut self, number: usize, row: Result<Fields, String>) -> Result<(), DatasetError> {
        self.summary.rows += 1;
        match self.take(number, row) {
            Ok(()) => {}
            Err(Unused::Skipped(reason)) => {
                *self.summary.skipped.entry(reason).or_default() += 1;
            }
            Err(Unused::Rejected(reason)) => {
                self.summary.rejected += 1;
                if self.summary.first_rejected.len() < NAMED {
                    let file = self.file.clone();
                    self.summary.first_rejected.push(Rejected { file, row: number, reason });
                }
            }
        }
        if self.bytes > self.options.max_bytes {
            let (path, limit) = (self.file.clone(), self.options.max_bytes);
            return Err(DatasetError::TooLarge { path, row: number, limit });
        }
        Ok(())
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The name of a file without its endings, or of a folder.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if path.is_dir() {
        return name;
    }
    let bare = name.trim_end_matches(".gz").trim_end_matches(".zst");
    match bare.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem.to_owned(),
        _ => bare.to_owned(),
    }
}
