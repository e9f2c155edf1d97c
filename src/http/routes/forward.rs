//! Requests for models that are not ours: handed on as they are.

use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;

use crate::http::body::RawBody;
use crate::http::caller::Caller;
use crate::http::error::ApiError;
use crate::http::model_name::{LOOP, is_loop, model_of};
use crate::http::proxy::{Passed, hand_on};
use crate::http::state::AppState;
use crate::http::wire::{ErrorBody, PassedRequest};

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
    let model = model_of(&body, &caller)?;
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
