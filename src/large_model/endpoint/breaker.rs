//! The circuit breakers of one endpoint, one for each route and model. The clock is passed in. A
//! failing model or a missing route does not affect others.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::config::BreakerConfig;

/// Requests that probe an endpoint after a pause. More than one, so that a caller whose requests
/// always fail cannot keep the breaker open.
const PROBES: u32 = 3;
/// Routes and models that are tracked at once: those with recent failures.
const MOST_WATCHED: usize = 1_024;

/// What a request is for: the route and the model.
pub(super) type Target = String;

/// The breakers of one endpoint.
#[derive(Debug)]
pub(super) struct Breakers {
    config: BreakerConfig,
    /// Those that are not in their initial state.
    watched: HashMap<Target, Breaker>,
}

/// Opens once most of the recent requests failed, then lets a few probes through.
#[derive(Debug)]
struct Breaker {
    state: Circuit,
    /// The number of state changes. Results of requests from before the last change are ignored.
    generation: u64,
}

#[derive(Debug)]
enum Circuit {
    /// The results of the recent requests, newest last: whether each failed.
    Closed {
        failed: VecDeque<bool>,
    },
    Open {
        until: Instant,
    },
    /// Probes in flight, and failed probes.
    HalfOpen {
        probes: u32,
        failures: u32,
    },
}

/// Permission for one request and all its attempts.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    target: Target,
    generation: u64,
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
        Self { config, watched: HashMap::new() }
    }

    /// Permission for a request now, or the remaining pause.
    pub(super) fn admit(&mut self, target: &str, now: Instant) -> Result<Ticket, Duration> {
        let generation = match self.watched.get_mut(target) {
            None => 0,
            Some(breaker) => breaker.admit(now, self.config.pause())?,
        };
        Ok(Ticket { target: target.to_owned(), generation })
    }

    /// Whether the breaker opened since this ticket was issued.
    pub(super) fn is_stopped(&self, ticket: &Ticket) -> bool {
        self.watched.get(&ticket.target).is_some_and(|breaker| {
            breaker.generation != ticket.generation && matches!(breaker.state, Circuit::Open { .. })
        })
    }

    /// The length of the pause.
    pub(super) fn pause(&self) -> Duration {
        self.config.pause()
    }

    /// Notes that a response has begun: further requests may be sent before a probe has ended.
    pub(super) fn answers(&mut self, ticket: &Ticket) {
        if let Some(breaker) = self.watched.get(&ticket.target)
            && breaker.generation == ticket.generation
            && matches!(breaker.state, Circuit::HalfOpen { .. })
        {
            self.watched.remove(&ticket.target);
        }
    }

    /// Notes the result of a request. Every ticket must come back, even a cancelled one.
    pub(super) fn record(&mut self, ticket: &Ticket, health: Health, now: Instant) {
        if self.config.failures == 0 {
            return;
        }
        let is_known = self.watched.contains_key(&ticket.target);
        if !is_known && (health != Health::Bad || ticket.generation != 0) {
            return;
        }
        if !is_known && self.watched.len() >= MOST_WATCHED {
            self.watched.retain(|_, breaker| !matches!(breaker.state, Circuit::Closed { .. }));
            if self.watched.len() >= MOST_WATCHED {
                return;
            }
        }
        let breaker = self.watched.entry(ticket.target.clone()).or_insert_with(|| Breaker {
            state: Circuit::Closed { failed: VecDeque::new() },
            generation: 0,
        });
        if breaker.generation == ticket.generation && breaker.record(health, now, &self.config) {
            self.watched.remove(&ticket.target);
        }
    }
}

impl Breaker {
    fn admit(&mut self, now: Instant, pause: Duration) -> Result<u64, Duration> {
        match &mut self.state {
            Circuit::Closed { .. } => {}
            Circuit::Open { until } if now < *until => return Err(*until - now),
            Circuit::Open { .. } => self.enter(Circuit::HalfOpen { probes: 1, failures: 0 }),
            Circuit::HalfOpen { probes, failures } if *probes + *failures < PROBES => *probes += 1,
            Circuit::HalfOpen { .. } => return Err(pause),
        }
        Ok(self.generation)
    }

    /// Whether it is in its initial state.
    fn record(&mut self, health: Health, now: Instant, config: &BreakerConfig) -> bool {
        match &mut self.state {
            Circuit::Closed { failed } => {
                if health != Health::Unknown {
                    failed.push_back(health == Health::Bad);
                }
                let most = config.failures as usize;
                if failed.len() > most.saturating_mul(2) {
                    failed.pop_front();
                }
                let failures = failed.iter().filter(|failed| **failed).count();
                if failures >= most {
                    self.enter(Circuit::Open { until: now + config.pause() });
                }
                failures == 0
            }
            Circuit::HalfOpen { probes, failures } => {
                *probes = probes.saturating_sub(1);
                *failures += u32::from(health == Health::Bad);
                if *failures == PROBES {
                    self.enter(Circuit::Open { until: now + config.pause() });
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
