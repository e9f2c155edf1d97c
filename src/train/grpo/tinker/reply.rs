//! Responses of a Tinker server, and what they say about further attempts.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use reqwest::Response;
use serde_json::Value;

use super::error::TinkerError;
use super::wire::{Finished, Problem};
use crate::outbound::retry_after::retry_after;
use crate::outbound::wire::library_causes;

/// The longest response that is read, bytes; archives have no such limit.
const MAX_REPLY: usize = 1 << 30;
/// How much of a response that is not JSON is shown, characters.
const MAX_SHOWN_CHARS: usize = 200;

/// The whole response to a request.
pub(super) struct TinkerResponse {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl TinkerResponse {
    pub(super) async fn read(response: Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, body: body(response).await? })
    }

    /// Whether a later attempt may have another result.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 425 | 429 | 502 | 503 | 504)
    }

    /// Whether the server says that it did nothing.
    pub(super) fn is_unserved(&self) -> bool {
        matches!(self.status.as_u16(), 425 | 429 | 503)
    }

    fn json(&self) -> Option<Finished> {
        let kind = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        kind.starts_with("application/json").then(|| serde_json::from_slice(&self.body).ok())?
    }

    /// Whether the server is not done, and says so in a plain response.
    pub(super) fn is_unfinished(&self) -> bool {
        self.status.is_success()
            && self.json().is_some_and(|json| json.kind.as_deref() == Some("try_again"))
    }

    /// Why a computation failed, if a plain response says so.
    pub(super) fn failure(&self) -> Option<String> {
        self.json()?.error
    }

    /// The server's message.
    pub(super) fn message(&self) -> String {
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = match problem.detail {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::from_utf8_lossy(&self.body).chars().take(MAX_SHOWN_CHARS).collect(),
        };
        match said.trim() {
            "" => format!("status {}", self.status.as_u16()),
            said => said.to_owned(),
        }
    }

    pub(super) fn refused(&self, call: &'static str) -> TinkerError {
        TinkerError::Refused { call, status: self.status.as_u16(), message: self.message() }
    }

    /// How long the server asks to wait.
    pub(super) fn requested_wait(&self) -> Option<Duration> {
        retry_after(&self.headers)
    }
}

async fn body(mut response: Response) -> Result<Bytes, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > MAX_REPLY {
            // A truncated body cannot be parsed, which is reported then.
            break;
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// The causes of an error, without the URL, which is named elsewhere.
pub(super) fn reason(error: &reqwest::Error) -> String {
    match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => library_causes(error),
    }
}
