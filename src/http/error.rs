//! Errors for clients: OpenAI's error object, in one place.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::wire::{ErrorBody, ErrorObject};
use crate::access::{Denied, Refusal};
use crate::engine::EngineError;
use crate::episode::{EpisodeError, EpisodeErrorKind, EpisodeUsage};
use crate::hint::{Hint, Reason};
use crate::large_model::{LargeModelError, Phase, UnknownModel};
use crate::policy::PolicyError;

/// The longest text of a caller that an error quotes, bytes.
const QUOTED: usize = 64;
/// The longest message, bytes.
const MAX_MESSAGE_BYTES: usize = 2000;

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
    /// What went wrong, of at most [`MAX_MESSAGE_BYTES`] bytes, and what to do about it.
    pub(super) reason: Box<Reason>,
    kind: &'static str,
    /// The field that is to blame.
    pub(super) param: Option<String>,
    code: String,
    retry_after: Option<Duration>,
    /// Whether clients must not try again on their own: money was spent, and would be twice.
    forbids_retry: bool,
}

impl ApiError {
    /// A failure of the kind that its status says.
    pub(super) fn new(status: StatusCode, code: &str, reason: impl Into<Reason>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        Self {
            status,
            reason: Box::new(reason.into().map_text(|text| head(text, MAX_MESSAGE_BYTES))),
            kind,
            param: None,
            code: code.to_owned(),
            retry_after: None,
            forbids_retry: false,
        }
    }

    /// A field that cannot be used.
    pub(super) fn invalid(param: &str, reason: impl Into<Reason>) -> Self {
        Self::bad_request("invalid_value", reason).with_param(param)
    }

    /// A request that cannot be used.
    pub(super) fn bad_request(code: &str, reason: impl Into<Reason>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, reason)
    }

    /// The server is overloaded.
    pub(super) fn overloaded(reason: impl Into<Reason>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", reason);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// A fault of this server's own: the log has what happened, the client does not.
    pub(super) fn internal() -> Self {
        let message = "the server failed; its log has the reason under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(super) fn with_param(mut self, param: &str) -> Self {
        self.param = Some(head(param, 2 * QUOTED));
        self
    }

    /// The same with the field names of another protocol: in each pair of `names`, the first prefix
    /// becomes the second.
    pub(super) fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        let Some(param) = self.param.take() else { return self };
        let renamed = names
            .iter()
            .find_map(|(own, other)| Some(format!("{other}{}", param.strip_prefix(own)?)));
        if let Some(renamed) = &renamed {
            let quoted = |name: &str| format!("`{name}`");
            let replace = |text: &str| text.replace(&quoted(&param), &quoted(renamed));
            *self.reason = Reason {
                text: replace(&self.reason.text).into(),
                hint: self.reason.hint.as_deref().map(|hint| replace(hint).into()),
            };
        }
        self.param = Some(renamed.unwrap_or(param));
        self
    }

    /// The same, but clients must not retry: money was spent.
    pub(super) fn no_retry(self) -> Self {
        Self { forbids_retry: true, ..self }
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
                tracing::warn!(error = error.explained(), "a large model cannot be reached");
                let message = format!("the large model `{model}` cannot be reached");
                Self::new(StatusCode::BAD_GATEWAY, "large_model_unreachable", message)
            }
            Timeout { model, phase: Phase::RateLimit, .. } => {
                let message = reason!(
                    "the large model `{model}` has no room within its limits per minute";
                    hint: "try again a little later"
                );
                Self::overloaded(message, Duration::from_secs(60))
            }
            Timeout { model, phase, limit } => {
                let message = format!(
                    "the large model `{model}` was too slow: no {phase} within {} ms",
                    limit.as_millis()
                );
                Self::new(StatusCode::GATEWAY_TIMEOUT, "large_model_timeout", message)
            }
            Deadline { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", error.reason())
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
                Self::new(kept, code, error.reason()).retry_after(*retry_after)
            }
            Malformed { model, reason } => {
                // Not the error: it quotes the reply.
                tracing::warn!(model, "a large model sent no valid reply");
                let message = format!("the large model `{model}` sent no valid reply: {reason}");
                Self::new(StatusCode::BAD_GATEWAY, "large_model_malformed", message)
            }
            CircuitOpen { retry_in, .. } => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "large_model_unavailable", error.reason())
                    .retry_after(Some(*retry_in))
            }
            Local { model, .. } => {
                tracing::error!(error = error.explained(), "a large model cannot be asked");
                let message = format!("the large model `{model}` cannot be asked just now");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "large_model_unavailable", message)
                    .retry_after(Some(Duration::from_secs(1)))
            }
            Rejected { .. } => Self::bad_request("large_model_rejected", error.reason()),
        };
        Self { forbids_retry: error.may_be_billed(), ..failure }
    }

    /// A failed authentication.
    pub(super) fn of_denied(denied: &Denied) -> Self {
        let (status, code) = match denied {
            Denied::Missing => (StatusCode::UNAUTHORIZED, "missing_api_key"),
            Denied::Unknown => (StatusCode::UNAUTHORIZED, "invalid_api_key"),
            Denied::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"),
        };
        let wait = matches!(denied, Denied::Unavailable).then_some(Duration::from_secs(1));
        Self::new(status, code, denied.reason()).retry_after(wait)
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
        // Clients would retry within seconds, even if `Retry-After` says tomorrow.
        Self { forbids_retry: matches!(refusal, Refusal::Budget { .. }), ..error }
            .retry_after(Some(wait))
    }

    fn of_engine(error: &EngineError) -> Self {
        match error {
            EngineError::PromptTooLong { tokens, context } => {
                let message = reason!(
                    "the question, as the policy reads it, has {tokens} tokens and does not fit the policy's context of {context}";
                    hint: "shorten it, or ask the server's operator for a policy with a longer context"
                );
                Self::bad_request("context_length_exceeded", message)
            }
            EngineError::Overloaded => {
                let message = reason!("the policy is busy"; hint: "try again a little later");
                Self::overloaded(message, Duration::from_secs(1))
            }
            EngineError::Sampling(_) => {
                Self::bad_request("unsupported_sampling", error.reason()).with_param("temperature")
            }
            // A policy whose tokenizer and model do not fit, or whose weights are damaged: no further
            // try helps.
            EngineError::InvalidRequest(_) | EngineError::NotNumbers { .. } => {
                tracing::error!(error = error.explained(), "the policy's engine cannot answer");
                Self { forbids_retry: true, ..Self::internal() }
            }
            // Addresses are not the client's business.
            EngineError::Stopped(_)
            | EngineError::Load { .. }
            | EngineError::Server { .. }
            | EngineError::OtherModel { .. } => {
                tracing::error!(error = error.explained(), "the policy's engine failed");
                let message = reason!(
                    "the policy is not available";
                    hint: "try again a little later"
                );
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
                let message = reason!(
                    "the question, as the policy reads it, has {bytes} bytes and does not fit the policy's context of {context} tokens";
                    hint: "shorten it, or ask the server's operator for a policy with a longer context"
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
                Self::new(status, "deadline_exceeded", error.kind.reason())
                    .with_param("deadline_ms")
            }
            EpisodeErrorKind::Budget { .. } => {
                Self::bad_request("budget_exceeded", error.kind.reason()).with_param("max_cost")
            }
            EpisodeErrorKind::PromptTooLong { turn, .. } => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                let param = format!("turns[{turn}].interaction_prompt");
                Self::new(status, "request_too_large", error.to_string()).with_param(&param)
            }
            EpisodeErrorKind::Malformed => {
                let status = StatusCode::BAD_GATEWAY;
                Self::new(status, "malformed_answer", error.kind.reason())
            }
            EpisodeErrorKind::Unfit { .. } => {
                let status = StatusCode::BAD_GATEWAY;
                Self::new(status, "invalid_response_format", error.kind.reason())
            }
            EpisodeErrorKind::Cancelled | EpisodeErrorKind::Policy(PolicyError::Cancelled) => {
                Self::new(client_closed_request(), "cancelled", error.to_string())
            }
        };
        Self { forbids_retry: failure.forbids_retry || has_spent(&error.usage), ..failure }
    }

    /// What clients read. The message ends with the hint, for clients that show nothing else.
    pub(super) fn object(&self) -> ErrorObject {
        ErrorObject {
            message: self.reason.explained(),
            hint: self.reason.hint.as_deref().map(str::to_owned),
            kind: self.kind.to_owned(),
            param: self.param.clone(),
            code: Some(self.code.clone()),
        }
    }

    /// The object in its envelope.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.object() }
    }
}

/// nginx's status for a client that is gone; it is visible in metrics only.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

fn has_spent(usage: &EpisodeUsage) -> bool {
    usage.large_model.calls > 0 || usage.policy.cost > 0.0
}

impl From<UnknownModel> for ApiError {
    fn from(error: UnknownModel) -> Self {
        Self::new(StatusCode::NOT_FOUND, "model_not_found", error.reason())
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
        if self.forbids_retry {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        // For protocols that have another form.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_ends_with_its_hint_however_long_it_is() {
        let reason = reason!("{}", "é".repeat(MAX_MESSAGE_BYTES); hint: "shorten `{}`", "field");
        let error = ApiError::bad_request("invalid_value", reason);
        let object = error.object();
        assert_eq!(object.hint.as_deref(), Some("shorten `field`"));
        let text = object.message.strip_suffix("…\nhint: shorten `field`").unwrap();
        assert!(
            (MAX_MESSAGE_BYTES - 1..=MAX_MESSAGE_BYTES).contains(&text.len()),
            "{}",
            text.len()
        );

        let renamed = error.with_param("field").renamed(&[("field", "other")]).object();
        assert_eq!(renamed.hint.as_deref(), Some("shorten `other`"));
        assert!(renamed.message.ends_with("\nhint: shorten `other`"));

        let plain = ApiError::bad_request("invalid_value", "it is too long").object();
        assert_eq!((plain.message.as_str(), plain.hint), ("it is too long", None));
    }

    #[test]
    fn a_client_tries_again_only_if_that_can_help() {
        for (error, status, tries_again) in [
            (EngineError::Overloaded, StatusCode::TOO_MANY_REQUESTS, true),
            (EngineError::Stopped("killed".into()), StatusCode::SERVICE_UNAVAILABLE, true),
            (EngineError::NotNumbers { tokens: 7 }, StatusCode::INTERNAL_SERVER_ERROR, false),
        ] {
            let response = ApiError::of_engine(&error).into_response();
            assert_eq!(response.status(), status, "{error}");
            let headers = response.headers();
            assert_eq!(headers.contains_key("retry-after"), tries_again, "{error}");
            let forbidden = headers.get("x-should-retry").is_some_and(|value| value == "false");
            assert_eq!(forbidden, !tries_again, "{error}");
        }
    }
}
