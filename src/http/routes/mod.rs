//! One file for each resource.

pub(super) mod health;
pub(super) mod solve;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

use crate::episode::Episode;

/// Headers that tell of an episode.
fn told(episode: &Episode, overhead: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let turns = episode.trajectory.turns.len();
    headers.insert("x-prompt-r1-turns", HeaderValue::from(turns));
    let overhead = format!("{:.3}", overhead.as_secs_f64() * 1e3);
    if let Ok(overhead) = HeaderValue::from_str(&overhead) {
        headers.insert("x-prompt-r1-overhead-ms", overhead);
    }
    headers
}
