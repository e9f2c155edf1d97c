//! Where a streamed reply ends, whatever its endpoint says of that.

use super::odd::{data, sse, streamed};
use super::*;
use crate::loopback::chunk;

/// A chunk with a finish reason and the usage so far.
fn counted(text: &str, reason: &str, written: u64) -> String {
    let mut chunk = chunk(json!({"content": text}), Some(reason));
    chunk["usage"] = json!({"prompt_tokens": 3, "completion_tokens": written});
    format!("data: {chunk}")
}

/// These events, after which the response breaks off.
fn broken(events: &[String], cut: Cut) -> Script {
    let body: String = events.iter().map(|event| format!("{event}\n\n")).collect();
    let length = body.len();
    Script::bytes(200, "text/event-stream", body + "never").cut(length, cut)
}

#[tokio::test]
async fn a_finish_reason_with_every_chunk_ends_nothing() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({}));
    for said in ["", "null", "stop"] {
        let (a, b) = (counted("the ", said, 1), counted("whole ", said, 2));
        let last = counted("answer", "stop", 3);
        server.then(sse(&[&a, &b, &last, "data: [DONE]"]).drip(Duration::ZERO));
        let (text, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
        assert_eq!((&*text, &*reply.message.as_text()), ("the whole answer", "the whole answer"));
        assert_eq!((&*reply.finish_reason, reply.usage.completion_tokens), ("stop", 3), "{said}");
        // Such an endpoint does not say that a reply is whole.
        server.then(broken(&[a, b], Cut::Close));
        let error = streamed(&endpoint, &call("hi")).await.unwrap_err();
        assert!(matches!(error, LargeModelError::Unreachable { .. }), "{said}: {error}");
    }
}

#[tokio::test]
async fn a_stream_that_seems_complete_is_not_waited_for_long() {
    let server = Loopback::start().await;
    let (endpoint, _) = client(&server.url(), json!({"timeouts": {"idle_ms": 60_000}}));
    server.then(broken(&[counted("hi", "stop", 1)], Cut::Stall));
    let begun = Instant::now();
    let (text, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
    assert_eq!((&*text, reply.usage.completion_tokens), ("hi", 1));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_error_after_the_last_word_takes_nothing_back() {
    let server = Loopback::start().await;
    let (endpoint, outcomes) = client(&server.url(), json!({"retries": {"max": 3, "base_ms": 1}}));
    let error = "data: {\"error\":{\"message\":\"no usage\",\"code\":500}}";
    let text = data(json!({"content": "12345678"}), None);
    server.then(sse(&[&text, &data(json!({}), Some("stop")), error]));
    let (said, reply) = streamed(&endpoint, &call("hi")).await.unwrap();
    assert_eq!((&*said, &*reply.finish_reason), ("12345678", "stop"));
    // Estimated.
    assert_eq!(reply.usage.completion_tokens, 6);
    assert_eq!(outcomes.take(), [AttemptOutcome::Success]);
    assert_eq!(server.requests().len(), 1);
}
