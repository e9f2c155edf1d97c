//! How many questions would settle a difference as large as the observed one: two-sided level
//! 0.05, power 0.8.

/// The standard normal quantile of 0.975.
const Z_LEVEL: f64 = 1.959_963_984_540_054;
/// The standard normal quantile of 0.8.
const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// For McNemar's test (Connor 1987), from the shares of questions that only the first and only the
/// second arm answered right. `None` where the shares are equal: no number would do.
pub fn questions_needed_mcnemar(first_only: f64, second_only: f64) -> Option<u64> {
    let (discordant, difference) = (first_only + second_only, first_only - second_only);
    let spread = (discordant - difference * difference).sqrt();
    whole(((Z_LEVEL * discordant.sqrt() + Z_POWER * spread) / difference).powi(2))
}

/// For a test of the mean of paired differences in normal approximation, from Cohen's d. `None`
/// for an effect of 0.
pub fn questions_needed_mean(cohens_d: f64) -> Option<u64> {
    whole(((Z_LEVEL + Z_POWER) / cohens_d).powi(2))
}

fn whole(questions: f64) -> Option<u64> {
    questions.is_finite().then(|| questions.ceil() as u64)
}
