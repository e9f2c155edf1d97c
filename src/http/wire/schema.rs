//! `response_format`: what an answer of JSON must be like.

use jsonschema::PatternOptions;
use serde_json::Value;

use crate::episode::Check;
use crate::http::error::ApiError;

const NAME: &str = "response_format";

/// What tells whether an answer has the form; `None` for plain text.
pub(super) fn check(format: &Value) -> Result<Option<Check>, ApiError> {
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Check::new(|answer| {
            let value = parse(answer)?;
            if value.is_object() { Ok(()) } else { Err("it is no JSON object".to_owned()) }
        }))),
        Some("json_schema") => by_schema(format).map(Some),
        _ => {
            let param = format!("{NAME}.type");
            let message =
                format!("`{param}` is not known\nhint: `text`, `json_object` or `json_schema`");
            Err(ApiError::invalid(&param, message))
        }
    }
}

fn by_schema(format: &Value) -> Result<Check, ApiError> {
    let param = format!("{NAME}.json_schema.schema");
    let schema = format.get("json_schema").and_then(|inner| inner.get("schema"));
    let Some(schema) = schema else {
        let message = format!("`{param}` is missing");
        return Err(ApiError::bad_request("missing_field", message).with_param(&param));
    };
    // The engine for patterns that takes linear time: the schema is a stranger's.
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    let validator = options.build(schema).map_err(|error| {
        let message = format!("`{param}` is no JSON schema: {error}");
        ApiError::invalid(&param, message)
    })?;
    Ok(Check::new(move |answer| {
        let value = parse(answer)?;
        validator.validate(&value).map_err(|error| {
            let at = error.instance_path().to_string();
            let at = if at.is_empty() { "the value".to_owned() } else { format!("`{at}`") };
            format!("{at} does not fit the schema: {error}")
        })
    }))
}

fn parse(answer: &str) -> Result<Value, String> {
    serde_json::from_str(answer).map_err(|error| format!("it is no JSON: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn which_answers_have_the_form() {
        let schema = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {
            "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}});
        let object = json!({"type": "json_object"});
        let table = [
            (&schema, "{\"a\": 1}", None),
            (&schema, "{\"a\": \"x\"}", Some("`/a` does not fit the schema")),
            (&schema, "{}", Some("the value does not fit the schema")),
            (&schema, "a", Some("it is no JSON")),
            (&object, "{}", None),
            (&object, "[]", Some("it is no JSON object")),
        ];
        for (format, answer, expected) in table {
            let verdict = check(format).unwrap().unwrap().verdict(answer);
            match expected {
                None => assert_eq!(verdict, Ok(()), "{answer}"),
                Some(part) => assert!(verdict.clone().unwrap_err().contains(part), "{verdict:?}"),
            }
        }
        assert!(check(&json!({"type": "text"})).unwrap().is_none());
    }

    #[test]
    fn forms_that_are_none() {
        let table = [
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (json!({"type": "json_schema"}), "response_format.json_schema.schema"),
            (
                json!({"type": "json_schema", "json_schema": {"schema": {"type": 7}}}),
                "response_format.json_schema.schema",
            ),
        ];
        for (format, param) in table {
            let error = check(&format).unwrap_err();
            assert_eq!(error.object.param.as_deref(), Some(param), "{format}");
        }
    }
}
