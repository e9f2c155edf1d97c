//! The state that every handler shares.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::FromRef;
use uuid::Uuid;

use super::body_memory::BodyMemory;
use super::config::ServerConfig;
use super::episode::admission::Admission;
use super::item_memory::ItemMemory;
use super::metrics::Metrics;
use super::serving::Serving;
use crate::access::Access;
use crate::record::{Archive, RecordConfig, Recorder};

/// Gives the current time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
/// Makes ids, which also seed requests without a seed.
pub type Ids = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// The part of the server's state that lives as long as it.
pub struct App {
    /// The server's configuration.
    pub server: ServerConfig,
    /// Keys and their limits; anyone may send requests if there are none.
    pub access: Option<Arc<Access>>,
    /// Records episodes, if configured.
    pub recorder: Option<Recorder>,
    /// The recorded episodes, and who may read them.
    pub archive: Option<(Archive, RecordConfig)>,
    /// The metrics; also the observer of attempts at endpoints.
    pub metrics: Arc<Metrics>,
    /// The time of day, for `created`.
    pub clock: Clock,
    /// Ids of requests and replies.
    pub ids: Ids,
}

/// The state of the router; clones share it.
#[derive(Clone)]
pub struct AppHandle {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    app: App,
    pub(super) admission: Admission,
    body_memory: BodyMemory,
    item_memory: ItemMemory,
    serving: RwLock<Arc<Serving>>,
}

impl AppHandle {
    /// The state that is made of `app`, answering by `serving` until that is replaced.
    pub fn new(app: App, serving: Serving) -> Self {
        let admission = Admission::new(app.server.max_in_flight, app.server.queue);
        let ServerConfig { body_limit_bytes, bounds, .. } = &app.server;
        let body_memory = BodyMemory::new(bounds.bodies_bytes, *body_limit_bytes);
        serving.announce(&app.metrics);
        let serving = RwLock::new(Arc::new(serving));
        let item_memory = ItemMemory::default();
        let shared = Shared { app, admission, body_memory, item_memory, serving };
        Self { shared: Arc::new(shared) }
    }

    /// Uses `serving` for all requests from the next one on. Requests in flight finish with what
    /// they started with, which is dropped after the last of them. Must be called on a runtime.
    pub fn replace(&self, serving: Serving) {
        serving.announce(&self.shared.app.metrics);
        let serving = Arc::new(serving);
        let mut current = self.shared.serving.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, serving);
        drop(current);
        tokio::spawn(retire(old));
    }

    /// The state for a new request.
    pub(super) fn state(&self) -> AppState {
        let serving = self.shared.serving.read().unwrap_or_else(PoisonError::into_inner);
        AppState { shared: Arc::clone(&self.shared), serving: Arc::clone(&serving) }
    }
}

/// Drops what no request uses any more, on a thread that may wait for engines to end.
async fn retire(old: Arc<Serving>) {
    // Every remaining owner is a request; no new ones can appear.
    while Arc::strong_count(&old) > 1 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let dropped = tokio::task::spawn_blocking(move || drop(old)).await;
    tracing::info!(is_clean = dropped.is_ok(), "the old models are unloaded");
}

/// The state as one request sees it: it does not change during the request.
#[derive(Clone)]
pub(super) struct AppState {
    shared: Arc<Shared>,
    pub(super) serving: Arc<Serving>,
}

impl FromRef<AppHandle> for AppState {
    fn from_ref(handle: &AppHandle) -> Self {
        handle.state()
    }
}

impl AppState {
    pub(super) fn admission(&self) -> &Admission {
        &self.shared.admission
    }

    pub(super) fn body_memory(&self) -> &BodyMemory {
        &self.shared.body_memory
    }

    pub(super) fn item_memory(&self) -> &ItemMemory {
        &self.shared.item_memory
    }

    /// Seconds since 1970.
    pub(super) fn created(&self) -> u64 {
        (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// An id that begins with `prefix`.
    pub(super) fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}{}", (self.ids)().simple())
    }

    /// A seed for a request without one.
    pub(super) fn new_seed(&self) -> u64 {
        (self.ids)().as_u128() as u64
    }

    /// A number from 0 up to, but not including, 1.
    pub(super) fn draw(&self) -> f64 {
        // Ids may differ in a few bits only; SplitMix64's finaliser spreads them over all.
        let bits = crate::seed::scramble(self.new_seed());
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl std::ops::Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.shared.app
    }
}
