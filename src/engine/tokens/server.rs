//! One server: requests to it, and the classification of its failures.

use std::time::{Duration, Instant};

use http::{HeaderValue, Method, header};
use reqwest::{Client, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::config::TokensConfig;
use crate::engine::EngineError;
use crate::hint::Reason;
use crate::outbound::client::{InvalidSetting, KeyLookup, bearer, build_client};
use crate::outbound::config::TimeoutConfig;
use crate::outbound::redact::Redactor;
use crate::outbound::retry::{Advice, Retryable};
use crate::outbound::retry_after::retry_after;
use crate::outbound::wire::{CLOSED_UNSERVED, library_causes};

/// Bytes of a reply that is read as a whole.
const MAX_REPLY_BYTES: usize = 1 << 20;
/// Characters of a server's own message that are kept.
const MAX_MESSAGE_CHARS: usize = 400;

/// One server.
#[derive(Debug)]
pub(super) struct TokenServer {
    pub(super) url: Url,
    client: Client,
    authorization: Option<SecretString>,
    timeouts: TimeoutConfig,
    /// When it was last compared successfully.
    pub(super) compared: tokio::sync::Mutex<Option<Instant>>,
}

/// A request that failed.
#[derive(Debug, Clone)]
pub(super) struct RequestFailure {
    pub(super) error: EngineError,
    pub(super) advice: Advice,
    /// Whether the server is at fault, and not the request.
    pub(super) is_server_fault: bool,
    /// Whether it will fail again until someone changes something.
    pub(super) is_permanent: bool,
}

impl Retryable for RequestFailure {
    fn advice(&self) -> Advice {
        self.advice
    }
}

impl RequestFailure {
    /// The request is at fault.
    pub(super) fn of_request(error: EngineError) -> Self {
        Self { error, advice: Advice::GiveUp, is_server_fault: false, is_permanent: true }
    }

    /// The same for a lasting failure.
    pub(super) fn permanent(self) -> Self {
        Self { is_permanent: true, ..self }
    }

    /// The same for a failure that a retry, here or at another server, may not have.
    pub(super) fn retryable(self) -> Self {
        Self { advice: Advice::Retry { after: None }, ..self }
    }

    /// The same after tokens were sampled: a retry would sample others.
    pub(super) fn after_tokens(self) -> Self {
        Self { advice: Advice::GiveUp, ..self }
    }

    /// How long the server asked to wait.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self.advice {
            Advice::Retry { after } => after,
            Advice::GiveUp | Advice::NotAttempted => None,
        }
    }
}

impl TokenServer {
    pub(super) fn new(
        url: Url,
        config: &TokensConfig,
        keys: KeyLookup<'_>,
    ) -> Result<Self, InvalidSetting> {
        let (connect, idle) = (config.timeouts.connect(), config.max_in_flight);
        let authorization = bearer(config.api_key_env.as_deref(), None, keys)?;
        let client = build_client(&url, connect, idle, config.ca.as_deref())?;
        let timeouts = config.timeouts;
        Ok(Self { url, client, authorization, timeouts, compared: Default::default() })
    }

    /// Sends a request and waits for the headers of a successful response, until `until`.
    pub(super) async fn ask(
        &self,
        path: &str,
        body: Option<&Value>,
        until: Instant,
    ) -> Result<Response, RequestFailure> {
        let url = self.url.join(path).map_err(|error| self.broken(error.to_string()))?;
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = &self.authorization
            && let Ok(mut value) = HeaderValue::from_str(key.expose_secret())
        {
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let asked = Instant::now();
        let limit = until.min(asked + self.timeouts.first_byte());
        let sent = tokio::time::timeout_at(limit.into(), request.send()).await;
        let response = match sent {
            Err(_) => {
                let millis = (limit - asked).as_millis();
                return Err(self.broken(format!("it did not answer within {millis} ms")));
            }
            Ok(Err(error)) => {
                let is_unserved = error.is_connect() || asked.elapsed() < CLOSED_UNSERVED;
                let advice = match is_unserved {
                    true => Advice::Retry { after: None },
                    false => Advice::GiveUp,
                };
                let reason = format!("it cannot be reached: {}", library_causes(&error));
                return Err(RequestFailure { advice, ..self.broken(reason) });
            }
            Ok(Ok(response)) => response,
        };
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.refused(response).await),
        }
    }

    /// The JSON of a server's response.
    pub(super) async fn json(
        &self,
        path: &str,
        body: Option<&Value>,
        until: Instant,
    ) -> Result<Value, RequestFailure> {
        let mut response = self.ask(path, body, until).await?;
        let mut whole = Vec::new();
        while let Some(piece) = self.piece(&mut response, until).await? {
            whole.extend_from_slice(&piece);
            if whole.len() > MAX_REPLY_BYTES {
                return Err(self.broken(format!("its answer to `/{path}` is too long")));
            }
        }
        serde_json::from_slice(&whole).map_err(|_| {
            self.broken(format!("its answer to `/{path}` is not valid JSON")).permanent()
        })
    }

    /// The next piece of a response's body; `None` at its end.
    pub(super) async fn piece(
        &self,
        response: &mut Response,
        until: Instant,
    ) -> Result<Option<bytes::Bytes>, RequestFailure> {
        let idle = self.timeouts.idle();
        let limit = until.min(Instant::now() + idle);
        match tokio::time::timeout_at(limit.into(), response.chunk()).await {
            Err(_) => {
                let reason = format!("it sent nothing for {} ms", idle.as_millis());
                Err(self.broken(reason))
            }
            Ok(Err(error)) => {
                let reason = format!("its reply broke off: {}", library_causes(&error));
                Err(self.broken(reason).retryable())
            }
            Ok(Ok(piece)) => Ok(piece),
        }
    }

    /// The failure for an error status.
    async fn refused(&self, mut response: Response) -> RequestFailure {
        let status = response.status().as_u16();
        let after = retry_after(response.headers());
        let mut body = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while body.len() < 64 * 1024
            && let Ok(Some(piece)) = self.piece(&mut response, until).await
        {
            body.extend_from_slice(&piece);
        }
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let error = value.get("error").filter(|error| !error.is_null()).unwrap_or(&value);
        let size = |key| error.get(key).and_then(Value::as_u64).map(|size| size as usize);
        if let (Some(tokens), Some(context)) = (size("n_prompt_tokens"), size("n_ctx")) {
            let error = EngineError::PromptTooLong { tokens, context };
            return RequestFailure::of_request(error);
        }
        let message =
            ["message", "detail", "error"].iter().find_map(|key| error.get(key)?.as_str());
        let message = message.or_else(|| error.as_str());
        let message = match message {
            Some(message) => self.redactor().truncated(message, MAX_MESSAGE_CHARS),
            None => self.redactor().head(&body),
        };
        let message = if message.is_empty() { "no message".to_owned() } else { message };
        if matches!(status, 400 | 413 | 422) {
            let reason = format!("`{}` refused it: {message}", self.url);
            let error = EngineError::InvalidRequest(reason);
            return RequestFailure::of_request(error);
        }
        let hint = match status {
            300..=399 => Some("redirects are not followed; name the server's own address"),
            401 | 403 => Some("name the variable with its key by `api_key_env`"),
            404 | 405 => Some("check `dialect`, and that the address is without a path"),
            _ => None,
        };
        let is_transient = matches!(status, 408 | 409 | 429)
            || (status >= 500 && !matches!(status, 501 | 504 | 505 | 524));
        let advice = if is_transient { Advice::Retry { after } } else { Advice::GiveUp };
        let failure = self.broken(Reason {
            hint: hint.map(Into::into),
            ..format!("status {status}: {message}").into()
        });
        RequestFailure { advice, is_permanent: hint.is_some(), ..failure }
    }

    /// A failure of the server, after which it is not asked again for this request.
    pub(super) fn broken(&self, reason: impl Into<Reason>) -> RequestFailure {
        let server = self.url.to_string();
        let reason = reason.into().map_text(|text| self.redactor().text(text));
        let error = EngineError::Server { server, reason };
        RequestFailure { error, advice: Advice::GiveUp, is_server_fault: true, is_permanent: false }
    }

    /// The server has another model.
    pub(super) fn other_model(&self, reason: impl Into<Reason>) -> RequestFailure {
        let server = self.url.to_string();
        let error = EngineError::OtherModel { server, reason: reason.into() };
        RequestFailure { error, advice: Advice::GiveUp, is_server_fault: true, is_permanent: true }
    }

    fn redactor(&self) -> Redactor<'_> {
        Redactor::new(self.authorization.as_ref().map(|value| value.expose_secret()))
    }
}
