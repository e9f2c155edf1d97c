//! The port to what trains the policy: it scores trajectories and makes updates, locally or at a
//! server.

use std::path::Path;

use super::update::Update;
use crate::model::Model;
use crate::train::error::TrainError;
use crate::trajectory::TokenTrace;

/// Scores of the sampled tokens of one trajectory, in order.
pub struct TraceScores {
    /// Natural log-probabilities under the current policy.
    pub log_probs: Vec<f64>,
    /// Entropies of the distributions of the tokens, nats.
    pub entropies: Vec<f64>,
}

/// A policy that is trained, and the state of its optimizer.
///
/// A learner does not know the objective: it is given gradients with respect to log-probabilities.
pub trait Learner {
    /// The current policy, to sample from. Cloning it copies no weights.
    fn policy(&self) -> &Model;

    /// Log-probabilities of each trajectory's sampled tokens under the current policy.
    ///
    /// # Errors
    /// When the model fails.
    fn log_probs(&mut self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f64>>, TrainError>;

    /// Makes one update: scores each trajectory of `update`, and asks it for the gradient. Returns
    /// the norm of the gradient before clipping (NaN if unknown), or `None` if gradient or loss are
    /// not finite; then the policy is unchanged.
    ///
    /// # Errors
    /// When the model or its optimizer fails.
    fn update(&mut self, update: &mut Update<'_>) -> Result<Option<f64>, TrainError>;

    /// Writes the state that resuming needs into the folder of a checkpoint, with the trained
    /// weights of the policy as `trainable.safetensors`.
    ///
    /// # Errors
    /// When something cannot be written.
    fn save(&mut self, folder: &Path) -> Result<(), TrainError>;
}
