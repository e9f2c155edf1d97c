//! Measures the load of token servers between two moments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ServerUse, TokensEngine};

/// The load of an engine's servers since it was last read.
pub struct LoadMeter {
    servers: Arc<TokensEngine>,
    since: Instant,
    before: Vec<ServerUse>,
}

/// How servers were used over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilisation {
    /// The mean share of the time in which a server was busy.
    pub mean: f64,
    /// The share of the least busy server.
    pub min: f64,
    /// Requests that failed.
    pub failures: u64,
}

impl LoadMeter {
    /// Measures from now on.
    pub fn new(servers: Arc<TokensEngine>) -> Self {
        let before = servers.used();
        Self { servers, since: Instant::now(), before }
    }

    /// The load since the last call, which is also logged for each server.
    pub fn read(&mut self) -> Utilisation {
        let (now, used) = (Instant::now(), self.servers.used());
        let time = (now - self.since).max(Duration::from_millis(1)).as_secs_f64();
        let pairs = || used.iter().zip(&self.before);
        let shares: Vec<f64> =
            pairs().map(|(used, before)| (used.busy - before.busy).as_secs_f64() / time).collect();
        let failures: u64 = pairs().map(|(used, before)| used.failures - before.failures).sum();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        let min = shares.iter().copied().fold(1.0, f64::min);
        for (used, share) in used.iter().zip(&shares) {
            tracing::info!(
                server = used.server,
                busy = share,
                requests = used.requests,
                tokens = used.tokens,
                failures = used.failures,
                "token server"
            );
        }
        (self.since, self.before) = (now, used);
        Utilisation { mean, min, failures }
    }
}
