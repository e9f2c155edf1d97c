//! Requests for models that are not ours: handed on as they are.

use std::borrow::Cow;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use futures::StreamExt;
use serde::Deserialize;

use super::chat::{LOOP, is_loop, unknown_model};
use crate::episode::Tally;
use crate::http::body::{RawBody, parse};
use crate::http::caller::Caller;
use crate::http::error::ApiError;
use crate::http::meter::Meter;
use crate::http::pass;
use crate::http::sse;
use crate::http::state::AppState;
use crate::http::wire::{ErrorBody, PassedRequest};
use crate::large_model::{ForwardRequest, LargeModel};

/// Passed through to the endpoint that serves the model.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = PassedRequest,
    responses(
    (status = 200, description = "What the endpoint answers", content(
        (serde_json::Value = "application/json"), (String = "text/event-stream"))),
    (status = 400, description = "The body is no JSON object", body = ErrorBody),
    (status = 404, description = "No endpoint serves the model", body = ErrorBody),
    (status = 408, description = "The body was too slow", body = ErrorBody),
    (status = 413, description = "The body is too long", body = ErrorBody),
    (status = 502, description = "The endpoint cannot be reached", body = ErrorBody),
    (status = 503, description = "The endpoint failed too often of late", body = ErrorBody),
    (status = 504, description = "The endpoint was too slow", body = ErrorBody),
    (status = "default", description = "What else the endpoint answers")))]
pub(in crate::http) async fn embeddings(
    state: State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    route("/v1/embeddings", state, uri, caller, headers, body).await
}

/// Passed through to the endpoint that serves the model.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = PassedRequest,
    responses(
    (status = 200, description = "What the endpoint answers", content(
        (serde_json::Value = "application/json"), (String = "text/event-stream"))),
    (status = 400, description = "The body is no JSON object", body = ErrorBody),
    (status = 404, description = "No endpoint serves the model", body = ErrorBody),
    (status = 408, description = "The body was too slow", body = ErrorBody),
    (status = 413, description = "The body is too long", body = ErrorBody),
    (status = 502, description = "The endpoint cannot be reached", body = ErrorBody),
    (status = 503, description = "The endpoint failed too often of late", body = ErrorBody),
    (status = 504, description = "The endpoint was too slow", body = ErrorBody),
    (status = "default", description = "What else the endpoint answers")))]
pub(in crate::http) async fn completions(
    state: State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    route("/v1/completions", state, uri, caller, headers, body).await
}

/// Passed through to the endpoint that serves the model.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = PassedRequest,
    responses(
    (status = 200, description = "What the endpoint answers", content(
        (serde_json::Value = "application/json"), (String = "text/event-stream"))),
    (status = 400, description = "The body is no JSON object", body = ErrorBody),
    (status = 404, description = "No endpoint serves the model", body = ErrorBody),
    (status = 408, description = "The body was too slow", body = ErrorBody),
    (status = 413, description = "The body is too long", body = ErrorBody),
    (status = 502, description = "The endpoint cannot be reached", body = ErrorBody),
    (status = 503, description = "The endpoint failed too often of late", body = ErrorBody),
    (status = 504, description = "The endpoint was too slow", body = ErrorBody),
    (status = "default", description = "What else the endpoint answers")))]
pub(in crate::http) async fn responses(
    state: State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    route("/v1/responses", state, uri, caller, headers, body).await
}

async fn route(
    route: &'static str,
    State(state): State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let model = model_of(&body)?.unwrap_or_default();
    caller.check(&model)?;
    if is_loop(&model) {
        let message = format!(
            "the model `{LOOP}` is not at `{route}`\nhint: it is at `/v1/chat/completions` and `/v1/solve`"
        );
        let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        return Err(error.with_param("model"));
    }
    let passed = Passed { route, uri: &uri, headers, body: &body, started: Instant::now() };
    hand_on(&state, &caller, &model, passed).await
}

/// The model that a body of JSON names; nothing else of it is looked at.
pub(super) fn model_of(body: &[u8]) -> Result<Option<Cow<'_, str>>, ApiError> {
    #[derive(Deserialize)]
    struct Peek<'a> {
        #[serde(borrow, default)]
        model: Option<Cow<'a, str>>,
    }
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        model: Option<String>,
    }
    match serde_json::from_slice::<Peek<'_>>(body) {
        Ok(peek) if body.trim_ascii_start().starts_with(b"{") => Ok(peek.model),
        // Slower, but it says what is wrong.
        _ => parse::<Whole>(body).map(|whole| whole.model.map(Cow::Owned)),
    }
}

/// A request to hand on.
pub(super) struct Passed<'a> {
    pub(super) route: &'static str,
    pub(super) uri: &'a Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) started: Instant,
}

/// Hands a request on to the endpoint that serves `model`.
pub(super) async fn hand_on(
    state: &AppState,
    caller: &Caller,
    model: &str,
    passed: Passed<'_>,
) -> Result<Response, ApiError> {
    let Passed { route, uri, mut headers, body, started } = passed;
    let endpoint = state.serving.large_models.endpoint_for(model);
    let endpoint = endpoint.ok_or_else(|| unknown_model(model))?;
    let is_callers_key = !endpoint.has_key() && headers.contains_key(header::AUTHORIZATION);
    let path = uri.path_and_query().map_or(uri.path(), |whole| whole.as_str());
    let path = path.strip_prefix("/v1").unwrap_or(path).to_owned();
    let (method, body) = (Method::POST, body.clone());
    if caller.is_billed() || endpoint.has_key() {
        // What is compressed could not be counted, nor could the endpoint's key be found in it.
        headers.remove(header::ACCEPT_ENCODING);
    }
    // From now on, as the client may leave before there is a response.
    let meter = caller.is_billed().then(|| {
        let tally = Tally::default();
        let bill = caller.bill(&tally);
        Meter::new(endpoint.prices(), body.len(), tally, bill)
    });
    let request = ForwardRequest { method, path, headers, body, deadline: None };
    let asked = Instant::now();
    let response = endpoint.forward(request).await;
    let overhead = started.elapsed().saturating_sub(asked.elapsed());
    state.metrics.overhead(route, overhead);
    let is_success = response.as_ref().is_ok_and(|response| response.status().is_success());
    let meter = match meter {
        Some(meter) if !is_success => {
            meter.forget();
            None
        }
        meter => meter,
    };
    let response = response.map_err(|error| ApiError::of_large_model(&error, is_callers_key))?;
    let (parts, pieces) = response.into_parts();
    let is_events = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut pieces = pass::pieces(pieces, is_events, is_callers_key);
    if let Some(meter) = meter {
        pieces = meter.watch(pieces);
    }
    let mut response = if length == Some(0) {
        let _ = pieces.next().await;
        Response::default()
    } else {
        sse::watched(pieces, length, state, route, started)
    };
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    Ok(response)
}
