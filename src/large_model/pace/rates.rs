//! Counts requests and tokens of the last minute against a provider's limits. The clock is passed
//! in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The window of the limits.
const MINUTE: Duration = Duration::from_secs(60);

/// What a minute may have; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::large_model) struct Limits {
    pub(in crate::large_model) requests: Option<u32>,
    pub(in crate::large_model) tokens: Option<u64>,
}

impl Limits {
    /// Whether there is any.
    pub(super) fn is_some(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    /// The lower of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests.into_iter().chain(other.requests).min(),
            tokens: self.tokens.into_iter().chain(other.tokens).min(),
        }
    }
}

/// The requests of the last minute.
#[derive(Debug, Default)]
pub(super) struct Rates {
    sent: VecDeque<Sent>,
    /// The number of the oldest of `sent`.
    first: u64,
    tokens: u64,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    tokens: u64,
}

impl Rates {
    /// Counts a request of about `tokens` tokens and returns its number, or when to try again. One
    /// with more tokens than a minute allows is made alone.
    pub(super) fn take(
        &mut self,
        limits: Limits,
        tokens: u64,
        now: Instant,
    ) -> Result<u64, Instant> {
        let most_requests = limits.requests.map_or(usize::MAX, |requests| requests as usize);
        let most_tokens = limits.tokens.unwrap_or(u64::MAX);
        self.forget_before(now);
        let tokens = tokens.min(most_tokens);
        let (mut requests, mut used) = (self.sent.len(), self.tokens);
        let mut until = None;
        let mut leaving = self.sent.iter();
        while requests >= most_requests || used.saturating_add(tokens) > most_tokens {
            let Some(oldest) = leaving.next() else { break };
            requests -= 1;
            used -= oldest.tokens;
            until = Some(oldest.at + MINUTE);
        }
        if let Some(until) = until {
            return Err(until);
        }
        Ok(self.count(tokens, now))
    }

    /// Counts a request, whatever the limits; returns its number.
    pub(super) fn count(&mut self, tokens: u64, now: Instant) -> u64 {
        self.forget_before(now);
        self.sent.push_back(Sent { at: now, tokens });
        self.tokens += tokens;
        self.first + self.sent.len() as u64 - 1
    }

    /// Forgets the requests of earlier minutes.
    fn forget_before(&mut self, now: Instant) {
        while let Some(oldest) = self.sent.front().filter(|oldest| oldest.at + MINUTE <= now) {
            self.tokens -= oldest.tokens;
            self.first += 1;
            self.sent.pop_front();
        }
    }

    /// Replaces the expected tokens of a request by what it used.
    pub(super) fn used(&mut self, number: u64, tokens: u64) {
        let slot = number.checked_sub(self.first).and_then(|slot| usize::try_from(slot).ok());
        if let Some(sent) = slot.and_then(|slot| self.sent.get_mut(slot)) {
            self.tokens = self.tokens - sent.tokens + tokens;
            sent.tokens = tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_request_that_does_not_wait_counts_for_those_that_do() {
        let begun = Instant::now();
        let limits = Limits { requests: Some(1), tokens: None };
        let mut rates = Rates::default();
        assert_eq!(rates.count(0, begun), 0);
        assert_eq!(rates.count(0, begun + S(10)), 1);
        assert_eq!(rates.take(limits, 1, begun + S(20)), Err(begun + S(70)));
        assert_eq!(rates.count(0, begun + S(60)), 2);
        assert_eq!(rates.sent.len(), 2);
    }

    #[test]
    fn no_minute_has_more_requests_than_allowed() {
        let begun = Instant::now();
        let limits = Limits { requests: Some(2), tokens: None };
        let mut rates = Rates::default();
        assert_eq!(rates.take(limits, 1, begun), Ok(0));
        assert_eq!(rates.take(limits, 1, begun + S(10)), Ok(1));
        assert_eq!(rates.take(limits, 1, begun + S(20)), Err(begun + S(60)));
        assert_eq!(rates.take(limits, 1, begun + S(60)), Ok(2));
        assert_eq!(rates.take(limits, 1, begun + S(60)), Err(begun + S(70)));
    }

    #[test]
    fn tokens_count_as_they_are_known() {
        let begun = Instant::now();
        let limits = Limits { requests: None, tokens: Some(100) };
        let mut rates = Rates::default();
        let first = rates.take(limits, 60, begun).unwrap();
        assert_eq!(rates.take(limits, 60, begun + S(1)), Err(begun + S(60)));
        rates.used(first, 30);
        assert_eq!(rates.take(limits, 60, begun + S(1)), Ok(1));
        // A request that exceeds a whole minute's limit waits for an empty window.
        assert_eq!(rates.take(limits, 1_000, begun + S(2)), Err(begun + S(61)));
        assert_eq!(rates.take(limits, 1_000, begun + S(61)), Ok(2));
        // The first has left the window: nothing is counted twice.
        rates.used(first, 5_000);
        assert_eq!(rates.take(limits, 100, begun + S(121)), Ok(3));
    }

    #[test]
    fn the_lower_of_two_limits_holds() {
        let limits = |requests, tokens| Limits { requests, tokens };
        assert_eq!(limits(Some(2), None).and(limits(Some(3), Some(5))), limits(Some(2), Some(5)));
        assert_eq!(limits(None, Some(9)).and(limits(None, Some(5))), limits(None, Some(5)));
        assert!(!limits(None, None).and(limits(None, None)).is_some());
    }
}
