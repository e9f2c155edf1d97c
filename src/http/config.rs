//! The configuration of the server.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::body_memory::RESERVED_BODIES;
use crate::hint::Reason;

/// The server: the table `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// The listening address. Default: `127.0.0.1:8080`.
    pub listen: String,
    /// The longest request body, bytes; longer ones are a 413. Default: 10485760 (10 MiB).
    pub body_limit_bytes: usize,
    /// The time-out for a request's body to arrive, seconds. Default: 30.
    pub body_timeout_s: u64,
    /// The time-out for a request's headers, for a TLS handshake, and for the first request of a
    /// new connection, seconds. Default: 30.
    pub header_timeout_s: u64,
    /// The time-out between requests of a connection, seconds. Proxies keep theirs open for 60 s
    /// and longer, and must not find them closed. Default: 90.
    pub idle_timeout_s: u64,
    /// The time-out for a client that reads nothing of its response, seconds. Default: 60.
    pub write_timeout_s: u64,
    /// Concurrent connections; for a further one, the longest idle connection is closed. Default:
    /// 4096.
    pub max_connections: usize,
    /// Concurrent episodes. Default: 64.
    pub max_in_flight: usize,
    /// Episodes that may queue, within their deadlines; more are a 429. Default: 256.
    pub queue: usize,
    /// The longest silence of a stream before a keep-alive comment, seconds. Default: 10.
    pub keep_alive_s: u64,
    /// How long requests in flight may take at shutdown, seconds. Default: 30.
    pub grace_s: u64,
    /// A file that holds the process's id while it runs, by which `server reload` finds it.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
    /// Host names of the server, besides `localhost` and IP addresses. While no key is needed,
    /// requests for other host names are refused, which prevents DNS rebinding. `*` allows any.
    /// Default: none.
    pub hosts: Vec<String>,
    /// Origins of web pages that may send requests, such as `https://chat.example.com`; `*` allows
    /// any. Default: only the server's own.
    pub allowed_origins: Vec<String>,
    /// Whether to serve the web page at `/`. Default: true.
    pub ui: bool,
    /// The field of chat completions with the policy's thoughts: `reasoning_content`, `reasoning`
    /// or `both`. Default: `reasoning_content`.
    pub reasoning_field: ReasoningField,
    /// Limits on the cost of a request before it is admitted.
    pub bounds: Bounds,
}

/// The field of a chat completion's message that contains the thoughts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningField {
    /// The name of DeepSeek, vLLM before 0.12, LiteLLM and most clients.
    #[default]
    ReasoningContent,
    /// The name of OpenRouter and newer vLLM.
    Reasoning,
    /// Both names; clients that read both show the thoughts twice.
    Both,
}

impl ReasoningField {
    /// The names of the field.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::ReasoningContent => &["reasoning_content"],
            Self::Reasoning => &["reasoning"],
            Self::Both => &["reasoning_content", "reasoning"],
        }
    }
}

/// Limits on the cost of a request before it is admitted: the table `[server.bounds]`. Beyond them,
/// the error names the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Bytes that the JSON of a request for the loop takes once it is parsed, beside its texts,
    /// times the answers that it asks for (`n`). Estimated before it is parsed: 400 for an object,
    /// 300 for a list and for each field of an object beyond the third, 144 for each item of a list
    /// beyond the fourth, 32 for each string and name. Default: 16777216 (16 MiB), which is 13,000
    /// messages of one part each, or 40,000 objects.
    pub json_bytes: usize,
    /// Bytes of a request for the loop times the answers that it asks for (`n`). Default:
    /// 10485760 (10 MiB).
    pub choices_bytes: usize,
    /// Bytes of all request bodies in memory, decoded; further ones wait. At least twice
    /// `body_limit_bytes`, which is kept for one body at a time, so that bodies which arrive
    /// together do not wait for each other; of the rest one key takes at most seven eighths.
    /// Default: 268435456 (256 MiB).
    pub bodies_bytes: usize,
    /// Bytes of a stop sequence. Default: 4096.
    pub stop_bytes: usize,
    /// Bytes of a JSON schema. Default: 131072 (128 KiB).
    pub schema_bytes: usize,
    /// Subschemas of a JSON schema. Default: 2000.
    pub schema_subschemas: usize,
    /// References (`$ref`) in a JSON schema. Default: 1000.
    pub schema_references: usize,
    /// Consecutive references in a JSON schema. Default: 64.
    pub schema_reference_chain: usize,
    /// Patterns in a JSON schema. Default: 64.
    pub schema_patterns: usize,
    /// Bytes of a compiled pattern. Default: 262144 (256 KiB).
    pub schema_pattern_bytes: usize,
    /// Steps of validating an answer against a JSON schema. Default: 1000000.
    pub schema_steps: u64,
    /// Bytes of an answer that is validated against a JSON schema. Default: 1048576 (1 MiB).
    pub checked_bytes: usize,
    /// Milliseconds of validating an answer against a JSON schema. Default: 1000.
    pub check_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            json_bytes: 16 * 1024 * 1024,
            choices_bytes: 10 * 1024 * 1024,
            bodies_bytes: 256 * 1024 * 1024,
            stop_bytes: 4096,
            schema_bytes: 128 * 1024,
            schema_subschemas: 2000,
            schema_references: 1000,
            schema_reference_chain: 64,
            schema_patterns: 64,
            schema_pattern_bytes: 256 * 1024,
            schema_steps: 1_000_000,
            checked_bytes: 1024 * 1024,
            check_ms: 1000,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            body_limit_bytes: 10 * 1024 * 1024,
            body_timeout_s: 30,
            header_timeout_s: 30,
            idle_timeout_s: 90,
            write_timeout_s: 60,
            max_connections: 4096,
            max_in_flight: 64,
            queue: 256,
            keep_alive_s: 10,
            grace_s: 30,
            pid_file: None,
            hosts: Vec::new(),
            allowed_origins: Vec::new(),
            ui: true,
            reasoning_field: ReasoningField::default(),
            bounds: Bounds::default(),
        }
    }
}

/// The longest time-out, seconds: a year. The clock has no times for the longest numbers.
const LONGEST_S: u64 = 365 * 24 * 60 * 60;

impl ServerConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the first wrong one.
    pub fn check(&self) -> Result<(), Reason> {
        for (key, value) in [
            ("body_limit_bytes", self.body_limit_bytes as u64),
            ("body_timeout_s", self.body_timeout_s),
            ("header_timeout_s", self.header_timeout_s),
            ("idle_timeout_s", self.idle_timeout_s),
            ("write_timeout_s", self.write_timeout_s),
            ("max_connections", self.max_connections as u64),
            ("max_in_flight", self.max_in_flight as u64),
            ("keep_alive_s", self.keep_alive_s),
        ] {
            if value == 0 {
                return Err(reason!(
                    "`server.{key}` must be at least 1"; hint: "leave it out for the default"
                ));
            }
            if key.ends_with("_s") && value > LONGEST_S {
                return Err(reason!(
                    "`server.{key}` = {value} is more than {LONGEST_S}, a year";
                    hint: "leave it out for the default"
                ));
            }
        }
        let (bytes, limit) = (self.bounds.bodies_bytes, self.body_limit_bytes);
        let least = limit.saturating_mul(RESERVED_BODIES);
        if bytes < least {
            return Err(reason!(
                "`server.bounds.bodies_bytes` is {bytes}, but a body of `server.body_limit_bytes` = {limit} takes up to {least}: as it was sent, and decoded";
                hint: "raise it, or lower `server.body_limit_bytes`"
            ));
        }
        Ok(())
    }

    /// The time that requests in flight have at shutdown.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_s)
    }

    pub(super) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_s)
    }

    pub(super) fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    pub(super) fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_s)
    }

    pub(super) fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s)
    }
}

/// TLS: the table `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's certificate with its intermediates, PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, PEM.
    pub key: PathBuf,
}
