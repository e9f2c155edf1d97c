//! The one layer around every handler: request id, span, authentication, metrics.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{self, Entry};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Instrument, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::caller;
use super::error::ApiError;
use super::metrics::OTHER;
use super::origin;
use super::routes::{messages, name_of};
use super::sse::ObservedBody;
use super::state::{AppHandle, AppState};
use super::wire::messages::MessagesErrorBody;
use crate::compute::panic_message;

/// The header of the request's trace (W3C).
const TRACE: &str = "traceparent";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers whose values must not be shown.
const SECRETS: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
];
/// Longer ids are not echoed: they end up in logs.
const MAX_ID_LENGTH: usize = 128;

/// Wraps a router. A single layer, because each one is allocated for every request.
pub(super) fn wrap(router: Router<AppHandle>, handle: &AppHandle) -> Router<AppHandle> {
    router.layer(from_fn_with_state(handle.clone(), watch))
}

/// Gives the request an id and a span, has its caller's key checked, and counts it.
async fn watch(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let route = name_of(request.uri().path()).unwrap_or(OTHER);
    for name in &SECRETS {
        if let Entry::Occupied(mut values) = request.headers_mut().entry(name) {
            values.iter_mut().for_each(|value| value.set_sensitive(true));
        }
    }
    let given = request.headers().get(&REQUEST_ID).filter(|id| is_id(id));
    let id = match given {
        Some(id) => id.clone(),
        None => HeaderValue::from_str(&(state.ids)().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
    };
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let span = tracing::info_span!(
        "request",
        otel.name = format_args!("{} {route}", request.method()),
        otel.kind = "server",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        route,
        http.response.status_code = field::Empty,
    );
    if request.headers().contains_key(TRACE) {
        let caller = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
        // Fails if tracing is off.
        let _ = span.set_parent(caller);
    }
    let origin = origin::allowed(&state.server, request.headers());
    let mut guard = Guard { state, route, started: Instant::now(), is_answered: false };
    let answered = async {
        if let Some(answer) = origin::preflight(&guard.state.server, &request) {
            return answer;
        }
        match caller::check(&guard.state, &mut request).await {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    let answered = AssertUnwindSafe(answered).catch_unwind();
    let answered = answered.map(|answered| answered.unwrap_or_else(panicked));
    let mut response = answered.instrument(span.clone()).await;
    guard.is_answered = true;
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    guard.state.metrics.request(route, status);
    let elapsed = guard.started.elapsed();
    if response.extensions_mut().remove::<ObservedBody>().is_none() {
        guard.state.metrics.duration(route, elapsed);
    }
    tracing::debug!(parent: &span, status, elapsed_us = elapsed.as_micros() as u64, "answered");
    if let Some(error) = response.extensions_mut().remove::<ApiError>()
        && route == messages::ROUTE
    {
        let body = serde_json::to_vec(&MessagesErrorBody::from(&error)).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
        *response.body_mut() = body.into();
    }
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    origin::expose(&guard.state.server, origin, response.headers_mut());
    response
}

/// Ids are short and printable.
fn is_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=MAX_ID_LENGTH).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Detects clients that leave before there is a response.
struct Guard {
    state: AppState,
    route: &'static str,
    started: Instant,
    is_answered: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_answered {
            self.state.metrics.disconnect();
            self.state.metrics.duration(self.route, self.started.elapsed());
        }
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    tracing::error!(panic = panic_message(panic.as_ref()), "a handler panicked");
    ApiError::internal().into_response()
}
