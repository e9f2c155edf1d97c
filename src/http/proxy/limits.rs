//! Applies the limits of a key to passed-through requests: a request counts once for each answer
//! that it asks for. One that may be answered by another model than the one that is checked and
//! priced is refused, as is one whose results are made later, because the cost of such results is
//! never seen.

use std::fmt;

use axum::http::{HeaderMap, Method, StatusCode};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::multipart;
use crate::compute;
use crate::http::body::without_bom;
use crate::http::caller::Caller;
use crate::http::error::{ApiError, shorten};
use crate::surrogates;

const BACKGROUND: &str = "background";
/// The fields with models that answer in place of `model`: OpenRouter's, and LiteLLM's.
const OTHER_MODELS: [&str; 2] = ["models", "fallbacks"];
/// The fields with the number of answers.
const ANSWERS: [&str; 2] = ["n", "best_of"];
/// Resources whose results are made later, or elsewhere.
const DEFERRED_RESOURCES: [&str; 8] = [
    "assistants",
    "batches",
    "containers",
    "evals",
    "fine_tuning",
    "realtime",
    "threads",
    "videos",
];

/// Counts a request as many times as it asks for answers. Refuses it if its cost would not be seen,
/// though the caller's tokens or money are limited.
pub(super) async fn check(
    caller: &Caller,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), ApiError> {
    if !caller.is_billed() {
        return Ok(());
    }
    let is_read = [Method::GET, Method::HEAD, Method::DELETE].contains(method);
    if caller.is_limited() && !is_read && is_deferred(path) {
        let path = shorten(path);
        let message = reason!(
            "`{path}` is not supported with a key that has a budget or a limit on tokens: what it costs is not known when it answers";
            hint: "ask for answers at once, such as by `/v1/chat/completions`"
        );
        return Err(ApiError::new(StatusCode::FORBIDDEN, "route_not_allowed", message));
    }
    let fields = compute::in_place(body.len(), || fields(headers, body));
    if caller.is_limited() && fields.has_background {
        let message = reason!(
            "`{BACKGROUND}` is not supported with a key that has a budget or a limit on tokens";
            hint: "leave it out, and use `stream` for answers that take long"
        );
        let error = ApiError::bad_request("unsupported_parameter", message);
        return Err(error.with_param(BACKGROUND));
    }
    if (caller.is_limited() || caller.has_models())
        && let Some(name) = fields.other_models
    {
        let message = reason!(
            "`{name}` is not supported with a key that has a list of models, a budget or a limit on tokens: another model than `model` may answer";
            hint: "leave it out"
        );
        let error = ApiError::bad_request("unsupported_parameter", message);
        return Err(error.with_param(name));
    }
    caller.admit_more(fields.answers.saturating_sub(1)).await
}

/// Whether a request to this path may begin such work. No path of another resource needs encoding.
fn is_deferred(path: &str) -> bool {
    let is_later =
        |part: &str| DEFERRED_RESOURCES.iter().any(|later| part.eq_ignore_ascii_case(later));
    path.contains('%') || path.split(['/', ';']).any(is_later)
}

fn fields(headers: &HeaderMap, body: &[u8]) -> Fields {
    if let Some(boundary) = multipart::boundary(headers) {
        let values = multipart::values(body, &boundary, &ANSWERS);
        let answers = values.map(|value| count(&String::from_utf8_lossy(value))).max();
        return Fields { answers: answers.unwrap_or(0), ..Fields::default() };
    }
    let body = without_bom(body);
    let read = |body: &[u8]| serde_json::from_slice::<Fields>(body).ok();
    // What is no JSON, such as an upload, asks for nothing.
    read(body).or_else(|| read(&surrogates::replaced(body)?)).unwrap_or_default()
}

/// The top level of a body. Names count in any case, and several times: endpoints differ in which
/// they take.
#[derive(Default)]
struct Fields {
    /// The largest number of answers.
    answers: u32,
    /// Whether any of that name is true.
    has_background: bool,
    /// A field with other models.
    other_models: Option<&'static str>,
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
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    let is = |known: &str| name.eq_ignore_ascii_case(known);
                    if is(BACKGROUND) {
                        fields.has_background |= map.next_value::<&RawValue>()?.get() == "true";
                    } else if let Some(known) = OTHER_MODELS.into_iter().find(|known| is(known)) {
                        if !matches!(map.next_value::<&RawValue>()?.get(), "null" | "[]") {
                            fields.other_models = Some(known);
                        }
                    } else if ANSWERS.into_iter().any(is) {
                        let answers = answers(map.next_value::<&RawValue>()?.get());
                        fields.answers = fields.answers.max(answers);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Found)
    }
}

/// A number, which some endpoints also take as a text.
fn answers(raw: &str) -> u32 {
    match raw.starts_with(['[', '{']) {
        true => 0,
        false => match serde_json::from_str(raw) {
            Ok(Value::String(text)) => count(&text),
            _ => count(raw),
        },
    }
}

fn count(text: &str) -> u32 {
    text.trim().parse::<f64>().map_or(0, |number| number.ceil() as u32)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn who_asks_for_what() {
        for (body, answers, has_background) in [
            (r#"{"background": true}"#, 0, true),
            ("\u{feff}{\"model\": \"m\", \"Background\": true, \"n\": 2}", 2, true),
            (r#"{"background": false, "backgroun\u0064": true, "x": 1}"#, 0, true),
            (r#"{"background": true, "background": false}"#, 0, true),
            (r#"{"background": null}"#, 0, false),
            // That of an image.
            (r#"{"background": "transparent", "n": 3}"#, 3, false),
            (r#"{"metadata": {"background": true, "n": 9}}"#, 0, false),
            (r#"{"n": 16, "n": 1, "N": 2}"#, 16, false),
            (r#"{"n": 2, "best_of": 8.0}"#, 8, false),
            (r#"{"n": "\u0031\u0036"}"#, 16, false),
            (r#"{"n": null, "best_of": [7]}"#, 0, false),
            (r#"{"n": -3}"#, 0, false),
            (r#"{"\ud83d": 1, "n": 5}"#, 5, false),
            (r#"{"n": 1e99}"#, u32::MAX, false),
            ("--x\r\n", 0, false),
            ("", 0, false),
        ] {
            let found = fields(&HeaderMap::new(), body.as_bytes());
            assert_eq!((found.answers, found.has_background), (answers, has_background), "{body}");
        }
        for (body, expected) in [
            (r#"{"models": ["a"]}"#, Some("models")),
            (r#"{"Fallbacks": [{"model": "a"}], "models": null}"#, Some("fallbacks")),
            (r#"{"models": [], "metadata": {"models": ["a"]}}"#, None),
        ] {
            assert_eq!(fields(&HeaderMap::new(), body.as_bytes()).other_models, expected, "{body}");
        }
        let kind = HeaderValue::from_static("multipart/form-data; boundary=x");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
        let form = "--x\r\ncontent-disposition: form-data; name=\"n\"\r\n\r\n10\r\n--x--\r\n";
        assert_eq!(fields(&headers, form.as_bytes()).answers, 10);
    }

    #[test]
    fn paths_that_work_later() {
        for (path, expected) in [
            ("/v1/batches", true),
            ("/v1/fine_tuning/jobs", true),
            ("/v1/realtime/client_secrets", true),
            ("/v1/messages/batches", true),
            ("/v1/messages/Batches;a", true),
            ("/v1/messages/batche%73", true),
            ("/v1/chat/completions", false),
            ("/v1/messages/count_tokens", false),
            ("/v1/images/generations", false),
        ] {
            assert_eq!(is_deferred(path), expected, "{path}");
        }
    }
}
