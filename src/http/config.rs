//! How the server listens and what it lets in.

use std::path::PathBuf;
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
    /// How long a request's headers may take to arrive, a TLS handshake may take, and a connection
    /// may wait for its next request, seconds. Default: 30.
    pub header_timeout_s: u64,
    /// How long a client may take nothing more of its response, seconds. Default: 60.
    pub write_timeout_s: u64,
    /// Connections at one time; further ones wait. Default: 4096.
    pub max_connections: usize,
    /// Episodes that run at one time. Default: 64.
    pub max_in_flight: usize,
    /// Episodes that wait for a place, inside their deadlines; more are a 429. Default: 256.
    pub queue: usize,
    /// How long a stream may be silent before a comment keeps it alive, seconds. Default: 10.
    pub keep_alive_s: u64,
    /// How long requests in flight may take to finish at shutdown, seconds. Default: 30.
    pub grace_s: u64,
    /// A file that holds the process's id while it runs, by which `server reload` finds it.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            body_limit_bytes: 10 * 1024 * 1024,
            body_timeout_s: 30,
            header_timeout_s: 30,
            write_timeout_s: 60,
            max_connections: 4096,
            max_in_flight: 64,
            queue: 256,
            keep_alive_s: 10,
            grace_s: 30,
            pid_file: None,
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

    pub(super) fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s.max(1))
    }

    pub(super) fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_s.max(1))
    }

    pub(super) fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s.max(1))
    }
}
