//! Halves of surrogate pairs in JSON: JavaScript writes them where it cuts a string
//! within a character.

/// The same JSON with U+FFFD instead of every half that stands alone; `None` if none does. It is as
/// long as before.
pub fn replaced(body: &[u8]) -> Option<Vec<u8>> {
    let mut replaced: Option<Vec<u8>> = None;
    let mut at = 0;
    // Only strings have backslashes.
    while let Some(found) = body.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        at += match (unit(body, at), unit(body, at + 6)) {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
            (Some(0xD800..0xE000), _) => {
                let copy = replaced.get_or_insert_with(|| body.to_vec());
                copy[at..at + 6].copy_from_slice(b"\\ufffd");
                6
            }
            // Also skips an escaped backslash.
            _ => 2,
        };
    }
    replaced
}

/// The UTF-16 unit that is escaped at this place.
fn unit(body: &[u8], at: usize) -> Option<u16> {
    let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_that_stand_alone() {
        let table = [
            (r#"{"a": "b"}"#, None),
            (r#""\ud83d\ude00 \u00e9""#, None),
            (r#""\\ud83d""#, None),
            (r#""cut \ud83d""#, Some(r#""cut \ufffd""#)),
            (r#""\ude00\uD83D.""#, Some(r#""\ufffd\ufffd.""#)),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\ud83d\n""#, Some(r#""\ufffd\n""#)),
            (r#""\ud8"#, None),
            (r#""\"#, None),
        ];
        for (body, expected) in table {
            let found = replaced(body.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{body}");
        }
    }
}
