//! `GET /`: the web page and its files.

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::playground::{File, STYLE, STYLE_LINK};

/// Nothing is loaded from elsewhere, no inline scripts run, no text becomes markup, and no other
/// page can frame this one. The page shows images that the user chooses (`blob:`).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; \
                      img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'; style-src 'self'";

/// The files of a page.
pub(in crate::http) fn files<S: Clone + Send + Sync + 'static>(
    files: &'static [File],
) -> Router<S> {
    let style = files.iter().find(|file| file.path == STYLE).map_or("", |file| file.content);
    files.iter().fold(Router::new(), |router, file| {
        let (content, policy) = served(file, style);
        let content_type = file.content_type;
        let respond = move || async move { response(content_type, content, policy) };
        router.route(file.path, get(respond))
    })
}

/// What is sent of a file, and its policy. A page has its style sheet within it, so that its first
/// paint waits for nothing else; the policy knows that sheet by its hash.
fn served(file: &'static File, style: &str) -> (Bytes, String) {
    let Some((before, after)) = file.content.split_once(STYLE_LINK) else {
        return (Bytes::from_static(file.content.as_bytes()), CONTENT_SECURITY_POLICY.to_owned());
    };
    let hash = BASE64_STANDARD.encode(Sha256::digest(style));
    let page = format!("{before}<style>{style}</style>{after}");
    (page.into(), format!("{CONTENT_SECURITY_POLICY} 'sha256-{hash}'"))
}

fn response(content_type: &'static str, content: Bytes, policy: String) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::X_FRAME_OPTIONS, "DENY".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        // A new binary has new files under the same names.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    (headers, content)
}
