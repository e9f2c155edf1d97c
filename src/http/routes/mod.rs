//! One file for each resource. [`documented`] lists their handlers; everything else that knows
//! routes, such as metrics, derives them from it.

mod by_model;
pub(super) mod chat;
pub(super) mod docs;
pub(super) mod episodes;
mod failures;
pub(super) mod forward;
pub(super) mod health;
pub(super) mod messages;
pub(super) mod metrics;
pub(super) mod models;
pub(super) mod playground;
pub(super) mod responses;
pub(super) mod solve;

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::routing::{any, get};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::docs::BearerKey;
use super::state::AppHandle;
use super::wire;
use crate::policy::Policy;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prompt-R1",
        description = "A small policy model thinks, prompts a large language model, reads its replies and answers."
    ),
    components(schemas(wire::ErrorBody, wire::messages::MessagesErrorBody)),
    modifiers(&BearerKey),
    tags(
        (name = "solve", description = "The loop, with every turn"),
        (name = "openai", description = "OpenAI's APIs"),
        (name = "anthropic", description = "Anthropic's APIs"),
        (name = "operation", description = "For operators"),
    )
)]
struct Document;

/// The routes that the OpenAPI document describes.
pub(super) fn documented() -> OpenApiRouter<AppHandle> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(solve::solve))
        .routes(routes!(episodes::list))
        .routes(routes!(episodes::get))
        .routes(routes!(chat::chat))
        .routes(routes!(models::list))
        .routes(routes!(models::get))
        .route("/v1/models/{owner}/{*model}", get(models::get_owned))
        .routes(routes!(forward::embeddings))
        .routes(routes!(forward::completions))
        .routes(routes!(responses::responses))
        .routes(routes!(messages::messages))
        .route("/v1/{*rest}", any(forward::other))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::health))
        .routes(routes!(metrics::metrics))
        .routes(routes!(docs::openapi))
}

/// A path of the APIs, by which metrics distinguish requests.
struct Route {
    path: &'static str,
    /// Whether the paths below it belong to it, such as `/v1/models/{model}`.
    has_items: bool,
}

/// Those of [`documented`].
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let (_, document) = documented().split_for_parts();
    let paths: Vec<String> = document.paths.paths.into_keys().collect();
    let named = paths.iter().filter(|path| path.starts_with("/v1/") && !path.contains('{'));
    let named = named.map(|path| {
        let items = format!("{path}/{{");
        let has_items = paths.iter().any(|other| other.starts_with(&items));
        Route { path: path.clone().leak(), has_items }
    });
    named.collect()
});

/// The routes that metrics distinguish.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|named| named.path)
}

/// The name of a request's route in metrics, if it has one.
pub(super) fn name_of(path: &str) -> Option<&'static str> {
    let named = ROUTES.iter().find(|named| match path.strip_prefix(named.path) {
        Some(rest) => rest.is_empty() || (named.has_items && rest.starts_with('/')),
        None => false,
    });
    named.map(|named| named.path)
}

/// The header that names the policy of an episode.
pub(super) fn policy_header(policy: &dyn Policy) -> HeaderMap {
    let name = HeaderValue::from_str(policy.name()).ok();
    name.map(|name| (HeaderName::from_static("x-prompt-r1-policy"), name)).into_iter().collect()
}

/// The headers of a whole reply.
pub(super) fn episode_headers(policy: &dyn Policy, turns: usize, overhead: Duration) -> HeaderMap {
    let mut headers = policy_header(policy);
    headers.insert("x-prompt-r1-turns", HeaderValue::from(turns));
    let overhead = format!("{:.3}", overhead.as_secs_f64() * 1e3);
    if let Ok(overhead) = HeaderValue::from_str(&overhead) {
        headers.insert("x-prompt-r1-overhead-ms", overhead);
    }
    headers
}
