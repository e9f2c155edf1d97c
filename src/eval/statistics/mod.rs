//! Statistics of an evaluation: intervals, paired tests, effect sizes. Pure.
//!
//! All seeds are passed in; the same input gives the same output on every platform.

mod paired;
mod resample;
mod sample_size;
#[cfg(test)]
mod tests;

pub use paired::{McNemar, cohens_d, holm, mcnemar};
pub use resample::{
    Interval, RESAMPLES, difference_interval, mean, mean_interval, median, permutation,
};
pub use sample_size::{questions_needed_mcnemar, questions_needed_mean};
