//! One file for each resource.

pub(super) mod chat;
pub(super) mod docs;
pub(super) mod forward;
pub(super) mod health;
pub(super) mod metrics;
pub(super) mod models;
pub(super) mod solve;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::Policy;

/// The header that tells whose episode it is.
fn by(policy: &dyn Policy) -> HeaderMap {
    let name = HeaderValue::from_str(policy.name()).ok();
    name.map(|name| (HeaderName::from_static("x-prompt-r1-policy"), name)).into_iter().collect()
}

/// Headers that tell of an episode.
fn told(policy: &dyn Policy, turns: usize, overhead: Duration) -> HeaderMap {
    let mut headers = by(policy);
    headers.insert("x-prompt-r1-turns", HeaderValue::from(turns));
    let overhead = format!("{:.3}", overhead.as_secs_f64() * 1e3);
    if let Ok(overhead) = HeaderValue::from_str(&overhead) {
        headers.insert("x-prompt-r1-overhead-ms", overhead);
    }
    headers
}
