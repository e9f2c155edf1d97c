//! Parses the usage that endpoints report.

use serde_json::Value;

use crate::trajectory::TokenUsage;

/// The tokens in a `usage` object of Chat Completions, Responses or Messages: integers, floats or
/// digits in a string. `None` if it counts nothing, as placeholders for a later one do.
pub fn reported_usage(usage: &Value) -> Option<TokenUsage> {
    let count = |keys: [&str; 2]| keys.iter().find_map(|key| number(usage.get(*key)?));
    let (from_cache, into_cache) = beside_input(usage);
    let read = count(["prompt_tokens", "input_tokens"]).unwrap_or(0) + from_cache + into_cache;
    let written = count(["completion_tokens", "output_tokens"]).unwrap_or(0);
    // Some leave the thoughts out of `completion_tokens`, but not out of the total.
    let total = usage.get("prompt_tokens").and(usage.get("total_tokens")).and_then(number);
    let written = written.max(total.unwrap_or(0).saturating_sub(read));
    let details = |keys: [&str; 2], detail: &str| {
        keys.iter().find_map(|key| number(usage.get(*key)?.get(detail)?)).unwrap_or(0)
    };
    let cached = details(["prompt_tokens_details", "input_tokens_details"], "cached_tokens");
    let thoughts =
        details(["completion_tokens_details", "output_tokens_details"], "reasoning_tokens");
    (read + written > 0).then(|| {
        let usage = TokenUsage::reported(read, written);
        TokenUsage {
            cached_tokens: cached.max(from_cache).min(usage.prompt_tokens),
            reasoning_tokens: thoughts.min(usage.completion_tokens),
            ..usage
        }
    })
}

/// The tokens that Messages reads from its cache and writes into it: its `input_tokens` are the
/// others. Elsewhere they are part of the tokens read.
fn beside_input(usage: &Value) -> (u64, u64) {
    if ["prompt_tokens", "input_tokens_details"].iter().any(|key| usage.get(*key).is_some()) {
        return (0, 0);
    }
    let count = |key: &str| usage.get(key).and_then(number).unwrap_or(0);
    (count("cache_read_input_tokens"), count("cache_creation_input_tokens"))
}

fn number(value: &Value) -> Option<u64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok()?,
        value => value.as_f64()?,
    };
    // `TokenUsage::reported` caps absurd counts.
    (number >= 0.0).then_some(number.min(u32::MAX.into()) as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_in_every_form() {
        let table = [
            (json!({"prompt_tokens": 7, "completion_tokens": 3}), Some((7, 3))),
            (json!({"prompt_tokens": 7.0, "completion_tokens": "3"}), Some((7, 3))),
            (json!({"input_tokens": 7, "output_tokens": 3}), Some((7, 3))),
            (json!({"prompt_tokens": 7, "total_tokens": 7}), Some((7, 0))),
            (
                json!({"input_tokens": 5, "cache_creation_input_tokens": 100_000,
                       "cache_read_input_tokens": 50_000, "output_tokens": 3}),
                Some((150_005, 3)),
            ),
            (
                json!({"input_tokens": 0, "cache_read_input_tokens": 9, "output_tokens": 0}),
                Some((9, 0)),
            ),
            (
                json!({"input_tokens": 5, "cache_read_input_tokens": null, "output_tokens": 3}),
                Some((5, 3)),
            ),
            // Thoughts beside the reply.
            (
                json!({"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 5030}),
                Some((10, 5020)),
            ),
            (json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 9}), Some((7, 3))),
            (json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 1}), Some((7, 3))),
            (
                json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 1e300}),
                Some((7, u64::from(u32::MAX) - 7)),
            ),
            (json!({"completion_tokens": 3, "total_tokens": 10}), Some((0, 3))),
            // Included already.
            (
                json!({"prompt_tokens": 7, "completion_tokens": 3, "cache_read_input_tokens": 5}),
                Some((7, 3)),
            ),
            (
                json!({"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 5,
                       "input_tokens_details": {"cached_tokens": 5}}),
                Some((7, 3)),
            ),
            (json!({"prompt_tokens": null, "completion_tokens": 2}), Some((0, 2))),
            (json!({"prompt_tokens": u64::MAX}), Some((u32::MAX.into(), 0))),
            (json!({"prompt_tokens": 0, "completion_tokens": 0}), None),
            (json!({"prompt_tokens": -1}), None),
            (json!("x"), None),
            (json!(null), None),
        ];
        for (usage, expected) in table {
            let found = reported_usage(&usage);
            let found = found.map(|usage| (usage.prompt_tokens, usage.completion_tokens));
            assert_eq!(found, expected, "{usage}");
        }
    }

    #[test]
    fn details_are_parts_of_the_counts() {
        let table = [
            (
                json!({"prompt_tokens": 7, "completion_tokens": 3,
                       "prompt_tokens_details": {"cached_tokens": 5},
                       "completion_tokens_details": {"reasoning_tokens": 9}}),
                (5, 3),
            ),
            (
                json!({"input_tokens": 7, "output_tokens": 3,
                       "input_tokens_details": {"cached_tokens": 2.0},
                       "output_tokens_details": {"reasoning_tokens": "1"}}),
                (2, 1),
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 5030,
                       "completion_tokens_details": {"reasoning_tokens": 5000}}),
                (0, 5000),
            ),
            (json!({"prompt_tokens": 7, "prompt_tokens_details": null}), (0, 0)),
            (json!({"input_tokens": 7, "cache_read_input_tokens": 5}), (5, 0)),
        ];
        for (usage, expected) in table {
            let found = reported_usage(&usage).unwrap_or_default();
            assert_eq!((found.cached_tokens, found.reasoning_tokens), expected, "{usage}");
        }
    }
}
