//! The fixed windows in which the use of keys is counted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The window of requests and tokens, seconds.
pub(super) const MINUTE: u64 = 60;
/// The window of money, seconds.
pub(super) const DAY: u64 = 24 * 60 * MINUTE;

/// What a key has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyUsage {
    /// Requests of this minute, the present one included.
    pub(super) requests: u64,
    /// Tokens of this minute.
    pub(super) tokens: u64,
    /// Money of this day, millionths.
    pub(super) micros: i64,
}

/// A point in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timestamp {
    /// Seconds since 1970.
    seconds: u64,
}

impl Timestamp {
    pub(super) fn new(now: SystemTime) -> Self {
        Self { seconds: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) }
    }

    pub(super) fn minute(self) -> u64 {
        self.seconds / MINUTE
    }

    pub(super) fn day(self) -> u64 {
        self.seconds / DAY
    }

    pub(super) fn until_next(self, window: u64) -> Duration {
        Duration::from_secs(window - self.seconds % window)
    }
}
