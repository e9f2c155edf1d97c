//! The output head: log-probabilities of given targets and entropies, without storing logits.

use candle_core::{Result, Tensor};

use super::types::{Head, ScoreGradients};
use super::{composed, host};
use crate::model::batch::TokenScores;

/// Scores, and in the fused form the log-sum of each row's logits over temperature.
pub(crate) fn forward(head: &Head) -> Result<(TokenScores, Vec<f32>)> {
    match host::is_host(head.hidden) {
        true => host::head::forward(head),
        false => Ok((composed::head(head)?, Vec::new())),
    }
}

/// The gradient of the hidden rows; adds that of the projection into `d_weight` unless it is
/// frozen. `scores` and `log_sums` are the outputs of forward.
pub(crate) fn backward(
    head: &Head,
    scores: &TokenScores,
    log_sums: &[f32],
    gradient: ScoreGradients,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    match host::is_host(head.hidden) {
        true => host::head::backward(head, scores, log_sums, gradient, d_weight),
        false => composed::head_backward(head, gradient, d_weight),
    }
}
