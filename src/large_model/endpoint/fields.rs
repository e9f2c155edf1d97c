//! The fields of a request: what was asked for, what this program adds, and which of the latter an
//! endpoint refuses.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::config::LargeModelConfig;
use super::field_error::{FieldError, field_errors};
use crate::chat::ChatMessage;
use crate::large_model::{Call, LargeModelError, THOUGHTS};

/// Fields that a model refuses, each with the name that it accepts instead, if any.
pub(super) type Names = BTreeMap<String, Option<String>>;

/// What each model of an endpoint refuses, and which of them refuse calls of tools without the
/// thoughts before them.
#[derive(Debug, Default)]
pub(super) struct RefusedFields {
    names: Mutex<HashMap<String, Names>>,
    without_thoughts: Mutex<HashSet<String>>,
}

/// How many models are remembered.
const MAX_MODELS: usize = 1_024;

impl RefusedFields {
    /// What a model is known to refuse.
    pub(super) fn of(&self, model: &str) -> Names {
        self.models().get(model).cloned().unwrap_or_default()
    }

    /// Remembers what a model refuses.
    pub(super) fn learn(&self, model: &str, names: &Names) {
        let mut models = self.models();
        if models.len() >= MAX_MODELS && !models.contains_key(model) {
            models.clear();
        }
        models.entry(model.to_owned()).or_default().extend(names.clone());
    }

    /// Whether a model is known to need the thoughts before calls of tools.
    pub(super) fn needs_thoughts(&self, model: &str) -> bool {
        self.thinking().contains(model)
    }

    /// Remembers that a model does.
    pub(super) fn learn_thoughts(&self, model: &str) {
        let mut models = self.thinking();
        if models.len() >= MAX_MODELS {
            models.clear();
        }
        models.insert(model.to_owned());
    }

    fn models(&self) -> MutexGuard<'_, HashMap<String, Names>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thinking(&self) -> MutexGuard<'_, HashSet<String>> {
        self.without_thoughts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body, and the fields in it that the caller did not ask for, which the endpoint may
/// refuse.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) body: Bytes,
    pub(super) optional: Vec<String>,
}

/// The messages of a request, with or without the thoughts before calls of tools: DeepSeek's models
/// refuse calls without them, others refuse the field. Those of other messages are never sent, nor
/// are fields that say nothing, such as `refusal` in an answer that a client repeats: Mistral and
/// Groq refuse them.
struct Messages<'a> {
    messages: &'a [ChatMessage],
    with_thoughts: bool,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let with_thoughts = self.with_thoughts;
        let messages = self.messages.iter();
        serializer.collect_seq(messages.map(|message| Sent { message, with_thoughts }))
    }
}

struct Sent<'a> {
    message: &'a ChatMessage,
    with_thoughts: bool,
}

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ChatMessage { role, content, extra } = self.message;
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("role", role)?;
        fields.serialize_entry("content", content)?;
        let is_said = |value: &Value| !value.is_null() && *value != json!([]);
        for (key, value) in extra.iter().filter(|(_, value)| is_said(value)) {
            if role != "assistant" || !THOUGHTS.contains(&key.as_str()) {
                fields.serialize_entry(key, value)?;
            }
        }
        if self.with_thoughts && self.message.makes_calls() {
            // The field must be there, even if the client has lost what it said.
            let thoughts = extra.get(THOUGHTS[0]).and_then(Value::as_str);
            fields.serialize_entry(THOUGHTS[0], thoughts.unwrap_or_default())?;
        }
        fields.end()
    }
}

/// The fields of a request for `call`, without what its model refuses.
///
/// # Errors
/// When the messages cannot be written as JSON.
pub(super) fn fields(
    config: &LargeModelConfig,
    call: &Call,
    is_stream: bool,
    refused: &Names,
    with_thoughts: bool,
) -> Result<Fields, serde_json::Error> {
    // Only referred to: they may be large.
    let mut body: BTreeMap<&str, Cow<'_, Value>> = BTreeMap::new();
    body.insert("model", Cow::Owned(config.model.clone().into()));
    let configured = config.params.iter().map(|(key, value)| (key.as_str(), value));
    for (key, value) in configured.chain(call.fields()) {
        body.insert(key, Cow::Borrowed(value));
    }
    for key in ["messages", "stream", "stream_options"] {
        body.remove(key);
    }
    let mut optional: Vec<&str> = Vec::new();
    for (key, value) in &call.optional_params {
        // A model that has its limit under the newer name refuses the older one.
        let key = match key.as_str() {
            "max_tokens" if body.contains_key("max_completion_tokens") => "max_completion_tokens",
            key => key,
        };
        let key = match refused.get(key) {
            None => key,
            Some(Some(other)) if !refused.contains_key(other) => other,
            Some(_) => continue,
        };
        body.insert(key, Cow::Borrowed(value));
        optional.push(key);
    }
    if is_stream && !refused.contains_key("stream") {
        body.insert("stream", Cow::Owned(true.into()));
        optional.push("stream");
        if !refused.contains_key("stream_options") {
            body.insert("stream_options", Cow::Owned(json!({"include_usage": true})));
            optional.push("stream_options");
        }
    }
    for key in &config.drop {
        body.remove(key.as_str());
    }
    for (key, other) in &config.rename {
        if let Some(value) = body.remove(key.as_str()) {
            body.insert(other, value);
        }
        for optional in optional.iter_mut().filter(|optional| **optional == key.as_str()) {
            *optional = other;
        }
    }
    optional.retain(|key| {
        let is_refused = refused.contains_key(*key);
        if is_refused {
            body.remove(key);
        }
        body.contains_key(key)
    });
    let optional = optional.into_iter().map(str::to_owned).collect();
    let mut written = Vec::new();
    let mut writer = serde_json::Serializer::new(&mut written);
    let mut fields = writer.serialize_map(None)?;
    fields.serialize_entry("messages", &Messages { messages: &call.messages, with_thoughts })?;
    for (key, value) in &body {
        fields.serialize_entry(key, value.as_ref())?;
    }
    fields.end()?;
    Ok(Fields { body: written.into(), optional })
}

/// Which of the added fields an error refuses, and whether to remember that: a limit that is too
/// large for one request says nothing about the next.
pub(super) fn refused_by(error: &LargeModelError, optional: &[String]) -> Option<(Names, bool)> {
    let LargeModelError::Status { status: 400 | 422, message, body, billed: None, .. } = error
    else {
        return None;
    };
    refused_in(message, body.as_deref(), optional)
}

/// The same of an error's message and its object, if there is one.
pub(super) fn refused_in(
    message: &str,
    body: Option<&Value>,
    optional: &[String],
) -> Option<(Names, bool)> {
    let field_errors = field_errors(message, body);
    let names: Names = optional
        .iter()
        .filter(|optional| field_errors.iter().any(|field_error| field_error.names(optional)))
        .map(|field| (field.clone(), substitute(field, &field_errors)))
        .collect();
    let sizes = ["context", "too large", "too long", "exceed"];
    let is_size = field_errors.iter().any(|it| sizes.iter().any(|size| it.text.contains(size)));
    (!names.is_empty()).then_some((names, !is_size))
}

/// Whether an error says that the thoughts before calls of tools are missing.
pub(super) fn misses_thoughts(error: &LargeModelError) -> bool {
    let LargeModelError::Status { status: 400 | 422, message, body, .. } = error else {
        return false;
    };
    field_errors(message, body.as_deref()).iter().any(|it| {
        let is_missing = ["must be passed back", "Missing", "missing"];
        it.text.contains(THOUGHTS[0]) && is_missing.iter().any(|said| it.text.contains(said))
    })
}

/// The name under which a refused field is sent instead: the newer one of the limit where an error
/// suggests it, and the older one in place of that.
fn substitute(field: &str, field_errors: &[FieldError<'_>]) -> Option<String> {
    const OLDER: &str = "max_tokens";
    const NEWER: &str = "max_completion_tokens";
    match field {
        OLDER if field_errors.iter().any(|it| it.text.contains(NEWER)) => Some(NEWER.to_owned()),
        NEWER => Some(OLDER.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A request's fields as an error repeats them.
    const ECHO: &str = "{'stream': True, 'stream_options': {}, 'temperature': 0.7, 'max_tokens': 9, 'seed': 3, 'stop': ['x']}";

    fn error(status: u16, body: Value) -> LargeModelError {
        let message = body["message"].as_str().map_or_else(|| body.to_string(), str::to_owned);
        let body = Some(Box::new(body));
        LargeModelError::Status {
            model: "m".into(),
            status,
            message,
            retry_after: None,
            body,
            billed: None,
        }
    }

    #[test]
    fn errors_name_what_they_refuse() {
        let optional = [
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "seed",
            "stream",
            "stream_options",
            "stop",
        ]
        .map(str::to_owned);
        let table: [(u16, Value, &[&str], bool); 20] = [
            (
                400,
                json!({"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                       "param": "max_tokens", "code": "unsupported_parameter"}),
                &["max_tokens>max_completion_tokens"],
                true,
            ),
            (
                400,
                json!({"message": "Unsupported value: 'temperature' does not support 0.7 with this model.",
                       "param": "temperature"}),
                &["temperature>"],
                true,
            ),
            (
                422,
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                                   "msg": "Extra inputs are not permitted"}]}),
                &["seed>"],
                true,
            ),
            (400, json!({"message": "Unknown field `stream_options`"}), &["stream_options>"], true),
            (400, json!({"message": "property 'stop' is unsupported"}), &["stop>"], true),
            (
                400,
                json!({"message": "max_tokens is too large: 1024. This model's maximum context length is 512"}),
                &["max_tokens>"],
                false,
            ),
            (400, json!({"message": "please stop sending streams of nonsense"}), &[], true),
            (400, json!({"message": "tools is not supported", "param": "tools"}), &[], true),
            (400, json!({"message": "no_max_tokens_here"}), &[], true),
            // The limit goes by either name.
            (
                400,
                json!({"message": "Unsupported parameter: 'max_completion_tokens'"}),
                &["max_completion_tokens>max_tokens"],
                true,
            ),
            (
                400,
                json!({"message": "max_completion_tokens is too large", "param": "max_completion_tokens"}),
                &["max_completion_tokens>max_tokens"],
                false,
            ),
            // Mistral's form.
            (
                422,
                json!({"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                                               "msg": "Extra inputs are not permitted"}]}}),
                &["seed>"],
                true,
            ),
            // The endpoint means another field, whatever the message quotes from the request.
            (
                400,
                json!({"message": "Invalid value: 'stream'. Supported values are: 'none' and 'high'.",
                       "param": "reasoning_effort", "code": "invalid_value"}),
                &[],
                true,
            ),
            (
                422,
                json!({"detail": [{"type": "missing", "loc": ["body", "messages", 0, "x"],
                                   "msg": "Field required", "input": ECHO}]}),
                &[],
                true,
            ),
            (
                422,
                json!({"detail": [{"type": "enum", "loc": ["body", "reasoning_effort"],
                                   "msg": "not 'stream'"}]}),
                &[],
                true,
            ),
            (
                400,
                json!({"message": format!("[{{'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, no such tool', 'input': {ECHO}}}]"),
                       "param": null}),
                &[],
                true,
            ),
            (
                400,
                json!({"message": format!("1 validation error for Request\nstream_options\n  Extra inputs are not permitted [type=extra_forbidden, input_value={ECHO}]"),
                       "param": "None"}),
                &["stream_options>"],
                true,
            ),
            (
                400,
                json!({"message": "not supported", "param": "stream_options.include_usage"}),
                &["stream_options>"],
                true,
            ),
            (404, json!({"message": "'seed'"}), &[], true),
            (500, json!({"message": "'seed'"}), &[], true),
        ];
        for (status, body, expected, is_lasting) in table {
            let found = refused_by(&error(status, body.clone()), &optional);
            let (names, lasts) = found.unwrap_or((Names::new(), is_lasting));
            let names: Vec<_> = names
                .into_iter()
                .map(|(name, other)| format!("{name}>{}", other.unwrap_or_default()))
                .collect();
            assert_eq!(
                (names, lasts),
                (expected.iter().map(|e| e.to_string()).collect(), is_lasting),
                "{body}"
            );
        }
    }

    #[test]
    fn errors_that_miss_thoughts() {
        let table = [
            (
                400,
                "The `reasoning_content` in the thinking mode must be passed back to the API.",
                true,
            ),
            (
                400,
                "Missing `reasoning_content` field in the assistant message at message index 1.",
                true,
            ),
            (
                400,
                "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
                true,
            ),
            (400, "Unknown field `reasoning_content`", false),
            (400, "Missing `content`, 'input': {'reasoning_content': 'hm'}", false),
            (500, "Missing `reasoning_content` field", false),
        ];
        for (status, message, expected) in table {
            let error = error(status, json!({"message": message}));
            assert_eq!(misses_thoughts(&error), expected, "{status} {message}");
        }
    }

    #[test]
    fn thoughts_are_sent_beside_calls_where_they_are_needed() {
        let calls = json!([{"id": "1"}]);
        let messages = json!([
            {"role": "user", "content": "q", "reasoning": "theirs"},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": calls},
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "assistant", "content": "a", "reasoning_content": "so", "name": "n",
             "refusal": null, "annotations": []},
        ]);
        let call =
            Call { messages: serde_json::from_value(messages.clone()).unwrap(), ..Call::default() };
        let config = LargeModelConfig::new("http://h/v1", "m");
        for needed in [false, true] {
            let fields = fields(&config, &call, false, &Names::new(), needed).unwrap();
            let body: Value = serde_json::from_slice(&fields.body).unwrap();
            let mut expected = messages.clone();
            expected[3] = json!({"role": "assistant", "content": "a", "name": "n"});
            match needed {
                true => expected[2]["reasoning_content"] = json!(""),
                false => {
                    drop(expected[1].as_object_mut().unwrap().shift_remove("reasoning_content"))
                }
            }
            assert_eq!(body["messages"], expected);
        }
    }

    #[test]
    fn what_is_sent() {
        let mut config = LargeModelConfig::new("http://h/v1", "m");
        config.params = json!({"top_k": 3, "max_tokens": 9}).as_object().cloned().unwrap();
        let call = Call {
            params: json!({"x": 1}).as_object().cloned().unwrap(),
            optional_params: json!({"max_tokens": 5, "stop": ["a"]}).as_object().cloned().unwrap(),
            ..Call::default()
        };
        let sent = |config: &LargeModelConfig, is_stream, refused: &[(&str, Option<&str>)]| {
            let refused = refused.iter().map(|(a, b)| ((*a).to_owned(), b.map(str::to_owned)));
            let fields = fields(config, &call, is_stream, &refused.collect(), false).unwrap();
            let mut body: Value = serde_json::from_slice(&fields.body).unwrap();
            for key in ["messages", "model", "x", "top_k"] {
                body.as_object_mut().unwrap().remove(key).unwrap();
            }
            (body, fields.optional)
        };
        let (body, optional) = sent(&config, false, &[]);
        assert_eq!(body, json!({"max_tokens": 5, "stop": ["a"]}));
        assert_eq!(optional, ["max_tokens", "stop"]);
        let newer = ("max_tokens", Some("max_completion_tokens"));
        let (body, optional) =
            sent(&config, true, &[newer, ("stop", None), ("stream_options", None)]);
        assert_eq!(body, json!({"max_tokens": 9, "max_completion_tokens": 5, "stream": true}));
        assert_eq!(optional, ["max_completion_tokens", "stream"]);
        assert_eq!(sent(&config, true, &[("stream", None)]).0.get("stream_options"), None);
        config.drop = vec!["stop".to_owned()];
        config.rename = [("max_tokens".to_owned(), "num_predict".to_owned())].into();
        let (body, optional) = sent(&config, false, &[]);
        assert_eq!(body, json!({"num_predict": 5}));
        assert_eq!(optional, ["num_predict"]);
    }
}
