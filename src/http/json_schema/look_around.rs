//! Patterns with look-around or back-references. Only backtracking engines match them, and bounds
//! on the length of the text or of the pattern hardly limit their time. So such a pattern is passed
//! on to the large model, and whatever depends on it is not checked.

use serde_json::Value;

/// How groups of look-around begin.
const GROUPS: [&str; 4] = ["(?=", "(?!", "(?<=", "(?<!"];

/// Whether a pattern (ECMA 262) has look-around or back-references.
pub(super) fn is_in(pattern: &str) -> bool {
    let mut rest = pattern;
    let mut is_in_class = false;
    while let Some(next) = rest.chars().next() {
        let mut length = next.len_utf8();
        match next {
            '\\' => {
                let escaped = rest[1..].chars().next();
                if !is_in_class && matches!(escaped, Some('1'..='9' | 'k')) {
                    return true;
                }
                length += escaped.map_or(0, char::len_utf8);
            }
            '[' => is_in_class = true,
            ']' => is_in_class = false,
            '(' if !is_in_class && GROUPS.iter().any(|group| rest.starts_with(group)) => {
                return true;
            }
            _ => {}
        }
        rest = &rest[length..];
    }
    false
}

/// Whether a schema, or one within it, has such a pattern.
pub(super) fn is_within(schema: &Value) -> bool {
    has(schema, |keyword, text| keyword == "pattern" && is_in(text))
}

/// Whether a part of a schema that has one may depend on it: it is within, or behind a reference.
pub(super) fn may_reach(part: &Value) -> bool {
    has(part, |keyword, text| keyword == "$ref" || keyword == "pattern" && is_in(text))
}

/// Whether a schema, or one within it, has such a keyword with such a text.
fn has(schema: &Value, wanted: fn(&str, &str) -> bool) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().any(|(keyword, value)| match value {
            Value::String(text) => wanted(keyword, text),
            value => has(value, wanted),
        }),
        Value::Array(items) => items.iter().any(|item| has(item, wanted)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_patterns_have_any() {
        let table = [
            ("^[a-z]+$", false),
            (r"^(?!\.)x", true),
            ("a(?=b)", true),
            ("(?<=a)b", true),
            ("(?<!a)b", true),
            ("(?<name>a)(?:b)", false),
            (r"(a)\1", true),
            (r"(?<n>a)\k<n>", true),
            (r"\(?=", false),
            (r"[(?=]", false),
            (r"[\](?=]\1", true),
            (r"\\1\d\0", false),
            ("é\\", false),
        ];
        for (pattern, expected) in table {
            assert_eq!(is_in(pattern), expected, "{pattern}");
        }
    }
}
