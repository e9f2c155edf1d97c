//! Reads request bodies: bounded in size and time, and with errors that name the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::state::AppHandle;

/// A whole body.
pub(super) struct RawBody(pub(super) Bytes);

impl FromRequest<AppHandle> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, handle: &AppHandle) -> Result<Self, ApiError> {
        let server = &handle.state().server;
        let (limit, time) = (server.body_limit_bytes, server.body_timeout());
        let body = Limited::new(request.into_body(), limit);
        match tokio::time::timeout(time, body.collect()).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message = format!("the body is longer than {limit} bytes");
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message))
            }
            Ok(Err(_)) => Err(ApiError::bad_request("invalid_body", "the body could not be read")),
            Err(_) => {
                let message = format!("the body did not arrive within {} s", time.as_secs());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
            }
        }
    }
}

/// Reads a body of JSON. Unknown fields, wrong types and missing fields are named in `param`.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let invalid = |message: String| ApiError::bad_request("invalid_json", message);
    if let Err(error) = std::str::from_utf8(body) {
        let at = error.valid_up_to();
        return Err(invalid(format!("the body is no UTF-8 text: byte {at} is wrong")));
    }
    if body.trim_ascii().is_empty() {
        return Err(invalid("the body is empty\nhint: send a JSON object".to_owned()));
    }
    // Otherwise lists would pass for objects, their items for the fields in order.
    if matches!(body.trim_ascii().first(), Some(b'[')) {
        return Err(invalid("the body is a list\nhint: send a JSON object".to_owned()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let value = parsed.map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            misfit(&path, &error.to_string())
        } else {
            invalid(format!("the body is no JSON: {error}"))
        }
    })?;
    deserializer.end().map_err(|error| invalid(format!("the body is no JSON: {error}")))?;
    Ok(value)
}

/// A body of JSON that is not what was expected at `path`.
fn misfit(path: &str, message: &str) -> ApiError {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    // What our types are called is nobody's business.
    let message = &match message.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected an object"),
        None => message.to_owned(),
    };
    let path = if path == "." { "" } else { path };
    if let Some((name, known)) = unknown_field(message) {
        let parent = path.strip_suffix(name).unwrap_or(path).trim_end_matches('.');
        let param = join(parent, name);
        let hint = nearest(name, known).map(|near| format!("\nhint: did you mean `{near}`?"));
        let message = format!("`{param}` is not known{}", hint.unwrap_or_default());
        return ApiError::bad_request("unknown_field", message).with_param(&param);
    }
    if let Some(name) = quoted(message, "missing field `") {
        let param = join(path, name);
        let message = format!("`{param}` is missing");
        return ApiError::bad_request("missing_field", message).with_param(&param);
    }
    let error = ApiError::bad_request(
        "invalid_type",
        match path {
            "" => format!("the body is not valid: {message}"),
            path => format!("`{path}` is not valid: {message}"),
        },
    );
    if path.is_empty() { error } else { error.with_param(path) }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// What stands between `before` and the next back-tick.
fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message.split_once(before)?.1.split('`').next()
}

/// The unknown name and the known ones, from serde's own words: "unknown field `x`, expected one
/// of `a`, `b`".
fn unknown_field(message: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let rest = message.split_once("unknown field `")?.1;
    let (name, rest) = rest.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2)))
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        question: String,
        seed: Option<i64>,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        max_turns: u32,
    }

    #[test]
    fn what_is_wrong_and_where() {
        let table: [(&[u8], Option<&str>, &str); 13] = [
            (b"", None, "the body is empty"),
            (b"{", None, "the body is no JSON"),
            (b"{\"question\": \"a\"} x", None, "the body is no JSON"),
            (b"{\"question\": \"\xff\"}", None, "byte 14 is wrong"),
            (b"[\"a\"]", None, "the body is a list"),
            (b"{}", Some("question"), "`question` is missing"),
            (b"{\"question\": 1}", Some("question"), "expected a string"),
            (b"{\"question\": \"a\", \"sead\": 1}", Some("sead"), "did you mean `seed`?"),
            (b"{\"question\": \"a\", \"zzzzzzzzz\": 1}", Some("zzzzzzzzz"), "is not known"),
            (
                b"{\"question\": \"a\", \"inner\": {\"max_turn\": 1}}",
                Some("inner.max_turn"),
                "did you mean `max_turns`?",
            ),
            (b"{\"question\": \"a\", \"inner\": {}}", Some("inner.max_turns"), "is missing"),
            (b"{\"question\": \"a\", \"inner\": 1}", Some("inner"), "`1`, expected an object"),
            (
                b"{\"question\": \"a\", \"list\": [{\"max_turns\": 1}, {\"max_turns\": -1}]}",
                Some("list[1].max_turns"),
                "invalid value",
            ),
        ];
        for (body, param, expected) in table {
            let error = parse::<Outer>(body).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            let shown = String::from_utf8_lossy(body);
            assert_eq!(error.object.param.as_deref(), param, "{shown}: {:?}", error.object);
            assert!(error.object.message.contains(expected), "{shown}: {:?}", error.object);
        }
    }
}
