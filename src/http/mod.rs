//! The HTTP server: OpenAI's endpoints with the loop behind them, and the loop's own.

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

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
mod local;
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
#[cfg(all(test, feature = "mistralrs"))]
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

/// Every route.
pub fn router(handle: AppHandle) -> Router {
    let (router, _) = routes::documented().split_for_parts();
    let mut router = router.merge(routes::docs::page());
    if handle.state().server.ui {
        router = router.merge(routes::playground::files(FILES));
    }
    let router = router.method_not_allowed_fallback(wrong_method);
    let router = router.fallback(async |uri: Uri| unknown_route(&uri));
    middleware::wrap(router, &handle).with_state(handle)
}

/// The OpenAPI document, indented JSON.
pub fn openapi_json() -> String {
    let (_, document) = routes::documented().split_for_parts();
    document.to_pretty_json().unwrap_or_default()
}

fn unknown_route(uri: &Uri) -> ApiError {
    let path = uri.path();
    let shorter = path.trim_end_matches('/');
    let hint = if routes::names().any(|name| name == shorter) {
        format!("leave out the slash at the end: `{shorter}`")
    } else if routes::names().any(|name| name.strip_prefix("/v1") == Some(shorter)) {
        "the base URL of clients ends with `/v1`".to_owned()
    } else {
        "`/docs` lists what there is".to_owned()
    };
    let message = reason!("there is no route `{}`", shorten(path); hint: "{hint}");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", message)
}

fn is_web_socket(headers: &HeaderMap) -> bool {
    let protocol = headers.get(header::UPGRADE);
    protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn no_web_socket() -> ApiError {
    let message = reason!(
        "there are no WebSockets here";
        hint: "ask by HTTP, with `stream` for events"
    );
    ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
}

async fn wrong_method(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if is_web_socket(&headers) {
        return no_web_socket().into_response();
    }
    let message = format!("`{}` does not allow the method `{method}`", shorten(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message).into_response()
}
