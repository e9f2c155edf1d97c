//! The number of questions that would settle a difference as large as the observed one: two-sided
//! level 0.05, divided by the number of comparisons (Bonferroni, which Holm's correction never
//! exceeds), power 0.8.

const LEVEL: f64 = 0.05;
const POWER: f64 = 0.8;

/// For McNemar's test (Connor 1987), from the shares of questions that only the first and only the
/// second arm answered right. `None` where the shares are equal: no number would do.
pub fn questions_needed_mcnemar(
    first_only: f64,
    second_only: f64,
    comparisons: usize,
) -> Option<u64> {
    let (discordant, difference) = (first_only + second_only, first_only - second_only);
    let spread = (discordant - difference * difference).max(0.0).sqrt();
    let reach = level(comparisons) * discordant.sqrt() + normal_quantile(POWER) * spread;
    whole((reach / difference).powi(2))
}

/// For a test of the mean of paired differences in normal approximation, from Cohen's d. `None`
/// for an effect of 0.
pub fn questions_needed_mean(cohens_d: f64, comparisons: usize) -> Option<u64> {
    whole(((level(comparisons) + normal_quantile(POWER)) / cohens_d).powi(2))
}

/// The quantile that a test statistic must pass.
fn level(comparisons: usize) -> f64 {
    normal_quantile(1.0 - LEVEL / (2.0 * comparisons.max(1) as f64))
}

/// The standard normal quantile of a probability between 0.5 and 1, by Newton's method on the
/// distribution function as its series.
pub(super) fn normal_quantile(probability: f64) -> f64 {
    let mut z = 0.0_f64;
    for _ in 0..50 {
        let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
        // The function is concave above 0, so steps from the left never overshoot the quantile.
        let step = (probability - normal_distribution(z)) / density;
        z += step;
        if step.abs() < 1e-13 {
            break;
        }
    }
    z
}

/// The standard normal distribution function (Marsaglia 2004), for values from 0 to 8.
fn normal_distribution(z: f64) -> f64 {
    let (mut term, mut sum) = (z, z);
    for odd in (3..).step_by(2) {
        term *= z * z / f64::from(odd);
        if sum + term == sum {
            break;
        }
        sum += term;
    }
    0.5 + sum * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

fn whole(questions: f64) -> Option<u64> {
    questions.is_finite().then(|| questions.ceil() as u64)
}
