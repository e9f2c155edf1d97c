//! Filters of Jinja and methods of Python for texts of which some are untrusted: they read what
//! the characters stand for, and keep where each is from.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::{Kwargs, StringInput, ValueKind, from_args};
use minijinja::{Environment, Error, State, Value, filters};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::{MarkedChar, is_any_marked, mark, marked_chars, plain, push_untrusted};

/// The filter for what the operator `in` searches. Nothing else may use it: it loses origins.
pub(super) const SEARCHED: &str = "__searched";

/// Adds the filters.
pub(in crate::tokenization) fn add_filters(environment: &mut Environment<'_>) {
    environment.add_filter(SEARCHED, searched);
    environment.add_filter("trim", trim);
    environment.add_filter("upper", upper);
    environment.add_filter("lower", lower);
    environment.add_filter("title", title);
    environment.add_filter("capitalize", capitalize);
    environment.add_filter("replace", replace);
    environment.add_filter("split", split);
    environment.add_filter("lines", lines);
    environment.add_filter("indent", indent);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
}

/// A method of Python.
pub(in crate::tokenization) fn call_method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = marked(value).or_else(|| {
        let is_marked = |arg: &Value| marked(arg).is_some();
        value.as_str().filter(|_| args.iter().any(is_marked))
    }) else {
        return unknown_method_callback(state, value, method, args);
    };
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(stripped(text, chars, method != "rstrip", method != "lstrip").into())
        }
        "split" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            Ok(parts(text, separator, most))
        }
        "splitlines" => {
            let (with_ends,): (Option<bool>,) = from_args(args)?;
            let whole = plain(text);
            Ok(match with_ends {
                Some(true) => sections(text, &whole, whole.split_inclusive('\n')),
                _ => sections(text, &whole, whole.lines()),
            })
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            Ok(replaced(text, old, new, most.unwrap_or(usize::MAX)).into())
        }
        "upper" => Ok(uppercase(text).into()),
        "lower" => Ok(lowercase(text).into()),
        "title" => Ok(title_case(text).into()),
        "capitalize" => Ok(capitalized(text).into()),
        // These give no text.
        "islower" | "isupper" | "isspace" | "isdigit" | "isnumeric" | "isalnum" | "isalpha"
        | "isascii" | "count" | "find" | "rfind" | "startswith" | "endswith" => {
            let args: Vec<Value> = args.iter().map(plain_value).collect();
            unknown_method_callback(state, &plain(text).into(), method, &args)
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// A text of which some is untrusted.
fn marked(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| is_any_marked(text))
}

/// A text as plain text, or a list with its texts as such.
fn plain_value(value: &Value) -> Value {
    if let Some(text) = marked(value) {
        return plain(text).into();
    }
    items(value).map_or_else(|| value.clone(), |items| items.iter().map(plain_value).collect())
}

/// A text or list in which texts are found by what they stand for: as they are, as plain text, and
/// as untrusted text.
fn searched(value: &Value) -> Value {
    if let Some(text) = value.as_str() {
        let whole = plain(text);
        return format!("{text}\0{whole}\0{}", mark(&whole)).into();
    }
    let Some(items) = items(value) else { return value.clone() };
    let forms = items.iter().flat_map(|item| {
        let plain = plain_value(item);
        let untrusted = plain.as_str().map(|text| mark(text).into());
        [Some(item.clone()), untrusted, Some(plain)]
    });
    forms.flatten().collect()
}

/// The items of a list.
fn items(value: &Value) -> Option<Vec<Value>> {
    if value.kind() == ValueKind::Seq { Some(value.try_iter().ok()?.collect()) } else { None }
}

fn trim(value: StringInput<'_>, chars: Option<Cow<'_, str>>) -> Value {
    match is_any_marked(value.as_str()) {
        true => stripped(value.as_str(), chars.as_deref(), true, true).into(),
        false => filters::trim(value, chars),
    }
}

fn upper(value: StringInput<'_>) -> Value {
    match is_any_marked(value.as_str()) {
        true => uppercase(value.as_str()).into(),
        false => filters::upper(value),
    }
}

fn lower(value: StringInput<'_>) -> Value {
    match is_any_marked(value.as_str()) {
        true => lowercase(value.as_str()).into(),
        false => filters::lower(value),
    }
}

fn title(text: Cow<'_, str>) -> String {
    if is_any_marked(&text) { title_case(&text) } else { filters::title(text) }
}

fn capitalize(value: StringInput<'_>) -> Value {
    match is_any_marked(value.as_str()) {
        true => capitalized(value.as_str()).into(),
        false => filters::capitalize(value),
    }
}

fn replace(
    state: &State<'_, '_>,
    value: StringInput<'_>,
    old: StringInput<'_>,
    new: StringInput<'_>,
) -> Result<Value, Error> {
    match is_any_marked(value.as_str()) {
        true => Ok(replaced(value.as_str(), old.as_str(), new.as_str(), usize::MAX).into()),
        false => filters::replace(state, value, old, new),
    }
}

fn split(
    value: &Value,
    separator: Option<Cow<'_, str>>,
    most: Option<i64>,
) -> Result<Value, Error> {
    match marked(value) {
        Some(text) => Ok(parts(text, separator.as_deref(), most)),
        None => filters::split(value, separator.map(|text| Arc::from(&*text)), most),
    }
}

fn lines(value: &Value) -> Result<Value, Error> {
    let Some(text) = marked(value) else { return filters::lines(value) };
    let whole = plain(text);
    Ok(sections(text, &whole, whole.lines()))
}

/// The number of items or characters.
pub(in crate::tokenization) fn length(value: &Value) -> Result<usize, Error> {
    match marked(value) {
        Some(text) => Ok(marked_chars(text).count()),
        None => filters::length(value),
    }
}

fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    if !is_any_marked(value.as_str()) {
        return filters::indent(value, width, first, blank, options);
    }
    let text = value.as_str();
    let width = width.map_or_else(|| options.get::<Option<usize>>("width"), |own| Ok(Some(own)))?;
    let first = first.map_or_else(|| options.get::<Option<bool>>("first"), |own| Ok(Some(own)))?;
    let blank = blank.map_or_else(|| options.get::<Option<bool>>("blank"), |own| Ok(Some(own)))?;
    options.assert_all_used()?;
    let margin = " ".repeat(width.unwrap_or(4));
    let (first, blank) = (first == Some(true), blank == Some(true));
    let whole = plain(text);
    let body = whole.strip_suffix('\n').unwrap_or(&whole);
    let body = body.strip_suffix('\r').unwrap_or(body);
    let mut out = String::new();
    for (number, line) in cut(text, &ranges(&whole, body.split('\n'))).into_iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if (number > 0 || first) && (blank || !line.is_empty()) {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out.into())
}

fn escape(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let Some(text) = marked(value).filter(|_| !value.is_safe()) else {
        return filters::escape(state, value);
    };
    let escaped = each(text, |ch, out| match ch.c {
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '&' => out.push_str("&amp;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#x27;"),
        '/' => out.push_str("&#x2f;"),
        c => out.push(c),
    });
    Ok(Value::from_safe_string(escaped))
}

/// JSON in which untrusted text is not escaped yet, with it escaped; with `ascii`, whatever is
/// no ASCII.
pub(in crate::tokenization) fn json_escaped(json: &str, ascii: bool) -> String {
    each(json, |ch, out| match ch.c {
        c if ascii && !c.is_ascii() => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        c if ch.is_untrusted && (c < ' ' || c == '"' || c == '\\') => {
            let quoted = serde_json::Value::from(c.to_string()).to_string();
            out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
        }
        c => out.push(c),
    })
}

/// A text with each character changed; what is written for it is from where it is.
fn each(marked: &str, mut change: impl FnMut(&MarkedChar, &mut String)) -> String {
    let mut out = String::with_capacity(marked.len());
    let mut part = String::new();
    for ch in marked_chars(marked) {
        part.clear();
        change(&ch, &mut part);
        if ch.is_untrusted {
            part.chars().for_each(|c| push_untrusted(&mut out, c));
        } else {
            out.push_str(&part);
        }
    }
    out
}

fn uppercase(text: &str) -> String {
    each(text, |ch, out| out.extend(ch.c.to_uppercase()))
}

fn lowercase(text: &str) -> String {
    each(text, |ch, out| out.extend(ch.c.to_lowercase()))
}

fn title_case(text: &str) -> String {
    let mut begins = true;
    each(text, |ch, out| {
        let c = ch.c;
        if c.is_ascii_punctuation() || c.is_whitespace() {
            out.push(c);
            begins = true;
        } else if std::mem::take(&mut begins) {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
    })
}

fn capitalized(text: &str) -> String {
    let mut begins = true;
    each(text, |ch, out| {
        if std::mem::take(&mut begins) {
            out.extend(ch.c.to_uppercase());
        } else {
            out.extend(ch.c.to_lowercase());
        }
    })
}

/// A text without the characters of `set`, or white space, at its start or end.
fn stripped<'m>(marked: &'m str, set: Option<&str>, start: bool, end: bool) -> &'m str {
    let set = set.map(plain);
    let is_cut = |c: char| set.as_ref().map_or(c.is_whitespace(), |set| set.contains(c));
    let mut kept = marked_chars(marked).filter(|ch| !is_cut(ch.c)).map(|ch| ch.at);
    let Some(first) = kept.next() else { return "" };
    let from = if start { first.start } else { 0 };
    let last = kept.last().unwrap_or(first);
    let to = if end { last.end } else { marked.len() };
    marked.get(from..to).unwrap_or_default()
}

/// A text split as Python does.
fn parts(marked: &str, separator: Option<&str>, most: Option<i64>) -> Value {
    let most = most.and_then(|most| usize::try_from(most).ok());
    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let whole = plain(marked);
    if let Some(separator) = separator.map(plain) {
        return sections(marked, &whole, whole.splitn(most, separator.as_str()));
    }
    let mut words = Vec::new();
    let mut rest = whole.trim_start();
    while !rest.is_empty() {
        let is_last = words.len() + 1 == most;
        let end = rest.find(char::is_whitespace).filter(|_| !is_last).unwrap_or(rest.len());
        words.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    sections(marked, &whole, words.into_iter())
}

fn replaced(marked: &str, old: &str, new: &str, most: usize) -> String {
    let (whole, old) = (plain(marked), plain(old));
    let mut kept = Vec::new();
    let mut read = 0;
    for (at, found) in whole.match_indices(old.as_str()).take(most) {
        kept.push(read..at);
        read = at + found.len();
    }
    kept.push(read..whole.len());
    cut(marked, &kept).join(new)
}

/// Parts of a text, as a list: `found` are parts of `whole`, which is the text as plain text.
fn sections<'w>(marked: &str, whole: &'w str, found: impl Iterator<Item = &'w str>) -> Value {
    cut(marked, &ranges(whole, found)).into_iter().map(Value::from).collect()
}

/// Where parts of a text lie in it.
fn ranges<'w>(whole: &'w str, found: impl Iterator<Item = &'w str>) -> Vec<Range<usize>> {
    let start = whole.as_ptr() as usize;
    found
        .map(|part| {
            let begin = (part.as_ptr() as usize).saturating_sub(start);
            begin..begin + part.len()
        })
        .collect()
}

/// What stands at `ranges` of the plain text, in their order.
fn cut<'m>(marked: &'m str, ranges: &[Range<usize>]) -> Vec<&'m str> {
    let mut rest = marked_chars(marked);
    let (mut read, mut place) = (0, 0);
    let mut seek = |to: usize| {
        while read < to {
            let Some(ch) = rest.next() else { break };
            read += ch.c.len_utf8();
            place = ch.at.end;
        }
        place
    };
    let mut found = Vec::with_capacity(ranges.len());
    for range in ranges {
        let begin = seek(range.start);
        let end = seek(range.end);
        found.push(marked.get(begin..end).unwrap_or_default());
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use minijinja::context;

    use super::*;
    use crate::tokenization::jinja;

    fn rendered(source: &str, text: &str) -> String {
        jinja::render(&jinja::environment(source).unwrap(), context! { x => text }).unwrap()
    }

    #[test]
    fn untrusted_texts_are_read_as_others_are() {
        let texts = [
            " \n a-b ccc \"ß\" É. <x>\n\n \u{1F600} \u{2F800}'\\ \t\u{1}z",
            "a-b",
            "-",
            "\n",
            " a\nb\r\n\nc\n",
        ];
        for source in [
            "{{ x | trim }}|{{ x | trim('a \n') }}|{{ x.strip() }}|{{ x.lstrip('\n ') }}",
            "{{ x.rstrip() }}|{{ x.strip('z\n') }}|{{ (' >' + x + '< ') | trim }}",
            "{{ x | upper }}|{{ x.lower() }}|{{ x | title }}|{{ x.capitalize() }}",
            "{{ x.title() }}|{{ x | lower }}|{{ x.upper() }}|{{ x | capitalize }}",
            "{{ x.split('-')[-1] }}|{{ x.split() | join('+') }}|{{ x.split('c', 1)[1] }}",
            "{{ x.strip().split(none, 1) | join('+') }}|{{ x | split('-') | join('+') }}",
            "{{ x | lines | join('+') }}|{{ x.splitlines() | join('+') }}",
            "{{ x.splitlines(true) | join('+') }}|{{ ('ab-' + x).split('-')[0] }}",
            "{{ x | replace('c', '-') }}|{{ x.replace('-', 'cc', 1) }}|{{ x.replace('a-b', '') }}",
            "{{ 'a-b'.replace('-', x) }}|{{ 'a-b' | replace('-', x) }}",
            "{{ x.startswith('a') }}|{{ x.endswith(['b', 'z']) }}|{{ x.find('b') }}",
            "{{ x.count('c') }}|{{ x.isspace() }}|{{ 'a-b'.startswith(x) }}",
            "{{ 'a-b' in x }}|{{ 'q' in x }}|{{ x in ['-', x] }}|{{ x[:1] in 'a-b' }}|{{ 'a' not in x.split('-') }}|{{ 'a' in x.split('-') }}",
            "{{ x | tojson }}|{{ {'a': [x]} | tojson(indent=2) }}|{{ x | e }}",
            "{{ x | indent }}|{{ x | indent(2, true, blank=true) }}",
            "{{ x[1:3] }}|{{ x[0] }}|{{ x is string }}|{{ x | first }}|{% if x %}y{% endif %}",
        ] {
            for text in texts {
                // Both may have nothing there.
                let marked = plain(&rendered(source, &mark(text)));
                assert_eq!(marked, rendered(source, text), "{source}: {text:?}");
            }
        }
        assert_eq!(rendered("{{ x | length }}", &mark("a\u{1F600}\u{2F800}")), "3");
    }

    #[test]
    fn what_is_untrusted_stays_so_and_what_is_not_does_not() {
        let text = "  a<b></b>\"c d\n";
        for source in [
            "{{ x | trim }}",
            "{{ x.split('<b>')[-1].lstrip('a') }}",
            "{{ x.split()[0] }}",
            "{{ x | replace('<b>', '') }}",
            "{{ x | upper }}{{ x | tojson | trim('\"') }}",
            "{% for c in x %}{% if c not in x %}{% else %}{{ c }}{% endif %}{% endfor %}",
            "{{ x[2:] }}{{ x | e }}",
            "{% if x[2:4] in x and x[2] in ['a', 'z'] %}{{ x }}{% endif %}",
        ] {
            let marked = rendered(source, &mark(text));
            assert!(!marked.is_empty());
            assert!(marked_chars(&marked).all(|ch| ch.is_untrusted), "{source}: {marked:?}");
        }
        let mixed = rendered("{{ (' <s> ' + x + ' </s> ') | trim }}", &mark("a"));
        assert_eq!(mixed, format!("<s> {} </s>", mark("a")));
    }
}
