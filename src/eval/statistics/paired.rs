//! Tests and effect sizes for two arms on the same questions.

use super::resample::mean;

/// The deviation of equal values, in units of their mean, that rounding may leave.
const ROUNDING: f64 = 1e-12;

/// The p-values of McNemar's test for paired right-or-wrong answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct McNemar {
    /// Two-sided, from the binomial distribution.
    pub exact: f64,
    /// Two-sided, the observed outcome counted half: less conservative than `exact`.
    pub mid_p: f64,
}

/// McNemar's test; `first_only` questions were answered right by the first arm alone, `second_only`
/// by the second alone.
pub fn mcnemar(first_only: u64, second_only: u64) -> McNemar {
    let n = first_only + second_only;
    if n == 0 {
        return McNemar { exact: 1.0, mid_p: 1.0 };
    }
    let fewer = first_only.min(second_only);
    // Probabilities of the binomial distribution with even odds, in logarithms: 2^-n underflows.
    let mut log_mass = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_mass.exp();
    for k in 0..fewer {
        log_mass += ((n - k) as f64 / (k + 1) as f64).ln();
        tail += log_mass.exp();
    }
    let mid_p = 2.0 * tail - log_mass.exp();
    McNemar { exact: (2.0 * tail).min(1.0), mid_p: mid_p.min(1.0) }
}

/// Cohen's d of paired differences: their mean in units of their standard deviation. `None` for
/// fewer than two, or if all are equal, up to the rounding of their mean.
pub fn cohens_d(differences: &[f64]) -> Option<f64> {
    let centre = mean(differences)?;
    let squares: f64 = differences.iter().map(|value| (value - centre).powi(2)).sum();
    let deviation = (squares / (differences.len() as f64 - 1.0)).sqrt();
    (deviation > ROUNDING * centre.abs()).then(|| centre / deviation)
}

/// Holm's correction for multiple comparisons. The p-values stay in their order.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut highest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        let scaled = p_values[index] * (p_values.len() - rank) as f64;
        highest = highest.max(scaled).min(1.0);
        corrected[index] = highest;
    }
    corrected
}
