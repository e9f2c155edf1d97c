//! The text side of a model folder: how conversations become ids.

use std::path::Path;

use crate::gguf::Gguf;
use crate::protocol::{Piece, THINK};

use super::chat_template::{ChatFormat, ChatTemplate, Message};
use super::tokenizer::{Tokenizer, TokenizerError};

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextSide {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template.
    pub template: ChatTemplate,
    format: Option<ChatFormat>,
}

impl TextSide {
    /// Reads tokenizer and chat template from a model's folder or GGUF file.
    ///
    /// # Errors
    /// When one of them is missing or cannot be used.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        if Gguf::is_path(path) {
            return Self::from_gguf(&Gguf::open(path)?);
        }
        Ok(Self::new(Tokenizer::load(path)?, ChatTemplate::load(path)?))
    }

    /// Reads tokenizer and chat template from an open GGUF file.
    ///
    /// # Errors
    /// As [`TextSide::load`].
    pub fn from_gguf(file: &Gguf) -> Result<Self, TokenizerError> {
        Ok(Self::new(Tokenizer::from_gguf(file)?, ChatTemplate::from_gguf(file)?))
    }

    fn new(tokenizer: Tokenizer, template: ChatTemplate) -> Self {
        // A model that reads the last message only has no such format, and cannot be a policy.
        let format = template.format().ok();
        Self { tokenizer, template, format }
    }

    /// Fails where the template cannot carry a conversation of several turns, as a policy's must.
    pub fn check_turns(&self) -> Result<(), TokenizerError> {
        self.format().map(|_| ())
    }

    /// What stands between turns.
    fn format(&self) -> Result<&ChatFormat, TokenizerError> {
        self.format.as_ref().ok_or_else(|| TokenizerError::Template {
            path: "the policy".into(),
            reason: "it drops earlier turns".into(),
        })
    }

    /// The token that ends a turn of the model, where there is one.
    pub fn turn_end(&self) -> Option<u32> {
        let end_ids = self.tokenizer.end_ids();
        let framed = self
            .format
            .as_ref()
            .and_then(|format| self.tokenizer.encode_markup(&format.before_user).ok())
            .and_then(|ids| ids.first().copied())
            .filter(|id| end_ids.contains(id));
        framed.or_else(|| end_ids.first().copied())
    }

    /// Ids that begin an episode: the opening as a user turn, ready for the policy to write.
    pub fn opening_ids(&self, opening: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
        self.conversation_ids(&[Message { role: "user", content: opening.to_vec() }])
    }

    /// Ids of a conversation, ready for the model to write the next turn.
    pub fn conversation_ids(&self, messages: &[Message]) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.tokenizer.encode_pieces(&self.template.render(messages)?)?;
        let begin = self.tokenizer.begin().filter(|begin| ids.first() != Some(begin));
        ids.splice(..0, begin);
        Ok(ids)
    }

    /// Ids that follow a sampled turn ending in `last`: the rest of the frame around it, the
    /// observation as a user turn, and the frame up to where the policy writes.
    pub fn observation_ids(
        &self,
        last: Option<u32>,
        observation: &[Piece],
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.tokenizer.encode_markup(&self.format()?.before_user)?;
        // The turn's own stop token is part of the frame: it must not stand there twice.
        if last.is_some() && ids.first().copied() == last {
            ids.remove(0);
        }
        ids.extend(self.tokenizer.encode_pieces(observation)?);
        ids.extend(self.tokenizer.encode_markup(&self.format()?.after_user)?);
        Ok(ids)
    }

    /// What the frame makes every turn start with: some templates open the think tag themselves.
    pub fn turn_prefix(&self) -> String {
        let opened = format!("<{THINK}>");
        let opens = |format: &ChatFormat| format.after_user.trim_end().ends_with(&opened);
        if self.format.as_ref().is_some_and(opens) { opened } else { String::new() }
    }
}
