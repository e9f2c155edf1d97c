//! Tokenises texts of unbounded length: off the async workers, and only if they may fit.

use std::time::{Duration, Instant};

use super::tokenizer::TokenizerError;
use crate::compute::{self, ComputeError};

/// A text with more bytes per token than this exceeds the context, whatever its tokens are: natural
/// text has three to five.
pub const BYTES_A_TOKEN: usize = 16;
/// How long tokenising a text may take.
const TOKENIZE_TIMEOUT: Duration = Duration::from_secs(60);

/// A text that was not tokenised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    /// It is far beyond the context.
    #[error("a text of {bytes} bytes does not fit a context of {context} tokens")]
    TooLong {
        /// The length of the text.
        bytes: usize,
        /// The context.
        context: usize,
    },
    /// Too much is being computed already.
    #[error("the server has too much to compute")]
    Busy,
    /// The tokenizer failed.
    #[error("{0}")]
    Failed(String),
}

/// The ids of a text of so many bytes, unless that is far beyond the context.
///
/// # Errors
/// When the text is too long, there is no room for the work, or the tokenizer fails.
pub async fn tokenized(
    bytes: usize,
    context: usize,
    work: impl FnOnce() -> Result<Vec<u32>, TokenizerError> + Send + 'static,
) -> Result<Vec<u32>, TokenizeError> {
    if bytes > context.saturating_mul(BYTES_A_TOKEN) {
        return Err(TokenizeError::TooLong { bytes, context });
    }
    tokenizing(bytes, work).await
}

/// Runs the tokenizer over so many bytes, off the async workers where they are many.
///
/// # Errors
/// When there is no room for the work, or the tokenizer fails.
pub async fn tokenizing<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, TokenizerError> + Send + 'static,
) -> Result<T, TokenizeError> {
    let computed = compute::run_on(bytes, Instant::now() + TOKENIZE_TIMEOUT, work).await;
    let computed = computed.map_err(|error| match error {
        ComputeError::QueueFull => TokenizeError::Busy,
        error => TokenizeError::Failed(error.to_string()),
    })?;
    computed.map_err(|error| TokenizeError::Failed(error.to_string()))
}
