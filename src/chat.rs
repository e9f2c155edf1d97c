//! Chat Completions wire types: served by `http`, sent by `large_model`. Fields that this program
//! does not interpret are kept in `extra`, so that they are passed on unchanged.

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

    /// Its texts: the string, or those of its parts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let parts = self.content.as_array().into_iter().flatten();
        let texts = parts.filter_map(|part| part.get("text").and_then(Value::as_str));
        self.content.as_str().into_iter().chain(texts)
    }

    /// The text of the message: the string, or the text parts joined by line breaks.
    pub fn as_text(&self) -> String {
        self.texts().collect::<Vec<_>>().join("\n")
    }

    /// The length of its text, bytes.
    pub fn text_length(&self) -> usize {
        self.texts().map(str::len).sum()
    }

    /// The message for a reader of text alone: its text, the kinds of its other parts, and its tool
    /// calls.
    pub fn transcript(&self) -> String {
        let parts = self.content.as_array().into_iter().flatten();
        let others = parts.filter_map(|part| part.get("type").and_then(Value::as_str));
        let others = others.filter(|kind| *kind != "text").map(|kind| format!("[{kind}]"));
        let calls = self.extra.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        let calls = calls.filter_map(|call| {
            let function = call.get("function")?;
            let name = function.get("name")?.as_str()?;
            let arguments = function.get("arguments").and_then(Value::as_str).unwrap_or_default();
            Some(format!("[calls {name} with {arguments}]"))
        });
        let text = Some(self.as_text()).filter(|text| !text.is_empty());
        text.into_iter().chain(others).chain(calls).collect::<Vec<_>>().join("\n")
    }

    /// Whether it calls tools.
    pub fn makes_calls(&self) -> bool {
        let calls = self.extra.get("tool_calls").and_then(Value::as_array);
        self.role == "assistant" && calls.is_some_and(|calls| !calls.is_empty())
    }

    /// The parts of the message that are no text.
    pub fn attachments(&self) -> impl Iterator<Item = &Value> {
        self.content.as_array().into_iter().flatten().filter(|part| is_attachment(part))
    }

    /// Removes the attachments and returns them. A null stays in the place of each.
    pub fn take_attachments(&mut self) -> Vec<Value> {
        let parts = self.content.as_array_mut().into_iter().flatten();
        parts.filter(|part| is_attachment(part)).map(Value::take).collect()
    }

    /// Inserts copies of `attachments` where [`Self::take_attachments`] left nulls.
    pub fn put_attachments(&mut self, attachments: &[Value]) {
        let parts = self.content.as_array_mut().into_iter().flatten();
        let places = parts.filter(|part| part.is_null());
        places.zip(attachments).for_each(|(place, attachment)| *place = attachment.clone());
    }
}

fn is_attachment(part: &Value) -> bool {
    part.get("text").is_none_or(|text| !text.is_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_reader_of_text_gets() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:,x"}});
        let call = json!({"id": "1", "function": {"name": "f", "arguments": "{}"}});
        let table = [
            (json!({"role": "user", "content": "a"}), "a", "a", 0),
            (
                json!({"role": "user", "content": [{"type": "text", "text": "a"}, image,
                       {"type": "text", "text": "b"}]}),
                "a\nb",
                "a\nb\n[image_url]",
                1,
            ),
            (
                json!({"role": "assistant", "content": null, "tool_calls": [call]}),
                "",
                "[calls f with {}]",
                0,
            ),
            (json!({"role": "assistant"}), "", "", 0),
        ];
        for (message, text, transcript, attachments) in table {
            let message: ChatMessage = serde_json::from_value(message).unwrap();
            assert_eq!(message.as_text(), text);
            assert_eq!(message.transcript(), transcript);
            assert_eq!(message.attachments().count(), attachments);
            let mut emptied = message.clone();
            let taken = emptied.take_attachments();
            assert_eq!(taken.len(), attachments);
            emptied.put_attachments(&taken);
            assert_eq!(emptied, message);
        }
    }
}
