//! Requests that cannot be used: each gets a 400 that names the field, and costs nothing.

use serde_json::{Value, json};

use crate::loopback::Loopback;
use crate::server::{Server, Setup};

const CHAT: &str = "/v1/chat/completions";
const SOLVE: &str = "/v1/solve";

/// Sends bytes; returns the status and OpenAI's error object.
async fn refused(server: &Server, path: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
    let asked = server.client.post(format!("{}{path}", server.url)).body(body.into());
    let response = asked.header("content-type", "application/json").send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    assert!(error["type"].is_string() && error["code"].is_string(), "{body}");
    assert!(error.get("param").is_some(), "{body}");
    if let Some(hint) = error.get("hint") {
        let ending = format!("\nhint: {}", hint.as_str().unwrap());
        assert!(error["message"].as_str().unwrap().ends_with(&ending), "{body}");
    }
    (status, error.clone())
}

#[tokio::test]
async fn invalid_bodies_are_refused() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let deep = format!(r#"{{"model": "prompt-r1", "messages": {}"#, "[".repeat(100_000));
    let table: [&[u8]; 11] = [
        b"",
        b"  ",
        b"{",
        b"null",
        b"7",
        b"\"prompt-r1\"",
        b"[{}]",
        b"{\"model\": \"prompt-r1\", \"messages\": [}",
        b"{\"model\": \"prompt-r1\"} trailing",
        b"{\"model\": \"prompt-r1\", \"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}",
        deep.as_bytes(),
    ];
    for body in table {
        for path in [CHAT, SOLVE] {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            let (status, error) = refused(&server, path, body).await;
            // More JSON values than a request may have. A chat's body is first searched for its
            // model.
            let expected = if path == SOLVE && body.len() > 50_000 { 413 } else { 400 };
            assert_eq!(status, expected, "{path} {shown}: {error}");
        }
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn fields_of_the_wrong_kind_are_named() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let user = json!({"role": "user", "content": "a"});
    let table = [
        ("model", json!(7)),
        ("messages", json!(null)),
        ("messages", json!({})),
        ("messages[0]", json!(["a"])),
        ("messages[1].role", json!([user, {"content": "a"}])),
        ("messages[1].role", json!([user, {"role": 7, "content": "a"}])),
        ("messages[0].role", json!([{"role": "User", "content": "a"}])),
        ("messages[0].content", json!([{"role": "user", "content": []}])),
        ("messages[0].content", json!([{"role": "user", "content": {"text": "a"}}])),
        ("messages[0].content[0]", json!([{"role": "user", "content": ["a"]}])),
        ("stream", json!("yes")),
        ("stream_options.include_usage", json!({"include_usage": 1})),
        ("stream_options.usage", json!({"usage": true})),
        ("n", json!(1.5)),
        ("n", json!(-1)),
        ("n", json!("2")),
        ("seed", json!(0.5)),
        ("temperature", json!("1")),
        ("temperature", json!(-0.1)),
        ("top_p", json!(1.01)),
        ("max_tokens", json!(-1)),
        ("max_completion_tokens", json!(0)),
        ("stop", json!(7)),
        ("stop", json!([7])),
        ("frequency_penalty", json!(2.5)),
        ("presence_penalty", json!("x")),
        ("logit_bias", json!([])),
        ("metadata", json!("x")),
        ("tools", json!({})),
        ("tools[0].type", json!([7])),
        ("response_format.type", json!("json_object")),
        ("response_format.json_schema.schema", json!({"type": "json_schema", "json_schema": {}})),
        ("stream_options", json!([true, true])),
        ("prompt_r1", json!(true)),
        ("prompt_r1", json!(vec![Value::Null; 9])),
        ("prompt_r1.max_turns", json!({"max_turns": "many"})),
        ("prompt_r1.max_cost", json!({"max_cost": 0})),
        ("prompt_r1.deadline_ms", json!({"deadline_ms": 999_999_999})),
        ("frequency_penality", json!(0)),
    ];
    for (param, value) in table {
        let field = param.split(['.', '[']).next().unwrap();
        let mut body = json!({"model": "prompt-r1", "messages": [user]});
        if field == "stream_options" {
            body["stream"] = json!(true);
        }
        body[field] = value;
        let shown = body.to_string();
        let (status, error) = refused(&server, CHAT, shown.clone()).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{shown}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.contains("untagged") && !message.contains("struct"), "{message}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn more_than_ten_megabytes() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let content = "a".repeat(10 * 1024 * 1024);
    let body = json!({"model": "prompt-r1", "messages": [{"role": "user", "content": content}]});
    let (status, error) = refused(&server, CHAT, body.to_string()).await;
    assert_eq!((status, &error["code"]), (413, &json!("request_too_large")));
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn paths_that_are_no_text() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    for id in ["%ff", "a/%ff", "%ff/a"] {
        let response = server.get(&format!("/v1/models/{id}")).await;
        assert_eq!(response.status(), 400, "{id}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], "model", "{id}");
    }
}
