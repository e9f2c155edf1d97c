//! One file for each resource. `http::documented` lists their handlers, and `http::metrics::ROUTES`
//! those that metrics distinguish.

pub(super) mod chat;
pub(super) mod docs;
pub(super) mod episodes;
mod failures;
pub(super) mod forward;
pub(super) mod health;
pub(super) mod messages;
pub(super) mod metrics;
pub(super) mod models;
pub(super) mod playground;
pub(super) mod responses;
pub(super) mod solve;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::Policy;

/// The header that names the policy of an episode.
pub(super) fn policy_header(policy: &dyn Policy) -> HeaderMap {
    let name = HeaderValue::from_str(policy.name()).ok();
    name.map(|name| (HeaderName::from_static("x-prompt-r1-policy"), name)).into_iter().collect()
}

/// The headers of a whole reply.
pub(super) fn episode_headers(policy: &dyn Policy, turns: usize, overhead: Duration) -> HeaderMap {
    let mut headers = policy_header(policy);
    headers.insert("x-prompt-r1-turns", HeaderValue::from(turns));
    let overhead = format!("{:.3}", overhead.as_secs_f64() * 1e3);
    if let Ok(overhead) = HeaderValue::from_str(&overhead) {
        headers.insert("x-prompt-r1-overhead-ms", overhead);
    }
    headers
}
