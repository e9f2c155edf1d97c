//! Tracks the prefixes that mistral.rs caches: on a CPU all finished sequences, until its
//! cache is emptied.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokens per block of keys and values in mistral.rs.
const BLOCK: usize = 512;

/// Counts the cached sequences.
pub(super) struct PrefixBudget {
    /// The most memory that they may take, bytes.
    limit: usize,
    bytes_per_token: usize,
    sequences: AtomicUsize,
    /// The largest allocation of any of them, tokens. A sequence that continues another takes over
    /// its allocation, however short it is itself, so each is assumed to have this much.
    room: AtomicUsize,
}

impl PrefixBudget {
    pub(super) fn new(limit: usize, bytes_per_token: usize) -> Self {
        let (sequences, room) = Default::default();
        Self { limit, bytes_per_token, sequences, room }
    }

    /// Whether one more would exceed the budget.
    pub(super) fn is_full(&self) -> bool {
        let sequences = self.sequences.load(Ordering::Relaxed);
        let bytes = self.room.load(Ordering::Relaxed) * self.bytes_per_token;
        sequences > 0 && (sequences + 1).saturating_mul(bytes) > self.limit
    }

    /// A sequence of this many tokens is cached.
    pub(super) fn add(&self, tokens: usize) {
        self.sequences.fetch_add(1, Ordering::Relaxed);
        self.room.fetch_max(tokens.next_multiple_of(BLOCK), Ordering::Relaxed);
    }

    /// Nothing is cached any more.
    pub(super) fn clear(&self) {
        self.sequences.store(0, Ordering::Relaxed);
        self.room.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_blocks_and_by_the_longest() {
        let kept = PrefixBudget::new(4 * BLOCK * 10, 10);
        assert!(!kept.is_full());
        for _ in 0..3 {
            assert!(!kept.is_full());
            kept.add(1);
        }
        assert!(!kept.is_full());
        kept.add(BLOCK);
        assert!(kept.is_full());
        kept.clear();
        assert!(!kept.is_full());
        kept.add(BLOCK + 1);
        assert!(!kept.is_full());
        kept.add(1);
        assert!(kept.is_full());
        // A sequence that exceeds the budget alone is cached until the next one.
        kept.clear();
        kept.add(10 * BLOCK);
        assert!(kept.is_full());
    }
}
