//! The files of a checkpoint, `checkpoints/step-00000010/` in a run's folder.
//!
//! [`super::run_folder`] creates these folders atomically and removes old ones; [`super::optimize`]
//! reads and writes weights and moments, and GRPO's `run` the rest.

/// The weights that are trained.
pub const TRAINABLE: &str = "trainable.safetensors";
/// The moments of the optimizer.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The location of weights and optimizer at a Tinker server.
pub const TINKER: &str = "tinker.json";
/// The further state of a run.
pub const STATE: &str = "state.json";

/// Whether a file is one of [`earlier`].
pub fn is_earlier(name: &str) -> bool {
    name.ends_with("-earlier.safetensors")
}

/// The trained weights of `age` steps earlier.
pub fn earlier(age: usize) -> String {
    format!("trainable-{age}-earlier.safetensors")
}
