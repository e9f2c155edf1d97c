//! Which rows of a file are read, and from which columns.

use serde::{Deserialize, Serialize};

/// Which rows are read, and from which columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOptions {
    /// The data set's name. Default: what a row has in `source` or `data_source`, or else the
    /// file's stem, or the folder's name.
    pub source: Option<String>,
    /// Only rows of these data sets, as the rows name them; all when empty.
    pub sources: Vec<String>,
    /// Only rows of these kinds; all when empty.
    pub kinds: Vec<String>,
    /// Shuffle with this seed before the limit is applied; file order when absent.
    pub shuffle_seed: Option<u64>,
    /// At most this many rows are used.
    pub limit: Option<usize>,
    /// The column with the question (or the user's message), where it has a name of its own.
    pub question: Option<String>,
    /// The column with the gold answer (or the assistant's message), where it has a name of its
    /// own.
    pub answer: Option<String>,
    /// A column with a passage that is put before the question. Default: `body` or `article`,
    /// without which a question cannot be understood, and no other.
    pub context: Option<String>,
    /// The share of rows that may be rejected, 0 to 1. Default: 0.01. Set by the reader's caller.
    #[serde(skip)]
    pub max_rejected: f64,
    /// The most text that the used rows may hold, bytes. Default: 1073741824 (1 GiB).
    pub max_bytes: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            source: None,
            sources: Vec::new(),
            kinds: Vec::new(),
            shuffle_seed: None,
            limit: None,
            question: None,
            answer: None,
            context: None,
            max_rejected: 0.01,
            max_bytes: 1 << 30,
        }
    }
}

impl ReadOptions {
    /// Whether rows that name this data set and kind are wanted.
    pub(super) fn selects(&self, source: &str, kind: Option<&str>) -> bool {
        let has = |kind: &str| self.kinds.iter().any(|wanted| wanted == kind);
        (self.sources.is_empty() || self.sources.iter().any(|wanted| wanted == source))
            && (self.kinds.is_empty() || kind.is_some_and(has))
    }

    /// The same columns and bounds, of all rows in the order of the file.
    pub fn columns(&self) -> Self {
        Self {
            source: None,
            sources: Vec::new(),
            kinds: Vec::new(),
            shuffle_seed: None,
            limit: None,
            ..self.clone()
        }
    }
}
