//! How the server listens and what it lets in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The server: the table `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where to listen. Default: `127.0.0.1:8080`.
    pub listen: String,
    /// The longest request body, bytes; longer ones are a 413. Default: 10485760 (10 MiB).
    pub body_limit_bytes: usize,
    /// How long a request's body may take to arrive, seconds. Default: 30.
    pub body_timeout_s: u64,
    /// Episodes that run at one time. Default: 64.
    pub max_in_flight: usize,
    /// Episodes that wait for a place, inside their deadlines; more are a 429. Default: 256.
    pub queue: usize,
    /// How long a stream may be silent before a comment keeps it alive, seconds. Default: 10.
    pub keep_alive_s: u64,
    /// How long requests in flight may take to finish at shutdown, seconds. Default: 30.
    pub grace_s: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            body_limit_bytes: 10 * 1024 * 1024,
            body_timeout_s: 30,
            max_in_flight: 64,
            queue: 256,
            keep_alive_s: 10,
            grace_s: 30,
        }
    }
}

impl ServerConfig {
    /// The time that requests in flight have at shutdown.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_s)
    }

    pub(super) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_s.max(1))
    }

    pub(super) fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s.max(1))
    }
}
