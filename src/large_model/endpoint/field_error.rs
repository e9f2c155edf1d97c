//! Finds the fields that an endpoint's error is about. Parts of the error that repeat the request
//! are ignored, because the caller wrote them.

use serde_json::Value;

/// One statement of an error about a field.
#[derive(Debug, PartialEq)]
pub(super) struct FieldError<'a> {
    /// The field that it is about, if it says so.
    field: Option<&'a str>,
    pub(super) text: &'a str,
}

/// The statements of an error: its message, or the entries of FastAPI's list. `body`: its object.
pub(super) fn field_errors<'a>(message: &'a str, body: Option<&'a Value>) -> Vec<FieldError<'a>> {
    // Mistral has the list in place of a message.
    let detail =
        |body: &'a Value| body.get("detail").or_else(|| body.get("message")?.get("detail"));
    match body.and_then(detail).and_then(Value::as_array) {
        Some(details) => details.iter().map(FieldError::of_detail).collect(),
        None => {
            let param = body.and_then(|body| body.get("param")?.as_str());
            let param = param.filter(|param| !matches!(*param, "" | "None" | "null"));
            // Only the outermost field may be one that was added.
            let field = param.and_then(|param| param.split(['.', '[']).next());
            vec![FieldError { field, text: before_echo(message) }]
        }
    }
}

impl<'a> FieldError<'a> {
    fn of_detail(detail: &'a Value) -> Self {
        let place = detail.get("loc").and_then(Value::as_array);
        let field = place.into_iter().flatten().filter_map(Value::as_str).find(|it| *it != "body");
        let text = detail.get("msg").and_then(Value::as_str).or(detail.as_str());
        Self { field, text: before_echo(text.unwrap_or_default()) }
    }

    /// Whether it is about this field.
    pub(super) fn names(&self, field: &str) -> bool {
        self.field.map_or_else(|| names(self.text, field), |own| own == field)
    }
}

/// A message up to where it repeats the request, as validators in Python do.
fn before_echo(message: &str) -> &str {
    let echoes = ["'input':", "\"input\":", "input_value=", "'body':", "\"body\":"];
    let end = echoes.iter().filter_map(|echo| message.find(echo)).min();
    &message[..end.unwrap_or(message.len())]
}

/// Whether a text names a field. A common word must be in quotes.
fn names(text: &str, field: &str) -> bool {
    let is_common = matches!(field, "stream" | "stop" | "temperature" | "seed");
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(field).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + field.len()..].chars().next();
        if is_common {
            let is_quote = |c: Option<char>| c.is_some_and(|c| matches!(c, '"' | '\'' | '`' | '’'));
            return is_quote(before)
                && after.is_some_and(|c| matches!(c, '"' | '\'' | '`' | '\\' | '’'))
                || before.is_none() && after == Some(':');
        }
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}
