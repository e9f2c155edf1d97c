//! Requests that are passed through.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Response};
use prompt_r1::large_model::{ForwardBody, ForwardRequest, Waiting};

use super::*;

fn request(path: &str, headers: &[(&'static str, &str)]) -> ForwardRequest {
    ForwardRequest {
        method: Method::POST,
        path: path.to_owned(),
        headers: headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect(),
        body: Bytes::from_static(b"{\"unheard\": of}"),
        model: String::new(),
        is_metered: false,
        caller: 0,
        deadline: None,
        waiting: Waiting::default(),
    }
}

async fn body(response: Response<ForwardBody>) -> Result<Vec<u8>, LargeModelError> {
    let pieces: Vec<Bytes> = response.into_body().try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn forwarding_removes_only_hop_by_hop_headers_and_credentials() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({"api_key_env": "TEST_KEY"}));
    let script = Script::bytes(206, "application/weird", b"\x00\xff body".to_vec());
    server.then(
        script
            .header("x-request-id", "r1")
            .header("x-new", "1")
            .header("x-new", "2")
            .header("set-cookie", "a=b")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1"),
    );
    let asked = request(
        "/embeddings?a=b%20c&d",
        &[
            ("content-type", "application/json"),
            ("openai-beta", "x"),
            ("authorization", "Bearer theirs"),
            ("cookie", "c"),
            ("x-api-key", "theirs"),
            ("connection", "x-drop"),
            ("x-drop", "1"),
            ("te", "trailers"),
            ("host", "elsewhere"),
            ("content-length", "999"),
        ],
    );
    let response = endpoint.forward(asked).await.unwrap();
    assert_eq!(response.status(), 206);
    let mut names: Vec<_> = response.headers().iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "x-new", "x-new", "x-request-id"]);
    assert_eq!(body(response).await.unwrap(), b"\x00\xff body");
    assert_eq!(outcomes.take(), [AttemptOutcome::Success]);
    let arrived = server.last();
    assert_eq!((&*arrived.method, &*arrived.path), ("POST", "/v1/embeddings?a=b%20c&d"));
    assert_eq!(arrived.body, b"{\"unheard\": of}");
    let mut names: Vec<_> = arrived.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "openai-beta",
        "user-agent",
    ];
    assert_eq!(names, expected);
    assert_eq!(arrived.header("authorization"), Some(&*format!("Bearer {SECRET}")));
    assert_eq!(arrived.header("content-length"), Some("15"));
}

#[tokio::test]
async fn the_callers_key_where_there_is_no_other() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let asked = request("/models", &[("authorization", "Bearer theirs")]);
    endpoint
        .forward(ForwardRequest { method: Method::GET, body: Bytes::new(), ..asked })
        .await
        .unwrap();
    let arrived = server.last();
    assert_eq!((&*arrived.method, arrived.header("authorization")), ("GET", Some("Bearer theirs")));
}

#[tokio::test]
async fn pieces_come_as_they_arrive() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({}));
    server.then(Script::events(["first", "second"]).cut(13, Cut::Stall));
    let response = endpoint.forward(request("/chat/completions", &[])).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(!response.headers().contains_key("transfer-encoding"));
    let mut pieces = response.into_body();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "data: first\n\n");
    assert_eq!(server.disconnects(), 0);
    drop(pieces);
    server.wait_for_disconnects(1).await;
    assert_eq!(outcomes.take(), [AttemptOutcome::Cancelled]);
}

#[tokio::test]
async fn errors_are_repeated_and_then_handed_back() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({"retries": {"max": 1, "base_ms": 1}}));
    server.then(Script::error(503, "busy")).then(Script::bytes(200, "text/plain", "fine"));
    let response = endpoint.forward(request("/x", &[])).await.unwrap();
    assert_eq!((response.status().as_u16(), body(response).await.unwrap()), (200, b"fine".into()));
    server
        .then(Script::error(503, "busy"))
        .then(Script::bytes(429, "text/plain", "later").header("retry-after", "9"));
    let response = endpoint.forward(request("/x", &[])).await.unwrap();
    assert_eq!(response.headers()["retry-after"], "9");
    assert_eq!((response.status().as_u16(), body(response).await.unwrap()), (429, b"later".into()));
    server.then(Script::bytes(404, "text/plain", "no"));
    let response = endpoint.forward(request("/x", &[])).await.unwrap();
    assert_eq!((response.status().as_u16(), body(response).await.unwrap()), (404, b"no".into()));
    use AttemptOutcome::{Status, Success};
    let expected = [Status(503), Success, Status(503), Status(429), Status(404)];
    assert_eq!(outcomes.take(), expected);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
    for status in [300, 301, 302, 307, 308] {
        server.then(Script::bytes(status, "", "").header("location", "http://127.0.0.1:1/"));
        let error = endpoint.forward(request("/x", &[])).await.err().unwrap();
        assert!(error.to_string().contains("a redirect, which is not followed"), "{error}");
    }
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_not_asked_again() {
    let quota = json!({"error": {"message": "pay first", "type": "insufficient_quota"}});
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
    server.then(Script::json(429, quota.clone()));
    let response = endpoint.forward(request("/x", &[])).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(body(response).await.unwrap(), quota.to_string().into_bytes());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let limits = json!({"timeouts": {"idle_ms": 50}, "retries": {"max": 3, "base_ms": 1}});
    for cut in [Cut::Close, Cut::Reset, Cut::Stall] {
        let server = Loopback::start().await;
        let (endpoint, outcomes) = client(&server.url(), limits.clone());
        server.then(Script::events(["first", "second"]).cut(13, cut));
        let response = endpoint.forward(request("/x", &[])).await.unwrap();
        let mut pieces = response.into_body();
        assert_eq!(pieces.next().await.unwrap().unwrap(), "data: first\n\n", "{cut:?}");
        let error = pieces.next().await.unwrap().unwrap_err();
        assert!(pieces.next().await.is_none(), "{cut:?}");
        assert_eq!(outcomes.take(), [AttemptOutcome::from(&error)], "{cut:?}");
        assert_eq!(server.requests().len(), 1, "{cut:?}");
    }
}

#[tokio::test]
async fn paths_stay_below_the_url() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    for path in [
        "",
        "x",
        "/../admin",
        "/%2e%2e/admin",
        "/a/../../admin",
        "/x/../y",
        "/..\\admin",
        "@elsewhere/",
        ".elsewhere/",
    ] {
        let error = endpoint.forward(request(path, &[])).await.err().unwrap();
        assert!(matches!(error, LargeModelError::Rejected { .. }), "{path}: {error}");
    }
    assert!(server.requests().is_empty());
    endpoint.forward(request("/x/y?z=/../w", &[])).await.unwrap();
    assert_eq!(server.last().path, "/v1/x/y?z=/../w");
}

#[tokio::test]
async fn no_server_is_there() {
    let (endpoint, _) = client("http://127.0.0.1:1/v1", json!({}));
    let error = endpoint.forward(request("/x", &[])).await.err().unwrap();
    assert!(matches!(error, LargeModelError::Unreachable { .. }), "{error}");
    let headers = HeaderMap::new();
    let hasty = ForwardRequest { headers, deadline: in_ms(0), ..request("/x", &[]) };
    let server = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let error = endpoint.forward(hasty).await.err().unwrap();
    assert!(matches!(error, LargeModelError::Deadline { .. }), "{error}");
}
