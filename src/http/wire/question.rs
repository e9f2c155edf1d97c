//! Conversations, and the question that they end with.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::THOUGHTS;
use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::episode::EpisodeRequest;
use crate::http::error::{ApiError, shorten};

/// A message of a conversation. Unlisted fields reach the large model unchanged, except those that
/// are null or an empty list, and thoughts of earlier answers (`reasoning_content` and `reasoning`):
/// beside `tool_calls` these reach models that need them.
#[derive(ToSchema)]
#[allow(dead_code)] // Describes `chat::ChatMessage`.
pub(in crate::http) struct Message {
    /// The role of its author.
    role: Role,
    /// A string, or a list of parts; null beside `tool_calls`.
    content: Option<Content>,
}

/// The role of a message's author.
#[derive(ToSchema)]
#[allow(dead_code)] // Describes `ROLES`.
#[schema(rename_all = "snake_case", example = "user")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

/// The content of a message.
#[derive(ToSchema)]
#[allow(dead_code)] // Describes what `check` lets in.
#[schema(example = "Which currency is used where the author of Hamlet was born?")]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message: text, image, audio…
#[derive(ToSchema)]
#[allow(dead_code)] // Describes what `check` lets in.
struct Part {
    /// Its kind, such as `text`; the fields that belong to it stand beside.
    #[schema(example = "text")]
    r#type: String,
    /// The text of a text part.
    text: Option<String>,
}

/// A question in its conversation.
#[derive(Debug, Clone)]
pub(in crate::http) struct ConversationQuestion {
    pub(in crate::http) question: String,
    pub(in crate::http) attachments: Vec<Value>,
    /// The message that asks, without its attachments, if it is more than the question's text.
    pub(in crate::http) message: Option<ChatMessage>,
    /// What precedes the question; the whole conversation if it continues after the question.
    pub(in crate::http) conversation: Vec<ChatMessage>,
    pub(in crate::http) is_continued: bool,
}

impl ConversationQuestion {
    /// A bare question.
    pub(in crate::http) fn bare(question: String) -> Result<Self, ApiError> {
        if question.trim().is_empty() {
            return Err(ApiError::invalid("question", "`question` is empty"));
        }
        let (attachments, conversation) = (Vec::new(), Vec::new());
        Ok(Self { question, attachments, message: None, conversation, is_continued: false })
    }

    /// The question that a conversation ends with: its last user message, or its last message if
    /// there is none.
    pub(in crate::http) fn of(mut messages: Vec<ChatMessage>) -> Result<Self, ApiError> {
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "`messages` is empty"));
        }
        name_legacy_calls(&mut messages);
        for (index, message) in messages.iter_mut().enumerate() {
            check(index, message)?;
            if message.role == "assistant" {
                take_thoughts(message);
            }
        }
        let last = messages.iter().rposition(|message| message.role == "user");
        let at = last.unwrap_or(messages.len() - 1);
        let is_continued = last != Some(messages.len() - 1);
        let question = messages[at].as_text();
        if question.trim().is_empty() && messages[at].attachments().next().is_none() {
            let param = format!("messages[{at}].content");
            return Err(ApiError::invalid(&param, format!("`{param}` is empty")));
        }
        let mut last = if is_continued { None } else { messages.pop() };
        let attachments = last.as_mut().map(ChatMessage::take_attachments).unwrap_or_default();
        let message = last.filter(|message| !is_bare_text(message));
        Ok(Self { question, attachments, message, conversation: messages, is_continued })
    }

    /// The episode that answers it, with the defaults of everything else.
    pub(in crate::http) fn into_request(self, sampling: Sampling) -> EpisodeRequest {
        let Self { question, attachments, message, conversation, is_continued } = self;
        let request = EpisodeRequest::new(question, sampling);
        EpisodeRequest { conversation, is_continued, attachments, message, ..request }
    }
}

/// Takes the thoughts out of an earlier answer, as the client received them: endpoints refuse them.
/// Beside calls of tools they stay, under one name, for models that need them.
fn take_thoughts(message: &mut ChatMessage) {
    let thoughts = THOUGHTS.map(|key| message.extra.shift_remove(key));
    let is_said = |it: &Value| it.as_str().is_some_and(|text| !text.is_empty());
    if let Some(thoughts) = thoughts.into_iter().flatten().find(is_said)
        && message.makes_calls()
    {
        message.extra.insert(THOUGHTS[0].to_owned(), thoughts);
    }
}

/// Whether a message is one text and nothing else.
fn is_bare_text(message: &ChatMessage) -> bool {
    let is_one = match &message.content {
        Value::Array(parts) => match &parts[..] {
            [Value::Object(part)] => part.len() == 2 && part.contains_key("text"),
            _ => false,
        },
        content => content.is_string(),
    };
    is_one && message.extra.values().all(Value::is_null)
}

/// Converts calls and results of functions, the form before tools, to tools.
fn name_legacy_calls(messages: &mut [ChatMessage]) {
    let mut calls = 0;
    for message in messages {
        let call = message.extra.get("function_call").filter(|call| call.is_object());
        if message.role == "assistant"
            && let Some(call) = call.cloned()
        {
            calls += 1;
            let call = json!({"id": legacy_id(calls), "type": "function", "function": call});
            message.extra.shift_remove("function_call");
            message.extra.insert("tool_calls".to_owned(), json!([call]));
        } else if message.role == "function" {
            message.role = "tool".to_owned();
            message.extra.insert("tool_call_id".to_owned(), legacy_id(calls).into());
        }
    }
}

fn legacy_id(number: usize) -> String {
    format!("call_{number}")
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Refuses messages that no chat model could read.
fn check(index: usize, message: &ChatMessage) -> Result<(), ApiError> {
    if !ROLES.contains(&message.role.as_str()) {
        let param = format!("messages[{index}].role");
        let known = ROLES.map(|role| format!("`{role}`")).join(", ");
        let role = shorten(&message.role);
        let text = reason!("`{param}` = `{role}` is not known"; hint: "the roles are {known}");
        return Err(ApiError::invalid(&param, text));
    }
    let param = format!("messages[{index}].content");
    let is_bare_call = message.role == "assistant"
        && ["tool_calls", "function_call", "refusal", "audio"]
            .iter()
            .any(|key| message.extra.get(*key).is_some_and(|value| !value.is_null()));
    match &message.content {
        Value::String(_) => Ok(()),
        Value::Array(parts) => {
            for (number, part) in parts.iter().enumerate() {
                let kind = part.get("type").and_then(Value::as_str);
                let is_text = part.get("text").is_some_and(Value::is_string);
                if kind.is_none() || (kind == Some("text") && !is_text) {
                    let param = format!("{param}[{number}]");
                    let text =
                        format!("`{param}` is not a part: it needs a `type` and its content");
                    return Err(ApiError::invalid(&param, text));
                }
            }
            Ok(())
        }
        Value::Null if is_bare_call => Ok(()),
        _ => {
            let text = format!("`{param}` must be a string or a list of parts");
            Err(ApiError::invalid(&param, text))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(messages: Value) -> Result<ConversationQuestion, ApiError> {
        ConversationQuestion::of(serde_json::from_value(messages).unwrap())
    }

    #[test]
    fn the_question_and_what_is_around_it() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:,x"}});
        let call = json!({"role": "assistant", "tool_calls": [{"id": "1"}]});
        let table = [
            (json!([{"role": "user", "content": "q"}]), "q", 0, 0, false),
            (
                json!([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]),
                "q",
                1,
                0,
                false,
            ),
            (
                json!([{"role": "user", "content": [image, {"type": "text", "text": "q"}]}]),
                "q",
                0,
                1,
                false,
            ),
            (
                json!([{"role": "user", "content": "q"}, call,
                       {"role": "tool", "tool_call_id": "1", "content": "r"}]),
                "q",
                3,
                0,
                true,
            ),
            (json!([{"role": "system", "content": "s"}]), "s", 1, 0, true),
        ];
        for (messages, question, before, attachments, is_continued) in table {
            let asked = of(messages.clone()).unwrap();
            assert_eq!(asked.question, question, "{messages}");
            assert_eq!(asked.conversation.len(), before, "{messages}");
            assert_eq!(asked.attachments.len(), attachments, "{messages}");
            assert_eq!(asked.is_continued, is_continued, "{messages}");
        }
    }

    #[test]
    fn what_is_more_than_a_text_is_kept() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let image = json!({"type": "image_url", "image_url": {"url": "data:,x"}});
        let cached = json!({"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}});
        let kept = |content: Value| Some(json!({"role": "user", "content": content}));
        let table = [
            (json!({"role": "user", "content": "q"}), None),
            (json!({"role": "user", "content": [text("q")], "name": null}), None),
            (
                json!({"role": "user", "content": "q", "name": "bob"}),
                Some(json!({"role": "user", "content": "q", "name": "bob"})),
            ),
            (json!({"role": "user", "content": [image]}), kept(json!([null]))),
            (
                json!({"role": "user", "content": [text("a"), image, text("b")]}),
                kept(json!([text("a"), null, text("b")])),
            ),
            (json!({"role": "user", "content": [cached]}), kept(json!([cached]))),
        ];
        for (message, expected) in table {
            let asked = of(json!([message])).unwrap();
            assert_eq!(asked.message.map(|message| json!(message)), expected, "{message}");
        }
    }

    #[test]
    fn thoughts_stay_beside_calls() {
        let calls = json!([{"id": "1"}]);
        let table = [
            (
                json!({"reasoning_content": "hm", "reasoning": "so", "tool_calls": calls}),
                Some("hm"),
            ),
            (json!({"reasoning_content": "", "reasoning": "so", "tool_calls": calls}), Some("so")),
            (json!({"reasoning_content": null, "tool_calls": calls}), None),
            (json!({"reasoning_content": "hm", "tool_calls": [], "content": "a"}), None),
            (json!({"reasoning_content": "hm", "content": "a"}), None),
        ];
        for (mut answer, thoughts) in table {
            answer["role"] = json!("assistant");
            let asked = of(json!([{"role": "user", "content": "q"}, answer])).unwrap();
            let extra = &asked.conversation[1].extra;
            let found = extra.get("reasoning_content").and_then(Value::as_str);
            assert_eq!((found, extra.get("reasoning")), (thoughts, None), "{answer}");
        }
    }

    #[test]
    fn functions_are_tools() {
        let call = json!({"name": "f", "arguments": "{}"});
        let messages = json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null, "function_call": call},
            {"role": "function", "name": "f", "content": "r"},
        ]);
        let expected = json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null,
             "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
            {"role": "tool", "content": "r", "name": "f", "tool_call_id": "call_1"},
        ]);
        assert_eq!(json!(of(messages).unwrap().conversation), expected);
    }

    #[test]
    fn conversations_that_are_none() {
        let table = [
            (json!([]), "messages"),
            (json!([{"role": "robot", "content": "q"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": " "}]), "messages[0].content"),
            (json!([{"role": "user", "content": 1}]), "messages[0].content"),
            (json!([{"role": "user", "content": [1]}]), "messages[0].content[0]"),
            (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0]"),
            (json!([{"role": "assistant", "content": null}]), "messages[0].content"),
        ];
        for (messages, param) in table {
            let error = of(messages.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{messages}");
        }
    }
}
