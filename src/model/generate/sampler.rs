//! Draws one token from a row of logits: temperature, top-k, top-p, a seeded generator.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::kernels::Isa;
use super::kernels::rows::Exponentials;
use crate::sampling::Sampling;
use crate::trajectory::SampledToken;

/// The generator of one request, started from its seed.
pub fn generator(sampling: &Sampling) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(sampling.seed)
}

/// Draws a token from `logits`, one per vocabulary id and at least one; they are overwritten.
///
/// Greedy decoding takes the likeliest token, the lowest id on ties, and does not advance the
/// generator; every other draw advances it by one number, whatever top-k and top-p keep. Top-k
/// applies first, top-p to what it kept. A logit of −∞ is never drawn. Logits that are not numbers
/// do not panic: they show as a log-probability that is not a number.
pub fn sample(logits: &mut [f32], sampling: &Sampling, rng: &mut ChaCha8Rng) -> SampledToken {
    let best = argmax(logits);
    let greedy = sampling.temperature <= 0.0;
    let scale = if greedy { 1.0 } else { sampling.temperature.recip().min(f32::MAX) };
    let shift = logits[best];
    let total = f64::from(Isa::detect().run(Exponentials { values: logits, shift, scale }));
    let id = if greedy { best } else { draw(logits, total, sampling, rng).unwrap_or(best) };
    SampledToken { id: id as u32, log_prob: (f64::from(logits[id]) / total).ln() as f32 }
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best
}

/// Where in the distribution a draw falls, from 0 to 1.
pub fn point(rng: &mut ChaCha8Rng) -> f64 {
    rng.random()
}

/// Draws an index in proportion to `weights`, which sum to `total`, among those that top-k and
/// top-p keep. `None` when rounding, or weights that are not numbers, leave none.
fn draw(weights: &[f32], total: f64, sampling: &Sampling, rng: &mut ChaCha8Rng) -> Option<usize> {
    let point = point(rng);
    let top_k = sampling.top_k.map_or(weights.len(), |k| k.get().min(weights.len()));
    let top_p = f64::from(sampling.top_p);
    if top_k == weights.len() && top_p >= 1.0 {
        return pick(weights.iter().copied().enumerate(), point * total);
    }
    // Tokens below this share weigh less than `1 − top_p` together, so no nucleus holds them:
    // dropping them first leaves little to sort.
    let least = if top_k == weights.len() {
        ((1.0 - top_p) * total / (weights.len() + 1) as f64) as f32
    } else {
        0.0
    };
    let mut kept: Vec<(usize, f32)> =
        weights.iter().copied().enumerate().filter(|&(_, weight)| weight >= least).collect();
    let likeliest_first =
        |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top_k < kept.len() {
        kept.select_nth_unstable_by(top_k - 1, likeliest_first);
        kept.truncate(top_k);
    }
    kept.sort_unstable_by(likeliest_first);
    let mass = if top_k == weights.len() { total } else { sum(&kept) };
    let mut covered = 0.0;
    let nucleus = kept.iter().position(|&(_, weight)| {
        covered += f64::from(weight);
        covered >= top_p * mass
    });
    if let (Some(last), true) = (nucleus, top_p < 1.0) {
        kept.truncate(last + 1);
    }
    let mass = sum(&kept);
    pick(kept.into_iter(), point * mass)
}

fn sum(kept: &[(usize, f32)]) -> f64 {
    kept.iter().map(|&(_, weight)| f64::from(weight)).sum()
}

/// The first index at which the running sum passes `target`.
fn pick(weights: impl Iterator<Item = (usize, f32)>, target: f64) -> Option<usize> {
    let mut covered = 0.0;
    for (id, weight) in weights {
        covered += f64::from(weight);
        if covered > target {
            return Some(id);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn sampling(temperature: f32, top_p: f32, top_k: Option<usize>, seed: u64) -> Sampling {
        let top_k = top_k.and_then(NonZeroUsize::new);
        Sampling { temperature, top_p, top_k, seed }
    }

    /// How often each id is drawn in `n` draws from the same logits.
    fn counts(logits: &[f32], sampling: Sampling, n: usize) -> Vec<usize> {
        let mut rng = generator(&sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sample(&mut logits.to_vec(), &sampling, &mut rng).id as usize] += 1;
        }
        counts
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> =
            logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_likeliest_at_temperature_one() {
        let logits = [0.5, 2.0, -1.0, 2.0];
        let token =
            sample(&mut logits.to_vec(), &Sampling::GREEDY, &mut generator(&Sampling::GREEDY));
        assert_eq!(token.id, 1);
        assert!((f64::from(token.log_prob) - softmax(&logits, 1.0)[1].ln()).abs() < 1e-6);
    }

    #[test]
    fn log_probs_are_of_the_full_distribution_before_filtering() {
        let logits = [1.0, 0.2, -0.5, 3.0, 2.5];
        let cases = [(1.0, 1.0, None), (0.7, 0.8, None), (1.3, 1.0, Some(2)), (0.5, 0.9, Some(3))];
        for (temperature, top_p, top_k) in cases {
            let expected = softmax(&logits, f64::from(temperature));
            for seed in 0..20 {
                let sampling = sampling(temperature, top_p, top_k, seed);
                let token = sample(&mut logits.to_vec(), &sampling, &mut generator(&sampling));
                let difference = f64::from(token.log_prob) - expected[token.id as usize].ln();
                assert!(difference.abs() < 1e-6, "{sampling:?}: {difference}");
            }
        }
    }

    #[test]
    fn tokens_come_in_proportion_to_their_probability() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let n = 20_000;
        for temperature in [0.5, 1.0, 2.0] {
            let counts = counts(&logits, sampling(temperature, 1.0, None, 3), n);
            for (count, p) in counts.iter().zip(softmax(&logits, f64::from(temperature))) {
                let tolerance = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
                assert!((*count as f64 / n as f64 - p).abs() < tolerance, "{counts:?}");
            }
        }
    }

    #[test]
    fn top_k_and_top_p_keep_the_smallest_likeliest_set() {
        // Probabilities 0.1, 0.4, 0.2, 0.3.
        let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
        let cases: [(f32, Option<usize>, &[usize]); 8] = [
            (1.0, Some(1), &[1]),
            (1.0, Some(3), &[1, 2, 3]),
            (1.0, Some(9), &[0, 1, 2, 3]),
            (0.0, None, &[1]),
            (0.39, None, &[1]),
            (0.5, None, &[1, 3]),
            (0.75, None, &[1, 2, 3]),
            // Of the two that top-k keeps, id 1 has 4/7 ≈ 0.571 of the mass.
            (0.55, Some(2), &[1]),
        ];
        for (top_p, top_k, expected) in cases {
            let counts = counts(&logits, sampling(1.0, top_p, top_k, 11), 2_000);
            let drawn: Vec<usize> = (0..4).filter(|&id| counts[id] > 0).collect();
            assert_eq!(drawn, expected, "top_p {top_p}, top_k {top_k:?}");
        }
    }

    #[test]
    fn masked_logits_are_never_drawn() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
        for (top_p, top_k) in [(1.0, None), (0.99, None), (1.0, Some(3))] {
            let counts = counts(&logits, sampling(1.0, top_p, top_k, 5), 500);
            assert_eq!((counts[0], counts[2]), (0, 0));
            assert!(counts[1] > 0 && counts[3] > 0);
        }
    }

    #[test]
    fn the_seed_alone_decides_the_draws() {
        let logits: Vec<f32> = (0..64).map(|i| (i % 7) as f32 * 0.1).collect();
        let draw = |seed| {
            let sampling = sampling(1.0, 0.95, None, seed);
            let mut rng = generator(&sampling);
            (0..16).map(|_| sample(&mut logits.clone(), &sampling, &mut rng).id).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn logits_that_are_not_numbers_show_in_the_log_probability() {
        for sampling in
            [Sampling::GREEDY, sampling(1.0, 1.0, None, 0), sampling(1.0, 0.9, Some(2), 0)]
        {
            let token = sample(&mut [f32::NAN; 4], &sampling, &mut generator(&sampling));
            assert!(token.log_prob.is_nan() && token.id < 4);
        }
    }
}
