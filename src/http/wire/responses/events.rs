//! The items of a response, and the events of its stream.

use bytes::Bytes;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::tools;
use crate::http::episode::answer::{AnswerPiece, Answered, logprobs};
use crate::http::error::ApiError;
use crate::http::sse;
use crate::http::wire::chat_reply::{Outcome, finish_reason};
use crate::http::wire::usage::UsageSum;

/// A response in progress. Its events can be sent, or its end alone.
pub(in crate::http) struct ResponseWriter {
    /// All fields of the response, including finished items.
    response: Map<String, Value>,
    items: Vec<Value>,
    open: Option<Open>,
    sum: UsageSum,
    with_turns: bool,
    /// Whether events are wanted: each of some repeats the whole request.
    is_stream: bool,
    sequence: u64,
    events: Vec<Bytes>,
}

/// The current item.
struct Open {
    is_reasoning: bool,
    id: String,
    text: String,
}

impl Open {
    fn part(&self, text: &str) -> Value {
        if self.is_reasoning {
            json!({"type": "summary_text", "text": text})
        } else {
            json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
        }
    }

    fn item(&self, status: &str, parts: Vec<Value>) -> Value {
        if self.is_reasoning {
            json!({"id": self.id, "type": "reasoning", "summary": parts})
        } else {
            json!({"id": self.id, "type": "message", "status": status, "role": "assistant",
                   "content": parts})
        }
    }

    /// The names of its events, and of the field that numbers its parts.
    fn names(&self) -> [&'static str; 5] {
        if self.is_reasoning {
            [
                "response.reasoning_summary_part.added",
                "response.reasoning_summary_text.delta",
                "response.reasoning_summary_text.done",
                "response.reasoning_summary_part.done",
                "summary_index",
            ]
        } else {
            [
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "content_index",
            ]
        }
    }
}

impl ResponseWriter {
    /// Begins with the fields of a response that are known before there is an answer.
    pub(in crate::http) fn new(
        response: Map<String, Value>,
        sum: UsageSum,
        with_turns: bool,
        is_stream: bool,
    ) -> Self {
        let (items, open, sequence, events) = (Vec::new(), None, 0, Vec::new());
        let mut writer =
            Self { response, items, open, sum, with_turns, is_stream, sequence, events };
        for name in ["response.created", "response.in_progress"] {
            writer.send_response(name);
        }
        writer
    }

    /// The events so far that were not taken yet.
    pub(in crate::http) fn events(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.events)
    }

    /// The items of the answer, once all are finished.
    pub(in crate::http) fn output(&self) -> &[Value] {
        self.response.get("output").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The response so far.
    pub(in crate::http) fn into_response(self) -> Value {
        self.response.into()
    }

    /// Takes a piece of the answer.
    pub(in crate::http) fn take(&mut self, piece: AnswerPiece) {
        match piece {
            AnswerPiece::Thought(text) => self.write(true, &text),
            AnswerPiece::Text(text) => self.write(false, &text),
            AnswerPiece::Done(answered) => self.finish(&answered),
            AnswerPiece::Failed(error) => self.fail(&error),
        }
    }

    fn write(&mut self, is_reasoning: bool, text: &str) {
        if self.open.as_ref().is_none_or(|open| open.is_reasoning != is_reasoning) {
            self.close("completed", None);
            self.open(is_reasoning);
        }
        let Some(mut open) = self.open.take() else { return };
        open.text.push_str(text);
        self.send_of(&open, open.names()[1], json!({"delta": text}));
        self.open = Some(open);
    }

    fn open(&mut self, is_reasoning: bool) {
        let id = self.item_id(if is_reasoning { "rs" } else { "msg" });
        let open = Open { is_reasoning, id, text: String::new() };
        self.add(open.item("in_progress", Vec::new()));
        self.send_of(&open, open.names()[0], json!({"part": open.part("")}));
        self.open = Some(open);
    }

    /// Ends the current item.
    fn close(&mut self, status: &str, logprobs: Option<&Value>) {
        let Some(open) = self.open.take() else { return };
        let [_, _, text_done, part_done, _] = open.names();
        let mut part = open.part(&open.text);
        if let Some(content) = logprobs.and_then(|logprobs| logprobs.get("content"))
            && !open.is_reasoning
        {
            part["logprobs"] = content.clone();
        }
        self.send_of(&open, text_done, json!({"text": open.text}));
        self.send_of(&open, part_done, json!({"part": part}));
        self.done(open.item(status, vec![part]));
    }

    fn finish(&mut self, answered: &Answered) {
        let episode = &answered.episode;
        let reason = finish_reason(answered);
        let incomplete = match reason.as_str() {
            "length" => Some("max_output_tokens"),
            "content_filter" => Some("content_filter"),
            _ => None,
        };
        let status = if incomplete.is_some() { "incomplete" } else { "completed" };
        let (refusal, calls) = (answered.refusal(), answered.tool_calls());
        let has_message = self.items.iter().any(|item| item["type"] == "message")
            || self.open.as_ref().is_some_and(|open| !open.is_reasoning);
        if !has_message && refusal.is_none() && calls.is_empty() {
            self.write(false, "");
        }
        self.close(status, logprobs(episode));
        if let Some(refusal) = refusal {
            self.refuse(refusal);
        }
        for (index, call) in calls.iter().enumerate() {
            let is_last = index + 1 == calls.len();
            self.call(call, if is_last { status } else { "completed" });
        }
        self.sum.add(episode);
        self.response.insert("usage".to_owned(), self.sum.of_response());
        self.response.insert("prompt_r1".to_owned(), json!(Outcome::new(episode, self.with_turns)));
        if let Some(reason) = incomplete {
            self.response.insert("incomplete_details".to_owned(), json!({"reason": reason}));
        }
        self.end(status);
    }

    fn refuse(&mut self, refusal: &str) {
        let id = self.item_id("msg");
        let item = |status: &str, parts: Vec<Value>| {
            json!({"id": id, "type": "message", "status": status, "role": "assistant",
                   "content": parts})
        };
        let part = |text: &str| json!({"type": "refusal", "refusal": text});
        let at = json!({"item_id": id, "output_index": self.items.len(), "content_index": 0});
        self.add(item("in_progress", Vec::new()));
        let steps = [
            ("response.content_part.added", json!({"part": part("")})),
            ("response.refusal.delta", json!({"delta": refusal})),
            ("response.refusal.done", json!({"refusal": refusal})),
            ("response.content_part.done", json!({"part": part(refusal)})),
        ];
        for (name, fields) in steps {
            self.send(name, merged(&at, &fields));
        }
        self.done(item("completed", vec![part(refusal)]));
    }

    /// A tool call, which is sent at once. `status`: its own, unless its arguments are whole.
    fn call(&mut self, call: &Value, status: &str) {
        let is_custom = call["type"] == "custom";
        let (kind, prefix, inner, key, events) = if is_custom {
            ("custom_tool_call", "ctc", &call["custom"], "input", "response.custom_tool_call_input")
        } else {
            let events = "response.function_call_arguments";
            ("function_call", "fc", &call["function"], "arguments", events)
        };
        let said = inner[key].as_str().unwrap_or_default();
        let is_whole = serde_json::from_str::<IgnoredAny>(said).is_ok();
        let status = if is_whole { "completed" } else { status };
        let id = self.item_id(prefix);
        let tools = self.response.get("tools").unwrap_or(&Value::Null);
        let (namespace, name) = tools::split(tools, inner["name"].as_str().unwrap_or_default());
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        let item = |status: &str, said: &str| {
            let mut item = json!({"id": id, "type": kind, "status": status, "call_id": call["id"],
                                  "name": name, key: said});
            if let Some(namespace) = &namespace {
                item["namespace"] = namespace.as_str().into();
            }
            item
        };
        let at = json!({"item_id": id, "output_index": self.items.len()});
        self.add(item("in_progress", ""));
        self.send(&format!("{events}.delta"), merged(&at, &json!({"delta": said})));
        let whole = json!({"name": name, key: said});
        self.send(&format!("{events}.done"), merged(&at, &whole));
        self.done(item(status, said));
    }

    fn fail(&mut self, error: &ApiError) {
        self.close("incomplete", None);
        let object = error.object();
        // Flat as in the API's reference, and nested as clients expect it.
        let event = json!({"code": object.code, "message": object.message, "param": object.param,
                          "error": object});
        let error = json!({"code": object.code, "message": object.message});
        self.send("error", event);
        self.response.insert("error".to_owned(), error);
        self.end("failed");
    }

    fn end(&mut self, status: &str) {
        self.response.insert("status".to_owned(), status.into());
        let items = std::mem::take(&mut self.items);
        self.response.insert("output".to_owned(), items.into());
        self.send_response(&format!("response.{status}"));
    }

    /// An id for the next item, derived from the response's.
    fn item_id(&self, prefix: &str) -> String {
        let id = self.response.get("id").and_then(Value::as_str).unwrap_or_default();
        let stem = id.split_once('_').map_or(id, |(_, stem)| stem);
        format!("{prefix}_{stem}{:02}", self.items.len())
    }

    fn add(&mut self, item: Value) {
        let at = self.items.len();
        self.send("response.output_item.added", json!({"output_index": at, "item": item}));
    }

    fn done(&mut self, item: Value) {
        let at = self.items.len();
        self.send("response.output_item.done", json!({"output_index": at, "item": item}));
        self.items.push(item);
    }

    /// An event of the current item.
    fn send_of(&mut self, open: &Open, name: &str, fields: Value) {
        let mut at = json!({"item_id": open.id, "output_index": self.items.len()});
        at[open.names()[4]] = 0.into();
        let is_text = name.starts_with("response.output_text.");
        if is_text {
            at["logprobs"] = json!([]);
        }
        self.send(name, merged(&at, &fields));
    }

    fn send(&mut self, name: &str, fields: Value) {
        if self.is_stream {
            let head = json!({"type": name, "sequence_number": self.sequence});
            self.sequence += 1;
            self.events.push(sse::event(Some(name), &merged(&head, &fields)));
        }
    }

    /// Sends the current state of the response.
    fn send_response(&mut self, name: &str) {
        #[derive(Serialize)]
        struct Numbered<'a> {
            r#type: &'a str,
            sequence_number: u64,
            response: &'a Map<String, Value>,
        }
        if self.is_stream {
            let (sequence_number, response) = (self.sequence, &self.response);
            let event =
                sse::event(Some(name), &Numbered { r#type: name, sequence_number, response });
            self.sequence += 1;
            self.events.push(event);
        }
    }
}

/// The fields of both.
fn merged(first: &Value, second: &Value) -> Value {
    let both = [first, second].into_iter().filter_map(Value::as_object);
    both.flatten().map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
}
