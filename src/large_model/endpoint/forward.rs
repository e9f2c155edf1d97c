//! Passes requests to an endpoint unchanged, and its responses back.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::TryFutureExt;
use futures::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, Method, header};
use secrecy::SecretString;

use super::attempt::Attempt;
use super::body::{Body, ForwardBody};
use super::client::{COMPLETIONS, Endpoint};
use super::exchange::{CallTarget, Exchange};
use super::fields::refused_in;
use super::headers;
use super::passed_usage::{AskingForUsage, UsageRequested, asking_for_usage};
use super::redact_body;
use super::upstream_error::{UpstreamError, parse_error};
use crate::compute;
use crate::large_model::error::{is_gateway_timeout, is_quota, is_transient_status};
use crate::large_model::{AttemptOutcome, LargeModelError, Waiting};
use crate::outbound::redact::Redactor;
use crate::outbound::retry::{Advice, Retryable, retrying};
use crate::outbound::retry_after::retry_after;
use crate::outbound::wire::{Request, Response};

/// How much of an error is read to see whether it refuses a field, bytes.
const MAX_OF_AN_ERROR: usize = 64 * 1024;

/// A request to forward.
#[derive(Debug, Clone)]
pub struct ForwardRequest {
    /// Its method.
    pub method: Method,
    /// Its path below the endpoint's URL, such as `/embeddings`, with its query if it has one.
    pub path: String,
    /// Its headers. Those of one connection, or between the caller and this server, are not passed
    /// on; `Authorization` only if the endpoint has no key of its own.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The id of the model: the breaker tracks each model separately.
    pub model: String,
    /// Whether its usage must be known: a stream is then asked to report it. The response's
    /// extensions contain [`UsageRequested`](super::UsageRequested) if the client did not ask itself.
    pub is_metered: bool,
    /// Whose request it is, as in [`Call`](crate::large_model::Call).
    pub caller: u64,
    /// The caller's deadline.
    pub deadline: Option<Instant>,
    /// Whether it waits to be sent.
    pub waiting: Waiting,
}

impl ForwardRequest {
    /// Its path without its query.
    fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

impl Endpoint {
    /// Forwards a request, see [`Self::forward`], asking for its usage where that must be known and
    /// the model does not refuse it.
    async fn forward_metered(
        &self,
        request: ForwardRequest,
    ) -> Result<http::Response<ForwardBody>, LargeModelError> {
        const FIELD: &str = "stream_options";
        let refused = &self.transport.refused;
        let is_refused = refused.of(&request.model).contains_key(FIELD);
        let route = request.route();
        let is_known = matches!(route, COMPLETIONS | "/completions");
        // Endpoints may take other spellings of the same path: encoded, in capitals, with a `;`.
        let asking = match (is_known || route.starts_with("/chat/")) && !is_refused {
            true => compute::in_place(request.body.len(), || asking_for_usage(&request.body)),
            false => None,
        };
        let Some(AskingForUsage { body, is_ambiguous, is_requested_by_client }) = asking else {
            return self.forward_as_it_is(request).await;
        };
        let asked = ForwardRequest { body, ..request.clone() };
        let mut response = self.forward_as_it_is(asked).await?;
        if !matches!(response.status().as_u16(), 400 | 422) {
            if !is_requested_by_client {
                response.extensions_mut().insert(UsageRequested);
            }
            return Ok(response);
        }
        let (mut parts, mut pieces) = response.into_parts();
        let status = parts.status.as_u16();
        parts.headers.remove(header::CONTENT_LENGTH);
        let mut head = Vec::new();
        while let Some(Ok(piece)) = pieces.next().await
            && head.len() < MAX_OF_AN_ERROR
        {
            head.extend_from_slice(&piece);
        }
        let error = parse_error(status, &head, Redactor::new(None));
        let own = [FIELD.to_owned()];
        let named = refused_in(&error.message, error.body.as_ref(), &own);
        if named.is_none() && !is_ambiguous {
            return Ok(http::Response::from_parts(parts, stream::iter([Ok(head.into())]).boxed()));
        }
        let model = request.model.clone();
        let response = self.forward_as_it_is(request).await?;
        // Only then is it certain that the field was the fault. What is remembered holds for all
        // callers, so none may bring it about by how its own request is written.
        if let Some((names, _)) = named
            && is_known
            && !is_ambiguous
            && response.status().is_success()
        {
            refused.learn(&model, &names);
        }
        Ok(response)
    }

    /// Forwards a request. The response is returned whatever its status, its body unread; only
    /// failed attempts whose body is not returned are retried.
    ///
    /// # Errors
    /// When there is no response, or it is a redirect.
    pub async fn forward(
        &self,
        request: ForwardRequest,
    ) -> Result<http::Response<ForwardBody>, LargeModelError> {
        match request.is_metered {
            true => Box::pin(self.forward_metered(request)).await,
            false => self.forward_as_it_is(request).await,
        }
    }

    async fn forward_as_it_is(
        &self,
        request: ForwardRequest,
    ) -> Result<http::Response<ForwardBody>, LargeModelError> {
        let counted = self.wait_for_minute(&request).await?;
        let result = self.forward_now(request, counted.is_some()).await;
        let Some(counted) = counted else { return result };
        match result {
            Ok(response) if response.status().is_success() => {
                let (parts, pieces) = response.into_parts();
                let pieces = counted.watch(&parts.headers, pieces);
                Ok(http::Response::from_parts(parts, pieces))
            }
            refused => {
                counted.discard();
                refused
            }
        }
    }

    /// Forwards a request, without waiting for its minute. `is_counted`: whether its response must
    /// be one whose usage can be read.
    async fn forward_now(
        &self,
        mut request: ForwardRequest,
        is_counted: bool,
    ) -> Result<http::Response<ForwardBody>, LargeModelError> {
        if is_counted {
            request.headers.remove(header::ACCEPT_ENCODING);
        }
        let transport = &self.transport;
        let callers = request.headers.get(header::AUTHORIZATION);
        let callers = callers.and_then(|value| value.to_str().ok()).map(SecretString::from);
        let target = Some(CallTarget { route: request.route(), model: &request.model });
        let (caller, callers, deadline) = (request.caller, callers.as_ref(), request.deadline);
        let exchange =
            &Exchange::open(transport, target, caller, callers, deadline, &request.waiting)?;
        let url = transport.at(&request.path).ok_or_else(|| {
            exchange.rejected(format!("the path `{}` leads out of its API", request.path))
        })?;
        let mut forwarded = Request::new(request.body);
        *forwarded.method_mut() = request.method;
        *forwarded.uri_mut() = url;
        *forwarded.headers_mut() = request.headers;
        headers::to_endpoint(forwarded.headers_mut());
        // Unsolicited compression is decoded: the client may not expect it.
        let is_decoded = !forwarded.headers().contains_key(header::ACCEPT_ENCODING);
        let until = exchange.retry_until();
        let result = retrying(&transport.config.retries, &transport.rng, until, || {
            attempt(exchange, forwarded.clone()).inspect_err(|failed| exchange.failed(failed))
        })
        .await;
        match result {
            Ok((response, attempt)) => {
                client_response(exchange, response, None, Some(attempt), is_decoded)
            }
            Err(Failed::ErrorStatus { response, head, .. }) => {
                client_response(exchange, *response, head, None, is_decoded)
            }
            Err(Failed::NoResponse(error)) => Err(error),
        }
    }
}

/// A failed attempt that may be retried.
enum Failed {
    /// With an error status; returned if no retry is better. `head`: the part of the body that was
    /// read.
    ErrorStatus {
        response: Box<Response>,
        head: Option<Bytes>,
        is_final: bool,
    },
    NoResponse(LargeModelError),
}

impl Retryable for Failed {
    fn advice(&self) -> Advice {
        match self {
            Self::ErrorStatus { response, is_final: false, .. }
                if is_transient_status(response.status().as_u16()) =>
            {
                Advice::Retry { after: retry_after(response.headers()) }
            }
            Self::ErrorStatus { .. } => Advice::GiveUp,
            Self::NoResponse(error) => error.advice(),
        }
    }
}

async fn attempt(
    exchange: &Arc<Exchange>,
    request: Request,
) -> Result<(Response, Attempt), Failed> {
    let mut attempt = Attempt::begin(exchange).await.map_err(Failed::NoResponse)?;
    match exchange.send(request).await {
        Ok(response) if response.status().is_success() => {
            attempt.response_began();
            Ok((response, attempt))
        }
        // A client would follow it, and post the conversation to wherever it leads.
        Ok(response)
            if !response.status().is_client_error() && !response.status().is_server_error() =>
        {
            let status = response.status().as_u16();
            attempt.set_outcome(AttemptOutcome::Status(status));
            let message = "a redirect, which is not followed";
            let error = UpstreamError { status, message: message.to_owned(), body: None };
            Err(Failed::NoResponse(exchange.status(error, None, None)))
        }
        Ok(response) => {
            let status = response.status().as_u16();
            attempt.set_outcome(AttemptOutcome::Status(status));
            Err(answered(exchange, response).await)
        }
        Err(error) => {
            attempt.set_outcome((&error).into());
            Err(Failed::NoResponse(error))
        }
    }
}

/// A response with an error status. Only its body says whether a 429 is final.
async fn answered(exchange: &Arc<Exchange>, response: Response) -> Failed {
    if response.status() != http::StatusCode::TOO_MANY_REQUESTS {
        return Failed::ErrorStatus { response: Box::new(response), head: None, is_final: false };
    }
    let (parts, pieces) = response.into_parts();
    let mut headers = parts.headers.clone();
    let head = Body::unbounded(exchange, pieces, &mut headers, false).head().await;
    let is_final =
        parse_error(429, &head, exchange.redactor()).body.is_some_and(|it| is_quota(&it));
    let response = Box::new(Response::from_parts(parts, reqwest::Body::default()));
    Failed::ErrorStatus { response, head: Some(head.into()), is_final }
}

/// The response for the client. `head`: the part of its body that was read, if the rest is not
/// worth waiting for. `attempt`: whose outcome the end of the body sets.
fn client_response(
    exchange: &Arc<Exchange>,
    response: Response,
    head: Option<Bytes>,
    attempt: Option<Attempt>,
    is_decoded: bool,
) -> Result<http::Response<ForwardBody>, LargeModelError> {
    let (http::response::Parts { status, mut headers, .. }, pieces) = response.into_parts();
    headers::to_client(&mut headers).map_err(|reason| {
        exchange.malformed(format!("its response is not valid HTTP: {reason}"))
    })?;
    if is_gateway_timeout(status.as_u16()) {
        // A client that retries would pay twice.
        let name = http::HeaderName::from_static("x-should-retry");
        headers.entry(name).or_insert(HeaderValue::from_static("false"));
    }
    let mut pieces = match head {
        Some(head) => {
            // The rest of a longer error is not worth waiting for.
            headers.remove(header::CONTENT_LENGTH);
            stream::iter([Ok(head)]).boxed()
        }
        None => {
            let body = Body::unbounded(exchange, pieces, &mut headers, is_decoded);
            observed(body, attempt)
        }
    };
    if let Some(secret) = exchange.own_redactor().secret() {
        redact_body::headers(&mut headers, secret);
        pieces = redact_body::body(pieces, secret);
    }
    let mut returned = http::Response::new(pieces);
    *returned.status_mut() = status;
    *returned.headers_mut() = headers;
    Ok(returned)
}

/// The pieces of a body, whose end or drop sets the outcome of the attempt.
fn observed(body: Body, attempt: Option<Attempt>) -> ForwardBody {
    stream::unfold(Some((body, attempt)), async |state| {
        let (mut body, mut attempt) = state?;
        let piece = body.next().await;
        if let Ok(Some(piece)) = piece {
            return Some((Ok(piece), Some((body, attempt))));
        }
        if let Some(attempt) = &mut attempt {
            attempt.set_outcome_of(&piece);
        }
        piece.err().map(|error| (Err(error), None))
    })
    .boxed()
}
