//! Keeps text from outside from containing the protocol's tags, without losing a character.
//!
//! `<answer>` becomes `&lt;answer>`, what already reads `&lt;answer>` becomes `&amp;lt;answer>`,
//! and so on: one level is added here and taken away by [`unescape`], so the two are inverse on
//! every text. Text that names no tag is unchanged.

use super::TAGS;

/// Adds one level of escaping before each tag.
pub fn escape(text: &str) -> String {
    rewrite(text, |levels| Some(levels + 1))
}

/// Takes one level of escaping from each tag; what is not escaped stays as it is.
pub fn unescape(text: &str) -> String {
    rewrite(text, |levels| levels.checked_sub(1))
}

/// Rewrites each tag opener with another number of levels; `None` leaves it alone.
fn rewrite(text: &str, change: impl Fn(usize) -> Option<usize>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match opener(rest).and_then(|(length, levels)| Some((length, change(levels)?))) {
            Some((length, levels)) => {
                match levels {
                    0 => out.push('<'),
                    n => {
                        out.push('&');
                        out.push_str(&"amp;".repeat(n - 1));
                        out.push_str("lt;");
                    }
                }
                rest = &rest[length..];
            }
            None => {
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether `text` starts with `<`, escaped any number of times, right before a tag's name. Gives
/// the length of that `<` in bytes and its levels of escaping.
fn opener(text: &str) -> Option<(usize, usize)> {
    let (length, levels) = if text.starts_with('<') {
        (1, 0)
    } else {
        let mut after = text.strip_prefix('&')?;
        let mut levels = 1;
        while let Some(rest) = after.strip_prefix("amp;") {
            after = rest;
            levels += 1;
        }
        after = after.strip_prefix("lt;")?;
        (text.len() - after.len(), levels)
    };
    let name = &text[length..];
    let name = name.strip_prefix('/').unwrap_or(name);
    let is_tag = TAGS
        .iter()
        .any(|tag| name.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag)));
    is_tag.then_some((length, levels))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_are_defused_and_all_else_is_untouched() {
        for (outside, inside) in [
            ("plain", "plain"),
            ("a < b && c", "a < b && c"),
            ("<b>&lt;b&gt;</b>", "<b>&lt;b&gt;</b>"),
            ("<answer>x</answer>", "&lt;answer>x&lt;/answer>"),
            ("</Interaction_Response>", "&lt;/Interaction_Response>"),
            ("&lt;think>", "&amp;lt;think>"),
            ("&amp;lt;think>", "&amp;amp;lt;think>"),
            ("<<think>", "<&lt;think>"),
            ("é<answer", "é&lt;answer"),
        ] {
            assert_eq!(escape(outside), inside);
            assert_eq!(unescape(inside), outside);
        }
    }

    proptest! {
        #[test]
        fn escaping_is_undone(text in "(<|/|&|amp;|lt;|think|answer|>|é| ){0,12}") {
            let escaped = escape(&text);
            prop_assert_eq!(unescape(&escaped), text);
            for tag in TAGS {
                prop_assert!(!escaped.contains(&format!("<{tag}")), "{}", escaped);
                prop_assert!(!escaped.contains(&format!("</{tag}")), "{}", escaped);
            }
        }
    }
}
