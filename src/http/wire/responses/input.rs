//! The items of a conversation, as messages of a chat.

use serde_json::{Map, Value, json};

use super::tools;
use crate::chat::ChatMessage;
use crate::http::error::{ApiError, shorten};
use crate::large_model::THOUGHTS;

/// Finds items of earlier responses by id. Fails when they are too much for one request.
pub(super) type ItemLookup<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Value>, ApiError>;

/// The conversation in `input`, preceded by the instructions.
///
/// # Errors
/// For items and parts that have no counterpart; `param` names them.
pub(super) fn messages(
    instructions: Option<String>,
    input: Value,
    known: ItemLookup<'_>,
) -> Result<Vec<ChatMessage>, ApiError> {
    let mut messages = Vec::new();
    let mut thoughts = String::new();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        messages.push(ChatMessage::text("system", instructions));
    }
    match input {
        Value::String(question) => messages.push(ChatMessage::text("user", question)),
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.into_iter().enumerate() {
                let param = format!("input[{index}]");
                let item = resolved(&param, item, known)?;
                push(&mut messages, &mut thoughts, &param, item)?;
            }
        }
        Value::Array(_) => return Err(ApiError::invalid("input", "`input` is empty")),
        _ => {
            let message = "`input` must be a string or a list of items";
            return Err(ApiError::invalid("input", message));
        }
    }
    Ok(messages)
}

/// The item itself if this is a reference to one.
fn resolved(param: &str, item: Value, known: ItemLookup<'_>) -> Result<Value, ApiError> {
    let is_bare = item.get("type").is_none_or(Value::is_null) && item.get("role").is_none();
    let id = item.get("id").and_then(Value::as_str);
    let Some(id) = id.filter(|_| is_bare || item["type"] == "item_reference") else {
        return Ok(item);
    };
    known(id)?.ok_or_else(|| {
        let param = format!("{param}.id");
        let message = reason!(
            "`{param}` = `{}` is not known any more: nothing is stored", shorten(id);
            hint: "set `store` to false, so that clients send the item itself"
        );
        ApiError::invalid(&param, message)
    })
}

/// Adds an item to the messages. `thoughts`: those since the last message that is no answer.
fn push(
    messages: &mut Vec<ChatMessage>,
    thoughts: &mut String,
    param: &str,
    item: Value,
) -> Result<(), ApiError> {
    let Value::Object(mut item) = item else {
        return Err(ApiError::invalid(param, format!("`{param}` is not an item")));
    };
    let kind = item.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    match kind.as_str() {
        "message" => {
            let role = text(&item, param, "role")?;
            if role != "assistant" {
                thoughts.clear();
            }
            let content = content(&format!("{param}.content"), item.shift_remove("content"))?;
            messages.push(ChatMessage { role, content, extra: Map::new() });
        }
        "function_call" => {
            let mut name = text(&item, param, "name")?;
            if let Some(Value::String(namespace)) = item.get("namespace") {
                name = tools::joined(namespace, &name);
            }
            let function = json!({"name": name, "arguments": text(&item, param, "arguments")?});
            let id = text(&item, param, "call_id")?;
            add_call(
                messages,
                thoughts,
                json!({"id": id, "type": "function", "function": function}),
            );
        }
        "custom_tool_call" => {
            let custom =
                json!({"name": text(&item, param, "name")?, "input": text(&item, param, "input")?});
            let id = text(&item, param, "call_id")?;
            add_call(messages, thoughts, json!({"id": id, "type": "custom", "custom": custom}));
        }
        "function_call_output" | "custom_tool_call_output" => {
            let id = text(&item, param, "call_id")?;
            let output = content(&format!("{param}.output"), item.shift_remove("output"))?;
            let extra = Map::from_iter([("tool_call_id".to_owned(), id.into())]);
            thoughts.clear();
            messages.push(ChatMessage { role: "tool".to_owned(), content: output, extra });
        }
        "reasoning" => {
            let lists = ["content", "summary"].into_iter();
            let mut lists = lists.filter_map(|key| item.get(key)?.as_array());
            let parts = lists.find(|parts| !parts.is_empty()).into_iter().flatten();
            for text in parts.filter_map(|part| part.get("text")?.as_str()) {
                append(thoughts, text);
            }
        }
        kind => {
            let param = format!("{param}.type");
            let message = reason!(
                "`{param}` = `{}` is not supported", shorten(kind);
                hint: "messages, function calls and their outputs are"
            );
            return Err(ApiError::bad_request("unsupported_parameter", message).with_param(&param));
        }
    }
    Ok(())
}

/// Adds a paragraph.
fn append(thoughts: &mut String, text: &str) {
    if !thoughts.is_empty() {
        thoughts.push_str("\n\n");
    }
    thoughts.push_str(text);
}

/// Adds a call, and the thoughts before it, to the last message if that makes calls or is the
/// assistant's text.
fn add_call(messages: &mut Vec<ChatMessage>, thoughts: &mut String, call: Value) {
    match messages.last_mut().filter(|last| last.role == "assistant") {
        Some(last) => match last.extra.get_mut("tool_calls") {
            Some(Value::Array(calls)) => calls.push(call),
            _ => drop(last.extra.insert("tool_calls".to_owned(), json!([call]))),
        },
        None => {
            let extra = Map::from_iter([("tool_calls".to_owned(), json!([call]))]);
            messages.push(ChatMessage {
                role: "assistant".to_owned(),
                content: Value::Null,
                extra,
            });
        }
    }
    let said = std::mem::take(thoughts);
    if let Some(last) = messages.last_mut().filter(|_| !said.is_empty()) {
        match last.extra.get_mut(THOUGHTS[0]) {
            Some(Value::String(known)) => append(known, &said),
            _ => drop(last.extra.insert(THOUGHTS[0].to_owned(), said.into())),
        }
    }
}

fn text(item: &Map<String, Value>, param: &str, key: &str) -> Result<String, ApiError> {
    let param = format!("{param}.{key}");
    match item.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(ApiError::invalid(&param, format!("`{param}` is not a string"))),
        None => {
            let message = format!("`{param}` is missing");
            Err(ApiError::bad_request("missing_field", message).with_param(&param))
        }
    }
}

/// What a message says: a string, or its parts.
fn content(param: &str, content: Option<Value>) -> Result<Value, ApiError> {
    match content {
        Some(Value::String(text)) => Ok(text.into()),
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(index, it)| part(&format!("{param}[{index}]"), it)).collect()
        }
        _ => {
            let message = format!("`{param}` must be a string or a list of parts");
            Err(ApiError::invalid(param, message))
        }
    }
}

fn part(param: &str, part: Value) -> Result<Value, ApiError> {
    let unsupported = |param: &str, hint: &str| {
        let message = reason!("`{param}` is not supported"; hint: "{hint}");
        ApiError::bad_request("unsupported_parameter", message).with_param(param)
    };
    let Value::Object(mut part) = part else {
        return Err(ApiError::invalid(param, format!("`{param}` is not a part")));
    };
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" => {
            Ok(json!({"type": "text", "text": text(&part, param, "text")?}))
        }
        "refusal" => Ok(json!({"type": "refusal", "refusal": text(&part, param, "refusal")?})),
        "input_image" => {
            let Some(url) = part.get("image_url").filter(|url| url.is_string()) else {
                let hint = "send the image itself in `image_url`";
                return Err(unsupported(&format!("{param}.file_id"), hint));
            };
            let mut image = json!({"url": url});
            if let Some(detail) = part.get("detail").filter(|detail| !detail.is_null()) {
                image["detail"] = detail.clone();
            }
            Ok(json!({"type": "image_url", "image_url": image}))
        }
        "input_audio" => {
            Ok(json!({"type": "input_audio", "input_audio": part.shift_remove("input_audio")}))
        }
        "input_file" => {
            if part.get("file_url").is_some_and(|url| !url.is_null()) {
                let hint = "send the file itself in `file_data`";
                return Err(unsupported(&format!("{param}.file_url"), hint));
            }
            part.retain(|key, value| key != "type" && !value.is_null());
            Ok(json!({"type": "file", "file": part}))
        }
        _ => {
            let hint = "texts, images, audio and files are";
            Err(unsupported(&format!("{param}.type"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn items_become_messages() {
        let call = |id: &str| {
            json!({"type": "function_call", "id": "fc_1", "call_id": id, "name": "f",
                   "arguments": "{}", "status": "completed"})
        };
        let output =
            |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "r"});
        let thought = |text: &str| {
            json!({"type": "reasoning", "id": "rs_1",
                   "summary": [{"type": "summary_text", "text": text}]})
        };
        let items = json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [
                {"type": "input_text", "text": "q"},
                {"type": "input_image", "image_url": "data:,x", "detail": "low"},
                {"type": "input_file", "file_data": "data:,y", "filename": "y.pdf"}]},
            thought("so"),
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "a", "annotations": []}]},
            call("1"), {"type": "item_reference", "id": "fc_2"}, output("1"), output("2"),
            thought("hm"), thought("yes"), call("3"), output("3"), thought("lost"),
            {"role": "user", "content": "and?"}, call("4"),
        ]);
        let mut known = |id: &str| Ok(Some(call("2")).filter(|_| id == "fc_2"));
        let called = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let result = |id: &str| json!({"role": "tool", "content": "r", "tool_call_id": id});
        let expected = json!([
            {"role": "system", "content": "i"},
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [
                {"type": "text", "text": "q"},
                {"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:,y", "filename": "y.pdf"}}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}],
             "tool_calls": [called("1"), called("2")], "reasoning_content": "so"},
            result("1"), result("2"),
            {"role": "assistant", "content": null, "tool_calls": [called("3")],
             "reasoning_content": "hm\n\nyes"},
            result("3"),
            {"role": "user", "content": "and?"},
            {"role": "assistant", "content": null, "tool_calls": [called("4")]},
        ]);
        assert_eq!(json!(messages(Some("i".to_owned()), items, &mut known).unwrap()), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (json!([]), "input"),
            (json!(7), "input"),
            (json!([7]), "input[0]"),
            (json!([{"role": "user"}]), "input[0].content"),
            (json!([{"content": "a"}]), "input[0].role"),
            (json!([{"type": "item_reference", "id": "x"}]), "input[0].id"),
            (json!([{"id": "x"}]), "input[0].id"),
            (json!([{"type": "web_search_call", "id": "x"}]), "input[0].type"),
            (json!([{"type": "function_call_output", "output": "a"}]), "input[0].call_id"),
            (json!([{"role": "user", "content": [{"type": "x"}]}]), "input[0].content[0].type"),
            (
                json!([{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]),
                "input[0].content[0].file_id",
            ),
        ];
        for (input, param) in table {
            let error = messages(None, input.clone(), &mut |_| Ok(None)).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{input}");
        }
    }
}
