//! What is kept of a streamed reply, in bytes. Its events are many times as long as that: each
//! repeats what is around its one token.

use serde_json::{Map, Value};

use crate::json_size::structure_bytes;

/// What is kept of a streamed reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ReplySize {
    /// Bytes of text.
    pub(super) text: usize,
    /// Bytes that lists and objects take around it.
    pub(super) structure: usize,
}

impl ReplySize {
    /// More fields of the message.
    pub(super) fn add(&mut self, delta: &Map<String, Value>) {
        for (key, value) in delta {
            match key.as_str() {
                // Said again and again.
                "role" => {}
                // The pieces of a call become one, whose fields are counted as text.
                "tool_calls" | "function_call" => self.text += text_bytes(value),
                _ => self.add_value(value),
            }
        }
    }

    /// More of the tokens' log-probabilities.
    pub(super) fn add_logprobs(&mut self, logprobs: &Map<String, Value>) {
        logprobs.values().for_each(|value| self.add_value(value));
    }

    fn add_value(&mut self, value: &Value) {
        self.text += text_bytes(value);
        // Texts are appended to what is there.
        if !value.is_string() {
            self.structure += structure_bytes(value);
        }
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() + text_bytes(value)).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_counted_and_what_is_repeated_is_not() {
        let call = json!({"index": 0, "id": "c", "function": {"arguments": "{}"}});
        let table = [
            (json!({"role": "assistant", "content": "abc"}), 3, false),
            (json!({"content": null}), 0, false),
            (json!({"tool_calls": [call]}), "indexidcfunctionarguments{}".len(), false),
            (json!({"content": [{"type": "text", "text": "a"}]}), "typetexttexta".len(), true),
        ];
        for (delta, text, has_structure) in table {
            let mut kept = ReplySize::default();
            kept.add(&delta.as_object().cloned().unwrap_or_default());
            assert_eq!((kept.text, kept.structure > 0), (text, has_structure), "{delta}");
        }
    }
}
