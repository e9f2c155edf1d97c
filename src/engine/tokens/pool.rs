//! Routes requests: to the server that has computed their prefix, otherwise to the least busy one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The pause after a server's first failure; it doubles with each further one of a request that
/// began after that pause.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Sequences that are remembered for routing.
const REMEMBERED: usize = 8_192;

/// A server's statistics since the engine was built.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerUse {
    /// Its address.
    pub server: String,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests that it completed.
    pub requests: u64,
    /// Tokens that it sampled for those.
    pub tokens: u64,
    /// Requests that it failed.
    pub failures: u64,
    /// Time with at least one request in flight.
    pub busy: Duration,
}

/// The servers' loads.
#[derive(Debug)]
pub(super) struct ServerPool {
    state: Mutex<State>,
    /// Notified when a slot becomes free, or a pause ends.
    freed: Notify,
    waiting: AtomicUsize,
    max_in_flight: usize,
    queue: usize,
}

#[derive(Debug, Default)]
struct State {
    loads: Vec<Load>,
    /// Hashes of prefixes with the server that computed them: a newer and an older generation.
    computed: [HashMap<u64, usize>; 2],
}

#[derive(Debug, Default)]
struct Load {
    used: ServerUse,
    busy_since: Option<Instant>,
    /// Failures since its last success.
    failures: u32,
    down_until: Option<Instant>,
    /// When the last pause began.
    paused_at: Option<Instant>,
}

/// Why no server takes a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoServer {
    /// The queue is full.
    QueueFull,
    /// No slot became free in time.
    TimedOut,
    /// All servers failed recently. The first is retried after this time.
    AllDown(Duration),
}

/// A request's slot at a server, released when dropped.
#[derive(Debug)]
pub(super) struct ServerSlot {
    pool: Arc<ServerPool>,
    /// Which of the servers.
    pub(super) server: usize,
    began: Instant,
}

impl ServerPool {
    pub(super) fn new(servers: Vec<String>, max_in_flight: usize, queue: usize) -> Self {
        let load =
            |server| Load { used: ServerUse { server, ..ServerUse::default() }, ..Load::default() };
        let loads = servers.into_iter().map(load).collect();
        Self {
            state: Mutex::new(State { loads, ..State::default() }),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            max_in_flight,
            queue,
        }
    }

    /// Waits for a slot for a request with this prompt.
    pub(super) async fn slot(
        self: &Arc<Self>,
        prompt: &[u32],
        until: Instant,
    ) -> Result<ServerSlot, NoServer> {
        if let Some(found) = self.take(prompt, Instant::now()) {
            return found;
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _count = Waiting(&self.waiting);
        if waiting >= self.queue {
            return Err(NoServer::QueueFull);
        }
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on no notification is missed.
            freed.as_mut().enable();
            if let Some(found) = self.take(prompt, Instant::now()) {
                return found;
            }
            if tokio::time::timeout_at(until.into(), freed).await.is_err() {
                return Err(NoServer::TimedOut);
            }
        }
    }

    /// A slot that is free now. `None` if all available servers are full.
    fn take(
        self: &Arc<Self>,
        prompt: &[u32],
        now: Instant,
    ) -> Option<Result<ServerSlot, NoServer>> {
        let mut state = self.state();
        let is_up = |load: &Load| load.down_until.is_none_or(|until| until <= now);
        if !state.loads.iter().any(is_up) {
            let first = state.loads.iter().filter_map(|load| load.down_until).min();
            return Some(Err(NoServer::AllDown(first.map_or(PAUSE, |first| first - now))));
        }
        let is_free = |load: &Load| is_up(load) && load.used.in_flight < self.max_in_flight;
        let free = state.loads.iter().enumerate().filter(|(_, load)| is_free(load));
        let least = free.min_by_key(|(_, load)| (load.used.in_flight, load.used.requests));
        let (least, _) = least?;
        let known = state.computed_by(prompt).filter(|&server| is_free(&state.loads[server]));
        let server = known.unwrap_or(least);
        let load = &mut state.loads[server];
        load.used.in_flight += 1;
        load.busy_since.get_or_insert(now);
        Some(Ok(ServerSlot { pool: Arc::clone(self), server, began: now }))
    }

    /// The load of each server so far.
    pub(super) fn used(&self) -> Vec<ServerUse> {
        let (state, now) = (self.state(), Instant::now());
        let used = |load: &Load| {
            let busy = load.busy_since.map_or(Duration::ZERO, |since| now - since);
            ServerUse { busy: load.used.busy + busy, ..load.used.clone() }
        };
        state.loads.iter().map(used).collect()
    }

    /// Whether a server is available.
    pub(super) fn is_up(&self, server: usize) -> bool {
        let now = Instant::now();
        self.state().loads[server].down_until.is_none_or(|until| until <= now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The server that computed the longest known prefix of `prompt`.
    fn computed_by(&self, prompt: &[u32]) -> Option<usize> {
        // With one server there is nothing to choose or to remember.
        if self.computed.iter().all(HashMap::is_empty) {
            return None;
        }
        let find = |hash: u64| self.computed.iter().find_map(|half| half.get(&hash)).copied();
        Prefixes::of(prompt).filter_map(find).last()
    }

    fn remember(&mut self, ids: impl Iterator<Item = u32>, server: usize) {
        let Some(hash) = Prefixes::of_ids(ids).last() else { return };
        if self.computed[0].len() >= REMEMBERED / 2 {
            self.computed.swap(0, 1);
            self.computed[0].clear();
        }
        self.computed[0].insert(hash, server);
    }
}

impl ServerSlot {
    /// The request succeeded: the server has computed `prompt` and `sampled`.
    pub(super) fn served(&self, prompt: &[u32], sampled: &[u32]) {
        let mut state = self.pool.state();
        if state.loads.len() > 1 {
            state.remember(prompt.iter().chain(sampled).copied(), self.server);
        }
        let load = &mut state.loads[self.server];
        load.used.requests += 1;
        load.used.tokens += sampled.len() as u64;
        (load.failures, load.down_until, load.paused_at) = (0, None, None);
    }

    /// The server failed the request and is paused, for `pause` if it says so.
    pub(super) fn failed(&self, pause: Option<Duration>) {
        let mut state = self.pool.state();
        let load = &mut state.loads[self.server];
        load.used.failures += 1;
        let now = Instant::now();
        // Requests in flight at once fail by one event: only the first of them begins a pause.
        let is_new = load.paused_at.is_none_or(|at| self.began > at);
        if is_new {
            let growing = PAUSE * 2_u32.saturating_pow(load.failures.min(10));
            load.failures += 1;
            load.paused_at = Some(now);
            load.down_until = Some(now + pause.unwrap_or(growing).min(MAX_PAUSE));
        } else if let Some(pause) = pause {
            load.down_until = load.down_until.max(Some(now + pause.min(MAX_PAUSE)));
        }
        drop(state);
        // Requests that wait for this server must choose again.
        self.pool.freed.notify_waiters();
    }
}

impl Drop for ServerSlot {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        let load = &mut state.loads[self.server];
        load.used.in_flight -= 1;
        if load.used.in_flight == 0
            && let Some(since) = load.busy_since.take()
        {
            load.used.busy += since.elapsed();
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hashes of all prefixes of a sequence, the shortest first (FNV-1a).
struct Prefixes;

impl Prefixes {
    fn of(ids: &[u32]) -> impl Iterator<Item = u64> {
        Self::of_ids(ids.iter().copied())
    }

    fn of_ids(ids: impl Iterator<Item = u32>) -> impl Iterator<Item = u64> {
        ids.scan(0xcbf2_9ce4_8422_2325_u64, |hash, id| {
            for byte in id.to_le_bytes() {
                *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            Some(*hash)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pool(servers: usize, max_in_flight: usize) -> Arc<ServerPool> {
        let names = (0..servers).map(|server| server.to_string()).collect();
        Arc::new(ServerPool::new(names, max_in_flight, 1))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn the_least_busy_server_comes_first_and_a_conversation_stays() {
        let pool = pool(3, 2);
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(pool.slot(&[1, 2], soon()).await.unwrap());
        }
        let mut servers: Vec<usize> = slots.iter().map(|slot| slot.server).collect();
        servers.sort_unstable();
        assert_eq!(servers, [0, 1, 2]);
        let slot = slots.pop().unwrap();
        let server = slot.server;
        slot.served(&[1, 2], &[3, 4]);
        drop(slot);
        for _ in 0..2 {
            slots.push(pool.slot(&[1, 2, 3, 4, 5], soon()).await.unwrap());
            assert_eq!(slots.last().unwrap().server, server, "it has the beginning");
        }
        let elsewhere = pool.slot(&[1, 2, 3, 4, 5], soon()).await.unwrap();
        assert_ne!(elsewhere.server, server, "it is full");
        let used = pool.used();
        assert_eq!((used[server].requests, used[server].tokens, used[server].in_flight), (1, 2, 2));
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_freed() {
        let pool = pool(1, 1);
        let slot = pool.slot(&[1], soon()).await.unwrap();
        assert_eq!(pool.slot(&[1], soon()).await.unwrap_err(), NoServer::TimedOut);
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.slot(&[1], Instant::now() + Duration::from_secs(20)).await }
        });
        while pool.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.slot(&[1], soon()).await.unwrap_err(), NoServer::QueueFull);
        drop(slot);
        assert_eq!(waiting.await.unwrap().unwrap().server, 0);
        assert_eq!(pool.used()[0].in_flight, 0);
    }

    #[tokio::test]
    async fn requests_that_fail_together_begin_one_pause() {
        let pool = pool(1, 8);
        let mut slots = Vec::new();
        for _ in 0..8 {
            slots.push(pool.slot(&[1], soon()).await.unwrap());
        }
        for slot in slots.drain(..) {
            slot.failed(None);
        }
        assert_eq!(pool.used()[0].failures, 8);
        let wait = match pool.slot(&[1], soon()).await.unwrap_err() {
            NoServer::AllDown(wait) => wait,
            other => unreachable!("{other:?}"),
        };
        assert!(wait <= PAUSE, "{wait:?}");
        // One that begins after the pause, and fails too, doubles it.
        tokio::time::sleep(wait).await;
        pool.slot(&[1], soon()).await.unwrap().failed(None);
        let refused = pool.slot(&[1], soon()).await.unwrap_err();
        assert!(matches!(refused, NoServer::AllDown(wait) if wait > PAUSE), "{refused:?}");
    }

    #[tokio::test]
    async fn a_server_that_fails_is_left_alone_for_a_while() {
        let pool = pool(2, 1);
        let first = pool.slot(&[1], soon()).await.unwrap();
        first.failed(None);
        let down = first.server;
        drop(first);
        let second = pool.slot(&[1], soon()).await.unwrap();
        assert_ne!(second.server, down);
        assert!(!pool.is_up(down) && pool.is_up(second.server));
        second.failed(Some(Duration::from_secs(5)));
        let refused = pool.slot(&[1], soon()).await.unwrap_err();
        assert!(matches!(refused, NoServer::AllDown(wait) if wait <= PAUSE), "{refused:?}");
        second.served(&[1], &[]);
        let server = second.server;
        drop(second);
        assert_eq!(pool.slot(&[1], soon()).await.unwrap().server, server);
    }
}
