//! Waiting for what other tasks, threads and processes do.

use std::time::{Duration, Instant};

/// The time-out of everything. No healthy machine comes near it, so it decides nothing.
pub const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(5);

/// Returns once `holds`, and fails with `what` when that takes too long.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "{what} did not come about");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same without a runtime; `what` is made when it fails.
pub fn eventually_blocking(what: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "{} did not come about", what());
        std::thread::sleep(PAUSE);
    }
}
