//! Extracts the texts of requests and responses, for billing. Each is passed to a sink in turn; the
//! JSON around it, which may be megabytes, is never built.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::reply::start_of;
use crate::large_model::reported_usage;
use crate::surrogates;
use crate::trajectory::TokenUsage;

/// The fields of a request that hold text for the model.
const TEXTS: [&str; 5] = ["messages", "prompt", "input", "instructions", "system"];
/// The fields that are passed to the model verbatim.
const VERBATIM_FIELDS: [&str; 3] = ["tools", "functions", "response_format"];
/// The fields of a response, or of an event of one, that hold text of the model.
const RESPONSE_FIELDS: [&str; 3] = ["delta", "output", "content"];
/// Where text stands in what they hold; images and audio stand elsewhere.
const INNER: [&str; 8] = [
    "text",
    "content",
    "output",
    "arguments",
    "function",
    "tool_calls",
    // Messages.
    "thinking",
    "partial_json",
];
/// Where the thoughts of a message stand; those that come first count.
const THOUGHTS: [&str; 2] = ["reasoning_content", "reasoning"];
/// The longest report of usage that is read, bytes.
const MAX_USAGE: usize = 16 * 1024;

/// Takes texts, one after the other.
type Sink<'a> = &'a mut dyn FnMut(&str);

/// Shows the texts of a request: of messages, prompts, inputs, tools; no images. Returns how many
/// messages it has. What is no object has none. What stands behind a place that cannot be read
/// here counts as text: the endpoint may read it.
pub(super) fn request_texts(body: &[u8], sink: Sink<'_>) -> usize {
    let body = start_of(body);
    if !body.starts_with(b"{") {
        return 0;
    }
    let mut shown = 0;
    let mut result = read_request(body, &mut |text| {
        shown += 1;
        sink(text);
    });
    if result.is_err()
        && let Some(replaced) = surrogates::replaced(body)
    {
        // The same texts come again, and those that follow.
        result = read_request(&replaced, &mut |text| match shown {
            0 => sink(text),
            _ => shown -= 1,
        });
    }
    result.unwrap_or_else(|error| {
        sink(&String::from_utf8_lossy(&body[error_offset(body, &error)..]));
        0
    })
}

fn read_request(body: &[u8], sink: Sink<'_>) -> Result<usize, serde_json::Error> {
    serde_json::Deserializer::from_slice(body).deserialize_map(Request(sink))
}

/// Where in a body an error is.
fn error_offset(body: &[u8], error: &serde_json::Error) -> usize {
    let line = error.line().checked_sub(2);
    let line = line.and_then(|before| memchr::memchr_iter(b'\n', body).nth(before));
    (line.map_or(0, |end| end + 1) + error.column()).min(body.len())
}

/// What a response, or an event of one, says beside its text.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ResponseUsage {
    /// What was billed.
    pub(super) usage: Option<TokenUsage>,
    /// Whether that is of a message which has only begun.
    pub(super) is_begun: bool,
    /// Whether it has a list of choices, but none in that.
    pub(super) has_no_choice: bool,
    /// Whether it is, or has, an error.
    pub(super) is_error: bool,
}

/// Shows the texts that a model wrote, in a response or an event of one.
///
/// # Errors
/// When it is no JSON object; some texts may have been shown by then.
pub(super) fn response_texts(
    body: &[u8],
    sink: Sink<'_>,
) -> Result<ResponseUsage, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader.deserialize_map(Response(sink))
}

/// A name that is borrowed where it can be.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A request. Gives the number of its messages.
struct Request<'a>(Sink<'a>);

impl<'de> Visitor<'de> for Request<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut messages = 0;
        while let Some(Key(key)) = map.next_key()? {
            if TEXTS.contains(&&*key) {
                let items = map.next_value_seed(Text::of(self.0))?;
                messages += if key == "messages" { items } else { 0 };
            } else if VERBATIM_FIELDS.contains(&&*key) {
                (self.0)(map.next_value::<&RawValue>()?.get());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(messages)
    }
}

/// A response, or an event of one.
struct Response<'a>(Sink<'a>);

impl<'de> Visitor<'de> for Response<'_> {
    type Value = ResponseUsage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResponseUsage, A::Error> {
        // Only where an endpoint says it: a caller's own text stands deeper.
        let (mut own, mut inner) = (None, None);
        let (mut is_begun, mut has_no_choice, mut is_error) = (false, false, false);
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "usage" => own = usage(map.next_value::<&RawValue>()?).or(own),
                key @ ("response" | "message") => {
                    let is_message = key == "message";
                    let raw = map.next_value::<&RawValue>()?.get();
                    let whole = serde_json::from_str::<Billed<'_>>(raw);
                    let found = whole.ok().and_then(|whole| usage(whole.usage?));
                    is_begun |= is_message && found.is_some();
                    inner = inner.or(found);
                }
                "error" => is_error |= map.next_value::<&RawValue>()?.get() != "null",
                "choices" => has_no_choice = map.next_value_seed(Choices(self.0))? == Some(0),
                key if RESPONSE_FIELDS.contains(&key) => {
                    map.next_value_seed(Text::of(self.0))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        is_begun &= own.is_none();
        Ok(ResponseUsage { usage: own.or(inner), is_begun, has_no_choice, is_error })
    }
}

/// A response that stands in an event.
#[derive(Deserialize)]
struct Billed<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

fn usage(raw: &RawValue) -> Option<TokenUsage> {
    let raw = Some(raw.get()).filter(|raw| raw.len() <= MAX_USAGE)?;
    reported_usage(&serde_json::from_str::<Value>(raw).ok()?)
}

/// The texts in a value: of a string, of the items of a list, of the fields of an object that hold
/// text. Gives the number of a list's items.
struct Text<'a> {
    sink: Sink<'a>,
    /// Whether it is a message whose thoughts count.
    has_thoughts: bool,
}

impl<'a> Text<'a> {
    fn of(sink: &'a mut dyn FnMut(&str)) -> Self {
        Self { sink, has_thoughts: false }
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<usize, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<usize, E> {
        (self.sink)(text);
        Ok(0)
    }

    fn visit_bool<E>(self, _: bool) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_i64<E>(self, _: i64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_u64<E>(self, _: u64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_f64<E>(self, _: f64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while items.next_element_seed(Text::of(self.sink))?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut has_thoughts = self.has_thoughts;
        while let Some(Key(key)) = map.next_key()? {
            let are_thoughts = has_thoughts && THOUGHTS.contains(&&*key);
            if are_thoughts || INNER.contains(&&*key) {
                map.next_value_seed(Text::of(self.sink))?;
                has_thoughts &= !are_thoughts;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(0)
    }
}

/// The choices of a response. Gives their number; `None` where they are no list.
struct Choices<'a>(Sink<'a>);

impl<'de> DeserializeSeed<'de> for Choices<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Choices<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut count = 0;
        while items.next_element_seed(Choice(self.0))?.is_some() {
            count += 1;
        }
        Ok(Some(count))
    }
}

/// A choice: its message, what it adds to one, or its text.
struct Choice<'a>(Sink<'a>);

impl<'de> DeserializeSeed<'de> for Choice<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Choice<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            if matches!(&*key, "message" | "delta" | "text") {
                map.next_value_seed(Text { sink: self.0, has_thoughts: true })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_shown_where_models_are_given_it() {
        let call = json!({"id": "call_1", "function": {"name": "f", "arguments": "{}"}});
        let image = json!({"type": "image_url", "image_url": {"url": "x".repeat(999)}});
        let table = [
            (
                json!({"messages": [{"role": "user", "content": "four"}, {"content": null}]}),
                "four",
                2,
            ),
            (json!({"messages": [{"content": [image, {"type": "text", "text": "é"}]}]}), "é", 1),
            (json!({"messages": [{"content": "a", "tool_calls": [call]}]}), "a|{}", 1),
            (
                json!({"input": ["ab", "c", [1, 2.5, true]], "instructions": "d", "user": "xyz"}),
                "ab|c|d",
                0,
            ),
            (json!({"tools": [1], "system": "a\nb"}), "[1]|a\nb", 0),
            (json!({"prompt": {"text": "ab", "other": ["cd"]}}), "ab", 0),
            (json!([{"messages": "a"}]), "", 0),
        ];
        for (body, expected, messages) in table {
            let mut shown = Vec::new();
            let body = body.to_string();
            let count = request_texts(body.as_bytes(), &mut |text| shown.push(text.to_owned()));
            assert_eq!((shown.join("|").as_str(), count), (expected, messages), "{body}");
        }
        assert_eq!(request_texts(b"{\"messages\": \"cut", &mut |_| {}), 0);
    }

    #[test]
    fn what_is_hard_to_read_is_no_hiding_place() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let then = r#"{"content": "b"}], "input": "c"}"#;
        let table = [
            (format!("\u{feff}{{\"messages\": [{then}"), "b|c", 1),
            (format!(r#"{{"input": "\ud83d", "messages": [{then}"#), "\u{fffd}|b|c", 1),
            (
                format!(r#"{{"messages": [{{"content": "a"}}, {{"content": "\ude00"}}, {then}"#),
                "a|\u{fffd}|b|c",
                3,
            ),
            (format!(r#"{{"\ud83d": 1, "messages": [{then}"#), "b|c", 1),
        ];
        let shown = |body: &str| {
            let mut shown = Vec::new();
            let count = request_texts(body.as_bytes(), &mut |text| shown.push(text.to_owned()));
            (shown.join("|"), count)
        };
        for (body, expected, messages) in table {
            assert_eq!(shown(&body), (expected.to_owned(), messages), "{body}");
        }
        for start in ["{", "{\n\n"] {
            let first = r#""messages": [{"content": "first"}, {"content": "#;
            let (text, _) = shown(&format!("{start}{first}{deep}}}, {then}"));
            assert!(text.starts_with("first|") && text.ends_with(then), "{text}");
            assert_eq!(text.matches("first").count(), 1, "{text}");
        }
        assert_eq!(shown("--x\r\ncontent-disposition: form-data").0, "");
    }

    #[test]
    fn text_is_shown_where_models_write_it() {
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 5});
        let used = Some(TokenUsage::reported(3, 5));
        let call = json!({"index": 0, "function": {"name": "f", "arguments": "{}"}});
        let said = |message| json!({"choices": [{"index": 0, "message": message}]});
        let table = [
            (said(json!({"role": "assistant", "content": "a"})), "a", None),
            (said(json!({"content": null, "reasoning": "r", "reasoning_content": "r"})), "r", None),
            (
                said(json!({"content": [{"type": "text", "text": "a"}], "tool_calls": [call]})),
                "a|{}",
                None,
            ),
            (
                json!({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}),
                "a|b",
                None,
            ),
            (json!({"choices": [{"text": "a"}], "usage": usage}), "a", used),
            (json!({"choices": null, "usage": null}), "", None),
            (json!({"type": "response.output_text.delta", "delta": "a"}), "a", None),
            (json!({"response": {"usage": usage, "output": "not again"}}), "", used),
            (json!({"output": [{"content": [{"type": "output_text", "text": "a"}]}]}), "a", None),
            (json!({"content": [{"type": "text", "text": "a"}], "usage": usage}), "a", used),
            (json!({"metadata": {"usage": usage}, "data": [{"embedding": [0.5, 1]}]}), "", None),
        ];
        for (body, expected, usage) in table {
            let mut shown = Vec::new();
            let text = body.to_string();
            let found = response_texts(text.as_bytes(), &mut |text| shown.push(text.to_owned()));
            let found = found.unwrap();
            assert_eq!((shown.join("|").as_str(), found.usage), (expected, usage), "{body}");
            assert!(!found.has_no_choice, "{body}");
        }
        let last = json!({"choices": [], "usage": usage}).to_string();
        let found = response_texts(last.as_bytes(), &mut |_| {}).unwrap();
        let expected =
            ResponseUsage { usage: used, has_no_choice: true, ..ResponseUsage::default() };
        assert_eq!(found, expected);
        assert!(response_texts(b"[1]", &mut |_| {}).is_err());
    }
}
