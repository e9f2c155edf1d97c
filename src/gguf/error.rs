//! Errors about GGUF files.

use std::borrow::Cow;

use crate::hint::{Hint, Reason};

/// A GGUF file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// It cannot be opened.
    #[error("cannot read `{path}`: {reason}")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// It is not a GGUF file, or an incomplete one.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is a GGUF file of a kind that is not supported.
    #[error("`{path}` cannot be used: {reason}")]
    Unsupported {
        /// The file.
        path: String,
        /// What is not supported.
        reason: Reason,
    },
    /// A setting in it is missing or cannot be used.
    #[error("`{path}` cannot be used: `{key}`: {reason}")]
    Key {
        /// The file.
        path: String,
        /// The setting.
        key: String,
        /// What is wrong with it.
        reason: Reason,
    },
}

impl Hint for GgufError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Damaged { .. } => "it may be incomplete; copy or download it again".into(),
            Self::Unsupported { reason, .. } | Self::Key { reason, .. } => return reason.hint(),
            Self::Read { .. } => return None,
        })
    }
}

/// Why reading stopped; the caller adds the file's name.
#[derive(Debug)]
pub(super) enum ParseError {
    Damaged(String),
    Unsupported(Reason),
}
