//! What answers of mathematics are made of: names, sets, tuples, intervals and matrices of
//! expressions.

use super::latex::{CLOSINGS, MATRICES, ROW};
use super::number::Number;
use super::words::GREEK;

/// Lists inside lists, at most.
const MAX_DEPTH: u32 = 8;
/// Between the columns of a matrix.
const COLUMN: char = '&';

#[derive(Debug, PartialEq)]
pub(super) enum Value {
    /// A number or an expression, or words.
    One(String),
    /// In any order.
    Set(Vec<Value>),
    /// With its brackets; also a matrix of rows, and a row of several columns.
    Tuple(char, Vec<Value>, char),
    /// With the name that it is given: `x = 5`, `f(x) = x + 1`, `x ∈ (1, 2)`.
    Named(String, Box<Value>),
}

pub(super) fn value(text: &str, depth: u32) -> Value {
    let text = text.trim();
    if let Some((name, rest)) = named(text).filter(|_| depth < MAX_DEPTH) {
        return Value::Named(name, Box::new(value(rest, depth + 1)));
    }
    if text == "∅" {
        return Value::Set(Vec::new());
    }
    // `2 and 1/2` are two.
    let is_number = || Number::parse(text).is_some() && !text.contains(" and ");
    if depth >= MAX_DEPTH || is_number() {
        return Value::One(text.to_owned());
    }
    let values = |parts: Vec<&str>| parts.into_iter().map(|part| value(part, depth + 1)).collect();
    let all = |parts: Vec<&str>| {
        parts.into_iter().flat_map(|part| alternatives(part, depth + 1)).collect()
    };
    let union = split(text, |rest| prefix(rest, &["∪", "U"]));
    if union.len() > 1 && union.iter().all(|part| part.trim_end().ends_with([')', ']', '}'])) {
        return Value::Set(values(union));
    }
    if let Some((open, inside, close)) = bracketed(text) {
        if MATRICES.contains(&open) {
            return matrix(open, inside, close, depth);
        }
        let parts = split(inside, |rest| prefix(rest, &[",", ";"]));
        if open == '{' {
            return match inside.trim().is_empty() {
                true => Value::Set(Vec::new()),
                false => Value::Set(all(parts)),
            };
        }
        if parts.len() > 1 {
            return Value::Tuple(open, values(parts), close);
        }
    }
    let list = split(text, |rest| prefix(rest, &[", and ", ", or ", " and ", " or ", ",", ";"]));
    if list.len() > 1 && list.iter().all(|part| !part.trim().is_empty()) {
        return Value::Set(all(list));
    }
    if let Some((name, interval)) = between(text, depth).or_else(|| beyond(text, depth)) {
        return Value::Named(name, Box::new(interval));
    }
    if text.contains('±') {
        let both = ["+", "-"].map(|sign| value(&text.replacen('±', sign, 1), depth + 1));
        return Value::Set(both.into());
    }
    Value::One(text.to_owned())
}

/// The members of a set that a text in a list stands for: both of `±1`.
fn alternatives(text: &str, depth: u32) -> Vec<Value> {
    match value(text, depth) {
        Value::Set(both) if text.contains('±') => both,
        Value::Named(name, inner) if text.contains('±') => {
            let both = match *inner {
                Value::Set(both) => both,
                one => vec![one],
            };
            let named = |one| Value::Named(name.clone(), Box::new(one));
            both.into_iter().map(named).collect()
        }
        one => vec![one],
    }
}

/// The rows of a matrix, each with its columns if there are several.
fn matrix(open: char, inside: &str, close: char, depth: u32) -> Value {
    let parts = |text: &'_ str, mark: char| -> Vec<String> {
        let parts = split(text, |rest| rest.starts_with(mark).then_some(mark.len_utf8()));
        parts.into_iter().map(str::to_owned).collect()
    };
    let mut rows = parts(inside, ROW);
    // A break may also stand behind the last row.
    if rows.last().is_some_and(|row| row.trim().is_empty()) {
        rows.pop();
    }
    let row = |text: &String| {
        let mut columns: Vec<Value> =
            parts(text, COLUMN).iter().map(|column| value(column, depth + 2)).collect();
        match columns.len() {
            1 => columns.remove(0),
            _ => Value::Tuple(COLUMN, columns, COLUMN),
        }
    };
    Value::Tuple(open, rows.iter().map(row).collect(), close)
}

/// The name before `=` or `∈` and what it names: `x`, `f(x)`, `(x, y)`.
fn named(text: &str) -> Option<(String, &str)> {
    let (name, rest) = text.split_once(['=', '∈'])?;
    let name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
    let is_one = is_name(&name);
    let is_tuple = name.len() <= 9
        && name.starts_with('(')
        && name.ends_with(')')
        && name.contains(',')
        && name.chars().all(|c| c.is_ascii_alphabetic() || "(,)".contains(c));
    ((is_one || is_tuple) && !rest.contains(['=', '∈'])).then(|| (name, rest.trim()))
}

/// Whether text without spaces is the name of something: `x`, `f(x)`, `a_(10)`, `theta`.
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "()'_".contains(c);
    let has_index = text.get(1..).is_some_and(|rest| rest.starts_with(['_', '(']));
    let most = if has_index { 7 } else { 4 };
    GREEK.contains(&text)
        || (text.len() <= most
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(is_part))
}

/// The name between two bounds and its interval: `-2 ≤ x < 7` is `x ∈ [-2, 7)`.
fn between(text: &str, depth: u32) -> Option<(String, Value)> {
    let mut relations = text.match_indices(['<', '≤', '>', '≥']);
    let (Some((first, low)), Some((second, high)), None) =
        (relations.next(), relations.next(), relations.next())
    else {
        return None;
    };
    let (middle, end) = (&text[first + low.len()..second], &text[second + high.len()..]);
    // `<=` is `≤`.
    let name = middle.trim_start_matches('=').trim();
    let bounds = [
        (&text[..first], "≤≥".contains(low) || middle.starts_with('=')),
        (end.trim_start_matches('='), "≤≥".contains(high) || end.starts_with('=')),
    ];
    // `a < b < c` is an order.
    let is_bound =
        |(text, _): (&str, bool)| text.contains(|c: char| c.is_ascii_digit() || c == '∞');
    if !is_name(name) || !bounds.iter().copied().any(is_bound) {
        return None;
    }
    let is_rising = |relation: &str| "<≤".contains(relation);
    let [(least, has_least), (most, has_most)] = match (is_rising(low), is_rising(high)) {
        (true, true) => bounds,
        (false, false) => [bounds[1], bounds[0]],
        _ => return None,
    };
    let ends = vec![value(least, depth + 1), value(most, depth + 1)];
    let (open, close) = (if has_least { '[' } else { '(' }, if has_most { ']' } else { ')' });
    Some((name.to_owned(), Value::Tuple(open, ends, close)))
}

/// The name with one bound and its interval: `x < 7` is `x ∈ (-∞, 7)`.
fn beyond(text: &str, depth: u32) -> Option<(String, Value)> {
    let mut relations = text.match_indices(['<', '≤', '>', '≥']);
    let (Some((at, relation)), None) = (relations.next(), relations.next()) else { return None };
    let (left, right) = (text[..at].trim(), &text[at + relation.len()..]);
    let (is_closed, right) = match right.strip_prefix('=') {
        Some(rest) => (true, rest.trim()),
        None => ("≤≥".contains(relation), right.trim()),
    };
    let is_rising = "<≤".contains(relation);
    // `7 > x` is `x < 7`.
    let (name, bound, is_above) = match (is_name(left), is_name(right)) {
        (true, false) => (left, right, !is_rising),
        (false, true) => (right, left, is_rising),
        _ => return None,
    };
    // Not within brackets: `P(X > 2)`.
    let is_outside = left.chars().map(nesting).sum::<i32>() == 0;
    if !is_outside || !bound.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let bound = value(bound, depth + 1);
    let infinite = |sign: &str| Value::One(format!("{sign}inf"));
    let interval = match (is_above, is_closed) {
        (true, true) => Value::Tuple('[', vec![bound, infinite("")], ')'),
        (true, false) => Value::Tuple('(', vec![bound, infinite("")], ')'),
        (false, true) => Value::Tuple('(', vec![infinite("-"), bound], ']'),
        (false, false) => Value::Tuple('(', vec![infinite("-"), bound], ')'),
    };
    Some((name.to_owned(), interval))
}

fn prefix(text: &str, marks: &[&str]) -> Option<usize> {
    marks.iter().find(|mark| text.starts_with(**mark)).map(|mark| mark.len())
}

/// Splits where a mark stands outside of brackets. A comma between digits in groups of three
/// separates nothing.
fn split(text: &str, mark: impl Fn(&str) -> Option<usize>) -> Vec<&str> {
    let (mut parts, mut begin, mut depth, mut at) = (Vec::new(), 0, 0_i32, 0);
    while let Some(c) = text[at..].chars().next() {
        depth += nesting(c);
        let is_thousands = c == ',' && {
            let before = text[..at].chars().next_back().is_some_and(|c| c.is_ascii_digit());
            let behind = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            before && behind == 3
        };
        match mark(&text[at..]).filter(|_| depth == 0 && !is_thousands) {
            Some(length) => {
                parts.push(&text[begin..at]);
                at += length;
                begin = at;
            }
            None => at += c.len_utf8(),
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// 1 for what opens a bracket, -1 for what closes one.
fn nesting(c: char) -> i32 {
    let opens = "([{⟨".contains(c) || MATRICES.contains(&c);
    let closes = ")]}⟩".contains(c) || CLOSINGS.contains(&c);
    i32::from(opens) - i32::from(closes)
}

/// What stands in the brackets around all of the text.
fn bracketed(text: &str) -> Option<(char, &str, char)> {
    let (open, close) = (text.chars().next()?, text.chars().next_back()?);
    if nesting(open) != 1 || nesting(close) != -1 {
        return None;
    }
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += nesting(c);
        if depth == 0 && at + c.len_utf8() < text.len() {
            return None;
        }
    }
    Some((open, &text[open.len_utf8()..text.len() - close.len_utf8()], close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let one = |text: &str| Value::One(text.to_owned());
        let column = |a: &str, b: &str| Value::Tuple('⟦', vec![one(a), one(b)], '⟧');
        assert_eq!(value("⟦1⏎2⟧", 0), column("1", "2"));
        assert_eq!(value("⟦1⏎2⏎⟧", 0), column("1", "2"));
        let row = Value::Tuple('&', vec![one("1"), one("2")], '&');
        assert_eq!(value("⟦1&2⟧", 0), Value::Tuple('⟦', vec![row], '⟧'));
        assert_eq!(value("x = 5", 0), Value::Named("x".into(), Box::new(one("5"))));
        assert_eq!(value("x + 1 = 5", 0), one("x + 1 = 5"));
        let pair = Value::Tuple('(', vec![one("1"), one("2")], ')');
        assert_eq!(value("(x, y) = (1, 2)", 0), Value::Named("(x,y)".into(), Box::new(pair)));
        assert_eq!(value("∅", 0), value("{}", 0));
        assert_eq!(value("-2 ≤ x < 7", 0), value("x ∈ [-2, 7)", 0));
        assert_eq!(value("7 > x >= -2", 0), value("x ∈ [-2, 7)", 0));
        assert_eq!(value("x < 7", 0), value("x ∈ (-inf, 7)", 0));
        assert_eq!(value("-2 <= x", 0), value("x ∈ [-2, inf)", 0));
        assert_eq!(value("1 < x > 0", 0), one("1 < x > 0"));
        assert_eq!(value("a < b", 0), one("a < b"));
        assert_eq!(value("±1, ±2", 0), value("+1, -1, +2, -2", 0));
        assert_eq!(value("a < b < c", 0), one("a < b < c"));
    }
}
