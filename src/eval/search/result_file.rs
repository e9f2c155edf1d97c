//! A finished search, stored in the output folder so that it is not repeated.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file::replace;
use crate::eval::EvalError;

use super::SearchResult;

/// The file of a finished search.
#[derive(Debug, Clone)]
pub struct ResultFile {
    path: PathBuf,
    /// Everything the result depends on.
    identity: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    identity: String,
    found: SearchResult,
}

impl ResultFile {
    /// `prompt-search.json` in `folder`.
    pub fn new(folder: &Path, identity: String) -> Self {
        Self { path: folder.join("prompt-search.json"), identity }
    }

    /// The result under the same identity, if there is one.
    ///
    /// # Errors
    /// When the file exists and cannot be read or parsed.
    pub fn read(&self) -> Result<Option<SearchResult>, EvalError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EvalError::io(&self.path)(error)),
        };
        let content: Content =
            serde_json::from_slice(&text).map_err(|error| EvalError::Damaged {
                path: self.path.clone(),
                line: error.line(),
                reason: error.to_string(),
            })?;
        Ok((content.identity == self.identity).then_some(content.found))
    }

    /// Stores the result, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, found: &SearchResult) -> Result<(), EvalError> {
        let content = Content { identity: self.identity.clone(), found: found.clone() };
        let written = serde_json::to_vec_pretty(&content)
            .map_err(std::io::Error::from)
            .and_then(|text| replace(&self.path, |beside| std::fs::write(beside, text)));
        written.map_err(EvalError::io(&self.path))
    }
}
