//! The outcome of the rows of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use super::{Form, Rejected};

/// The outcome of the rows of one or more files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// The files, in the order in which they were read.
    pub files: Vec<PathBuf>,
    /// Rows read.
    pub rows: usize,
    /// Rows used.
    pub used: usize,
    /// Rows of other data sets or kinds than were asked for.
    pub filtered_out: usize,
    /// Rows beyond the limit.
    pub beyond_limit: usize,
    /// Rows that can be parsed but are of no use, by reason.
    pub skipped: BTreeMap<&'static str, usize>,
    /// Rows that cannot be parsed.
    pub rejected: usize,
    /// The first of those.
    pub first_rejected: Vec<Rejected>,
    /// Rows by data set and form.
    pub forms: BTreeMap<String, BTreeMap<Form, usize>>,
    /// What was changed about rows, and in how many.
    pub notes: BTreeMap<&'static str, usize>,
    /// Columns that were not read, except those that only say something about a row, such as `url`.
    pub unread: BTreeSet<String>,
}

impl ReadSummary {
    /// Counts a row of this data set and form.
    pub(super) fn count(&mut self, source: &str, form: Form) {
        if !self.forms.contains_key(source) {
            self.forms.insert(source.to_owned(), BTreeMap::new());
        }
        if let Some(forms) = self.forms.get_mut(source) {
            *forms.entry(form).or_default() += 1;
        }
    }

    /// The form of most rows of a data set.
    pub fn form(&self, source: &str) -> Option<Form> {
        let forms = self.forms.get(source)?;
        forms.iter().max_by_key(|(_, count)| **count).map(|(form, _)| *form)
    }

    /// Why the first rows were rejected, and rows were skipped.
    pub fn reasons(&self) -> Vec<String> {
        let skipped = self.skipped.iter().map(|(why, count)| format!("{count} rows: {why}"));
        self.first_rejected.iter().map(ToString::to_string).chain(skipped).collect()
    }

    /// One line for each thing that a user should know besides the counts: rejected rows with
    /// reasons, skipped rows, truncated rows, columns that were not read.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.first_rejected.iter().map(|rejected| format!("left out: {rejected}")).collect();
        let unnamed = self.rejected - self.first_rejected.len();
        if unnamed > 0 {
            lines.push(format!("left out: {unnamed} more rows that are not understood"));
        }
        let counted = |(what, count): (&&str, &usize)| format!("{count} rows: {what}");
        lines.extend(self.skipped.iter().map(counted).map(|line| format!("left out: {line}")));
        lines.extend(self.remarks());
        lines
    }

    /// What was changed about rows, and which columns were not read, a line each.
    pub fn remarks(&self) -> Vec<String> {
        /// Columns that are named.
        const NAMED: usize = 20;
        let mut lines: Vec<String> =
            self.notes.iter().map(|(what, count)| format!("{count} rows: {what}")).collect();
        if !self.unread.is_empty() {
            let named = self.unread.iter().take(NAMED).map(|name| format!("`{name}`"));
            let more = match self.unread.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named = named.collect::<Vec<_>>().join(", ");
            lines.push(format!("columns that were not read: {named}{more}"));
        }
        lines
    }
}

/// The counts on one line: `7473 rows in 1 file: 7473 used (GSM8K)`.
impl fmt::Display for ReadSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.len();
        let plural = if files == 1 { "" } else { "s" };
        write!(f, "{} rows in {files} file{plural}: {} used", self.rows, self.used)?;
        let skipped: usize = self.skipped.values().sum();
        for (count, what) in [
            (self.rejected, "rejected"),
            (skipped, "skipped"),
            (self.filtered_out, "of other data sets or kinds"),
            (self.beyond_limit, "beyond the limit"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        let mut forms: BTreeMap<Form, usize> = BTreeMap::new();
        for (form, count) in self.forms.values().flatten() {
            *forms.entry(*form).or_default() += count;
        }
        let names: Vec<String> = match forms.len() {
            1 => forms.keys().map(Form::to_string).collect(),
            _ => forms.iter().map(|(form, count)| format!("{count} {form}")).collect(),
        };
        write!(f, " ({})", names.join(", "))
    }
}
