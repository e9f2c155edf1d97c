//! Assembles the message of a streamed reply.

use serde_json::{Map, Value};

use super::content::{Parts, is_blank, take_apart};

/// Tool calls of one message. No model makes this many; without a bound, an endpoint could keep
/// this program busy.
pub(super) const MAX_CALLS: usize = 128;

/// More tool calls than [`MAX_CALLS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyCalls;

/// An assistant message that arrives in deltas.
#[derive(Debug, Default)]
pub(super) struct PartialMessage {
    fields: Map<String, Value>,
    /// Parts of the content that are not text.
    parts: Vec<Value>,
    calls: Vec<PartialCall>,
}

impl PartialMessage {
    /// Adds a delta and returns its text. Text is appended, pieces of tool calls are matched, lists
    /// grow, and for anything else the newest value counts.
    pub(super) fn add(&mut self, delta: Map<String, Value>) -> Result<String, TooManyCalls> {
        let mut text = String::new();
        for (key, value) in delta {
            match (key.as_str(), value) {
                (_, Value::Null) => {}
                ("tool_calls", Value::Array(pieces)) => {
                    pieces.into_iter().try_for_each(|piece| self.add_to_call(piece))?;
                }
                ("content", Value::Array(parts)) => {
                    let Parts { text: more, thoughts, others } = take_apart(parts);
                    self.parts.extend(others);
                    grow(&mut self.fields, key, more.as_str().into());
                    if !thoughts.is_empty() {
                        grow(&mut self.fields, "reasoning_content".to_owned(), thoughts.into());
                    }
                    text.push_str(&more);
                }
                ("content", Value::String(more)) => {
                    text.push_str(&more);
                    grow(&mut self.fields, key, more.into());
                }
                ("role", value) => drop(self.fields.insert(key, value)),
                ("function_call", Value::Object(piece)) => match self.fields.get_mut(&key) {
                    Some(Value::Object(call)) => grow_call(call, piece),
                    _ => drop(self.fields.insert(key, piece.into())),
                },
                (_, value) => grow(&mut self.fields, key, value),
            }
        }
        Ok(text)
    }

    /// The text of a field so far.
    pub(super) fn said(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// Whether a field has been said.
    pub(super) fn has(&self, key: &str) -> bool {
        let is_apart = match key {
            "tool_calls" => !self.calls.is_empty(),
            "content" => !self.parts.is_empty(),
            _ => false,
        };
        is_apart || self.fields.get(key).is_some_and(|value| !is_blank(value))
    }

    /// The fields of the complete message.
    pub(super) fn into_fields(mut self) -> Map<String, Value> {
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(|call| Value::Object(call.fields)).collect();
            self.fields.insert("tool_calls".to_owned(), calls);
        }
        if !self.parts.is_empty() {
            let text = self.fields.shift_remove("content");
            let parts = text.into_iter().chain(self.parts).collect();
            self.fields.insert("content".to_owned(), parts);
        }
        self.fields
    }

    fn add_to_call(&mut self, piece: Value) -> Result<(), TooManyCalls> {
        let Value::Object(mut fields) = piece else { return Ok(()) };
        let index = fields.shift_remove("index").and_then(|index| index.as_u64());
        let id = text_of(&fields, "id");
        let position = match (index, id) {
            (Some(_), _) => self.calls.iter().rposition(|call| call.index == index),
            (None, Some(id)) => {
                self.calls.iter().rposition(|call| text_of(&call.fields, "id") == Some(id))
            }
            // Neither: it continues the current call.
            (None, None) => self.calls.len().checked_sub(1),
        };
        let position = position.filter(|at| !self.calls[*at].is_followed_by(&fields));
        let position = match position {
            Some(position) => position,
            None if self.calls.len() == MAX_CALLS => return Err(TooManyCalls),
            None => {
                self.calls.push(PartialCall::new(index));
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[position];
        if let Some(arguments) = arguments(&fields) {
            call.nesting.read(arguments);
        }
        grow_call(&mut call.fields, fields);
        Ok(())
    }
}

#[derive(Debug)]
struct PartialCall {
    /// Which call a piece belongs to. Some endpoints do not say, and some send index 0 for every
    /// call.
    index: Option<u64>,
    fields: Map<String, Value>,
    nesting: Nesting,
}

impl PartialCall {
    fn new(index: Option<u64>) -> Self {
        Self { index, fields: Map::new(), nesting: Nesting::default() }
    }

    /// Whether a piece with this call's index begins another call. Only a piece with a name does:
    /// some endpoints send a new id with every piece.
    fn is_followed_by(&self, piece: &Map<String, Value>) -> bool {
        let Some(name) = name(piece) else { return false };
        if self::name(&self.fields).is_some_and(|own| own != name) {
            return true;
        }
        match (text_of(&self.fields, "id"), text_of(piece, "id")) {
            (Some(own), Some(other)) => own != other,
            // Nothing can follow complete arguments.
            _ => self.nesting.is_closed() && arguments(piece).is_some_and(|more| !more.is_empty()),
        }
    }
}

/// The nesting depth in a JSON text that arrives in pieces.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    has_opened: bool,
    in_string: bool,
    is_escaped: bool,
}

impl Nesting {
    fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => {
                    self.depth += 1;
                    self.has_opened = true;
                }
                b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.has_opened && self.depth == 0
    }
}

/// A text that is not empty.
fn text_of<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// The name of the function or of the custom tool.
fn name(call: &Map<String, Value>) -> Option<&str> {
    let name = |kind| text_of(call.get(kind)?.as_object()?, "name");
    ["function", "custom"].into_iter().find_map(name)
}

/// The arguments of a function: of JSON, whose end is known. The input of a custom tool is any
/// text.
fn arguments(call: &Map<String, Value>) -> Option<&str> {
    call.get("function")?.get("arguments")?.as_str()
}

/// The text of a piece of a tool call, which comes in many: the arguments of a function or the input
/// of a custom tool.
pub(super) fn call_text(piece: &Value) -> Option<&str> {
    let text = match piece.get("function") {
        Some(function) => function.get("arguments"),
        None => piece.get("custom")?.get("input"),
    };
    text?.as_str()
}

/// Adds a piece to a tool call: only the arguments of a function and the input of a custom tool are
/// sent in pieces, everything else is complete.
fn grow_call(call: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (key, value) in piece {
        match (call.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(inner)), Value::Object(more)) => grow_call(inner, more),
            (Some(Value::String(text)), Value::String(more))
                if matches!(key.as_str(), "arguments" | "input") =>
            {
                text.push_str(&more);
            }
            (Some(_), Value::String(more)) if more.is_empty() => {}
            (_, value) => drop(call.insert(key, value)),
        }
    }
}

fn grow(fields: &mut Map<String, Value>, key: String, value: Value) {
    match (fields.get_mut(&key), value) {
        (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
        (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
        (_, value) => drop(fields.insert(key, value)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn merge(deltas: &[Value]) -> Value {
        let mut message = PartialMessage::default();
        for delta in deltas {
            message.add(delta.as_object().cloned().unwrap_or_default()).unwrap();
        }
        Value::Object(message.into_fields())
    }

    #[test]
    fn deltas_become_one_message() {
        let call = |index: Value, id: Value, name: Value, arguments: &str| {
            json!({"tool_calls": [{"index": index, "id": id, "type": "function",
                   "function": {"name": name, "arguments": arguments}}]})
        };
        let custom = |index: u64, id: Value, name: Value, input: &str| {
            json!({"tool_calls": [{"index": index, "id": id, "type": "custom",
                   "custom": {"name": name, "input": input}}]})
        };
        let whole = |id: &str, arguments: &str| {
            json!({"id": id, "type": "function",
                   "function": {"name": "f", "arguments": arguments}})
        };
        let table = [
            ("nothing", vec![], json!({})),
            (
                "text",
                vec![
                    json!({"role": "assistant", "content": ""}),
                    json!({"role": "assistant", "content": "a"}),
                    json!({"content": null}),
                    json!({"content": "b", "reasoning_content": "r"}),
                    json!({"reasoning_content": "s"}),
                ],
                json!({"role": "assistant", "content": "ab", "reasoning_content": "rs"}),
            ),
            (
                "null, then text",
                vec![json!({"content": null}), json!({"content": "a"})],
                json!({"content": "a"}),
            ),
            (
                "lists and unknown fields",
                vec![json!({"x": [1], "y": 1}), json!({"x": [2], "y": {"z": 2}})],
                json!({"x": [1, 2], "y": {"z": 2}}),
            ),
            (
                "one call in pieces, its name sent again",
                vec![
                    call(json!(0), json!("c1"), json!("f"), ""),
                    call(json!(0), json!(null), json!("f"), "{\"a\""),
                    call(json!(0), json!(""), json!(""), ":1}"),
                ],
                json!({"tool_calls": [whole("c1", "{\"a\":1}")]}),
            ),
            (
                "two calls, interleaved",
                vec![
                    call(json!(0), json!("c1"), json!("f"), "1"),
                    call(json!(1), json!("c2"), json!("f"), "2"),
                    call(json!(0), json!(null), json!(null), "3"),
                ],
                json!({"tool_calls": [whole("c1", "13"), whole("c2", "2")]}),
            ),
            (
                "no indices: distinguished by id",
                vec![
                    call(json!(null), json!("c1"), json!("f"), "1"),
                    call(json!(null), json!("c2"), json!("f"), "2"),
                    call(json!(null), json!(null), json!("f"), "3"),
                    call(json!(null), json!("c1"), json!("f"), "4"),
                ],
                json!({"tool_calls": [whole("c1", "14"), whole("c2", "23")]}),
            ),
            (
                "two calls that only their names tell apart",
                vec![
                    call(json!(0), json!(null), json!("f"), ""),
                    call(json!(0), json!(null), json!("g"), ""),
                    call(json!(0), json!(null), json!(null), "{}"),
                ],
                json!({"tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": ""}},
                    {"type": "function", "function": {"name": "g", "arguments": "{}"}},
                ]}),
            ),
            (
                "three calls that all have index 0",
                vec![
                    call(json!(0), json!("c1"), json!("f"), "{\"a\":1}"),
                    call(json!(0), json!("c2"), json!("f"), "{\"a\""),
                    call(json!(0), json!("c2"), json!(null), ":2}"),
                    call(json!(0), json!("c3"), json!("f"), "{}"),
                ],
                json!({"tool_calls": [
                    whole("c1", "{\"a\":1}"), whole("c2", "{\"a\":2}"), whole("c3", "{}")]}),
            ),
            (
                "another id with every piece, but no name",
                vec![
                    call(json!(0), json!("c1"), json!("f"), "{\"a\""),
                    call(json!(0), json!("c1"), json!(null), ":1"),
                    call(json!(0), json!("c1"), json!(""), "}"),
                ],
                json!({"tool_calls": [whole("c1", "{\"a\":1}")]}),
            ),
            (
                "neither index nor id: closed arguments end a call",
                vec![
                    call(json!(null), json!(""), json!("f"), "{\"a\": \"}"),
                    call(json!(null), json!(""), json!("f"), "\"}"),
                    call(json!(null), json!(""), json!("f"), "{}"),
                ],
                json!({"tool_calls": [whole("", "{\"a\": \"}\"}"), whole("", "{}")]}),
            ),
            (
                "content in parts",
                vec![
                    json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]}),
                    json!({"content": [{"type": "text", "text": "Hel"}]}),
                    json!({"content": [{"type": "text", "text": "lo"}]}),
                    json!({"content": ""}),
                ],
                json!({"content": "Hello", "reasoning_content": "t"}),
            ),
            (
                "custom tools, whose input is any text",
                vec![
                    custom(0, json!("c1"), json!("f"), ""),
                    custom(0, json!(null), json!(null), "{}"),
                    custom(0, json!(null), json!(null), " b"),
                    custom(0, json!("c2"), json!("f"), "c"),
                ],
                json!({"tool_calls": [
                    {"id": "c1", "type": "custom", "custom": {"name": "f", "input": "{} b"}},
                    {"id": "c2", "type": "custom", "custom": {"name": "f", "input": "c"}},
                ]}),
            ),
            (
                "an index without bound costs nothing",
                vec![call(json!(u64::MAX), json!("c1"), json!("f"), "1")],
                json!({"tool_calls": [whole("c1", "1")]}),
            ),
        ];
        for (name, deltas, expected) in table {
            assert_eq!(merge(&deltas), expected, "{name}");
        }
    }

    #[test]
    fn calls_without_end_are_refused() {
        let mut message = PartialMessage::default();
        let delta = |index: usize| {
            let calls = json!({"tool_calls": [{"index": index, "id": index.to_string()}]});
            calls.as_object().cloned().unwrap()
        };
        for index in 0..MAX_CALLS {
            assert_eq!(message.add(delta(index)), Ok(String::new()));
        }
        assert_eq!(message.add(delta(3)), Ok(String::new()));
        assert_eq!(message.add(delta(MAX_CALLS)), Err(TooManyCalls));
    }
}
