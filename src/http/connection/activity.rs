//! The state of a connection: whether it serves requests, reads one, or is idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Time-outs of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// For the handshake and the headers of a request.
    pub(super) header: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    /// For a client that reads nothing of a response.
    pub(super) write: Duration,
}

/// The state of one connection, shared by its stream, its requests and its watchdog.
pub(super) struct Activity {
    state: Mutex<ConnectionState>,
    closing: Notify,
}

struct ConnectionState {
    phase: ConnectionPhase,
    since: Instant,
    in_flight: usize,
    /// How many requests there have been.
    begun: u64,
    /// Since when responses have been blocked by the client's flow control, by request number. Used
    /// on multiplexed connections, where writes themselves do not block on it.
    waiting: HashMap<u64, Instant>,
    /// Whether requests are multiplexed: the connection's bytes are then not those of one request.
    is_multiplexed: bool,
    /// Whether part of a request's body was not read.
    has_unread: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionPhase {
    /// No complete request has arrived yet.
    New,
    /// The headers of a further request are arriving.
    Reading,
    Serving,
    Idle,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let state = ConnectionState {
            phase: ConnectionPhase::New,
            since: Instant::now(),
            in_flight: 0,
            begun: 0,
            waiting: HashMap::new(),
            is_multiplexed: false,
            has_unread: false,
        };
        Arc::new(Self { state: Mutex::new(state), closing: Notify::new() })
    }

    pub(super) fn multiplex(&self) {
        self.state().is_multiplexed = true;
    }

    /// Bytes have come in.
    pub(super) fn read(&self) {
        let mut state = self.state();
        if state.phase == ConnectionPhase::Idle && !state.is_multiplexed {
            (state.phase, state.since) = (ConnectionPhase::Reading, Instant::now());
        }
    }

    /// A request begins; it ends when the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        let mut state = self.state();
        state.phase = ConnectionPhase::Serving;
        state.in_flight += 1;
        state.begun += 1;
        let number = state.is_multiplexed.then_some(state.begun);
        drop(state);
        InFlight { activity: Arc::clone(self), number, is_waiting: false }
    }

    pub(super) fn set_unread(&self, has_unread: bool) {
        self.state().has_unread = has_unread;
    }

    pub(super) fn has_unread(&self) -> bool {
        let state = self.state();
        state.has_unread && !state.is_multiplexed
    }

    /// The start of its idle time; `None` while it serves.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.phase != ConnectionPhase::Serving).then_some(state.since)
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.closing.notify_one();
    }

    /// Returns when the connection must be closed: on request, or after its time-out.
    pub(super) async fn wait_for_close(&self, timeouts: Timeouts) {
        let expired = async {
            while let Some(next) = self.next_check(timeouts) {
                tokio::time::sleep_until(next.into()).await;
            }
        };
        tokio::select! {
            () = expired => {}
            () = self.closing.notified() => {}
        }
    }

    /// When to check the connection again; `None` if its time-out has passed. No phase that begins
    /// meanwhile ends earlier.
    fn next_check(&self, timeouts: Timeouts) -> Option<Instant> {
        let state = self.state();
        let now = Instant::now();
        let deadline = match state.phase {
            ConnectionPhase::New | ConnectionPhase::Reading => Some(state.since + timeouts.header),
            ConnectionPhase::Idle => Some(state.since + timeouts.idle),
            ConnectionPhase::Serving => {
                state.waiting.values().min().map(|since| *since + timeouts.write)
            }
        };
        if deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let soon = now + timeouts.header.min(timeouts.idle).min(timeouts.write);
        Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request and its response in progress.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    /// Its number, where requests are multiplexed.
    number: Option<u64>,
    is_waiting: bool,
}

impl InFlight {
    /// Notes whether a piece of the response waits to be sent from now on.
    pub(super) fn set_waiting(&mut self, is_waiting: bool) {
        let Some(number) = self.number.filter(|_| is_waiting || self.is_waiting) else { return };
        let mut state = self.activity.state();
        if is_waiting {
            state.waiting.insert(number, Instant::now());
        } else {
            state.waiting.remove(&number);
        }
        drop(state);
        self.is_waiting = is_waiting;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.set_waiting(false);
        let mut state = self.activity.state();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            (state.phase, state.since) = (ConnectionPhase::Idle, Instant::now());
        }
    }
}
