//! Messages made of blocks, as messages of a chat.

use serde_json::{Map, Value, json};

use crate::chat::ChatMessage;
use crate::http::error::{ApiError, shorten};
use crate::large_model::THOUGHTS;

/// The conversation of a request, with the system prompt before it.
///
/// # Errors
/// For roles and blocks that have no counterpart; `param` names them.
pub(super) fn messages(
    system: Option<Value>,
    messages: Vec<Value>,
) -> Result<Vec<ChatMessage>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must hold at least one"));
    }
    let mut made = Vec::new();
    match system {
        None | Some(Value::Null) => {}
        Some(system) => {
            let content = content("system", system, &mut made, "system")?;
            made.extend(content.map(|content| message("system", content)));
        }
    }
    for (index, item) in messages.into_iter().enumerate() {
        let param = format!("messages[{index}]");
        let role = item.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !["user", "assistant", "system"].contains(&role.as_str()) {
            let param = format!("{param}.role");
            let role = shorten(&role);
            let text = reason!(
                "`{param}` = `{role}` is not known";
                hint: "the roles are `user`, `assistant` and `system`"
            );
            return Err(ApiError::invalid(&param, text));
        }
        let said = item.get("content").cloned().unwrap_or_default();
        let content = content(&format!("{param}.content"), said, &mut made, &role)?;
        made.extend(content.map(|content| message(&role, content)));
    }
    Ok(made)
}

fn message(role: &str, content: Value) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content, extra: Map::new() }
}

/// The content of a message without tool calls and results, which become messages of their own.
fn content(
    param: &str,
    content: Value,
    made: &mut Vec<ChatMessage>,
    role: &str,
) -> Result<Option<Value>, ApiError> {
    let blocks = match content {
        Value::String(text) => return Ok(Some(text.into())),
        Value::Array(blocks) => blocks,
        _ => {
            let text = format!("`{param}` must be a string or a list of blocks");
            return Err(ApiError::invalid(param, text));
        }
    };
    let is_empty = blocks.is_empty();
    let (mut parts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.into_iter().enumerate() {
        let param = format!("{param}[{index}]");
        let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "thinking" => {
                let said = block.get("thinking").and_then(Value::as_str);
                thoughts.extend(said.filter(|said| !said.is_empty()).map(str::to_owned));
            }
            "redacted_thinking" => {}
            "tool_use" if role == "assistant" => calls.push(call(&param, &block)?),
            "tool_result" if role == "user" => made.push(result(&param, &block)?),
            _ => parts.push(part(&param, &block)?),
        }
    }
    if !calls.is_empty() {
        let content = if parts.is_empty() { Value::Null } else { parts.into() };
        let mut extra = Map::from_iter([("tool_calls".to_owned(), calls.into())]);
        if !thoughts.is_empty() {
            extra.insert(THOUGHTS[0].to_owned(), thoughts.join("\n\n").into());
        }
        made.push(ChatMessage { role: role.to_owned(), content, extra });
        return Ok(None);
    }
    Ok((is_empty || !parts.is_empty()).then(|| parts.into()))
}

fn text<'a>(block: &'a Value, param: &str, key: &str) -> Result<&'a str, ApiError> {
    block.get(key).and_then(Value::as_str).ok_or_else(|| {
        let param = format!("{param}.{key}");
        ApiError::invalid(&param, format!("`{param}` must be a string"))
    })
}

fn call(param: &str, block: &Value) -> Result<Value, ApiError> {
    let arguments = block.get("input").cloned().unwrap_or_else(|| json!({})).to_string();
    let function = json!({"name": text(block, param, "name")?, "arguments": arguments});
    Ok(json!({"id": text(block, param, "id")?, "type": "function", "function": function}))
}

fn result(param: &str, block: &Value) -> Result<ChatMessage, ApiError> {
    let id = text(block, param, "tool_use_id")?;
    let inner = format!("{param}.content");
    let content = match block.get("content") {
        None | Some(Value::Null) => "".into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(Value::Array(blocks)) => {
            let blocks = blocks.iter().enumerate();
            let parts = blocks.map(|(index, block)| part(&format!("{inner}[{index}]"), block));
            Value::Array(parts.collect::<Result<_, _>>()?)
        }
        Some(_) => {
            let text = format!("`{inner}` must be a string or a list of blocks");
            return Err(ApiError::invalid(&inner, text));
        }
    };
    // Chats have no field for it.
    let content = match (block.get("is_error") == Some(&json!(true)), content) {
        (true, Value::String(text)) => format!("The tool failed: {text}").into(),
        (true, Value::Array(parts)) => {
            let said = json!({"type": "text", "text": "The tool failed:"});
            std::iter::once(said).chain(parts).collect()
        }
        (_, content) => content,
    };
    let extra = Map::from_iter([("tool_call_id".to_owned(), id.into())]);
    Ok(ChatMessage { role: "tool".to_owned(), content, extra })
}

fn part(param: &str, block: &Value) -> Result<Value, ApiError> {
    let source = block.get("source").unwrap_or(&Value::Null);
    let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
    let source_kind = source.get("type").and_then(Value::as_str).unwrap_or_default();
    let at = format!("{param}.source");
    let data = || -> Result<String, ApiError> {
        let (kind, data) = (text(source, &at, "media_type")?, text(source, &at, "data")?);
        Ok(format!("data:{kind};base64,{data}"))
    };
    let title = block.get("title").and_then(Value::as_str);
    match (kind, source_kind) {
        ("text", _) => Ok(json!({"type": "text", "text": text(block, param, "text")?})),
        ("image", "base64") => Ok(json!({"type": "image_url", "image_url": {"url": data()?}})),
        ("image", "url") => {
            Ok(json!({"type": "image_url", "image_url": {"url": text(source, &at, "url")?}}))
        }
        ("document", "text") => {
            let said = text(source, &at, "data")?;
            let said = title.map_or_else(|| said.to_owned(), |title| format!("{title}\n\n{said}"));
            Ok(json!({"type": "text", "text": said}))
        }
        ("document", "base64") => {
            let name = title.unwrap_or("document.pdf");
            Ok(json!({"type": "file", "file": {"file_data": data()?, "filename": name}}))
        }
        (kind, source) => {
            let kind = shorten(kind);
            let (param, what) = match kind.as_str() {
                "image" | "document" => (format!("{at}.type"), shorten(source)),
                _ => (format!("{param}.type"), kind),
            };
            let message = reason!(
                "`{param}` = `{what}` is not supported";
                hint: "texts, images, documents by their data, and calls and results of tools are"
            );
            Err(ApiError::bad_request("unsupported_parameter", message).with_param(&param))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn made(system: Value, list: Value) -> Result<Value, ApiError> {
        messages(Some(system), serde_json::from_value(list).unwrap()).map(|made| json!(made))
    }

    #[test]
    fn blocks_become_messages() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let list = json!([
            {"role": "user", "content": [
                {"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "eA=="}},
                {"type": "document", "title": "t", "source":
                    {"type": "text", "media_type": "text/plain", "data": "d"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                text("a"),
                {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "2", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "r"},
                {"type": "tool_result", "tool_use_id": "2", "is_error": true,
                 "content": [text("no")]},
                text("and?")]},
            {"role": "assistant", "content": "b"},
        ]);
        let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": [text("s")]},
            {"role": "user", "content": [
                text("q"),
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
                text("t\n\nd")]},
            {"role": "assistant", "content": [text("a")],
             "tool_calls": [call("1", "{\"x\":1}"), call("2", "{}")],
             "reasoning_content": "hm"},
            {"role": "tool", "content": "r", "tool_call_id": "1"},
            {"role": "tool", "content": [text("The tool failed:"), text("no")],
             "tool_call_id": "2"},
            {"role": "user", "content": [text("and?")]},
            {"role": "assistant", "content": "b"},
        ]);
        assert_eq!(made(json!([text("s")]), list).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |block: Value| json!([{"role": "user", "content": [block]}]);
        let table = [
            (json!([{"role": "robot", "content": "a"}]), "messages[0].role"),
            (json!([{"role": "user", "content": 7}]), "messages[0].content"),
            (said(json!({"type": "video"})), "messages[0].content[0].type"),
            (said(json!({"type": "text"})), "messages[0].content[0].text"),
            (said(json!({"type": "tool_use", "id": "1"})), "messages[0].content[0].type"),
            (
                said(json!({"type": "tool_result", "content": "a"})),
                "messages[0].content[0].tool_use_id",
            ),
            (
                said(json!({"type": "image", "source": {"type": "file", "file_id": "x"}})),
                "messages[0].content[0].source.type",
            ),
        ];
        for (list, param) in table {
            let error = made(Value::Null, list.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{list}");
        }
    }
}
