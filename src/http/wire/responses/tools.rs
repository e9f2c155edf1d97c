//! Tools of a Responses request, as a chat request has them.

use serde_json::{Map, Value, json};

use crate::http::error::{ApiError, shorten};

/// Joins the name of a namespace and of a tool in it: chats have no namespaces.
const SEPARATOR: &str = "__";

/// The tools of a request without those web searches that can be dropped: without access to the
/// web, or next to other tools. Some clients send them by default.
pub(super) fn wanted(mut tools: Vec<Value>) -> Vec<Value> {
    let is_search = |tool: &Value| {
        let kind = tool.get("type").and_then(Value::as_str);
        kind.is_some_and(|kind| kind.starts_with("web_search"))
    };
    let has_others = tools.iter().any(|tool| !is_search(tool));
    tools.retain(|tool| {
        let is_offline = tool.get("external_web_access") == Some(&json!(false));
        !(is_search(tool) && (has_others || is_offline))
    });
    tools
}

/// The functions and custom tools of a request, with joined names for those in namespaces.
///
/// # Errors
/// For tools that OpenAI runs itself.
pub(super) fn to_chat(tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let mut chat = Vec::with_capacity(tools.len());
    for (index, mut tool) in tools.into_iter().enumerate() {
        let param = format!("tools[{index}]");
        if tool.get("type").is_none_or(|kind| kind != "namespace") {
            chat.push(tool_to_chat(&param, tool)?);
            continue;
        }
        let namespace = tool.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(Value::Array(inner)) = tool.get_mut("tools").map(Value::take) else {
            let param = format!("{param}.tools");
            return Err(ApiError::invalid(&param, format!("`{param}` is not a list")));
        };
        for (index, mut tool) in inner.into_iter().enumerate() {
            if let Some(name) = tool.get_mut("name").filter(|name| name.is_string()) {
                *name = joined(&namespace, name.as_str().unwrap_or_default()).into();
            }
            chat.push(tool_to_chat(&format!("{param}.tools[{index}]"), tool)?);
        }
    }
    Ok(chat)
}

/// The chat name of a tool in a namespace.
pub(super) fn joined(namespace: &str, name: &str) -> String {
    format!("{namespace}{SEPARATOR}{name}")
}

/// The namespace, if there is one among `tools`, and the tool's name, from its chat name. Names may
/// contain the separator: the longest namespace with this tool counts, and if none has it, the
/// longest.
pub(super) fn split<'a>(tools: &'a Value, name: &'a str) -> (Option<&'a str>, &'a str) {
    let is_named = |tool: &Value, name: &str| tool["name"] == name;
    let all = || tools.as_array().into_iter().flatten();
    let namespaces = all().filter(|tool| tool["type"] == "namespace");
    let fitting = namespaces.filter_map(|tool| {
        let namespace = tool["name"].as_str()?;
        let rest = name.strip_prefix(namespace)?.strip_prefix(SEPARATOR)?;
        let inner = tool["tools"].as_array();
        let has_tool = inner.is_some_and(|inner| inner.iter().any(|tool| is_named(tool, rest)));
        Some((has_tool, namespace, rest))
    });
    match fitting.max_by_key(|(has_tool, namespace, _)| (*has_tool, namespace.len())) {
        Some((false, ..)) if all().any(|tool| is_named(tool, name)) => (None, name),
        Some((_, namespace, rest)) => (Some(namespace), rest),
        None => (None, name),
    }
}

fn tool_to_chat(param: &str, tool: Value) -> Result<Value, ApiError> {
    let Value::Object(mut fields) = tool else {
        return Err(ApiError::invalid(param, format!("`{param}` is not an object")));
    };
    let kind = fields.shift_remove("type").unwrap_or_default();
    match kind.as_str() {
        Some("function") => {
            fields.retain(|_, value| !value.is_null());
            Ok(json!({"type": "function", "function": fields}))
        }
        Some("custom") => {
            if let Some(Value::Object(format)) = fields.get_mut("format")
                && format.get("type").is_some_and(|kind| kind == "grammar")
            {
                format.shift_remove("type");
                let grammar = std::mem::take(format);
                *format = Map::from_iter([
                    ("type".to_owned(), "grammar".into()),
                    ("grammar".to_owned(), grammar.into()),
                ]);
            }
            Ok(json!({"type": "custom", "custom": fields}))
        }
        kind => {
            let param = format!("{param}.type");
            let kind = shorten(kind.unwrap_or_default());
            let message = reason!(
                "`{param}` = `{kind}` is not supported";
                hint: "`function` and `custom` tools are, also in a `namespace`"
            );
            Err(ApiError::bad_request("unsupported_parameter", message).with_param(&param))
        }
    }
}

/// Which tool to call.
///
/// # Errors
/// For tools that OpenAI runs itself.
pub(super) fn choice_to_chat(choice: Value) -> Result<Value, ApiError> {
    let Value::Object(fields) = &choice else { return Ok(choice) };
    match fields.get("type").and_then(Value::as_str) {
        Some(kind @ ("function" | "custom")) => {
            let mut name = fields.get("name").cloned().unwrap_or_default();
            if let (Some(inner), Some(Value::String(namespace))) =
                (name.as_str(), fields.get("namespace"))
            {
                name = joined(namespace, inner).into();
            }
            Ok(json!({"type": kind, kind: {"name": name}}))
        }
        Some("allowed_tools") => {
            let tools = fields.get("tools").and_then(Value::as_array).into_iter().flatten();
            let tools: Vec<_> = tools.cloned().map(choice_to_chat).collect::<Result<_, _>>()?;
            let allowed = json!({"mode": fields.get("mode"), "tools": tools});
            Ok(json!({"type": "allowed_tools", "allowed_tools": allowed}))
        }
        kind => {
            let kind = shorten(kind.unwrap_or_default());
            let message = format!("`tool_choice.type` = `{kind}` is not supported");
            let error = ApiError::bad_request("unsupported_parameter", message);
            Err(error.with_param("tool_choice.type"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn tools_and_choices() {
        let format = json!({"type": "grammar", "syntax": "lark", "definition": "start: /a/"});
        let tools = vec![
            json!({"type": "function", "name": "f", "parameters": {}, "strict": true,
                   "description": null}),
            json!({"type": "custom", "name": "c", "format": format}),
        ];
        let expected = json!([
            {"type": "function", "function": {"name": "f", "parameters": {}, "strict": true}},
            {"type": "custom", "custom": {"name": "c", "format": {"type": "grammar",
                "grammar": {"syntax": "lark", "definition": "start: /a/"}}}},
        ]);
        assert_eq!(json!(to_chat(tools).unwrap()), expected);
        let space = json!({"type": "namespace", "name": "n", "description": "d",
                           "tools": [{"type": "function", "name": "f"}]});
        let found = to_chat(vec![space.clone()]).unwrap();
        assert_eq!(json!(found), json!([{"type": "function", "function": {"name": "n__f"}}]));
        let (tools, other) = (json!([space]), json!([{"type": "function", "name": "n__f"}]));
        assert_eq!(split(&tools, "n__f"), (Some("n"), "f"));
        assert_eq!(split(&tools, "m__f"), (None, "m__f"));
        assert_eq!(split(&other, "n__f"), (None, "n__f"));
        let space = |name: &str, inner: &str| {
            json!({"type": "namespace", "name": name,
                   "tools": [{"type": "function", "name": inner}]})
        };
        let plain = json!({"type": "function", "name": "a__h"});
        let tools = json!([space("a", "f"), space("a__b", "f"), space("a", "b__g"), plain]);
        for (name, namespace, tool) in [
            ("a__f", Some("a"), "f"),
            ("a__b__f", Some("a__b"), "f"),
            ("a__b__g", Some("a"), "b__g"),
            ("a__b__x", Some("a__b"), "x"),
            ("a__h", None, "a__h"),
        ] {
            assert_eq!(split(&tools, name), (namespace, tool));
        }
        let unused = json!({"type": "web_search", "external_web_access": false});
        assert_eq!(wanted(vec![unused.clone(), json!({"type": "web_search"})]).len(), 1);
        let function = json!({"type": "function", "name": "f"});
        assert_eq!(
            wanted(vec![unused, function.clone(), json!({"type": "web_search"})]),
            [function]
        );
        let error = to_chat(vec![json!({"type": "web_search"})]).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("tools[0].type"));
        let named = json!({"type": "function", "function": {"name": "f"}});
        let table = [
            (json!("required"), json!("required")),
            (json!({"type": "function", "name": "f"}), named.clone()),
            (
                json!({"type": "allowed_tools", "mode": "auto",
                       "tools": [{"type": "function", "name": "f"}]}),
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}),
            ),
        ];
        for (choice, expected) in table {
            assert_eq!(choice_to_chat(choice).unwrap(), expected);
        }
        assert!(choice_to_chat(json!({"type": "file_search"})).is_err());
    }
}
