//! Identifies a vocabulary and a chat template without their files.

use super::chat_template::TemplateMessage;
use super::chat_tokenizer::ChatTokenizer;
use super::tokenizer::TokenizerError;
use crate::protocol::{Piece, concat};

/// The conversation that chat templates are compared by: roles and texts.
pub const CONVERSATION: [(&str, &str); 3] = [("user", "a"), ("assistant", "b"), ("user", "c")];

/// Ids that are compared, spread over the vocabulary.
const SPREAD: usize = 256;
/// Ids at the end of the vocabulary that are all compared: models of one family differ there.
const LAST: usize = 64;

/// Samples of a vocabulary, and a conversation in its chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// One more than the largest id.
    pub size: usize,
    /// Ids that each decode to complete characters.
    pub ids: Vec<u32>,
    /// [`CONVERSATION`] as the chat template writes it, ready for the next turn, without the token
    /// of beginning.
    pub conversation: String,
    /// The text of the BOS token, where there is one.
    pub begin: Option<String>,
    /// Its ids.
    pub conversation_ids: Vec<u32>,
}

impl Fingerprint {
    /// That of a model.
    ///
    /// # Errors
    /// Where the chat template fails.
    pub fn of(text: &ChatTokenizer) -> Result<Self, TokenizerError> {
        let tokenizer = &text.tokenizer;
        let size = tokenizer.size();
        let step = (size / SPREAD).max(1);
        let mut ids: Vec<u32> = (0..size).step_by(step).map(|id| id as u32).collect();
        ids.extend((size.saturating_sub(LAST)..size).map(|id| id as u32));
        ids.extend(tokenizer.stop_ids().iter().take(SPREAD));
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|&id| {
            let text = tokenizer.decode(&[id]).unwrap_or_default();
            !text.trim().is_empty() && !text.contains(char::REPLACEMENT_CHARACTER)
        });
        let messages = CONVERSATION.map(|(role, text)| TemplateMessage {
            role,
            content: vec![Piece::Markup(text.to_owned())],
        });
        let begin = text.template.begin();
        let written = concat(&text.template.render(&messages)?);
        let bare = begin.and_then(|begin| written.strip_prefix(begin)).unwrap_or(&written);
        Ok(Self {
            size,
            ids,
            conversation: bare.to_owned(),
            begin: begin.map(str::to_owned),
            conversation_ids: text.conversation_ids(&messages)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn the_bundled_policy_has_one() {
        let text = ChatTokenizer::load(Path::new("models/policy")).unwrap();
        let found = Fingerprint::of(&text).unwrap();
        assert_eq!(found.size, 932);
        assert!(found.ids.contains(&919) && found.ids.contains(&931), "special tokens, too");
        assert!(found.ids.len() > 200, "{}", found.ids.len());
        assert_eq!(found.conversation, "<|user|>a<|assistant|>b<|end|><|user|>c<|assistant|>");
        assert_eq!(text.tokenizer.decode(&found.conversation_ids[..1]).unwrap(), "<|user|>");
    }
}
