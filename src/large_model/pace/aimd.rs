//! Adapts the number of concurrent calls to their results: slow start, then additive increase and
//! multiplicative decrease. The clock is passed in.

use std::time::{Duration, Instant};

/// The initial number of concurrent calls.
const FIRST: usize = 4;
/// How much slower calls may become, relative to the fastest round, before there are too many.
const TOLERANCE: f64 = 2.0;

/// The limit of one model at one endpoint.
#[derive(Debug)]
pub(super) struct Aimd {
    limit: usize,
    max_limit: usize,
    /// Calls that take longer than this are too slow at any rate: they come near their time-outs.
    max_duration: Duration,
    /// The limit doubles with each round until the first sign of overload.
    is_starting: bool,
    /// When the limit changed. Calls that began before say nothing about the current one.
    changed: Option<Instant>,
    round: Round,
    /// Seconds per unit of work, in the fastest round.
    fastest: Option<f64>,
}

/// The calls since the last decision.
#[derive(Debug, Default)]
struct Round {
    calls: usize,
    seconds: f64,
    work: f64,
    was_full: bool,
}

/// A successful call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// Its work, in tokens written.
    pub(super) work: f64,
    /// Whether it took the last free slot.
    pub(super) was_full: bool,
}

impl Aimd {
    /// At most `max_limit` concurrent calls; calls of more than `max_duration` are too slow.
    pub(super) fn new(max_limit: usize, max_duration: Duration) -> Self {
        Self {
            limit: FIRST.min(max_limit).max(1),
            max_limit: max_limit.max(1),
            max_duration,
            is_starting: true,
            changed: None,
            round: Round::default(),
            fastest: None,
        }
    }

    /// The limit on concurrent calls.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Notes a reply. After as many as the limit, decides.
    pub(super) fn answered(&mut self, call: Answered) {
        if self.is_older(call.began) {
            return;
        }
        let round = &mut self.round;
        round.calls += 1;
        round.seconds += call.ended.duration_since(call.began).as_secs_f64();
        round.work += call.work;
        round.was_full |= call.was_full;
        if round.calls < self.limit {
            return;
        }
        let Round { calls, seconds, work, was_full } = std::mem::take(round);
        let pace = seconds / work;
        // A single call does not wait for others of ours: its speed is the endpoint's own, even if
        // that has changed.
        let fastest = match self.fastest {
            Some(fastest) if self.limit > 1 => fastest.min(pace),
            _ => pace,
        };
        self.fastest = Some(fastest);
        let is_long = seconds / calls as f64 > self.max_duration.as_secs_f64();
        if pace > TOLERANCE * fastest || is_long {
            self.cut(call.ended);
        } else if was_full && self.limit < self.max_limit {
            let more = if self.is_starting { self.limit } else { 1 };
            self.limit = (self.limit + more).min(self.max_limit);
            self.changed = Some(call.ended);
        }
    }

    /// Notes that a call which began at `began` was refused or took too long: the limit is halved,
    /// once for the calls that it let through.
    pub(super) fn refused(&mut self, began: Instant, now: Instant) {
        if !self.is_older(began) {
            self.cut(now);
        }
    }

    fn is_older(&self, began: Instant) -> bool {
        self.changed.is_some_and(|changed| began < changed)
    }

    fn cut(&mut self, now: Instant) {
        self.limit = (self.limit / 2).max(1);
        self.is_starting = false;
        self.changed = Some(now);
        self.round = Round::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint that serves `slots` calls at once, a second each, and queues the others.
    /// Returns the limit after each of `rounds` rounds.
    fn limits(slots: usize, max_limit: usize, rounds: usize, mut aimd: Aimd) -> Vec<usize> {
        let mut now = Instant::now();
        let mut limits = Vec::new();
        for _ in 0..rounds {
            let calls = aimd.limit().min(max_limit);
            let took = Duration::from_secs_f64((calls as f64 / slots as f64).max(1.0));
            for slot in 0..calls {
                let was_full = slot + 1 == aimd.limit();
                aimd.answered(Answered { began: now, ended: now + took, work: 100.0, was_full });
            }
            now += took;
            limits.push(aimd.limit());
        }
        limits
    }

    const LONG: Duration = Duration::from_secs(150);

    #[test]
    fn it_settles_near_what_the_endpoint_takes() {
        assert_eq!(limits(1_000, 64, 6, Aimd::new(64, LONG)), [8, 16, 32, 64, 64, 64]);
        let four = limits(4, 64, 40, Aimd::new(64, LONG));
        assert_eq!(four[..3], [8, 16, 8]);
        assert!(four[3..].iter().all(|limit| (4..=9).contains(limit)), "{four:?}");
        // If no call had to wait, there is no reason for a higher limit.
        assert_eq!(limits(1_000, 3, 4, Aimd::new(64, LONG)), [4; 4]);
        assert_eq!(limits(1_000, 64, 2, Aimd::new(2, LONG)), [2, 2]);
    }

    #[test]
    fn long_calls_are_made_one_at_a_time() {
        // Here two seconds are too long, and with one slot four calls take four.
        let alone = limits(1, 64, 20, Aimd::new(64, Duration::from_secs(2)));
        assert!(alone[2..].iter().all(|limit| *limit <= 3), "{alone:?}");
    }

    #[test]
    fn a_refusal_halves_once_for_all_calls_of_its_time() {
        let mut aimd = Aimd::new(64, LONG);
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        for _ in 0..3 {
            aimd.refused(began, began + second);
        }
        assert_eq!(aimd.limit(), 2);
        aimd.refused(began + second, began + second * 2);
        aimd.refused(began + second * 2, began + second * 3);
        assert_eq!(aimd.limit(), 1);
    }

    #[test]
    fn an_endpoint_that_became_slower_is_known_anew() {
        let mut aimd = Aimd::new(64, LONG);
        let mut now = Instant::now();
        let mut round = |aimd: &mut Aimd, seconds: f64| {
            let ended = now + Duration::from_secs_f64(seconds);
            for _ in 0..aimd.limit() {
                aimd.answered(Answered { began: now, ended, work: 1.0, was_full: true });
            }
            now = ended;
            aimd.limit()
        };
        assert_eq!(round(&mut aimd, 1.0), 8);
        let slower: Vec<usize> = (0..6).map(|_| round(&mut aimd, 10.0)).collect();
        assert_eq!(slower, [4, 2, 1, 2, 3, 4]);
    }
}
