//! Requests designed to be expensive: each is answered soon, names the limit that it exceeds, and
//! delays no other.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::loopback::{Loopback, Script};
use crate::server::{Server, Setup};

const CHAT: &str = "/v1/chat/completions";
const SOLVE: &str = "/v1/solve";
const MEGABYTE: usize = 1_000_000;
/// Far more than any of them takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A chat request with these fields beside the usual ones.
fn chat(fields: Value) -> String {
    let mut body = json!({"model": "prompt-r1", "messages": [{"role": "user", "content": "q"}]});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

fn with_schema(schema: Value) -> String {
    chat(json!({"response_format": {"type": "json_schema",
                                    "json_schema": {"name": "s", "schema": schema}}}))
}

/// `a0` is empty, and each further one, up to `a{count}`, is made from a reference to the one
/// before.
fn references(count: usize, next: impl Fn(Value) -> Value) -> Value {
    let mut definitions = Map::new();
    definitions.insert("a0".to_owned(), json!({}));
    for at in 1..=count {
        let before = json!({"$ref": format!("#/$defs/a{}", at - 1)});
        definitions.insert(format!("a{at}"), next(before));
    }
    json!({"$defs": definitions, "$ref": format!("#/$defs/a{count}")})
}

fn patterns(count: usize) -> Value {
    let pattern =
        |at: usize| (format!("p{at}"), json!({"pattern": format!("(\\w|\\pL){{60}}a{at}")}));
    json!({"properties": (0..count).map(pattern).collect::<Map<_, _>>()})
}

/// A list of `count` texts of JSON.
fn list(count: usize, each: &str) -> String {
    format!("[{}]", vec![each; count].join(","))
}

/// Sends a request while `/livez` is polled; returns the status, the error and the reply's length.
async fn send(server: &Server, path: &str, body: String) -> (u16, Value, usize) {
    let asked = server.client.post(format!("{}{path}", server.url)).body(body);
    let asked = asked.header("content-type", "application/json").send();
    let alive = server.client.get(format!("{}/livez", server.url)).send();
    let both = async { tokio::join!(asked, alive) };
    let (response, alive) = tokio::time::timeout(PATIENCE, both).await.expect("it takes too long");
    assert_eq!(alive.unwrap().status(), 200);
    let response = response.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap();
    (status, body["error"].clone(), text.len())
}

#[tokio::test]
async fn no_body_costs_much_or_goes_unanswered() {
    let upstream = Loopback::answering(|_| Script::reply("{\"a\": 1}")).await;
    let mut setup = Setup::relay();
    // The limit on steps must apply, not that on time, whatever else this machine does.
    setup.server.bounds.check_ms = 60_000;
    let server = setup.start(&upstream).await;
    let long = "x".repeat(9 * MEGABYTE);
    let text = |text: &str| json!([{"role": "user", "content": text}]);
    let raw = |fields: &str| {
        format!(
            "{{\"model\":\"prompt-r1\",\"messages\":[{{\"role\":\"user\",\"content\":\"q\"}}],{fields}}}"
        )
    };
    let messages = list(150_000, r#"{"role":"user","content":"q"}"#);
    let deep = format!("\"metadata\":{}{}", "[".repeat(MEGABYTE), "]".repeat(MEGABYTE));
    let object = format!("\"metadata\":{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    let values = "server.bounds.json_bytes";
    let table = [
        (
            "a chain of references",
            CHAT,
            with_schema(references(8_000, |r| json!({"allOf": [r]}))),
            400,
            "server.bounds.schema",
        ),
        (
            "a bare chain",
            CHAT,
            with_schema(references(900, |r| r)),
            400,
            "server.bounds.schema_reference_chain",
        ),
        (
            "an exponential schema",
            CHAT,
            with_schema(references(60, |r| json!({"allOf": [r, r]}))),
            502,
            "too many steps",
        ),
        ("many patterns", CHAT, with_schema(patterns(700)), 400, "server.bounds.schema_patterns"),
        (
            "a large pattern",
            CHAT,
            with_schema(patterns(1)),
            400,
            "response_format.json_schema.schema",
        ),
        (
            "a long schema",
            CHAT,
            with_schema(json!({"title": long})),
            400,
            "server.bounds.schema_bytes",
        ),
        (
            "many properties",
            CHAT,
            with_schema(
                json!({"properties": (0..60_000).map(|at| (format!("p{at}"), json!({}))).collect::<Map<_, _>>()}),
            ),
            413,
            values,
        ),
        (
            "metadata of many objects",
            CHAT,
            raw(&format!("\"metadata\":{{\"x\":{}}}", list(125_000, "{\"a\":0}"))),
            413,
            values,
        ),
        (
            "the same, 16 times",
            CHAT,
            raw(&format!("\"n\":16,\"metadata\":{{\"x\":{}}}", list(4_000, "{\"a\":0}"))),
            413,
            "`n` = 16",
        ),
        (
            "a long question, 16 times",
            CHAT,
            chat(json!({"n": 16, "messages": text(&long)})),
            413,
            "server.bounds.choices_bytes",
        ),
        (
            "many tools",
            CHAT,
            raw(&format!("\"tools\":{}", list(60_000, "{\"type\":\"function\"}"))),
            413,
            values,
        ),
        (
            "many messages",
            CHAT,
            format!("{{\"model\":\"prompt-r1\",\"messages\":{messages}}}"),
            413,
            values,
        ),
        (
            "many stop sequences",
            CHAT,
            raw(&format!("\"stop\":{}", list(MEGABYTE, "\"x\""))),
            413,
            values,
        ),
        (
            "many biases",
            CHAT,
            raw(&format!(
                "\"logit_bias\":{{{}}}",
                (0..200_000).map(|at| format!("\"{at}\":1")).collect::<Vec<_>>().join(",")
            )),
            413,
            values,
        ),
        ("deep lists", CHAT, raw(&deep), 413, values),
        ("deep objects", CHAT, raw(&object), 400, "recursion limit"),
        ("a long unknown field", CHAT, raw(&format!("\"{long}\":1")), 400, "is not known"),
        (
            "a long model",
            CHAT,
            json!({"model": format!("prompt-r1/{long}"), "messages": text("q")}).to_string(),
            404,
            "no model is called",
        ),
        (
            "a long large model",
            SOLVE,
            json!({"question": "q", "large_model": long}).to_string(),
            404,
            "no large model",
        ),
        (
            "a long policy",
            SOLVE,
            json!({"question": "q", "policy": long}).to_string(),
            404,
            "no policy",
        ),
        (
            "a long role",
            CHAT,
            chat(json!({"messages": [{"role": long, "content": "q"}]})),
            400,
            "is not known",
        ),
        ("a long value of the wrong type", CHAT, chat(json!({"seed": long})), 400, "is not valid"),
        (
            "a long kind of format",
            CHAT,
            chat(json!({"response_format": {"type": long}})),
            400,
            "is not known",
        ),
        ("a long user", CHAT, chat(json!({"user": long})), 200, ""),
        (
            "a long stop sequence",
            CHAT,
            chat(json!({"stop": long})),
            400,
            "server.bounds.stop_bytes",
        ),
        ("a long question", SOLVE, json!({"question": long}).to_string(), 200, ""),
        (
            "a long image",
            CHAT,
            chat(json!({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": format!("data:,{long}")}}]}]})),
            200,
            "",
        ),
        (
            "control tokens",
            SOLVE,
            json!({"question": "<|end|>".repeat(1_200_000)}).to_string(),
            200,
            "",
        ),
        (
            "our own tags",
            SOLVE,
            json!({"question": "<answer>".repeat(1_000_000)}).to_string(),
            200,
            "",
        ),
        (
            "a number of many digits",
            CHAT,
            raw(&format!("\"seed\":{}", "9".repeat(9 * MEGABYTE))),
            400,
            "",
        ),
        (
            "a number beyond all",
            CHAT,
            raw("\"temperature\":1e999999"),
            400,
            "the body is not valid JSON",
        ),
        ("the same field twice", CHAT, raw("\"n\":1,\"n\":1"), 400, "duplicate field"),
        (
            "many backslashes",
            CHAT,
            raw(&format!("\"user\":\"{}\"", "\\\\".repeat(4 * MEGABYTE))),
            200,
            "",
        ),
        (
            "a text that does not end",
            CHAT,
            raw(&format!("\"user\":\"{long}")),
            400,
            "the body is not valid JSON",
        ),
        ("nothing but space", CHAT, " ".repeat(9 * MEGABYTE), 400, "the body is empty"),
    ];
    for (name, path, body, status, part) in table {
        let (found, error, length) = send(&server, path, body).await;
        assert_eq!(found, status, "{name}: {error}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{name}: {message}");
        assert!(status == 200 || length < 10_000, "{name}: an error of {length} bytes");
    }
}

#[tokio::test]
async fn a_deadline_ends_a_check_that_goes_on() {
    let upstream = Loopback::answering(|_| Script::reply("1")).await;
    let mut setup = Setup::relay();
    setup.server.bounds.schema_steps = u64::MAX;
    setup.server.bounds.check_ms = 200;
    let server = setup.start(&upstream).await;
    let body = with_schema(references(60, |r| json!({"allOf": [r, r]})));
    let (status, error, _) = send(&server, CHAT, body).await;
    assert_eq!((status, &error["code"]), (502, &json!("invalid_response_format")), "{error}");
}

#[tokio::test]
async fn long_heads_are_refused_or_harmless() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let solve = format!("{}/v1/solve", server.url);
    let question = json!({"question": "q"});
    let query = "a=1&".repeat(10_000);
    let asked = server.client.post(format!("{solve}?{query}")).json(&question).send().await;
    assert_eq!(asked.unwrap().status(), 200);
    for (length, status) in [(60_000, 200), (2 * MEGABYTE, 431)] {
        let asked = server.client.post(&solve).header("x-request-id", "x".repeat(length));
        // A client may find the connection closed before everything is sent.
        if let Ok(response) = asked.json(&question).send().await {
            assert_eq!(response.status(), status, "{length}");
        }
    }
    assert_eq!(server.get("/livez").await.status(), 200);
}
