//! The source of Jinja templates: its tags, and comparisons with untrusted text.

use std::ops::Range;

use super::filters::SEARCHED;

/// A kind of tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokenization) enum TagKind {
    /// `{% … %}`.
    Block,
    /// `{{ … }}`.
    Expression,
    /// `{# … #}`.
    Comment,
    /// A whole raw block, in which nothing is a tag.
    Raw,
}

/// The tags of a template in order: where each lies, and its kind.
pub(in crate::tokenization) fn tags(
    source: &str,
) -> impl Iterator<Item = (Range<usize>, TagKind)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(begin) = source[at..].find('{').map(|begin| at + begin) {
            let (close, mut kind) = match source.get(begin..begin + 2) {
                Some("{%") => ("%}", TagKind::Block),
                Some("{{") => ("}}", TagKind::Expression),
                Some("{#") => ("#}", TagKind::Comment),
                _ => {
                    at = begin + 1;
                    continue;
                }
            };
            let tag = &source[begin..];
            let mut length = end_of_tag(tag, close);
            if kind == TagKind::Block && word(&tag[..length]) == "raw" {
                (length, kind) = (end_of_raw(tag), TagKind::Raw);
            }
            at = begin + length;
            return Some((begin..at, kind));
        }
        None
    })
}

/// `source` in which the operator `in` finds text whether or not either side is untrusted. It
/// gives no text, so no origin is lost.
pub(in crate::tokenization) fn compared(source: &str) -> String {
    let mut places = Vec::new();
    for (tag, kind) in tags(source) {
        if matches!(kind, TagKind::Block | TagKind::Expression) {
            let begin = tag.start;
            searched(&source[tag], |place| places.push(begin + place));
        }
    }
    places.sort_unstable();
    let mut out = String::with_capacity(source.len());
    let mut read = 0;
    for place in places {
        out.push_str(&source[read..place]);
        out.push_str(&format!("|{SEARCHED}"));
        read = place;
    }
    out.push_str(&source[read..]);
    out
}

/// Finds the ends of operands behind `in` in a tag. That of a loop is no operator.
fn searched(tag: &str, mut found: impl FnMut(usize)) {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut last = "";
    let mut is_loop = false;
    let mut at = 2;
    while let Some(c) = tag[at..].chars().next() {
        if c == '"' || c == '\'' {
            at += end_of_string(&tag[at..]);
            last = "";
            continue;
        }
        if !is_name(c) {
            at += c.len_utf8();
            last = if c == '.' { "." } else { last };
            continue;
        }
        let name = &tag[at..];
        let name = &name[..name.find(|c: char| !is_name(c)).unwrap_or(name.len())];
        let is_first = tag[2..at].trim_matches(['-', '+', ' ', '\t', '\n']).is_empty();
        is_loop |= is_first && name == "for";
        at += name.len();
        if name == "in" && last != "." && !std::mem::take(&mut is_loop) {
            let operand = tag[at..].trim_start();
            let length = operand_length(operand);
            if length > 0 {
                found(tag.len() - operand.len() + length);
            }
        }
        last = name;
    }
}

/// The only word of a block tag, or nothing.
pub(in crate::tokenization) fn word(tag: &str) -> &str {
    let inner = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")).unwrap_or_default();
    inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace())
}

/// Where the raw block that `text` begins with ends.
fn end_of_raw(text: &str) -> usize {
    let mut at = 0;
    while let Some(begin) = text[at..].find("{%") {
        let end = at + begin + end_of_tag(&text[at + begin..], "%}");
        if word(&text[at + begin..end]) == "endraw" {
            return end;
        }
        at += begin + 2;
    }
    text.len()
}

/// Where the tag that `text` begins with ends; a `close` in a string does not end it.
fn end_of_tag(text: &str, close: &str) -> usize {
    let mut at = 2;
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with(close) {
            return at + close.len();
        }
        at += match c {
            '"' | '\'' if close != "#}" => end_of_string(&text[at..]),
            c => c.len_utf8(),
        };
    }
    text.len()
}

/// The length of the string literal that `text` begins with.
pub(in crate::tokenization) fn end_of_string(text: &str) -> usize {
    let quote = text.chars().next();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if Some(c) == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the operand that `text` begins with: a group, a string, or a name with its fields,
/// items and calls.
pub(in crate::tokenization) fn operand_length(text: &str) -> usize {
    let mut at = 0;
    let mut depth = 0_usize;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' | '\'' => {
                at += end_of_string(&text[at..]);
                continue;
            }
            '(' | '[' => depth += 1,
            ')' | ']' if depth == 0 => break,
            ')' | ']' => depth -= 1,
            c if depth > 0 || c.is_alphanumeric() || c == '_' || c == '.' => {}
            _ => break,
        }
        at += c.len_utf8();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_searched_is_known() {
        for (source, expected) in [
            ("{% if 'a' in b %}", "{% if 'a' in b|P %}"),
            ("{%- if 'a' not in b.c['d'].e(f)[0]-%}", "{%- if 'a' not in b.c['d'].e(f)[0]|P-%}"),
            ("{{ a in b and c in (d + e) }}", "{{ a in b|P and c in (d + e)|P }}"),
            ("{{ a in b[c in d] }}", "{{ a in b[c in d|P]|P }}"),
            ("{% for a in b if c in d %}", "{% for a in b if c in d|P %}"),
            ("{%- for a, b in c -%}", "{%- for a, b in c -%}"),
            ("{% if a.in %}{{ index }}{{ in", "{% if a.in %}{{ index }}{{ in"),
            ("{{ a in ['b', c] }} {{ ' in b' }}", "{{ a in ['b', c]|P }} {{ ' in b' }}"),
            ("{# a in b #} a in b {", "{# a in b #} a in b {"),
            ("{% raw %}{{ a in b }}{% endraw %}", "{% raw %}{{ a in b }}{% endraw %}"),
        ] {
            assert_eq!(
                compared(source),
                expected.replace("|P", &format!("|{SEARCHED}")),
                "{source}"
            );
        }
    }
}
