//! A loopback large model's response to one request.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

/// The response to one request.
#[derive(Debug, Clone)]
pub struct Script {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
    pub(super) before: Vec<Before>,
    pub(super) ending: Ending,
    pub(super) drip: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    /// A completion with this message and finish reason: whole or streamed, as the request asks.
    Completion(Value, &'static str),
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, in chunks of their own.
    Chunks(Vec<Vec<u8>>),
    /// These bytes, over and over until the client leaves.
    Endless(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(super) enum Before {
    Wait(Duration),
    Gate(Gate),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Whole,
    /// After this many bytes of the body.
    Cut(usize, Cut),
}

/// How a response breaks off.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Nothing more is sent, until the client leaves.
    Stall,
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
}

/// Holds responses until it is opened.
#[derive(Debug, Clone, Default)]
pub struct Gate(pub(super) Arc<Notify>);

impl Gate {
    /// Lets one response through, now or when it gets there.
    pub fn open_once(&self) {
        self.0.notify_one();
    }
}

/// The usage of a loopback completion.
pub const USAGE: (u64, u64) = (11, 7);

impl Script {
    fn new(status: u16, body: Body) -> Self {
        let (headers, before) = (Vec::new(), Vec::new());
        Self { status, headers, body, before, ending: Ending::Whole, drip: None }
    }

    /// A completion of plain text; streamed word by word where the request asks for a stream.
    pub fn reply(text: &str) -> Self {
        Self::message(json!({"role": "assistant", "content": text}), "stop")
    }

    /// A completion with this message.
    pub fn message(message: Value, finish_reason: &'static str) -> Self {
        Self::new(200, Body::Completion(message, finish_reason))
    }

    /// A completion that calls the tool `weather` for Lyon.
    pub fn weather_call() -> Self {
        Self::weather_calls(&["{\"city\":\"Lyon\"}"], "tool_calls")
    }

    /// A completion that calls the tool `weather` with each of these arguments.
    pub fn weather_calls(arguments: &[&str], finish_reason: &'static str) -> Self {
        let call = |(index, arguments): (usize, &&str)| {
            let function = json!({"name": "weather", "arguments": arguments});
            let id = format!("call_{}", index + 1);
            json!({"id": id, "type": "function", "function": function})
        };
        let calls: Vec<_> = arguments.iter().enumerate().map(call).collect();
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        Self::message(message, finish_reason)
    }

    /// A body of JSON.
    pub fn json(status: u16, body: Value) -> Self {
        Self::bytes(status, "application/json", body.to_string())
    }

    /// OpenAI's error object.
    pub fn error(status: u16, message: &str) -> Self {
        let error = json!({"message": message, "type": "test", "param": null, "code": null});
        Self::json(status, json!({"error": error}))
    }

    /// Any body.
    pub fn bytes(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, Body::Bytes(body.into())).header("content-type", content_type)
    }

    /// A stream of these events' data.
    pub fn events<T: AsRef<str>>(data: impl IntoIterator<Item = T>) -> Self {
        let chunks = data.into_iter().map(|data| format!("data: {}\n\n", data.as_ref()).into());
        Self::new(200, Body::Chunks(chunks.collect())).header("content-type", "text/event-stream")
    }

    /// These bytes without end.
    pub fn endless(content_type: &str, bytes: &str) -> Self {
        Self::new(200, Body::Endless(bytes.into())).header("content-type", content_type)
    }

    /// A response that never begins: the connection then stalls, closes or resets.
    pub fn nothing(cut: Cut) -> Self {
        Self::new(0, Body::Bytes(Vec::new())).cut(0, cut)
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the headers.
    pub fn after(mut self, wait: Duration) -> Self {
        self.before.push(Before::Wait(wait));
        self
    }

    /// Waits at the gate before the headers.
    pub fn held(mut self, gate: &Gate) -> Self {
        self.before.push(Before::Gate(gate.clone()));
        self
    }

    /// Breaks off after this many bytes of the body, whose announced length is unchanged.
    pub fn cut(mut self, after: usize, cut: Cut) -> Self {
        self.ending = Ending::Cut(after, cut);
        self
    }

    /// Sends the body byte by byte, with a pause after each.
    pub fn drip(mut self, pause: Duration) -> Self {
        self.drip = Some(pause);
        self
    }
}

/// A whole completion.
pub fn completion(message: &Value, finish_reason: &str) -> Value {
    let (prompt, completion) = USAGE;
    json!({
        "id": "chatcmpl-loopback", "object": "chat.completion", "created": 1, "model": "loopback",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
                  "total_tokens": prompt + completion},
    })
}

/// A chunk of a streamed completion.
pub fn chunk(delta: Value, finish_reason: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-loopback", "object": "chat.completion.chunk", "created": 1,
        "model": "loopback",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    })
}

/// The events of a streamed completion: the content word by word, everything else at once.
pub(super) fn stream_events(message: &Value, finish_reason: &str) -> Vec<Vec<u8>> {
    let mut rest = message.clone();
    let content = rest.as_object_mut().and_then(|fields| fields.remove("content"));
    let calls = rest.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (index, call) in calls.into_iter().flatten().enumerate() {
        call["index"] = json!(index);
    }
    if rest.get("tool_calls").is_none() {
        rest["content"] = json!("");
    }
    let mut events = vec![chunk(rest, None)];
    let content = content.as_ref().and_then(Value::as_str).unwrap_or_default();
    events.extend(content.split_inclusive(' ').map(|word| chunk(json!({"content": word}), None)));
    events.push(chunk(json!({}), Some(finish_reason)));
    let mut billed = completion(message, finish_reason);
    billed["object"] = json!("chat.completion.chunk");
    billed["choices"] = json!([]);
    events.push(billed);
    let data = events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]);
    data.map(|data| format!("data: {data}\n\n").into_bytes()).collect()
}
