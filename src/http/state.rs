//! What every handler shares.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::admission::Admission;
use super::config::ServerConfig;
use super::metrics::Metrics;
use crate::engine::Sampling;
use crate::episode::Limits;
use crate::large_model::LargeModels;
use crate::policy::Policy;
use crate::protocol::Protocol;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
/// Makes ids, which also seed the requests that bring no seed.
pub type Ids = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// What the server is made of.
pub struct App {
    /// Thinks and prompts.
    pub policy: Arc<dyn Policy>,
    /// Reply.
    pub large_models: Arc<LargeModels>,
    /// Frames what each of them reads.
    pub protocol: Arc<Protocol>,
    /// What an episode may use up: the defaults, and the most that a request may ask for.
    pub limits: Limits,
    /// How the policy samples where the request does not say; the seed is not used.
    pub sampling: Sampling,
    /// How the server behaves.
    pub server: ServerConfig,
    /// What is counted; also the observer of the endpoints' attempts.
    pub metrics: Arc<Metrics>,
    /// The time of day, for `created`.
    pub clock: Clock,
    /// Ids of requests and replies.
    pub ids: Ids,
}

/// The state of the router; clones share it.
#[derive(Clone)]
pub struct AppState {
    app: Arc<App>,
    pub(super) admission: Arc<Admission>,
}

impl AppState {
    /// The state that is made of `app`.
    pub fn new(app: App) -> Self {
        let admission = Admission::new(app.server.max_in_flight, app.server.queue);
        Self { app: Arc::new(app), admission: Arc::new(admission) }
    }

    /// Seconds since 1970.
    pub(super) fn created(&self) -> u64 {
        (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// An id that begins with `prefix`.
    pub(super) fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}{}", (self.ids)().simple())
    }

    /// A seed for a request that brings none.
    pub(super) fn new_seed(&self) -> u64 {
        (self.ids)().as_u128() as u64
    }
}

impl std::ops::Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}
