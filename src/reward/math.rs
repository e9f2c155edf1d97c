//! Answers of mathematics: numbers, expressions, equations, sets, tuples, intervals and matrices.

use super::answer::Normalization;
use super::expression;
use super::latex::without_latex;
use super::number::Number;
use super::plain::{boxed, plain_unicode};
use super::value::{Value, value};

/// The longest answer that is read, bytes: nothing longer is one.
const MAX_LENGTH: usize = 4096;

/// Whether an answer says the same as a gold: the same number, the same values of an expression,
/// the same set, tuple or interval, else the same text.
pub(super) fn same(answer: &str, gold: &str) -> bool {
    if gold.len() > MAX_LENGTH {
        return false;
    }
    let wanted = value(&plain(boxed(gold).unwrap_or(gold)), 0);
    let number = Number::parse_with_unit(gold);
    // Two numbers are compared with their units, of which `plain` keeps not all.
    let says_same = |text: &String| match number.zip(Number::parse_with_unit(text)) {
        Some((wanted, given)) => given.same(wanted),
        None => equal(&value(text, 0), &wanted),
    };
    candidates(answer).iter().any(says_same)
        || number.is_some_and(|wanted| {
            Number::find_in_words(answer).is_some_and(|given| given.same(wanted))
        })
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
    let mut bare = plain.trim().trim_end_matches(['.', ';']).trim();
    // What only begins with `$` is money.
    while let Some(inside) = bare.strip_prefix('$').and_then(|rest| rest.strip_suffix('$')) {
        bare = inside.trim();
    }
    bare.to_owned()
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::One(a), Value::One(b)) => one_equal(a, b),
        // A name may be missing on one side, but not be another.
        (Value::Named(name, a), Value::Named(other, b)) => name == other && equal(a, b),
        (Value::Named(_, named), other) | (other, Value::Named(_, named)) => equal(named, other),
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
    if let (Some(a), Some(b)) = (a.split_once('='), b.split_once('=')) {
        return (one_equal(a.0, b.0) && one_equal(a.1, b.1))
            || (one_equal(a.0, b.1) && one_equal(a.1, b.0));
    }
    expression::same(a, b).unwrap_or_else(|| {
        let words = |text: &str| Normalization::Strict.apply(text);
        let is_word = |text: &str| text.chars().all(|c| c.is_alphabetic() || " -'.\"".contains(c));
        is_word(a) && is_word(b) && !words(a).is_empty() && words(a) == words(b)
    })
}

/// Without spaces and a sign that changes nothing.
fn spaceless(text: &str) -> String {
    text.trim_start().trim_start_matches('+').chars().filter(|c| !c.is_whitespace()).collect()
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
            ("€5.60", "$5.60", false),
            ("$5.60", "€5.60", false),
            ("$5.60", "$5.60", true),
            ("x = 5", "y = 5", false),
            ("x = 5", "x = 5", true),
            ("x=2, y=1", "x=1, y=2", false),
            ("y=1, x=2", "x=2, y=1", true),
            ("y=2x+3", "x=2x+3", false),
            ("x^2+y^2=4", "4=y^2+x^2", true),
            (r"(3,+\infty)", r"(3,\infty)", true),
            ("", "x+1", false),
            ("anything", "", false),
        ] {
            assert_eq!(same(answer, gold), is_same, "{answer} {gold}");
        }
    }
}
