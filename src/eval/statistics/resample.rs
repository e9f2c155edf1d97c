//! Means with their intervals, and statistics by resampling: bootstrap intervals and the sign-flip
//! permutation test.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::sample_size::normal_quantile;

/// Resamples of a bootstrap, and random permutations of a test.
pub const RESAMPLES: usize = 10_000;

/// Differences that are not zero, up to which a permutation test goes through all permutations:
/// 2 to this power is less than [`RESAMPLES`].
const EXACT_UP_TO: usize = 13;

/// A 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))
}

/// The interval of a mean score: Wilson's if every value is 0 or 1, so that the mean is a share of
/// right answers, otherwise the percentile bootstrap interval from [`RESAMPLES`] resamples. `None`
/// of nothing.
pub fn mean_interval(values: &[f64], seed: u64) -> Option<Interval> {
    let centre = mean(values)?;
    let is_share = values.iter().all(|&value| value == 0.0 || value == 1.0);
    Some(if is_share { wilson(centre, values.len()) } else { bootstrap(values, seed) })
}

/// Wilson's interval of a share of `n`.
fn wilson(share: f64, n: usize) -> Interval {
    let (n, z) = (n as f64, normal_quantile(0.975));
    let middle = share + z * z / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + (z / (2.0 * n)).powi(2)).sqrt();
    let end = |end: f64| (end / (1.0 + z * z / n)).clamp(0.0, 1.0);
    Interval { low: end(middle - spread), high: end(middle + spread) }
}

/// The percentile bootstrap interval of a mean difference; a single point if all differences are
/// equal. `None` of nothing.
pub fn difference_interval(differences: &[f64], seed: u64) -> Option<Interval> {
    (!differences.is_empty()).then(|| bootstrap(differences, seed))
}

fn bootstrap(values: &[f64], seed: u64) -> Interval {
    let n = values.len();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    Interval { low: quantile(&means, 0.025), high: quantile(&means, 0.975) }
}

/// The quantile of sorted values, with linear interpolation between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor();
    let (low, high) = (sorted[below as usize], sorted[position.ceil() as usize]);
    low + (high - low) * (position - below)
}

/// The two-sided p-value of the sign-flip permutation test for paired differences of mean zero.
///
/// With few differences that are not zero, over all permutations; otherwise over [`RESAMPLES`]
/// random ones and the observed one, so that the value is never 0.
pub fn permutation(differences: &[f64], seed: u64) -> f64 {
    let moving: Vec<f64> = differences.iter().copied().filter(|&value| value != 0.0).collect();
    let observed = moving.iter().sum::<f64>().abs();
    // Sums of the same terms in another order differ in the last places.
    let reached = |sum: f64| sum.abs() >= observed * (1.0 - 1e-12) - 1e-12;
    if moving.len() <= EXACT_UP_TO {
        let permutations = 1_u32 << moving.len();
        let count = (0..permutations).filter(|signs| {
            let signed = moving.iter().enumerate();
            reached(
                signed
                    .map(|(index, value)| if signs >> index & 1 == 1 { -value } else { *value })
                    .sum(),
            )
        });
        return count.count() as f64 / f64::from(permutations);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut count = 1;
    for _ in 0..RESAMPLES {
        let mut sum = 0.0;
        for values in moving.chunks(64) {
            let signs: u64 = rng.random();
            for (index, value) in values.iter().enumerate() {
                sum += if signs >> index & 1 == 1 { -value } else { *value };
            }
        }
        count += usize::from(reached(sum));
    }
    count as f64 / (RESAMPLES + 1) as f64
}
