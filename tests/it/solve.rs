//! `POST /v1/solve`.

use std::sync::Arc;

use futures::StreamExt;
use prompt_r1::episode::Limits;
use prompt_r1::large_model::{Endpoint, EndpointSetup};
use prompt_r1::policy::RemotePolicy;
use serde_json::{Value, json};

use crate::loopback::{Cut, Gate, Loopback, Script};
use crate::server::{SECRET, Setup};

const PATH: &str = "/v1/solve";

/// The body with varying values replaced.
fn steady(mut body: Value) -> Value {
    for turn in body["turns"].as_array_mut().into_iter().flatten() {
        turn["millis"] = json!(0);
        turn["large_model_millis"] = json!(0);
    }
    body
}

#[tokio::test]
async fn a_question_and_its_answer() {
    let upstream = Loopback::answering(|_| Script::reply("Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let response = server.ask(PATH, json!({"question": "Where?"})).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-prompt-r1-turns"], "2");
    let overhead = response.headers()["x-prompt-r1-overhead-ms"].to_str().unwrap();
    assert!(overhead.parse::<f64>().unwrap() >= 0.0);
    assert_eq!(response.headers()["x-request-id"].len(), 36);
    insta::assert_json_snapshot!(response.json::<Value>().await.unwrap());
    let asked = upstream.last().json();
    assert_eq!(asked["messages"], json!([{"role": "user", "content": "Where?"}]));
}

#[tokio::test]
async fn every_turn_when_traced() {
    let upstream = Loopback::answering(|_| Script::reply("Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let (_, body) = server.json(PATH, json!({"question": "Where?", "trace": true})).await;
    insta::assert_json_snapshot!(steady(body));
}

#[tokio::test]
async fn events_as_they_happen() {
    let upstream = Loopback::answering(|_| Script::reply("In Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let response = server.ask(PATH, json!({"question": "Where?", "stream": true, "seed": 1})).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    insta::assert_snapshot!(response.text().await.unwrap());
}

#[tokio::test]
async fn an_answer_that_was_cut_off_says_so() {
    for (reason, cut_off) in
        [("stop", None), ("length", Some(true)), ("content_filter", Some(true))]
    {
        let message = json!({"role": "assistant", "content": "In Ly"});
        let upstream = Loopback::answering(move |_| Script::message(message.clone(), reason)).await;
        let server = Setup::relay().start(&upstream).await;
        let request = json!({"question": "Where?", "policy": "direct"});
        let (_, body) = server.json(PATH, request.clone()).await;
        assert_eq!(body["answer"], "In Ly");
        assert_eq!(body.get("cut_off").and_then(Value::as_bool), cut_off, "{reason}");
        let mut streamed = request;
        streamed["stream"] = json!(true);
        let text = server.ask(PATH, streamed).await.text().await.unwrap();
        assert_eq!(text.contains("\"cut_off\":true"), cut_off.is_some(), "{reason}: {text}");
    }
}

#[tokio::test]
async fn without_a_policy_the_large_model_samples_as_the_request_says() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let given = json!({"temperature": 0, "seed": 7});
    let both = |first: &Value, second: &Value| {
        let mut both = first.clone();
        both.as_object_mut().unwrap().extend(second.as_object().unwrap().clone());
        both
    };
    let solve = |options: Value| ("/v1/solve", both(&json!({"question": "Where?"}), &options));
    let chat = |fields: &Value, options: Value| {
        let asked = json!({"model": "prompt-r1", "prompt_r1": options,
                           "messages": [{"role": "user", "content": "Where?"}]});
        ("/v1/chat/completions", both(&asked, fields))
    };
    let direct = json!({"policy": "direct"});
    let own = json!({"temperature": 1, "seed": 3});
    let table = [
        (solve(both(&direct, &given)), Some(0.0), Some(7)),
        (solve(direct.clone()), None, None),
        // They are the policy's.
        (solve(given.clone()), None, None),
        (chat(&json!({}), both(&direct, &given)), Some(0.0), Some(7)),
        (chat(&json!({}), given.clone()), None, None),
        (chat(&own, direct.clone()), Some(1.0), Some(3)),
        (chat(&own, both(&direct, &given)), Some(0.0), Some(7)),
        (chat(&own, given), Some(1.0), Some(3)),
    ];
    for ((path, body), temperature, seed) in table {
        let (status, reply) = server.json(path, body.clone()).await;
        assert_eq!(status, 200, "{body}: {reply}");
        let sent = upstream.last().json();
        let found = (sent["temperature"].as_f64(), sent["seed"].as_i64());
        assert_eq!(found, (temperature, seed), "{body}");
    }
}

#[tokio::test]
async fn a_failure_in_the_stream_is_its_last_event() {
    let upstream = Loopback::answering(|_| Script::error(500, "broken")).await;
    let server = Setup::relay().start(&upstream).await;
    let response = server.ask(PATH, json!({"question": "Where?", "stream": true})).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    insta::assert_snapshot!(last);
}

#[tokio::test]
async fn a_conversation() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let messages = json!([{"role": "system", "content": "Be brief."},
                          {"role": "user", "content": "Hi"},
                          {"role": "assistant", "content": "Hello"},
                          {"role": "user", "content": "Where?"}]);
    let (status, _) = server.json(PATH, json!({"messages": messages})).await;
    assert_eq!(status, 200);
    let sent = upstream.last().json()["messages"].as_array().unwrap().clone();
    assert_eq!(sent, *messages.as_array().unwrap());
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let table = [
        (json!({}), 400, Some("question")),
        (json!({"question": ""}), 400, Some("question")),
        (json!({"question": 1}), 400, Some("question")),
        (json!({"question": "a", "messages": []}), 400, Some("messages")),
        (json!({"messages": []}), 400, Some("messages")),
        (json!({"messages": [{"role": "x", "content": "a"}]}), 400, Some("messages[0].role")),
        (json!({"messages": [{"content": "a"}]}), 400, Some("messages[0].role")),
        (json!({"question": "a", "max_turn": 1}), 400, Some("max_turn")),
        (json!({"question": "a", "max_turns": 0}), 400, Some("max_turns")),
        (json!({"question": "a", "max_turns": 99}), 400, Some("max_turns")),
        (json!({"question": "a", "max_tokens": -1}), 400, Some("max_tokens")),
        (json!({"question": "a", "deadline_ms": 0}), 400, Some("deadline_ms")),
        (json!({"question": "a", "max_cost": -1}), 400, Some("max_cost")),
        (json!({"question": "a", "temperature": 3}), 400, Some("temperature")),
        (json!({"question": "a", "seed": "x"}), 400, Some("seed")),
        (json!({"question": "a", "large_model": "tset"}), 404, Some("large_model")),
        (json!({"question": "a", "policy": "other"}), 404, Some("policy")),
    ];
    let mut errors = Vec::new();
    for (body, status, param) in table {
        let (got, error) = server.json(PATH, body.clone()).await;
        assert_eq!(got, status, "{body}: {error}");
        assert_eq!(error["error"]["param"].as_str(), param, "{body}: {error}");
        errors.push(error["error"].clone());
    }
    insta::assert_json_snapshot!(errors);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn failures_of_the_large_model_are_reported() {
    let stalling = json!({"timeouts": {"first_byte_ms": 50}});
    let table = [
        (Script::error(500, "broken"), 502, "large_model_error"),
        (Script::error(400, "bad"), 400, "large_model_error"),
        (Script::error(404, "none"), 404, "large_model_error"),
        (Script::error(429, "slow down").header("retry-after", "7"), 429, "large_model_error"),
        (Script::bytes(200, "text/html", "<html>"), 502, "large_model_malformed"),
        (Script::nothing(Cut::Close), 502, "large_model_unreachable"),
        (Script::nothing(Cut::Stall), 504, "large_model_timeout"),
    ];
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.endpoint = stalling;
    let server = setup.start(&upstream).await;
    for (script, status, code) in table {
        if code == "large_model_unreachable" {
            // The idle connection closes, so the request goes over another.
            upstream.then(Script::nothing(Cut::Close));
        }
        upstream.then(script);
        let response = server.ask(PATH, json!({"question": "Where?"})).await;
        assert_eq!(response.status(), status, "{code}");
        let wait = response.headers().get("retry-after").cloned();
        assert_eq!(wait.is_some(), status == 429, "{code}");
        // Requests that were answered, or may still be processed, may be billed; refused ones are
        // not.
        let is_spent = response.headers().contains_key("x-should-retry");
        let billable = ["large_model_malformed", "large_model_timeout", "large_model_unreachable"];
        let may_be_billed = billable.contains(&code);
        assert_eq!(is_spent, may_be_billed, "{code}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], code, "{error}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn what_was_paid_for_is_not_asked_again() {
    let upstream = Loopback::start().await;
    let turns = [
        "<interaction_prompt>a</interaction_prompt>",
        "<interaction_prompt>b</interaction_prompt>",
    ];
    let server = Setup::turns(turns).start(&upstream).await;
    upstream.then(Script::reply("fine")).then(Script::error(500, "broken"));
    let response = server.ask(PATH, json!({"question": "Where?"})).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["x-should-retry"], "false");
}

#[tokio::test]
async fn whose_key_is_wrong() {
    // The operator's key is not the client's fault.
    for (key, status) in [("TEST_KEY", 502), ("", 401)] {
        let upstream = Loopback::answering(|_| Script::error(401, "no such key")).await;
        let mut setup = Setup::relay();
        setup.endpoint = json!({"api_key_env": key});
        let server = setup.start(&upstream).await;
        let asked = server.post(PATH, &json!({"question": "a"})).bearer_auth("sk-theirs-12345");
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert!(!response.text().await.unwrap().contains(SECRET));
        let expected = if key.is_empty() { "sk-theirs-12345" } else { SECRET };
        let expected = format!("Bearer {expected}");
        assert_eq!(upstream.last().header("authorization"), Some(&*expected));
    }
}

#[tokio::test]
async fn a_deadline_before_any_reply() {
    let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
    let server = Setup::relay().start(&upstream).await;
    let (status, error) = server.json(PATH, json!({"question": "a", "deadline_ms": 50})).await;
    assert_eq!((status, &error["error"]["code"]), (504, &json!("deadline_exceeded")));
    upstream.wait_for_disconnects(1).await;
}

#[tokio::test]
async fn a_capped_episode_says_why() {
    let upstream = Loopback::answering(|_| Script::reply("half way")).await;
    let ask = "<interaction_prompt>a</interaction_prompt>";
    let server = Setup::turns([ask, ask]).start(&upstream).await;
    let (status, body) = server.json(PATH, json!({"question": "a", "max_turns": 1})).await;
    assert_eq!(status, 200);
    assert_eq!(body["answer"], "half way");
    assert_eq!(body["answer_source"], "large_model");
    assert_eq!(body["finish_reason"], "turn_limit");
}

#[tokio::test]
async fn clients_that_leave_cancel_the_call() {
    for stream in [false, true] {
        let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
        let server = Setup::relay().start(&upstream).await;
        let asked = server.post(PATH, &json!({"question": "a", "stream": stream}));
        let asking = tokio::spawn(async move {
            let mut body = asked.send().await.unwrap().bytes_stream();
            while body.next().await.is_some() {}
        });
        upstream.wait_for_requests(1).await;
        asking.abort();
        upstream.wait_for_disconnects(1).await;
        server.wait_for_metric("prompt_r1_client_disconnects_total", 1.0).await;
        // The slot is free again, and others are served.
        upstream.then(Script::reply("fine"));
        let (status, _) = server.json(PATH, json!({"question": "b"})).await;
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server.keep_alive_s = 1;
    let server = setup.start(&upstream).await;
    for path in [PATH, "/v1/chat/completions"] {
        let gate = Gate::default();
        upstream.then(Script::reply("late").held(&gate));
        let body = match path {
            PATH => json!({"question": "a", "stream": true}),
            _ => json!({"model": "prompt-r1", "stream": true,
                        "messages": [{"role": "user", "content": "a"}]}),
        };
        let mut pieces = server.ask(path, body).await.bytes_stream();
        let mut text = String::new();
        while let Some(piece) = pieces.next().await {
            text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
            if text.contains(": ping\n") {
                gate.open_once();
            }
        }
        let (_, after) = text.split_once("\n\n: ping\n").unwrap();
        assert!(!after.starts_with('\n'), "a blank line follows the comment: {text}");
        assert!(text.contains("late"), "{text}");
    }
}

#[tokio::test]
async fn long_questions() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let (status, body) = server.json(PATH, json!({"question": "x".repeat(100_000)})).await;
    assert_eq!((status, &body["answer"]), (200, &json!("ok")));
}

#[tokio::test]
async fn requests_beyond_the_queue_are_rejected() {
    let gate = Gate::default();
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server.max_in_flight = 1;
    setup.server.queue = 1;
    setup.limits = Limits { deadline_ms: 20_000, ..Limits::default() };
    let server = setup.start(&upstream).await;
    upstream.then(Script::reply("one").held(&gate));
    let ask = |text: &str| server.post(PATH, &json!({"question": text})).send();
    let (first, second) = (tokio::spawn(ask("a")), async { upstream.wait_for_requests(1).await });
    second.await;
    // One runs; of the two others one waits, and one is rejected.
    let (second, third) = (ask("b"), ask("c"));
    let release = async {
        server
            .wait_for_metric("prompt_r1_requests_total{route=\"/v1/solve\",status=\"429\"}", 1.0)
            .await;
        server.wait_for_metric("prompt_r1_requests_waiting", 1.0).await;
        assert_eq!(server.metric("prompt_r1_episodes_in_flight").await, 1.0);
        gate.open_once();
    };
    let (second, third, ()) = tokio::join!(second, third, release);
    let mut statuses = [second.unwrap(), third.unwrap()].map(|response| {
        let is_told = response.headers().contains_key("retry-after");
        (response.status().as_u16(), is_told)
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [(200, false), (429, true)]);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    for gauge in ["prompt_r1_episodes_in_flight", "prompt_r1_requests_waiting"] {
        assert_eq!(server.metric(gauge).await, 0.0, "{gauge}");
    }
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let gate = Gate::default();
    let upstream = Loopback::start().await;
    upstream.then(Script::reply("late").held(&gate));
    let mut server = Setup::relay().start(&upstream).await;
    let asking = tokio::spawn(server.post(PATH, &json!({"question": "a"})).send());
    upstream.wait_for_requests(1).await;
    server.stop();
    gate.open_once();
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    server.stopped().await;
    assert!(server.client.get(&server.url).send().await.is_err());
}

#[tokio::test]
async fn shutdown_ends_with_the_grace_period() {
    let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
    let mut setup = Setup::relay();
    setup.server.grace_s = 0;
    let mut server = setup.start(&upstream).await;
    let _asking = tokio::spawn(server.post(PATH, &json!({"question": "a"})).send());
    upstream.wait_for_requests(1).await;
    server.stop();
    server.stopped().await;
}

#[tokio::test]
async fn a_policy_behind_an_endpoint_is_asked_with_the_callers_key() {
    let upstream = Loopback::answering(|_| Script::reply("<answer>yes</answer>")).await;
    let config = json!({"url": upstream.url(), "model": "p", "api_key_env": ""});
    let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 0 };
    let config = serde_json::from_value(config).unwrap();
    let endpoint = Endpoint::new("policy", &config, &setup).unwrap();
    let policy = RemotePolicy::new(Arc::new(endpoint));
    let server = Setup::policy(policy).start(&upstream).await;
    let asked = server.post(PATH, &json!({"question": "a"})).bearer_auth("theirs");
    assert_eq!(asked.send().await.unwrap().status(), 200);
    assert_eq!(upstream.last().json()["model"], "p");
    assert_eq!(upstream.last().header("authorization"), Some("Bearer theirs"));
}
