//! Whether a request that is passed on asks for a stream.

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;

/// Whether a body asks for a stream, and its options of that.
#[derive(Deserialize)]
pub(super) struct Streaming<'a> {
    stream: Option<IsTrue>,
    #[serde(borrow, default, deserialize_with = "given")]
    stream_options: Option<&'a RawValue>,
}

/// A field that is there, also where it is null.
fn given<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Streaming<'a> {
    /// Of a body that asks for a stream; `None` of any other.
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        let asked: Self = serde_json::from_slice(body).ok()?;
        asked.stream.as_ref().is_some_and(|it| it.0).then_some(asked)
    }

    /// The options of the stream, as they are written.
    pub(super) fn options(&self) -> Option<&'a str> {
        self.stream_options.map(RawValue::get)
    }
}

/// Whether a value is `true`, whatever else it may be.
struct IsTrue(bool);

impl<'de> Deserialize<'de> for IsTrue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get() == "true"))
    }
}
