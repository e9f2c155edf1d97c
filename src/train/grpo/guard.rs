//! Detects a collapse of the policy from a run's figures. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::Guards;
use crate::hint::Reason;

/// The guarded figures of a step; `None` if not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Mean entropy.
    pub entropy: Option<f64>,
    /// Divergence from the start.
    pub kl: Option<f64>,
    /// Share of clipped tokens.
    pub clip_fraction: Option<f64>,
    /// Mean number of sampled tokens in an episode.
    pub response_tokens: Option<f64>,
    /// Share of groups without variance.
    pub zero_variance: Option<f64>,
    /// Mean reward.
    pub reward: Option<f64>,
    /// Mean difference between the engine's and the trainer's log-probabilities.
    pub rollout_logprob_diff: Option<f64>,
}

/// How long each figure has been out of bounds; part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    /// Sampled tokens per episode in the first step.
    response_tokens: Option<f64>,
    /// Mean reward in the first step.
    #[serde(default)]
    reward: Option<f64>,
    /// Consecutive steps out of bounds, by guard.
    strikes: BTreeMap<String, u32>,
}

impl GuardState {
    /// Resets the counters after a rollback. The values of the first step are kept.
    pub fn reset(&mut self) {
        self.strikes.clear();
    }

    /// Takes a step's figures. Returns what is wrong if a figure has been out of bounds for too
    /// long.
    pub fn check(&mut self, guards: &Guards, figures: &Figures) -> Option<Reason> {
        let growth = figures.response_tokens.map(|tokens| {
            tokens / self.response_tokens.get_or_insert(tokens).max(f64::MIN_POSITIVE)
        });
        let is_worse = figures.reward.is_some_and(|now| now < *self.reward.get_or_insert(now));
        let max_zero_variance = match is_worse {
            true => guards.max_zero_variance.min(0.999),
            false => guards.max_zero_variance,
        };
        let bounds = [
            ("min_entropy", "entropy", figures.entropy, guards.min_entropy, false),
            ("max_entropy", "entropy", figures.entropy, guards.max_entropy, true),
            ("max_kl", "the divergence from the start", figures.kl, guards.max_kl, true),
            (
                "max_clip_fraction",
                "the share of clipped tokens",
                figures.clip_fraction,
                guards.max_clip_fraction,
                true,
            ),
            (
                "max_response_growth",
                "the growth of the episodes",
                growth,
                guards.max_response_growth,
                true,
            ),
            (
                "min_response_growth",
                "the growth of the episodes",
                growth,
                guards.min_response_growth,
                false,
            ),
            (
                "max_zero_variance",
                "the share of groups without variance",
                figures.zero_variance,
                max_zero_variance,
                true,
            ),
            (
                "max_rollout_logprob_diff",
                "the difference between engine and trainer",
                figures.rollout_logprob_diff,
                guards.max_rollout_logprob_diff,
                true,
            ),
        ];
        let mut wrong = None;
        for (key, figure, value, bound, is_upper) in bounds {
            let Some(value) = value else { continue };
            let is_beyond = if is_upper { value > bound } else { value < bound };
            // A bound that is infinite is off.
            let is_out = is_beyond || (value.is_nan() && bound.is_finite());
            let strikes = self.strikes.entry(key.to_owned()).or_default();
            *strikes = if is_out { *strikes + 1 } else { 0 };
            if *strikes >= guards.patience.max(1) {
                let side = if is_upper { "above" } else { "below" };
                wrong.get_or_insert(reason!(
                    "{figure} was {side} {bound} for {strikes} steps, at last {value:.4}";
                    hint: "`guards.{key}` is the bound; lower `schedule.peak`, or raise `objective.kl_coef`"
                ));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::Hint;

    #[test]
    fn a_figure_out_of_bounds_for_long_stops_the_run() {
        let guards = Guards { patience: 2, min_entropy: 0.1, ..Guards::default() };
        let at = |entropy| Figures { entropy: Some(entropy), ..Figures::default() };
        let mut watch = GuardState::default();
        for (entropy, stops) in
            [(0.05, false), (0.2, false), (0.05, false), (0.05, true), (9.0, false), (9.0, true)]
        {
            assert_eq!(watch.check(&guards, &at(entropy)).is_some(), stops, "{entropy}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_out_of_bounds() {
        let guards = Guards { patience: 2, max_kl: f64::INFINITY, ..Guards::default() };
        let nan = Some(f64::NAN);
        let none = Figures::default();
        for (figures, key) in [
            (Figures { entropy: nan, ..none }, Some("entropy")),
            (Figures { rollout_logprob_diff: nan, ..none }, Some("max_rollout_logprob_diff")),
            (Figures { kl: nan, ..none }, None),
        ] {
            let mut watch = GuardState::default();
            assert_eq!(watch.check(&guards, &figures), None);
            let said = watch.check(&guards, &figures).map(|reason| reason.explained());
            assert_eq!(said.is_some(), key.is_some(), "{said:?}");
            let said = said.unwrap_or_default();
            assert!(said.contains(key.unwrap_or_default()), "{said}");
        }
    }

    #[test]
    fn a_run_that_has_nothing_to_learn_from_stops_unless_it_has_learnt_all() {
        let guards = Guards { patience: 2, ..Guards::default() };
        let at = |reward, zero_variance| Figures {
            reward: Some(reward),
            zero_variance: Some(zero_variance),
            ..Figures::default()
        };
        let mut watch = GuardState::default();
        assert_eq!(watch.check(&guards, &at(0.2, 0.5)), None);
        for _ in 0..3 {
            assert_eq!(watch.check(&guards, &at(1.0, 1.0)), None, "all is solved");
            assert_eq!(watch.check(&guards, &at(-0.5, 0.9)), None, "some groups differ");
        }
        assert_eq!(watch.check(&guards, &at(-0.5, 1.0)), None);
        let said = watch.check(&guards, &at(-0.5, 1.0)).unwrap();
        assert!(said.explained().contains("`guards.max_zero_variance`"), "{said}");
    }

    #[test]
    fn every_bound_is_watched_and_named() {
        let guards = Guards { patience: 1, max_zero_variance: 0.9, ..Guards::default() };
        let none = Figures::default();
        for (figures, key) in [
            (Figures { entropy: Some(-0.1), ..none }, "min_entropy"),
            (Figures { entropy: Some(6.0), ..none }, "max_entropy"),
            (Figures { kl: Some(6.0), ..none }, "max_kl"),
            (Figures { clip_fraction: Some(0.6), ..none }, "max_clip_fraction"),
            (Figures { response_tokens: Some(500.0), ..none }, "max_response_growth"),
            (Figures { response_tokens: Some(10.0), ..none }, "min_response_growth"),
            (Figures { zero_variance: Some(1.0), ..none }, "max_zero_variance"),
            (Figures { rollout_logprob_diff: Some(0.2), ..none }, "max_rollout_logprob_diff"),
        ] {
            let mut watch = GuardState::default();
            let first = Figures { response_tokens: Some(100.0), ..none };
            assert_eq!(watch.check(&guards, &first), None);
            let said = watch.check(&guards, &figures).unwrap().explained();
            assert!(said.contains(&format!("`guards.{key}`")), "{said}");
        }
        assert_eq!(GuardState::default().check(&guards, &none), None);
    }
}
