//! Liveness and readiness.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::future::join_all;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::state::AppState;

/// The state of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Health {
    /// `ready`, `not_ready` or `alive`.
    #[schema(example = "ready")]
    status: &'static str,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "operation",
    responses((status = 200, description = "The process answers", body = Health)))]
pub(in crate::http) async fn livez() -> Json<Health> {
    Json(Health { status: "alive" })
}

/// Whether every policy is loaded and ready.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "Every policy is ready", body = Health),
    (status = 503, description = "A policy is not ready", body = Health)))]
pub(in crate::http) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let policies = state.serving.policies().map(|served| served.policy.is_ready());
    if join_all(policies).await.into_iter().all(|is_ready| is_ready) {
        (StatusCode::OK, Json(Health { status: "ready" }))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "not_ready" }))
    }
}

/// The same as `/readyz`.
#[utoipa::path(get, path = "/health", tag = "operation", responses(
    (status = 200, description = "Every policy is ready", body = Health),
    (status = 503, description = "A policy is not ready", body = Health)))]
pub(in crate::http) async fn health(state: State<AppState>) -> (StatusCode, Json<Health>) {
    readyz(state).await
}
