//! Jinja as transformers sets it up for chat templates.

use std::io::{Error, Write};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind};
use serde_json::Value;

use super::untrusted::{
    TagKind, add_filters, call_method, compared, end_of_string, json_escaped,
    length as text_length, operand_length, tags, word,
};

/// Instructions that a rendering may execute. Published templates take a few hundred per message.
const FUEL: u64 = 10_000_000;
/// The longest rendering, characters: those of untrusted text are four bytes long.
const MAX_RENDERED: usize = 64 << 20;

/// An environment with `source` as its template `chat`.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    // Blocks leave no blank lines behind.
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(call_method);
    add_filters(&mut environment);
    // Python writes these with a capital.
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        ValueKind::None => Ok(out.write_str("None")?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.add_function("raise_exception", |message: String| -> Result<String, _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| new_year(&format));
    environment.add_filter("tojson", to_json);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_iterable);
    environment.add_template_owned("chat", compared(&to_minijinja(source)?))?;
    Ok(environment)
}

/// Renders the template `chat`.
pub(super) fn render(
    environment: &Environment<'static>,
    context: minijinja::Value,
) -> Result<String, String> {
    let template = environment.get_template("chat").map_err(|error| error.to_string())?;
    let mut rendered = Bounded::default();
    template.render_captured_to(context, &mut rendered).map_err(|error| match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} instructions"),
        _ => error.to_string(),
    })?;
    String::from_utf8(rendered.bytes).map_err(|error| error.to_string())
}

#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    characters: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.characters += match bytes.is_ascii() {
            true => bytes.len(),
            // All bytes but those that continue a character.
            false => bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count(),
        };
        if self.characters > MAX_RENDERED {
            return Err(Error::other(format!("it renders more than {MAX_RENDERED} characters")));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What Python iterates over: texts and what is undefined too, but not `none`.
fn is_iterable(value: &minijinja::Value) -> bool {
    !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
}

/// What is undefined has no items.
fn length(value: &minijinja::Value) -> Result<usize, minijinja::Error> {
    if value.is_undefined() { Ok(0) } else { text_length(value) }
}

/// `source` in the syntax of minijinja: line ends and string literals as Python reads them, a scope
/// in place of a `generation` block, and the filter `format` in place of the operator `%` after a
/// string.
fn to_minijinja(source: &str) -> Result<String, minijinja::Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut read = 0;
    for (place, kind) in tags(&source) {
        out.push_str(&source[read..place.start]);
        read = place.end;
        let tag = &source[place];
        match (kind, word(tag)) {
            (TagKind::Comment | TagKind::Raw, _) => out.push_str(tag),
            (TagKind::Block, "generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            (TagKind::Block, "endgeneration") => {
                out.push_str(&tag.replacen("endgeneration", "endwith", 1));
            }
            (TagKind::Block | TagKind::Expression, _) => out.push_str(&formatted(tag)?),
        }
    }
    out.push_str(&source[read..]);
    Ok(out)
}

/// A string literal that this Jinja reads as Python reads `literal`: they know other escapes.
fn translated(literal: &str) -> Result<String, minijinja::Error> {
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            // The line goes on.
            Some('\n') => {}
            Some('a') => out.push('\x07'),
            Some('v') => out.push('\x0b'),
            Some('/') => out.push_str("\\\\/"),
            Some('U') => {
                let digits: String = rest.clone().take(8).collect();
                match u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32) {
                    Some(c) => {
                        rest.nth(7);
                        out.push(c);
                    }
                    None => out.push_str("\\U"),
                }
            }
            Some('N') if rest.as_str().starts_with('{') => {
                let reason = "characters by their names (`\\N{…}`) are not known here";
                return Err(minijinja::Error::new(ErrorKind::SyntaxError, reason));
            }
            escaped => {
                out.push('\\');
                out.extend(escaped);
            }
        }
    }
    Ok(out)
}

/// A tag with `'…' % x` written as `'…' | format(x)`, and string literals as this Jinja reads them.
fn formatted(tag: &str) -> Result<String, minijinja::Error> {
    let mut out = String::with_capacity(tag.len());
    let mut at = 0;
    while let Some(c) = tag[at..].chars().next() {
        if c != '"' && c != '\'' {
            out.push(c);
            at += c.len_utf8();
            continue;
        }
        let end = at + end_of_string(&tag[at..]);
        out.push_str(&translated(&tag[at..end])?);
        at = end;
        let operator = tag[end..].trim_start();
        let Some(operand) = operator.strip_prefix('%').filter(|rest| !rest.starts_with('}')) else {
            continue;
        };
        let operand = operand.trim_start();
        let length = operand_length(operand);
        if length == 0 {
            continue;
        }
        let inner = &operand[..length];
        let inner =
            inner.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(inner);
        out.push_str(&format!(" | format({})", formatted(inner)?));
        at = tag.len() - operand.len() + length;
    }
    Ok(out)
}

/// Python's `strftime` for one fixed moment, the start of 2025: with the current date, equal
/// requests would differ.
fn new_year(format: &str) -> String {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = rest.next();
        let is_unpadded = code == Some('-');
        if is_unpadded {
            code = rest.next();
        }
        out.push_str(match code {
            Some('d' | 'm') if is_unpadded => "1",
            Some('H' | 'M' | 'S') if is_unpadded => "0",
            Some('Y') => "2025",
            Some('y') => "25",
            Some('m' | 'd') => "01",
            Some('b' | 'h') => "Jan",
            Some('B') => "January",
            Some('a') => "Wed",
            Some('A') => "Wednesday",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('j') => "001",
            Some('F') => "2025-01-01",
            Some('T') => "00:00:00",
            Some('D' | 'x') => "01/01/25",
            Some('%') => "%",
            _ => "",
        });
    }
    out
}

/// Python's `json.dumps` with `ensure_ascii=False`, and the options that transformers passes on.
fn to_json(value: minijinja::Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let invalid = |reason: String| minijinja::Error::new(ErrorKind::BadSerialization, reason);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(invalid("an undefined value has no JSON form".into()));
    }
    let value = serde_json::to_value(&value).map_err(|error| invalid(error.to_string()))?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        _ if indent.is_some() => (",", ": "),
        _ => (", ", ": "),
    };
    let style = Style { indent, item, key, ascii, sort };
    let mut out = String::new();
    style.write(&value, 0, &mut out);
    Ok(out)
}

struct Style<'a> {
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    ascii: bool,
    sort: bool,
}

impl Style<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.begin(index, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            Value::Object(map) if !map.is_empty() => {
                out.push('{');
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort {
                    entries.sort_by_key(|(key, _)| *key);
                }
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.begin(index, depth + 1, out);
                    self.text(&Value::String(key.clone()).to_string(), out);
                    out.push_str(self.key);
                    self.write(value, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
            other => self.text(&other.to_string(), out),
        }
    }

    /// Begins an item.
    fn begin(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(self.item);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
    }

    fn text(&self, json: &str, out: &mut String) {
        out.push_str(&json_escaped(json, self.ascii));
    }
}
