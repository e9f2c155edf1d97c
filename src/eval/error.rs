//! Errors of an evaluation.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::dataset::DatasetError;
use crate::hint::{Hint, Reason};
use crate::judge::JudgeError;
use crate::prompt_template::TemplateError;
use crate::world::WorldError;

/// Why an evaluation could not start or continue. Rows finished before are kept.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// An invalid arm.
    #[error("`{arm}` is not an arm: {reason}")]
    Arm {
        /// What was written.
        arm: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A prompt's template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The judge cannot be asked.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// No prompt of the search could be scored.
    #[error("the prompt search could not score any prompt: {reason}")]
    Search {
        /// The first failure.
        reason: Reason,
    },
    /// The run was asked to stop before the first row.
    #[error("stopped during the prompt search")]
    SearchInterrupted,
    /// The run was asked to stop after all rows were done.
    #[error("stopped while answers were scored")]
    ScoringInterrupted,
    /// The sentence encoder failed.
    #[error("sentences cannot be compared: {0}")]
    Similarity(String),
    /// A setting is impossible.
    #[error("{0}")]
    Setting(Reason),
    /// A file could not be read or written.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process writes into the folder.
    #[error("another evaluation uses `{}`", .0.display())]
    Locked(PathBuf),
    /// A line of finished rows that is not the last cannot be parsed.
    #[error("`{}` is damaged at line {line}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The run was asked to stop.
    #[error("stopped after {done} of {total} rows")]
    Interrupted {
        /// Rows finished, of this and earlier runs.
        done: usize,
        /// Rows wanted.
        total: usize,
    },
    /// No row could be answered.
    #[error("none of {rows} rows was answered; the first failure: {first}")]
    AllFailed {
        /// How many were tried.
        rows: usize,
        /// What happened to the first.
        first: String,
    },
    /// A file of tasks cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The world could not be made.
    #[error(transparent)]
    World(#[from] WorldError),
}

impl Hint for EvalError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Arm { .. } => super::arms::FORMS.into(),
            Self::Template(error) => return error.hint(),
            Self::Judge(error) => return error.hint(),
            Self::SearchInterrupted => {
                "the same command starts it again, and pays no reply twice that `cache` keeps"
                    .into()
            }
            Self::ScoringInterrupted | Self::Interrupted { .. } => {
                "the same command continues from there".into()
            }
            Self::Setting(reason) | Self::Search { reason } => return reason.hint(),
            Self::Similarity(_) => {
                "name another `metrics.sentence_model`, or another metric with `metrics.by_source`"
                    .into()
            }
            Self::Io { .. } => {
                "correct its path or its permissions, or free some disk space; finished rows are kept"
                    .into()
            }
            Self::AllFailed { .. } => {
                "when the cause is gone, the same command asks them again".into()
            }
            Self::Damaged { .. } => "delete that line, or choose another `output`".into(),
            Self::Locked(_) => "wait for its end, or choose another `output`".into(),
            Self::Dataset(error) => return error.hint(),
            Self::World(error) => return error.hint(),
        })
    }
}

impl EvalError {
    /// For `map_err` on what is done with `path`.
    pub(super) fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}
