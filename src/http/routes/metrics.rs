//! `GET /metrics`, for Prometheus.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::http::state::AppState;
use crate::record::Recorder;

/// Metrics in Prometheus's text format.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "All series", body = String, content_type = "application/openmetrics-text")))]
pub(in crate::http) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, KIND)],
        state
            .metrics
            .render(state.recorder.as_ref().map(Recorder::counts), state.admission().counts()),
    )
}
