//! One file for each resource.

pub(super) mod chat;
pub(super) mod docs;
pub(super) mod forward;
pub(super) mod health;
pub(super) mod metrics;
pub(super) mod models;
pub(super) mod solve;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

/// Headers that tell of an episode.
fn told(turns: usize, overhead: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-prompt-r1-turns", HeaderValue::from(turns));
    let overhead = format!("{:.3}", overhead.as_secs_f64() * 1e3);
    if let Ok(overhead) = HeaderValue::from_str(&overhead) {
        headers.insert("x-prompt-r1-overhead-ms", overhead);
    }
    headers
}
