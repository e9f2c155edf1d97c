//! Numbers as people write them, compared exactly.

use std::fmt;

use super::latex::without_latex;
use super::plain::{boxed, plain_unicode};
use super::scanner::Scanner;
use super::spelled::spelled;
use super::unit::{Unit, is_name, unit};
use super::words::is_counted;

/// A number read from text: a reduced fraction, and the percent sign or unit that stood with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    pub(super) numerator: i128,
    /// Positive, without a divisor in common with the numerator.
    pub(super) denominator: i128,
    pub(super) percent: bool,
    pub(super) unit: Option<Unit>,
}

impl Number {
    /// Reads a text that is a number and nothing else: `-3`, `1,000`, `$5.60`, `50%`, `3/4`,
    /// `2 1/2`, `\frac{3}{4}`, `1.5e3`, `1.5 × 10^3`, `10^6`, `5 million`, `\boxed{7}`. `None` for
    /// anything else, also for numbers of more digits than fit 128 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, rest) = whole(text)?;
        rest.is_empty().then_some(number)
    }

    /// Reads a gold: a number, alone or with a unit that is known or set as text in LaTeX, such as
    /// `72 km`, `18\text{ apples}` and `18\text{ units}^2`.
    pub fn parse_with_unit(text: &str) -> Option<Self> {
        let (number, rest) = whole(text)?;
        let known = unit(&rest).filter(|_| !is_name(&rest));
        let is_text = || {
            ["\\text", "\\mathrm", "\\mbox"].iter().any(|mark| text.contains(mark))
                && is_counted(rest.trim_end_matches(|c: char| "^()23 ".contains(c)))
        };
        let is_unit = rest.is_empty() || known.is_some() || is_text();
        is_unit.then_some(Self { unit: number.unit.or(known), ..number })
    }

    /// Reads a gold that is known to be a number: also with what is counted, `5 people`.
    pub(super) fn parse_with_words(text: &str) -> Option<Self> {
        Self::parse_with_unit(text).or_else(|| {
            let (number, rest) = whole(text)?;
            is_counted(&rest).then_some(number)
        })
    }

    /// The number that a text gives as its answer: of the last `\boxed{…}` where there is one, else
    /// of the text itself, the last number in it. Of "x = 42 km." it is 42. `None` where what
    /// comes last is a part of something else: a sum, a range, a date, a list, an inequality, the
    /// argument of a function, a multiple of a variable. In a text without digits it may be in
    /// words: "It is forty-two."
    pub fn find(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| {
            let content = plain(boxed(text).unwrap_or(text));
            Scanner::new(&content).last().or_else(|| Self::in_words(&content))
        })
    }

    /// The number that a text without digits is in words, or ends with behind `is` and its like.
    fn in_words(text: &str) -> Option<Self> {
        if text.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let ends = [" is ", " are ", ": ", "= "].map(|mark| Some(text.rfind(mark)? + mark.len()));
        let tail = ends.into_iter().flatten().max().map(|at| &text[at..]);
        let is_around = |c: char| c.is_whitespace() || ".,!*_\"'()$".contains(c);
        let mut parts = [Some(text), tail].into_iter().flatten();
        let (numerator, unit) = parts.find_map(|part| spelled(part.trim_matches(is_around)))?;
        Some(Self { numerator, denominator: 1, percent: false, unit })
    }

    /// The same, but a box must hold one number and at most words beside it.
    pub(super) fn find_in_words(text: &str) -> Option<Self> {
        let Some(content) = boxed(text) else { return Self::find(text) };
        let is_mathematics =
            |content: &str| content.contains(|c: char| "<>≤≥≠≡∈±∪∩∞|_!⟦⟬⌊⌈{}[]".contains(c));
        Self::parse(text).or_else(|| {
            let content = plain(content);
            match is_mathematics(&content) {
                true => None,
                false => Scanner::new(&content).only().or_else(|| Self::in_words(&content)),
            }
        })
    }

    /// Whether both are one number. A percent sign may be missing on either side, or be written
    /// out: 50% is 50, and it is 0.5. So may a unit, but 5 km is not 5 m.
    pub fn same(self, other: Self) -> bool {
        if let (Some(own), Some(others)) = (self.unit, other.unit)
            && own != others
        {
            return false;
        }
        let equal = |a: Self, b: Self| (a.numerator, a.denominator) == (b.numerator, b.denominator);
        equal(self, other)
            || match (self.percent, other.percent) {
                (true, false) => self.hundredth().is_some_and(|part| equal(part, other)),
                (false, true) => other.hundredth().is_some_and(|part| equal(self, part)),
                _ => false,
            }
    }

    fn hundredth(self) -> Option<Self> {
        let (numerator, denominator) = reduced(self.numerator, self.denominator.checked_mul(100)?)?;
        Some(Self { numerator, denominator, percent: false, unit: self.unit })
    }
}

/// The reduced fraction, the same text for the same number: `-3`, `28/5`, `50%`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.numerator)?;
        if self.denominator != 1 {
            write!(f, "/{}", self.denominator)?;
        }
        f.write_str(if self.percent { "%" } else { "" })
    }
}

fn plain(text: &str) -> String {
    plain_unicode(&without_latex(text))
}

/// The number that a text begins with, and the rest of it.
fn whole(text: &str) -> Option<(Number, String)> {
    let plain = plain(boxed(text).unwrap_or(text));
    let trimmed = plain.trim();
    let bare = match trimmed.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) if !inner.contains(['(', ')', ',']) => inner.trim(),
        _ => trimmed,
    };
    let mut scanner = Scanner::new(bare);
    let number = scanner.number()?;
    let rest = scanner.rest().trim().to_owned();
    Some((number, rest))
}

/// The same fraction without a common divisor, its denominator positive; `None` for a zero below.
pub(super) fn reduced(numerator: i128, denominator: i128) -> Option<(i128, i128)> {
    if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
        return None;
    }
    let (numerator, denominator) = match denominator < 0 {
        true => (-numerator, -denominator),
        false => (numerator, denominator),
    };
    let divisor = gcd(numerator.abs(), denominator).max(1);
    Some((numerator / divisor, denominator / divisor))
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, numerator, denominator) in [
            ("42", 42, 1),
            (" 42 ", 42, 1),
            ("-3", -3, 1),
            ("+3", 3, 1),
            ("−3", -3, 1),
            ("1,000", 1000, 1),
            ("1,234,567.50", 2_469_135, 2),
            ("$5.60", 28, 5),
            ("-$5.60", -28, 5),
            ("$-5.60", -28, 5),
            ("5.60€", 28, 5),
            ("$5.60$", 28, 5),
            (".5", 1, 2),
            ("5.", 5, 1),
            ("007", 7, 1),
            ("-0", 0, 1),
            ("3/4", 3, 4),
            ("-6/8", -3, 4),
            ("1.5/2", 3, 4),
            ("\\frac{3}{4}", 3, 4),
            ("-\\dfrac{3}{4}", -3, 4),
            ("1.5e3", 1500, 1),
            ("2E-2", 1, 50),
            ("\\boxed{7}", 7, 1),
            ("$\\boxed{\\frac{1}{2}}$", 1, 2),
            ("1{,}000", 1000, 1),
            ("\\$5", 5, 1),
            ("1 000", 1000, 1),
            ("1’000", 1000, 1),
            ("-(3/4)", -3, 4),
            (r"-\left(\frac{3}{4}\right)", -3, 4),
            (r"$\frac{-3}{4}$", -3, 4),
            ("10⁶", 1_000_000, 1),
            ("3×10⁸", 300_000_000, 1),
            ("2^10", 1024, 1),
            ("10^{-3}", 1, 1000),
            ("5 million", 5_000_000, 1),
            ("$1.5 billion", 1_500_000_000, 1),
            ("$3M", 3_000_000, 1),
            ("5k", 5000, 1),
            ("3 dozen", 36, 1),
            ("5 hundred thousand", 500_000, 1),
            ("5 and a half", 11, 2),
            ("2 and 1/2", 5, 2),
            ("٣", 3, 1),
            ("١٬٢٣٤٫٥", 2469, 2),
            ("5万", 50_000, 1),
            ("12345678901234567891", 12_345_678_901_234_567_891, 1),
        ] {
            let number = Number::parse(text);
            let found = number.map(|n| (n.numerator, n.denominator, n.percent));
            assert_eq!(found, Some((numerator, denominator, false)), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_taken_for_one() {
        for text in [
            "",
            "-",
            ".",
            "$",
            "%",
            "seven",
            "1,00",
            "1,0000",
            ",000",
            "1000,000",
            "1,000,00",
            "1.2.3",
            "1/0",
            "1/",
            "/2",
            "1/2/3",
            "5 apples",
            "--5",
            "-$-5",
            "e5",
            "1e",
            "1e99",
            "0x10",
            "5-3",
            "5!",
            "5 tenths",
            "5 M",
            "5^6^7",
            "99999999999999999999999999999999999999999",
            "1 0000",
            "\\frac{1}",
            "NaN",
            "inf",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn percent_may_be_left_out_or_written_out() {
        for (a, b, same) in [
            ("50%", "50", true),
            ("50", "50%", true),
            ("50%", "0.5", true),
            ("1/2", "50 %", true),
            ("50%", "50\\%", true),
            ("50 percent", "0.5", true),
            ("50 per cent", "50%", true),
            ("-50%", "-0.5", true),
            ("50%", "0.5%", false),
            ("50", "0.5", false),
            ("1/3", "0.333", false),
            ("5.6", "56", false),
            ("-3", "3", false),
            ("12345678901234567890", "12345678901234567891", false),
        ] {
            let (a, b) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
            assert_eq!(a.same(b), same, "{a:?} {b:?}");
            assert_eq!(b.same(a), same, "{b:?} {a:?}");
        }
    }

    #[test]
    fn the_number_of_an_answer_is_found_in_its_text() {
        for (text, found) in [
            ("The answer is 42.", Some("42")),
            ("x = -3", Some("-3")),
            ("x=-3", Some("-3")),
            ("42 km", Some("42")),
            ("42km", Some("42")),
            ("**42**", Some("42")),
            ("(1/2)", Some("1/2")),
            ("It costs $1,200.50, plus tax", Some("1200.5")),
            ("First 3, then 5", Some("5")),
            ("\\boxed{7} of 9", Some("7")),
            ("\\boxed{7}, no, \\boxed{8}", Some("8")),
            ("\\boxed{7 \\text{ km}}", Some("7")),
            ("around 50%", Some("50%")),
            ("The answer is 5 apples.", Some("5")),
            ("so (since 3+2=5) it is 5", Some("5")),
            ("May 5, 2024", Some("2024")),
            ("The answer is minus 5.", Some("-5")),
            ("negative 5", Some("-5")),
            ("x = -(5)", Some("-5")),
            ("x = -(50%)", None),
            ("It is 8 minus 5", None),
            ("5 million", Some("5000000")),
            ("about 5 thousand dollars", Some("5000")),
            ("5 thousand 200", None),
            ("sqrt(5)", None),
            ("2sqrt(5)", None),
            ("log(100)", None),
            ("ln 5", None),
            ("f(5)", None),
            ("P(X=5)", None),
            ("5pi", None),
            ("5 pi", None),
            ("5xy", None),
            ("5!", None),
            ("It is 5!", Some("5")),
            ("(3, 5)", None),
            ("[0, 5]", None),
            ("the roots are 3, 5", None),
            ("5 or 10", None),
            ("x = 3 or x = 5", None),
            ("±5", None),
            ("x > 5", None),
            ("x >= 5", None),
            ("x ≠ 5", None),
            ("1 < x < 2", None),
            ("x -> 5", Some("5")),
            ("<b>5</b>", Some("5")),
            ("x^2 = 5", None),
            ("2x = 5", None),
            ("x + 2 = 5", None),
            ("x = 5", Some("5")),
            ("3 + 2 = 5", Some("5")),
            ("f(x) = 5", Some("5")),
            ("5 tenths", None),
            ("5‰", None),
            ("5 squared", None),
            ("|-5|", None),
            ("5_10", None),
            ("log_2 5", None),
            ("none at all", None),
            ("five", Some("5")),
            ("It is **forty-two**.", Some("42")),
            ("Answer: one hundred and five", Some("105")),
            (r"\boxed{\text{five}}", Some("5")),
            ("five apples", Some("5")),
            ("It is not five.", None),
            ("It is five or six.", None),
            ("It is one of them.", None),
            ("40 to 42", None),
            ("It is 40 to 42.", None),
            ("It rose from 40 to 42.", Some("42")),
            ("It rose by 40 to 42.", Some("42")),
            ("It is less than 42.", None),
            ("It is 41 rather than 42.", None),
            ("It is no more than 42.", Some("42")),
            ("", None),
        ] {
            let given = Number::find(text).map(|number| number.to_string());
            assert_eq!(given, found.and_then(Number::parse).map(|n| n.to_string()), "{text}");
        }
    }
}
