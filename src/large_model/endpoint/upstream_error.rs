//! Parses the errors of endpoints, in their many shapes.

use serde_json::{Map, Value, json};

use super::lenient;
use crate::outbound::redact::Redactor;

/// An endpoint's error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamError {
    /// The HTTP status, of the response or named in the error.
    pub(super) status: u16,
    pub(super) message: String,
    /// The error object, if there was one.
    pub(super) body: Option<Value>,
}

/// Characters of an endpoint's own message that are kept.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// The error in the body of a response with an error status.
pub(super) fn parse_error(status: u16, body: &[u8], redactor: Redactor<'_>) -> UpstreamError {
    let value = lenient::parse::<Value>(body).map(|parsed| lenient::joined(parsed.value));
    let value = match value.unwrap_or_default() {
        // Google's form.
        Value::Array(mut items) if !items.is_empty() => items.swap_remove(0),
        value => value,
    };
    let error = match &value {
        Value::Object(fields) => fields.get("error").unwrap_or(&value).clone(),
        _ => Value::Null,
    };
    UpstreamError::of(error, Some(status), redactor).unwrap_or_else(|| UpstreamError {
        status,
        message: match redactor.head(body) {
            head if head.is_empty() => "no message".to_owned(),
            head => head,
        },
        body: None,
    })
}

impl UpstreamError {
    /// Parses the common forms of errors: an object with a `message`, or just a string. `None` for
    /// a value that stands for no error.
    pub(super) fn of(error: Value, status: Option<u16>, redactor: Redactor<'_>) -> Option<Self> {
        if is_nothing(&error) {
            return None;
        }
        let message = ["message", "detail", "error", "msg"]
            .iter()
            .find_map(|key| error.get(key)?.as_str().map(str::to_owned))
            .or_else(|| error.as_str().map(str::to_owned))
            .unwrap_or_else(|| error.to_string());
        // In a successful response, the code often is the status of a service further upstream.
        let code = ["code", "status", "status_code"].iter().find_map(|key| {
            let code = error.get(key)?;
            let code = code.as_u64().or_else(|| code.as_str()?.parse().ok())?;
            (400..600).contains(&code).then_some(code as u16)
        });
        Some(Self {
            status: status.or(code).unwrap_or(502),
            message: redactor.truncated(&message, MAX_MESSAGE_CHARS),
            body: error.is_object().then(|| redactor.json(error)),
        })
    }

    /// The error in an event or body with neither choices nor the key `error`: its fields are the
    /// error's own.
    pub(super) fn bare(fields: &Map<String, Value>, redactor: Redactor<'_>) -> Option<Self> {
        let says_so =
            ["object", "type"].iter().any(|key| fields.get(*key) == Some(&json!("error")));
        let has_reason = ["message", "detail"]
            .iter()
            .any(|key| fields.get(*key).is_some_and(|reason| !is_nothing(reason)));
        let is_error = says_so || has_reason;
        is_error.then(|| Self::of(fields.clone().into(), None, redactor)).flatten()
    }
}

/// Whether the value of a key `error` stands for no error.
fn is_nothing(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::Bool(true) => false,
    }
}
