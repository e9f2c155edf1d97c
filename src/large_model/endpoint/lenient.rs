//! Parses the JSON that endpoints write: with a byte order mark, `NaN`, duplicate keys, raw control
//! characters and halves of characters. Strict JSON is parsed as it is; other text is repaired
//! first.
//!
//! Half a character, one of a surrogate pair or a byte of a UTF-8 sequence, becomes a placeholder
//! in a private range: the other half may come with the next piece of the text.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Placeholders: first the halves of surrogate pairs, then the bytes from 0x80.
const HALVES: u32 = 0x10_F000;
const BYTES: u32 = 0x10_F800;
const END: u32 = BYTES + 0x80;
/// Placeholders that are held back until the other half arrives; a character has no more bytes.
const MAX_HELD: usize = 4;

/// A parsed document, and whether it was repaired.
pub(super) struct Parsed<T> {
    pub(super) value: T,
    pub(super) is_repaired: bool,
}

/// Parses a document.
///
/// # Errors
/// When it is not JSON even after repair, or has another shape; the error is that of strict JSON.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Parsed<T>, serde_json::Error> {
    let strict = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(Parsed { value, is_repaired: false }),
        Err(error) => error,
    };
    // The last of several equal keys counts, as in a map.
    let repaired = serde_json::from_str::<Value>(&repair(bytes));
    match repaired.and_then(serde_json::from_value) {
        Ok(value) => Ok(Parsed { value, is_repaired: true }),
        Err(_) => Err(strict),
    }
}

fn repair(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(
            chunk
                .invalid()
                .iter()
                .filter_map(|&byte| char::from_u32(BYTES + u32::from(byte).checked_sub(0x80)?)),
        );
    }
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut in_string = false;
    while let Some(next) = rest.chars().next() {
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word));
        let read = match (in_string, next, word) {
            (true, '\\', _) => repair_escape(rest, &mut repaired),
            (true, '\0'..'\u{20}', _) => {
                repaired.push_str(&format!("\\u{:04x}", u32::from(next)));
                1
            }
            (false, _, Some(word)) => {
                repaired.push_str("null");
                word.len()
            }
            _ => {
                in_string ^= next == '"';
                repaired.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[read..];
    }
    repaired
}

/// Copies the escape at the start of `rest`, or the placeholder of half a pair; returns how many
/// bytes were read.
fn repair_escape(rest: &str, repaired: &mut String) -> usize {
    let unit = |at: usize| {
        let digits = rest.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let read = match (unit(0), unit(6)) {
        (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
        (Some(half @ 0xD800..0xE000), _) => {
            repaired.extend(char::from_u32(HALVES + half - 0xD800));
            return 6;
        }
        // Escapes are copied whole: an escaped quote does not end a string.
        _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
    };
    repaired.push_str(&rest[..read]);
    read
}

/// Joins text whose characters may arrive in halves.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    held: Vec<u32>,
}

impl Joiner {
    /// Takes a piece and returns the text that is certain by now.
    pub(super) fn push(&mut self, text: &str) -> String {
        let mut joined = String::with_capacity(text.len());
        for next in text.chars() {
            match u32::from(next) {
                half @ HALVES..END => {
                    self.held.push(half);
                    if self.held.len() > MAX_HELD {
                        joined.push_str(&self.finish());
                    }
                }
                _ => {
                    if !self.held.is_empty() {
                        joined.push_str(&self.finish());
                    }
                    joined.push(next);
                }
            }
        }
        // Two halves of a pair make a character.
        if matches!(self.held[..], [_, HALVES..BYTES]) {
            joined.push_str(&self.finish());
        }
        joined
    }

    /// The text that was held back.
    pub(super) fn finish(&mut self) -> String {
        let mut joined = String::new();
        let mut units = self.held.drain(..).peekable();
        while let Some(unit) = units.next() {
            if unit < BYTES {
                let high = (unit - HALVES + 0xD800) as u16;
                let low = units.next_if(|next| (HALVES + 0x400..BYTES).contains(next));
                let low = low.map(|low| (low - HALVES + 0xD800) as u16);
                let pair: Vec<u16> = [high].into_iter().chain(low).collect();
                joined.push_str(&String::from_utf16_lossy(&pair));
            } else {
                let mut bytes = vec![(unit - BYTES + 0x80) as u8];
                while let Some(next) = units.next_if(|next| *next >= BYTES) {
                    bytes.push((next - BYTES + 0x80) as u8);
                }
                joined.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        joined
    }
}

/// The same JSON with all halves of characters joined, or replaced by U+FFFD.
pub(super) fn joined(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let mut joiner = Joiner::default();
            let text = joiner.push(&text);
            Value::String(text + &joiner.finish())
        }
        Value::Array(items) => items.into_iter().map(joined).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, joined(value))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_mended() {
        let table: [(&[u8], Value); 9] = [
            (b"{\"a\": 1}", json!({"a": 1})),
            (b"\xef\xbb\xbf{\"a\": 1}", json!({"a": 1})),
            (b"{\"a\": NaN, \"b\": [-Infinity, Infinity]}", json!({"a": null, "b": [null, null]})),
            (b"{\"a\": \"NaN \\\" NaN\", \"b\": NaN}", json!({"a": "NaN \" NaN", "b": null})),
            (b"{\"a\": \"x\ny\"}", json!({"a": "x\ny"})),
            (b"{\"a\": \"\\ud83d\"}", json!({"a": "\u{fffd}"})),
            (b"{\"a\": \"\\ud83d\\ude00 \\ud83d\\n\"}", json!({"a": "\u{1f600} \u{fffd}\n"})),
            (b"{\"a\": \"caf\xe9\"}", json!({"a": "caf\u{fffd}"})),
            ("{\"a\": \"é\", \"b\": NaN}".as_bytes(), json!({"a": "é", "b": null})),
        ];
        for (bytes, expected) in table {
            let parsed = parse::<Value>(bytes).unwrap().value;
            assert_eq!(joined(parsed), expected, "{}", String::from_utf8_lossy(bytes));
        }
        for bytes in ["{\"a\": ", "{\"a\": NaN", "[nan]", ""] {
            assert!(parse::<Value>(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }

    #[test]
    fn halves_meet() {
        let half = |bytes: &[u8]| parse::<String>(bytes).unwrap().value;
        let table: [(&[&[u8]], &str); 5] = [
            (&[b"\"a\\ud83d\"", b"\"\\ude00b\""], "a\u{1f600}b"),
            (&[b"\"\xe2\"", b"\"\x82\"", b"\"\xac.\""], "€."),
            (&[b"\"\\ud83d\"", b"\"b\""], "\u{fffd}b"),
            (&[b"\"\\ude00\"", b"\"\\ud83d\""], "\u{fffd}\u{fffd}"),
            (&[b"\"\xe2\x82\""], "\u{fffd}"),
        ];
        for (pieces, expected) in table {
            let mut joiner = Joiner::default();
            let mut text: String = pieces.iter().map(|piece| joiner.push(&half(piece))).collect();
            text.push_str(&joiner.finish());
            assert_eq!(text, expected);
        }
    }
}
