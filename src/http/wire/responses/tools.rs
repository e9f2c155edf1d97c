//! Tools of a Responses request, as a chat request has them.

use serde_json::{Map, Value, json};

use crate::http::error::{ApiError, shorten};

/// The functions and custom tools of a request.
///
/// # Errors
/// For tools that OpenAI runs itself.
pub(super) fn to_chat(tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    tools.into_iter().enumerate().map(|(index, tool)| tool_to_chat(index, tool)).collect()
}

fn tool_to_chat(index: usize, tool: Value) -> Result<Value, ApiError> {
    let param = format!("tools[{index}]");
    let Value::Object(mut fields) = tool else {
        return Err(ApiError::invalid(&param, format!("`{param}` is no object")));
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
            let message = format!(
                "`{param}` = `{kind}` is not supported\nhint: `function` and `custom` tools are"
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
            Ok(json!({"type": kind, kind: {"name": fields.get("name")}}))
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
        let error = to_chat(vec![json!({"type": "web_search"})]).unwrap_err();
        assert_eq!(error.object.param.as_deref(), Some("tools[0].type"));
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
