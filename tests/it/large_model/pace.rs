//! Limits on concurrent calls and calls per minute.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use futures::future::join_all;
use http::{HeaderMap, Method};
use prompt_r1::large_model::{ForwardRequest, Waiting};

use super::*;

/// Longer than a call takes without waiting, and shorter than one that must wait here.
const SOON: u64 = 500;

async fn later(endpoint: &Endpoint, text: &str) -> Result<String, LargeModelError> {
    let call = Call { deadline: in_ms(SOON), ..call(text) };
    endpoint.complete(&call).await.map(|reply| reply.message.as_text())
}

fn is_deadline<T>(result: &Result<T, LargeModelError>) -> bool {
    matches!(result, Err(LargeModelError::Deadline { was_sent: false, .. }))
}

/// Releases all calls as they come.
async fn opened(gate: &Gate) {
    loop {
        gate.open_once();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn only_so_many_calls_are_made_until_some_are_answered() {
    let (first, then) = (Gate::default(), Gate::default());
    let (one, other, count) = (first.clone(), then.clone(), AtomicUsize::new(0));
    let server = Loopback::answering(move |_| {
        let gate = if count.fetch_add(1, Ordering::SeqCst) < 4 { &one } else { &other };
        Script::reply("ok").held(gate)
    })
    .await;
    let (endpoint, _) = client(&server.url(), json!({"adaptive_in_flight": true}));
    let ask = |count| {
        let endpoint = endpoint.clone();
        let calls = (0..count).map(move |_| {
            let endpoint = endpoint.clone();
            async move { endpoint.complete(&call("hi")).await }
        });
        tokio::spawn(join_all(calls))
    };
    let four = ask(4);
    server.wait_for_requests(4).await;
    assert!(is_deadline(&later(&endpoint, "five").await));
    assert_eq!(server.requests().len(), 4);
    let four = tokio::select! { four = four => four, () = opened(&first) => unreachable!() };
    assert!(four.unwrap().iter().all(Result::is_ok));
    // All succeeded: there are twice the slots now, which are all used at once.
    let eight = ask(8);
    server.wait_for_requests(4 + 8).await;
    assert!(is_deadline(&later(&endpoint, "nine").await));
    assert_eq!(server.requests().len(), 4 + 8);
    let eight = tokio::select! { eight = eight => eight, () = opened(&then) => unreachable!() };
    assert!(eight.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn refused_calls_are_retried_once_a_slot_is_free() {
    let count = AtomicUsize::new(0);
    let server =
        Loopback::answering(move |request| match count.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Script::reply(&request.prompt()),
            1 => Script::error(429, "too many").header("retry-after-ms", "1"),
            _ => Script::error(503, "busy").header("retry-after-ms", "1"),
        })
        .await;
    let keys = json!({"adaptive_in_flight": true, "breaker": {"failures": 0}});
    let (endpoint, _) = client(&server.url(), keys.clone());
    let calls = (0..12).map(|n| {
        let endpoint = &endpoint;
        async move { endpoint.complete(&call(&n.to_string())).await.map(|it| it.message.as_text()) }
    });
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap(), n.to_string());
    }

    // If there is another model, that is asked instead.
    let server = Loopback::answering(|_| Script::error(429, "too many")).await;
    let mut keys = keys;
    keys["fallbacks"] = json!(["another"]);
    let (endpoint, _) = client(&server.url(), keys);
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Status { status: 429, .. }), "{error}");
    // The pause after a refusal concerns this model only.
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert!(matches!(error, LargeModelError::CircuitOpen { .. }), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_asks_to_wait_for_ages_is_asked_again_after_an_hour() {
    let server = Loopback::answering(|_| {
        Script::error(429, "too many").header("retry-after", "10000000000000000000")
    })
    .await;
    let keys = json!({"adaptive_in_flight": true, "fallbacks": ["another"],
                      "breaker": {"failures": 0}});
    let (endpoint, _) = client(&server.url(), keys);
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Status { status: 429, .. }), "{error}");
    let LargeModelError::CircuitOpen { retry_in, .. } =
        endpoint.complete(&call("hi")).await.unwrap_err()
    else {
        panic!("it was asked again")
    };
    let hour = Duration::from_secs(3600);
    assert!(retry_in <= hour && retry_in > hour / 2, "{retry_in:?}");
}

#[tokio::test]
async fn an_exhausted_quota_is_not_retried() {
    let quota = json!({"error": {"message": "used up", "code": "insufficient_quota"}});
    let server = Loopback::answering(move |_| Script::json(429, quota.clone())).await;
    let (endpoint, _) = client(&server.url(), json!({"adaptive_in_flight": true}));
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Status { status: 429, .. }), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn time_in_the_queue_does_not_count() {
    let server = Loopback::start().await;
    // Takes longer than a call may, but makes progress.
    server.then(Script::reply("one two three").drip(Duration::from_millis(3)));
    let keys = json!({"adaptive_in_flight": true, "max_in_flight": 1,
                      "timeouts": {"first_byte_ms": 1000, "total_ms": 1000}});
    let (endpoint, outcomes) = client(&server.url(), keys);
    let (first, second) = (call("first"), call("second"));
    let (first, second) = tokio::join!(endpoint.complete(&first), async {
        server.wait_for_requests(1).await;
        endpoint.complete(&second).await
    });
    assert_eq!(first.unwrap().message.as_text(), "one two three");
    assert_eq!(second.unwrap().message.as_text(), "ok");
    assert_eq!(outcomes.take(), [AttemptOutcome::Success; 2]);
}

#[tokio::test]
async fn all_callers_share_the_requests_per_minute() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"requests_per_minute": 3}));
    assert_eq!(later(&endpoint, "hi").await.unwrap(), "ok");
    assert_eq!(later(&endpoint, "hi").await.unwrap(), "ok");
    let passed_on = || ForwardRequest {
        method: Method::POST,
        path: "/embeddings".into(),
        headers: HeaderMap::new(),
        body: "{}".into(),
        model: "model-1".into(),
        is_metered: false,
        caller: 0,
        deadline: in_ms(SOON),
        waiting: Waiting::default(),
    };
    assert!(endpoint.forward(passed_on()).await.is_ok());
    assert!(is_deadline(&endpoint.forward(passed_on()).await));
    assert!(is_deadline(&later(&endpoint, "hi").await));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_retry_counts_as_a_request() {
    let server = Loopback::start().await;
    server.then(Script::error(503, "busy"));
    let keys = json!({"requests_per_minute": 2, "retries": {"max": 1, "base_ms": 1}});
    let (endpoint, _) = client(&server.url(), keys);
    assert_eq!(later(&endpoint, "hi").await.unwrap(), "ok");
    assert!(is_deadline(&later(&endpoint, "hi").await));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_list_of_models_counts_as_a_request() {
    let server = Loopback::answering(|request| match request.path.as_str() {
        "/v1/models" => Script::json(200, json!({"data": [{"id": "a"}]})),
        _ => Script::reply("ok"),
    })
    .await;
    let (endpoint, _) = client(&server.url(), json!({"requests_per_minute": 2}));
    assert_eq!(later(&endpoint, "hi").await.unwrap(), "ok");
    assert_eq!(endpoint.list_models(None).await.unwrap().len(), 1);
    assert_eq!(endpoint.list_models(None).await.unwrap().len(), 1);
    assert!(is_deadline(&later(&endpoint, "hi").await));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_minute_has_no_more_tokens_than_allowed() {
    let server = Loopback::start().await;
    // A reply has a usage of 18 tokens.
    let (endpoint, _) = client(&server.url(), json!({"tokens_per_minute": 30}));
    let ask = async || {
        let mut call = Call { deadline: in_ms(SOON), ..call("hi") };
        call.params.insert("max_tokens".into(), json!(10));
        endpoint.complete(&call).await
    };
    assert!(ask().await.is_ok());
    assert!(ask().await.is_ok());
    assert!(is_deadline(&ask().await));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn passed_through_requests_take_the_tokens_that_they_are_billed() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"tokens_per_minute": 30}));
    let image = json!({"type": "image_url", "image_url": {"url": "x".repeat(400_000)}});
    let content = json!([image, {"type": "text", "text": "a"}]);
    let body = json!({"model": "model-1", "messages": [{"role": "user", "content": content}]});
    let pass = async || {
        let request = ForwardRequest {
            method: Method::POST,
            path: "/chat/completions".into(),
            headers: HeaderMap::new(),
            body: body.to_string().into(),
            model: "model-1".into(),
            is_metered: false,
            caller: 0,
            deadline: in_ms(SOON),
            waiting: Waiting::default(),
        };
        endpoint.forward(request).await?.into_body().try_collect::<Vec<_>>().await
    };
    // An image is no text, and the reply has a usage of 18 tokens.
    assert!(pass().await.is_ok());
    assert!(pass().await.is_ok());
    assert!(is_deadline(&pass().await));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn large_models_with_one_url_and_key_share_a_minute() {
    let server = Loopback::start().await;
    let url = server.url();
    let (first, _) = client(&url, json!({"requests_per_minute": 2}));
    // Written otherwise, for another model, and without a limit of its own.
    let (judge, _) = client(&format!("{url}/"), json!({"model": "model-2"}));
    let (other_key, _) = client(&url, json!({"api_key_env": "TEST_KEY"}));
    assert_eq!(later(&judge, "hi").await.unwrap(), "ok");
    assert_eq!(later(&first, "hi").await.unwrap(), "ok");
    assert!(is_deadline(&later(&first, "hi").await));
    assert!(is_deadline(&later(&judge, "hi").await));
    assert_eq!(later(&other_key, "hi").await.unwrap(), "ok");
    // The limit goes with the large model that it was given for, as after a reload.
    drop(first);
    assert_eq!(later(&judge, "hi").await.unwrap(), "ok");
}

#[tokio::test]
async fn large_models_with_one_url_and_key_share_places() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Loopback::answering(move |_| Script::reply("ok").held(&held)).await;
    let keys = json!({"adaptive_in_flight": true});
    let (first, _) = client(&server.url(), keys.clone());
    let (second, _) = client(&server.url(), keys);
    let calls = (0..4).map(|_| {
        let endpoint = first.clone();
        async move { endpoint.complete(&call("hi")).await }
    });
    let four = tokio::spawn(join_all(calls));
    server.wait_for_requests(4).await;
    assert!(is_deadline(&later(&second, "five").await));
    assert_eq!(server.requests().len(), 4);
    let four = tokio::select! { four = four => four, () = opened(&gate) => unreachable!() };
    assert!(four.unwrap().iter().all(Result::is_ok));
}
