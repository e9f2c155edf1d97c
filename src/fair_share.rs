//! How much of something bounded one caller may take, so that others have some left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// The part of the total that one caller cannot take: one in this many.
const LEFT_TO_OTHERS: usize = 8;

/// How much of `whole` one caller may take.
pub fn per_caller(whole: usize) -> usize {
    whole - (whole / LEFT_TO_OTHERS).max(1).min(whole / 2)
}

/// Limits each caller's use of a resource. Callers have numbers; 0 stands for callers that cannot
/// be told apart.
#[derive(Debug)]
pub struct CallerShares {
    per_caller: usize,
    /// The callers that hold permits.
    callers: Mutex<HashMap<u64, Weak<Semaphore>>>,
}

impl CallerShares {
    /// Limits for a resource with `places` permits.
    pub fn new(places: usize) -> Self {
        Self { per_caller: per_caller(places), callers: Mutex::default() }
    }

    /// The semaphore of this caller, to acquire in addition to that of the resource; `None` if the
    /// caller has no limit of its own.
    pub fn of(&self, caller: u64) -> Option<Arc<Semaphore>> {
        if caller == 0 {
            return None;
        }
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = callers.get(&caller).and_then(Weak::upgrade) {
            return Some(share);
        }
        callers.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.per_caller));
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
            assert_eq!(per_caller(whole), share, "{whole}");
        }
    }

    #[test]
    fn each_caller_has_one_share_while_it_uses_it() {
        let shares = CallerShares::new(4);
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
