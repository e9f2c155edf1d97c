//! Normalises the fields of a reply's message: content as text, thoughts in `reasoning_content`,
//! tool calls with ids and arguments as text.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The field for thoughts.
const THOUGHTS: &str = "reasoning_content";

/// The parts of a content list, by kind.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parts {
    pub(super) text: String,
    pub(super) thoughts: String,
    /// Other parts: images, audio.
    pub(super) others: Vec<Value>,
}

/// Splits a content list by kind. Texts are joined without separators: parts of a streamed reply
/// end anywhere.
pub(super) fn take_apart(parts: Vec<Value>) -> Parts {
    let mut apart = Parts::default();
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        match kind {
            "thinking" | "reasoning" | "reasoning_content" => {
                let text = [kind, "text", "content"].iter().find_map(|key| part.get(*key));
                append(&mut apart.thoughts, text);
            }
            "text" | "output_text" if part.is_string() => append(&mut apart.text, Some(&part)),
            "text" | "output_text" if part.get("text").is_some() => {
                append(&mut apart.text, part.get("text"));
            }
            _ => apart.others.push(part),
        }
    }
    apart
}

/// Appends a text, or the texts of a list of parts.
fn append(text: &mut String, value: Option<&Value>) {
    match value {
        Some(Value::String(more)) => text.push_str(more),
        Some(Value::Array(parts)) => {
            for part in parts {
                append(text, Some(part.get("text").unwrap_or(part)));
            }
        }
        Some(Value::Object(fields)) => append(text, fields.get("value")),
        _ => {}
    }
}

/// Replaces a message's content list: its text becomes the content, unless there are parts that are
/// not text.
pub(super) fn flatten(content: Value, fields: &mut Map<String, Value>) -> Value {
    let Value::Array(parts) = content else { return content };
    let Parts { text, thoughts, mut others } = take_apart(parts);
    if !thoughts.is_empty() && !fields.contains_key(THOUGHTS) {
        fields.insert(THOUGHTS.to_owned(), thoughts.into());
    }
    if others.is_empty() {
        return text.into();
    }
    if !text.is_empty() {
        others.insert(0, json!({"type": "text", "text": text}));
    }
    others.into()
}

/// Gives every tool call what clients rely on: a unique id, a type, arguments as text.
pub(super) fn repair_calls(fields: &mut Map<String, Value>) {
    let Some(Value::Array(calls)) = fields.get_mut("tool_calls") else {
        fields.shift_remove("tool_calls");
        return;
    };
    calls.retain(Value::is_object);
    let mut known = HashSet::new();
    for call in calls.iter_mut() {
        let id = call.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        if id.is_empty() || !known.insert(id) {
            let id = Uuid::new_v4().simple().to_string();
            call["id"] = format!("call_{}", &id[..24]).into();
        }
        if call.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            let kind = if call.get("custom").is_some() { "custom" } else { "function" };
            call["type"] = kind.into();
        }
        let Some(Value::Object(function)) = call.get_mut("function") else { continue };
        let arguments = match function.get("arguments") {
            Some(Value::String(text)) if !text.trim().is_empty() => continue,
            None | Some(Value::Null | Value::String(_)) => "{}".to_owned(),
            // As PHP writes an empty object.
            Some(Value::Array(items)) if items.is_empty() => "{}".to_owned(),
            Some(other) => other.to_string(),
        };
        function.insert("arguments".to_owned(), arguments.into());
    }
    if calls.is_empty() {
        fields.shift_remove("tool_calls");
    }
}

/// The finish reason that an endpoint gives. Some send a placeholder until there is one.
pub(super) fn said_reason(value: &Value) -> Option<&str> {
    value.as_str().filter(|said| !matches!(*said, "" | "null" | "None"))
}

/// Whether a field says nothing.
pub(super) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Whether a finish reason says that the endpoint failed before the reply was complete.
pub(super) fn is_failure(said: &str) -> bool {
    const FAILURES: [&str; 12] = [
        "error",
        // vLLM and SGLang.
        "abort",
        // DeepSeek.
        "insufficient_system_resource",
        // Zhipu.
        "network_error",
        // Cohere.
        "error_toxic",
        "error_limit",
        "timeout",
        // IBM.
        "cancelled",
        "time_limit",
        // Google.
        "malformed_function_call",
        "function_call_filter: malformed_function_call",
        "function_call_filter: unexpected_tool_call",
    ];
    FAILURES.iter().any(|known| said.eq_ignore_ascii_case(known))
}

/// The finish reason by OpenAI's names, which typed clients require.
pub(super) fn finish_reason(said: Option<&str>, has_calls: bool) -> &'static str {
    let said = said.unwrap_or_default().to_ascii_lowercase();
    match said.as_str() {
        "length"
        | "max_tokens"
        | "model_length"
        | "max_length"
        | "max_output_tokens"
        | "token_limit"
        | "model_context_window_exceeded" => "length",
        "content_filter"
        | "safety"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "image_safety"
        | "sensitive"
        | "content_filtered"
        | "guardrail_intervened"
        | "refusal" => "content_filter",
        "function_call" => "function_call",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn parts_are_taken_apart() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:,x"}});
        let table = [
            (json!([]), "", "", 0),
            (json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab", "", 0),
            (json!(["a", {"text": "b"}, {"type": "text", "text": {"value": "c"}}]), "abc", "", 0),
            (
                json!([{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]),
                "",
                "t",
                0,
            ),
            (
                json!([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]),
                "a",
                "t",
                0,
            ),
            (json!([{"type": "reasoning", "text": "t"}, image, {"type": "text"}]), "", "t", 2),
        ];
        for (parts, text, thoughts, others) in table {
            let apart = take_apart(parts.as_array().unwrap().clone());
            assert_eq!((&*apart.text, &*apart.thoughts), (text, thoughts), "{parts}");
            assert_eq!(apart.others.len(), others, "{parts}");
        }
        let mut fields = Map::new();
        let content = flatten(json!([image, {"type": "text", "text": "a"}]), &mut fields);
        assert_eq!(content, json!([{"type": "text", "text": "a"}, image]));
    }

    #[test]
    fn calls_are_whole() {
        let mut fields = json!({"tool_calls": [
            {"id": "", "function": {"name": "f", "arguments": {"a": 1}}},
            {"id": "c", "type": "function", "function": {"name": "g", "arguments": null}},
            {"id": "c", "type": "", "function": {"name": "h", "arguments": "{\"b\": 2}"}},
            {"id": "d", "function": {"name": "i", "arguments": []}},
            7,
        ]})
        .as_object()
        .cloned()
        .unwrap();
        repair_calls(&mut fields);
        let calls = fields["tool_calls"].as_array().unwrap();
        let arguments: Vec<_> = calls.iter().map(|call| &call["function"]["arguments"]).collect();
        assert_eq!(arguments, ["{\"a\":1}", "{}", "{\"b\": 2}", "{}"]);
        assert!(calls.iter().all(|call| call["type"] == "function"), "{calls:?}");
        let mut ids: Vec<_> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
        assert_eq!(ids[1], "c");
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == 4 && ids.iter().all(|id| !id.is_empty()), "{ids:?}");
        let custom = json!({"tool_calls": [{"id": "c", "custom": {"name": "f", "input": "x"}}]});
        let mut fields = custom.as_object().cloned().unwrap();
        repair_calls(&mut fields);
        assert_eq!(fields["tool_calls"][0]["type"], "custom");
        for none in [json!([]), json!(null), json!("x")] {
            let mut fields = Map::from_iter([("tool_calls".to_owned(), none)]);
            repair_calls(&mut fields);
            assert!(fields.is_empty());
        }
    }

    #[test]
    fn many_calls_take_no_time_to_speak_of() {
        let calls = (0..100_000).map(|number| json!({"id": number.to_string()})).collect();
        let mut fields = Map::from_iter([("tool_calls".to_owned(), Value::Array(calls))]);
        repair_calls(&mut fields);
        assert_eq!(fields["tool_calls"].as_array().map(Vec::len), Some(100_000));
    }

    #[test]
    fn finish_reasons_are_openais() {
        let table = [
            (None, false, "stop"),
            (Some(""), false, "stop"),
            (Some("eos_token"), false, "stop"),
            (Some("STOP"), true, "tool_calls"),
            (Some("stop"), true, "tool_calls"),
            (Some("tool_use"), true, "tool_calls"),
            (Some("MAX_TOKENS"), false, "length"),
            (Some("length"), true, "length"),
            (Some("model_context_window_exceeded"), false, "length"),
            (Some("SAFETY"), false, "content_filter"),
            (Some("sensitive"), false, "content_filter"),
        ];
        for (said, has_calls, expected) in table {
            assert_eq!(finish_reason(said, has_calls), expected, "{said:?}");
        }
    }
}
