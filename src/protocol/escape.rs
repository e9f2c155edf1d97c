//! Keeps untrusted text from containing the protocol's tags or references, without losing a
//! character.
//!
//! `<answer>` becomes `&lt;answer>`, what already reads `&lt;answer>` becomes `&amp;lt;answer>`,
//! and so on: one level is added here and taken away by [`unescape`], so the two are inverse on
//! every text. Text that names no tag is unchanged.

use super::tags::INTERACTION;
use super::{ANSWER, FINAL_PROMPT, MESSAGE, PROMPT, REFERENCES, THINK};

/// What is escaped behind a `<`: every name, or what names begin with.
const NAMES: [&str; 7] =
    [THINK, INTERACTION, FINAL_PROMPT, ANSWER, MESSAGE, REFERENCES[0], REFERENCES[1]];
/// Those of a prompt that parsing unescapes: all but references, which are resolved first.
const IN_PROMPTS: [&str; 5] = [THINK, INTERACTION, FINAL_PROMPT, ANSWER, MESSAGE];

/// Adds one level of escaping before each tag and reference.
pub fn escape(text: &str) -> String {
    rewrite(text, &NAMES, |levels| Some(levels + 1))
}

/// Takes one level of escaping from each tag and reference; what is not escaped stays as it is.
pub fn unescape(text: &str) -> String {
    unescape_names(text, &NAMES)
}

/// Adds one level of escaping to what parsing unescapes in the content of `tag`.
pub(super) fn escape_content(tag: &str, text: &str) -> String {
    rewrite(text, names_in(tag), |levels| Some(levels + 1))
}

/// [`unescape`] for the given names alone.
pub(super) fn unescape_names(text: &str, names: &[&str]) -> String {
    rewrite(text, names, |levels| levels.checked_sub(1))
}

/// The names that are unescaped in the content of `tag`.
pub(super) fn names_in(tag: &str) -> &'static [&'static str] {
    if [PROMPT, FINAL_PROMPT].contains(&tag) { &IN_PROMPTS } else { &NAMES }
}

/// [`unescape_names`] for text that arrives in pieces: what it gives adds up to the whole,
/// unescaped.
#[derive(Debug, Clone, Default)]
pub(super) struct Unescaper {
    /// What may grow into an escaped tag.
    held: String,
    names: &'static [&'static str],
}

impl Unescaper {
    /// For the content of `tag`.
    pub(super) fn within(tag: &str) -> Self {
        Self { held: String::new(), names: names_in(tag) }
    }

    /// Takes a piece; gives what became certain by it.
    pub(super) fn push(&mut self, piece: String) -> String {
        if self.held.is_empty() && !piece.contains('&') {
            return piece;
        }
        self.held.push_str(&piece);
        let kept = self.held.split_off(certain(&self.held));
        unescape_names(&std::mem::replace(&mut self.held, kept), self.names)
    }

    /// Returns what was held back, at the end of the text.
    pub(super) fn finish(&mut self) -> String {
        unescape_names(&std::mem::take(&mut self.held), self.names)
    }
}

/// How many bytes of `text` mean the same whatever follows. An escaped `<` has one ampersand, at
/// its front, so only the last one can be of an unfinished tag.
fn certain(text: &str) -> usize {
    text.rfind('&').filter(|&at| may_grow(&text[at + 1..])).unwrap_or(text.len())
}

/// Whether what stands behind an ampersand may grow into an escaped tag, but is none yet: no tag's
/// name begins with another's.
fn may_grow(after: &str) -> bool {
    let mut after = after;
    while let Some(rest) = after.strip_prefix("amp;") {
        after = rest;
    }
    let Some(name) = after.strip_prefix("lt;") else {
        return "amp;".starts_with(after) || "lt;".starts_with(after);
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    let begins = |tag: &str| {
        let head = tag.get(..name.len());
        name.len() < tag.len() && head.is_some_and(|head| head.eq_ignore_ascii_case(name))
    };
    NAMES.into_iter().any(begins)
}

/// Rewrites each `<` before one of `names` with another number of levels; `None` leaves it alone.
fn rewrite(text: &str, names: &[&str], change: impl Fn(usize) -> Option<usize>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match opener(rest, names).and_then(|(length, levels)| Some((length, change(levels)?))) {
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

/// Whether `text` starts with `<`, escaped any number of times, right before one of `names`. Gives
/// the length of that `<` in bytes and its levels of escaping.
fn opener(text: &str, names: &[&str]) -> Option<(usize, usize)> {
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
    let is_tag = names
        .iter()
        .any(|tag| name.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag)));
    is_tag.then_some((length, levels))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::names_tag;

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
            ("<interaction id='1'></interaction>", "&lt;interaction id='1'>&lt;/interaction>"),
            ("<question/> <reply 1/>", "&lt;question/> &lt;reply 1/>"),
            ("</message>&lt;reply", "&lt;/message>&amp;lt;reply"),
        ] {
            assert_eq!(escape(outside), inside);
            assert_eq!(unescape(inside), outside);
            assert!(!names_tag(inside), "{inside}");
        }
    }

    #[test]
    fn only_what_may_become_a_tag_is_held_back() {
        for (pieces, given) in [
            (&["a & b"][..], &["a & b"][..]),
            (&["a &"], &["a "]),
            (&["&", "x"], &["", "&x"]),
            (&["&am", "p;l", "t;", "think", ">"], &["", "", "", "&lt;think", ">"]),
            (&["&lt", ";/THI", "NK>"], &["", "", "</THINK>"]),
            (&["&lt;b>"], &["&lt;b>"]),
            (&["&lt;", "br>"], &["", "&lt;br>"]),
            (&["&lt;repl", "y 1/>"], &["", "<reply 1/>"]),
        ] {
            let mut unescaper = Unescaper::within(ANSWER);
            let got: Vec<_> = pieces.iter().map(|piece| unescaper.push((*piece).into())).collect();
            assert_eq!(got, given, "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn escaping_is_undone(text in "(<|/|&|amp;|lt;|think|answer|question|reply|>|é| ){0,12}") {
            let escaped = escape(&text);
            prop_assert_eq!(unescape(&escaped), text);
            for tag in NAMES {
                prop_assert!(!escaped.contains(&format!("<{tag}")), "{}", escaped);
                prop_assert!(!escaped.contains(&format!("</{tag}")), "{}", escaped);
            }
        }

        #[test]
        fn pieces_make_no_difference(
            text in "(<|/|&|amp;|lt;|thi|nk|ANSWER|final_prompt|>|é| |x){0,14}",
            size in 1usize..9,
        ) {
            let mut unescaper = Unescaper::within(ANSWER);
            let characters: Vec<char> = text.chars().collect();
            let pieces = characters.chunks(size).map(String::from_iter);
            let mut whole: String = pieces.map(|piece| unescaper.push(piece)).collect();
            whole.push_str(&unescaper.finish());
            prop_assert_eq!(whole, unescape(&text));
        }
    }
}
