//! Requests for other models: passed through.

use std::borrow::Cow;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;

use crate::http::body::RawBody;
use crate::http::caller::Caller;
use crate::http::error::{ApiError, shorten};
use crate::http::metrics::{OTHER, ROUTES};
use crate::http::model_name::{LOOP, check_length, is_loop, model_of};
use crate::http::proxy::multipart::{boundary, model as model_in_form};
use crate::http::proxy::{Passed, hand_on};
use crate::http::routes::failures::ForwardFailures;
use crate::http::state::AppState;
use crate::http::wire::{PassedRequest, SseEvent};
use crate::http::{is_web_socket, no_web_socket, unknown_route};

/// Passed through to the endpoint that serves the model.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = PassedRequest,
    responses(
    (status = 200, description = "What the endpoint answers", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    ForwardFailures))]
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
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    ForwardFailures))]
pub(in crate::http) async fn completions(
    state: State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    route("/v1/completions", state, uri, caller, headers, body).await
}

/// Resources of OpenAI's and Anthropic's APIs that are passed through, with any method. Those that
/// administer an organisation are not among them.
const RESOURCES: [&str; 18] = [
    "assistants",
    "audio",
    "batches",
    "chat",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "images",
    "messages",
    "moderations",
    "realtime",
    "responses",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

/// Whether this path is passed through.
pub(in crate::http) fn is_passed(path: &str) -> bool {
    let Some(path) = path.strip_prefix("/v1/") else { return false };
    let resource = path.split('/').next().unwrap_or_default();
    RESOURCES.contains(&resource)
        && !path.ends_with('/')
        && !ROUTES.iter().any(|route| route.strip_prefix("/v1/") == Some(path))
}

/// Any other route of OpenAI's API, with any method: passed through to the endpoint that serves the
/// model named in the body, otherwise to the default one.
pub(in crate::http) async fn other(
    State(state): State<AppState>,
    method: Method,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    if !is_passed(uri.path()) {
        return Err(unknown_route(&uri));
    }
    if is_web_socket(&headers) {
        return Err(no_web_socket());
    }
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let form = boundary(&headers);
    let model = match &form {
        _ if body.is_empty() => Cow::Borrowed(""),
        Some(boundary) => {
            let place = model_in_form(&body, boundary);
            let model = place.map(|place| String::from_utf8_lossy(&body[place]));
            model.unwrap_or_default()
        }
        None if kind.starts_with(b"application/json") || kind.is_empty() => {
            model_of(&body, &caller)?
        }
        None => Cow::Borrowed(""),
    };
    check_length(&model)?;
    caller.check(&model)?;
    pass(
        &state,
        caller,
        &model,
        Passed { route: OTHER, method, uri: &uri, headers, body: &body, started },
    )
    .await
}

async fn route(
    route: &'static str,
    State(state): State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let model = model_of(&body, &caller)?;
    let method = Method::POST;
    let passed = Passed { route, method, uri: &uri, headers, body: &body, started };
    pass(&state, caller, &model, passed).await
}

/// Passes a request on, unless it is for the loop.
async fn pass(
    state: &AppState,
    caller: Caller,
    model: &str,
    passed: Passed<'_>,
) -> Result<Response, ApiError> {
    if is_loop(model) {
        let path = shorten(passed.uri.path());
        let message = format!(
            "the model `{LOOP}` is not at `{path}`\nhint: it is at `/v1/chat/completions`, `/v1/responses`, `/v1/messages` and `/v1/solve`"
        );
        let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        return Err(error.with_param("model"));
    }
    hand_on(state, &caller, model, passed).await
}
