//! Retries: which failures, after how long, and until when.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::config::RetryConfig;

/// What a failed attempt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The next attempt would fail as well: do not retry.
    GiveUp,
    /// It may succeed later; the endpoint may have said when.
    Retry {
        /// How long the endpoint asked to wait.
        after: Option<Duration>,
    },
    /// No attempt was made, so an earlier failure is the one to report.
    NotAttempted,
}

/// A failure that says whether to retry.
pub trait Retryable {
    /// Whether to retry.
    fn advice(&self) -> Advice;
}

/// How long to wait before retry number `retry` (from 0): a random time between zero and the
/// exponential bound ("full jitter"), at least what the endpoint asked for. `None` when no retries
/// or too little time remain, or when the endpoint asked for more than the cap and would refuse an
/// earlier attempt.
fn next_wait(
    config: &RetryConfig,
    retry: u32,
    after: Option<Duration>,
    remaining: Duration,
    rng: &mut impl Rng,
) -> Option<Duration> {
    if retry >= config.max {
        return None;
    }
    let factor = 1u64.checked_shl(retry).unwrap_or(u64::MAX);
    let bound = config.base_ms.saturating_mul(factor).min(config.cap_ms);
    let jittered = Duration::from_micros(rng.random_range(0..=bound.saturating_mul(1_000)));
    let asked = after.unwrap_or_default();
    if asked > Duration::from_millis(config.cap_ms) {
        return None;
    }
    let wait = jittered.max(asked);
    (wait < remaining).then_some(wait)
}

/// Makes attempts until one succeeds, one asks to give up, or no time remains before `deadline`.
/// Returns the last failure that an attempt brought.
///
/// # Errors
/// That failure.
pub async fn retrying<T, E, F>(
    config: &RetryConfig,
    rng: &Mutex<ChaCha8Rng>,
    deadline: Instant,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    E: Retryable,
    F: Future<Output = Result<T, E>>,
{
    let mut earlier = None;
    let mut retry = 0;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let after = match failure.advice() {
            Advice::GiveUp => return Err(failure),
            Advice::NotAttempted => return Err(earlier.unwrap_or(failure)),
            Advice::Retry { after } => after,
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let wait = {
            let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
            next_wait(config, retry, after, remaining, &mut *rng)
        };
        let Some(wait) = wait else { return Err(failure) };
        tracing::debug!(retry = retry + 1, wait_ms = wait.as_millis() as u64, "retrying");
        tokio::time::sleep(wait).await;
        earlier = Some(failure);
        retry += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const CONFIG: RetryConfig = RetryConfig { max: 3, base_ms: 100, cap_ms: 350 };
    const PLENTY: Duration = Duration::from_secs(60);

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[test]
    fn the_wait_is_drawn_from_zero_to_a_doubling_bound() {
        for (retry, bound) in [(0, 100), (1, 200), (2, 350)] {
            let mut rng = rng(7);
            let waits: Vec<_> = (0..500)
                .map(|_| next_wait(&CONFIG, retry, None, PLENTY, &mut rng).unwrap())
                .collect();
            assert!(waits.iter().all(|&wait| wait <= MS(bound)), "retry {retry}");
            assert!(waits.iter().any(|&wait| wait > MS(bound) * 9 / 10), "retry {retry}");
            assert!(waits.iter().any(|&wait| wait < MS(bound) / 10), "retry {retry}");
        }
    }

    #[test]
    fn the_same_seed_waits_the_same() {
        let draw = |seed| {
            let mut rng = rng(seed);
            (0..3)
                .map(|retry| next_wait(&CONFIG, retry, None, PLENTY, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn limits_of_the_wait() {
        let zero = RetryConfig { base_ms: 0, ..CONFIG };
        let table = [
            ("retries used up", CONFIG, 3, None, PLENTY, None),
            ("no retries at all", RetryConfig { max: 0, ..CONFIG }, 0, None, PLENTY, None),
            ("as long as asked", zero, 0, Some(MS(200)), PLENTY, Some(MS(200))),
            ("asked for more than the cap", zero, 0, Some(MS(900)), PLENTY, None),
            ("asked for more than remains", zero, 0, Some(MS(900)), MS(800), None),
            ("asked for all that remains", zero, 0, Some(MS(300)), MS(300), None),
            ("nothing remains", zero, 0, None, Duration::ZERO, None),
            ("no wait", zero, 0, None, MS(1), Some(Duration::ZERO)),
            (
                "no overflow",
                RetryConfig { max: u32::MAX, base_ms: 0, cap_ms: u64::MAX },
                64,
                Some(MS(1)),
                PLENTY,
                Some(MS(1)),
            ),
        ];
        for (name, config, retry, after, remaining, expected) in table {
            let wait = next_wait(&config, retry, after, remaining, &mut rng(0));
            assert_eq!(wait, expected, "{name}");
        }
    }

    #[derive(Debug, PartialEq)]
    struct Failed(usize, Advice);

    impl Retryable for Failed {
        fn advice(&self) -> Advice {
            self.1
        }
    }

    #[tokio::test]
    async fn what_is_returned_after_which_attempts() {
        const AGAIN: Advice = Advice::Retry { after: None };
        let after = |ms| Advice::Retry { after: Some(MS(ms)) };
        // For each case: the result of each attempt (`None`: success), how many attempts are made,
        // and what is returned.
        let table = [
            (vec![None], 1, None),
            (vec![Some(AGAIN), None], 2, None),
            (vec![Some(AGAIN), Some(after(0)), Some(AGAIN), None], 4, None),
            (vec![Some(AGAIN); 4], 4, Some(3)),
            (vec![Some(Advice::GiveUp)], 1, Some(0)),
            (vec![Some(AGAIN), Some(Advice::GiveUp)], 2, Some(1)),
            (vec![Some(Advice::NotAttempted)], 1, Some(0)),
            (vec![Some(AGAIN), Some(Advice::NotAttempted)], 2, Some(0)),
            (vec![Some(after(3_600_000))], 1, Some(0)),
        ];
        let config = RetryConfig { base_ms: 0, ..CONFIG };
        for (script, made, failed) in table {
            let mut attempts = 0;
            let deadline = Instant::now() + PLENTY;
            let result = retrying(&config, &Mutex::new(rng(0)), deadline, || {
                let number = attempts;
                attempts += 1;
                let outcome = script[number].map_or(Ok(number), |a| Err(Failed(number, a)));
                async move { outcome }
            })
            .await;
            assert_eq!(attempts, made, "{script:?}");
            assert_eq!(result.err().map(|failure| failure.0), failed, "{script:?}");
        }
    }
}
