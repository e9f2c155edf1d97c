//! What clients are told of failures: OpenAI's error object, in one place.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::wire::{ErrorBody, ErrorObject};
use crate::access::{Denied, Refusal};
use crate::engine::EngineError;
use crate::episode::{EpisodeError, EpisodeErrorKind, EpisodeUsage};
use crate::large_model::{LargeModelError, UnknownModel};
use crate::policy::PolicyError;

/// The longest text of a caller's that an error quotes, bytes.
const QUOTED: usize = 64;
/// The longest message, bytes.
const MESSAGE: usize = 2000;

/// The head of a text of a caller's, for errors that quote it.
pub(super) fn shorten(text: &str) -> String {
    head(text, QUOTED)
}

/// The first bytes of a text, at a boundary of characters, with a mark where it goes on.
pub(super) fn head(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// A failure on its way to a client.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) object: ErrorObject,
    retry_after: Option<Duration>,
    /// Whether clients must not try again on their own: money was spent, and would be twice.
    is_spent: bool,
}

impl ApiError {
    /// A failure of the kind that its status says.
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        let object = ErrorObject {
            message: head(&message.into(), MESSAGE),
            kind: kind.to_owned(),
            param: None,
            code: Some(code.to_owned()),
        };
        Self { status, object, retry_after: None, is_spent: false }
    }

    /// A field that cannot be used.
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::bad_request("invalid_value", message).with_param(param)
    }

    /// A request that cannot be used.
    pub(super) fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Too much at one time.
    pub(super) fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// A fault of this server's own: the log has what happened, the client does not.
    pub(super) fn internal() -> Self {
        let message = "the server failed; its log has the reason under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(super) fn with_param(mut self, param: &str) -> Self {
        self.object.param = Some(head(param, 2 * QUOTED));
        self
    }

    /// The same in the words of another protocol: a field that begins with the first of a pair of
    /// names begins with the second there.
    pub(super) fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        let Some(param) = self.object.param.take() else { return self };
        let renamed = names
            .iter()
            .find_map(|(own, other)| Some(format!("{other}{}", param.strip_prefix(own)?)));
        if let Some(renamed) = &renamed {
            let quoted = |name: &str| format!("`{name}`");
            self.object.message = self.object.message.replace(&quoted(&param), &quoted(renamed));
        }
        self.object.param = Some(renamed.unwrap_or(param));
        self
    }

    /// The same when money was spent beside it.
    pub(super) fn spent(self) -> Self {
        Self { is_spent: true, ..self }
    }

    fn retry_after(self, wait: Option<Duration>) -> Self {
        Self { retry_after: wait, ..self }
    }

    /// The failure of a model behind an endpoint. `is_callers_key`: whether it was asked with the
    /// caller's own key.
    pub(super) fn of_large_model(error: &LargeModelError, is_callers_key: bool) -> Self {
        use LargeModelError::{
            CircuitOpen, Deadline, Local, Malformed, Rejected, Status, Timeout, Unreachable,
        };
        let failure = match error {
            // Its address is not the client's business.
            Unreachable { model, .. } => {
                tracing::warn!(%error, "a large model cannot be reached");
                let message = format!("the large model `{model}` cannot be reached");
                Self::new(StatusCode::BAD_GATEWAY, "large_model_unreachable", message)
            }
            Timeout { model, phase, limit } => {
                let message = format!(
                    "the large model `{model}` was too slow: no {phase} within {} ms",
                    limit.as_millis()
                );
                Self::new(StatusCode::GATEWAY_TIMEOUT, "large_model_timeout", message)
            }
            Deadline { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", error.to_string())
                    .with_param("deadline_ms")
            }
            Status { status, retry_after, body, .. } => {
                let kept = match status {
                    400 | 413 | 422 => StatusCode::BAD_REQUEST,
                    401 | 403 if is_callers_key => StatusCode::UNAUTHORIZED,
                    404 => StatusCode::NOT_FOUND,
                    429 => StatusCode::TOO_MANY_REQUESTS,
                    402 | 403 | 405 | 410 | 415 => {
                        StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY)
                    }
                    _ => StatusCode::BAD_GATEWAY,
                };
                let field = |key| body.as_ref()?.get(key).and_then(Value::as_str);
                let code = field("code").unwrap_or("large_model_error");
                Self::new(kept, code, error.to_string()).retry_after(*retry_after)
            }
            Malformed { model, reason } => {
                // Not the error: it quotes the reply.
                tracing::warn!(model, "a large model sent no valid reply");
                let message = format!("the large model `{model}` sent no valid reply: {reason}");
                Self::new(StatusCode::BAD_GATEWAY, "large_model_malformed", message)
            }
            CircuitOpen { retry_in, .. } => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "large_model_unavailable", error.to_string())
                    .retry_after(Some(*retry_in))
            }
            Local { model, .. } => {
                tracing::error!(%error, "a large model cannot be asked");
                let message = format!("the large model `{model}` cannot be asked just now");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "large_model_unavailable", message)
                    .retry_after(Some(Duration::from_secs(1)))
            }
            Rejected { .. } => Self::bad_request("large_model_rejected", error.to_string()),
        };
        Self { is_spent: error.may_be_billed(), ..failure }
    }

    /// The failure of a caller to show who it is.
    pub(super) fn of_denied(denied: &Denied) -> Self {
        let (status, code) = match denied {
            Denied::Missing => (StatusCode::UNAUTHORIZED, "missing_api_key"),
            Denied::Unknown => (StatusCode::UNAUTHORIZED, "invalid_api_key"),
            Denied::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"),
        };
        let wait = matches!(denied, Denied::Unavailable).then_some(Duration::from_secs(1));
        Self::new(status, code, denied.to_string()).retry_after(wait)
    }

    /// A limit that the caller's key has reached.
    pub(super) fn of_refusal(refusal: &Refusal) -> Self {
        let (code, wait) = match refusal {
            Refusal::Requests { retry_after, .. } | Refusal::Tokens { retry_after, .. } => {
                ("rate_limit_exceeded", *retry_after)
            }
            Refusal::Budget { retry_after, .. } => ("insufficient_quota", *retry_after),
        };
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, refusal.to_string());
        // Clients would try again within seconds, whatever they are told of tomorrow.
        Self { is_spent: matches!(refusal, Refusal::Budget { .. }), ..error }
            .retry_after(Some(wait))
    }

    fn of_engine(error: &EngineError) -> Self {
        match error {
            EngineError::PromptTooLong { tokens, context } => {
                let message = format!(
                    "the question, as the policy reads it, has {tokens} tokens and does not fit the policy's context of {context}\nhint: shorten it, or ask the server's operator for a policy with a longer context"
                );
                Self::bad_request("context_length_exceeded", message)
            }
            EngineError::Overloaded => {
                let message = "the policy is busy\nhint: try again a little later";
                Self::overloaded(message, Duration::from_secs(1))
            }
            EngineError::Sampling(_) => {
                Self::bad_request("unsupported_sampling", error.to_string())
                    .with_param("temperature")
            }
            // A policy whose tokenizer and model do not fit: no further try helps.
            EngineError::InvalidRequest(_) => {
                tracing::error!(%error, "the policy's engine refused a request");
                Self::internal()
            }
            // Addresses are not the client's business.
            EngineError::Stopped(_)
            | EngineError::Load { .. }
            | EngineError::Server { .. }
            | EngineError::OtherModel { .. } => {
                tracing::error!(%error, "the policy's engine failed");
                let message = "the policy is not available\nhint: try again a little later";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "policy_unavailable", message)
                    .retry_after(Some(Duration::from_secs(1)))
            }
        }
    }

    /// The failure of an episode. `is_callers_key`: whether the models were asked with the
    /// caller's own key.
    pub(super) fn of_episode(error: &EpisodeError, is_callers_key: bool) -> Self {
        let failure = match &error.kind {
            EpisodeErrorKind::Policy(PolicyError::Engine(error)) => Self::of_engine(error),
            EpisodeErrorKind::Policy(PolicyError::TextTooLong { bytes, context }) => {
                let message = format!(
                    "the question, as the policy reads it, has {bytes} bytes and does not fit the policy's context of {context} tokens\nhint: shorten it, or ask the server's operator for a policy with a longer context"
                );
                Self::bad_request("context_length_exceeded", message)
            }
            EpisodeErrorKind::Policy(PolicyError::Remote(error)) => {
                Self::of_large_model(error, is_callers_key)
            }
            EpisodeErrorKind::Policy(PolicyError::Tokenizer(_) | PolicyError::Program { .. })
            | EpisodeErrorKind::Protocol(_) => {
                tracing::error!(%error, "an episode failed");
                Self::internal()
            }
            EpisodeErrorKind::LargeModel(error) => Self::of_large_model(error, is_callers_key),
            EpisodeErrorKind::Deadline { .. } => {
                let status = StatusCode::GATEWAY_TIMEOUT;
                Self::new(status, "deadline_exceeded", error.to_string()).with_param("deadline_ms")
            }
            EpisodeErrorKind::Budget { .. } => {
                Self::bad_request("budget_exceeded", error.to_string()).with_param("max_cost")
            }
            EpisodeErrorKind::PromptTooLong { turn, .. } => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                let param = format!("turns[{turn}].interaction_prompt");
                Self::new(status, "request_too_large", error.to_string()).with_param(&param)
            }
            EpisodeErrorKind::Unfit { .. } => {
                let status = StatusCode::BAD_GATEWAY;
                Self::new(status, "invalid_response_format", error.to_string())
            }
            EpisodeErrorKind::Cancelled | EpisodeErrorKind::Policy(PolicyError::Cancelled) => {
                Self::new(client_closed_request(), "cancelled", error.to_string())
            }
        };
        Self { is_spent: failure.is_spent || has_spent(&error.usage), ..failure }
    }

    /// The object as JSON.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.object.clone() }
    }
}

/// What nginx answers nobody with; only metrics see it.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

fn has_spent(usage: &EpisodeUsage) -> bool {
    usage.large_model.calls > 0 || usage.policy.cost > 0.0
}

impl From<UnknownModel> for ApiError {
    fn from(error: UnknownModel) -> Self {
        Self::new(StatusCode::NOT_FOUND, "model_not_found", error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
        }
        if self.is_spent {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        // For protocols that have another form.
        response.extensions_mut().insert(self);
        response
    }
}
