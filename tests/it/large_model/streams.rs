//! Streamed replies.

use futures::StreamExt;
use prompt_r1::large_model::{Reply, ReplyChunk};

use super::*;
use crate::loopback::chunk;

/// All texts of a stream, and how it ended.
async fn read(endpoint: &Endpoint, asked: &Call) -> (Vec<String>, Result<Reply, LargeModelError>) {
    let mut stream = match endpoint.stream(asked).await {
        Ok(stream) => stream,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut texts = Vec::new();
    while let Some(next) = stream.next().await {
        let end = match next {
            Ok(ReplyChunk::Text(text)) => {
                texts.push(text);
                continue;
            }
            Ok(ReplyChunk::Thought(_)) => continue,
            Ok(ReplyChunk::Done(reply)) => Ok(reply),
            Err(error) => Err(error),
        };
        assert!(stream.next().await.is_none(), "something came after the end");
        return (texts, end);
    }
    panic!("the stream ended silently after {texts:?}");
}

fn events(texts: &[&str], ends: &[Value]) -> Vec<String> {
    let texts = texts.iter().map(|text| chunk(json!({"content": text}), None));
    texts.chain(ends.iter().cloned()).map(|event| event.to_string()).collect()
}

fn end() -> Value {
    chunk(json!({}), Some("stop"))
}

#[tokio::test]
async fn texts_come_as_they_are_written() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({}));
    server.then(Script::reply("one two three"));
    let (texts, reply) = read(&endpoint, &call("hi")).await;
    assert_eq!(texts, ["one ", "two ", "three"]);
    let reply = reply.unwrap();
    assert_eq!(reply.message, ChatMessage::text("assistant", "one two three"));
    assert_eq!(reply.finish_reason, "stop");
    assert_eq!((reply.usage.prompt_tokens, reply.usage.completion_tokens), crate::loopback::USAGE);
    assert_eq!(outcomes.take(), [AttemptOutcome::Success]);
    let request = server.last().json();
    assert_eq!(request["stream"], json!(true));
    assert_eq!(request["stream_options"], json!({"include_usage": true}));
    for _ in 0..4 {
        read(&endpoint, &call("hi")).await.1.unwrap();
    }
    // The connection is reused.
    assert!(server.connections() < 5, "{}", server.connections());
}

#[tokio::test]
async fn the_first_text_does_not_wait_for_the_last() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({}));
    let first = events(&["first"], &[]);
    let length = format!("data: {}\n\n", first[0]).len();
    server.then(Script::events(&first).cut(length, Cut::Stall));
    let mut stream = endpoint.stream(&call("hi")).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ReplyChunk::Text("first".into()));
    assert_eq!(server.disconnects(), 0);
    drop(stream);
    server.wait_for_disconnects(1).await;
    assert_eq!(outcomes.take(), [AttemptOutcome::Cancelled]);
}

#[tokio::test]
async fn tool_calls_and_reasoning_are_put_together() {
    let message = json!({
        "role": "assistant",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "[]"}},
        ],
    });
    let server = Loopback::start().await;
    server.then(Script::message(message.clone(), "tool_calls"));
    let (endpoint, _) = client(&server.url(), json!({}));
    let (texts, reply) = read(&endpoint, &call("hi")).await;
    let reply = reply.unwrap();
    assert!(texts.is_empty());
    assert_eq!(reply.finish_reason, "tool_calls");
    assert_eq!(reply.message.extra["tool_calls"], message["tool_calls"]);
    assert_eq!(reply.message.extra["reasoning_content"], json!("hm"));
}

#[tokio::test]
async fn all_valid_ends_of_a_stream_are_accepted() {
    let done = || "[DONE]".to_owned();
    let with = |mut events: Vec<String>, last: String| {
        events.push(last);
        events
    };
    let text = || events(&["a", "b"], &[]);
    let finished = || events(&["a", "b"], &[end()]);
    let table = [
        ("finish reason and mark", Script::events(with(finished(), done()))),
        ("finish reason only", Script::events(finished())),
        ("mark only", Script::events(with(text(), done()))),
        (
            "reset after the finish reason",
            Script::events(with(finished(), "x".repeat(50)))
                .cut(finished().iter().map(|event| event.len() + 8).sum(), Cut::Reset),
        ),
        ("no blank line at the end", {
            let body = finished().iter().map(|e| format!("data: {e}\n\n")).collect::<String>();
            Script::bytes(200, "text/event-stream", body + "data: [DONE]")
        }),
        ("carriage returns, comments, names, no content type", {
            let finished = finished();
            let events = finished.iter().map(|e| format!(": ping\r\nevent: x\r\ndata:{e}\r\n\r\n"));
            Script::bytes(200, "", events.collect::<String>())
        }),
        ("byte by byte", Script::reply("a b").drip(Duration::ZERO)),
    ];
    for (name, script) in table {
        let server = Loopback::start().await;
        server.then(script);
        let (endpoint, _) = client(&server.url(), json!({}));
        let (texts, reply) = read(&endpoint, &call("hi")).await;
        assert_eq!(texts.concat().replace(' ', ""), "ab", "{name}");
        assert_eq!(reply.unwrap().message.as_text().replace(' ', ""), "ab", "{name}");
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_stream() {
    let server = Loopback::start().await;
    let body = crate::loopback::completion(&json!({"content": "all at once"}), "stop");
    server.then(Script::json(200, body));
    let (endpoint, outcomes) = client(&server.url(), json!({}));
    let (texts, reply) = read(&endpoint, &call("hi")).await;
    assert_eq!(texts, ["all at once"]);
    assert_eq!(reply.unwrap().usage.prompt_tokens, crate::loopback::USAGE.0);
    assert_eq!(outcomes.take(), [AttemptOutcome::Success]);
}

#[tokio::test]
async fn how_streams_break() {
    let text = || events(&["a"], &[]);
    let length = format!("data: {}\n\n", text()[0]).len();
    let inside = json!({"error": {"message": "gone", "code": 503}});
    let limits = json!({"max_reply_bytes": 100_000, "timeouts": {"idle_ms": 50}});
    let event = format!("data: {}\n\n", text()[0]);
    let table = [
        ("without an end", 1, "without a finish reason", Script::events(text())),
        ("closed", 1, "cannot reach", Script::events(text()).cut(length, Cut::Close)),
        ("reset", 1, "cannot reach", Script::events(text()).cut(length, Cut::Reset)),
        ("stalled", 1, "no next byte", Script::events(text()).cut(length, Cut::Stall)),
        ("error", 1, "answered 503: gone", Script::events(events(&["a"], &[inside]))),
        ("half an event", 1, "no completion chunk", {
            Script::bytes(200, "text/event-stream", format!("{event}{}", &event[..40]))
        }),
        (
            "endless line",
            0,
            "longer than 100000",
            Script::endless("text/event-stream", &"data: x".repeat(100)),
        ),
        (
            "endless comments",
            0,
            "longer than 100000",
            Script::endless("text/event-stream", &": x\n".repeat(100)),
        ),
        (
            "endless event",
            0,
            "longer than 100000",
            Script::endless("text/event-stream", &"data: x\n".repeat(100)),
        ),
        ("empty", 0, "no message", Script::events(["[DONE]"])),
        ("nothing", 0, "no message", Script::bytes(200, "text/event-stream", "")),
        ("HTML", 0, "HTML", Script::bytes(200, "text/event-stream", "<html>")),
        ("no JSON", 0, "no message", Script::events(["x"])),
        ("half an object", 0, "no completion chunk: `{`", Script::events(["{"])),
        ("error at once", 0, "answered 502: no", Script::json(200, json!({"error": "no"}))),
        ("status", 0, "answered 418: teapot", Script::error(418, "teapot")),
    ];
    for (name, count, words, script) in table {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, outcomes) = client(&server.url(), limits.clone());
        let (texts, end) = read(&endpoint, &call("hi")).await;
        let error = end.unwrap_err();
        assert_eq!(texts.len(), count, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert_eq!(outcomes.take(), [AttemptOutcome::from(&error)], "{name}");
    }
}

#[tokio::test]
async fn an_endless_reply_ends() {
    let event = format!("data: {}\n\n", chunk(json!({"content": "word "}), None));
    let script = Script::endless("text/event-stream", &event);
    let server = Loopback::answering(move |_| script.clone()).await;
    let (endpoint, _) = client(&server.url(), json!({"max_reply_bytes": 100_000}));
    let (texts, end) = read(&endpoint, &call("hi")).await;
    assert!(end.unwrap_err().to_string().contains("longer than 100000"));
    assert!(texts.len() > 100);
    server.wait_for_disconnects(1).await;
}

#[tokio::test]
async fn a_reply_is_as_long_as_its_text() {
    // Its events are some thirty times as long.
    let text = ["token "; 15_000];
    let server = Loopback::start().await;
    server.then(Script::events(events(&text, &[end()])));
    let (endpoint, _) = client(&server.url(), json!({"max_reply_bytes": 100_000}));
    let (texts, reply) = read(&endpoint, &call("hi")).await;
    assert_eq!(texts.concat(), text.concat());
    assert_eq!(reply.unwrap().message.as_text(), text.concat());
}

#[tokio::test]
async fn nothing_is_lost_to_a_failure_before_the_first_text() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({"retries": {"max": 9, "base_ms": 1}}));
    let role = chunk(json!({"role": "assistant", "content": ""}), None).to_string();
    let error = json!({"error": {"message": "gone", "code": 503}}).to_string();
    server
        .then(Script::error(500, "busy"))
        .then(Script::nothing(Cut::Reset))
        .then(Script::events([&role, &error]))
        .then(Script::reply("at last"));
    let (texts, reply) = read(&endpoint, &call("hi")).await;
    assert_eq!(texts.concat(), "at last");
    reply.unwrap();
    // An idle connection that was closed does not count as a failed attempt.
    use AttemptOutcome::{Status, Success};
    assert_eq!(outcomes.take(), [Status(500), Status(503), Success]);
    // After the first text there is no retry.
    server.then(Script::events(events(&["a"], &[])));
    let (texts, end) = read(&endpoint, &call("hi")).await;
    assert_eq!(texts, ["a"]);
    assert!(end.is_err());
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn what_was_written_before_an_error_is_billed_and_not_asked_again() {
    let gone = json!({"message": "gone", "code": 503});
    let function = json!({"name": "f", "arguments": "{\"a\": \"five words of a text\"}"});
    let call_of_f = json!({"tool_calls": [{"index": 0, "id": "c", "function": function}]});
    let breaking = |delta: Value| {
        let events = [chunk(delta, None), json!({"error": gone})];
        Script::events(events.map(|event| event.to_string()))
    };
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 9000});
    let table = [
        ("thoughts", breaking(json!({"reasoning_content": "word ".repeat(50)})), 40),
        ("calls", breaking(call_of_f), 5),
        (
            "part of a whole reply",
            Script::json(
                200,
                json!({"choices": [{"message": {"content": "word ".repeat(50)}, "error": gone}]}),
            ),
            40,
        ),
        ("usage", Script::json(200, json!({"choices": [], "error": gone, "usage": usage})), 9000),
    ];
    for (name, script, least) in table {
        let server = Loopback::answering(move |_| script.clone()).await;
        let (endpoint, _) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
        let streamed = read(&endpoint, &call("hi")).await.1.unwrap_err();
        let whole = endpoint.complete(&call("hi")).await.unwrap_err();
        for error in [streamed, whole] {
            assert!(error.may_be_billed(), "{name}: {error}");
            let billed = error.billed().unwrap();
            assert!(billed.prompt_tokens > 0, "{name}: {billed:?}");
            assert!(billed.completion_tokens >= least, "{name}: {billed:?}");
        }
        assert_eq!(server.requests().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn the_deadline_ends_a_stream() {
    let event = format!("data: {}\n\n", chunk(json!({"content": "word "}), None));
    let script = Script::endless("text/event-stream", &event).drip(Duration::from_millis(1));
    let server = Loopback::answering(move |_| script.clone()).await;
    let (endpoint, _) = client(&server.url(), json!({}));
    let asked = Call { deadline: in_ms(500), ..call("hi") };
    let (_, end) = read(&endpoint, &asked).await;
    assert!(matches!(end, Err(LargeModelError::Deadline { .. })), "{end:?}");
}

#[tokio::test]
async fn a_stream_holds_its_slot_until_its_end() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"max_in_flight": 1}));
    let first = events(&["first"], &[]);
    let length = format!("data: {}\n\n", first[0]).len();
    server.then(Script::events(&first).cut(length, Cut::Stall));
    let stream = endpoint.stream(&call("hi")).await.unwrap();
    let hasty = Call { deadline: in_ms(50), ..call("hi") };
    let error = endpoint.complete(&hasty).await.unwrap_err();
    assert!(matches!(error, LargeModelError::Deadline { .. }), "{error}");
    drop(stream);
    assert_eq!(endpoint.complete(&call("hi")).await.unwrap().message.as_text(), "ok");
}
