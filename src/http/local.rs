//! Small servers: the common parts of `server env` and `server runs`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;

use super::config::ServerConfig;
use super::error::{ApiError, shorten};
use super::origin;

/// The documented `routes` and their OpenAPI document, beside the undocumented `pages`. With
/// `open`, the configuration of a server without keys, requests of foreign web pages are refused.
pub(super) fn router<S: Clone + Send + Sync + 'static>(
    routes: OpenApiRouter<S>,
    pages: Router<S>,
    state: S,
    open: Option<&ServerConfig>,
) -> Router {
    let (router, document) = routes.split_for_parts();
    let document = document.to_pretty_json().unwrap_or_default();
    let document = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    let router = router
        .route("/openapi.json", get(document))
        .merge(pages)
        .fallback(async |uri: Uri| unknown(&uri));
    let router = match open {
        Some(server) => router.layer(from_fn_with_state(Arc::new(server.clone()), guard)),
        None => router,
    };
    router.with_state(state)
}

/// The OpenAPI document of `routes`, indented JSON.
pub(super) fn openapi_json<S: Clone + Send + Sync + 'static>(routes: OpenApiRouter<S>) -> String {
    routes.split_for_parts().1.to_pretty_json().unwrap_or_default()
}

/// Refuses what a foreign page may have sent.
async fn guard(State(server): State<Arc<ServerConfig>>, request: Request, next: Next) -> Response {
    if let Some(answer) = origin::preflight(&server, &request) {
        return answer;
    }
    match origin::check(&server, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn unknown(uri: &Uri) -> ApiError {
    let path = shorten(uri.path());
    let message = reason!(
        "there is no route `{path}`";
        hint: "`/openapi.json` lists all routes"
    );
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", message)
}
