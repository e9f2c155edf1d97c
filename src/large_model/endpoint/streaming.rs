//! Whether a request that is passed on asks for a stream.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::reply::start_of;

/// What a body says of a stream. Of repeated fields, the last options count, and any `true`:
/// endpoints differ.
#[derive(Default)]
pub(super) struct Streaming<'a> {
    is_asked_for: bool,
    options: Option<&'a RawValue>,
}

impl<'a> Streaming<'a> {
    /// Of a body that asks for a stream; `None` of any other.
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        let asked: Self = serde_json::from_slice(start_of(body)).ok()?;
        asked.is_asked_for.then_some(asked)
    }

    /// The options of the stream, as they are written.
    pub(super) fn options(&self) -> Option<&'a str> {
        self.options.map(RawValue::get)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Streaming<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;

        impl<'de> Visitor<'de> for Found {
            type Value = Streaming<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Streaming::default();
                // Raw, as a name may be no text: half a surrogate pair.
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    match serde_json::from_str::<String>(name.get()).as_deref() {
                        Ok("stream") => found.is_asked_for |= value.get() == "true",
                        Ok("stream_options") => found.options = Some(value),
                        _ => {}
                    }
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(Found)
    }
}
