//! A cache of keys and values of finished sequences, for requests with the same adapter and prefix.

use std::collections::VecDeque;

use crate::model::generate::decode::SequenceCache;

/// Finished sequences, the least recently used first, bounded in tokens.
#[derive(Debug)]
pub(super) struct PrefixCache<C> {
    entries: VecDeque<Entry<C>>,
    bound: usize,
    /// Tokens held; a block that several entries share counts for each.
    held: usize,
}

#[derive(Debug)]
struct Entry<C> {
    /// What the cache was computed with.
    adapter: Option<usize>,
    /// As many as the cache holds.
    ids: Vec<u32>,
    cache: C,
}

impl<C: SequenceCache> PrefixCache<C> {
    pub fn new(bound: usize) -> Self {
        Self { entries: VecDeque::new(), bound, held: 0 }
    }

    /// The entry of `adapter` that begins with the most of `ids`, and how many.
    pub fn longest(&self, adapter: Option<usize>, ids: &[u32]) -> Option<(usize, usize)> {
        let entries = self.entries.iter().enumerate();
        let entries = entries.filter(|(_, entry)| entry.adapter == adapter);
        let shared = entries.map(|(index, entry)| (index, common(&entry.ids, ids)));
        shared.filter(|&(_, len)| len > 0).max_by_key(|&(_, len)| len)
    }

    /// The first `len` tokens of an entry. An entry that is used whole is removed: the sequence
    /// that takes it over will be longer when it comes back.
    pub fn take(&mut self, index: usize, len: usize) -> C {
        let Some(entry) = self.remove(index) else { return C::default() };
        if len >= entry.cache.len() {
            return entry.cache;
        }
        let prefix = entry.cache.prefix(len);
        self.held += entry.cache.capacity();
        self.entries.push_back(entry);
        prefix
    }

    /// Caches what was computed of `ids` with `adapter`. Entries that it extends are removed, and
    /// beyond the bound the least recently used ones.
    pub fn insert(&mut self, adapter: Option<usize>, mut ids: Vec<u32>, cache: C) {
        ids.truncate(cache.len());
        if cache.is_empty() || cache.capacity() > self.bound {
            return;
        }
        let is_continued =
            |entry: &Entry<C>| entry.adapter == adapter && ids.starts_with(&entry.ids);
        while let Some(index) = self.entries.iter().position(is_continued) {
            self.remove(index);
        }
        self.held += cache.capacity();
        self.entries.push_back(Entry { adapter, ids, cache });
        while self.held > self.bound {
            self.remove(0);
        }
    }

    /// Removes the least recently used entry; `false` if there is none.
    pub fn evict(&mut self) -> bool {
        self.remove(0).is_some()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.held = 0;
    }

    fn remove(&mut self, index: usize) -> Option<Entry<C>> {
        let entry = self.entries.remove(index)?;
        self.held -= entry.cache.capacity();
        Some(entry)
    }
}

/// The length of the common prefix of two sequences.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::model::generate::decode::Span;
    use crate::model::generate::decoder::{Decoder, Scratch, Shape};
    use crate::model::generate::kv_cache::KvCache;
    use crate::model::generate::reference::{even_spec, random_weights};

    fn computed(ids: &[u32]) -> KvCache {
        let model = even_spec();
        let decoder =
            Decoder::new(Arc::new(Shape::new(&model)), &random_weights(&model, 1)).unwrap();
        let mut cache = KvCache::default();
        let mut spans = [Span { cache: &mut cache, tokens: ids, logits: false, adapter: None }];
        assert_eq!(decoder.logits(&mut spans, &mut Scratch::default()).count(), 0);
        cache
    }

    fn insert(prefixes: &mut PrefixCache<KvCache>, ids: &[u32]) {
        prefixes.insert(None, ids.to_vec(), computed(ids));
    }

    #[test]
    fn the_longest_common_prefix_is_found() {
        let mut prefixes = PrefixCache::new(1_000);
        insert(&mut prefixes, &[1, 2, 3, 4]);
        insert(&mut prefixes, &[1, 2, 9]);
        assert_eq!(prefixes.longest(None, &[1, 2, 3, 5]), Some((0, 3)));
        assert_eq!(prefixes.longest(None, &[1, 2, 9, 9, 9]), Some((1, 3)));
        assert_eq!(prefixes.longest(None, &[2]), None);
    }

    #[test]
    fn an_entry_used_whole_moves_and_one_used_in_part_stays() {
        let mut prefixes = PrefixCache::new(1_000);
        insert(&mut prefixes, &[1, 2, 3, 4]);
        assert_eq!(prefixes.take(0, 2).len(), 2);
        assert_eq!(prefixes.take(0, 4).len(), 4);
        assert_eq!(prefixes.longest(None, &[1, 2, 3, 4]), None);
    }

    #[test]
    fn beyond_the_bound_the_least_recently_used_go() {
        // Room for three blocks of sixteen.
        let mut prefixes = PrefixCache::new(48);
        for first in [1, 2, 3] {
            insert(&mut prefixes, &[first, 7]);
        }
        prefixes.take(0, 1);
        insert(&mut prefixes, &[4, 7]);
        let kept: Vec<bool> = (1..5).map(|id| prefixes.longest(None, &[id]).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        insert(&mut prefixes, &[9; 49]);
        assert_eq!(prefixes.longest(None, &[9; 49]), None);
        assert!(prefixes.longest(None, &[4]).is_some());
    }

    #[test]
    fn a_longer_sequence_replaces_those_it_continues() {
        let mut prefixes = PrefixCache::new(32);
        insert(&mut prefixes, &[5, 5]);
        insert(&mut prefixes, &[1, 2]);
        insert(&mut prefixes, &[1, 2, 3]);
        assert!(prefixes.longest(None, &[5]).is_some());
        assert_eq!(prefixes.longest(None, &[1, 2, 3]).map(|(_, len)| len), Some(3));
    }
}
