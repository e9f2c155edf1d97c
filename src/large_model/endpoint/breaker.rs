//! The circuit breakers of one endpoint, one for each route and model: state machines without a
//! clock of their own. A model that fails, or a route that is not there, shuts no other out.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::config::BreakerConfig;

/// Requests that test an endpoint after a pause. More than one, so that a caller whose requests
/// always fail cannot keep it shut.
const PROBES: u32 = 3;
/// Routes and models that are watched at one time: those that failed of late.
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

/// Stops requests once most of the last ones failed, then lets a few through to see.
#[derive(Debug)]
struct Breaker {
    state: Circuit,
    /// Counts the changes of state; requests that began before the last one tell nothing new.
    generation: u64,
}

#[derive(Debug)]
enum Circuit {
    /// Whether each of the last requests failed, the newest last.
    Closed {
        failed: VecDeque<bool>,
    },
    Open {
        until: Instant,
    },
    /// Probes under way, and those that failed.
    HalfOpen {
        probes: u32,
        failures: u32,
    },
}

/// The permission for one request, all its attempts included.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    target: Target,
    generation: u64,
}

/// What a request says about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    Bad,
    /// The request was given up before it could tell.
    Unknown,
}

impl Breakers {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, watched: HashMap::new() }
    }

    /// Permission for a request now, or how long none is given.
    pub(super) fn admit(&mut self, target: &str, now: Instant) -> Result<Ticket, Duration> {
        let generation = match self.watched.get_mut(target) {
            None => 0,
            Some(breaker) => breaker.admit(now, self.config.pause())?,
        };
        Ok(Ticket { target: target.to_owned(), generation })
    }

    /// Whether requests of this kind have been stopped since the ticket was given.
    pub(super) fn is_stopped(&self, ticket: &Ticket) -> bool {
        self.watched.get(&ticket.target).is_some_and(|breaker| {
            breaker.generation != ticket.generation && matches!(breaker.state, Circuit::Open { .. })
        })
    }

    /// How long requests are stopped.
    pub(super) fn pause(&self) -> Duration {
        self.config.pause()
    }

    /// Takes note that a request is being answered: one that was to test the endpoint need not end
    /// before others are made.
    pub(super) fn answers(&mut self, ticket: &Ticket) {
        if let Some(breaker) = self.watched.get(&ticket.target)
            && breaker.generation == ticket.generation
            && matches!(breaker.state, Circuit::HalfOpen { .. })
        {
            self.watched.remove(&ticket.target);
        }
    }

    /// Takes note of how a request ended. Every ticket must come back, also a cancelled one.
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

    /// Whether it is in its initial state again.
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
