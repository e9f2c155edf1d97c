//! Cached replies: the most recently used in memory, all of them in a file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CacheError, LargeModel, Reply};
use crate::chat::ChatMessage;
use crate::journal::{Journal, JournalError};
use crate::trajectory::TokenUsage;

/// Replies by key, of which the most recently used are kept.
pub(super) struct Replies {
    capacity: usize,
    /// Each with the time of its last use, which is a counter.
    by_key: HashMap<Arc<str>, (Reply, u64)>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    journal: Option<Journal>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    request: String,
    message: ChatMessage,
    finish_reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logprobs: Option<Value>,
    usage: TokenUsage,
    /// Absent from lines of earlier versions.
    #[serde(default)]
    cost: Option<f64>,
}

impl Replies {
    pub(super) fn in_memory(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            by_key: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            journal: None,
        }
    }

    /// A reply costs what `model` charges now, or else what it cost when it was written.
    pub(super) fn persistent(
        capacity: usize,
        path: &Path,
        model: &dyn LargeModel,
    ) -> Result<Self, CacheError> {
        let (prices, only) = (model.prices(), model.only_prices());
        let mut replies = Self::in_memory(capacity);
        let journal = Journal::open(path, |line: Line| {
            let Line { request, message, finish_reason, logprobs, usage, cost } = line;
            let cost = cost.filter(|_| only.is_none()).unwrap_or_else(|| prices.cost(usage));
            let reply = Reply { message, finish_reason, logprobs, usage, cost };
            replies.keep(request.into(), reply);
        });
        let shown = || path.display().to_string();
        let journal = journal.map_err(|error| match error {
            JournalError::Io(source) => CacheError::Io { path: shown(), source },
            JournalError::Damaged { line, reason } => {
                CacheError::Damaged { path: shown(), line, reason }
            }
        })?;
        replies.journal = Some(journal);
        Ok(replies)
    }

    pub(super) fn get(&mut self, key: &str) -> Option<Reply> {
        let (key, (reply, used)) = self.by_key.get_key_value(key)?;
        let (key, reply, used) = (Arc::clone(key), reply.clone(), *used);
        self.by_use.remove(&used);
        self.keep(key, reply.clone());
        Some(reply)
    }

    /// Caches a reply and appends it to the file. A failed write is logged; the reply is still
    /// returned. The line is short and goes to the page cache, so it is written on this thread.
    pub(super) fn insert(&mut self, key: String, reply: &Reply) {
        if let Some(journal) = &mut self.journal {
            let Reply { message, finish_reason, logprobs, usage, cost } = reply.clone();
            let cost = Some(cost);
            let request = key.clone();
            let line = Line { request, message, finish_reason, logprobs, usage, cost };
            if let Err(error) = journal.append(&[line]) {
                tracing::warn!(%error, "cannot write to the reply cache");
            }
        }
        self.keep(key.into(), reply.clone());
    }

    fn keep(&mut self, key: Arc<str>, reply: Reply) {
        self.uses += 1;
        if let Some((_, used)) = self.by_key.insert(Arc::clone(&key), (reply, self.uses)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.uses, key);
        while self.by_key.len() > self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.by_key.remove(&oldest);
        }
    }
}
