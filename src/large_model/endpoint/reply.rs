//! Parses replies of endpoints: strict about required fields, and ignoring others.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::content::{finish_reason, flatten, is_blank, is_failure, repair_calls, said_reason};
use super::delta::{MAX_CALLS, PartialMessage, TooManyCalls, call_text};
use super::lenient::{self, Joiner};
use super::reply_size::ReplySize;
use super::upstream_error::UpstreamError;
use crate::chat::ChatMessage;
use crate::json_size;
use crate::large_model::reported_usage;
use crate::outbound::redact::Redactor;
use crate::outbound::sse::{Event, SseDecoder};
use crate::trajectory::TokenUsage;

/// What the JSON of a reply may take beside its texts, bytes: the log-probabilities of 8,000 tokens
/// with 20 alternatives each.
pub(super) const MAX_PARSED: usize = 128 * 1024 * 1024;

/// Why a body is not a reply; becomes an error once the model's name is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ReplyError {
    /// Not a response of this API.
    Malformed(String),
    /// An error inside a successful response.
    Upstream(UpstreamError),
    /// The same after a part of a reply, which may be billed.
    Interrupted(UpstreamError, Box<ParsedReply>),
}

impl ReplyError {
    /// An error after `said`, the fields of a message, and `usage`.
    fn after(
        error: UpstreamError,
        mut said: Map<String, Value>,
        usage: Option<TokenUsage>,
    ) -> Self {
        let mut size = ReplySize::default();
        size.add(&said);
        // Some endpoints send a role before they know whether there is a reply.
        if size.text == 0 && usage.is_none() {
            return Self::Upstream(error);
        }
        said.shift_remove("role");
        let content = said.shift_remove("content").unwrap_or_default();
        let message = ChatMessage { role: "assistant".to_owned(), content, extra: said };
        let part = ParsedReply { message, finish_reason: String::new(), logprobs: None, usage };
        Self::Interrupted(error, Box::new(part))
    }
}

impl From<TooManyCalls> for ReplyError {
    fn from(_: TooManyCalls) -> Self {
        Self::Malformed(format!("it calls more than {MAX_CALLS} tools"))
    }
}

/// A reply without its cost, which is computed later.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParsedReply {
    pub(super) message: ChatMessage,
    pub(super) finish_reason: String,
    /// The log-probabilities, if they were requested.
    pub(super) logprobs: Option<Value>,
    /// `None` if the endpoint does not report it.
    pub(super) usage: Option<TokenUsage>,
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
    /// Groq's: an error stands in it.
    #[serde(default)]
    x_groq: Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: Value,
    #[serde(default, deserialize_with = "fields")]
    message: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "fields")]
    delta: Option<Map<String, Value>>,
    #[serde(default)]
    finish_reason: Value,
    #[serde(default)]
    logprobs: Value,
    #[serde(default)]
    error: Value,
}

/// An object. PHP writes one without fields as an empty list.
fn fields<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Map<String, Value>>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(None),
        Value::Object(fields) => Ok(Some(fields)),
        Value::Array(items) if items.is_empty() => Ok(Some(Map::new())),
        _ => Err(D::Error::custom("it is not an object")),
    }
}

/// Parses the body of a Chat Completions response. An unsolicited stream, and a chunk on each line,
/// are understood.
pub(super) fn parse_completion(
    body: &[u8],
    redactor: Redactor<'_>,
) -> Result<ParsedReply, ReplyError> {
    let malformed = |what: &str| {
        let head = redactor.head(body);
        ReplyError::Malformed(if head.is_empty() {
            "the body is empty".to_owned()
        } else {
            format!("{what}: `{head}`")
        })
    };
    let start = start_of(body);
    if start.starts_with(b"<") {
        return Err(malformed("the body is HTML"));
    }
    if start.starts_with(b"{") && json_size::parsed_bytes(start) > MAX_PARSED {
        return Err(malformed("its JSON has too many values"));
    }
    let parsed = match lenient::parse::<Completion>(start) {
        Ok(parsed) => parsed,
        Err(_) if !start.starts_with(b"{") && has_events(start) => {
            return parse_events(start, redactor);
        }
        Err(_) if start.starts_with(b"{") && is_chunk_a_line(start) => {
            return parse_lines(start, redactor);
        }
        Err(error) if error.is_data() => return Err(malformed("the JSON is no completion")),
        Err(_) => return Err(malformed("the body is not valid JSON")),
    };
    let completion = parsed.value;
    let usage = reported_usage(&completion.usage);
    let mut choice = completion.choices.unwrap_or_default().into_iter().next();
    let message = choice.as_mut().and_then(|choice| choice.message.take().or(choice.delta.take()));
    let message = if parsed.is_repaired { message.map(joined) } else { message };
    if let Some(error) = UpstreamError::of(completion.error, None, redactor) {
        return Err(ReplyError::after(error, message.unwrap_or_default(), usage));
    }
    let Some(choice) = choice else {
        let fields = lenient::parse::<Map<String, Value>>(start).map(|parsed| parsed.value);
        let error = fields.ok().and_then(|fields| UpstreamError::bare(&fields, redactor));
        return Err(match error {
            Some(error) => ReplyError::after(error, Map::new(), usage),
            None => malformed("it has no choices"),
        });
    };
    if let Some(error) = UpstreamError::of(choice.error, None, redactor) {
        return Err(ReplyError::after(error, message.unwrap_or_default(), usage));
    }
    let message = message.ok_or_else(|| malformed("its first choice has no message"))?;
    let reply = build_reply(message, said_reason(&choice.finish_reason), usage)?;
    Ok(ParsedReply { logprobs: Some(choice.logprobs).filter(Value::is_object), ..reply })
}

/// The body without what may precede its JSON.
pub(super) fn start_of(body: &[u8]) -> &[u8] {
    let body = body.trim_ascii_start();
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start()
}

fn joined(fields: Map<String, Value>) -> Map<String, Value> {
    fields.into_iter().map(|(key, value)| (key, lenient::joined(value))).collect()
}

/// Whether a body is a stream of events.
fn has_events(body: &[u8]) -> bool {
    let mut lines = body.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.any(|line| line.starts_with(b"data:"))
}

/// Whether a body has a complete JSON object on its first line and more after it.
fn is_chunk_a_line(body: &[u8]) -> bool {
    let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
    end < body.len() && lenient::parse::<Completion>(&body[..end]).is_ok()
}

fn parse_events(body: &[u8], redactor: Redactor<'_>) -> Result<ParsedReply, ReplyError> {
    let (mut decoder, mut assembly) = (SseDecoder::default(), ReplyAssembler::default());
    decoder.push(body);
    let mut has_done_marker = false;
    while let Some(event) = decoder.next_event().or_else(|| decoder.finish()) {
        has_done_marker |= event.is_done_marker();
        if has_done_marker || assembly.is_over() {
            break;
        }
        assembly.push(&event, redactor)?;
    }
    assembly.finish(has_done_marker)
}

fn parse_lines(body: &[u8], redactor: Redactor<'_>) -> Result<ParsedReply, ReplyError> {
    let mut assembly = ReplyAssembler::default();
    for line in body.split(|byte| *byte == b'\n') {
        assembly.push(&Event { name: String::new(), data: line.to_vec() }, redactor)?;
    }
    assembly.finish(false)
}

/// A reply that arrives in pieces.
#[derive(Debug, Default)]
pub(super) struct ReplyAssembler {
    message: Option<PartialMessage>,
    finish_reason: Option<String>,
    logprobs: Option<Map<String, Value>>,
    usage: Option<TokenUsage>,
    kept: ReplySize,
    /// The text of calls of tools that was not taken yet.
    called: String,
    /// Whether a delta came: a message beside or after it repeats what was said.
    has_deltas: bool,
    /// Whether more came after a finish reason, which some endpoints send with every chunk.
    went_on: bool,
    is_over: bool,
    /// Joins characters that arrive in halves.
    joiner: Option<Joiner>,
}

impl ReplyAssembler {
    /// Takes an event, and returns the text that it adds to the reply. Heartbeats, and events of
    /// other names that are not chunks, add nothing.
    pub(super) fn push(
        &mut self,
        event: &Event,
        redactor: Redactor<'_>,
    ) -> Result<String, ReplyError> {
        let (was_whole, was_complete) = (self.is_whole(), self.is_complete());
        let said = self.kept.text;
        let text = self.read(event, redactor);
        self.went_on |= was_complete && self.kept.text > said;
        // A failure after the last word takes nothing of the reply back.
        if was_whole && text.is_err() {
            self.is_over = true;
            return Ok(String::new());
        }
        text.map_err(|fault| match fault {
            ReplyError::Upstream(error) => {
                let said = self.message.take().unwrap_or_default().into_fields();
                ReplyError::after(error, said, self.usage)
            }
            other => other,
        })
    }

    fn read(&mut self, event: &Event, redactor: Redactor<'_>) -> Result<String, ReplyError> {
        let mut data = start_of(&event.data);
        if data.starts_with(b"[{") {
            // Google's form of errors.
            data = data[1..].trim_ascii_end().strip_suffix(b"]").unwrap_or(data);
        }
        if event.name != "error" && !data.starts_with(b"{") {
            return Ok(String::new());
        }
        let parsed = match lenient::parse::<Completion>(data) {
            Ok(parsed) => parsed,
            Err(_) if event.name == "error" => {
                let error = UpstreamError::of(redactor.head(data).into(), None, redactor);
                return error.map_or(Ok(String::new()), |error| Err(ReplyError::Upstream(error)));
            }
            Err(_) if event.has_other_name() => return Ok(String::new()),
            Err(_) => {
                let head = redactor.head(data);
                let what = "an event of the stream is no completion chunk";
                return Err(ReplyError::Malformed(format!("{what}: `{head}`")));
            }
        };
        let mut chunk = parsed.value;
        let usage = reported_usage(&chunk.usage);
        if chunk.error.is_null()
            && let Some(error) = chunk.x_groq.get_mut("error")
        {
            chunk.error = error.take();
        }
        // The usual last chunk has no choice. Usage that comes with one may be a count so far.
        let has_choice = chunk.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        self.is_over |= !has_choice && usage.is_some() && self.is_complete();
        self.usage = usage.or(self.usage);
        if let Some(error) = UpstreamError::of(chunk.error, None, redactor) {
            return Err(ReplyError::Upstream(error));
        }
        let Some(choices) = chunk.choices else {
            let fields = lenient::parse::<Map<String, Value>>(data).map(|parsed| parsed.value);
            let error = fields.ok().filter(|_| event.name == "error" || !event.has_other_name());
            let error = error.and_then(|fields| UpstreamError::bare(&fields, redactor));
            return error.map_or(Ok(String::new()), |error| Err(ReplyError::Upstream(error)));
        };
        if parsed.is_repaired {
            self.joiner.get_or_insert_default();
        }
        let mut text = String::new();
        // Further choices were not requested.
        for choice in choices.into_iter().filter(|it| it.index.as_u64().unwrap_or(0) == 0) {
            text.push_str(&self.read_choice(choice, redactor)?);
        }
        Ok(match &mut self.joiner {
            Some(joiner) => joiner.push(&text),
            None => text,
        })
    }

    /// The text of a field of the message so far.
    pub(super) fn said(&self, field: &str) -> Option<&str> {
        self.message.as_ref()?.said(field)
    }

    fn read_choice(
        &mut self,
        choice: Choice,
        redactor: Redactor<'_>,
    ) -> Result<String, ReplyError> {
        if let Some(error) = UpstreamError::of(choice.error, None, redactor) {
            return Err(ReplyError::Upstream(error));
        }
        if let Some(reason) = said_reason(&choice.finish_reason) {
            self.finish_reason = Some(reason.to_owned());
        }
        if let Value::Object(logprobs) = choice.logprobs {
            self.kept.add_logprobs(&logprobs);
            add_logprobs(self.logprobs.get_or_insert_default(), logprobs);
        }
        let mut text = String::new();
        if let Some(delta) = choice.delta {
            self.has_deltas = true;
            text = self.grow(delta)?;
        }
        if let Some(mut message) = choice.message {
            if let (true, Some(known)) = (self.has_deltas, &self.message) {
                message.retain(|key, _| !known.has(key));
            }
            text.push_str(&self.grow(message)?);
        }
        Ok(text)
    }

    /// Adds fields to the message, and returns their text.
    fn grow(&mut self, fields: Map<String, Value>) -> Result<String, ReplyError> {
        self.kept.add(&fields);
        let calls = fields.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        calls.filter_map(call_text).for_each(|text| self.called.push_str(text));
        Ok(self.message.get_or_insert_default().add(fields)?)
    }

    /// What the endpoint says that it used so far.
    pub(super) fn reported(&self) -> Option<TokenUsage> {
        self.usage
    }

    /// Takes the text of calls of tools that is new.
    pub(super) fn take_called(&mut self) -> String {
        std::mem::take(&mut self.called)
    }

    /// What is kept of the reply so far.
    pub(super) fn size(&self) -> ReplySize {
        self.kept
    }

    /// The text that was held back for the rest of its last character.
    pub(super) fn rest(&mut self) -> String {
        self.joiner.as_mut().map(Joiner::finish).unwrap_or_default()
    }

    /// Whether the endpoint said that the message is complete.
    fn is_complete(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// Whether the message is a complete one: nothing followed its finish reason.
    pub(super) fn is_whole(&self) -> bool {
        !self.went_on && self.finish_reason.as_deref().is_some_and(|reason| !is_failure(reason))
    }

    /// Whether message and usage seem complete.
    pub(super) fn is_settled(&self) -> bool {
        self.is_whole() && self.usage.is_some()
    }

    /// Whether nothing that matters can follow.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The complete reply. `has_done_marker`: whether the stream ended with `[DONE]`.
    pub(super) fn finish(&mut self, has_done_marker: bool) -> Result<ParsedReply, ReplyError> {
        if self.message.is_none() && !self.is_complete() {
            return Err(ReplyError::Malformed("the stream has no message".to_owned()));
        }
        if !has_done_marker && !self.is_complete() {
            let what = "the stream ended without a finish reason and without `[DONE]`";
            return Err(ReplyError::Malformed(what.to_owned()));
        }
        let mut fields = self.message.take().unwrap_or_default().into_fields();
        if self.joiner.is_some() {
            fields = joined(fields);
        }
        let reply = build_reply(fields, self.finish_reason.as_deref(), self.usage)?;
        Ok(ParsedReply { logprobs: self.logprobs.take().map(Value::from), ..reply })
    }
}

/// Appends the log-probabilities of a chunk's tokens.
fn add_logprobs(known: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (known.get_mut(&key), value) {
            (Some(Value::Array(tokens)), Value::Array(more)) => tokens.extend(more),
            (Some(_), Value::Null) => {}
            (_, value) => drop(known.insert(key, value)),
        }
    }
}

/// A reply from the fields of its message.
fn build_reply(
    mut fields: Map<String, Value>,
    said: Option<&str>,
    usage: Option<TokenUsage>,
) -> Result<ParsedReply, ReplyError> {
    if let Some(reason) = said.filter(|said| is_failure(said)) {
        let message = format!("the reply ended with the finish reason `{reason}`");
        let error = UpstreamError { status: 502, message, body: None };
        return Err(ReplyError::after(error, fields, usage));
    }
    let content = fields.shift_remove("content").unwrap_or_default();
    let content = flatten(content, &mut fields);
    let calls = fields.get("tool_calls").and_then(Value::as_array);
    if calls.is_some_and(|calls| calls.len() > MAX_CALLS) {
        return Err(TooManyCalls.into());
    }
    repair_calls(&mut fields);
    let has_calls = fields.contains_key("tool_calls");
    let finish_reason = finish_reason(said, has_calls).to_owned();
    let role = match fields.shift_remove("role") {
        Some(Value::String(role)) if !role.is_empty() => role,
        _ => "assistant".to_owned(),
    };
    let content = match content {
        Value::String(_) | Value::Array(_) => content,
        // These replace the content.
        Value::Null
            if ["tool_calls", "function_call", "refusal", "audio"]
                .iter()
                .any(|key| fields.get(*key).is_some_and(|value| !is_blank(value))) =>
        {
            Value::Null
        }
        // The model said nothing, or only thoughts; the finish reason says why.
        Value::Null => Value::String(String::new()),
        other => {
            let kind = if other.is_object() { "an object" } else { "a number or a boolean" };
            return Err(ReplyError::Malformed(format!("the content of its message is {kind}")));
        }
    };
    let message = ChatMessage { role, content, extra: fields };
    Ok(ParsedReply { message, finish_reason, logprobs: None, usage })
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
