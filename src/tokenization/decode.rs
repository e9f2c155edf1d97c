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
    /// Takes the next id, and returns the text that became certain, possibly empty.
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

    /// The text that was held back, at the end of the stream.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::tokenization::word_level::{CONVERSATION_TEMPLATE, write_word_level};

    /// Knows two words; everything else becomes bytes.
    fn tokenizer() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let words = ["known words".to_owned()];
        write_word_level(folder.path(), &words, &[], CONVERSATION_TEMPLATE).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    #[test]
    fn pieces_are_whole_characters_and_together_the_text() {
        let tokenizer = tokenizer();
        for text in [
            "known words",
            "na\u{ef}ve \u{2603} known \u{65e5}\u{672c}",
            "\u{1f600}",
            "a\u{fffd}b",
            "",
        ] {
            let ids = tokenizer.encode_text(text).unwrap();
            let mut decoder = IncrementalDecoder::default();
            let mut pieces: Vec<String> =
                ids.iter().map(|&id| decoder.push(&tokenizer, id).unwrap()).collect();
            pieces.push(decoder.finish(&tokenizer).unwrap());
            assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap(), "{text}: {pieces:?}");
            let broken = pieces.iter().filter(|piece| piece.contains('\u{fffd}')).count();
            assert_eq!(broken, text.matches('\u{fffd}').count(), "{text}: {pieces:?}");
        }
    }

    #[test]
    fn half_a_character_at_the_end_is_shown_as_such() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_text("\u{1f600}").unwrap();
        let mut decoder = IncrementalDecoder::default();
        for &id in &ids[..ids.len() - 1] {
            assert_eq!(decoder.push(&tokenizer, id).unwrap().trim(), "");
        }
        assert!(decoder.finish(&tokenizer).unwrap().contains('\u{fffd}'));
        assert_eq!(decoder.finish(&tokenizer).unwrap(), "", "it is reported once");
    }
}
