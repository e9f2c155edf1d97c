//! The frequencies of rotary embeddings.

use std::f64::consts::TAU;

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are changed for sequences longer than in pre-training.
    pub scaling: RopeScaling,
}

/// Changes of rotary frequencies, in the terms of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by a factor, high ones stay, with a ramp between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` stay.
        high_freq_factor: f64,
        /// The context length of pre-training.
        original: usize,
    },
    /// YaRN: a ramp over the dimensions, and a factor on the rotated values.
    Yarn {
        /// Low frequencies are divided by it.
        factor: f64,
        /// The context length of pre-training.
        original: usize,
        /// Rotations within `original` from which on a frequency stays.
        beta_fast: f64,
        /// Rotations within `original` up to which a frequency is divided.
        beta_slow: f64,
        /// Cosines and sines are multiplied by it.
        attention_factor: f64,
        /// Whether the ends of the ramp are rounded to whole dimensions.
        truncate: bool,
    },
}

impl Rope {
    /// Without scaling.
    pub fn new(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::Default }
    }

    /// Radians per position of each pair of dimensions, `head_dim / 2` of them.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = |i: usize| 1.0 / self.theta.powf((2 * i) as f64 / head_dim as f64);
        let scaled = |i: usize| match self.scaling {
            RopeScaling::Default => plain(i),
            RopeScaling::Linear { factor } => plain(i) / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let turns = original as f64 * plain(i) / TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mix(plain(i), factor, kept)
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let dimension = |turns: f64| {
                    head_dim as f64 * (original as f64 / (turns * TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                mix(plain(i), factor, 1.0 - (i as f64 - low) / (high - low))
            }
        };
        (0..head_dim / 2).map(|i| scaled(i) as f32).collect()
    }

    /// The divisor of each frequency.
    pub(super) fn divisors(&self, head_dim: usize) -> Vec<f32> {
        let plain = Self::new(self.theta).frequencies(head_dim);
        plain.iter().zip(self.frequencies(head_dim)).map(|(plain, scaled)| plain / scaled).collect()
    }

    /// The scaling of Llama 3 that divides each frequency by one of `divisors`, if there is one
    /// with the usual bounds of its ramp. GGUF files have no more of it than that.
    pub(super) fn of_divisors(theta: f64, head_dim: usize, divisors: &[f32]) -> Option<Self> {
        let plain = Self::new(theta).frequencies(head_dim);
        // Of type f32: `2.5` must become that again.
        let largest = divisors.iter().copied().fold(1.0, f32::max);
        let factor = (f64::from(largest) * 1e4).round() / 1e4;
        let (low, high) = (1.0, 4.0);
        let of = |original: f64| Self {
            theta,
            scaling: RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original: original as usize,
            },
        };
        let is_near = |rope: &Self| {
            let pairs = rope.divisors(head_dim).into_iter().zip(divisors);
            divisors.len() == plain.len()
                && pairs.into_iter().all(|(divisor, found)| (divisor / found - 1.0).abs() < 1e-3)
        };
        // The context of pre-training follows from any frequency on the ramp; with none there, the
        // highest of those below it gives one that fits.
        let originals = plain.iter().zip(divisors).filter(|(_, divisor)| **divisor > 1.0);
        let originals = originals.flat_map(|(&frequency, &divisor)| {
            let kept = (1.0 / f64::from(divisor) - 1.0 / factor) / (1.0 - 1.0 / factor);
            let original = (low + kept * (high - low)) * TAU / f64::from(frequency);
            [original.round(), original.floor()]
        });
        std::iter::once(8192.0).chain(originals).map(of).find(is_near)
    }

    /// The factor on cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let positive = |name: &str, x: f64| match x > 0.0 && x.is_finite() {
            true => Ok(()),
            false => Err(format!("`{name}` {x} is not above 0")),
        };
        positive("rope_theta", self.theta)?;
        match self.scaling {
            RopeScaling::Default => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("high_freq_factor", high_freq_factor)?;
                positive("original_max_position_embeddings", original as f64)?;
                match high_freq_factor > low_freq_factor {
                    true => Ok(()),
                    false => Err("`high_freq_factor` must exceed `low_freq_factor`".to_owned()),
                }
            }
            RopeScaling::Yarn {
                factor, original, beta_fast, beta_slow, attention_factor, ..
            } => {
                positive("factor", factor)?;
                positive("original_max_position_embeddings", original as f64)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("attention_factor", attention_factor)
            }
        }
    }
}

/// Interpolates between `frequency` where `kept` is at least 1 and `frequency / factor` where it is
/// at most 0.
fn mix(frequency: f64, factor: f64, kept: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    frequency * kept + frequency / factor * (1.0 - kept)
}
