//! Requests whose results are made later, and fetched by requests that are free: what they cost is
//! never seen.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::compute;
use crate::http::body::without_bom;
use crate::http::caller::Caller;
use crate::http::error::ApiError;

const NAME: &str = "background";

/// Refuses such a request to callers whose tokens or money are limited.
pub(super) fn check(caller: &Caller, body: &[u8]) -> Result<(), ApiError> {
    if !caller.is_limited() || !compute::in_place(body.len(), || is_asked_for(body)) {
        return Ok(());
    }
    let message = reason!(
        "`{NAME}` is not supported with a key that has a budget or a limit on tokens";
        hint: "leave it out, and use `stream` for answers that take long"
    );
    Err(ApiError::bad_request("unsupported_parameter", message).with_param(NAME))
}

fn is_asked_for(body: &[u8]) -> bool {
    // What is no JSON, such as an upload, asks for nothing.
    serde_json::from_slice::<Fields>(without_bom(body)).is_ok_and(|fields| fields.has_background)
}

/// The top level of a body.
struct Fields {
    /// Whether any field of this name is true, in any case: endpoints differ in which they take.
    has_background: bool,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;

        impl<'de> Visitor<'de> for Found {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut has_background = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name.eq_ignore_ascii_case(NAME) {
                        has_background |= map.next_value::<Value>()? == Value::Bool(true);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                Ok(Fields { has_background })
            }
        }

        deserializer.deserialize_map(Found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_it() {
        for (body, expected) in [
            (r#"{"background": true}"#, true),
            ("\u{feff}{\"model\": \"m\", \"Background\": true}", true),
            (r#"{"background": false, "backgroun\u0064": true, "x": 1}"#, true),
            (r#"{"background": true, "background": false}"#, true),
            (r#"{"background": null}"#, false),
            // That of an image.
            (r#"{"background": "transparent"}"#, false),
            (r#"{"metadata": {"background": true}}"#, false),
            ("--x\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_asked_for(body.as_bytes()), expected, "{body}");
        }
    }
}
