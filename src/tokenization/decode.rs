//! Turns a stream of ids into a stream of text.

use super::tokenizer::{Tokenizer, TokenizerError};

/// Decodes ids one at a time; text appears once its characters are whole.
///
/// The text of an id can depend on the ids before it, so each step decodes a short window twice,
/// without and with the new id, and reports the difference.
#[derive(Debug, Default, Clone)]
pub struct IncrementalDecoder {
    window: Vec<u32>,
    /// How many ids of the window have been reported.
    reported: usize,
}

impl IncrementalDecoder {
    /// Takes the next id; returns the text that became certain, possibly none.
    ///
    /// # Errors
    /// When the id is none of the tokenizer's.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        self.window.push(id);
        let before = tokenizer.decode(&self.window[..self.reported])?;
        let after = tokenizer.decode(&self.window)?;
        // A replacement character at the end is the first half of one that is not complete yet.
        if after.ends_with('\u{FFFD}') || after.len() <= before.len() {
            return Ok(String::new());
        }
        let text = after.get(before.len()..).unwrap_or_default().to_owned();
        self.window.drain(..self.reported);
        self.reported = self.window.len();
        Ok(text)
    }

    /// What was held back; call it when the stream has ended.
    ///
    /// # Errors
    /// When an id is none of the tokenizer's.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let before = tokenizer.decode(&self.window[..self.reported])?;
        let after = tokenizer.decode(&self.window)?;
        self.reported = self.window.len();
        Ok(after.get(before.len()..).unwrap_or_default().to_owned())
    }
}
