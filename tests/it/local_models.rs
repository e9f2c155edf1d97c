//! Large models of the server's own process, asked by their names.

use std::sync::Arc;

use prompt_r1::large_model::{Call, Reply, Scripted};
use prompt_r1::policy::ScriptedPolicy;
use serde_json::{Value, json};

use crate::access::Keys;
use crate::loopback::{Loopback, Script};
use crate::server::Setup;

const CHAT: &str = "/v1/chat/completions";

/// A server with the model `local` in its process, whose policy is never asked.
fn setup() -> Setup {
    let mut setup = Setup::policy(ScriptedPolicy::turns([]));
    let local = Scripted::new("local", |_: &Call| Ok(Reply::text("Lyon")));
    setup.in_process = vec![Arc::new(local)];
    setup
}

#[tokio::test]
async fn it_answers_alone_by_its_name() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    let messages = json!([{"role": "user", "content": "Where?"}]);
    let routes = [
        (CHAT, json!({"messages": messages})),
        ("/v1/responses", json!({"input": "Where?"})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 100})),
    ];
    for (route, body) in routes {
        for is_stream in [false, true] {
            let mut body = body.clone();
            (body["model"], body["stream"]) = (json!("local"), json!(is_stream));
            let response = server.ask(route, body).await;
            assert_eq!(response.status(), 200, "{route}");
            assert_eq!(response.headers()["x-prompt-r1-policy"], "direct");
            let text = response.text().await.unwrap();
            assert!(
                text.contains("Lyon") && text.contains("\"model\":\"local\""),
                "{route} {text}"
            );
        }
        for option in ["policy", "large_model"] {
            let mut body = body.clone();
            (body["model"], body["prompt_r1"]) = (json!("local"), json!({option: "test"}));
            let (status, reply) = server.json(route, body).await;
            assert_eq!(status, 400, "{route} {reply}");
            assert!(reply.to_string().contains("cannot be set beside"), "{route} {reply}");
        }
    }
    let answered = "prompt_r1_episodes_total{finish_reason=\"answered\",policy=\"direct\"}";
    assert_eq!(server.metric(answered).await, 6.0);

    for path in ["/v1/completions", "/v1/embeddings", "/v1/messages/count_tokens"] {
        let (status, reply) = server.json(path, json!({"model": "local"})).await;
        assert_eq!(status, 404, "{path} {reply}");
        let expected = format!("the model `local` is not at `{path}`");
        let reply = reply.to_string();
        assert!(reply.contains(&expected) && !reply.contains("/v1/solve"), "{reply}");
    }
    assert_eq!(upstream.requests().len(), 0, "the endpoint was asked");

    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids[..4], ["prompt-r1", "prompt-r1/local", "prompt-r1/test", "local"]);
    assert_eq!(server.get("/v1/models/local").await.status(), 200);
}

#[tokio::test]
async fn a_key_may_be_for_it_alone_or_for_the_loop_alone() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = async |models: &[&str]| keys.make(json!({"models": models})).await;
    let (alone, the_loop) = (key(&["local"]).await, key(&["prompt-r1", "prompt-r1/*"]).await);
    let mut setup = setup();
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for (key, model, status) in [
        (&alone, "local", 200),
        (&alone, "prompt-r1/local", 403),
        (&alone, "prompt-r1:direct/local", 403),
        (&the_loop, "local", 403),
        (&the_loop, "prompt-r1:direct/local", 200),
    ] {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "a"}]});
        let request = server.post(CHAT, &body).bearer_auth(key);
        assert_eq!(request.send().await.unwrap().status(), status, "{model}");
    }
    let models = server.client.get(format!("{}/v1/models", server.url)).bearer_auth(&alone);
    let models: Value = models.send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"].as_array().unwrap().len(), 1, "{models}");
    assert_eq!(models["data"][0]["id"], "local");
}

#[tokio::test]
async fn a_name_that_no_model_has_is_refused_with_the_nearest() {
    let upstream = Loopback::answering(|_| Script::json(200, json!({"data": []}))).await;
    let mut setup = setup();
    setup.default_large_model = "local";
    setup.adapters = vec![Arc::new(ScriptedPolicy::turns([]).named("sums"))];
    let server = setup.start(&upstream).await;
    for (model, said) in [
        ("prompt-R1:sums", "did you mean `prompt-r1:sums`?"),
        ("Local", "did you mean `local`?"),
        ("zzzzzzzzzzzzzzz", "hint: `/v1/models` lists all models"),
        ("", "the request names no model"),
    ] {
        let (status, reply) = server.json(CHAT, json!({"model": model})).await;
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(status == 404 && message.contains(said), "{model}: {reply}");
    }
    let reply: Value = server.get("/v1/models/locl").await.json().await.unwrap();
    assert!(reply.to_string().contains("did you mean `local`?"), "{reply}");
}
