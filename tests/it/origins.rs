//! Web pages as callers: what they may request, and which headers of endpoints they get.

use reqwest::Method;
use serde_json::{Value, json};

use crate::loopback::{Loopback, Script};
use crate::server::{Server, Setup};

/// Sends a request with these headers; returns its status and its headers with that prefix.
async fn send(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, Vec<(String, String)>, String) {
    let mut request = server.client.request(method.clone(), format!("{}{path}", server.url));
    if method == Method::POST {
        request = request.body(json!({"question": "q"}).to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let named = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let named = named.filter(|(name, _)| name.starts_with("access-control-")).collect();
    (status, named, response.text().await.unwrap())
}

const JSON: (&str, &str) = ("content-type", "application/json");
const PAGE: (&str, &str) = ("origin", "https://chat.example");

#[tokio::test]
async fn foreign_pages_do_not_ask_in_somebodys_name() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let own = server.url.as_str();
    type Row<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let cross = ("sec-fetch-site", "cross-site");
    let table: [Row<'_>; 12] = [
        (Method::GET, "/", &[cross, ("sec-fetch-dest", "document")], 200, ""),
        (Method::GET, "/", &[cross, ("sec-fetch-dest", "iframe")], 403, "origin_not_allowed"),
        (Method::GET, "/v1/models", &[cross, ("sec-fetch-dest", "document")], 403, "origin_not"),
        (Method::POST, "/v1/solve", &[JSON], 200, ""),
        (Method::POST, "/v1/solve", &[JSON, ("origin", own)], 200, ""),
        (Method::POST, "/v1/solve", &[JSON, PAGE], 403, "origin_not_allowed"),
        (Method::POST, "/v1/solve", &[JSON, ("origin", "null")], 403, "origin_not_allowed"),
        (
            Method::POST,
            "/v1/solve",
            &[JSON, ("sec-fetch-site", "cross-site")],
            403,
            "origin_not_allowed",
        ),
        (Method::POST, "/v1/solve", &[JSON, ("host", "rebound.example")], 403, "host_not_allowed"),
        (
            Method::POST,
            "/v1/solve",
            &[("content-type", "text/plain")],
            415,
            "unsupported_content_type",
        ),
        (Method::GET, "/metrics", &[("host", "rebound.example")], 403, "host_not_allowed"),
        (Method::GET, "/livez", &[("host", "rebound.example")], 200, ""),
    ];
    for (method, path, headers, status, code) in table {
        let (found, cors, body) = send(&server, method, path, headers).await;
        assert_eq!(found, status, "{path} {headers:?}: {body}");
        assert!(body.contains(code), "{headers:?}: {body}");
        assert!(cors.is_empty(), "{headers:?}: {cors:?}");
    }
    let preflight = [PAGE, ("access-control-request-method", "POST")];
    let (status, cors, _) = send(&server, Method::OPTIONS, "/v1/solve", &preflight).await;
    assert_eq!((status, cors.len()), (403, 0));
    assert_eq!(send(&server, Method::OPTIONS, "/v1/solve", &[]).await.0, 405);
}

#[tokio::test]
async fn pages_that_the_operator_names_may_ask() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server.allowed_origins = vec!["https://chat.example".to_owned()];
    let server = setup.start(&upstream).await;
    let preflight = [
        PAGE,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
        ("access-control-request-private-network", "true"),
    ];
    let (status, cors, _) = send(&server, Method::OPTIONS, "/v1/solve", &preflight).await;
    let value = |cors: &[(String, String)], name: &str| {
        let found = cors.iter().find(|(known, _)| known == &format!("access-control-{name}"));
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!(status, 204);
    assert_eq!(value(&cors, "allow-origin"), "https://chat.example");
    assert_eq!(value(&cors, "allow-headers"), "authorization,content-type");
    assert_eq!(value(&cors, "allow-private-network"), "true");
    assert!(value(&cors, "allow-methods").contains("POST"), "{cors:?}");
    let sent = [JSON, PAGE, ("sec-fetch-site", "cross-site")];
    let (status, cors, _) = send(&server, Method::POST, "/v1/solve", &sent).await;
    assert_eq!((status, value(&cors, "allow-origin").as_str()), (200, "https://chat.example"));
    assert!(value(&cors, "expose-headers").contains("x-request-id"), "{cors:?}");
    // So are errors, and passed-through responses.
    let (status, cors, _) = send(&server, Method::GET, "/nowhere", &[PAGE]).await;
    assert_eq!((status, value(&cors, "allow-origin").as_str()), (404, "https://chat.example"));
    let other = [JSON, ("origin", "https://other.example")];
    let (status, cors, _) = send(&server, Method::POST, "/v1/solve", &other).await;
    assert_eq!((status, cors.len()), (403, 0));
}

#[tokio::test]
async fn what_an_endpoint_says_to_browsers_does_not_pass() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    upstream.then(
        Script::bytes(200, "text/html", "<script>0</script>")
            .header("access-control-allow-origin", "*")
            .header("clear-site-data", "\"*\"")
            .header("location", "http://127.0.0.1:1/")
            .header("set-cookie", "a=1")
            .header("x-own", "1"),
    );
    let body = json!({"model": "model-1", "messages": []});
    let request = server
        .post("/v1/chat/completions", &body)
        .header("referer", "http://127.0.0.1/secret")
        .header("openai-organization", "org")
        .header("openai-project", "project")
        .header("sec-fetch-mode", "cors")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-goog-api-key", "key")
        .header("anthropic-beta", "x");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    for name in ["access-control-allow-origin", "clear-site-data", "location", "set-cookie"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(headers["x-own"], "1");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
    let up = upstream.last();
    for name in [
        "referer",
        "openai-organization",
        "openai-project",
        "sec-fetch-mode",
        "x-forwarded-for",
        "x-goog-api-key",
    ] {
        assert_eq!(up.header(name), None, "{name}");
    }
    assert_eq!(up.header("anthropic-beta"), Some("x"));
    for status in [301, 302, 307, 308] {
        let elsewhere =
            Script::bytes(status, "text/plain", "").header("location", "http://127.0.0.1:1/");
        upstream.then(elsewhere);
        let (found, error): (u16, Value) = server.json("/v1/chat/completions", body.clone()).await;
        assert_eq!(
            (found, &error["error"]["code"]),
            (502, &json!("large_model_error")),
            "{status}"
        );
    }
}
