//! Identifies a vocabulary and a chat template without their files.

use super::chat_template::{ChatTemplate, TemplateMessage};
use super::chat_tokenizer::ChatTokenizer;
use super::tokenizer::TokenizerError;
use crate::protocol::concat;

/// The conversation that chat templates are compared by: roles and texts.
pub const CONVERSATION: [(&str, &str); 3] = [("user", "a"), ("assistant", "b"), ("user", "c")];

fn messages() -> [TemplateMessage; 3] {
    CONVERSATION.map(|(role, text)| TemplateMessage::markup(role, text))
}

/// [`CONVERSATION`] as `template` writes it, ready for the next turn, without the text `begin` of
/// the BOS token.
///
/// # Errors
/// When the chat template fails.
pub fn written_conversation(
    template: &ChatTemplate,
    begin: Option<&str>,
) -> Result<String, TokenizerError> {
    let written = concat(&template.render(&messages())?);
    let bare = begin.and_then(|begin| written.strip_prefix(begin)).unwrap_or(&written);
    Ok(bare.to_owned())
}

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
    /// [`CONVERSATION`] as the chat template writes it, ready for the next turn, without the BOS
    /// token.
    pub conversation: String,
    /// The ids of [`CONVERSATION`], the BOS token included.
    pub conversation_ids: Vec<u32>,
    /// The text of the BOS token, where there is one.
    pub begin: Option<String>,
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
        let begin = text.template.begin();
        Ok(Self {
            size,
            ids,
            conversation: written_conversation(&text.template, begin)?,
            begin: begin.map(str::to_owned),
            conversation_ids: text.conversation_ids(&messages())?,
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
