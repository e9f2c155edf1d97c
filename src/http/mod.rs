//! The HTTP server: OpenAI's endpoints with the loop behind them, and the loop's own.

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod body;
mod body_memory;
mod caller;
mod config;
mod connection;
mod environment;
mod episode;
mod error;
mod item_memory;
mod json_schema;
mod metrics;
mod middleware;
mod model_name;
mod origin;
mod proxy;
mod routes;
mod runs;
mod serving;
mod sse;
mod state;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{Bounds, ReasoningField, ServerConfig, TlsConfig};
pub use connection::serve;
pub use connection::tls::{Tls, TlsError};
pub use environment::{EnvironmentApp, environment_openapi_json, environment_router};
pub use metrics::Metrics;
pub use runs::{runs_openapi_json, runs_router};
pub use serving::{Canary, Served, Serving};
pub use state::{App, AppHandle, Clock, Ids};

use crate::playground::FILES;
use error::{ApiError, shorten};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prompt-R1",
        description = "A small policy model thinks, prompts a large language model, reads its replies and answers."
    ),
    components(schemas(wire::ErrorBody, wire::messages::MessagesErrorBody)),
    tags(
        (name = "solve", description = "The loop, with all that happens in it"),
        (name = "openai", description = "What OpenAI's clients speak"),
        (name = "anthropic", description = "What Anthropic's clients speak"),
        (name = "operation", description = "For whoever runs the server"),
    )
)]
struct Document;

/// Every route.
pub fn router(handle: AppHandle) -> Router {
    let (router, _) = documented().split_for_parts();
    let mut router = router.merge(routes::docs::page());
    if handle.state().server.ui {
        router = router.merge(routes::playground::files(FILES));
    }
    let router = router.method_not_allowed_fallback(wrong_method);
    let router = router.fallback(async |uri: Uri| unknown_route(&uri));
    middleware::wrap(router, &handle).with_state(handle)
}

/// The routes that the OpenAPI document describes.
fn documented() -> OpenApiRouter<AppHandle> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(routes::solve::solve))
        .routes(routes!(routes::episodes::list))
        .routes(routes!(routes::episodes::get))
        .routes(routes!(routes::chat::chat))
        .routes(routes!(routes::models::list))
        .routes(routes!(routes::models::get))
        .route("/v1/models/{owner}/{*model}", get(routes::models::get_owned))
        .routes(routes!(routes::forward::embeddings))
        .routes(routes!(routes::forward::completions))
        .routes(routes!(routes::responses::responses))
        .routes(routes!(routes::messages::messages))
        .route("/v1/{*rest}", any(routes::forward::other))
        .routes(routes!(routes::health::livez))
        .routes(routes!(routes::health::readyz))
        .routes(routes!(routes::health::health))
        .routes(routes!(routes::metrics::metrics))
        .routes(routes!(routes::docs::openapi))
}

/// The OpenAPI document, indented JSON.
pub fn openapi_json() -> String {
    let (_, document) = documented().split_for_parts();
    document.to_pretty_json().unwrap_or_default()
}

fn unknown_route(uri: &Uri) -> ApiError {
    let path = uri.path();
    let shorter = path.trim_end_matches('/');
    let hint = if metrics::ROUTES.contains(&shorter) {
        format!("leave out the slash at the end: `{shorter}`")
    } else if metrics::ROUTES.contains(&&*format!("/v1{shorter}")) {
        "the base URL of clients ends with `/v1`".to_owned()
    } else {
        "`/docs` lists what there is".to_owned()
    };
    let message = format!("there is nothing at `{}`\nhint: {hint}", shorten(path));
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", message)
}

fn is_web_socket(headers: &HeaderMap) -> bool {
    let protocol = headers.get(header::UPGRADE);
    protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn no_web_socket() -> ApiError {
    let message = "there are no WebSockets here\nhint: ask by HTTP, with `stream` for events";
    ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
}

async fn wrong_method(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if is_web_socket(&headers) {
        return no_web_socket().into_response();
    }
    let message = format!("`{}` cannot be asked by `{method}`", shorten(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message).into_response()
}
