//! Reads what an endpoint sends: strict about what a reply must have, blind to what it has beside.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::delta::PartialMessage;
use super::redact::Redactor;
use crate::chat::ChatMessage;
use crate::large_model::Reply;
use crate::trajectory::TokenUsage;

/// Why a body is no reply; becomes an error when the model's name is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// Nothing that the API could have sent.
    Malformed(String),
    /// A well-formed reply without a message, for a reason that another try would not change.
    Rejected(String),
    /// An error inside a response that claims to be good.
    Upstream(UpstreamError),
}

/// What an endpoint says about its own failure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamError {
    /// The HTTP status, given by the response or named in the error.
    pub(super) status: u16,
    pub(super) message: String,
    /// The error object, if there was one.
    pub(super) body: Option<Value>,
}

/// Characters of an endpoint's own message that are kept.
const MESSAGE: usize = 1_000;

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: Value,
    #[serde(default)]
    message: Option<Map<String, Value>>,
    #[serde(default)]
    delta: Option<Map<String, Value>>,
    #[serde(default)]
    finish_reason: Value,
}

/// The reply in the body of a Chat Completions response.
pub(super) fn parse_completion(body: &[u8], redactor: Redactor<'_>) -> Result<Reply, Fault> {
    let malformed = |what: &str| {
        let head = redactor.head(body);
        Fault::Malformed(if head.is_empty() {
            "the body is empty".to_owned()
        } else {
            format!("{what}: `{head}`")
        })
    };
    if body.trim_ascii_start().starts_with(b"<") {
        return Err(malformed("the body is HTML"));
    }
    let completion: Completion = serde_json::from_slice(body).map_err(|error| {
        malformed(if error.is_data() { "the JSON is no completion" } else { "the body is no JSON" })
    })?;
    if let Some(error) = upstream_error(completion.error, None, redactor) {
        return Err(Fault::Upstream(error));
    }
    let choice = completion.choices.unwrap_or_default().into_iter().next();
    let choice = choice.ok_or_else(|| malformed("it has no choices"))?;
    let message = choice.message.ok_or_else(|| malformed("its first choice has no message"))?;
    build_reply(message, choice.finish_reason.as_str(), usage(&completion.usage))
}

/// The message of an error response, and its error object.
pub(super) fn parse_error(status: u16, body: &[u8], redactor: Redactor<'_>) -> UpstreamError {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = match &value {
        Value::Object(fields) => fields.get("error").unwrap_or(&value).clone(),
        _ => Value::Null,
    };
    upstream_error(error, Some(status), redactor).unwrap_or_else(|| UpstreamError {
        status,
        message: match redactor.head(body) {
            head if head.is_empty() => "no message".to_owned(),
            head => head,
        },
        body: None,
    })
}

/// An error as the many endpoints write it: an object with a `message`, or just a string.
fn upstream_error(
    error: Value,
    status: Option<u16>,
    redactor: Redactor<'_>,
) -> Option<UpstreamError> {
    if error.is_null() || error == Value::Object(Map::new()) {
        return None;
    }
    let message = ["message", "detail", "error"]
        .iter()
        .find_map(|key| error.get(key)?.as_str().map(str::to_owned))
        .or_else(|| error.as_str().map(str::to_owned))
        .unwrap_or_else(|| error.to_string());
    // Inside a good response the code often is the status of a service further up.
    let code = ["code", "status"].iter().find_map(|key| error.get(key)?.as_u64());
    let code = code.filter(|code| (400..600).contains(code)).map_or(502, |code| code as u16);
    Some(UpstreamError {
        status: status.unwrap_or(code),
        message: redactor.short(&message, MESSAGE),
        body: error.is_object().then(|| redactor.json(error)),
    })
}

/// A reply that arrives in pieces.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    message: Option<PartialMessage>,
    finish_reason: Option<String>,
    usage: TokenUsage,
}

impl Assembly {
    /// Takes the data of one event; gives the text that it adds to the reply.
    pub(super) fn push(&mut self, data: &str, redactor: Redactor<'_>) -> Result<String, Fault> {
        let chunk: Completion = serde_json::from_str(data).map_err(|_| {
            let head = redactor.head(data.as_bytes());
            Fault::Malformed(format!("an event of the stream is no completion chunk: `{head}`"))
        })?;
        if let Some(error) = upstream_error(chunk.error, None, redactor) {
            return Err(Fault::Upstream(error));
        }
        if chunk.usage.is_object() {
            self.usage = usage(&chunk.usage);
        }
        let mut text = String::new();
        for choice in chunk.choices.unwrap_or_default() {
            // Further choices were not asked for.
            if choice.index.as_u64().unwrap_or(0) != 0 {
                continue;
            }
            if let Some(reason) = choice.finish_reason.as_str() {
                self.finish_reason = Some(reason.to_owned());
            }
            if let Some(delta) = choice.delta.or(choice.message) {
                text.push_str(delta.get("content").and_then(Value::as_str).unwrap_or_default());
                self.message.get_or_insert_default().add(delta);
            }
        }
        Ok(text)
    }

    /// Whether the endpoint said that nothing of the message is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// The whole reply. `marked`: whether the stream was closed by its `[DONE]`.
    pub(super) fn finish(&mut self, marked: bool) -> Result<Reply, Fault> {
        let Some(message) = self.message.take() else {
            return Err(Fault::Malformed("the stream has no message".to_owned()));
        };
        if !marked && !self.is_complete() {
            let what = "the stream ended without a finish reason and without `[DONE]`";
            return Err(Fault::Malformed(what.to_owned()));
        }
        build_reply(message.into_fields(), self.finish_reason.as_deref(), self.usage)
    }
}

/// A reply from the fields of its message.
fn build_reply(
    mut fields: Map<String, Value>,
    finish_reason: Option<&str>,
    usage: TokenUsage,
) -> Result<Reply, Fault> {
    let finish_reason = finish_reason.unwrap_or("stop").to_owned();
    let content = fields.shift_remove("content").unwrap_or_default();
    let role = match fields.shift_remove("role") {
        Some(Value::String(role)) if !role.is_empty() => role,
        _ => "assistant".to_owned(),
    };
    match &content {
        Value::String(_) | Value::Array(_) => {}
        // These stand in for the content.
        Value::Null
            if ["tool_calls", "function_call", "refusal", "audio"]
                .iter()
                .any(|key| fields.get(*key).is_some_and(|value| !is_empty(value))) => {}
        Value::Null => {
            return Err(match finish_reason.as_str() {
                "length" => Fault::Rejected(
                    "its token limit was used up before any content\nhint: raise `max_tokens`"
                        .into(),
                ),
                "content_filter" => Fault::Rejected("its content filter withheld the reply".into()),
                _ => Fault::Malformed("its message has neither content nor tool calls".into()),
            });
        }
        other => {
            let kind = if other.is_object() { "an object" } else { "a number or a boolean" };
            return Err(Fault::Malformed(format!("the content of its message is {kind}")));
        }
    }
    let message = ChatMessage { role, content, extra: fields };
    Ok(Reply { message, finish_reason, usage, cost: 0.0 })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What was billed; zero where the endpoint does not say.
fn usage(value: &Value) -> TokenUsage {
    let count = |key| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    TokenUsage::reported(count("prompt_tokens"), count("completion_tokens"))
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
