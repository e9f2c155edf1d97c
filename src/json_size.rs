//! Estimates the memory that JSON text takes once it is parsed, before it is parsed.
//!
//! A value of two bytes may take hundreds: a tree of `serde_json::Value` has an index for every
//! object, and room for values to come. So a bound on the length of a text bounds the memory only
//! of its strings.

use memchr::memchr2;
use serde_json::Value;

/// An object with its index and the places of its first fields, bytes.
const OBJECT: usize = 400;
/// The number of fields that [`OBJECT`] includes.
const FEW_FIELDS: usize = 3;
/// A further field.
const FIELD: usize = 300;
/// A list with the places of its first items.
const LIST: usize = 300;
/// The number of items that [`LIST`] includes.
const FEW_ITEMS: usize = 4;
/// A further item.
const ITEM: usize = 144;
/// A string or name beside its text: how the allocator rounds up.
const STRING: usize = 32;
/// The nesting depth up to which lists and objects are distinguished. Parsers refuse what is nested
/// deeper.
const DEPTH: usize = 128;

/// The bytes that the structure of a text of JSON takes in memory, the text of its strings aside.
/// Invalid JSON has a size, too.
pub fn parsed_bytes(json: &[u8]) -> usize {
    let mut bytes = 0usize;
    // The commas in what is open, and whether that is an object.
    let mut open: Vec<(bool, usize)> = Vec::with_capacity(DEPTH);
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => {
                bytes += STRING;
                at = string_end(json, at);
            }
            b'{' | b'[' => {
                bytes += if byte == b'{' { OBJECT } else { LIST };
                if open.len() < DEPTH {
                    open.push((byte == b'{', 0));
                }
            }
            b'}' | b']' => drop(open.pop()),
            b',' => {
                let Some((is_object, commas)) = open.last_mut() else { continue };
                *commas += 1;
                bytes += match is_object {
                    true if *commas >= FEW_FIELDS => FIELD,
                    false if *commas >= FEW_ITEMS => ITEM,
                    _ => 0,
                };
            }
            _ => {}
        }
    }
    bytes
}

/// The bytes that the structure of a value takes, by the same estimate.
pub fn structure_bytes(value: &Value) -> usize {
    match value {
        Value::String(_) => STRING,
        Value::Array(items) => {
            let further = items.len().saturating_sub(FEW_ITEMS);
            LIST + ITEM * further + items.iter().map(structure_bytes).sum::<usize>()
        }
        Value::Object(fields) => {
            let further = fields.len().saturating_sub(FEW_FIELDS);
            let inner = fields.values().map(|value| STRING + structure_bytes(value));
            OBJECT + FIELD * further + inner.sum::<usize>()
        }
        _ => 0,
    }
}

/// Where the string ends that is open at `at`.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn structure_is_counted_and_text_is_not() {
        let table = [
            ("", 0),
            ("1", 0),
            ("\"a\"", STRING),
            ("\"[{,\\\"[\\\\\"", STRING),
            ("\"cut \\", STRING),
            ("{}", OBJECT),
            ("{\"a\": [1, 2, 3, 4, 5]}", OBJECT + STRING + LIST + ITEM),
            ("{\"a\": 1, \"b\": 2, \"c\": 3, \"d\": \"e\"}", OBJECT + FIELD + 5 * STRING),
            ("[[], [{}]]", 3 * LIST + OBJECT),
            ("]],", 0),
        ];
        for (json, expected) in table {
            assert_eq!(parsed_bytes(json.as_bytes()), expected, "{json}");
            if let Ok(value) = serde_json::from_str(json) {
                assert_eq!(structure_bytes(&value), expected, "{json}");
            }
        }
        let deep = "[".repeat(10 * DEPTH) + "1,1";
        assert_eq!(parsed_bytes(deep.as_bytes()), 10 * DEPTH * LIST);
    }

    /// Bytes of the blocks that a value takes, as glibc hands them out.
    fn taken(value: &Value) -> usize {
        let block =
            |bytes: usize| if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) };
        match value {
            Value::String(text) => block(text.capacity()),
            Value::Array(items) => {
                block(items.capacity() * size_of::<Value>())
                    + items.iter().map(taken).sum::<usize>()
            }
            Value::Object(fields) => {
                // As `indexmap` grows: places for 3, 7, 14, 28… fields, and an index of as many.
                let places = [3, 7, 14, 28, 56, 112, 224, 448, 896, 1792, 3584, 7168];
                let places = *places.iter().find(|places| **places >= fields.len()).unwrap();
                let entries = places * (size_of::<Value>() + size_of::<String>() + 8);
                let index = (places * 8).div_ceil(7).next_power_of_two() * 9 + 16;
                let inner = fields.iter().map(|(key, value)| block(key.capacity()) + taken(value));
                (if fields.is_empty() { 0 } else { block(entries) + block(index) })
                    + inner.sum::<usize>()
            }
            _ => 0,
        }
    }

    #[test]
    fn the_estimate_is_near_what_a_tree_takes() {
        let list = |unit: &str| format!("[{}]", vec![unit; 1000].join(","));
        let fields: Vec<_> = (0..1000).map(|at| format!("\"k{at}\": {at}")).collect();
        let deep = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
        let texts = [
            list("1"),
            list("\"a\""),
            list("null"),
            list("[1]"),
            list("{\"a\": 1}"),
            list("{\"a\": 1, \"b\": 2, \"c\": [], \"d\": 4}"),
            list("{\"type\": \"text\", \"text\": \"a\"}"),
            list(&deep),
            format!("{{{}}}", fields.join(",")),
        ];
        for text in texts {
            let taken = taken(&serde_json::from_str(&text).unwrap());
            let estimate = parsed_bytes(text.as_bytes());
            let ratio = estimate as f64 / taken as f64;
            assert!((0.8..2.5).contains(&ratio), "{ratio} of {taken}: {}", &text[..40]);
        }
    }
}
