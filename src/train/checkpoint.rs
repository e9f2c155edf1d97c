//! The files of a checkpoint, `checkpoints/step-00000010/` in a run's folder.
//!
//! [`super::run_folder`] makes these folders whole or not at all and removes old ones;
//! [`super::optimize`] writes and reads weights and moments, and GRPO's `run` the rest.

/// The weights that are trained.
pub const TRAINABLE: &str = "trainable.safetensors";
/// The moments of the optimizer.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// Where a Tinker server keeps weights and optimizer.
pub const TINKER: &str = "tinker.json";
/// What a GRPO run needs beside them.
pub const STATE: &str = "state.json";

/// Whether a file is one of [`earlier`].
pub fn is_earlier(name: &str) -> bool {
    name.ends_with("-earlier.safetensors")
}

/// The trained weights of `age` steps before.
pub fn earlier(age: usize) -> String {
    format!("trainable-{age}-earlier.safetensors")
}
