//! Makes text from an endpoint fit for errors: without the credential, and short.

use serde_json::Value;

/// Replaces one credential, which some endpoints repeat in their errors.
#[derive(Clone, Copy)]
pub struct Redactor<'a>(Option<&'a str>);

/// The replacement for the credential.
const REDACTED: &str = "[redacted]";
/// Shorter values are placeholders such as `none`.
const MIN_SECRET_LENGTH: usize = 8;
/// Values of this length are secrets whatever their characters.
const LONG_SECRET: usize = 16;
/// Characters of a body that an error shows.
const HEAD: usize = 200;

impl<'a> Redactor<'a> {
    /// For the value of an `Authorization` header.
    pub fn new(authorization: Option<&'a str>) -> Self {
        let secret = authorization.and_then(|value| value.split_whitespace().last());
        Self(secret.filter(|secret| is_secret(secret)))
    }

    /// The same for a text that arrives in pieces.
    pub fn of_pieces(&self) -> TextRedactor {
        TextRedactor { secret: self.0.map(str::to_owned), held: String::new() }
    }

    /// What is replaced.
    pub fn secret(&self) -> Option<&'a str> {
        self.0
    }

    /// The text without the credential.
    pub fn text(&self, text: &str) -> String {
        self.0.map_or_else(|| text.to_owned(), |secret| text.replace(secret, REDACTED))
    }

    /// The head of a body, on one line.
    pub fn head(&self, body: &[u8]) -> String {
        self.truncated(&String::from_utf8_lossy(body), HEAD)
    }

    /// At most `max_chars` characters of the text, on one line, with an ellipsis where it was cut.
    pub fn truncated(&self, text: &str, max_chars: usize) -> String {
        let text = self.text(text);
        let mut short = String::new();
        for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
            if word.is_empty() {
                continue;
            }
            if !short.is_empty() {
                short.push(' ');
            }
            short.push_str(word);
            // No character has more than four bytes, so that this is enough to cut from.
            if short.len() > max_chars * 4 {
                break;
            }
        }
        if let Some((end, _)) = short.char_indices().nth(max_chars) {
            short.truncate(end);
            short.push('…');
        }
        short
    }

    /// The JSON without the credential.
    pub fn json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (self.text(&key), self.json(value))).collect()
            }
            other => other,
        }
    }
}

/// Whether a value is no placeholder such as `anything` or `lm-studio`: replacing a word would
/// garble the text.
fn is_secret(value: &str) -> bool {
    let has_digit = value.bytes().any(|byte| byte.is_ascii_digit());
    let is_mixed = has_digit && !value.bytes().all(|byte| byte.is_ascii_digit());
    value.len() >= LONG_SECRET || value.len() >= MIN_SECRET_LENGTH && is_mixed
}

/// Replaces a credential in a text that arrives in pieces. It holds back only what may be the
/// beginning of one.
pub struct TextRedactor {
    secret: Option<String>,
    held: String,
}

impl TextRedactor {
    /// Takes a piece; gives what can be handed on.
    pub fn push(&mut self, text: String) -> String {
        let Some(secret) = &self.secret else { return text };
        self.held.push_str(&text);
        if self.held.contains(secret) {
            self.held = self.held.replace(secret, REDACTED);
        }
        let begins = |length: &usize| {
            secret.get(..*length).is_some_and(|beginning| self.held.ends_with(beginning))
        };
        let kept = (1..secret.len()).rev().find(begins).unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_credential_is_replaced_everywhere() {
        let redactor = Redactor::new(Some("Bearer sk-0123456789"));
        assert_eq!(redactor.text("key sk-0123456789 is wrong"), "key [redacted] is wrong");
        let value = json!({"sk-0123456789": [{"a": "xsk-0123456789x"}, 1, null]});
        assert_eq!(redactor.json(value), json!({"[redacted]": [{"a": "x[redacted]x"}, 1, null]}));
        // A credential that straddles the cut leaves no part of itself.
        let body = format!("{}sk-0123456789", "x".repeat(HEAD - 5));
        assert!(!redactor.head(body.as_bytes()).contains("sk-"));
    }

    #[test]
    fn the_credential_is_replaced_across_pieces() {
        let table: [(&[&str], &str); 4] = [
            (&["a sk-01", "23456789 b"], "a |[redacted] b|"),
            (&["a sk-0", "x"], "a |sk-0x|"),
            (&["sk-0123456789"], "[redacted]|"),
            (&["a", "sk-"], "a||sk-"),
        ];
        for (pieces, expected) in table {
            let mut redactor = Redactor::new(Some("Bearer sk-0123456789")).of_pieces();
            let mut out: Vec<_> =
                pieces.iter().map(|piece| redactor.push((*piece).to_owned())).collect();
            out.push(redactor.finish());
            assert_eq!(out.join("|"), expected, "{pieces:?}");
        }
        let mut none = Redactor::new(None).of_pieces();
        assert_eq!(none.push("sk-".to_owned()), "sk-");
    }

    #[test]
    fn placeholders_and_absent_credentials_change_nothing() {
        for credential in [None, Some("Bearer none"), Some("")] {
            assert_eq!(Redactor::new(credential).text("none of it"), "none of it");
        }
        for placeholder in ["anything", "lm-studio", "not-needed", "password", "12345678"] {
            let credential = format!("Bearer {placeholder}");
            assert_eq!(Redactor::new(Some(&credential)).secret(), None, "{placeholder}");
        }
        for secret in ["abcdefghijklmnop", "1234567890123456", "sk-ab12x"] {
            assert_eq!(Redactor::new(Some(secret)).secret(), Some(secret));
        }
    }

    #[test]
    fn heads_are_short_and_on_one_line() {
        let redactor = Redactor::new(None);
        assert_eq!(redactor.head(b"  a\r\n\n b\0c\x1b[1m\xff "), "a b c [1m\u{fffd}");
        assert_eq!(redactor.head("é".repeat(200).as_bytes()), "é".repeat(200));
        assert_eq!(redactor.head("é".repeat(201).as_bytes()), format!("{}…", "é".repeat(200)));
        assert_eq!(redactor.truncated("a b c", 3), "a b…");
    }
}
