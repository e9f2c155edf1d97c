//! Requests for other models: passed through.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::http::error::{ApiError, shorten};
use crate::http::metrics::OTHER;
use crate::http::model_name::{LoopModel, check_length, model_of};
use crate::http::proxy::multipart::{boundary, model as model_in_form};
use crate::http::proxy::{self, Passed};
use crate::http::routes::by_model::ModelRequest;
use crate::http::routes::failures::ForwardFailures;
use crate::http::routes::names;
use crate::http::wire::{PassedRequest, SseEvent};
use crate::http::{is_web_socket, no_web_socket, unknown_route};

/// Passed through to the endpoint that serves the model.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = PassedRequest,
    responses(
    (status = 200, description = "What the endpoint answers", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    ForwardFailures))]
pub(in crate::http) async fn embeddings(request: ModelRequest) -> Result<Response, ApiError> {
    let model = model_of(&request.body, &request.caller)?.into_owned();
    pass("/v1/embeddings", request, &model).await
}

/// Passed through to the endpoint that serves the model.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = PassedRequest,
    responses(
    (status = 200, description = "What the endpoint answers", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    ForwardFailures))]
pub(in crate::http) async fn completions(request: ModelRequest) -> Result<Response, ApiError> {
    let model = model_of(&request.body, &request.caller)?.into_owned();
    pass("/v1/completions", request, &model).await
}

/// Resources of OpenAI's and Anthropic's APIs that are passed through, with any method but at the
/// paths of routes that are documented here. Those that administer an organisation are not among
/// them.
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
        // Endpoints may leave an empty segment out.
        && !path.split('/').any(str::is_empty)
        && !names().any(|name| name.strip_prefix("/v1/") == Some(path))
}

/// Any other path of OpenAI's API, with any method: passed through to the endpoint that serves the
/// model named in the body, otherwise to the default one.
pub(in crate::http) async fn other(request: ModelRequest) -> Result<Response, ApiError> {
    let ModelRequest { caller, uri, headers, body, .. } = &request;
    if !is_passed(uri.path()) {
        return Err(unknown_route(uri));
    }
    if is_web_socket(headers) {
        return Err(no_web_socket());
    }
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let form = boundary(headers);
    let model = match &form {
        _ if body.is_empty() => Cow::Borrowed(""),
        Some(boundary) => {
            let place = model_in_form(body, boundary);
            let model = place.map(|place| String::from_utf8_lossy(&body[place]));
            model.unwrap_or_default()
        }
        None if kind.starts_with(b"application/json") || kind.is_empty() => model_of(body, caller)?,
        None => Cow::Borrowed(""),
    };
    check_length(&model)?;
    caller.check(&model)?;
    let model = model.into_owned();
    pass(OTHER, request, &model).await
}

/// Passes a request on, unless its model is answered here.
async fn pass(
    route: &'static str,
    request: ModelRequest,
    model: &str,
) -> Result<Response, ApiError> {
    let ModelRequest { state, caller, method, uri, headers, body, started } = request;
    if LoopModel::of(&state.serving.large_models, model).is_some() {
        let routes = match LoopModel::parse(model) {
            Some(_) => "`/v1/chat/completions`, `/v1/responses`, `/v1/messages` and `/v1/solve`",
            // `/v1/solve` has no field `model`.
            None => "`/v1/chat/completions`, `/v1/responses` and `/v1/messages`",
        };
        let (model, path) = (shorten(model), shorten(uri.path()));
        let message = reason!("the model `{model}` is not at `{path}`"; hint: "it is at {routes}");
        let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        return Err(error.with_param("model"));
    }
    let passed = Passed { route, method, uri: &uri, headers, body: &body, started };
    proxy::forward(&state, &caller, model, passed).await
}
