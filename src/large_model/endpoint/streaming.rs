//! Whether a request that is passed on asks for a stream.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::reply::start_of;

const STREAM: &str = "stream";
const OPTIONS: &str = "stream_options";

/// Whether a body asks for a stream. Endpoints differ, so names count in any case and when
/// repeated, and so does every value that some endpoint takes for true. Of repeated options, the
/// last ones count.
#[derive(Default)]
pub(super) struct Streaming<'a> {
    is_asked_for: bool,
    /// Whether endpoints may differ in whether it asks for a stream, or for which.
    is_ambiguous: bool,
    options: Option<StreamOptions<'a>>,
}

/// The options of a stream, as they are written.
#[derive(Clone, Copy)]
pub(super) struct StreamOptions<'a> {
    /// Their name, in quotes.
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

impl<'a> Streaming<'a> {
    /// Of a body that asks for a stream; `None` of any other.
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        let asked: Self = serde_json::from_slice(start_of(body)).ok()?;
        asked.is_asked_for.then_some(asked)
    }

    /// Whether some endpoint may read no stream in it, or other options.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// The options of the stream.
    pub(super) fn options(&self) -> Option<StreamOptions<'a>> {
        self.options
    }

    fn add(&mut self, name: &'a RawValue, value: &'a RawValue) {
        // Half a surrogate pair is no text.
        let Ok(text) = serde_json::from_str::<String>(name.get()) else { return };
        if text.eq_ignore_ascii_case(STREAM) {
            self.is_asked_for |= !is_false(value.get());
            self.is_ambiguous |= text != STREAM || value.get() != "true";
        } else if text.eq_ignore_ascii_case(OPTIONS) {
            self.is_ambiguous |= text != OPTIONS || self.options.is_some();
            self.options = Some(StreamOptions { name: name.get(), value: value.get() });
        }
    }
}

/// Whether every endpoint takes a value for false, or refuses it. Texts are true for some.
fn is_false(value: &str) -> bool {
    matches!(value, "false" | "null") || value.parse::<f64>().is_ok_and(|number| number == 0.0)
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
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    found.add(name, value);
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(Found)
    }
}
