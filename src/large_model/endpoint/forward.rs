//! Requests that are handed to an endpoint as they are, and its responses handed back.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use secrecy::SecretString;

use super::attempt::Attempt;
use super::body::{Body, ForwardBody};
use super::client::Endpoint;
use super::exchange::{Exchange, asked_wait};
use super::redact_body;
use super::retry::{Advice, Failure, retrying};
use super::wire::{Request, Response};
use crate::large_model::error::is_transient_status;
use crate::large_model::{AttemptOutcome, LargeModelError};

/// A request to hand on.
#[derive(Debug, Clone)]
pub struct ForwardRequest {
    /// Its method.
    pub method: Method,
    /// Its path below the endpoint's URL, such as `/embeddings`, with its query if it has one.
    pub path: String,
    /// Its headers. Those that concern one connection, or the caller's relation to this server
    /// alone, are not handed on; `Authorization` only where the endpoint has no key of its own.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When the caller stops caring.
    pub deadline: Option<Instant>,
}

/// Headers of one connection (RFC 9110, section 7.6.1), and those the transport writes itself.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Between the caller and this server.
const CALLERS_OWN: [HeaderName; 6] = [
    HeaderName::from_static("api-key"),
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
];
/// Between this server and the endpoint: they speak of its host.
const ENDPOINTS_OWN: [HeaderName; 3] =
    [header::ALT_SVC, header::SET_COOKIE, header::STRICT_TRANSPORT_SECURITY];

impl Endpoint {
    /// Hands a request on. The response comes back whatever its status, its body unread; only
    /// failed attempts whose body is not handed back are repeated.
    pub async fn forward(
        &self,
        request: ForwardRequest,
    ) -> Result<http::Response<ForwardBody>, LargeModelError> {
        let transport = &self.transport;
        let callers = request.headers.get(header::AUTHORIZATION);
        let callers = callers.and_then(|value| value.to_str().ok()).map(SecretString::from);
        let exchange = &Arc::new(Exchange::new(transport, callers.as_ref(), request.deadline));
        let url = transport.at(&request.path).ok_or_else(|| {
            exchange.rejected(format!("the path `{}` leads out of its API", request.path))
        })?;
        let mut handed_on = Request::new(request.body);
        *handed_on.method_mut() = request.method;
        *handed_on.uri_mut() = url;
        *handed_on.headers_mut() = request.headers;
        remove(handed_on.headers_mut(), &CALLERS_OWN);
        let result = retrying(&transport.config.retries, &transport.rng, exchange.deadline, || {
            attempt(exchange, handed_on.clone())
        })
        .await;
        match result {
            Ok((response, attempt)) => Ok(hand_back(exchange, response, Some(attempt))),
            Err(Failed::Answered(response)) => Ok(hand_back(exchange, *response, None)),
            Err(Failed::Unanswered(error)) => Err(error),
        }
    }
}

/// An attempt that may be worth another.
enum Failed {
    /// With an error status; handed back when it stays at that.
    Answered(Box<Response>),
    Unanswered(LargeModelError),
}

impl Failure for Failed {
    fn advice(&self) -> Advice {
        match self {
            Self::Answered(response) if is_transient_status(response.status().as_u16()) => {
                Advice::Retry { after: asked_wait(response.headers()) }
            }
            Self::Answered(_) => Advice::GiveUp,
            Self::Unanswered(error) => error.advice(),
        }
    }
}

async fn attempt(
    exchange: &Arc<Exchange>,
    request: Request,
) -> Result<(Response, Attempt), Failed> {
    let mut attempt = exchange.begin().await.map_err(Failed::Unanswered)?;
    match exchange.send(request).await {
        Ok(response) if response.status() < StatusCode::BAD_REQUEST => {
            attempt.answers();
            Ok((response, attempt))
        }
        Ok(response) => {
            attempt.settle(AttemptOutcome::Status(response.status().as_u16()));
            Err(Failed::Answered(Box::new(response)))
        }
        Err(error) => {
            attempt.settle((&error).into());
            Err(Failed::Unanswered(error))
        }
    }
}

fn hand_back(
    exchange: &Arc<Exchange>,
    response: Response,
    attempt: Option<Attempt>,
) -> http::Response<ForwardBody> {
    let (http::response::Parts { status, mut headers, .. }, pieces) = response.into_parts();
    remove(&mut headers, &ENDPOINTS_OWN);
    let secret = exchange.own_secret().map(str::to_owned);
    let body = Body::unbounded(Arc::clone(exchange), pieces);
    let pieces = stream::unfold(Some((body, attempt)), async |state| {
        let (mut body, mut attempt) = state?;
        let piece = body.next().await;
        if let Ok(Some(piece)) = piece {
            return Some((Ok(piece), Some((body, attempt))));
        }
        if let Some(attempt) = &mut attempt {
            attempt.settle_by(&piece);
        }
        piece.err().map(|error| (Err(error), None))
    });
    let mut pieces = pieces.boxed();
    if let Some(secret) = secret {
        redact_body::headers(&mut headers, &secret);
        pieces = redact_body::body(pieces, &secret);
    }
    let mut handed_back = http::Response::new(pieces);
    *handed_back.status_mut() = status;
    *handed_back.headers_mut() = headers;
    handed_back
}

/// Removes the headers of one connection, those that it names itself, and `others`.
fn remove(headers: &mut HeaderMap, others: &[HeaderName]) {
    let named = headers.get_all(header::CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let named: Vec<HeaderName> = named.filter_map(|name| name.trim().parse().ok()).collect();
    // A length beside a transfer encoding may be another (RFC 9112, section 6.3).
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let is_removed = |name: &&HeaderName| {
        HOP_BY_HOP.contains(name)
            || others.contains(name)
            || named.contains(name)
            || (is_chunked && **name == header::CONTENT_LENGTH)
    };
    let removed: Vec<HeaderName> = headers.keys().filter(is_removed).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}
