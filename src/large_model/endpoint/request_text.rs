//! Reads from a request's body what its bill depends on: whether it asks for usage, and how much
//! text it has. Does not build the values, which may take megabytes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of a body that contain text for the model.
const TEXTS: [&str; 5] = ["messages", "prompt", "input", "instructions", "system"];
/// Those that the model is given verbatim.
const WHOLE: [&str; 3] = ["tools", "functions", "response_format"];
/// Where text is inside them; images and audio are elsewhere.
const INNER: [&str; 6] = ["text", "content", "output", "arguments", "function", "tool_calls"];

/// The bytes of text in a body: of messages, prompts, inputs, tools; no images.
pub(super) fn request_text(body: &[u8]) -> usize {
    serde_json::from_slice::<Body>(body).map_or(0, |body| body.0)
}

/// Whether a body asks for a stream, and its stream options.
#[derive(Deserialize)]
pub(super) struct Streaming<'a> {
    stream: Option<IsTrue>,
    #[serde(borrow, default, deserialize_with = "given")]
    stream_options: Option<&'a RawValue>,
}

/// A field that is present, even if it is null.
fn given<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Streaming<'a> {
    /// Of a body that asks for a stream; `None` for any other.
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        let asked: Self = serde_json::from_slice(body).ok()?;
        asked.stream.as_ref().is_some_and(|it| it.0).then_some(asked)
    }

    /// The stream options as they are written.
    pub(super) fn options(&self) -> Option<&'a str> {
        self.stream_options.map(RawValue::get)
    }
}

/// Whether a value is `true`, of whatever type it is.
struct IsTrue(bool);

impl<'de> Deserialize<'de> for IsTrue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get() == "true"))
    }
}

/// The text of a body.
struct Body(usize);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
                let mut length = 0;
                while let Some(Key(key)) = map.next_key()? {
                    if TEXTS.contains(&&*key) {
                        length += map.next_value::<Text>()?.0;
                    } else if WHOLE.contains(&&*key) {
                        length += map.next_value::<&RawValue>()?.get().len();
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Body(length))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The length of the texts in a value: a string, the items of a list, the text fields of an object.
struct Text(usize);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.len()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(0))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(0))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(0))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(0))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(0))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                let mut length = 0;
                while let Some(Text(item)) = items.next_element()? {
                    length += item;
                }
                Ok(Text(length))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                let mut length = 0;
                while let Some(Key(key)) = map.next_key()? {
                    if INNER.contains(&&*key) {
                        length += map.next_value::<Text>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Text(length))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// A name that is borrowed if possible.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_counted_where_models_are_given_it() {
        let call = json!({"id": "call_1", "function": {"name": "f", "arguments": "{}"}});
        let image = json!({"type": "image_url", "image_url": {"url": "x".repeat(999)}});
        let table = [
            (json!({"messages": [{"role": "user", "content": "four"}, {"content": null}]}), 4),
            (json!({"messages": [{"content": [image, {"type": "text", "text": "é"}]}]}), 2),
            (json!({"messages": [{"content": "a", "tool_calls": [call]}]}), 3),
            (json!({"input": ["ab", "c", [1, 2.5, true]], "instructions": "d", "user": "xyz"}), 4),
            (json!({"tools": [1], "system": "a\nb"}), 6),
            (json!({"prompt": {"text": "ab", "other": ["cd"]}}), 2),
            (json!([{"messages": "a"}]), 0),
        ];
        for (body, expected) in table {
            assert_eq!(request_text(body.to_string().as_bytes()), expected, "{body}");
        }
        assert_eq!(request_text(b"{\"messages\": \"cut"), 0);
    }
}
