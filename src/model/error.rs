//! Errors of models.

use std::borrow::Cow;

use crate::hint::{Hint, Reason};

/// Errors of loading, running and saving a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("cannot access `{path}`: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is invalid.
    #[error("`{path}` is not usable: {reason}")]
    Invalid {
        /// The file or folder.
        path: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// The requested device is not available.
    #[error("{0}")]
    Device(Reason),
    /// A batch, a selection or a gradient does not fit the model or each other.
    #[error("cannot run the batch: {0}")]
    Batch(String),
    /// An adapter does not fit its model.
    #[error("cannot use the adapter: {0}")]
    Adapter(Reason),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for ModelError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Io { source, .. } => disk_hint(source).map(Into::into),
            Self::Invalid { reason, .. } | Self::Device(reason) | Self::Adapter(reason) => {
                reason.hint()
            }
            Self::Gguf(error) => error.hint(),
            Self::Batch(_) | Self::Tensor(_) => None,
        }
    }
}

/// What to do when a disk is full.
pub(crate) fn disk_hint(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => {
            Some("free some disk space; a training run then continues with `--resume`")
        }
        _ => None,
    }
}
