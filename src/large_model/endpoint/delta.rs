//! Puts the message of a streamed reply together.

use serde_json::{Map, Value};

/// An assistant message that arrives in deltas.
#[derive(Debug, Default)]
pub(super) struct PartialMessage {
    fields: Map<String, Value>,
    calls: Vec<PartialCall>,
}

#[derive(Debug)]
struct PartialCall {
    /// Which call a piece belongs to. Not every endpoint says so.
    index: Option<u64>,
    fields: Map<String, Value>,
}

impl PartialMessage {
    /// Adds a delta: text is appended, pieces of tool calls are matched up, lists grow, anything
    /// else takes the newest value.
    pub(super) fn add(&mut self, delta: Map<String, Value>) {
        for (key, value) in delta {
            match value {
                Value::Null => {}
                Value::Array(pieces) if key == "tool_calls" => {
                    pieces.into_iter().for_each(|piece| self.add_to_call(piece));
                }
                value if key == "role" => drop(self.fields.insert(key, value)),
                value => grow(&mut self.fields, key, value),
            }
        }
    }

    /// The fields of the whole message.
    pub(super) fn into_fields(mut self) -> Map<String, Value> {
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(|call| Value::Object(call.fields)).collect();
            self.fields.insert("tool_calls".to_owned(), calls);
        }
        self.fields
    }

    fn add_to_call(&mut self, piece: Value) {
        let Value::Object(mut piece) = piece else { return };
        let index = piece.shift_remove("index").and_then(|index| index.as_u64());
        let id = piece.get("id").filter(|id| id.as_str().is_some_and(|id| !id.is_empty()));
        let position = match (index, id) {
            (Some(_), _) => self.calls.iter().position(|call| call.index == index),
            (None, Some(id)) => {
                self.calls.iter().position(|call| call.fields.get("id") == Some(id))
            }
            // Neither: it goes on with the call at hand.
            (None, None) => self.calls.len().checked_sub(1),
        };
        match position {
            Some(position) => grow_call(&mut self.calls[position].fields, piece),
            None => self.calls.push(PartialCall { index, fields: piece }),
        }
    }
}

/// Adds a piece to a tool call: only the arguments are written bit by bit, all else is whole
/// whenever it is sent.
fn grow_call(call: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (key, value) in piece {
        match (call.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(inner)), Value::Object(more)) => grow_call(inner, more),
            (Some(Value::String(text)), Value::String(more)) if key == "arguments" => {
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
    use serde_json::json;

    use super::*;

    fn merge(deltas: &[Value]) -> Value {
        let mut message = PartialMessage::default();
        for delta in deltas {
            message.add(delta.as_object().cloned().unwrap_or_default());
        }
        Value::Object(message.into_fields())
    }

    #[test]
    fn deltas_become_one_message() {
        let call = |index: Value, id: Value, name: Value, arguments: &str| {
            json!({"tool_calls": [{"index": index, "id": id, "type": "function",
                   "function": {"name": name, "arguments": arguments}}]})
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
                "no indices: told apart by id",
                vec![
                    call(json!(null), json!("c1"), json!("f"), "1"),
                    call(json!(null), json!("c2"), json!("f"), "2"),
                    call(json!(null), json!(null), json!("f"), "3"),
                    call(json!(null), json!("c1"), json!("f"), "4"),
                ],
                json!({"tool_calls": [whole("c1", "14"), whole("c2", "23")]}),
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
}
