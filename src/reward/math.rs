//! Answers of mathematics: numbers, expressions, equations, sets, tuples, intervals and matrices.

use super::answer::Normalization;
use super::expression;
use super::latex::without_latex;
use super::number::Number;
use super::plain::{boxed, plain_unicode};
use super::unit::unit;
use super::value::{Value, value};

/// The longest answer that is read, bytes: nothing longer is one.
const MAX_LENGTH: usize = 4096;
/// The longest unit that is read, bytes of LaTeX.
const MAX_UNIT: usize = 64;
/// The most words that a unit has: `meters per second squared`.
const MAX_UNIT_WORDS: usize = 4;

/// Whether an answer says the same as a gold: the same number, the same values of an expression,
/// the same set, tuple or interval, else the same text.
pub(super) fn same(answer: &str, gold: &str) -> bool {
    if gold.len() > MAX_LENGTH {
        return false;
    }
    let gold_content = boxed(gold).unwrap_or(gold);
    let wanted = value(&plain(gold_content), 0);
    let number = Number::parse_with_unit(gold);
    // Two numbers are compared with their units, of which `plain` keeps not all.
    let says_same = |text: &String| match number.zip(Number::parse_with_unit(text)) {
        Some((wanted, given)) => given.same(wanted),
        None => equal(&value(text, 0), &wanted),
    };
    let bare = without_unit(gold_content).filter(|_| number.is_none());
    // The unit of a gold may be missing.
    let wanted_bare = bare.map(|bare| value(&plain(bare), 0));
    let is_bare =
        |text: &String| wanted_bare.as_ref().is_some_and(|bare| equal(&value(text, 0), bare));
    let drops_units = number.is_none() && bare.is_none();
    candidates(answer, drops_units).iter().any(|text| says_same(text) || is_bare(text))
        || number.is_some_and(|wanted| {
            Number::find_in_words(answer).is_some_and(|given| given.same(wanted))
        })
}

/// What in an answer may be the result: its box alone where there is one, else all of it, what is
/// set as mathematics last, and what follows the last `is`, `are` or colon; each also without an
/// approximation behind it, and without its unit.
fn candidates(answer: &str, drops_units: bool) -> Vec<String> {
    // Alternatives are one text of mathematics: `$x = 1$ or $x = 2$`.
    let answer = answer.replace("$ or $", " or ").replace(r"\) or \(", " or ");
    let answer = answer.replace("$ and $", " and ").replace(r"\) and \(", " and ");
    let tail = |mark: &str| answer.rsplit_once(mark).map(|(_, rest)| rest);
    let mut found: Vec<&str> = match boxed(&answer) {
        Some(content) => vec![content],
        None => {
            let before_unit = without_unit(&answer).filter(|_| drops_units);
            let set = [mathematics(&answer), before_unit.and_then(mathematics)];
            let tails = [Some(answer.as_str()), tail(" is "), tail(" are "), tail(": ")];
            set.into_iter().chain(tails).flatten().collect()
        }
    };
    let exact: Vec<&str> = found.iter().copied().filter_map(before_approximation).collect();
    found.extend(exact);
    if drops_units {
        let bare: Vec<&str> = found.iter().copied().filter_map(without_unit).collect();
        found.extend(bare);
    }
    found.into_iter().filter(|text| text.len() <= MAX_LENGTH).map(plain).collect()
}

/// What is set as mathematics at the end.
fn mathematics(text: &str) -> Option<&str> {
    let end = text.trim_end().trim_end_matches('.').trim_end();
    [("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)")].into_iter().find_map(
        |(open, close)| {
            let before = end.strip_suffix(close)?;
            Some(&before[before.rfind(open)? + open.len()..])
        },
    )
}

/// What stands before the last `≈`.
fn before_approximation(text: &str) -> Option<&str> {
    let at = ["≈", r"\approx"].into_iter().filter_map(|mark| text.rfind(mark)).max()?;
    Some(&text[..at])
}

/// What stands before a unit at the end: set as text (`12\pi\text{ cm}^2`), behind mathematics
/// (`$12\pi$ square units`), or behind a figure (`12π cm²`).
fn without_unit(text: &str) -> Option<&str> {
    let text = text.trim_end().trim_end_matches('.');
    let name_at = |at: usize| Some(&text[at..]).filter(|name| name.len() <= MAX_UNIT).map(plain);
    let set_as_text =
        ["\\text", "\\mathrm", "\\mbox"].into_iter().filter_map(|mark| text.rfind(mark));
    let behind = ["$", r"\)"].into_iter().filter_map(|mark| Some(text.rfind(mark)? + mark.len()));
    let at = set_as_text.chain(behind).max();
    if let Some(at) = at.filter(|at| name_at(*at).is_some_and(|name| is_unit(&name))) {
        return Some(&text[..at]);
    }
    // A single letter may be a variable.
    let is_word = |name: &String| name.chars().count() > 1 && is_unit(name);
    let spaces = text.rmatch_indices(char::is_whitespace).map(|(at, _)| at).take(MAX_UNIT_WORDS);
    let at = spaces.filter(|at| name_at(*at).as_ref().is_some_and(is_word)).last()?;
    let before = &text[..at];
    before.contains(|c: char| c.is_ascii_digit() || c == 'π').then_some(before)
}

/// Whether text is a known unit, or one of a figure without a scale: `square units`.
fn is_unit(name: &str) -> bool {
    let bare = name.trim_end_matches(|c: char| "^()23 ".contains(c));
    let kind = bare.strip_suffix("units").or_else(|| bare.strip_suffix("unit"));
    unit(name).is_some()
        || kind.is_some_and(|kind| ["", "square", "cubic", "sq", "sq."].contains(&kind.trim()))
}

fn plain(text: &str) -> String {
    let plain = plain_unicode(&without_latex(text));
    let mut bare = plain.trim().trim_end_matches(['.', ';']).trim();
    // What only begins with `$` is money.
    while let Some(inside) = bare.strip_prefix('$').and_then(|rest| rest.strip_suffix('$')) {
        bare = inside.trim();
    }
    bare.split_whitespace().collect::<Vec<_>>().join(" ")
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
            (r"\frac{1\pm\sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}", true),
            (r"\frac{1\pm\sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{3}", false),
            (r"\pm 1, \pm 2", "1, -1, 2, -2", true),
            (r"x = \pm 1, x = \pm 2", "-2, -1, 1, 2", true),
            (r"\pm 1, \pm 2", "1, -1, 2", false),
            (r"\pm 1", "1", false),
            ("x < 3", r"(-\infty, 3)", true),
            (r"x \ge 3", r"[3, \infty)", true),
            (r"x \ge 3", r"(3, \infty)", false),
            ("3 > x", "x < 3", true),
            ("x > 3", "x < 3", false),
            ("y < 3", "x < 3", false),
            ("x <= 3", r"x \le 3", true),
            (r"x < -1 \text{ or } x > 1", r"(-\infty, -1) \cup (1, \infty)", true),
            (r"2, 3, \text{ and } 5", "2, 3, 5", true),
            (r"x\sqrt{2}", r"\sqrt{2}x", true),
            (r"\frac{1}{2x}", r"\frac{x}{2}", false),
            (r"\frac{1}{2x}", r"\frac{x^{-1}}{2}", true),
            (r"\frac{3}{4\pi}", r"\frac{3\pi}{4}", false),
            (r"\frac{b}{a}x", r"\frac{b}{ax}", false),
            (r"\frac{b}{a}x", r"\frac{bx}{a}", true),
            (r"x\frac{1}{2}", r"\frac{x}{2}", true),
            (r"\frac{1}{2}\frac{1}{3}", r"\frac16", true),
            (r"2^\frac{1}{2}", r"\sqrt{2}", true),
            (r"\pi r^2h", r"\pi hr^2", true),
            (r"\sin x\cos x", r"\frac12\sin 2x", true),
            (r"0.1\overline{6}", r"\frac{1}{6}", true),
            (r"\frac13", r"0.\overline{3}", true),
            ("0.3", r"0.\overline{3}", false),
            ("xy^2", "x^2y^2", false),
            ("4yx^3", "4x^3y", true),
            (r"\theta = \frac{\pi}{3}", r"\frac{\pi}{3}", true),
            (r"\theta = \frac{\pi}{3}", r"\phi = \frac{\pi}{3}", false),
            (r"\boxed{a_{10} = 2\sqrt{2}}", r"2\sqrt{2}", true),
            (r"\boxed{\sin(x) = 2\sqrt{2}}", r"2\sqrt{2}", false),
            (r"x\cos x", r"\cos(x) \cdot x", true),
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

    #[test]
    fn a_result_may_have_an_approximation_a_unit_or_words_around_it() {
        for (answer, gold, is_same) in [
            (r"\boxed{\dfrac{9}{19}\approx 0.474}", r"\frac{9}{19}", true),
            (r"\boxed{12\pi \approx 37.7}", r"12\pi", true),
            (r"\boxed{2\sqrt{3} \approx 3.46}", r"2\sqrt{3}", true),
            (r"The answer is $\frac{9}{19} \approx 0.474$.", r"\frac{9}{19}", true),
            ("x = 12π ≈ 37.7", r"12\pi", true),
            (r"\boxed{12\pi \approx 37.7}", r"13\pi", false),
            (r"\boxed{\pi \approx 12}", r"12\pi", false),
            (r"\boxed{x \approx 5}", "5x", false),
            (r"\boxed{12\pi\text{ cm}^2}", r"12\pi", true),
            (r"\boxed{12\pi\,\mathrm{m}}", r"12\pi", true),
            (r"$12\pi$ square units", r"12\pi", true),
            (r"Therefore, it covers \(12\pi\) square units.", r"12\pi", true),
            ("The area is 12π cm².", r"12\pi", true),
            (r"\boxed{12\pi\text{ cm}^2 \approx 37.7\text{ cm}^2}", r"12\pi", true),
            (r"\boxed{12\pi\text{ cm}^2}", r"12\pi\text{ m}^2", false),
            (r"\boxed{12\pi\text{ cm}^2}", r"12\pi^2", false),
            (r"\boxed{12\pi\text{ and }5}", r"12\pi", false),
            (r"\boxed{12\pi m}", r"12\pi", false),
            (r"12\pi", r"12\pi\text{ feet}^2", true),
            (r"13\pi", r"12\pi\text{ feet}^2", false),
            (r"12\pi\text{ square feet}", r"12\pi\text{ inches}^2", false),
            (r"\boxed{\frac{5}{8}\text{ feet}^2}", r"\frac58", true),
            ("864", r"864 \mbox{ inches}^2", true),
            (r"\boxed{864\text{ square inches}}", r"864 \mbox{ inches}^2", true),
            (r"\boxed{864 \mbox{ inches}^2}", "864", true),
            (r"\boxed{864\text{ feet}^2}", r"864\text{ inches}^2", false),
            (r"\boxed{24\text{ units}^2}", "24", true),
            ("24", r"24\text{ units}^2", true),
            (r"$12\pi$ square roots", r"12\pi", false),
            ("Monday night", "Monday", false),
            ("Therefore the polynomial is\n\\[ x^2+1 \\]", "x^2+1", true),
            ("Therefore the polynomial is\n$$x^2+1.$$", "x^2+1", true),
            (r"so it becomes \(x^2+1\).", "x^2+1", true),
            ("Therefore the polynomial is\n\\[ x^2+1 \\]", "x^2+2", false),
            ("\\[ x^2+1 \\]\nis not the polynomial", "x^2+1", false),
            ("$x=-2$ or $x=1$", "-2,1", true),
            ("Therefore $x=-2$ or $x=1$.", "-2,1", true),
            (r"Therefore \(x=-2\) or \(x=1\).", "-2,1", true),
            ("$x=-2$ or $x=1$", "1", false),
            ("$x = -2$ and $x = 1$", "-2,1", true),
            ("The roots are $x = -2$ and $x = 1$.", "-2,1", true),
            ("$x=-2$ or $x=2$", "-2,1", false),
            (r"\boxed{-2 \le x \le 7}", "[-2,7]", true),
            (r"\boxed{-2 < x \leq 7}", "(-2,7]", true),
            ("7 >= x > -2", "(-2,7]", true),
            (r"\boxed{-2 \le x \le 7}", r"x \in [-2,7]", true),
            (r"\boxed{-2 \le x \le 7}", "(-2,7)", false),
            (r"\boxed{-2 \le x \ge 7}", "[-2,7]", false),
            (r"\boxed{-2 \le x \le 8}", "[-2,7]", false),
            (r"\boxed{-2 \le x+1 \le 7}", "[-2,7]", false),
        ] {
            assert_eq!(same(answer, gold), is_same, "{answer} {gold}");
        }
    }
}
