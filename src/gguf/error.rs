//! Errors about GGUF files.

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
    #[error("`{path}` is damaged: {reason}\nhint: it may be incomplete; copy or download it again")]
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
        /// What is not supported, with a hint.
        reason: String,
    },
    /// A setting in it is missing or cannot be used.
    #[error("`{path}` cannot be used: `{key}`: {reason}")]
    Key {
        /// The file.
        path: String,
        /// The setting.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why reading stopped; the caller adds the file's name.
#[derive(Debug)]
pub(super) enum Fault {
    Damaged(String),
    Unsupported(String),
}
