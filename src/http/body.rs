//! Reads request bodies: bounded in size, time and memory, and with errors that name the field.

use std::io::Read;
use std::time::{Duration, Instant};

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::BytesMut;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::body_memory::BodyMemory;
use super::config::Bounds;
use super::error::{ApiError, shorten};
use super::state::AppHandle;
use super::surrogates;
use crate::compute::{self, ComputeError};
use crate::hint::Reason;
use crate::{json_size, spelling};

/// How long decoding and parsing a body may take.
const COMPUTING: Duration = Duration::from_secs(10);

/// A body that gives its room back when the last of it is dropped.
struct Counted {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A whole body, decoded.
pub(super) struct RawBody(pub(super) Bytes);

impl FromRequest<AppHandle> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, handle: &AppHandle) -> Result<Self, ApiError> {
        let state = handle.state();
        let (limit, time) = (state.server.body_limit_bytes, state.server.body_timeout());
        let is_gzip = is_gzip(request.headers())?;
        // Before a byte is read: the client may wait for a sign to go on.
        if length(request.headers()).is_some_and(|length| length > limit as u64) {
            return Err(too_long(limit));
        }
        let reading = read(request, limit, state.body_memory());
        let body = tokio::time::timeout(time, reading).await.unwrap_or_else(|_| {
            let message = format!("the body did not arrive within {} s", time.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        })?;
        if !is_gzip {
            return Ok(Self(body));
        }
        computed(usize::MAX, move || gunzip(&body, limit)).await?.map(Self)
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_long(limit: usize) -> ApiError {
    let message = format!("the body is longer than {limit} bytes, `server.body_limit_bytes`");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}

/// Whether the body is compressed, in the one way that is understood.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    match encoding.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "identity" | "" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => {
            let message = reason!(
                "the content encoding `{}` is not supported", shorten(other);
                hint: "send the body as it is, or by `gzip`"
            );
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(ApiError::new(status, "unsupported_encoding", message))
        }
    }
}

async fn read(request: Request, limit: usize, memory: &BodyMemory) -> Result<Bytes, ApiError> {
    let mut body = request.into_body();
    let length = body.size_hint().exact().map_or(0, |length| length as usize);
    let (mut first, mut whole, mut room) = (Bytes::new(), BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let unreadable = |_| ApiError::bad_request("invalid_body", "the body could not be read");
        let Ok(piece) = frame.map_err(unreadable)?.into_data() else { continue };
        if first.len() + whole.len() + piece.len() > limit {
            return Err(too_long(limit));
        }
        memory.grow(&mut room, piece.len()).await;
        if first.is_empty() && whole.is_empty() {
            // Most bodies are one piece, which needs no copy.
            first = piece;
        } else {
            if whole.is_empty() {
                // Only what is written of it takes memory.
                whole.reserve(length.min(limit));
            }
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&piece);
        }
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Bytes::from_owner(Counted { bytes, _room: room }))
}

fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, ApiError> {
    let mut decoded = Vec::new();
    let read = MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut decoded);
    if let Err(error) = read {
        let message = format!("the body is no gzip data: {error}");
        return Err(ApiError::bad_request("invalid_body", message));
    }
    if decoded.len() > limit { Err(too_long(limit)) } else { Ok(decoded.into()) }
}

/// Runs work on a body of this length.
async fn computed<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let result = compute::run_on(bytes, Instant::now() + COMPUTING, work).await;
    result.map_err(|error| match error {
        ComputeError::Panicked => ApiError::internal(),
        ComputeError::Full | ComputeError::Late => {
            let message = reason!("{error}"; hint: "try again a little later");
            ApiError::overloaded(message, Duration::from_secs(1))
        }
    })
}

/// What the size of a request for the loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodySize {
    bytes: usize,
    /// Those of its parsed JSON, the texts in it aside.
    parsed: usize,
}

impl BodySize {
    fn of(body: &[u8]) -> Self {
        Self { bytes: body.len(), parsed: json_size::parsed_bytes(body) }
    }

    /// Refuses a request whose size, times the answers that it asks for, exceeds a bound: each
    /// answer is made from a copy.
    pub(super) fn check(self, choices: u32, bounds: &Bounds) -> Result<(), ApiError> {
        let table = [
            ("the JSON of the body takes", self.parsed, "json_bytes", bounds.json_bytes),
            ("the body has", self.bytes, "choices_bytes", bounds.choices_bytes),
        ];
        for (what, size, setting, bound) in table {
            if size.saturating_mul(choices as usize) > bound {
                let times =
                    if choices > 1 { format!(", times `n` = {choices}") } else { String::new() };
                let message = format!(
                    "{what} {size} bytes{times}: more than {bound}, the bound `server.bounds.{setting}`"
                );
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(ApiError::new(status, "request_too_large", message));
            }
        }
        Ok(())
    }
}

/// Reads a request for the loop, and its size.
///
/// # Errors
/// When it exceeds a bound, or is not what was expected; `param` names the field.
pub(super) async fn parse_bounded<T: DeserializeOwned + Send + 'static>(
    body: Bytes,
    bounds: &Bounds,
) -> Result<(T, BodySize), ApiError> {
    let (bytes, bounds) = (body.len(), bounds.clone());
    let parsing = move || {
        let size = BodySize::of(&body);
        size.check(1, &bounds)?;
        Ok((parse(&body)?, size))
    };
    computed(bytes, parsing).await?
}

/// Reads a body of JSON. Unknown fields, wrong types and missing fields are named in `param`.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let invalid = |reason: Reason| ApiError::bad_request("invalid_json", reason);
    let body = without_bom(body);
    if let Err(error) = std::str::from_utf8(body) {
        let at = error.valid_up_to();
        return Err(invalid(format!("the body is no UTF-8 text: byte {at} is wrong").into()));
    }
    if body.trim_ascii().is_empty() {
        return Err(invalid(reason!("the body is empty"; hint: "send a JSON object")));
    }
    // Otherwise lists would pass for objects, their items for the fields in order.
    if matches!(body.trim_ascii().first(), Some(b'[')) {
        return Err(invalid(reason!("the body is a list"; hint: "send a JSON object")));
    }
    let parsed = match deserialized(body) {
        // Searched for only then: such bodies are rare.
        Err((path, error)) if error.is_syntax() => match surrogates::replaced(body) {
            Some(replaced) => deserialized(&replaced),
            None => Err((path, error)),
        },
        parsed => parsed,
    };
    parsed.map_err(|(path, error)| {
        if error.is_data() {
            misfit(&path, &error.to_string())
        } else {
            invalid(format!("the body is no JSON: {error}").into())
        }
    })
}

/// The value, or where it is wrong.
fn deserialized<T: DeserializeOwned>(body: &[u8]) -> Result<T, (String, serde_json::Error)> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let value = parsed.map_err(|error| (error.path().to_string(), error.into_inner()))?;
    deserializer.end().map_err(|error| (String::new(), error))?;
    Ok(value)
}

/// A text without the mark that some editors and languages put before it.
pub(super) fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)
}

/// A body of JSON that is not what was expected at `path`.
fn misfit(path: &str, message: &str) -> ApiError {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    // The names of our types mean nothing to clients.
    let message = &match message.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected an object"),
        None => message.to_owned(),
    };
    let path = if path == "." { "" } else { path };
    if let Some((name, known)) = spelling::unknown("field", message) {
        let parent = path.strip_suffix(name).unwrap_or(path).trim_end_matches('.');
        let param = join(parent, &shorten(name));
        let hint = spelling::nearest(name, known).map(|near| format!("did you mean `{near}`?"));
        let text = format!("`{param}` is not known");
        let reason = Reason { text: text.into(), hint: hint.map(Into::into) };
        return ApiError::bad_request("unknown_field", reason).with_param(&param);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;

    use super::*;
    use crate::hint::Hint;

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
    fn half_a_character_is_replaced() {
        let read = |body: &str| parse::<Outer>(body.as_bytes());
        let outer = read(r#"{"question": "cut \ud83d", "seed": 1}"#).unwrap();
        assert_eq!((&*outer.question, outer.seed), ("cut \u{fffd}", Some(1)));
        let error = read(r#"{"question": "cut \ud83d", "sead": 1}"#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("sead"));
        let error = read(r#"{"question": "cut \ud83d"} x"#).unwrap_err();
        assert!(error.reason.text.contains("trailing characters"), "{:?}", error.reason);
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
            assert_eq!(error.param.as_deref(), param, "{shown}: {:?}", error.reason);
            assert!(error.reason.explained().contains(expected), "{shown}: {:?}", error.reason);
        }
    }
}
