//! `GET /openapi.json`, and its page at `/docs`.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::http::state::AppHandle;

/// The page.
pub(in crate::http) fn page() -> Router<AppHandle> {
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    Router::from(page)
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operation", responses(
    (status = 200, description = "The OpenAPI document", body = serde_json::Value)))]
pub(in crate::http) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], crate::http::openapi_json())
}
