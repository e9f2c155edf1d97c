//! What can end a training run.

use std::borrow::Cow;

use crate::dataset::DatasetError;
use crate::hint::{Hint, Reason};
use crate::model::{ModelError, disk_hint};
use crate::protocol::ProtocolError;
use crate::reward::RewardError;
use crate::tokenization::TokenizerError;
use crate::world::WorldError;

use super::adamw::AdamWError;
use super::example::ExampleError;
use super::grpo::Cause;
use super::grpo::tinker::TinkerError;

/// Why a run could not start or go on. Checkpoints written before stay usable.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration asks for something impossible.
    #[error("{0}")]
    Config(Reason),
    /// A file of the run could not be read or written.
    #[error("cannot read or write the files of the run: {0}")]
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
    #[error("another run uses `{0}`")]
    Locked(String),
    /// A run was to be resumed with other settings or data.
    #[error("the run was started with other settings or data:\n  {0}")]
    Changed(String),
    /// The folder contains a run already.
    #[error("`{0}` already holds a run")]
    Occupied(String),
    /// Too many consecutive steps had no finite gradient.
    #[error("the gradient was not finite for {0} steps in a row")]
    Diverged(u32),
    /// The run was asked to stop; its progress is in the last checkpoint.
    #[error("stopped after step {0}")]
    Interrupted(u64),
    /// A figure indicates that the policy collapses.
    #[error("stopped after step {step}: {reason}")]
    Collapsed {
        /// Steps done.
        step: u64,
        /// Which figure moved where.
        reason: Reason,
        /// Where the best policy is.
        best: String,
    },
    /// Too many episodes fail, or one fails permanently.
    #[error(
        "stopped after step {step}: {failed} of {started} episodes failed because of {cause}, after {retries} pauses; the last failure: {reason}"
    )]
    EpisodesFail {
        /// What caused most of the failures.
        cause: Cause,
        /// Steps done; they are in the last checkpoint.
        step: u64,
        /// How many episodes failed in the last attempt.
        failed: usize,
        /// How many were started.
        started: usize,
        /// How often the step was repeated.
        retries: u32,
        /// The last failure.
        reason: String,
    },
    /// The judge does not answer when the run begins.
    #[error("the judge cannot be asked: {0}")]
    JudgeIsDown(String),
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

impl Hint for TrainError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Config(reason) => return reason.hint(),
            Self::Io(error) => return disk_hint(error).map(Into::into),
            Self::Locked(_) => "wait for its end, or choose another `output`".into(),
            Self::Changed(_) => "put it back, begin in another `output`, or continue with the change by `--resume --allow-changes`".into(),
            Self::Occupied(_) => "continue with `--resume`, or choose another `output`".into(),
            Self::Diverged(_) => "lower `schedule.peak`; the last checkpoint is from before".into(),
            Self::Interrupted(_) => "continue with `--resume`".into(),
            Self::Collapsed { reason, best, .. } => match reason.hint() {
                Some(hint) => format!("{hint}; {best}").into(),
                None => best.as_str().into(),
            },
            Self::EpisodesFail { cause: Cause::Model, .. } => "when the cause is gone, continue with `--resume`".into(),
            Self::EpisodesFail { cause: Cause::Reward, .. } => "the models answer; repair the reward, then continue with `--resume`".into(),
            Self::EpisodesFail { cause: Cause::Judge, .. } => "the other models answer; repair the judge or raise its budget, then continue with `--resume` (`--allow-changes` where a setting changed)".into(),
            Self::JudgeIsDown(_) => "no episode was started; repair the judge, or raise its budget".into(),
            Self::Model(error) => return error.hint(),
            Self::Optimizer(error) => return error.hint(),
            Self::Example(error) => return error.hint(),
            Self::Dataset(error) => return error.hint(),
            Self::World(error) => return error.hint(),
            Self::Reward(error) => return error.hint(),
            Self::Tokenizer(error) => return error.hint(),
            Self::Protocol(error) => return error.hint(),
            Self::Tinker(error) => return error.hint(),
            Self::Read { .. } => return None,
        })
    }
}

impl TrainError {
    /// Whether the run ends in the middle of its work, and can go on from there later.
    pub(super) fn is_pause(&self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::EpisodesFail { .. })
    }

    /// For a file that the run needs.
    pub(super) fn read(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), source }
    }
}
