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

use super::body_memory::{BodyMemory, BodyPermit};
use super::caller::Caller;
use super::config::Bounds;
use super::error::{ApiError, shorten};
use super::state::AppHandle;
use crate::compute::{self, ComputeError};
use crate::hint::Reason;
use crate::json_size;
use crate::spelling;
use crate::surrogates;

/// How long decoding and parsing a body may take.
const COMPUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of bytes that gzip makes of one compressed byte: a little more than 1032.
const MAX_RATIO: usize = 1100;

/// A body that releases its permit when its last reference is dropped.
struct Counted {
    bytes: Bytes,
    _permit: BodyPermit,
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
        receive(request, limit, time, state.body_memory()).await.map(Self)
    }
}

async fn receive(
    request: Request,
    limit: usize,
    time: Duration,
    memory: &BodyMemory,
) -> Result<Bytes, ApiError> {
    let is_gzip = is_gzip(request.headers())?;
    // Before a byte is read: the client may wait for a sign to go on.
    if length(request.headers()).is_some_and(|length| length > limit as u64) {
        return Err(too_long(limit));
    }
    let caller = request.extensions().get::<Caller>().map_or(0, Caller::number);
    let mut permit = memory.permit(caller);
    let reading = async {
        let body = read(request, limit, memory, &mut permit).await?;
        if is_gzip {
            memory.grow(&mut permit, body.len() + max_decoded(&body, limit)).await;
        }
        Ok::<_, ApiError>(body)
    };
    let body = tokio::time::timeout(time, reading).await.map_err(|_| timed_out(time))??;
    let (bytes, mut permit) = match is_gzip {
        true => {
            let decoding = move || gunzip(&body, limit).map(|decoded| (decoded, permit));
            computed(usize::MAX, decoding).await??
        }
        false => (body, permit),
    };
    memory.shrink(&mut permit, bytes.len());
    Ok(Bytes::from_owner(Counted { bytes, _permit: permit }))
}

/// The length of a body as its client says.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body that did not arrive in time.
pub(super) fn timed_out(time: Duration) -> ApiError {
    let message = format!("the body did not arrive within {} s", time.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
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

async fn read(
    request: Request,
    limit: usize,
    memory: &BodyMemory,
    permit: &mut BodyPermit,
) -> Result<Bytes, ApiError> {
    let mut body = request.into_body();
    let length = body.size_hint().exact().map_or(0, |length| length as usize);
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let unreadable = |_| ApiError::bad_request("invalid_body", "the body could not be read");
        let Ok(piece) = frame.map_err(unreadable)?.into_data() else { continue };
        let arrived = first.len() + whole.len() + piece.len();
        if arrived > limit {
            return Err(too_long(limit));
        }
        memory.grow(permit, arrived).await;
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
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The maximum number of bytes that a compressed body is decoded to before it is refused.
fn max_decoded(body: &[u8], limit: usize) -> usize {
    body.len().saturating_mul(MAX_RATIO).min(limit)
}

fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, ApiError> {
    // At once, as a buffer that grows has twice the size. Only what is written of it takes memory.
    let mut decoded = Vec::with_capacity(max_decoded(body, limit) + 1);
    let read = MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut decoded);
    if let Err(error) = read {
        let message = format!("the body is not gzip data: {error}");
        return Err(ApiError::bad_request("invalid_body", message));
    }
    decoded.shrink_to_fit();
    if decoded.len() > limit { Err(too_long(limit)) } else { Ok(decoded.into()) }
}

/// Runs work on a body of this length.
async fn computed<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let result = compute::run_on(bytes, Instant::now() + COMPUTE_TIMEOUT, work).await;
    result.map_err(|error| match error {
        ComputeError::Panicked => ApiError::internal(),
        ComputeError::QueueFull | ComputeError::TimedOut => {
            let message = reason!("{error}"; hint: "try again a little later");
            ApiError::overloaded(message, Duration::from_secs(1))
        }
    })
}

/// The size of a request for the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodySize {
    bytes: usize,
    /// The bytes of its parsed JSON, without the texts in it.
    parsed: usize,
    /// Whether items are in it to which the body refers.
    has_items: bool,
}

impl BodySize {
    pub(super) fn of(body: &[u8]) -> Self {
        let parsed = json_size::parsed_bytes(body);
        Self { bytes: body.len(), parsed, has_items: false }
    }

    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// The size of a body that also contains an item to which it refers.
    pub(super) fn with_item(self, item: Self) -> Self {
        let bytes = self.bytes.saturating_add(item.bytes);
        let parsed = self.parsed.saturating_add(item.parsed);
        Self { bytes, parsed, has_items: true }
    }

    /// Refuses a request whose size, times the answers that it asks for, exceeds a bound: each
    /// answer is made from a copy.
    pub(super) fn check(self, choices: u32, bounds: &Bounds) -> Result<(), ApiError> {
        let table = [
            ("the JSON of the body", "takes", self.parsed, "json_bytes", bounds.json_bytes),
            ("the body", "has", self.bytes, "choices_bytes", bounds.choices_bytes),
        ];
        let items = if self.has_items { ", with the items that it refers to," } else { "" };
        for (what, verb, size, setting, bound) in table {
            if size.saturating_mul(choices as usize) > bound {
                let times =
                    if choices > 1 { format!(", times `n` = {choices}") } else { String::new() };
                let message = format!(
                    "{what}{items} {verb} {size} bytes{times}: more than {bound}, the bound `server.bounds.{setting}`"
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
        return Err(invalid(format!("the body is not UTF-8 text: byte {at} is wrong").into()));
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
            invalid(format!("the body is not valid JSON: {error}").into())
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
    fn items_that_a_body_refers_to_count_once_for_each_answer() {
        let bounds = Bounds { choices_bytes: 100, ..Bounds::default() };
        let (body, item) = (BodySize::of(&[b' '; 10]), BodySize::of(&[b' '; 40]));
        let table = [(0, 10, true), (0, 11, false), (1, 2, true), (2, 1, true), (2, 2, false)];
        for (items, choices, fits) in table {
            let size = (0..items).fold(body, |size, _| size.with_item(item));
            let checked = size.check(choices, &bounds);
            assert_eq!(checked.is_ok(), fits, "{items} {choices}");
            if let Err(error) = checked {
                let text = error.reason.explained();
                assert!(text.contains("`server.bounds.choices_bytes`"), "{text}");
                assert_eq!(text.contains("with the items"), items > 0, "{text}");
            }
        }
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
            (b"{", None, "the body is not valid JSON"),
            (b"{\"question\": \"a\"} x", None, "the body is not valid JSON"),
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
    #[tokio::test]
    async fn bodies_count_while_they_live_as_they_are_decoded() {
        const LIMIT: usize = 1024 * 1024;
        let memory = BodyMemory::new(4 * LIMIT, LIMIT);
        let all = memory.free();
        let plain = vec![b' '; 600 * 1024];
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &plain).unwrap();
        let compressed = encoder.finish().unwrap();
        for (encoding, sent) in [("identity", &plain), ("gzip", &compressed)] {
            let request = Request::builder().header(header::CONTENT_ENCODING, encoding);
            let request = request.body(axum::body::Body::from(sent.clone())).unwrap();
            let body = receive(request, LIMIT, COMPUTE_TIMEOUT, &memory).await.unwrap();
            assert_eq!(body, plain);
            assert_eq!(memory.free(), all - plain.len(), "{encoding}");
            drop(body);
            assert_eq!(memory.free(), all, "{encoding}");
        }
        // What may come of it waits for room before it is decoded.
        let memory = BodyMemory::new(2 * LIMIT, LIMIT);
        let request = || {
            let request = Request::builder().header(header::CONTENT_ENCODING, "gzip");
            request.body(axum::body::Body::from(compressed.clone())).unwrap()
        };
        let first = receive(request(), LIMIT, COMPUTE_TIMEOUT, &memory).await.unwrap();
        let short = Duration::from_millis(50);
        let second = receive(request(), LIMIT, short, &memory).await.unwrap_err();
        assert_eq!(second.status, StatusCode::REQUEST_TIMEOUT);
        drop(first);
        assert!(receive(request(), LIMIT, COMPUTE_TIMEOUT, &memory).await.is_ok());
    }
}
