//! Settings of the episodes of other trainers.

use serde::{Deserialize, Serialize};

/// How many episodes may be open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenEpisodesConfig {
    /// Open episodes, at least 1; beyond that, resets are refused. Finished episodes are closed
    /// first.
    pub max_open: usize,
    /// An episode without a request for this long is closed, milliseconds.
    pub idle_ms: u64,
}

impl Default for OpenEpisodesConfig {
    fn default() -> Self {
        Self { max_open: 1024, idle_ms: 600_000 }
    }
}
