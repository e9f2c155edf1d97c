//! Turns rewards into advantages: how much better an episode was than its group. Pure.

use serde::{Deserialize, Serialize};

/// Rewards closer to each other than this are equal.
const SAME: f64 = 1e-9;

/// How a group's rewards become advantages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// `(r − mean) / (deviation + epsilon)`, with the unbiased deviation.
    #[default]
    Deviation,
    /// `r − mean` (Dr.GRPO): small differences within a group are not amplified.
    None,
}

/// The advantages of a group's episodes; `None` if all have the same reward or there are fewer than
/// two: nothing can be learnt from the group.
pub fn advantages(rewards: &[f64], scaling: Scaling, epsilon: f64) -> Option<Vec<f64>> {
    let least = rewards.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if rewards.len() < 2 || most - least < SAME {
        return None;
    }
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    let divisor = match scaling {
        Scaling::Deviation => (squares / (rewards.len() - 1) as f64).sqrt() + epsilon,
        Scaling::None => 1.0,
    };
    Some(rewards.iter().map(|reward| (reward - mean) / divisor).collect())
}

/// A penalty on episodes that come near the token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlong {
    /// The number of sampled tokens with a penalty of 1.
    pub max_tokens: usize,
    /// The number of tokens below it over which the penalty rises from 0.
    pub margin: usize,
}

impl Overlong {
    /// The penalty on an episode in which the policy sampled `tokens` tokens: 0 up to `max_tokens −
    /// margin`, then rising linearly to 1 at `max_tokens`, and 1 beyond.
    pub fn penalty(&self, tokens: usize) -> f64 {
        let free = self.max_tokens.saturating_sub(self.margin);
        let over = tokens.saturating_sub(free) as f64;
        (over / self.margin.max(1) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn advantages_by_hand() {
        let deviation = (1.0f64 / 3.0).sqrt() + 1e-6;
        for (rewards, scaling, expected) in [
            (
                &[1.0, 0.0, 0.0, 1.0][..],
                Scaling::Deviation,
                Some(vec![0.5, -0.5, -0.5, 0.5].into_iter().map(|a| a / deviation).collect()),
            ),
            (&[1.0, 0.0, 0.5], Scaling::None, Some(vec![0.5, -0.5, 0.0])),
            (&[0.3, 0.3, 0.3], Scaling::Deviation, None),
            (&[0.1 + 0.2, 0.3], Scaling::Deviation, None),
            (&[1.0], Scaling::Deviation, None),
            (&[], Scaling::None, None),
        ] {
            let found: Option<Vec<f64>> = advantages(rewards, scaling, 1e-6);
            assert_eq!(found.is_some(), expected.is_some(), "{rewards:?}");
            for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() < 1e-12, "{rewards:?}: {a} is not {b}");
            }
        }
    }

    #[test]
    fn rewards_that_are_no_numbers_show() {
        assert!(advantages(&[f64::NAN, 1.0, 0.0], Scaling::None, 0.0).unwrap()[0].is_nan());
    }

    #[test]
    fn long_episodes_cost() {
        let overlong = Overlong { max_tokens: 100, margin: 20 };
        for (tokens, price) in [(0, 0.0), (80, 0.0), (85, 0.25), (100, 1.0), (5000, 1.0)] {
            assert!((overlong.penalty(tokens) - price).abs() < 1e-12, "{tokens}");
        }
        assert_eq!(Overlong { max_tokens: 10, margin: 0 }.penalty(10), 0.0);
        assert_eq!(Overlong { max_tokens: 10, margin: 0 }.penalty(11), 1.0);
    }
}
