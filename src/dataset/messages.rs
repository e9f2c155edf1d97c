//! The messages of a conversation.

use serde_json::value::RawValue;

use super::Unused;
use super::cell::Cell;
use super::example::{ChatRole, ChatTurn};

/// Keys of a message that are read. Calls of tools are refused before.
const READ: [&str; 7] = ["role", "from", "content", "value", "weight", "train", "tool_calls"];
/// Keys with the reasoning before an assistant's message, the preferred first.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "thinking", "thought"];
/// Keys of a message that change nothing about what is learnt.
const METADATA_KEYS: [&str; 12] = [
    "id",
    "index",
    "name",
    "lang",
    "language",
    "model",
    "timestamp",
    "created",
    "created_at",
    "tokens",
    "token_count",
    "turn",
];

/// The messages of a conversation: OpenAI's `role` and `content`, or ShareGPT's `from` and `value`.
pub(super) fn messages(value: &Cell, name: &str) -> Result<Vec<ChatTurn>, Unused> {
    let parsed;
    let list = match value {
        Cell::List(list) => list,
        // File formats without nested columns store it as text.
        Cell::Text(text) => {
            let raw: Option<&RawValue> = serde_json::from_str(text).ok();
            parsed = raw.map(Cell::from_json).transpose()?;
            match &parsed {
                Some(Cell::List(list)) => list,
                _ => return Err(format!("its `{name}` is not a list of messages").into()),
            }
        }
        _ => return Err(format!("its `{name}` is not a list of messages").into()),
    };
    if list.is_empty() {
        return Err(format!("its `{name}` is empty").into());
    }
    list.iter().enumerate().map(|(at, message)| one_message(message, name, at + 1)).collect()
}

fn one_message(message: &Cell, name: &str, number: usize) -> Result<ChatTurn, Unused> {
    let at = |reason: &str| Unused::Rejected(format!("message {number} of its `{name}` {reason}"));
    let role = message.get("role").or_else(|| message.get("from")).and_then(Cell::text);
    let role = match role.ok_or_else(|| at("has no `role`"))? {
        "system" | "developer" => ChatRole::System,
        "user" | "human" => ChatRole::User,
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" => ChatRole::Assistant,
        role @ ("tool" | "function" | "function_call" | "observation" | "ipython") => {
            return Err(at(&format!(
                "has the role `{role}`: conversations with tools are not trained on"
            )));
        }
        role => return Err(at(&format!("has the unknown role `{role}`"))),
    };
    for call in ["tool_calls", "function_call", "audio"] {
        if message.get(call).is_some_and(|value| *value != Cell::List(Vec::new())) {
            return Err(at(&format!("has `{call}`, which is not trained on")));
        }
    }
    let text = message.get("content").or_else(|| message.get("value"));
    let text = text.ok_or_else(|| at("has no `content`"))?;
    let mut content = content(text, "content").map_err(|error| match error {
        Unused::Rejected(reason) => at(&reason),
        skipped @ Unused::Skipped(_) => skipped,
    })?;
    if let Some(reasoning) = reasoning(message).map_err(|reason| at(&reason))? {
        if role != ChatRole::Assistant {
            return Err(at("has reasoning, but is not the assistant's"));
        }
        if !content.contains("</think>") {
            content = format!("<think>\n{reasoning}\n</think>\n\n{}", content.trim_start());
        }
    }
    refuse_keys(message).map_err(|reason| at(&reason))?;
    let has_loss = has_loss(message).map_err(|reason| at(&reason))?;
    let has_loss = has_loss && role == ChatRole::Assistant;
    Ok(ChatTurn { role, content, has_loss })
}

/// The reasoning before an assistant's message.
fn reasoning(message: &Cell) -> Result<Option<&str>, String> {
    let filled = |name: &&str| message.get(name).is_some_and(Cell::is_filled);
    let Some(name) = REASONING.into_iter().find(filled) else { return Ok(None) };
    match message.get(name).and_then(Cell::text) {
        Some(text) => Ok(Some(text.trim())),
        None => Err(format!("has a `{name}` that is not text")),
    }
}

/// Whether a message counts in the loss, by its keys: `weight`, as OpenAI has it, and `train`.
fn has_loss(message: &Cell) -> Result<bool, String> {
    let weight = match message.get("weight").and_then(Cell::scalar).as_deref() {
        None | Some("1") => true,
        Some("0") => false,
        Some(weight) => return Err(format!("has the weight `{weight}`, not 0 or 1")),
    };
    match message.get("train") {
        None => Ok(weight),
        Some(Cell::Bool(train)) => Ok(weight && *train),
        Some(_) => Err("has a `train` that is neither true nor false".to_owned()),
    }
}

/// Refuses a key of a message that may say something about it: it might be masked, rated or have
/// parts that are no text.
fn refuse_keys(message: &Cell) -> Result<(), String> {
    let Cell::Record(fields) = message else { return Ok(()) };
    let is_known = |key: &str| {
        READ.iter()
            .chain(&REASONING)
            .chain(&METADATA_KEYS)
            .any(|name| name.eq_ignore_ascii_case(key))
    };
    match fields.iter().find(|(key, value)| value.is_filled() && !is_known(key)) {
        Some((key, _)) => Err(format!("has the unknown key `{key}`")),
        None => Ok(()),
    }
}

/// Text, or parts of type `text`.
pub(super) fn content(value: &Cell, name: &str) -> Result<String, Unused> {
    let part = |part: &Cell| {
        let kind = part.get("type").and_then(Cell::text).unwrap_or("text");
        match (kind, part.get("text").and_then(Cell::text)) {
            ("text" | "input_text" | "output_text", Some(text)) => Ok(text.to_owned()),
            _ => Err(Unused::from(format!("has a part of type `{kind}`, not text"))),
        }
    };
    match value {
        Cell::List(parts) => parts.iter().map(part).collect(),
        value => value
            .scalar()
            .ok_or_else(|| format!("its `{name}` is {}, not text", value.kind()).into()),
    }
}

/// The roles of a conversation, for a reason.
pub(super) fn roles(messages: &[ChatTurn]) -> String {
    messages.iter().map(|message| message.role.to_string()).collect::<Vec<_>>().join(", ")
}
