//! `GET /`: the web page and its files.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::playground::File;

/// Nothing is loaded from elsewhere, no inline scripts run, no text becomes markup, and no other
/// page can frame this one. The page shows images that the user chooses (`blob:`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The files of a page.
pub(in crate::http) fn files<S: Clone + Send + Sync + 'static>(
    files: &'static [File],
) -> Router<S> {
    files.iter().fold(Router::new(), |router, file| {
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
        // A new binary has new files under the same names.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, file.content)
}
