//! The circuit breaker of one endpoint: a state machine without a clock of its own.

use std::time::{Duration, Instant};

use super::config::BreakerConfig;

/// Stops attempts after too many failures in a row, then lets a single one through to see.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Counts the changes of state; attempts that began before the last one tell nothing new.
    generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

/// The permission for one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

/// What an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    Bad,
    /// The attempt was given up before it could tell.
    Unknown,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, state: State::Closed { failures: 0 }, generation: 0 }
    }

    /// Permission for an attempt now, or how long none is given.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } if now < until => return Err(until - now),
            State::Open { .. } => self.enter(State::HalfOpen),
            State::HalfOpen => return Err(self.pause()),
        }
        Ok(Ticket(self.generation))
    }

    /// Takes note that an attempt is being answered: one that was to test the endpoint need not end
    /// before others are made.
    pub(super) fn answers(&mut self, ticket: Ticket) {
        if self.state == State::HalfOpen && ticket.0 == self.generation {
            self.enter(State::Closed { failures: 0 });
        }
    }

    /// Takes note of how an attempt ended. Every ticket must come back, also a cancelled one.
    pub(super) fn record(&mut self, ticket: Ticket, health: Health, now: Instant) {
        if ticket.0 != self.generation {
            return;
        }
        match (self.state, health) {
            (State::Closed { .. }, Health::Good) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Health::Bad) => {
                let failures = failures.saturating_add(1);
                if self.config.failures > 0 && failures >= self.config.failures {
                    self.enter(State::Open { until: now + self.pause() });
                } else {
                    self.state = State::Closed { failures };
                }
            }
            (State::HalfOpen, Health::Good) => self.enter(State::Closed { failures: 0 }),
            (State::HalfOpen, Health::Bad) => self.enter(State::Open { until: now + self.pause() }),
            (State::HalfOpen, Health::Unknown) => self.enter(State::Open { until: now }),
            (State::Closed { .. }, Health::Unknown) | (State::Open { .. }, _) => {}
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(self.config.pause_ms)
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    /// What happens, at a time in milliseconds.
    enum Step {
        /// An attempt is let through; it is called by this letter later.
        Admit(u64, char),
        /// An attempt is refused for so many more milliseconds.
        Refuse(u64, u64),
        /// The attempt is being answered.
        Answer(char),
        /// The attempt ends.
        End(u64, char, Health),
    }
    use Health::{Bad, Good, Unknown};
    use Step::{Admit, Answer, End, Refuse};

    fn run(name: &str, failures: u32, steps: &[Step]) {
        let start = Instant::now();
        let at = |ms: &u64| start + Duration::from_millis(*ms);
        let mut breaker = Breaker::new(BreakerConfig { failures, pause_ms: 100 });
        let mut tickets = std::collections::HashMap::new();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Admit(ms, letter) => match breaker.admit(at(ms)) {
                    Ok(ticket) => drop(tickets.insert(letter, ticket)),
                    Err(wait) => panic!("{name}, step {number}: refused for {wait:?}"),
                },
                Refuse(ms, wait) => match breaker.admit(at(ms)) {
                    Ok(_) => panic!("{name}, step {number}: admitted"),
                    Err(got) => {
                        assert_eq!(got, Duration::from_millis(*wait), "{name}, step {number}")
                    }
                },
                Answer(letter) => breaker.answers(tickets[letter]),
                End(ms, letter, health) => breaker.record(tickets[letter], *health, at(ms)),
            }
        }
    }

    #[test]
    fn opens_probes_and_closes() {
        run(
            "stays closed below the limit",
            2,
            &[
                Admit(0, 'a'),
                End(1, 'a', Bad),
                Admit(2, 'b'),
                End(3, 'b', Good),
                Admit(4, 'c'),
                End(5, 'c', Bad),
                Admit(6, 'd'),
            ],
        );
        run(
            "opens at the limit, for the pause",
            2,
            &[
                Admit(0, 'a'),
                End(1, 'a', Bad),
                Admit(2, 'b'),
                End(10, 'b', Bad),
                Refuse(10, 100),
                Refuse(109, 1),
                Admit(110, 'c'),
            ],
        );
        run(
            "half-open lets one through",
            1,
            &[
                Admit(0, 'a'),
                End(0, 'a', Bad),
                Admit(100, 'b'),
                Refuse(101, 100),
                End(102, 'b', Good),
                Admit(103, 'c'),
                Admit(103, 'd'),
            ],
        );
        run(
            "a probe that is answered need not end",
            1,
            &[
                Admit(0, 'a'),
                End(0, 'a', Bad),
                Admit(100, 'b'),
                Refuse(101, 100),
                Answer('b'),
                Admit(102, 'c'),
                // However it ends.
                End(103, 'b', Bad),
                Admit(104, 'd'),
                End(105, 'd', Bad),
                Refuse(105, 100),
            ],
        );
        run(
            "an answer from before the pause does not end it",
            1,
            &[
                Admit(0, 'a'),
                Admit(0, 'b'),
                End(1, 'a', Bad),
                Answer('b'),
                Refuse(2, 99),
                Admit(101, 'c'),
                Answer('b'),
                Refuse(102, 100),
            ],
        );
        run(
            "a failed probe opens again",
            1,
            &[
                Admit(0, 'a'),
                End(0, 'a', Bad),
                Admit(100, 'b'),
                End(150, 'b', Bad),
                Refuse(151, 99),
                Admit(250, 'c'),
            ],
        );
        run(
            "a probe that was given up makes room for another",
            1,
            &[
                Admit(0, 'a'),
                End(0, 'a', Bad),
                Admit(100, 'b'),
                End(120, 'b', Unknown),
                Admit(121, 'c'),
                Refuse(122, 100),
            ],
        );
        run(
            "attempts from before tell nothing",
            1,
            &[
                Admit(0, 'a'),
                Admit(0, 'b'),
                Admit(0, 'c'),
                End(1, 'a', Bad),
                End(2, 'b', Good),
                Refuse(3, 98),
                End(60, 'c', Bad),
                Refuse(61, 40),
                Admit(101, 'd'),
                End(102, 'b', Bad),
                End(103, 'd', Good),
                Admit(104, 'e'),
            ],
        );
        run(
            "cancelled attempts count for nothing",
            2,
            &[
                Admit(0, 'a'),
                End(1, 'a', Bad),
                Admit(2, 'b'),
                End(3, 'b', Unknown),
                Admit(4, 'c'),
                End(5, 'c', Bad),
                Refuse(6, 99),
            ],
        );
        run(
            "zero switches it off",
            0,
            &[Admit(0, 'a'), End(1, 'a', Bad), Admit(2, 'b'), End(3, 'b', Bad), Admit(4, 'c')],
        );
    }
}
