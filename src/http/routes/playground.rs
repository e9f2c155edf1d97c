//! `GET /`: the page for people, and the files that it is made of.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::http::state::AppHandle;
use crate::playground::{FILES, File};

/// Nothing is loaded from elsewhere, nothing inline is run, no text becomes markup, and no other
/// page can show this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The page and its files.
pub(in crate::http) fn pages() -> Router<AppHandle> {
    FILES.iter().fold(Router::new(), |router, file| {
        router.route(file.path, get(move || async move { response(file) }))
    })
}

fn response(file: &'static File) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, file.content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A new binary brings new files under the same names.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, file.content)
}
