//! Requests that wait for their turn, and are given up before they are sent.

use prompt_r1::policy::ScriptedPolicy;

use super::*;
use crate::chat_streams::remote;
use crate::loopback::Gate;

/// A prompt that costs more than the keys of these tests may use.
fn long() -> String {
    "a ".repeat(400)
}

/// A policy that writes few tokens, however long the question.
fn asking() -> Setup {
    let turns = ["<interaction_prompt><question/></interaction_prompt>", "<answer>so</answer>"];
    Setup::policy(ScriptedPolicy::turns(turns))
}

/// Whether the key has reached its limit; asks for nothing.
async fn is_used_up(server: &Server, key: &str) -> bool {
    ask(server, key, "/v1/solve", json!({})).await.status() == 429
}

#[tokio::test]
async fn an_episode_whose_call_was_never_sent_costs_nothing() {
    let table = [
        (json!({"requests_per_minute": 1}), "scripted"),
        (json!({"max_in_flight": 1}), "scripted"),
        // The policy is behind the same endpoint.
        (json!({"requests_per_minute": 1}), "policy"),
    ];
    for (endpoint, policy) in table {
        let gate = Gate::default();
        let upstream = Loopback::answering(move |_| Script::reply("ok").held(&gate)).await;
        let keys = Keys::new().await;
        let key = keys.make(json!({"tokens_per_minute": 100})).await;
        let other = keys.make(json!({})).await;
        let mut setup = asking();
        setup.endpoint = endpoint.clone();
        setup.adapters = vec![Arc::new(remote(&upstream))];
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let first = server.post("/v1/solve", &json!({"question": "a"})).bearer_auth(&other);
        let first = tokio::spawn(first.send());
        upstream.wait_for_requests(1).await;
        let solve = json!({"question": long(), "policy": policy, "deadline_ms": 500});
        let response = ask(&server, &key, "/v1/solve", solve).await;
        assert!(!response.headers().contains_key("x-should-retry"), "{endpoint} {policy}");
        let (status, code, _) = outcome(response).await;
        assert_eq!((status, &*code), (504, "deadline_exceeded"), "{endpoint} {policy}");
        assert_eq!(upstream.requests().len(), 1, "{endpoint} {policy}");
        assert!(!is_used_up(&server, &key).await, "{endpoint} {policy}");
        first.abort();
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_request_is_sent_pays_nothing() {
    let gate = Gate::default();
    let upstream = Loopback::answering(move |_| Script::reply("ok").held(&gate)).await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"tokens_per_minute": 100})).await;
    let other = keys.make(json!({})).await;
    let mut setup = asking();
    setup.endpoint = json!({"max_in_flight": 1});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let path = "/v1/chat/completions";
    let chat = |text: &str| {
        let messages = json!([{"role": "user", "content": text}]);
        json!({"model": "model-1", "messages": messages})
    };
    let first = tokio::spawn(server.post(path, &chat("a")).bearer_auth(&other).send());
    upstream.wait_for_requests(1).await;
    let solve = server.post("/v1/solve", &json!({"question": long()})).bearer_auth(&key);
    let asked = tokio::spawn(solve.send());
    server.wait_for_metric("prompt_r1_episodes_in_flight", 1.0).await;
    asked.abort();
    server.wait_for_metric(CANCELLED, 1.0).await;
    let tokens = "prompt_r1_tokens_total{role=\"large_model\",kind=\"prompt\",policy=\"scripted\"}";
    assert_eq!(server.metric(tokens).await, 0.0);
    assert!(!is_used_up(&server, &key).await);

    let disconnects = "prompt_r1_client_disconnects_total";
    let before = server.metric(disconnects).await;
    let passed = server.post(path, &chat(&long())).bearer_auth(&key);
    assert!(passed.timeout(Duration::from_secs(1)).send().await.is_err());
    server.wait_for_metric(disconnects, before + 1.0).await;
    assert!(!is_used_up(&server, &key).await);
    assert_eq!(upstream.requests().len(), 1);
    first.abort();
}

#[tokio::test]
async fn a_client_that_leaves_before_a_refused_call_is_repeated_pays_nothing() {
    let upstream =
        Loopback::answering(|_| Script::error(503, "busy").header("retry-after", "20")).await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"tokens_per_minute": 100})).await;
    let mut setup = asking();
    setup.endpoint = json!({"retries": {"max": 1, "base_ms": 1, "cap_ms": 120_000}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let messages = json!([{"role": "user", "content": long()}]);
    let attempts = "prompt_r1_upstream_attempts_total{outcome=\"status\",code=\"503\"}";
    let disconnects = "prompt_r1_client_disconnects_total";
    let table = [
        ("/v1/solve", json!({"question": long()})),
        ("/v1/chat/completions", json!({"model": "model-1", "messages": messages})),
    ];
    for (count, (path, body)) in (1_u32..).zip(table) {
        let asked = tokio::spawn(server.post(path, &body).bearer_auth(&key).send());
        server.wait_for_metric(attempts, f64::from(count)).await;
        asked.abort();
        server.wait_for_metric(disconnects, f64::from(count)).await;
        assert!(!is_used_up(&server, &key).await, "{path}");
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_passed_through_request_beyond_its_minute_is_told_when_to_come_back() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"tokens_per_minute": 100})).await;
    let mut setup = Setup::relay();
    setup.endpoint = json!({"requests_per_minute": 1, "timeouts": {"total_ms": 1_000}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let embedding = |text: &str| {
        let body = json!({"model": "model-1", "input": text});
        server.post("/v1/embeddings", &body).bearer_auth(&key).send()
    };
    let first = embedding("a").await.unwrap();
    assert_eq!(first.status(), 200);
    first.text().await.unwrap();
    let files = server.client.get(format!("{}/v1/files", server.url)).bearer_auth(&key);
    for response in [embedding(&long()).await.unwrap(), files.send().await.unwrap()] {
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "60");
        assert!(!response.headers().contains_key("x-should-retry"));
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            (&error["error"]["code"], &error["error"]["param"]),
            (&json!("overloaded"), &Value::Null)
        );
    }
    assert_eq!(upstream.requests().len(), 1);
    assert!(!is_used_up(&server, &key).await);
}
