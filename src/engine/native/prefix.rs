//! Keys and values of finished sequences, for requests that begin alike.

use std::collections::VecDeque;

use crate::model::generate::cache::KvCache;

/// Finished sequences, the least recently used first, bounded in tokens.
#[derive(Debug)]
pub(super) struct PrefixCache {
    entries: VecDeque<Entry>,
    bound: usize,
    /// Tokens held; a block that several entries share counts for each.
    held: usize,
}

#[derive(Debug)]
struct Entry {
    /// As many as the cache holds.
    ids: Vec<u32>,
    cache: KvCache,
}

impl PrefixCache {
    pub fn new(bound: usize) -> Self {
        Self { entries: VecDeque::new(), bound, held: 0 }
    }

    /// The entry that begins with the most of `ids`, and how many.
    pub fn longest(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let entries = self.entries.iter().enumerate();
        let shared = entries.map(|(index, entry)| (index, common(&entry.ids, ids)));
        shared.filter(|&(_, len)| len > 0).max_by_key(|&(_, len)| len)
    }

    /// The first `len` tokens of an entry. An entry that is used whole is gone: the sequence that
    /// takes it over comes back longer.
    pub fn take(&mut self, index: usize, len: usize) -> KvCache {
        let Some(entry) = self.remove(index) else { return KvCache::default() };
        if len >= entry.cache.len() {
            return entry.cache;
        }
        let prefix = entry.cache.prefix(len);
        self.held += entry.cache.capacity();
        self.entries.push_back(entry);
        prefix
    }

    /// Keeps what was computed of `ids`. Entries that it continues and, beyond the bound, the least
    /// recently used ones go.
    pub fn insert(&mut self, mut ids: Vec<u32>, cache: KvCache) {
        ids.truncate(cache.len());
        if cache.is_empty() || cache.capacity() > self.bound {
            return;
        }
        while let Some(index) = self.entries.iter().position(|entry| ids.starts_with(&entry.ids)) {
            self.remove(index);
        }
        self.held += cache.capacity();
        self.entries.push_back(Entry { ids, cache });
        while self.held > self.bound {
            self.remove(0);
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.held = 0;
    }

    fn remove(&mut self, index: usize) -> Option<Entry> {
        let entry = self.entries.remove(index)?;
        self.held -= entry.cache.capacity();
        Some(entry)
    }
}

/// How many ids two sequences have in common from the start.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
