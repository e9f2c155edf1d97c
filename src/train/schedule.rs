//! The learning rate by step.

use serde::{Deserialize, Serialize};

/// What follows warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Constant at the peak.
    #[default]
    Constant,
    /// Linear down to `final_ratio` of the peak.
    Linear,
    /// Half a cosine down to `final_ratio` of the peak.
    Cosine,
}

/// A learning rate with linear warm-up followed by a decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// What follows warm-up.
    pub decay: Decay,
    /// The share of the peak that the decay would reach one step after the last.
    pub final_ratio: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { peak: 1e-4, warmup_steps: 0, decay: Decay::Constant, final_ratio: 0.0 }
    }
}

impl Schedule {
    /// The rate for step `step`, the first being 0, of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = steps.saturating_sub(self.warmup_steps).max(1);
        let done = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => (1.0 + (std::f64::consts::PI * done).cos()) / 2.0,
        };
        self.peak * (self.final_ratio + (1.0 - self.final_ratio) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_plan() {
        let schedule = |decay| Schedule { peak: 1.0, warmup_steps: 2, decay, final_ratio: 0.1 };
        for (decay, step, expected) in [
            (Decay::Constant, 0, 0.5),
            (Decay::Constant, 1, 1.0),
            (Decay::Constant, 9, 1.0),
            (Decay::Linear, 2, 1.0),
            (Decay::Linear, 6, 0.55),
            (Decay::Linear, 10, 0.1),
            (Decay::Cosine, 6, 0.55),
            (Decay::Cosine, 10, 0.1),
            (Decay::Cosine, 99, 0.1),
        ] {
            let rate = schedule(decay).rate(step, 10);
            assert!((rate - expected).abs() < 1e-12, "{decay:?} {step}: {rate}");
        }
    }
}
