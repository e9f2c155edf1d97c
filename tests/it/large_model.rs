//! The client of OpenAI-compatible endpoints, over real sockets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prompt_r1::chat::ChatMessage;
use prompt_r1::hint::Hint;
use prompt_r1::large_model::{
    AttemptObserver, AttemptOutcome, Call, Endpoint, EndpointSetup, LargeModel, LargeModelConfig,
    LargeModelError, LargeModels,
};
use serde_json::{Value, json};

use crate::loopback::{Cut, Gate, Loopback, Script, net};

mod endings;
mod failures;
mod forwarding;
mod odd;
mod over;
mod pace;
mod refusals;
mod secrets;
mod streams;

/// Outcomes in the order in which attempts ended.
#[derive(Default)]
struct Outcomes(Mutex<Vec<AttemptOutcome>>);

impl AttemptObserver for Outcomes {
    fn attempt(&self, model: &str, outcome: AttemptOutcome, _elapsed: Duration) {
        assert_eq!(model, "test");
        self.0.lock().unwrap().push(outcome);
    }
}

impl Outcomes {
    fn take(&self) -> Vec<AttemptOutcome> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A client with these keys of its configuration besides the URL and the model; waits between
/// attempts are short.
fn client(url: &str, keys: Value) -> (Endpoint, Arc<Outcomes>) {
    let mut config = json!({
        "url": url, "model": "model-1", "retries": {"max": 0, "base_ms": 1},
    });
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    if let Some(ca) = net::ca() {
        config["ca"] = json!(ca);
    }
    let config: LargeModelConfig = serde_json::from_value(config).unwrap();
    let outcomes = Arc::new(Outcomes::default());
    let keys = |name: &str| (name == "TEST_KEY").then(|| SECRET.into());
    let setup = EndpointSetup { keys: &keys, observer: outcomes.clone(), seed: 1 };
    (Endpoint::new("test", &config, &setup).unwrap(), outcomes)
}

/// The value of the environment variable `TEST_KEY`.
const SECRET: &str = "sk-planted-0123456789abcdef";

fn call(text: &str) -> Call {
    Call { messages: vec![ChatMessage::text("user", text)], ..Call::default() }
}

fn in_ms(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

#[tokio::test]
async fn a_call_and_its_reply() {
    let server = Loopback::answering(|request| Script::reply(&request.prompt())).await;
    let keys = json!({"api_key_env": "TEST_KEY",
                      "params": {"temperature": 0.5, "max_tokens": 9, "stream_options": {}}});
    let (endpoint, outcomes) = client(&server.url(), keys);
    let mut asked = call("hi");
    asked.params =
        json!({"temperature": 1, "stream": true, "new": [1]}).as_object().unwrap().clone();
    let reply = endpoint.complete(&asked).await.unwrap();
    assert_eq!(reply.message, ChatMessage::text("assistant", "hi"));
    assert_eq!((reply.usage.prompt_tokens, reply.usage.completion_tokens), crate::loopback::USAGE);
    assert_eq!(outcomes.take(), [AttemptOutcome::Success]);
    let request = server.last();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {SECRET}")));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.json(),
        json!({"messages": [{"role": "user", "content": "hi"}], "model": "model-1",
               "temperature": 1, "max_tokens": 9, "new": [1]})
    );
}

#[tokio::test]
async fn a_call_may_ask_for_another_model_of_the_endpoint() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let mut asked = call("hi");
    asked.params.insert("model".into(), json!("model-2"));
    endpoint.complete(&asked).await.unwrap();
    assert_eq!(server.last().json()["model"], json!("model-2"));
}

#[tokio::test]
async fn whose_key_is_sent() {
    let server = Loopback::start().await;
    let table = [
        (json!({"api_key_env": "TEST_KEY"}), Some("Bearer theirs"), Some(SECRET)),
        (json!({"api_key_env": ""}), Some("Bearer theirs"), Some("theirs")),
        (json!({}), Some("Bearer theirs"), Some("theirs")),
        (json!({}), None, None),
    ];
    for (keys, callers, sent) in table {
        let (endpoint, _) = client(&server.url(), keys.clone());
        let asked = Call { authorization: callers.map(Into::into), ..call("hi") };
        endpoint.complete(&asked).await.unwrap();
        let sent = sent.map(|key| format!("Bearer {key}"));
        assert_eq!(server.last().header("authorization"), sent.as_deref(), "{keys}");
    }
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    for _ in 0..5 {
        endpoint.complete(&call("hi")).await.unwrap();
    }
    assert_eq!((server.requests().len(), server.connections()), (5, 1));
}

#[test]
fn plain_http_needs_no_root_certificates() {
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this)
        .args(["--exact", "large_model::a_call_and_its_reply"])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
}

#[tokio::test]
async fn a_slash_at_the_end_of_the_url_changes_nothing() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&format!("{}/", server.url()), json!({}));
    endpoint.complete(&call("hi")).await.unwrap();
    assert_eq!(server.last().path, "/v1/chat/completions");
    let root = server.url().replace("/v1", "");
    let (endpoint, _) = client(&root, json!({}));
    endpoint.complete(&call("hi")).await.unwrap();
    assert_eq!(server.last().path, "/chat/completions");
}

#[tokio::test]
async fn failed_attempts_are_repeated() {
    use AttemptOutcome::{Status, Success};
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({"retries": {"max": 9, "base_ms": 1}}));
    for script in [
        Script::error(500, "a"),
        Script::error(429, "b").header("retry-after", "0"),
        Script::error(408, "c"),
        Script::error(409, "d"),
        Script::nothing(Cut::Close),
        Script::bytes(503, "text/html", "<h1>Service unavailable</h1>"),
    ] {
        server.then(script);
    }
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "ok");
    let expected = [Status(500), Status(429), Status(408), Status(409), Status(503), Success];
    // An idle connection that was closed does not count as a failed attempt.
    assert_eq!(outcomes.take(), expected);
    let bodies: Vec<_> = server.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 7);
    assert!(bodies.iter().all(|body| body == &bodies[0]));
}

#[tokio::test]
async fn attempts_end_with_the_retries() {
    let server = Loopback::answering(|_| Script::error(503, "busy")).await;
    let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 2, "base_ms": 1}}));
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert_eq!(error.to_string(), "the large model `test` answered 503: busy");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn errors_of_the_call_itself_are_not_repeated() {
    let quota = json!({"error": {"message": "pay first", "code": "insufficient_quota"}});
    let table = [
        (Script::error(400, "bad"), 400),
        (Script::error(401, "who"), 401),
        (Script::error(404, "where"), 404),
        (Script::json(429, quota), 429),
        (Script::json(307, json!({})).header("location", "/v1/elsewhere"), 307),
    ];
    for (script, expected) in table {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
        match endpoint.complete(&call("hi")).await {
            Err(LargeModelError::Status { status, .. }) => assert_eq!(status, expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(server.requests().len(), 1, "{expected}");
    }
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let server =
        Loopback::answering(|_| Script::error(429, "slow down").header("retry-after", "3600"))
            .await;
    let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
    let asked = Call { deadline: in_ms(60_000), ..call("hi") };
    match endpoint.complete(&asked).await {
        Err(LargeModelError::Status { status: 429, retry_after, message, .. }) => {
            assert_eq!((retry_after, &*message), (Some(Duration::from_secs(3600)), "slow down"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_for_a_slot() {
    let (server, gate) = (Loopback::start().await, Gate::default());
    let (endpoint, _) = client(&server.url(), json!({"max_in_flight": 1}));
    server.then(Script::reply("first").held(&gate));
    let first = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { endpoint.complete(&call("hi")).await }
    });
    server.wait_for_requests(1).await;
    let hasty = Call { deadline: in_ms(50), ..call("hi") };
    let error = endpoint.complete(&hasty).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Deadline { was_sent: false, .. }), "{error}");
    let patient = call("hi");
    let second = endpoint.complete(&patient);
    gate.open_once();
    assert_eq!(second.await.unwrap().message.as_text(), "ok");
    assert_eq!(first.await.unwrap().unwrap().message.as_text(), "first");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_caller_that_leaves_closes_the_call() {
    let (server, gate) = (Loopback::start().await, Gate::default());
    let (endpoint, outcomes) = client(&server.url(), json!({"max_in_flight": 1}));
    server.then(Script::reply("never").held(&gate));
    let asked = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { endpoint.complete(&call("hi")).await }
    });
    server.wait_for_requests(1).await;
    asked.abort();
    server.wait_for_disconnects(1).await;
    assert_eq!(outcomes.take(), [AttemptOutcome::Cancelled]);
    // Its slot is free again.
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "ok");
}

#[tokio::test]
async fn a_fallback_replies_when_the_first_model_fails() {
    let down = Loopback::answering(|_| Script::error(503, "busy")).await;
    let up = Loopback::start().await;
    let config = |url: String, fallbacks: &[&str]| -> LargeModelConfig {
        serde_json::from_value(json!({
            "url": url, "model": "model-1", "retries": {"max": 0}, "fallbacks": fallbacks,
            "ca": net::ca(),
        }))
        .unwrap()
    };
    let configs = [
        ("test".to_owned(), config(down.url(), &["other"])),
        ("other".to_owned(), config(up.url(), &[])),
    ];
    let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 1 };
    let models = LargeModels::new(Vec::new(), &configs.into(), "test", &setup).unwrap();
    let model = models.get(models.default_name()).unwrap();
    assert_eq!(model.complete(&call("hi")).await.unwrap().message.as_text(), "ok");
    assert_eq!((down.requests().len(), up.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_model_that_keeps_failing_is_left_alone_and_no_other() {
    let server = Loopback::answering(|request| match request.json()["model"].as_str() {
        Some("healthy") => Script::reply("ok"),
        _ => Script::error(500, "a"),
    })
    .await;
    let keys =
        json!({"breaker": {"failures": 2, "pause_ms": 100}, "retries": {"max": 3, "base_ms": 1}});
    let (endpoint, _) = client(&server.url(), keys);
    let healthy =
        Call { params: json!({"model": "healthy"}).as_object().cloned().unwrap(), ..call("hi") };
    // A request counts once, whatever its attempts.
    for _ in 0..2 {
        let error = endpoint.complete(&call("hi")).await.unwrap_err();
        assert!(matches!(error, LargeModelError::Status { status: 500, .. }), "{error}");
    }
    assert_eq!(server.requests().len(), 8);
    let LargeModelError::CircuitOpen { retry_in, .. } =
        endpoint.complete(&call("hi")).await.unwrap_err()
    else {
        panic!("the breaker is closed")
    };
    assert_eq!(endpoint.complete(&healthy).await.unwrap().message.as_text(), "ok");
    assert_eq!(server.requests().len(), 9);
    tokio::time::sleep(retry_in).await;
    server.then(Script::reply("again"));
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "again");
}

#[tokio::test]
async fn a_route_that_is_not_there_shuts_nothing_out() {
    let server = Loopback::answering(|_| Script::error(501, "not supported")).await;
    let (endpoint, _) = client(&server.url(), json!({"breaker": {"failures": 1}}));
    for _ in 0..3 {
        let error = endpoint.complete(&call("hi")).await.unwrap_err();
        assert!(matches!(error, LargeModelError::Status { status: 501, .. }), "{error}");
        endpoint.list_models(None).await.unwrap_err();
    }
    server.then(Script::reply("ok"));
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "ok");
}
