//! Charges for passed-through requests, and what keys with a budget may not do.

use super::*;
use crate::chat_streams::remote;
use crate::loopback::{Gate, USAGE};

/// Counted tokens of a key, by their cost of one each.
pub(super) async fn counted(keys: &Keys, key: &str) -> i64 {
    let day = 1_700_000_000 / 86_400;
    let counted = async {
        loop {
            match keys.store.spent(id(key), day).await.unwrap() {
                0 => tokio::time::sleep(Duration::from_millis(10)).await,
                spent => return spent / 1_000_000,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.expect("it was not counted")
}

#[tokio::test]
async fn passed_streams_are_billed_what_their_endpoint_says() {
    let image = json!({"type": "image_url", "image_url": {"url": "x".repeat(1_000_000)}});
    let content = json!([image, {"type": "text", "text": "a ".repeat(40)}]);
    let messages = json!([{"role": "user", "content": content}]);
    let chat = json!({"model": "model-1", "messages": messages, "stream": true});
    let mut asks_itself = chat.clone();
    asks_itself["stream_options"] = json!({"include_usage": true});
    let silent = || {
        Script::events([
            json!({"choices": [{"delta": {"content": "b ".repeat(80)}}]}).to_string(),
            "[DONE]".to_owned(),
        ])
    };
    let table = [
        // The endpoint reports 11 and 7; the client sees them if it asked.
        (chat.clone(), Script::reply("ok"), 18, false),
        (asks_itself, Script::reply("ok"), 18, true),
        // It does not say: 40 words were read, in the frame of a message, 80 written, and an image
        // is no text.
        (chat, silent(), 38 + 7 + 76, false),
    ];
    for (body, script, expected, is_shown) in table {
        let upstream = Loopback::answering(move |_| script.clone()).await;
        let keys = Keys::new().await;
        let key = keys.make(json!({"budget_per_day": 1e6})).await;
        let mut setup = Setup::relay();
        setup.endpoint = json!({"prices": {"input_per_million": 1e6, "output_per_million": 1e6}});
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let text = ask(&server, &key, "/v1/chat/completions", body).await.text().await.unwrap();
        assert_eq!(text.contains("prompt_tokens"), is_shown, "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(upstream.last().json()["stream_options"], json!({"include_usage": true}));
        assert_eq!(counted(&keys, &key).await, expected);
    }
}

#[tokio::test]
async fn odd_requests_and_responses_are_billed_like_others() {
    let words = "a ".repeat(40);
    let message = json!({"role": "user", "content": words});
    let streamed = format!(r#""model": "model-1", "messages": [{message}], "stream": true}}"#);
    let cut = r#"{"role": "user", "content": "\ud83d"}"#;
    let events = |kind: &str| {
        let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 90});
        let delta = json!({"choices": [{"delta": {"content": "b "}}]});
        let last = json!({"choices": [], "usage": usage});
        let body = format!("data: {delta}\n\ndata: {last}\n\ndata: [DONE]\n\n");
        Script::bytes(200, kind, body)
    };
    let silent = Script::json(200, json!({"choices": [{"message": {"content": words}}]}));
    let table = [
        // What it reports, with the thoughts that only its total counts.
        (format!("\u{feff}{{{streamed}"), events("text/event-stream"), 90),
        (format!("{{\"stream\": true, {streamed}"), events("text/event-stream"), 90),
        (format!("{{{streamed}"), events("text/plain; charset=utf-8"), 90),
        (format!("{{{streamed}"), events("Text/Event-Stream"), 90),
        // It reports nothing: 40 words each, in the frames of two messages; half a character is one
        // token, or two.
        (format!(r#"{{"model": "model-1", "messages": [{cut}, {message}]}}"#), silent, 38 * 2 + 11),
    ];
    for (body, script, expected) in table {
        let upstream = Loopback::answering(move |_| script.clone()).await;
        let keys = Keys::new().await;
        let key = keys.make(json!({"budget_per_day": 1e6})).await;
        let mut setup = Setup::relay();
        setup.endpoint = json!({"prices": {"input_per_million": 1e6, "output_per_million": 1e6}});
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let asked = server.client.post(format!("{}/v1/chat/completions", server.url));
        let asked = asked.header("content-type", "application/json").bearer_auth(&key);
        let response = asked.body(body.clone()).send().await.unwrap();
        assert_eq!(response.status(), 200, "{body}");
        let text = response.text().await.unwrap();
        assert!(!text.contains("prompt_tokens"), "{text}");
        let sent = String::from_utf8(upstream.last().body).unwrap();
        assert_eq!(sent.contains("include_usage"), expected == 90, "{sent}");
        let counted = counted(&keys, &key).await;
        assert!((expected..expected + 4).contains(&counted), "{body}: {counted}");
    }
}

#[tokio::test]
async fn the_tokens_of_passed_through_requests_are_in_the_metrics() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for stream in [false, true] {
        let body = json!({"model": "model-1", "messages": [], "stream": stream});
        ask(&server, &key, "/v1/chat/completions", body).await.text().await.unwrap();
    }
    let (prompt, completion) = USAGE;
    for (kind, tokens) in [("prompt", prompt), ("completion", completion)] {
        let series = format!(
            "prompt_r1_tokens_total{{role=\"passed_through\",kind=\"{kind}\",policy=\"\"}}"
        );
        let expected = 2.0 * tokens as f64;
        server.wait_for_metric(&series, expected).await;
        assert_eq!(server.metric(&series).await, expected, "{kind}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_stream_hides_its_usage() {
    let chat = "/v1/chat/completions";
    let usual = r#""stream": true"#;
    let long = format!(r#"{usual}, "stream_options": {{"x": "{}"}}"#, "x".repeat(5_000));
    let table = [
        (chat, usual),
        ("/v1/chat/completions?x=1", usual),
        ("/v1/completions?x=1", usual),
        ("/v1/chat/Completions", usual),
        ("/v1/chat/completions;x", usual),
        (chat, r#""stream": 1"#),
        (chat, r#""stream": "true""#),
        (chat, r#""Stream": true"#),
        (chat, r#""stream": true, "Stream_Options": {"include_usage": false}"#),
        (chat, &long),
        // The client wants to see it.
        (chat, r#""stream": "true", "stream_options": {"include_usage": true}"#),
        (chat, r#""stream": true, "Stream_Options": {"include_usage": true}"#),
    ];
    // It reports thoughts that are not shown, where it is asked to.
    let upstream = Loopback::answering(|request| {
        let delta = json!({"choices": [{"delta": {"content": "b "}}]}).to_string();
        let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 90});
        let usage = json!({"choices": [], "usage": usage}).to_string();
        let asks = request.json()["stream_options"] == json!({"include_usage": true});
        let usage = asks.then_some(usage);
        Script::events([delta].into_iter().chain(usage).chain(["[DONE]".to_owned()]))
    })
    .await;
    for (path, stream) in table {
        let keys = Keys::new().await;
        let key = keys.make(json!({"budget_per_day": 1e6})).await;
        let mut setup = Setup::relay();
        setup.endpoint = json!({"prices": {"input_per_million": 1e6, "output_per_million": 1e6}});
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let message = json!({"role": "user", "content": "a"});
        let body = format!(r#"{{"model": "model-1", "messages": [{message}], {stream}}}"#);
        let asked = server.client.post(format!("{}{path}", server.url)).bearer_auth(&key);
        let asked = asked.header("content-type", "application/json").body(body);
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path} {stream}");
        let text = response.text().await.unwrap();
        let is_asked_for = stream.contains("\"include_usage\": true");
        assert_eq!(text.contains("prompt_tokens"), is_asked_for, "{path} {stream}: {text}");
        assert_eq!(counted(&keys, &key).await, 90, "{path} {stream}");
    }
}

#[tokio::test]
async fn a_refusal_for_what_is_no_stream_is_not_remembered() {
    let upstream = Loopback::answering(|request| {
        let body = request.json();
        match body.get("stream_options").is_some() && body["stream"] != json!(true) {
            true => Script::error(400, "`stream_options` is for streams alone"),
            false => Script::reply("ok"),
        }
    })
    .await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"requests_per_minute": 100})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let path = "/v1/chat/completions";
    for stream in [r#""stream": "false""#, r#""stream": true, "stream": false"#] {
        let body = format!(r#"{{"model": "model-1", "messages": [], {stream}}}"#);
        let asked = server.client.post(format!("{}{path}", server.url)).bearer_auth(&key);
        let asked = asked.header("content-type", "application/json").body(body);
        assert_eq!(asked.send().await.unwrap().status(), 200, "{stream}");
    }
    let body = json!({"model": "model-1", "messages": [], "stream": true});
    ask(&server, &key, path, body).await.text().await.unwrap();
    assert_eq!(upstream.last().json()["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn an_endpoint_that_refuses_to_say_is_asked_as_the_client_asks() {
    let upstream = Loopback::answering(|request| match request.json().get("stream_options") {
        Some(_) => Script::error(400, "unknown field `stream_options`"),
        None => Script::reply("ok"),
    })
    .await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"requests_per_minute": 100})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let body = json!({"model": "model-1", "stream": true, "messages": []});
    for requests in [2, 3] {
        let response = ask(&server, &key, "/v1/chat/completions", body.clone()).await;
        assert_eq!(response.status(), 200);
        response.text().await.unwrap();
        assert_eq!(upstream.requests().len(), requests);
    }
}

#[tokio::test]
async fn an_error_that_repeats_the_request_is_the_clients() {
    let upstream = Loopback::answering(|request| {
        let body = request.json();
        let wrong = json!({"loc": ["body", "odd"], "msg": "Extra inputs", "input": body});
        match body.get("odd") {
            Some(_) => Script::json(422, json!({"detail": [wrong]})),
            None => Script::reply("ok"),
        }
    })
    .await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"requests_per_minute": 100})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let mut body = json!({"model": "model-1", "stream": true, "messages": [], "odd": 1});
    let response = ask(&server, &key, "/v1/chat/completions", body.clone()).await;
    assert_eq!(response.status(), 422);
    assert!(response.text().await.unwrap().contains("Extra inputs"));
    assert_eq!(upstream.requests().len(), 1);
    body.as_object_mut().unwrap().remove("odd");
    ask(&server, &key, "/v1/chat/completions", body).await.text().await.unwrap();
    assert_eq!(upstream.last().json()["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn a_budget_buys_nothing_of_unknown_price() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 100.0})).await;
    let free = keys.make(json!({})).await;
    let chat =
        |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "a"}]});
    for allowed in [false, true] {
        let mut setup = Setup::relay();
        let priced = json!({"input_per_million": 1.0});
        setup.endpoint = json!({"prices": priced, "model_prices": {"priced": priced},
                                "allow_unpriced": allowed});
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        for model in ["model-1", "priced", "o1-pro", "prompt-r1", "prompt-r1/o1-pro"] {
            let path = "/v1/chat/completions";
            let status = ask(&server, &key, path, chat(model)).await.status();
            let is_known = !model.ends_with("o1-pro") || allowed;
            assert_eq!(status, if is_known { 200 } else { 403 }, "{model}");
            assert_eq!(ask(&server, &free, path, chat(model)).await.status(), 200, "{model}");
        }
    }
}

#[tokio::test]
async fn a_budget_buys_no_episode_of_unknown_price() {
    let upstream = Loopback::answering(|_| Script::reply("<answer>ok</answer>")).await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 100.0})).await;
    let free = keys.make(json!({})).await;
    let endpoint = |model: &str, more: Value| {
        let mut endpoint = json!({"url": upstream.url(), "model": model, "retries": {"max": 0}});
        let more = more.as_object().unwrap().clone();
        endpoint.as_object_mut().unwrap().extend(more);
        endpoint
    };
    let priced = || json!({"prices": {"input_per_million": 1.0}});
    let falls_back_on = |other: &str| {
        let mut more = priced();
        more["fallbacks"] = json!([other]);
        endpoint("m", more)
    };
    let mut setup = Setup::relay();
    setup.endpoint = priced();
    setup.others = [
        ("unpriced".to_owned(), endpoint("u", json!({}))),
        ("priced".to_owned(), endpoint("p", priced())),
        ("on_unpriced".to_owned(), falls_back_on("unpriced")),
        ("on_priced".to_owned(), falls_back_on("priced")),
    ]
    .into();
    setup.adapters = vec![Arc::new(remote(&upstream))];
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let table = [
        ("test", "scripted", true),
        ("unpriced", "scripted", false),
        ("on_unpriced", "scripted", false),
        ("on_priced", "scripted", true),
        ("test", "policy", false),
    ];
    for (model, policy, is_known) in table {
        let solve = json!({"question": "a", "large_model": model, "policy": policy});
        let chat = json!({"model": "prompt-r1", "messages": [{"role": "user", "content": "a"}],
                          "prompt_r1": {"large_model": model, "policy": policy}});
        for (path, body) in [("/v1/solve", solve), ("/v1/chat/completions", chat)] {
            let (status, code, _) = outcome(ask(&server, &key, path, body.clone()).await).await;
            let expected = if is_known { (200, "") } else { (403, "model_not_priced") };
            assert_eq!((status, code.as_str()), expected, "{path} {model} {policy}");
            let status = ask(&server, &free, path, body).await.status();
            assert_eq!(status, 200, "{path} {model} {policy}");
        }
    }
}

#[tokio::test]
async fn requests_that_time_out_are_billed_and_refused_ones_are_not() {
    // 40 words were read, in the frame of a message.
    let read = 38 + 7;
    let table = [
        (Script::nothing(Cut::Stall), 504, read),
        (Script::nothing(Cut::Close), 502, read),
        (Script::error(504, "too slow"), 504, read),
        (Script::error(524, "too slow"), 524, read),
        (Script::error(500, "broken"), 500, 0),
        (Script::error(400, "wrong"), 400, 0),
    ];
    for (script, status, expected) in table {
        let upstream = Loopback::answering(move |request| match &request.json()["user"] {
            user if user == "first" => script.clone(),
            _ => Script::reply("ok"),
        })
        .await;
        let keys = Keys::new().await;
        let key = keys.make(json!({"budget_per_day": 1e6})).await;
        let mut setup = Setup::relay();
        setup.endpoint = json!({
            "prices": {"input_per_million": 1e6, "output_per_million": 1e6},
            "timeouts": {"first_byte_ms": 3_000}, "retries": {"max": 0},
        });
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let messages = json!([{"role": "user", "content": "a ".repeat(40)}]);
        let mut body = json!({"model": "model-1", "messages": messages, "user": "first"});
        let answer = ask(&server, &key, "/v1/chat/completions", body.clone()).await;
        assert_eq!(answer.status(), status);
        // What comes after it is charged 18.
        body["user"] = json!("second");
        let answer = ask(&server, &key, "/v1/chat/completions", body).await;
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap();
        let expected = expected + 18;
        eventually("all charges", async || counted(&keys, &key).await >= expected).await;
        assert_eq!(counted(&keys, &key).await, expected, "{status}");
    }
}

#[tokio::test]
async fn a_key_whose_requests_fail_shuts_out_no_other() {
    let upstream = Loopback::answering(|request| match request.prompt().contains("broken") {
        true => Script::error(500, "broken"),
        false => Script::reply("ok"),
    })
    .await;
    let keys = Keys::new().await;
    let (hostile, other) = (keys.make(json!({})).await, keys.make(json!({})).await);
    let mut setup = Setup::relay();
    setup.endpoint = json!({"breaker": {"failures": 4, "pause_ms": 60_000}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for model in ["model-1", "prompt-r1"] {
        let chat = |text: &str| {
            let messages = json!([{"role": "user", "content": text}]);
            json!({"model": model, "messages": messages})
        };
        let asked = async |key: &str, text: &str| {
            ask(&server, key, "/v1/chat/completions", chat(text)).await.status()
        };
        let mut last = asked(&hostile, "broken").await;
        for _ in 0..8 {
            last = asked(&hostile, "broken").await;
            assert_eq!(asked(&other, "fine").await, 200, "{model}");
        }
        // It shuts out itself.
        assert_eq!(last, 503, "{model}");
        assert_eq!(asked(&hostile, "fine").await, 503, "{model}");
    }
}

#[tokio::test]
async fn a_key_that_reads_slowly_leaves_slots_to_others() {
    let upstream = Loopback::answering(|request| match request.prompt() == "slow" {
        true => Script::events(["{}", "{}"]).cut(12, Cut::Stall),
        false => Script::reply("ok"),
    })
    .await;
    let keys = Keys::new().await;
    let (slow, other) = (keys.make(json!({})).await, keys.make(json!({})).await);
    let mut setup = Setup::relay();
    setup.endpoint = json!({"max_in_flight": 4, "timeouts": {"total_ms": 3_000}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let chat = |model: &str, text: &str| {
        let messages = json!([{"role": "user", "content": text}]);
        json!({"model": model, "messages": messages})
    };
    let path = "/v1/chat/completions";
    let mut held = Vec::new();
    for _ in 0..3 {
        let response = ask(&server, &slow, path, chat("model-1", "slow")).await;
        assert_eq!(response.status(), 200);
        held.push(response);
    }
    assert_eq!(ask(&server, &slow, path, chat("model-1", "slow")).await.status(), 504);
    for model in ["model-1", "prompt-r1"] {
        assert_eq!(ask(&server, &other, path, chat(model, "quick")).await.status(), 200, "{model}");
    }
}

#[tokio::test]
async fn lists_of_models_are_requested_once_and_leave_slots_to_others() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Loopback::answering(move |request| match request.path.as_str() {
        "/v1/models" => Script::json(200, json!({"data": [{"id": "listed"}]})).held(&held),
        _ => Script::reply("ok"),
    })
    .await;
    let keys = Keys::new().await;
    let (one, other) = (keys.make(json!({})).await, keys.make(json!({})).await);
    let mut setup = Setup::relay();
    setup.endpoint = json!({"max_in_flight": 2});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let list = || server.client.get(format!("{}/v1/models", server.url)).bearer_auth(&one).send();
    let lists: Vec<_> = (0..16).map(|_| tokio::spawn(list())).collect();
    upstream.wait_for_requests(1).await;
    let chat = json!({"model": "model-1", "messages": [{"role": "user", "content": "quick"}]});
    assert_eq!(ask(&server, &other, "/v1/chat/completions", chat).await.status(), 200);
    gate.open_once();
    for list in lists {
        let response = list.await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.text().await.unwrap().contains("\"listed\""));
    }
    let requests = upstream.requests();
    assert_eq!(requests.iter().filter(|request| request.path == "/v1/models").count(), 1);
}

#[tokio::test]
async fn bodies_take_no_memory_while_their_responses_are_read() {
    let upstream = Loopback::answering(|_| Script::events(["{}", "{}"]).cut(12, Cut::Stall)).await;
    let keys = Keys::new().await;
    let key = keys.make(json!({})).await;
    let mut setup = Setup::relay();
    setup.server.body_limit_bytes = 1_000_000;
    setup.server.bounds.bodies_bytes = 4_000_000;
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let messages = json!([{"role": "user", "content": "a ".repeat(475_000)}]);
    let mut held = Vec::new();
    for number in 0..6 {
        let body = json!({"model": "model-1", "messages": messages});
        let response = ask(&server, &key, "/v1/chat/completions", body).await;
        assert_eq!(response.status(), 200, "{number}");
        held.push(response);
    }
}

#[tokio::test]
async fn passed_through_answers_count_as_requests() {
    let upstream = Loopback::start().await;
    let chat = |n: Value| json!({"model": "model-1", "messages": [], "n": n});
    let table = [
        ("/v1/chat/completions", chat(json!(16))),
        ("/v1/chat/completions", chat(json!("16"))),
        ("/v1/completions", json!({"model": "model-1", "prompt": "a", "best_of": 16})),
        ("/v1/images/generations", json!({"model": "model-1", "prompt": "a", "N": 16})),
    ];
    for (path, body) in table {
        let keys = Keys::new().await;
        let key = keys.make(json!({"requests_per_minute": 3})).await;
        let mut setup = Setup::relay();
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let (status, code, _) = outcome(ask(&server, &key, path, body.clone()).await).await;
        assert_eq!((status, &*code), (429, "rate_limit_exceeded"), "{path} {body}");
    }
    assert!(upstream.requests().is_empty());
    let keys = Keys::new().await;
    let key = keys.make(json!({"requests_per_minute": 4})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for (n, status) in [(3, 200), (2, 429), (1, 429)] {
        let response = ask(&server, &key, "/v1/chat/completions", chat(json!(n))).await;
        assert_eq!(response.status(), status, "{n}");
    }
}

#[tokio::test]
async fn a_form_with_two_boundaries_does_not_pass_the_list_of_models() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"models": ["m"]})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let part = |boundary: &str, name: &str, value: &str| {
        format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let inner = format!("{}--A--\r\n", part("A", "model", "m"));
    let outer = part("B", "model", "expensive") + &part("B", "file", &inner) + "--B--\r\n";
    for (kind, body, status) in [
        ("multipart/form-data; boundary=A", &inner, 200),
        ("multipart/form-data; boundary=B", &outer, 403),
        ("multipart/form-data; boundary=A; boundary=B", &outer, 400),
    ] {
        let asked = server.client.post(format!("{}/v1/audio/transcriptions", server.url));
        let asked = asked.bearer_auth(&key).header("content-type", kind).body(body.clone());
        assert_eq!(asked.send().await.unwrap().status(), status, "{kind}");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_limited_key_has_no_work_done_later() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let mut setup = Setup::relay();
    let priced = json!({"input_per_million": 1.0});
    setup.endpoint = json!({"prices": priced, "allow_unpriced": true});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let limits = [
        (json!({"budget_per_day": 100.0}), 403),
        (json!({"tokens_per_minute": 1_000_000}), 403),
        (json!({"requests_per_minute": 100}), 200),
    ];
    for (limits, status) in limits {
        let key = keys.make(limits.clone()).await;
        for path in [
            "/v1/batches",
            "/v1/messages/batches",
            "/v1/fine_tuning/jobs",
            "/v1/realtime/client_secrets",
            "/v1/realtime/sessions",
            "/v1/threads/t/runs",
        ] {
            let (found, code, _) =
                outcome(ask(&server, &key, path, json!({"model": "model-1"})).await).await;
            let expected = if status == 403 { "route_not_allowed" } else { "" };
            assert_eq!((found, &*code), (status, expected), "{path} {limits}");
        }
    }
    // A budget buys nothing that names no model, either.
    let key = keys.make(json!({"budget_per_day": 100.0})).await;
    let (status, code, _) = outcome(ask(&server, &key, "/v1/files", json!({})).await).await;
    assert_eq!((status, &*code), (403, "model_not_priced"));
}

#[tokio::test]
async fn a_limited_key_cannot_have_other_models_answer() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let mut setup = Setup::relay();
    setup.endpoint = json!({"prices": {"input_per_million": 1.0}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for (limits, status) in [
        (json!({"models": ["model-1"]}), 400),
        (json!({"budget_per_day": 100.0}), 400),
        (json!({"requests_per_minute": 100}), 200),
    ] {
        let key = keys.make(limits).await;
        for name in ["models", "fallbacks"] {
            let mut body = json!({"model": "model-1", "messages": []});
            body[name] = json!(["expensive"]);
            let response = ask(&server, &key, "/v1/chat/completions", body).await;
            assert_eq!(response.status(), status, "{name}");
            if status == 400 {
                let error: Value = response.json().await.unwrap();
                assert_eq!(error["error"]["param"], name);
            }
        }
    }
}

#[tokio::test]
async fn a_limited_key_cannot_have_answers_made_later() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let mut setup = Setup::relay();
    setup.endpoint = json!({"prices": {"input_per_million": 1.0}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let later = json!({"model": "model-1", "input": "a", "background": true});
    let now = json!({"model": "model-1", "input": "a", "background": false});
    for (limits, status) in [
        (json!({"budget_per_day": 100.0}), 400),
        (json!({"tokens_per_minute": 1000}), 400),
        (json!({"requests_per_minute": 100}), 200),
    ] {
        let key = keys.make(limits).await;
        let response = ask(&server, &key, "/v1/responses", later.clone()).await;
        assert_eq!(response.status(), status);
        if status == 400 {
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["error"]["param"], "background");
        }
        assert_eq!(ask(&server, &key, "/v1/responses", now.clone()).await.status(), 200);
    }
}
