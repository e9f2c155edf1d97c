//! Web pages as callers. While no key is needed, any page that a user visits could send requests in
//! their name: without a preflight, or through a host name that it resolves to this machine (DNS
//! rebinding). Both are refused. Pages that may send requests are listed in
//! `server.allowed_origins` (CORS).

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{self, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::config::ServerConfig;
use super::error::{ApiError, shorten};
use super::routes::forward::is_passed;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const REQUEST_PRIVATE: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// Content types that a page may send without a preflight.
const SIMPLE_TYPES: [&str; 3] = ["text/plain", "application/x-www-form-urlencoded", FORM];
/// The content type of file uploads.
const FORM: &str = "multipart/form-data";
/// Response headers that pages may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "retry-after, x-should-retry, x-request-id, x-prompt-r1-policy, x-prompt-r1-turns, x-prompt-r1-overhead-ms, openai-processing-ms, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens",
);
/// How long browsers may remember a preflight, seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ANY: &str = "*";

/// Refuses what a foreign page may have sent, if no key is needed.
///
/// # Errors
/// 403 for a foreign host name or origin, 415 for a content type that needs no preflight.
pub(super) fn check(server: &ServerConfig, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let authorities = authorities(request.uri(), headers);
    for authority in authorities.iter().flatten() {
        let is_known = authority.as_ref().is_some_and(|authority| is_own_host(server, authority));
        if !is_known {
            let message = reason!(
                "requests for this host name are refused while no key is needed";
                hint: "use an IP address or `localhost`, add the name to `server.hosts`, or create keys"
            );
            return Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message));
        }
    }
    if !is_allowed(server, headers) {
        let host = authorities.iter().flatten().flatten().next();
        let origin = headers.get(header::ORIGIN);
        let is_foreign = origin.is_some_and(|origin| !is_own_origin(origin, host));
        let is_cross = headers.get(FETCH_SITE).is_some_and(|site| site == "cross-site");
        if is_foreign || (is_cross && origin.is_none() && !is_navigation(request)) {
            let message = reason!(
                "requests from web pages of other origins are refused while no key is needed";
                hint: "name the origin in `server.allowed_origins`"
            );
            return Err(ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message));
        }
    }
    check_type(server, request)
}

/// Whether a user follows a link to the server's page. The linking page can neither read nor frame
/// it.
fn is_navigation(request: &Request) -> bool {
    request.method() == Method::GET
        && request.uri().path() == "/"
        && request.headers().get(FETCH_DEST).is_some_and(|dest| dest == "document")
}

fn check_type(server: &ServerConfig, request: &Request) -> Result<(), ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.filter(|_| request.method() == Method::POST);
    let Some(kind) = kind.and_then(|kind| kind.to_str().ok()) else { return Ok(()) };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_upload = kind.eq_ignore_ascii_case(FORM) && is_passed(request.uri().path());
    if is_upload && (is_of_program(request.headers()) || is_allowed(server, request.headers())) {
        return Ok(());
    }
    if SIMPLE_TYPES.iter().any(|simple| kind.eq_ignore_ascii_case(simple)) {
        let message = reason!(
            "the content type `{}` is refused while no key is needed", shorten(kind);
            hint: "send `content-type: application/json`"
        );
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ApiError::new(status, "unsupported_content_type", message));
    }
    Ok(())
}

/// Whether a program sent a request, or a page of this server: for others, browsers say so.
fn is_of_program(headers: &HeaderMap) -> bool {
    // A foreign `Origin` was refused before.
    headers.get(FETCH_SITE).is_none_or(|site| site == "same-origin" || site == "none")
}

/// The host names of a request: of its target and of its `Host` header, `None` for invalid ones.
fn authorities(uri: &Uri, headers: &HeaderMap) -> [Option<Option<Authority>>; 2] {
    let host = headers.get(header::HOST);
    [
        uri.authority().map(|authority| Some(authority.clone())),
        host.map(|host| Authority::try_from(host.as_bytes()).ok()),
    ]
}

fn is_own_host(server: &ServerConfig, authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok()
        || server.hosts.iter().any(|own| own == ANY || own.eq_ignore_ascii_case(host))
}

/// Whether a page of this server sent the request.
fn is_own_origin(origin: &HeaderValue, host: Option<&Authority>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let Some((origin, host)) = origin.as_ref().zip(host) else { return false };
    let default = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let is_same = |ours: &str, theirs: &str| ours.eq_ignore_ascii_case(theirs);
    origin.host().is_some_and(|theirs| is_same(host.host(), theirs))
        && origin.port_u16().unwrap_or(default) == host.port_u16().unwrap_or(default)
}

/// Whether the operator allows the origin of a request.
fn is_allowed(server: &ServerConfig, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    server
        .allowed_origins
        .iter()
        .any(|allowed| allowed == ANY || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
}

/// The answer to a preflight, which browsers send without a key.
pub(super) fn preflight(server: &ServerConfig, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let is_preflight = request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return None;
    }
    if !is_allowed(server, headers) {
        let message = reason!(
            "requests from web pages of this origin are refused";
            hint: "name the origin in `server.allowed_origins`"
        );
        let error = ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message);
        return Some(error.into_response());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answered = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, DELETE");
    answered.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answered.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    if headers.contains_key(REQUEST_PRIVATE) {
        answered.insert(ALLOW_PRIVATE, HeaderValue::from_static("true"));
    }
    answered.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    Some(response)
}

/// The origin to allow, if the operator lists it; read from the request for its response.
pub(super) fn allowed(server: &ServerConfig, headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ORIGIN).filter(|_| is_allowed(server, headers)).cloned()
}

/// Allows the page of a listed origin to read a response.
pub(super) fn expose(server: &ServerConfig, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    if server.allowed_origins.is_empty() {
        return;
    }
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::Body;

    use super::*;

    #[test]
    fn who_may_ask_without_a_key() {
        type Row<'a> = (&'a [(&'a str, &'a str)], u16);
        let own = "127.0.0.1:8080";
        let table: [Row<'_>; 24] = [
            (&[], 200),
            (&[("host", own)], 200),
            (&[("host", "[::1]:8080")], 200),
            (&[("host", "LOCALHOST")], 200),
            (&[("host", "localhost.")], 200),
            (&[("host", "server:80")], 200),
            (&[("host", "evil.example")], 403),
            (&[("host", "127.0.0.1.evil.example")], 403),
            (&[("host", "localhost.evil.example")], 403),
            (&[("host", "a b")], 403),
            (&[("host", own), ("origin", "http://127.0.0.1:8080")], 200),
            (&[("host", "localhost"), ("origin", "http://localhost:80")], 200),
            (&[("host", own), ("origin", "http://127.0.0.1:8081")], 403),
            (&[("host", own), ("origin", "https://evil.example")], 403),
            (&[("host", own), ("origin", "null")], 403),
            (&[("host", own), ("origin", "https://chat.example")], 200),
            (
                &[
                    ("host", own),
                    ("origin", "https://chat.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
                200,
            ),
            (&[("host", own), ("sec-fetch-site", "cross-site")], 403),
            (&[("host", own), ("sec-fetch-site", "same-origin")], 200),
            (&[("host", own), ("content-type", "text/plain")], 415),
            (&[("host", own), ("content-type", "Text/Plain; charset=utf-8")], 415),
            (&[("host", own), ("content-type", "application/x-www-form-urlencoded")], 415),
            (&[("host", own), ("content-type", "multipart/form-data; boundary=x")], 415),
            (&[("host", own), ("content-type", "application/json")], 200),
        ];
        let server = ServerConfig {
            hosts: vec!["server".to_owned()],
            allowed_origins: vec!["https://chat.example".to_owned()],
            ..ServerConfig::default()
        };
        for (headers, status) in table {
            let mut request = Request::post("/v1/solve");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            let found =
                check(&server, &request).map_or_else(|error| error.status.as_u16(), |()| 200);
            assert_eq!(found, status, "{headers:?}");
        }
        let form = "multipart/form-data; boundary=x";
        type Headers = &'static [(&'static str, &'static str)];
        let table: [(&str, Headers, u16); 6] = [
            ("/v1/audio/transcriptions", &[], 200),
            ("/v1/files", &[("sec-fetch-site", "same-origin")], 200),
            ("/v1/files", &[("sec-fetch-site", "same-site")], 415),
            ("/v1/files", &[("sec-fetch-site", "cross-site")], 403),
            ("/v1/files", &[("origin", "https://evil.example")], 403),
            ("/v1/responses", &[], 415),
        ];
        for (path, headers, status) in table {
            let mut request = Request::post(path).header("host", own).header("content-type", form);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            let found =
                check(&server, &request).map_or_else(|error| error.status.as_u16(), |()| 200);
            assert_eq!(found, status, "{path} {headers:?}");
        }
        let by_target = Request::get("http://evil.example/v1/models").body(Body::empty()).unwrap();
        assert!(check(&server, &by_target).is_err());
    }
}
