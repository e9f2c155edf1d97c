//! Keys of callers, and their limits.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use prompt_r1::access::{Access, AccessConfig, KeyLimits, NewKey, Store};
use reqwest::Response;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chat_streams::remote;
use crate::eventually::eventually;
use crate::loopback::{Cut, Loopback, Script, chunk};
use crate::process::{self, Process, command, configuration, run};
use crate::server::{Server, Setup, client};

mod hanging;
mod passed;
mod shared;
mod waiting;

const CANCELLED: &str = "prompt_r1_episodes_total{finish_reason=\"cancelled\",policy=\"scripted\"}";

/// A store of keys in a folder of its own.
pub struct Keys {
    folder: TempDir,
    store: Store,
}

impl Keys {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::embedded(&folder.path().join("keys.db")).await.unwrap();
        Self { folder, store }
    }

    /// Stores a key with these limits; returns what its owner sends.
    pub async fn make(&self, limits: Value) -> String {
        make(&self.store, limits).await
    }

    pub async fn access(&self) -> Arc<Access> {
        let store = self.folder.path().join("keys.db");
        let config = AccessConfig { store, ..AccessConfig::default() };
        Arc::new(Access::open(&config, &|_| None).await.unwrap())
    }
}

async fn make(store: &Store, limits: Value) -> String {
    let limits: KeyLimits = serde_json::from_value(limits).unwrap();
    let new = NewKey::new("test", limits, 1).unwrap();
    store.create(&new).await.unwrap();
    new.bearer.expose_secret().to_owned()
}

#[tokio::test]
async fn n_answers_count_as_n_requests() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"requests_per_minute": 4})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let body = |n: u32| json!({"model": "prompt-r1", "n": n, "messages": [{"role": "user", "content": "a"}]});
    for (n, status) in [(3, 200), (2, 429), (1, 429)] {
        let response = ask(&server, &key, "/v1/chat/completions", body(n)).await;
        assert_eq!(response.status(), status, "{n}");
    }
}

#[tokio::test]
async fn a_second_model_does_not_pass_the_list_of_models() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let listed = keys.make(json!({"models": ["model-1"]})).await;
    let any = keys.make(json!({})).await;
    let mut setup = Setup::relay();
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let twice = json!({"model": "model-1", "Model": "other", "messages": []});
    for (key, header, status) in
        [(&listed, "authorization", 400), (&any, "api-key", 200), (&any, "x-api-key", 200)]
    {
        let value = if header == "authorization" { format!("Bearer {key}") } else { key.clone() };
        let request = server.post("/v1/chat/completions", &twice).header(header, value);
        assert_eq!(request.send().await.unwrap().status(), status, "{header}");
    }
    assert!(upstream.requests().iter().all(|request| request.header("x-api-key").is_none()));
}

#[tokio::test]
async fn an_empty_name_in_the_list_of_models_allows_nothing() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let mut made = Vec::new();
    for models in [json!(["model-1", ""]), json!([""]), json!(["model-1", "*"])] {
        made.push((keys.make(json!({"models": models})).await, models));
    }
    let mut setup = Setup::relay();
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for (key, models) in made {
        let files = server.client.get(format!("{}/v1/files", server.url)).bearer_auth(&key);
        assert_eq!(files.send().await.unwrap().status(), 403, "{models}");
        for path in ["/v1/batches", "/v1/chat/completions"] {
            let response = ask(&server, &key, path, json!({"messages": []})).await;
            assert_eq!(response.status(), 403, "{models} {path}");
            let said = response.text().await.unwrap();
            assert!(said.contains("none is named"), "{said}");
        }
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn names_that_no_key_can_have() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("server.toml");
    std::fs::write(&config, format!("access.store = {:?}\n", folder.path().join("keys.db")))
        .unwrap();
    let config = config.to_str().unwrap();
    let list = || run(&["keys", "list", "--config", config]).1;
    let table: [(&[&str], &str); 11] = [
        (&["a", "--models", "prompt-r1,"], "a name is empty"),
        (&["a", "--models", ""], "a name is empty"),
        (&["a", "--models", "prompt-r1, ,m"], "a name is empty"),
        (&["a", "--models", "gpt-*-mini"], "`*` can only be at the end of `gpt-*-mini`"),
        (&["a", "--models", "gpt-**"], "`*` can only be at the end of `gpt-**`"),
        (&["a", "--models", "m\nn"], "a control character"),
        (&["a\n0123456789abcdef\tvalid"], "a control character"),
        (&[" "], "a name is empty"),
        (&["a", "--requests-per-minute", "0"], "--requests-per-minute"),
        (&["a", "--tokens-per-minute", "0"], "--tokens-per-minute"),
        (&["a", "--budget-per-day", "nan"], "not an amount above 0"),
    ];
    for (arguments, said) in table {
        let all = [&["keys", "create", "--config", config][..], arguments].concat();
        let (status, output) = run(&all);
        assert!(status != 0 && output.contains(said), "{arguments:?}: {output}");
    }
    assert_eq!(list(), "");
    let all = ["keys", "create", "--config", config, " a ", "--models", "prompt-r1, m , gpt-*"];
    assert_eq!(run(&all).0, 0);
    assert!(
        list().contains("\tvalid\ta\t{\"models\":[\"prompt-r1\",\"m\",\"gpt-*\"],"),
        "{}",
        list()
    );
}

fn id(bearer: &str) -> &str {
    bearer.split('-').nth(1).unwrap()
}

async fn ask(server: &Server, key: &str, path: &str, body: Value) -> Response {
    server.post(path, &body).bearer_auth(key).send().await.unwrap()
}

async fn solve(server: &Server, key: &str) -> Response {
    ask(server, key, "/v1/solve", json!({"question": "a"})).await
}

/// Status, error code and announced wait.
async fn outcome(response: Response) -> (u16, String, Option<u64>) {
    let wait = response.headers().get("retry-after");
    let wait = wait.map(|wait| wait.to_str().unwrap().parse().unwrap());
    let status = response.status().as_u16();
    let body = response.json::<Value>().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), wait)
}

#[tokio::test]
async fn who_comes_in() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let (valid, revoked) = (keys.make(json!({})).await, keys.make(json!({})).await);
    keys.store.revoke(id(&revoked), 2).await.unwrap();
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let wrong =
        format!("{}{}", &valid[..valid.len() - 1], if valid.ends_with('0') { 1 } else { 0 });
    let unknown = valid.replacen(id(&valid), "0123456789abcdef", 1);
    let table = [
        (None, 401, "missing_api_key"),
        (Some(format!("Basic {valid}")), 401, "missing_api_key"),
        (Some("Bearer sk-something".to_owned()), 401, "invalid_api_key"),
        (Some(format!("Bearer {wrong}")), 401, "invalid_api_key"),
        (Some(format!("Bearer {unknown}")), 401, "invalid_api_key"),
        (Some(format!("Bearer {revoked}")), 401, "invalid_api_key"),
        (Some(format!("Bearer {valid}")), 200, ""),
        (Some(format!("bearer  {valid}")), 200, ""),
    ];
    for (authorization, status, code) in table {
        for (method, path) in
            [("POST", "/v1/solve"), ("GET", "/v1/models"), ("POST", "/v1/embeddings")]
        {
            let url = format!("{}{path}", server.url);
            let mut request = server.client.request(method.parse().unwrap(), url);
            if method == "POST" {
                request = request.json(&json!({"question": "a"}));
            }
            if path == "/v1/embeddings" {
                request = request.json(&json!({"model": "model-1", "input": "a"}));
            }
            if let Some(authorization) = &authorization {
                request = request.header("authorization", authorization);
            }
            let response = request.send().await.unwrap();
            let challenge = response.headers().get("www-authenticate").is_some();
            assert_eq!(challenge, status == 401, "{authorization:?}");
            let text = response.status();
            assert_eq!(text, status, "{authorization:?} {path}");
            let body = response.json::<Value>().await.unwrap();
            assert_eq!(body["error"]["code"].as_str().unwrap_or_default(), code);
            if status == 401 {
                assert_eq!(body["error"]["type"], "authentication_error");
            }
        }
    }
    for path in ["/livez", "/readyz", "/health", "/metrics", "/openapi.json"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
    // No endpoint gets to see a caller's key.
    assert!(!upstream.requests().is_empty());
    for request in upstream.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn a_key_asks_only_for_its_models() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"models": ["prompt-r1", "open-*"]})).await;
    let mut setup = Setup::relay();
    setup.others.insert("other".into(), json!({"url": upstream.url(), "model": "m2"}));
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let chat =
        |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "a"}]});
    let mut hidden = chat("prompt-r1");
    hidden["prompt_r1"] = json!({"large_model": "other"});
    let table = [
        ("/v1/solve", json!({"question": "a"}), 200),
        ("/v1/solve", json!({"question": "a", "large_model": "other"}), 403),
        ("/v1/chat/completions", chat("prompt-r1"), 200),
        ("/v1/chat/completions", chat("prompt-r1/other"), 403),
        ("/v1/chat/completions", hidden, 403),
        ("/v1/chat/completions", chat("open-model"), 200),
        ("/v1/chat/completions", chat("m2"), 403),
        ("/v1/embeddings", json!({"model": "m2"}), 403),
        ("/v1/embeddings", json!({}), 403),
        ("/v1/responses", json!({"model": "prompt-r1/other", "input": "a"}), 403),
        ("/v1/moderations", json!({"model": "m2"}), 403),
        ("/v1/files", json!({}), 403),
        ("/v1/completions", json!({"model": "open-model"}), 200),
    ];
    for (path, body, status) in table {
        let (got, code, _) = outcome(ask(&server, &key, path, body.clone()).await).await;
        assert_eq!(got, status, "{path} {body}");
        assert_eq!(code, if status == 403 { "model_not_allowed" } else { "" }, "{path} {body}");
    }
    let list = server.client.get(format!("{}/v1/models", server.url)).bearer_auth(&key);
    let list = list.send().await.unwrap().json::<Value>().await.unwrap();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["prompt-r1"]);
}

#[tokio::test]
async fn requests_a_minute() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"requests_per_minute": 2})).await;
    let other = keys.make(json!({})).await;
    let mut setup = Setup::relay();
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for _ in 0..2 {
        assert_eq!(solve(&server, &key).await.status(), 200);
    }
    // The server's clock is 20 s before the end of a minute.
    let refused = (429, "rate_limit_exceeded".to_owned(), Some(40));
    assert_eq!(outcome(solve(&server, &key).await).await, refused);
    assert_eq!(solve(&server, &other).await.status(), 200);
}

#[tokio::test]
async fn tokens_a_minute_and_money_a_day() {
    // A call of the loopback has 18 tokens; an episode of the relay adds its own.
    let upstream = Loopback::answering(|request| match request.path.as_str() {
        "/v1/embeddings" => Script::json(200, json!({"data": [], "usage": {"prompt_tokens": 18}})),
        "/v1/completions" => Script::json(200, json!({"text": "no usage"})),
        _ => Script::reply("ok"),
    })
    .await;
    let (question, chat) = (
        json!({"question": "a"}),
        json!({"model": "model-1", "messages": [{"role": "user", "content": "a"}]}),
    );
    let mut streamed = chat.clone();
    streamed["stream"] = json!(true);
    let mut streamed_solve = question.clone();
    streamed_solve["stream"] = json!(true);
    let table = [
        ("/v1/solve", question),
        ("/v1/solve", streamed_solve),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", streamed),
        ("/v1/embeddings", json!({"model": "model-1", "input": "a"})),
        // Without usage, words are counted.
        ("/v1/completions", json!({"model": "model-1", "prompt": "a ".repeat(200)})),
    ];
    for (path, body) in table {
        for (limits, code, wait) in [
            (json!({"tokens_per_minute": 18}), "rate_limit_exceeded", 40),
            (json!({"budget_per_day": 18.0}), "insufficient_quota", 6400),
        ] {
            let keys = Keys::new().await;
            let key = keys.make(limits).await;
            let mut setup = Setup::relay();
            setup.endpoint =
                json!({"prices": {"input_per_million": 1e6, "output_per_million": 1e6}});
            setup.access = Some(keys.access().await);
            let server = setup.start(&upstream).await;
            let first = ask(&server, &key, path, body.clone()).await;
            assert_eq!(first.status(), 200, "{path} {body}");
            first.text().await.unwrap();
            // A passed-through response is counted once it was read to its end.
            let refused = async {
                loop {
                    let response = ask(&server, &key, path, body.clone()).await;
                    if response.status() != 200 {
                        return response;
                    }
                    response.text().await.unwrap();
                }
            };
            let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
            let stops = refused.headers().get("x-should-retry").is_some();
            assert_eq!(stops, code == "insufficient_quota");
            assert_eq!(outcome(refused).await, (429, code.to_owned(), Some(wait)), "{path} {body}");
        }
    }
}

#[tokio::test]
async fn what_was_used_is_counted_though_the_client_left() {
    let upstream = Loopback::answering(|request| {
        let reply = Script::reply("ok");
        if request.prompt() == "second" { reply.after(Duration::from_secs(30)) } else { reply }
    })
    .await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"tokens_per_minute": 18})).await;
    let mut setup = Setup::turns([
        "<interaction_prompt>first</interaction_prompt>",
        "<interaction_prompt>second</interaction_prompt>",
        "<answer>never</answer>",
    ]);
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let body = json!({"question": "a"});
    let asked = server.post("/v1/solve", &body).bearer_auth(&key).send();
    let asked = tokio::spawn(asked);
    upstream.wait_for_requests(2).await;
    asked.abort();
    upstream.wait_for_disconnects(1).await;
    refused(&server, &key).await;
    server.wait_for_metric(CANCELLED, 1.0).await;
    let tokens = "prompt_r1_tokens_total{role=\"large_model\",kind=\"prompt\",policy=\"scripted\"}";
    assert!(server.metric(tokens).await > 11.0);
    for other in ["answered", "error"] {
        assert_eq!(server.metric(&CANCELLED.replace("cancelled", other)).await, 0.0, "{other}");
    }
}

/// Returns when the key has reached a limit.
async fn refused(server: &Server, key: &str) {
    let models = format!("{}/v1/models", server.url);
    let status =
        async || server.client.get(&models).bearer_auth(key).send().await.unwrap().status();
    eventually("a refusal", async || status().await == 429).await;
}

#[tokio::test]
async fn a_call_that_is_cut_is_counted_by_its_words() {
    let long = "a ".repeat(400);
    let messages = json!([{"role": "user", "content": long}]);
    let table = [
        ("/v1/solve", json!({"question": long}), true),
        ("/v1/solve", json!({"question": long, "stream": true}), true),
        ("/v1/solve", json!({"question": long, "deadline_ms": 300}), false),
        ("/v1/chat/completions", json!({"model": "model-1", "messages": messages}), true),
    ];
    for (path, body, leaves) in table {
        let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
        let keys = Keys::new().await;
        let key = keys.make(json!({"tokens_per_minute": 100})).await;
        let mut setup = Setup::relay();
        setup.access = Some(keys.access().await);
        let server = setup.start(&upstream).await;
        let asked = server.post(path, &body).bearer_auth(&key).send();
        let asked = tokio::spawn(async move {
            let response = asked.await.unwrap();
            let should_retry = response.headers().get("x-should-retry").cloned();
            let status = response.status();
            response.text().await.unwrap();
            (status, should_retry)
        });
        upstream.wait_for_requests(1).await;
        if leaves {
            asked.abort();
        } else {
            let (status, should_retry) = asked.await.unwrap();
            assert_eq!(status, 504);
            assert_eq!(should_retry.unwrap(), "false");
        }
        upstream.wait_for_disconnects(1).await;
        refused(&server, &key).await;
    }
}

#[tokio::test]
async fn the_words_of_a_reply_that_is_cut_are_counted() {
    let upstream = Loopback::start().await;
    upstream.then(Script::reply(&"word ".repeat(100)).cut(16_000, Cut::Stall));
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 100.0})).await;
    let mut setup = Setup::turns(["<final_prompt>a</final_prompt>"]);
    setup.endpoint = json!({"prices": {"output_per_million": 1e6}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let body = json!({"question": "a", "stream": true});
    let asked = server.post("/v1/solve", &body).bearer_auth(&key).send().await.unwrap();
    let mut pieces = asked.bytes_stream();
    let mut text = String::new();
    while text.matches("word").count() < 80 {
        text.push_str(std::str::from_utf8(&pieces.next().await.unwrap().unwrap()).unwrap());
    }
    drop(pieces);
    refused(&server, &key).await;
}

#[tokio::test]
async fn thoughts_before_an_error_are_paid_for_once() {
    let thoughts = chunk(json!({"reasoning_content": "word ".repeat(100)}), None).to_string();
    let error = json!({"error": {"message": "gone", "code": 502}}).to_string();
    let upstream = Loopback::answering(move |_| Script::events([&thoughts, &error])).await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 1e6})).await;
    let mut setup = Setup::relay();
    setup.endpoint =
        json!({"prices": {"output_per_million": 1e6}, "retries": {"max": 3, "base_ms": 1}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let response = solve(&server, &key).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["x-should-retry"], "false");
    response.text().await.unwrap();
    assert_eq!(upstream.requests().len(), 1);
    let counted = passed::counted(&keys, &key).await;
    assert!((80..200).contains(&counted), "{counted}");
}

#[tokio::test]
async fn what_is_not_shown_of_a_reply_that_is_cut_is_counted() {
    let thoughts = chunk(json!({"reasoning_content": "word ".repeat(100)}), None);
    let function = json!({"name": "f", "arguments": "word ".repeat(100)});
    let call = json!({"tool_calls": [{"index": 0, "id": "1", "function": function}]});
    let call = chunk(call, None);
    // Google says with every event what was used so far, thoughts that it does not send included.
    let mut hidden = chunk(json!({"content": "a"}), None);
    hidden["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 120});
    // The event, and whatever breaks off after it.
    let broken = |event: &Value, cut: Cut| {
        let event = event.to_string();
        let length = event.len() + "data: \n\n".len();
        Script::events([event, "never".to_owned()]).cut(length, cut)
    };
    let table = [
        (json!({}), &thoughts, Cut::Close, "large_model", "scripted"),
        (json!({"stream": true}), &thoughts, Cut::Close, "large_model", "scripted"),
        (json!({"policy": "direct"}), &thoughts, Cut::Close, "large_model", "direct"),
        (json!({"policy": "direct", "stream": true}), &call, Cut::Close, "large_model", "direct"),
        (json!({"policy": "policy"}), &thoughts, Cut::Close, "policy", "policy"),
        (json!({"deadline_ms": 500}), &thoughts, Cut::Stall, "large_model", "scripted"),
        (json!({"deadline_ms": 500}), &call, Cut::Stall, "large_model", "scripted"),
        (json!({}), &hidden, Cut::Close, "large_model", "scripted"),
        (json!({"policy": "policy"}), &hidden, Cut::Close, "policy", "policy"),
    ];
    for (mut body, event, cut, role, policy) in table {
        let script = broken(event, cut);
        let upstream = Loopback::answering(move |_| script.clone()).await;
        let mut setup = Setup::relay();
        setup.adapters = vec![Arc::new(remote(&upstream))];
        let server = setup.start(&upstream).await;
        body["question"] = json!("a");
        server.ask("/v1/solve", body.clone()).await.text().await.unwrap();
        let labels = format!("role=\"{role}\",kind=\"completion\",policy=\"{policy}\"");
        let counted = server.metric(&format!("prompt_r1_tokens_total{{{labels}}}")).await;
        assert!((80.0..200.0).contains(&counted), "{body}: {counted}");
        assert_eq!(upstream.requests().len(), 1, "{body}");
    }
    // At the price of the model that thought, though another one replies.
    let upstream = Loopback::start().await;
    upstream.then(broken(&thoughts, Cut::Close));
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 1e6})).await;
    let mut setup = Setup::relay();
    setup.endpoint = json!({"prices": {"output_per_million": 1e6}, "fallbacks": ["other"]});
    let other = json!({"url": upstream.url(), "model": "other", "prices": {}});
    setup.others.insert("other".to_owned(), other);
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    let response = solve(&server, &key).await;
    assert_eq!(response.status(), 200);
    response.text().await.unwrap();
    let counted = passed::counted(&keys, &key).await;
    assert!((80..200).contains(&counted), "{counted}");
}

#[tokio::test]
async fn what_is_being_counted_is_counted_though_the_client_left() {
    // A Redis that accepts commands and never answers.
    let redis = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", redis.local_addr().unwrap());
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 100.0})).await;
    let store = keys.folder.path().join("keys.db");
    let config = AccessConfig { store, redis_url_env: Some("REDIS".into()), ..Default::default() };
    let access = Access::open(&config, &|_| Some(url.clone().into())).await.unwrap();
    let mut setup = Setup::turns(["<final_prompt>a</final_prompt>"]);
    setup.endpoint = json!({"prices": {"input_per_million": 1e6, "output_per_million": 1e6}});
    setup.access = Some(Arc::new(access));
    let server = setup.start(&upstream).await;
    let body = json!({"question": "a"});
    let asked = tokio::spawn(server.post("/v1/solve", &body).bearer_auth(&key).send());
    upstream.wait_for_requests(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!asked.is_finished(), "Redis is not waited for");
    asked.abort();
    let day = 1_700_000_000 / 86_400;
    let spent = async || keys.store.spent(id(&key), day).await.unwrap();
    eventually("spending", async || spent().await == 18_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_the_command_line() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path(), &upstream, "", "");
    let config = config.to_str().unwrap();

    // Without a key, only loopback addresses are allowed.
    let (status, said) = run(&["serve", "--config", config, "--listen", "0.0.0.0:0"]);
    assert_eq!(status, 64, "{said}");
    assert!(said.contains("there are no keys") && said.contains("`server keys create`"), "{said}");
    let open = Process::serve(config.as_ref());
    open.log.wait_for("requests are accepted from this machine only");
    let client = client();
    let ask = async |url: &str, key: &str| {
        let request = client.get(format!("{url}/v1/models")).bearer_auth(key);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(&open.url, "").await, 200);

    let created =
        command(&["keys", "create", "web", "--config", config, "--models", "prompt-r1,x*"])
            .args(["--requests-per-minute", "2", "--budget-per-day", "0.5"])
            .output()
            .unwrap();
    assert!(created.status.success(), "{:?}", process::outcome(&created));
    let key = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    let said = String::from_utf8(created.stderr).unwrap();
    assert!(said.contains("every caller needs one") && !said.contains(&key), "{said}");
    let (status, list) = run(&["keys", "list", "--config", config]);
    assert_eq!(status, 0, "{list}");
    let secret = key.rsplit('-').next().unwrap();
    assert!(list.starts_with(&format!("{}\tvalid\tweb\t", id(&key))), "{list}");
    assert!(list.contains("\"requests_per_minute\":2") && !list.contains(secret), "{list}");
    let file = std::fs::read(folder.path().join("keys.db")).unwrap();
    let is_kept = file.windows(secret.len()).any(|window| window == secret.as_bytes());
    assert!(!is_kept, "the secret is in the store");

    // The running server notices the first key, and a new one may listen anywhere.
    eventually("a closed server", async || ask(&open.url, "").await == 401).await;
    let anywhere = &["serve", "--config", config, "--listen", "0.0.0.0:0"];
    let anywhere = Process::start(&mut command(anywhere));
    let url = anywhere.url.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(ask(&url, &key).await, 200);
    assert_eq!(ask(&url, "").await, 401);

    assert_eq!(run(&["keys", "revoke", id(&key), "--config", config]).0, 0);
    eventually("a revoked key", async || ask(&url, &key).await == 401).await;
    let (status, said) = run(&["keys", "revoke", "nobody", "--config", config]);
    assert_eq!(status, 1);
    assert!(said.contains("there is no key `nobody`"), "{said}");

    // Allowed explicitly.
    let other = tempfile::tempdir().unwrap();
    let config = configuration(other.path(), &upstream, "access.allow_no_keys = true", "");
    let config = config.to_str().unwrap();
    let server =
        Process::start(&mut command(&["serve", "--config", config, "--listen", "0.0.0.0:0"]));
    server.log.wait_for("requests are accepted from anyone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_is_in_the_store_when_the_server_ends() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({"budget_per_day": 100.0})).await;
    let prices = "prices = { input_per_million = 1e6, output_per_million = 1e6 }";
    let config = configuration(keys.folder.path(), &upstream, "", prices);
    let mut server = Process::serve(&config);
    let client = client();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
    let request = client.post(format!("{}/v1/chat/completions", server.url)).json(&body);
    let response = request.bearer_auth(&key).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.text().await.unwrap();
    assert_eq!(server.stop(), 0, "{}", server.log.text());
    assert_eq!(spent_now(&keys, &key).await, 18_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_off_after_the_grace_period_is_charged() {
    let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
    let prices = "prices = { input_per_million = 1e6, output_per_million = 1e6 }";
    let long = "a ".repeat(400);
    let messages = json!([{"role": "user", "content": long}]);
    for (path, body) in [
        ("/v1/solve", json!({"question": long})),
        ("/v1/solve", json!({"question": long, "stream": true})),
        ("/v1/chat/completions", json!({"model": "m", "messages": messages})),
    ] {
        let keys = Keys::new().await;
        let key = keys.make(json!({"budget_per_day": 1e6})).await;
        let config = configuration(keys.folder.path(), &upstream, "server.grace_s = 0", prices);
        let mut server = Process::serve(&config);
        let request = client().post(format!("{}{path}", server.url)).json(&body);
        let before = upstream.requests().len();
        let _asking = tokio::spawn(request.bearer_auth(&key).send());
        upstream.wait_for_requests(before + 1).await;
        assert_eq!(server.stop(), 0, "{}", server.log.text());
        let spent = spent_now(&keys, &key).await;
        // By estimate: a word is about a token.
        assert!(spent >= 300_000_000, "{path} {}: {spent}", body["stream"]);
    }
}

/// What a key has spent on this day, millionths.
async fn spent_now(keys: &Keys, key: &str) -> i64 {
    let day = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    let mut spent = 0;
    // Midnight may be in between.
    for day in [day, day - 1] {
        spent += keys.store.spent(id(key), day as i64).await.unwrap();
    }
    spent
}
