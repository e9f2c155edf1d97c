//! The port to what trains the policy: it scores trajectories and makes updates, wherever it computes.

use std::path::Path;

use super::update::Update;
use crate::model::Model;
use crate::train::error::TrainError;
use crate::trajectory::TokenTrace;

/// Scores of the sampled tokens of one trajectory, in order.
pub struct TraceScores {
    /// Natural log-probabilities under the policy as it is.
    pub log_probs: Vec<f64>,
    /// Entropies of the distributions that the tokens are scored by, nats.
    pub entropies: Vec<f64>,
}

/// A policy that is trained, and the state of its optimizer.
///
/// What is minimised is no business of a learner: it gets the gradient in the log-probabilities.
pub trait Learner {
    /// The policy as it is, to sample from. Cloning it copies no weights.
    fn policy(&self) -> &Model;

    /// Log-probabilities of each trajectory's sampled tokens under the policy as it is.
    ///
    /// # Errors
    /// Fails where the model does.
    fn log_probs(&mut self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f64>>, TrainError>;

    /// Makes one update: scores each trajectory of `update`, and asks it for the gradient. Returns
    /// the norm of the gradient before it was clipped (NaN where that is not known), or `None` where
    /// gradient or loss are not finite; the policy is unchanged then.
    ///
    /// # Errors
    /// Fails where the model or its optimizer does.
    fn update(&mut self, update: &mut Update<'_>) -> Result<Option<f64>, TrainError>;

    /// Writes what is needed to go on from here into the folder of a checkpoint, with the trained
    /// weights of the policy as `trainable.safetensors`.
    ///
    /// # Errors
    /// Fails where something cannot be written.
    fn save(&mut self, folder: &Path) -> Result<(), TrainError>;
}
