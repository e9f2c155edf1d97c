//! What can end a training run.

use crate::dataset::DatasetError;
use crate::model::{ModelError, disk_hint};
use crate::protocol::ProtocolError;
use crate::reward::RewardError;
use crate::tokenization::TokenizerError;
use crate::world::WorldError;

use super::adamw::AdamWError;
use super::example::ExampleError;
use super::grpo::tinker::TinkerError;

/// Why a run could not start or go on. Checkpoints written before stay usable.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration asks for something impossible.
    #[error("{0}")]
    Config(String),
    /// A file of the run could not be read or written.
    #[error("cannot read or write the files of the run: {0}{hint}", hint = disk_hint(.0))]
    Io(#[from] std::io::Error),
    /// A file that the run needs could not be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses the folder.
    #[error("another run is at work in `{0}`\nhint: wait for its end, or choose another `output`")]
    Locked(String),
    /// A run was to be resumed with other settings or data.
    #[error(
        "the run was begun with something else:\n  {0}\nhint: put it back, begin in another `output`, or go on all the same with `--resume --allow-changes`"
    )]
    Changed(String),
    /// The folder contains a run already.
    #[error("`{0}` already holds a run\nhint: go on with `--resume`, or choose another `output`")]
    Occupied(String),
    /// Too many consecutive steps had no finite gradient.
    #[error(
        "the gradient was not finite for {0} steps in a row\nhint: lower `schedule.peak`; the last checkpoint is from before"
    )]
    Diverged(u32),
    /// The run was asked to stop; its progress is in the last checkpoint.
    #[error("stopped after step {0}\nhint: go on with `--resume`")]
    Interrupted(u64),
    /// A figure indicates that the policy collapses.
    #[error("stopped after step {step}: {reason}\nhint: {kept}")]
    Collapsed {
        /// Steps done.
        step: u64,
        /// Which figure moved where, with a hint.
        reason: String,
        /// Where the best policy is.
        kept: String,
    },
    /// Too many episodes fail.
    #[error(
        "stopped after step {step}: {failed} of {asked} episodes failed, and again after each of {retries} pauses; the last failure: {reason}\nhint: when the cause is gone, go on with `--resume`"
    )]
    Outage {
        /// Steps done; they are in the last checkpoint.
        step: u64,
        /// How many episodes failed in the last attempt.
        failed: usize,
        /// How many were started.
        asked: usize,
        /// How often the step was repeated.
        retries: u32,
        /// The last failure.
        reason: String,
    },
    /// The reward of too many episodes fails.
    #[error(
        "stopped after step {step}: {failed} of {asked} episodes have no reward, and again after each of {retries} pauses; the last failure: {reason}\nhint: the models answer; mend the reward, then go on with `--resume`"
    )]
    RewardFails {
        /// Steps done; they are in the last checkpoint.
        step: u64,
        /// How many episodes failed in the last attempt.
        failed: usize,
        /// How many were started.
        asked: usize,
        /// How often the step was repeated.
        retries: u32,
        /// The last failure.
        reason: String,
    },
    /// The judge does not answer when the run begins.
    #[error(
        "the judge cannot be asked: {0}\nhint: no episode was begun; mend the judge, or raise its budget"
    )]
    JudgeIsDown(String),
    /// The judge fails for too many answers, or its budget is used up.
    #[error(
        "stopped after step {step}: {failed} of {asked} episodes have no judgement, after {retries} pauses; the last failure: {reason}\nhint: the other models answer; mend the judge or raise its budget, then go on with `--resume` (`--allow-changes` where a setting changed)"
    )]
    JudgeFails {
        /// Steps done; they are in the last checkpoint.
        step: u64,
        /// How many episodes failed in the last attempt.
        failed: usize,
        /// How many were started.
        asked: usize,
        /// How often the step was repeated.
        retries: u32,
        /// The last failure.
        reason: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The optimizer failed.
    #[error(transparent)]
    Optimizer(#[from] AdamWError),
    /// A conversation could not be made into tokens.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The world could not be made.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A template failed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A file of tasks cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The server that trains failed.
    #[error(transparent)]
    Tinker(#[from] TinkerError),
    /// The reward is configured incorrectly.
    #[error(transparent)]
    Reward(#[from] RewardError),
}

impl TrainError {
    /// For a file that the run needs.
    pub(super) fn read(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), source }
    }
}
