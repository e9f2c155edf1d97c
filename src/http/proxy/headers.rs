//! Which headers of a passed-through request are sent to the endpoint, and which of its response
//! are returned. Headers of one connection are handled by the transport.

use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};

use crate::http::error::ApiError;

/// Headers about the caller from browsers and proxies, and those that select the billed account.
const NOT_FORWARDED: [HeaderName; 14] = [
    header::CONTENT_ENCODING,
    header::COOKIE,
    header::FORWARDED,
    header::ORIGIN,
    header::REFERER,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-goog-user-project"),
    HeaderName::from_static("x-openai-organization"),
    HeaderName::from_static("x-prompt-r1-policy"),
    HeaderName::from_static("x-real-ip"),
];
const NOT_FORWARDED_PREFIXES: [&str; 4] = ["access-control-", "sec-", "x-forwarded-", "proxy-"];

/// Headers from an endpoint to browsers, which would apply them to this server.
const NOT_RETURNED: [HeaderName; 17] = [
    header::ALT_SVC,
    header::CONTENT_LOCATION,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
    header::LINK,
    header::LOCATION,
    header::REFRESH,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::X_FRAME_OPTIONS,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("origin-trial"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("speculation-rules"),
];
const NOT_RETURNED_PREFIXES: [&str; 2] = ["access-control-", "cross-origin-"];

/// The content type of event streams.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// Removes what is not sent.
pub(super) fn to_endpoint(headers: &mut HeaderMap) {
    remove(headers, &NOT_FORWARDED, &NOT_FORWARDED_PREFIXES);
}

/// Removes what is not returned, and keeps browsers from executing the content.
pub(super) fn to_client(headers: &mut HeaderMap) {
    remove(headers, &NOT_RETURNED, &NOT_RETURNED_PREFIXES);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let is_data = ["application/json", EVENT_STREAM, "text/plain", "audio/"]
        .iter()
        .any(|known| has_content_type(headers, known));
    if !is_data {
        let policy = HeaderValue::from_static("default-src 'none'; sandbox");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Whether the content type begins like this, in any case.
pub(super) fn has_content_type(headers: &HeaderMap, known: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..known.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(known.as_bytes()))
}

/// Refuses statuses that would redirect the client or change the protocol.
///
/// # Errors
/// 502 for those.
pub(super) fn check_status(status: StatusCode) -> Result<(), ApiError> {
    if !status.is_informational() && !status.is_redirection() {
        return Ok(());
    }
    let message = reason!(
        "the large model's endpoint answered {}, which is not passed on", status.as_u16();
        hint: "its `url` may be wrong"
    );
    Err(ApiError::new(StatusCode::BAD_GATEWAY, "large_model_error", message))
}

fn remove(headers: &mut HeaderMap, names: &[HeaderName], prefixes: &[&str]) {
    let is_removed = |name: &&HeaderName| {
        names.contains(name) || prefixes.iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    let removed: Vec<HeaderName> = headers.keys().filter(is_removed).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}
