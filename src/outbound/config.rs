//! Time-outs and retries of requests to another service.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time-outs of requests to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutConfig {
    /// To resolve the name, connect and agree on TLS, milliseconds. Default: 5000.
    pub connect_ms: u64,
    /// From the start of an attempt to the response's headers, milliseconds. A reply that is not
    /// streamed must be complete by then. Default: 600000.
    pub first_byte_ms: u64,
    /// Between two pieces of a response's body, milliseconds. A reply that makes progress has no
    /// other limit. Default: 600000.
    pub idle_ms: u64,
    /// From the start of a call to the headers of its response, retries and waits included,
    /// milliseconds. Default: 600000.
    pub total_ms: u64,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        // The same limits as the official clients.
        const PATIENT: u64 = 600_000;
        Self { connect_ms: 5_000, first_byte_ms: PATIENT, idle_ms: PATIENT, total_ms: PATIENT }
    }
}

/// How failed attempts are repeated: after a random wait of at most `base_ms` times two to the
/// power of the retries so far, bounded by `cap_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts after the first. Default: 3.
    pub max: u32,
    /// The longest wait before the first retry, milliseconds. Default: 250.
    pub base_ms: u64,
    /// The longest wait before any retry, milliseconds. An endpoint whose `Retry-After` is longer
    /// is not retried. Default: 8000.
    pub cap_ms: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { max: 3, base_ms: 250, cap_ms: 8_000 }
    }
}

impl TimeoutConfig {
    /// To resolve, connect and agree on TLS.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// To the response's headers.
    pub fn first_byte(&self) -> Duration {
        Duration::from_millis(self.first_byte_ms)
    }

    /// Between two pieces of a body.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// For a call, retries included.
    pub fn total(&self) -> Duration {
        Duration::from_millis(self.total_ms)
    }
}
