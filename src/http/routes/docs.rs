//! `GET /openapi.json`, its page at `/docs`, and the key in it.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::Modify;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::http::state::AppHandle;

/// The key of a caller in an OpenAPI document. It is optional there: a server may have no keys.
pub(in crate::http) struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        const NAME: &str = "bearer";
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A key of the server, if it needs one"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(NAME, SecurityScheme::Http(scheme));
        let key = SecurityRequirement::new(NAME, Vec::<String>::new());
        document.security = Some(vec![SecurityRequirement::default(), key]);
    }
}

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
