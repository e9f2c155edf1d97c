//! The blocks of a message, and the events of its stream.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::MessagesErrorBody;
use crate::http::episode::answer::{AnswerPiece, Answered};
use crate::http::episode::stop_sequences::Ending;
use crate::http::sse;
use crate::http::wire::chat_reply::{Outcome, finish_reason};
use crate::http::wire::usage::UsageSum;

/// The signature of thoughts: nothing checks it, and clients require a text.
const SIGNATURE: &str = "prompt-r1";

/// A message in progress. Its events can be sent, or its end alone.
pub(in crate::http) struct MessageWriter {
    /// All fields of the message except its content.
    message: Map<String, Value>,
    blocks: Vec<Value>,
    /// The current block: whether it has thoughts, and its text.
    open: Option<(bool, String)>,
    sum: UsageSum,
    shows_thoughts: bool,
    with_turns: bool,
    events: Vec<Bytes>,
}

impl MessageWriter {
    /// Begins a message of this id.
    pub(in crate::http) fn new(
        id: &str,
        model: &str,
        sum: UsageSum,
        shows_thoughts: bool,
        with_turns: bool,
    ) -> Self {
        let message = json!({
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": sum.of_message(),
        });
        let message = message.as_object().cloned().unwrap_or_default();
        let (blocks, open, events) = (Vec::new(), None, Vec::new());
        let mut writer = Self { message, blocks, open, sum, shows_thoughts, with_turns, events };
        writer.send("message_start", json!({"message": writer.message}));
        writer.send("ping", json!({}));
        writer
    }

    /// The events so far that were not taken yet.
    pub(in crate::http) fn events(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.events)
    }

    /// The message so far.
    pub(in crate::http) fn into_message(mut self) -> Value {
        self.message.insert("content".to_owned(), self.blocks.into());
        self.message.into()
    }

    /// Takes a piece of the answer.
    pub(in crate::http) fn take(&mut self, piece: AnswerPiece) {
        match piece {
            AnswerPiece::Thought(text) if self.shows_thoughts => self.write(true, &text),
            AnswerPiece::Thought(_) => {}
            AnswerPiece::Text(text) => self.write(false, &text),
            AnswerPiece::Done(answered) => self.finish(&answered),
            AnswerPiece::Failed(error) => {
                let body = MessagesErrorBody::from(&error);
                self.events.push(sse::event(Some("error"), &body));
            }
        }
    }

    fn write(&mut self, is_thinking: bool, text: &str) {
        if self.open.as_ref().is_none_or(|(open, _)| *open != is_thinking) {
            self.close();
            let block = match is_thinking {
                true => json!({"type": "thinking", "thinking": "", "signature": ""}),
                false => json!({"type": "text", "text": ""}),
            };
            self.start(block);
            self.open = Some((is_thinking, String::new()));
        }
        if let Some((_, written)) = &mut self.open {
            written.push_str(text);
        }
        if text.is_empty() {
            return;
        }
        self.delta(match is_thinking {
            true => json!({"type": "thinking_delta", "thinking": text}),
            false => json!({"type": "text_delta", "text": text}),
        });
    }

    /// Ends the current block.
    fn close(&mut self) {
        let Some((is_thinking, text)) = self.open.take() else { return };
        if is_thinking {
            self.delta(json!({"type": "signature_delta", "signature": SIGNATURE}));
        }
        self.stop(match is_thinking {
            true => json!({"type": "thinking", "thinking": text, "signature": SIGNATURE}),
            false => json!({"type": "text", "text": text}),
        });
    }

    fn finish(&mut self, answered: &Answered) {
        let episode = &answered.episode;
        let (refusal, calls) = (answered.refusal(), answered.tool_calls());
        if let Some(refusal) = refusal {
            self.write(false, refusal);
        }
        let has_text = self.blocks.iter().any(|block| block["type"] == "text")
            || self.open.as_ref().is_some_and(|(is_thinking, _)| !is_thinking);
        if !has_text && calls.is_empty() {
            self.write(false, "");
        }
        self.close();
        let finish_reason = finish_reason(answered);
        let is_cut = matches!(finish_reason.as_str(), "length" | "content_filter");
        for (index, call) in calls.iter().enumerate() {
            self.call(call, is_cut && index + 1 == calls.len());
        }
        let stop = match &answered.ending {
            Some(Ending::Stop(stop)) => Some(stop),
            _ => None,
        };
        let reason = match finish_reason.as_str() {
            _ if stop.is_some() => "stop_sequence",
            _ if refusal.is_some() => "refusal",
            // Also beside calls: the last one may not be whole.
            "length" => "max_tokens",
            "content_filter" => "refusal",
            _ if !calls.is_empty() => "tool_use",
            _ => "end_turn",
        };
        self.sum.add(episode);
        let usage = self.sum.of_message();
        let outcome = json!(Outcome::new(episode, self.with_turns));
        let ending = json!({"stop_reason": reason, "stop_sequence": stop});
        let event = json!({"delta": ending, "usage": usage, "prompt_r1": outcome});
        self.send("message_delta", event);
        self.send("message_stop", json!({}));
        self.message.insert("stop_reason".to_owned(), reason.into());
        self.message.insert("stop_sequence".to_owned(), json!(stop));
        self.message.insert("usage".to_owned(), usage.into());
        self.message.insert("prompt_r1".to_owned(), outcome);
    }

    /// A tool call, which is sent at once. `is_cut`: whether the reply was cut off in it or after it.
    fn call(&mut self, call: &Value, is_cut: bool) {
        let function = &call["function"];
        let arguments = function["arguments"].as_str().unwrap_or_default();
        // A model may write invalid JSON; clients require an object.
        let input = serde_json::from_str::<Map<String, Value>>(arguments);
        let (arguments, input) = match input {
            Ok(input) => (arguments.to_owned(), input),
            Err(_) if arguments.trim().is_empty() => ("{}".to_owned(), Map::new()),
            // As Anthropic does: the text as far as it goes, which clients complete or leave.
            Err(_) if is_cut => (arguments.to_owned(), Map::new()),
            Err(_) => {
                let input = Map::from_iter([("arguments".to_owned(), arguments.into())]);
                (Value::from(input.clone()).to_string(), input)
            }
        };
        let block = |input: Map<String, Value>| json!({"type": "tool_use", "id": call["id"], "name": function["name"], "input": input});
        self.start(block(Map::new()));
        self.delta(json!({"type": "input_json_delta", "partial_json": arguments}));
        self.stop(block(input));
    }

    fn start(&mut self, block: Value) {
        let index = self.blocks.len();
        self.send("content_block_start", json!({"index": index, "content_block": block}));
    }

    fn delta(&mut self, delta: Value) {
        let index = self.blocks.len();
        self.send("content_block_delta", json!({"index": index, "delta": delta}));
    }

    fn stop(&mut self, block: Value) {
        self.send("content_block_stop", json!({"index": self.blocks.len()}));
        self.blocks.push(block);
    }

    fn send(&mut self, name: &str, fields: Value) {
        let mut event = Map::from_iter([("type".to_owned(), name.into())]);
        event.extend(fields.as_object().cloned().unwrap_or_default());
        self.events.push(sse::event(Some(name), &event));
    }
}
