//! Orders the messages of a call so that every chat template accepts them.

use serde_json::{Value, json};

use crate::chat::ChatMessage;

/// Inserted between a tool's result and the next prompt: templates want an assistant message after
/// a result.
const RESULT_READ: &str = "I have the result.";

/// The same conversation with one system message, the first, that holds all others' texts; with
/// roles that alternate; and with an assistant's message after the results of tools.
pub(super) fn arranged(messages: Vec<ChatMessage>) -> Vec<ChatMessage> {
    let is_system = |message: &ChatMessage| matches!(message.role.as_str(), "system" | "developer");
    let (system, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_system);
    let system: Vec<_> =
        system.iter().map(ChatMessage::as_text).filter(|text| !text.trim().is_empty()).collect();
    let mut arranged = Vec::with_capacity(others.len() + 1);
    if !system.is_empty() {
        arranged.push(ChatMessage::text("system", system.join("\n\n")));
    }
    for message in others {
        match arranged.last_mut() {
            Some(last) if last.role == "tool" && message.role == "user" => {
                arranged.push(ChatMessage::text("assistant", RESULT_READ));
                arranged.push(message);
            }
            Some(last) if may_join(last) && may_join(&message) && last.role == message.role => {
                append(&mut last.content, message.content);
            }
            _ => arranged.push(message),
        }
    }
    arranged
}

/// Whether a message says nothing but its content.
fn may_join(message: &ChatMessage) -> bool {
    matches!(message.role.as_str(), "user" | "assistant")
        && message.extra.values().all(Value::is_null)
        && !message.content.is_null()
}

/// Appends `more` to `content` in place: there may be thousands of messages to join.
fn append(content: &mut Value, more: Value) {
    if let (Value::String(text), Value::String(more)) = (&mut *content, &more) {
        text.push_str("\n\n");
        text.push_str(more);
        return;
    }
    if !content.is_array() {
        *content = Value::Array(parts(content.take()));
    }
    if let Value::Array(all) = content {
        all.extend(parts(more));
    }
}

fn parts(content: Value) -> Vec<Value> {
    match content {
        Value::Array(parts) => parts,
        text => vec![json!({"type": "text", "text": text})],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_template_takes_them() {
        let calls = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]});
        let result = json!({"role": "tool", "tool_call_id": "1", "content": "r"});
        let user = |text: &str| json!({"role": "user", "content": text});
        let table = [
            (json!([user("a")]), json!([user("a")])),
            (
                json!([{"role": "system", "content": "x"}, {"role": "developer", "content": "y"},
                       user("a"), {"role": "system", "content": [{"type": "text", "text": "z"}]}]),
                json!([{"role": "system", "content": "x\n\ny\n\nz"}, user("a")]),
            ),
            (json!([user("a"), user("b")]), json!([user("a\n\nb")])),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}, user("b")]),
                json!([{"role": "user",
                        "content": [{"type": "image_url"}, {"type": "text", "text": "b"}]}]),
            ),
            (
                json!([{"role": "user", "content": "a", "name": "n"}, user("b")]),
                json!([{"role": "user", "content": "a", "name": "n"}, user("b")]),
            ),
            (
                json!([user("a"), calls, result, result, user("b")]),
                json!([user("a"), calls, result, result,
                       {"role": "assistant", "content": RESULT_READ}, user("b")]),
            ),
        ];
        for (messages, expected) in table {
            let arranged = arranged(serde_json::from_value(messages.clone()).unwrap());
            assert_eq!(json!(arranged), expected, "{messages}");
        }
    }
}
