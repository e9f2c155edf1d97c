//! The HTTP server: OpenAI's endpoints with the loop behind them, and the loop's own.

use std::future::{Future, IntoFuture};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod admission;
mod body;
mod chat_stream;
mod config;
mod error;
mod job;
mod metrics;
mod middleware;
mod pass;
mod routes;
mod sse;
mod state;
mod trim;
mod wire;

pub use config::ServerConfig;
pub use metrics::Metrics;
pub use state::{App, AppState, Clock, Ids};

use error::ApiError;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prompt-R1",
        description = "A small policy model thinks, prompts a large language model, reads its replies and answers."
    ),
    tags(
        (name = "solve", description = "The loop, with all that happens in it"),
        (name = "openai", description = "What OpenAI's clients speak"),
        (name = "operation", description = "For whoever runs the server"),
    )
)]
struct Document;

/// Every route.
pub fn router(state: AppState) -> Router {
    let (router, _) = documented().split_for_parts();
    let router = router.merge(routes::docs::page());
    let router = router.method_not_allowed_fallback(wrong_method).fallback(unknown_route);
    middleware::wrap(router, &state).with_state(state)
}

/// The routes that the OpenAPI document describes.
fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(routes::solve::solve))
        .routes(routes!(routes::chat::chat))
        .routes(routes!(routes::models::list))
        .routes(routes!(routes::models::get))
        .route("/v1/models/{owner}/{*model}", get(routes::models::get_owned))
        .routes(routes!(routes::forward::embeddings))
        .routes(routes!(routes::forward::completions))
        .routes(routes!(routes::forward::responses))
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

async fn unknown_route(uri: Uri) -> ApiError {
    let path = uri.path();
    let message = format!("there is nothing at `{path}`\nhint: `/docs` lists what there is");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("`{}` cannot be asked by `{method}`", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

/// Serves until `shutdown`, then takes no more connections, lets requests in flight finish, and
/// returns when they have or when `grace` is over.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot turn off the delay of small packets");
        }
    });
    let (began, begins) = oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        let _ = began.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown).into_future();
    tokio::pin!(serving);
    let is_over = async {
        // Without a sender the server has ended by itself.
        if begins.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        result = &mut serving => result,
        () = is_over => {
            tracing::warn!("the grace period is over; requests in flight are cut off");
            Ok(())
        }
    }
}
