//! Real endpoints' behaviour: what llama.cpp, vLLM, Mistral, Gemini's OpenAI layer, OpenRouter,
//! Ollama, Azure and similar proxies send or refuse. Nothing is lost, and nothing is billed twice.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use prompt_r1::large_model::{Reply, ReplyChunk};

use super::*;
use crate::loopback::{Recorded, chunk};

/// The texts of a stream, and its end.
pub(super) async fn streamed(
    endpoint: &Endpoint,
    asked: &Call,
) -> Result<(String, Reply), LargeModelError> {
    let mut stream = endpoint.stream(asked).await?;
    let mut text = String::new();
    while let Some(next) = stream.next().await {
        match next? {
            ReplyChunk::Text(more) => text.push_str(&more),
            ReplyChunk::Thought(_) => {}
            ReplyChunk::Done(reply) => return Ok((text, reply)),
        }
    }
    panic!("the stream ended silently after {text:?}");
}

pub(super) fn sse(events: &[&str]) -> Script {
    let body: String = events.iter().map(|event| format!("{event}\n\n")).collect();
    Script::bytes(200, "text/event-stream", body)
}

pub(super) fn data(delta: Value, finish: Option<&str>) -> String {
    format!("data: {}", chunk(delta, finish))
}

fn whole(message: &str) -> String {
    format!("{{\"choices\":[{{\"index\":0,\"message\":{message},\"finish_reason\":\"stop\"}}]}}")
}

fn json_body(body: impl Into<Vec<u8>>) -> Script {
    Script::bytes(200, "application/json", body)
}

fn gzip(script_body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(script_body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn replies_that_are_odd_are_read() {
    let hi = || data(json!({"content": "hi"}), None);
    let end = || data(json!({}), Some("stop"));
    let part = |kind: &str, text: &str| json!({"content": [{"type": kind, kind: text}]});
    let raw =
        |text: &[u8]| [b"{\"choices\":[{\"message\":{\"content\":\"", text, b"\"}}]}"].concat();
    let halves = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\\ud83d\"}}]}",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\ude00b\"}}]}",
        &end(),
    ];
    let bytes = |byte: u8| {
        [b"data: {\"choices\":[{\"delta\":{\"content\":\"", &[byte][..], b"\"}}]}\n\n"].concat()
    };
    let euro =
        [bytes(0xe2), bytes(0x82), bytes(0xac), end().into_bytes(), b"\n\n".to_vec()].concat();
    let plain = format!("{}\n\n{}\n\n", hi(), end());
    let lines =
        [chunk(json!({"content": "h"}), None), chunk(json!({"content": "i"}), Some("stop"))];
    let ndjson = lines.map(|line| line.to_string()).join("\n");
    let table: Vec<(&str, &str, Script)> = vec![
        ("null content", "", json_body(whole("{\"content\":null}"))),
        ("thoughts only", "", json_body(whole("{\"content\":null,\"reasoning_content\":\"t\"}"))),
        ("no content", "", json_body(whole("{}"))),
        (
            "parts",
            "hi",
            json_body(whole(
                "{\"content\":[{\"type\":\"text\",\"text\":\"h\"},{\"type\":\"text\",\"text\":\"i\"}]}",
            )),
        ),
        (
            "streamed parts",
            "hi",
            sse(&[
                &data(part("thinking", "t"), None),
                &data(part("text", "h"), None),
                &data(part("text", "i"), None),
                &data(json!({"content": ""}), Some("stop")),
            ]),
        ),
        (
            "NaN",
            "hi",
            json_body("{\"choices\":[{\"message\":{\"content\":\"hi\"},\"logprobs\":NaN}]}"),
        ),
        ("byte order mark", "hi", json_body(format!("\u{feff}{}", whole("{\"content\":\"hi\"}")))),
        (
            "doubled keys",
            "hi",
            json_body(whole("{\"content\":\"no\",\"content\":\"hi\"}").replacen(
                '{',
                "{\"error\":null,\"error\":null,",
                1,
            )),
        ),
        ("white space first", "hi", json_body(format!("\n\n  {}", whole("{\"content\":\"hi\"}")))),
        ("lone surrogate", "cut \u{fffd}", json_body(raw(b"cut \\ud83d"))),
        ("Latin-1", "caf\u{fffd}", json_body(raw(b"caf\xe9"))),
        ("surrogates in halves", "a\u{1f600}b", sse(&halves)),
        ("bytes in thirds", "€", Script::bytes(200, "text/event-stream", euro)),
        (
            "a stream that nobody asked for",
            "hi",
            Script::bytes(200, "text/event-stream", plain.clone()),
        ),
        ("a chunk a line", "hi", json_body(ndjson)),
        (
            "gzip",
            "hi",
            json_body(gzip(&whole("{\"content\":\"hi\"}"))).header("content-encoding", "gzip"),
        ),
        (
            "gzip of events",
            "hi",
            Script::bytes(200, "text/event-stream", gzip(&plain))
                .header("content-encoding", "gzip"),
        ),
        (
            "heartbeats",
            "hi",
            sse(&[
                "data:",
                "event: ping\ndata:",
                "data: heartbeat",
                "event: keepalive\ndata: 2026-01-01",
                "data: {\"type\":\"ping\"}",
                ": comment",
                &hi(),
                "event: ping\ndata: {\"type\": \"ping\"",
                &end(),
            ]),
        ),
        (
            "errors that are none",
            "hi",
            json_body(whole("{\"content\":\"hi\"}").replacen(
                '{',
                "{\"error\":{\"code\":0,\"message\":\"\"},",
                1,
            )),
        ),
        (
            "many headers",
            "hi",
            (0..300).fold(json_body(whole("{\"content\":\"hi\"}")), |script, number| {
                script.header(&format!("x-{number}"), "1")
            }),
        ),
    ];
    for (name, expected, script) in table {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
        let reply = endpoint.complete(&call("hi")).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(reply.message.as_text(), expected, "{name}");
        let (text, reply) =
            streamed(&endpoint, &call("hi")).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((&*text, &*reply.message.as_text()), (expected, expected), "{name}");
        assert_eq!(reply.finish_reason, "stop", "{name}");
        assert_eq!(server.requests().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn errors_inside_streams_are_errors() {
    let text = || data(json!({"content": "Hello "}), None);
    let table = [
        (
            "object",
            "data: {\"object\":\"error\",\"message\":\"CUDA out of memory\",\"code\":500}",
            "answered 500: CUDA",
        ),
        ("detail", "data: {\"detail\":\"gone\"}", "answered 502: gone"),
        (
            "code in a string",
            "data: {\"error\":{\"message\":\"slow down\",\"code\":\"429\"}}",
            "answered 429: slow down",
        ),
        (
            "in a choice",
            "data: {\"choices\":[{\"delta\":{},\"error\":{\"message\":\"gone\",\"code\":503}}]}",
            "answered 503: gone",
        ),
        ("by name", "event: error\ndata: it broke", "answered 502: it broke"),
        (
            "in an array",
            "data: [{\"error\":{\"message\":\"gone\",\"code\":503}}]",
            "answered 503: gone",
        ),
        (
            "Groq's",
            "data: {\"choices\":[],\"x_groq\":{\"id\":\"req_1\",\"error\":\"over capacity\"}}",
            "answered 502: over capacity",
        ),
        (
            "by its reason",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}",
            "finish reason `error`",
        ),
    ];
    for (name, event, expected) in table {
        let script = sse(&[&text(), event, "data: [DONE]"]);
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
        let error = streamed(&endpoint, &call("hi")).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert_eq!(server.requests().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn thoughts_in_tags_are_no_part_of_the_text() {
    let pieces = ["<thi", "nk>\nhm", "</think>", "\n\nYes."];
    let events = pieces.map(|piece| data(json!({"content": piece}), None));
    let end = data(json!({}), Some("stop"));
    let events: Vec<&str> = events.iter().chain([&end]).map(String::as_str).collect();
    let message = json!({"content": pieces.concat()}).to_string();
    for script in [sse(&events), json_body(whole(&message))] {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({}));
        let (text, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
        assert_eq!(text, "Yes.");
        for reply in [reply, endpoint.complete(&call("hi")).await.unwrap()] {
            assert_eq!((&*reply.message.as_text(), reply.thoughts()), ("Yes.", Some("hm")));
        }
        // A policy writes such tags.
        let asked = Call { keeps_tags: true, ..call("hi") };
        let (text, reply) = streamed(&endpoint, &asked).await.unwrap();
        assert_eq!((text, reply.thoughts()), (pieces.concat(), None));
    }
}

#[tokio::test]
async fn tool_calls_are_whole() {
    let call_of = |index: Option<u64>, id: &str, name: &str, arguments: Value| {
        let mut piece = json!({"id": id, "function": {"name": name, "arguments": arguments}});
        if let Some(index) = index {
            piece["index"] = json!(index);
        }
        json!({"tool_calls": [piece]})
    };
    let paris = json!("{\"city\": \"Paris\"}");
    let rome = json!("{\"city\": \"Rome\"}");
    let calls = |index: Option<u64>, ids: [&str; 2]| {
        sse(&[
            &data(call_of(index, ids[0], "f", paris.clone()), None),
            &data(call_of(index, ids[1], "f", rome.clone()), None),
            &data(json!({}), Some("stop")),
        ])
    };
    let objects = json!({"content": null, "tool_calls": [
        {"function": {"name": "f", "arguments": {"city": "Paris"}}},
        {"id": "", "function": {"name": "f", "arguments": {"city": "Rome"}}}]});
    let table = [
        ("all index 0", calls(Some(0), ["call_a", "call_b"])),
        ("no index", calls(None, ["call_a", "call_b"])),
        ("neither index nor id", calls(None, ["", ""])),
        ("index 0, no id", calls(Some(0), ["", ""])),
        ("arguments as objects", json_body(whole(&objects.to_string()))),
    ];
    for (name, script) in table {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({}));
        let (_, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
        let calls = reply.message.extra["tool_calls"].as_array().unwrap().clone();
        let cities: Vec<_> = calls
            .iter()
            .map(|call| {
                assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()), "{name}: {call}");
                assert_eq!(call["type"], "function", "{name}");
                let arguments = call["function"]["arguments"].as_str().unwrap();
                serde_json::from_str::<Value>(arguments).unwrap()["city"].clone()
            })
            .collect();
        assert_eq!(cities, ["Paris", "Rome"], "{name}");
        assert_ne!(calls[0]["id"], calls[1]["id"], "{name}");
        assert_eq!(reply.finish_reason, "tool_calls", "{name}");
    }
    let pieces = (0..100_000).map(|index| json!({"index": index, "id": index.to_string()}));
    let flood = data(json!({"tool_calls": pieces.collect::<Vec<_>>()}), None);
    let script = sse(&[&flood]);
    let server = Loopback::answering(move |_| script.clone()).await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let error = streamed(&endpoint, &call("hi")).await.unwrap_err();
    assert!(error.to_string().contains("more than 128 tools"), "{error}");
}

#[tokio::test]
async fn finish_reasons_and_usage_are_understood() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"prices": {"output_per_million": 1e6}}));
    for (said, expected) in
        [("eos_token", "stop"), ("STOP", "stop"), ("", "stop"), ("MAX_TOKENS", "length")]
    {
        server.then(Script::message(json!({"content": "a"}), said));
        assert_eq!(endpoint.complete(&call("hi")).await.unwrap().finish_reason, expected, "{said}");
    }
    let usage = |usage: &str| {
        json_body(whole("{\"content\":\"12345678\"}").replacen('{', &format!("{{{usage}"), 1))
    };
    let table = [
        ("\"usage\":{\"prompt_tokens\":11.0,\"completion_tokens\":7.0},", (11, 7)),
        ("\"usage\":{\"prompt_tokens\":\"11\",\"completion_tokens\":\"7\"},", (11, 7)),
        ("\"usage\":{\"input_tokens\":11,\"output_tokens\":7},", (11, 7)),
        // Nothing is said: a word was asked, in the frame of a message, and eight digits replied.
        ("", (8, 6)),
        ("\"usage\":null,", (8, 6)),
    ];
    for (said, expected) in table {
        server.then(usage(said)).then(usage(said));
        let reply = endpoint.complete(&call("hi")).await.unwrap();
        let (_, again) = streamed(&endpoint, &call("hi")).await.unwrap();
        for reply in [reply, again] {
            let used = (reply.usage.prompt_tokens, reply.usage.completion_tokens);
            assert_eq!((used, reply.cost), (expected, expected.1 as f64), "{said}");
        }
    }
    // Cut off after its finish reason: usage is estimated.
    let text = data(json!({"content": "12345678"}), Some("stop"));
    server.then(Script::events([&text["data: ".len()..], "x"]).cut(text.len() + 2, Cut::Reset));
    let (_, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
    assert_eq!(reply.usage.completion_tokens, 6);
}

#[tokio::test]
async fn a_reply_is_over_once_its_usage_is_known() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let end = data(json!({"content": "hi"}), Some("stop"));
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}";
    let body = format!("{end}\n\n{usage}\n\n");
    let length = body.len();
    let stalling = Script::bytes(200, "text/event-stream", body + "never").cut(length, Cut::Stall);
    server.then(stalling);
    let (text, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
    assert_eq!((&*text, reply.usage.prompt_tokens), ("hi", 3));
}

/// Refuses these fields as their endpoints do.
fn refusing(fields: &'static [(&'static str, u16, &'static str)]) -> impl Fn(&Recorded) -> Script {
    |request| {
        let body = request.json();
        let refused = fields.iter().find(|(field, ..)| body.get(field).is_some());
        match refused {
            Some((field, status, message)) => {
                let error =
                    json!({"message": message, "param": field, "type": "invalid_request_error"});
                let detail = json!({"detail": [{"loc": ["body", field], "msg": message}]});
                let body = if *status == 422 { detail } else { json!({"error": error}) };
                Script::json(*status, body)
            }
            None => Script::reply("ok"),
        }
    }
}

#[tokio::test]
async fn unrequested_fields_are_left_out_where_they_are_refused() {
    let server = Loopback::answering(refusing(&[
        ("max_tokens", 400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
        ("temperature", 400, "Unsupported value: 'temperature' does not support 0.7 with this model."),
        ("seed", 422, "Extra inputs are not permitted"),
        ("stream_options", 400, "Unknown field: `stream_options`"),
        ("stop", 400, "'stop' is not supported"),
    ]))
    .await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let own = json!({"max_tokens": 9, "temperature": 0.7, "seed": 3, "stop": ["x"]});
    let asked = Call { optional_params: own.as_object().cloned().unwrap(), ..call("hi") };
    let (text, _) = streamed(&endpoint, &asked).await.unwrap();
    assert_eq!((&*text, server.requests().len()), ("ok", 6));
    let sent = server.last().json();
    assert_eq!(sent["max_completion_tokens"], json!(9));
    for field in ["max_tokens", "temperature", "seed", "stop", "stream_options"] {
        assert_eq!(sent.get(field), None, "{field}");
    }
    // Remembered once.
    streamed(&endpoint, &asked).await.unwrap();
    assert_eq!(server.requests().len(), 7);
    // Other models are not affected, and a caller's own fields are never left out.
    let params = json!({"model": "other", "seed": 3}).as_object().cloned().unwrap();
    let error = endpoint.complete(&Call { params, ..call("hi") }).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Status { status: 422, .. }), "{error}");
    assert_eq!(server.requests().len(), 8);
}

#[tokio::test]
async fn fields_are_dropped_and_renamed_where_the_operator_says_so() {
    let server = Loopback::start().await;
    let keys = json!({"drop": ["seed", "stream_options"], "rename": {"max_tokens": "num_predict"}});
    let (endpoint, _) = client(&server.url(), keys);
    let params = json!({"seed": 3, "max_tokens": 9}).as_object().cloned().unwrap();
    streamed(&endpoint, &Call { params, ..call("hi") }).await.unwrap();
    let sent = server.last().json();
    assert_eq!(sent["num_predict"], json!(9));
    for field in ["seed", "max_tokens", "stream_options"] {
        assert_eq!(sent.get(field), None, "{field}");
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_long_wait_is_not_asked_again() {
    let server =
        Loopback::answering(|_| Script::error(429, "slow down").header("retry-after", "20.5"))
            .await;
    let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
    let begun = Instant::now();
    let error = endpoint.complete(&call("hi")).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Status { status: 429, .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_endpoints_key_is_in_no_reply() {
    let server = Loopback::answering(|request| {
        let sent = request.header("authorization").unwrap_or_default().to_owned();
        Script::message(
            json!({"content": format!("you sent {sent} to me"), "echo": {"h": sent}}),
            "stop",
        )
    })
    .await;
    let (endpoint, _) = client(&server.url(), json!({"api_key_env": "TEST_KEY"}));
    let reply = endpoint.complete(&call("hi")).await.unwrap();
    let (text, again) = streamed(&endpoint, &call("hi")).await.unwrap();
    let shown = format!("{reply:?} {again:?} {text}");
    assert!(!shown.contains("planted"), "{shown}");
    assert_eq!(text, "you sent Bearer [redacted] to me");
}

#[tokio::test]
async fn a_connection_that_closes_while_it_is_idle_costs_nothing() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({"retries": {"max": 0}}));
    endpoint.complete(&call("hi")).await.unwrap();
    // The idle connection is closed as the next request arrives.
    server.then(Script::nothing(Cut::Close));
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "ok");
    assert_eq!(outcomes.take(), [AttemptOutcome::Success; 2]);
    assert_eq!((server.requests().len(), server.connections()), (3, 2));
}

#[tokio::test]
async fn lists_of_models_in_every_shape() {
    let shapes = [
        json_body("{\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}]}"),
        json_body("[{\"id\":\"a\",\"price\":NaN},{\"id\":\"b\"}]"),
        json_body("{\"models\":[{\"name\":\"a\"},{\"model\":\"b\"}]}"),
        json_body(gzip("[\"a\",\"b\",\"a\"]")).header("content-encoding", "gzip"),
    ];
    for script in shapes {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({}));
        let models = endpoint.list_models(None).await.unwrap();
        assert_eq!(models.iter().map(|model| &model["id"]).collect::<Vec<_>>(), ["a", "b"]);
        assert!(endpoint.lists("b", None).await && !endpoint.lists("c", None).await);
        assert_eq!(server.requests().len(), 1);
    }
}
