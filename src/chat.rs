//! Chat Completions wire types: served by `http`, sent by `large_model`. Fields that this project
//! has no opinion on are carried in `extra`, so that nothing a peer says is lost.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool`.
    pub role: String,
    /// A string, an array of parts (text, image, audio…), or null beside tool calls.
    #[serde(default)]
    pub content: Value,
    /// `name`, `tool_calls`, `tool_call_id` and whatever else the peer sends.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ChatMessage {
    /// A message of plain text.
    pub fn text(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: Value::String(content.into()), extra: Map::new() }
    }

    /// The text of the message: the string, or the text parts joined by line breaks.
    pub fn as_text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts
                .iter()
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect::<Vec<_>>()
                .join("\n"),
            _ => String::new(),
        }
    }
}
