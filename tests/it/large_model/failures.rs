//! Every way in which an endpoint fails, and the error for it.

use super::*;

/// The one word for each kind of failure.
fn kind(error: &LargeModelError) -> &'static str {
    match error {
        LargeModelError::Unreachable { .. } => "unreachable",
        LargeModelError::Timeout { phase, .. } => phase.as_str(),
        LargeModelError::Deadline { .. } => "deadline",
        LargeModelError::Status { .. } => "status",
        LargeModelError::Malformed { .. } => "malformed",
        LargeModelError::CircuitOpen { .. } => "circuit open",
        LargeModelError::Local { .. } => "local",
        LargeModelError::Rejected { .. } => "rejected",
    }
}

async fn fail(script: Script, keys: Value, asked: Call) -> LargeModelError {
    let server = Loopback::answering(move |_| script.clone()).await;
    let (endpoint, _) = client(&server.url(), keys);
    endpoint.complete(&asked).await.unwrap_err()
}

#[tokio::test]
async fn invalid_replies_are_errors() {
    let nothing = json!({"choices": []});
    let inside = json!({"error": {"message": "no capacity", "code": 503}});
    let table = [
        ("malformed", "HTML", Script::bytes(200, "text/html", "<html>Sign in</html>")),
        ("malformed", "HTML", Script::bytes(200, "application/json", "<html>Sign in</html>")),
        ("malformed", "not valid JSON", Script::bytes(200, "application/json", "{\"choices\": [")),
        ("malformed", "no message", Script::events(["{}"])),
        ("malformed", "is empty", Script::bytes(200, "application/json", "")),
        ("malformed", "no choices", Script::json(200, nothing)),
        ("status", "answered 503: no capacity", Script::json(200, inside)),
        (
            "status",
            "answered 500: <h1>Oh no</h1>",
            Script::bytes(500, "text/html", "<h1>Oh\nno</h1>"),
        ),
        ("status", "answered 500: no message", Script::bytes(500, "text/html", "")),
        (
            "status",
            "a redirect, which is not followed",
            Script::bytes(302, "text/html", "").header("location", "http://127.0.0.1:1/"),
        ),
        ("unreachable", "cannot reach", Script::reply("cut").cut(10, Cut::Close)),
        ("unreachable", "cannot reach", Script::reply("cut").cut(10, Cut::Reset)),
        ("unreachable", "cannot reach", Script::nothing(Cut::Close)),
        ("unreachable", "cannot reach", Script::nothing(Cut::Reset)),
    ];
    for (expected, words, script) in table {
        let error = fail(script.clone(), json!({}), call("hi")).await;
        assert_eq!(kind(&error), expected, "{script:?}: {error}");
        assert!(error.explained().contains(words), "{script:?}: {error}");
    }
}

#[tokio::test]
async fn a_content_type_that_is_wrong_does_no_harm() {
    let body = crate::loopback::completion(&json!({"content": "fine"}), "stop").to_string();
    let server = Loopback::start().await;
    server.then(Script::bytes(200, "text/plain", body.clone())).then(Script::bytes(201, "?", body));
    let (endpoint, _) = client(&server.url(), json!({}));
    for _ in 0..2 {
        assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "fine");
    }
}

#[tokio::test]
async fn replies_without_end() {
    let limit = json!({"max_reply_bytes": 100_000});
    for script in [
        Script::endless("application/json", &" ".repeat(1_000)),
        Script::endless("application/json", &"[".repeat(1_000)),
        Script::bytes(200, "application/json", vec![b' '; 100_001]),
    ] {
        let error = fail(script, limit.clone(), call("hi")).await;
        assert_eq!(kind(&error), "malformed", "{error}");
        assert!(error.to_string().contains("longer than 100000 bytes"), "{error}");
    }
    // An error stays an error, however long its body is.
    let mut endless = Script::endless("text/html", &"x".repeat(1_000));
    endless = endless.with_status(500);
    let error = fail(endless, limit, call("hi")).await;
    assert_eq!(kind(&error), "status");
    assert!(error.to_string().len() < 300, "{error}");
}

#[tokio::test]
async fn endpoints_that_are_slow() {
    let limits = |first_byte: u64, idle: u64, total: u64| json!({"timeouts": {"first_byte_ms": first_byte, "idle_ms": idle, "total_ms": total}});
    const LONG: u64 = 60_000;
    let soon = |ms| Call { deadline: in_ms(ms), ..call("hi") };
    let late = Call { deadline: in_ms(LONG), ..call("hi") };
    let stall = || Script::nothing(Cut::Stall);
    let within = || Script::reply("stalls within").cut(10, Cut::Stall);
    let drip = || Script::reply("drips").drip(Duration::from_millis(5));
    let busy = || Script::error(500, "busy").cut(10, Cut::Stall);
    let table = [
        ("first byte", stall(), limits(50, LONG, LONG), call("hi")),
        ("first byte", stall(), limits(50, LONG, LONG), late),
        ("next byte", within(), limits(LONG, 50, LONG), call("hi")),
        ("first byte", stall(), limits(LONG, LONG, 50), call("hi")),
        ("deadline", stall(), limits(LONG, LONG, LONG), soon(50)),
        ("deadline", within(), limits(LONG, LONG, LONG), soon(50)),
        ("deadline", drip(), limits(LONG, LONG, LONG), soon(100)),
        ("deadline", stall(), limits(LONG, LONG, LONG), soon(0)),
        ("status", busy(), limits(LONG, 50, LONG), call("hi")),
    ];
    for (expected, script, keys, asked) in table {
        let error = fail(script.clone(), keys, asked).await;
        assert_eq!(kind(&error), expected, "{script:?}: {error}");
    }
}

#[tokio::test]
async fn a_reply_that_makes_progress_does_not_time_out() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"timeouts": {"idle_ms": 1_000}}));
    server.then(
        Script::reply("slow").after(Duration::from_millis(20)).drip(Duration::from_millis(1)),
    );
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "slow");
    // A reply that makes progress has no other limit.
    let limits = json!({"timeouts": {"idle_ms": 1_000, "first_byte_ms": 100, "total_ms": 100}});
    let (endpoint, _) = client(&server.url(), limits);
    server.then(Script::reply("slow").drip(Duration::from_millis(2)));
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "slow");
}

#[tokio::test]
async fn what_may_have_been_billed_is_not_asked_again() {
    let limits = json!({"timeouts": {"first_byte_ms": 500, "idle_ms": 500},
                        "retries": {"max": 3, "base_ms": 1}, "breaker": {"failures": 0}});
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), limits);
    let gone = json!({"message": "gone", "code": 503});
    let part = json!({"choices": [{"message": {"content": "part"}, "error": gone}]});
    let used = json!({"choices": [], "error": gone, "usage": {"completion_tokens": 9000}});
    let table = [
        // On a new connection; an idle one may have been closed before the request.
        ("unreachable", Script::nothing(Cut::Close)),
        ("unreachable", Script::nothing(Cut::Reset)),
        ("first byte", Script::nothing(Cut::Stall)),
        ("next byte", Script::reply("stalls").cut(10, Cut::Stall)),
        ("unreachable", Script::reply("cut").cut(10, Cut::Close)),
        ("malformed", Script::bytes(200, "application/json", "{\"choices\": [")),
        ("status", Script::error(504, "a gateway gave up")),
        ("status", Script::error(524, "another one")),
        ("status", Script::json(200, part)),
        ("status", Script::json(200, used)),
    ];
    for (number, (expected, script)) in table.into_iter().enumerate() {
        server.then(script);
        let error = endpoint.complete(&call("hi")).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
        assert!(error.may_be_billed(), "{error}");
        assert_eq!(outcomes.take().len(), 1, "{error}");
        assert_eq!(server.requests().len(), number + 1, "{error}");
    }
}

#[tokio::test]
async fn no_server_is_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let (endpoint, outcomes) = client(&url, json!({"retries": {"max": 1, "base_ms": 1}}));
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert_eq!(kind(&error), "unreachable");
    assert!(error.explained().ends_with(&format!("hint: check that `{url}` is right and up")));
    assert_eq!(outcomes.take(), [AttemptOutcome::Unreachable; 2]);
    let (endpoint, _) = client("http://host.invalid/v1", json!({}));
    assert_eq!(kind(&endpoint.complete(&call("hi")).await.unwrap_err()), "unreachable");
}

#[tokio::test]
async fn a_peer_that_does_not_finish_connecting() {
    // It never completes the TLS handshake.
    let server = Loopback::start().await;
    let url = server.url().replace("http:", "https:");
    let (endpoint, _) = client(&url, json!({"timeouts": {"connect_ms": 50}}));
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert_eq!(kind(&error), "connection", "{error}");
}

#[tokio::test]
async fn an_authorization_that_is_no_header() {
    let asked = Call { authorization: Some("Bearer a\nb".into()), ..call("hi") };
    let error = fail(Script::reply("ok"), json!({}), asked).await;
    assert_eq!(kind(&error), "rejected");
}
