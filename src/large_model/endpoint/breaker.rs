//! The circuit breakers of one endpoint: for each route and model, one of all callers and one of
//! each caller with failures. The clock is passed in. A failing model or a missing route does not
//! affect others, nor does a caller whose requests fail, be it on purpose: it opens its own
//! breaker, and that of all callers only together with others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::BreakerConfig;

/// Requests that probe an endpoint after a pause.
const PROBES: usize = 3;
/// Breakers that are tracked at once: those with recent failures.
const MAX_TRACKED: usize = 1_024;

/// What a request is for: the route and the model.
type Target = Arc<str>;

/// The breakers of one endpoint.
#[derive(Debug)]
pub(super) struct Breakers {
    config: BreakerConfig,
    /// Those that are not in their initial state: of a caller, or of all.
    tracked: HashMap<(Target, Option<u64>), Breaker>,
}

/// Opens once most of the recent requests failed, then lets a few probes through.
#[derive(Debug)]
struct Breaker {
    state: Circuit,
    /// The number of state changes. Results of requests from before the last change are ignored.
    generation: u64,
    rules: Rules,
}

/// When a breaker opens and closes.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// This many failures among twice as many requests open it.
    failures: usize,
    /// As many of them count from one caller.
    failures_of_one: usize,
    /// Probes of one caller.
    probes_of_one: usize,
    pause: Duration,
}

#[derive(Debug)]
enum Circuit {
    /// The results of the recent requests, newest last: whether each failed, and whose it was.
    Closed {
        recent: VecDeque<(bool, u64)>,
    },
    Open {
        until: Instant,
    },
    /// Callers with a probe in flight, and those whose probe failed since the last pause.
    HalfOpen {
        probes: Vec<u64>,
        failed: Vec<u64>,
        until: Instant,
    },
}

/// Permission for one request and all its attempts.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    target: Target,
    caller: u64,
    /// Of the caller's breaker, and of that of all.
    generations: [u64; 2],
}

impl Ticket {
    /// The breakers that it is for, with their generations.
    fn keys(&self) -> [((Target, Option<u64>), u64); 2] {
        let [own, shared] = self.generations;
        let key = |caller| (Arc::clone(&self.target), caller);
        [(key(Some(self.caller)), own), (key(None), shared)]
    }
}

/// What the result of a request says about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    Bad,
    /// The request was cancelled before it had a result.
    Unknown,
}

impl Breakers {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, tracked: HashMap::new() }
    }

    /// Permission for a request of this caller now, or the remaining pause.
    pub(super) fn admit(
        &mut self,
        target: &str,
        caller: u64,
        now: Instant,
    ) -> Result<Ticket, Duration> {
        let target = Target::from(target);
        let mut ticket = Ticket { target, caller, generations: [0; 2] };
        for (number, (key, _)) in ticket.keys().into_iter().enumerate() {
            let Some(breaker) = self.tracked.get_mut(&key) else { continue };
            match breaker.admit(caller, now) {
                Ok(generation) => ticket.generations[number] = generation,
                Err(wait) => {
                    if number == 1 {
                        // The caller's own breaker may have counted it as a probe.
                        let (own, generation) = &ticket.keys()[0];
                        self.note(own, *generation, caller, Health::Unknown, now);
                    }
                    return Err(wait);
                }
            }
        }
        Ok(ticket)
    }

    /// Whether a breaker opened since this ticket was issued.
    pub(super) fn is_revoked(&self, ticket: &Ticket) -> bool {
        ticket.keys().iter().any(|(key, generation)| {
            self.tracked.get(key).is_some_and(|breaker| {
                breaker.generation != *generation && matches!(breaker.state, Circuit::Open { .. })
            })
        })
    }

    /// The length of the pause.
    pub(super) fn pause(&self) -> Duration {
        self.config.pause()
    }

    /// Notes that a response has begun: further requests may be sent before a probe has ended.
    pub(super) fn response_began(&mut self, ticket: &Ticket) {
        for (key, generation) in ticket.keys() {
            if let Some(breaker) = self.tracked.get(&key)
                && breaker.generation == generation
                && matches!(breaker.state, Circuit::HalfOpen { .. })
            {
                self.tracked.remove(&key);
            }
        }
    }

    /// Notes the result of a request. Every ticket must come back, even a cancelled one.
    pub(super) fn record(&mut self, ticket: &Ticket, health: Health, now: Instant) {
        if self.config.failures == 0 {
            return;
        }
        for (key, generation) in ticket.keys() {
            self.note(&key, generation, ticket.caller, health, now);
        }
    }

    fn note(
        &mut self,
        key: &(Target, Option<u64>),
        generation: u64,
        caller: u64,
        health: Health,
        now: Instant,
    ) {
        let is_known = self.tracked.contains_key(key);
        if !is_known && (health != Health::Bad || generation != 0) {
            return;
        }
        if !is_known && self.tracked.len() >= MAX_TRACKED {
            self.tracked.retain(|_, breaker| !matches!(breaker.state, Circuit::Closed { .. }));
            if self.tracked.len() >= MAX_TRACKED {
                return;
            }
        }
        let rules = Rules::of(&self.config, key.1.is_none());
        let breaker = self.tracked.entry(key.clone()).or_insert_with(|| Breaker {
            state: Circuit::Closed { recent: VecDeque::new() },
            generation: 0,
            rules,
        });
        if breaker.generation == generation && breaker.record(caller, health, now) {
            self.tracked.remove(key);
        }
    }
}

impl Rules {
    fn of(config: &BreakerConfig, is_shared: bool) -> Self {
        let (failures, pause) = (config.failures as usize, config.pause());
        if !is_shared {
            return Self { failures, failures_of_one: failures, probes_of_one: PROBES, pause };
        }
        // No caller opens it alone, or keeps it open.
        let failures = failures.max(2);
        Self { failures, failures_of_one: failures / 2, probes_of_one: 1, pause }
    }
}

impl Breaker {
    fn admit(&mut self, caller: u64, now: Instant) -> Result<u64, Duration> {
        let Rules { probes_of_one, pause, .. } = self.rules;
        match &mut self.state {
            Circuit::Closed { .. } => {}
            Circuit::Open { until } if now < *until => return Err(*until - now),
            Circuit::Open { .. } => self.enter(Circuit::HalfOpen {
                probes: vec![caller],
                failed: Vec::new(),
                until: now + pause,
            }),
            Circuit::HalfOpen { probes, failed, until } => {
                if *until <= now {
                    // Too few callers for a decision: they may try again.
                    (*failed, *until) = (Vec::new(), now + pause);
                }
                let sent = || probes.iter().chain(failed.iter());
                let own = sent().filter(|whose| **whose == caller).count();
                if sent().count() >= PROBES || own >= probes_of_one {
                    return Err(pause);
                }
                probes.push(caller);
            }
        }
        Ok(self.generation)
    }

    /// Whether it is in its initial state.
    fn record(&mut self, caller: u64, health: Health, now: Instant) -> bool {
        let Rules { failures, failures_of_one, pause, .. } = self.rules;
        match &mut self.state {
            Circuit::Closed { recent } => {
                if health != Health::Unknown {
                    recent.push_back((health == Health::Bad, caller));
                }
                if recent.len() > failures.saturating_mul(2) {
                    recent.pop_front();
                }
                let mut of_each: HashMap<u64, usize> = HashMap::new();
                for (_, caller) in recent.iter().filter(|(has_failed, _)| *has_failed) {
                    *of_each.entry(*caller).or_default() += 1;
                }
                let counted: usize =
                    of_each.values().map(|of_one| failures_of_one.min(*of_one)).sum();
                if counted >= failures {
                    self.enter(Circuit::Open { until: now + pause });
                }
                of_each.is_empty()
            }
            Circuit::HalfOpen { probes, failed, .. } => {
                if let Some(at) = probes.iter().position(|whose| *whose == caller) {
                    probes.swap_remove(at);
                }
                if health == Health::Bad {
                    failed.push(caller);
                }
                if failed.len() == PROBES {
                    self.enter(Circuit::Open { until: now + pause });
                }
                health == Health::Good
            }
            Circuit::Open { .. } => false,
        }
    }

    fn enter(&mut self, state: Circuit) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
