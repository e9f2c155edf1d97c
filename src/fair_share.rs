//! How much of something bounded one caller may take, so that others have some left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// What one caller leaves to others: one part in this many.
const LEFT_TO_OTHERS: usize = 8;

/// The share of one caller of the whole.
pub fn of_one(whole: usize) -> usize {
    whole - (whole / LEFT_TO_OTHERS).max(1).min(whole / 2)
}

/// The shares of callers, who are numbers; 0 is for callers that are not known apart.
#[derive(Debug)]
pub struct Shares {
    of_one: usize,
    /// Callers that use theirs.
    callers: Mutex<HashMap<u64, Weak<Semaphore>>>,
}

impl Shares {
    /// The shares of so many places.
    pub fn of_whole(places: usize) -> Self {
        Self { of_one: of_one(places), callers: Mutex::default() }
    }

    /// The places that this caller may take beside those of the whole; `None`: all.
    pub fn of(&self, caller: u64) -> Option<Arc<Semaphore>> {
        if caller == 0 {
            return None;
        }
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = callers.get(&caller).and_then(Weak::upgrade) {
            return Some(share);
        }
        callers.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.of_one));
        callers.insert(caller, Arc::downgrade(&share));
        Some(share)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_part_is_left_to_others() {
        for (whole, share) in [(0, 0), (1, 1), (2, 1), (4, 3), (16, 14), (64, 56), (256, 224)] {
            assert_eq!(of_one(whole), share, "{whole}");
        }
    }

    #[test]
    fn each_caller_has_one_share_while_it_uses_it() {
        let shares = Shares::of_whole(4);
        assert!(shares.of(0).is_none());
        let first = shares.of(1).unwrap();
        assert!(Arc::ptr_eq(&first, &shares.of(1).unwrap()));
        let taken = Arc::clone(&first).try_acquire_many_owned(3).unwrap();
        drop(first);
        assert_eq!(shares.of(1).unwrap().available_permits(), 0);
        assert_eq!(shares.of(2).unwrap().available_permits(), 3);
        drop(taken);
        assert_eq!(shares.of(1).unwrap().available_permits(), 3);
    }
}
