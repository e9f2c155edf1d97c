//! The fields of calls that a local model takes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::engine::Sampling;
use crate::hint::Reason;

/// Fields of a call that are understood, and those that can be ignored without changing the meaning
/// of the reply.
pub(super) const PARAMS: [&str; 6] =
    ["temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "user"];

/// The names of the limit of a reply's tokens; the first counts.
pub(super) const LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// Checks fields for all calls of a local model; `key` names the setting with them.
///
/// # Errors
/// Names the first that is not known, or has no possible value.
pub fn check_local_params(key: &str, params: &Map<String, Value>) -> Result<(), Reason> {
    for (name, value) in params {
        check(name, value).map_err(|reason| reason.map_text(|text| format!("`{key}`: {text}")))?;
    }
    Ok(())
}

/// Checks one field.
pub(super) fn check(name: &str, value: &Value) -> Result<(), Reason> {
    let within = |most: f64| value.as_f64().is_some_and(|it| (0.0..=most).contains(&it));
    let (is_good, needed) = match name {
        "temperature" => (within(2.0), "a number from 0 to 2"),
        "top_p" => (within(1.0), "a number from 0 to 1"),
        "seed" => (value.is_i64() || value.is_u64(), "an integer"),
        "max_tokens" | "max_completion_tokens" => {
            (value.as_u64().is_some_and(|it| it > 0), "an integer of at least 1")
        }
        // It makes no difference to the reply.
        "user" => (true, ""),
        _ => {
            return Err(reason!(
                "it does not know `{name}`";
                hint: "leave it out, or name a large model behind an endpoint that does"
            ));
        }
    };
    if is_good {
        return Ok(());
    }
    let shown: String = value.to_string().chars().take(40).collect();
    Err(reason!("`{name}` is `{shown}`"; hint: "`{name}` must be {needed}"))
}

/// How tokens are drawn by these fields.
pub(super) fn sampling(params: &BTreeMap<&str, &Value>) -> Sampling {
    let number =
        |key: &str| params.get(key).and_then(|value| value.as_f64()).map(|value| value as f32);
    let seed = |value: &&Value| value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
    Sampling {
        // A model of facts answers with what it considers likeliest.
        temperature: number("temperature").unwrap_or(0.0),
        top_p: number("top_p").unwrap_or(1.0),
        top_k: None,
        seed: params.get("seed").and_then(seed).unwrap_or(0),
    }
}

/// The tokens that a reply may have by these fields.
pub(super) fn max_tokens(params: &BTreeMap<&str, &Value>) -> Option<usize> {
    LIMITS.iter().find_map(|key| params.get(*key)?.as_u64()).map(|tokens| tokens as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::hint::Hint;

    #[test]
    fn what_fields_may_be() {
        let table = [
            ("temperature", json!([0, 0.7, 2]), json!(["0.7", true, -3, 2.5, null])),
            ("top_p", json!([0, 0.5, 1]), json!(["1", 7, -0.1])),
            ("seed", json!([0, -1, i64::MAX, u64::MAX]), json!([1.5, "1", null])),
            ("max_tokens", json!([1, 4096]), json!([-1, "10", 0.5, 0])),
            ("max_completion_tokens", json!([1]), json!([0, [1]])),
            ("user", json!(["u"]), json!([])),
            ("top_k", json!([]), json!([1])),
        ];
        for (name, good, bad) in table {
            for value in good.as_array().unwrap() {
                assert_eq!(check(name, value), Ok(()), "{name} = {value}");
            }
            for value in bad.as_array().unwrap() {
                let error = check(name, value).unwrap_err();
                assert!(error.text.contains(name) && error.hint().is_some(), "{error}");
            }
        }
        let params = json!({"seed": 1, "top_p": 7}).as_object().cloned().unwrap();
        let error = check_local_params("local_models.a.params", &params).unwrap_err();
        assert_eq!(error.text, "`local_models.a.params`: `top_p` is `7`");
    }

    #[test]
    fn a_seed_has_64_bits() {
        for (value, expected) in [(json!(-1), u64::MAX), (json!(u64::MAX), u64::MAX)] {
            assert_eq!(sampling(&BTreeMap::from([("seed", &value)])).seed, expected);
        }
    }
}
