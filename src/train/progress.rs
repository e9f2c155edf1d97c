//! The port through which a run reports its progress and is asked to stop.

use super::metrics::Values;

/// Receives the progress of a run.
pub trait Progress {
    /// After each step: steps done, total steps, and the measurements.
    fn step(&mut self, done: u64, of: u64, values: &Values);

    /// Whether the run should stop after this step.
    fn is_cancelled(&self) -> bool {
        false
    }
}
