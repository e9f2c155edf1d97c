//! What mistral.rs keeps of finished sequences: on a CPU all of it, until it is told to let go.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokens by which mistral.rs makes room for a sequence's keys and values.
const BLOCK: usize = 512;

/// Counts the sequences that are kept.
pub(super) struct PrefixBudget {
    /// The most that they may take, bytes.
    limit: usize,
    bytes_per_token: usize,
    sequences: AtomicUsize,
    /// The most room that one of them has, tokens. One that goes on with another takes over its
    /// room, however short it is itself, so each is taken to have that much.
    room: AtomicUsize,
}

impl PrefixBudget {
    pub(super) fn new(limit: usize, bytes_per_token: usize) -> Self {
        let (sequences, room) = Default::default();
        Self { limit, bytes_per_token, sequences, room }
    }

    /// Whether one more would be too much.
    pub(super) fn is_full(&self) -> bool {
        let sequences = self.sequences.load(Ordering::Relaxed);
        let bytes = self.room.load(Ordering::Relaxed) * self.bytes_per_token;
        sequences > 0 && (sequences + 1).saturating_mul(bytes) > self.limit
    }

    /// A sequence of so many tokens is kept.
    pub(super) fn add(&self, tokens: usize) {
        self.sequences.fetch_add(1, Ordering::Relaxed);
        self.room.fetch_max(tokens.next_multiple_of(BLOCK), Ordering::Relaxed);
    }

    /// Nothing is kept any more.
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
        // What alone is too much is kept until the next comes.
        kept.clear();
        kept.add(10 * BLOCK);
        assert!(kept.is_full());
    }
}
