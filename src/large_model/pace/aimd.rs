//! How many calls may be under way at one time, learnt from how calls end: slow start, then
//! additive increase and multiplicative decrease. Without a clock of its own.

use std::time::{Duration, Instant};

/// Calls at one time to begin with.
const FIRST: usize = 4;
/// How much slower work may become than at its fastest before there are too many calls.
const TOLERANCE: f64 = 2.0;

/// The limit of one model at one endpoint.
#[derive(Debug)]
pub(super) struct Aimd {
    limit: usize,
    most: usize,
    /// Longer calls than this are too long, whatever the pace: they near their time-outs.
    longest: Duration,
    /// Doubles with each round until there was a sign of too many calls.
    is_starting: bool,
    /// When the limit changed. Calls that began before say nothing about the present one.
    changed: Option<Instant>,
    round: Round,
    /// Seconds for a unit of work, in the fastest round.
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

/// A call that brought a reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// What it asked of the endpoint, in tokens written.
    pub(super) work: f64,
    /// Whether it took the last place there was.
    pub(super) was_full: bool,
}

impl Aimd {
    /// At most `most` calls at one time; calls of more than `longest` are too long.
    pub(super) fn new(most: usize, longest: Duration) -> Self {
        Self {
            limit: FIRST.min(most).max(1),
            most: most.max(1),
            longest,
            is_starting: true,
            changed: None,
            round: Round::default(),
            fastest: None,
        }
    }

    /// Calls that may be under way.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes note of a reply. Once there were as many as may be under way, decides.
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
        // A single call waits for no other of ours: its pace is the endpoint's own, also where
        // that has changed.
        let fastest = match self.fastest {
            Some(fastest) if self.limit > 1 => fastest.min(pace),
            _ => pace,
        };
        self.fastest = Some(fastest);
        let is_long = seconds / calls as f64 > self.longest.as_secs_f64();
        if pace > TOLERANCE * fastest || is_long {
            self.cut(call.ended);
        } else if was_full && self.limit < self.most {
            let more = if self.is_starting { self.limit } else { 1 };
            self.limit = (self.limit + more).min(self.most);
            self.changed = Some(call.ended);
        }
    }

    /// Takes note that a call which began at `began` was refused, or took too long: one that the
    /// present limit let through halves it.
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

    /// An endpoint that works on `slots` calls at one time, a second each, and has the others
    /// wait. Returns the limit after each of `rounds` rounds.
    fn limits(slots: usize, most: usize, rounds: usize, mut aimd: Aimd) -> Vec<usize> {
        let mut now = Instant::now();
        let mut limits = Vec::new();
        for _ in 0..rounds {
            let calls = aimd.limit().min(most);
            let took = Duration::from_secs_f64((calls as f64 / slots as f64).max(1.0));
            for place in 0..calls {
                let was_full = place + 1 == aimd.limit();
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
        // Without a call that had to wait there is no reason for more.
        assert_eq!(limits(1_000, 3, 4, Aimd::new(64, LONG)), [4; 4]);
        assert_eq!(limits(1_000, 64, 2, Aimd::new(2, LONG)), [2, 2]);
    }

    #[test]
    fn long_calls_are_made_one_at_a_time() {
        // Two seconds and more are too long here, and one slot makes four calls take four.
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
