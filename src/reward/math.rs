//! Answers of mathematics: numbers, expressions, sets, tuples and intervals.

use super::answer::Normalization;
use super::expression;
use super::number::Number;
use super::plain::{boxed, plain_unicode, without_latex};

/// Lists inside lists, at most.
const MAX_DEPTH: u32 = 8;
/// The longest answer that is read, bytes: nothing longer is one.
const MAX_LENGTH: usize = 4096;

/// Whether an answer says the same as a gold: the same number, the same values of an expression,
/// the same set, tuple or interval, else the same text.
pub(super) fn same(answer: &str, gold: &str) -> bool {
    if let (Some(wanted), Some(given)) = (Number::parse_with_unit(gold), Number::find(answer)) {
        return given.same(wanted);
    }
    if gold.len() > MAX_LENGTH {
        return false;
    }
    let gold = value(&plain(boxed(gold).unwrap_or(gold)), 0);
    candidates(answer).iter().any(|text| equal(&value(text, 0), &gold))
}

/// What in an answer may be the result: its box alone where there is one, else all of it, what is
/// set as mathematics last, and what follows the last `is`, `are` or `=`.
fn candidates(answer: &str) -> Vec<String> {
    let fits = |text: &str| text.len() <= MAX_LENGTH;
    if let Some(content) = boxed(answer) {
        return Some(plain(content)).filter(|text| fits(text)).into_iter().collect();
    }
    let tail = |mark: &str| answer.rsplit_once(mark).map(|(_, rest)| rest);
    let mathematics = || {
        let end = answer.trim_end().trim_end_matches('.').strip_suffix('$')?;
        Some(&end[end.rfind('$')? + 1..])
    };
    let found = [Some(answer), mathematics(), tail(" is "), tail(" are "), tail(": ")];
    found.into_iter().flatten().filter(|text| fits(text)).map(plain).collect()
}

fn plain(text: &str) -> String {
    let plain = plain_unicode(&without_latex(text));
    let bare = plain.trim().trim_end_matches(['.', ';']).trim();
    bare.trim_matches('$').trim().to_owned()
}

#[derive(Debug, PartialEq)]
enum Value {
    /// A number or an expression, or words.
    One(String),
    /// In any order.
    Set(Vec<Value>),
    /// With its brackets.
    Tuple(char, Vec<Value>, char),
}

fn value(text: &str, depth: u32) -> Value {
    let text = without_name(text.trim());
    if depth >= MAX_DEPTH || Number::parse(text).is_some() {
        return Value::One(text.to_owned());
    }
    let values = |parts: Vec<&str>| parts.into_iter().map(|part| value(part, depth + 1)).collect();
    let union = split(text, |rest| prefix(rest, &["∪", "U"]));
    if union.len() > 1 && union.iter().all(|part| part.trim_end().ends_with([')', ']', '}'])) {
        return Value::Set(values(union));
    }
    if let Some((open, inside, close)) = bracketed(text) {
        let parts = split(inside, |rest| prefix(rest, &[",", ";"]));
        if open == '{' {
            return match inside.trim().is_empty() {
                true => Value::Set(Vec::new()),
                false => Value::Set(values(parts)),
            };
        }
        if parts.len() > 1 {
            return Value::Tuple(open, values(parts), close);
        }
    }
    let list = split(text, |rest| prefix(rest, &[", and ", ", or ", " and ", " or ", ",", ";"]));
    if list.len() > 1 && list.iter().all(|part| !part.trim().is_empty()) {
        return Value::Set(values(list));
    }
    if let Some((before, after)) = text.split_once('±') {
        let both = ['+', '-'].map(|sign| value(&format!("{before}{sign}({after})"), depth + 1));
        return Value::Set(both.into());
    }
    Value::One(text.to_owned())
}

/// Without `x =`, `f(x) =`, `x ∈`.
fn without_name(text: &str) -> &str {
    let Some((name, rest)) = text.split_once(['=', '∈']) else { return text };
    let name = name.trim();
    let is_name = !name.is_empty()
        && name.len() <= 4
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "()'_".contains(c));
    if is_name && !rest.contains('=') { rest.trim() } else { text }
}

fn prefix(text: &str, marks: &[&str]) -> Option<usize> {
    marks.iter().find(|mark| text.starts_with(**mark)).map(|mark| mark.len())
}

/// Splits where a mark stands outside of brackets. A comma between digits in groups of three
/// separates nothing.
fn split(text: &str, mark: impl Fn(&str) -> Option<usize>) -> Vec<&str> {
    let (mut parts, mut begin, mut depth, mut at) = (Vec::new(), 0, 0_i32, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
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

/// What stands in the brackets around all of the text.
fn bracketed(text: &str) -> Option<(char, &str, char)> {
    let (open, close) = (text.chars().next()?, text.chars().next_back()?);
    if !"([{".contains(open) || !")]}".contains(close) || text.len() < 2 {
        return None;
    }
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && at + 1 < text.len() {
            return None;
        }
    }
    Some((open, &text[1..text.len() - 1], close))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::One(a), Value::One(b)) => one_equal(a, b),
        (Value::Set(a), Value::Set(b)) => {
            let covers = |a: &[Value], b: &[Value]| {
                a.iter().all(|one| b.iter().any(|other| equal(one, other)))
            };
            a.len() == b.len() && covers(a, b) && covers(b, a)
        }
        (Value::Tuple(open, a, close), Value::Tuple(other_open, b, other_close)) => {
            (open, close, a.len()) == (other_open, other_close, b.len())
                && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        // `x = 5` is `{5}`.
        (Value::Set(set), one @ Value::One(_)) | (one @ Value::One(_), Value::Set(set)) => {
            matches!(set.as_slice(), [only] if equal(only, one))
        }
        _ => false,
    }
}

fn one_equal(a: &str, b: &str) -> bool {
    match (Number::parse_with_unit(a), Number::parse_with_unit(b)) {
        (Some(a), Some(b)) => return a.same(b),
        (None, None) if spaceless(a) == spaceless(b) => return !spaceless(a).is_empty(),
        _ => {}
    }
    expression::same(a, b).unwrap_or_else(|| {
        let words = |text: &str| Normalization::Strict.apply(text);
        let is_word = |text: &str| text.chars().all(|c| c.is_alphabetic() || " -'.\"".contains(c));
        is_word(a) && is_word(b) && !words(a).is_empty() && words(a) == words(b)
    })
}

fn spaceless(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn answers_of_mathematics_are_compared_by_what_they_mean() {
        for (answer, gold, is_same) in [
            (r"\frac{1}{2}", "0.5", true),
            (r"$\frac{\sqrt{3}}{2}$", r"\sqrt{3}/2", true),
            ("(1, 2)", "(1,2)", true),
            ("(2, 1)", "(1,2)", false),
            ("[1, 2)", "(1, 2)", false),
            (r"\{1, 2\}", r"\{2,1\}", true),
            ("1, 2", r"\{2, 1\}", true),
            ("1 and 2", "2, 1", true),
            ("1, 2, 3", "1, 2", false),
            ("1, 1", "1, 2", false),
            (r"(-\infty, 2)\cup(3, \infty)", r"(3,\infty) \cup (-\infty,2)", true),
            (r"x = \pm 2", "-2, 2", true),
            ("x=5", "5", true),
            (r"\boxed{x+1}", "1+x", true),
            (r"The answer is $x^2+2x+1$.", "(x+1)^2", true),
            (r"\text{Evelyn}", "evelyn", true),
            ("Evelyn", "Kevin", false),
            ("god", "dog", false),
            ("1,000", "1000", true),
            (r"90^\circ", "90", true),
            ("", "x+1", false),
            ("anything", "", false),
        ] {
            assert_eq!(same(answer, gold), is_same, "{answer} {gold}");
        }
    }
}
