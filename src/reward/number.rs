//! Numbers as people write them, compared exactly.

use std::fmt;

use super::plain::{boxed, plain_unicode, without_latex};
use super::unit::{Unit, unit};

/// A number read from text: a reduced fraction, and the percent sign or unit that stood with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    numerator: i128,
    /// Positive, without a divisor in common with the numerator.
    denominator: i128,
    percent: bool,
    unit: Option<Unit>,
}

/// Digits behind the point, or powers of ten, beyond which a text is not taken for a number.
const MAX_SCALE: u32 = 30;

impl Number {
    /// Reads a text that is a number and nothing else: `-3`, `1,000`, `$5.60`, `50%`, `3/4`,
    /// `2 1/2`, `\frac{3}{4}`, `1.5e3`, `1.5 × 10^3`, `\boxed{7}`. `None` for anything else, also
    /// for numbers of more digits than fit 128 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, rest) = whole(text)?;
        rest.is_empty().then_some(number)
    }

    /// Reads a gold: a number, alone or with a unit that is known or set as text in LaTeX, such as
    /// `72 km` and `18\text{ apples}`.
    pub fn parse_with_unit(text: &str) -> Option<Self> {
        let (number, rest) = whole(text)?;
        let is_unit = rest.is_empty()
            || unit(&rest).is_some()
            || (["\\text", "\\mathrm", "\\mbox"].iter().any(|mark| text.contains(mark))
                && !rest.contains(|c: char| c.is_ascii_digit() || "()=+*/^,".contains(c)));
        is_unit.then_some(Self { unit: number.unit.or_else(|| unit(&rest)), ..number })
    }

    /// The number that a text gives as its answer: of the last `\boxed{…}` where there is one, else
    /// of the text itself, the last number in it. Of "x = 42 km." it is 42. `None` where what
    /// comes last is a sum, a range, a date or a multiple of a variable.
    pub fn find(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| {
            let content = boxed(text).unwrap_or(text);
            Scanner::new(&plain(content)).last()
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

    /// The nearest binary fraction.
    pub(super) fn as_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64 / if self.percent { 100.0 } else { 1.0 }
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
    let rest: String = scanner.characters[scanner.at..].iter().collect();
    Some((number, rest.trim().to_owned()))
}

/// Reads numbers in plain text.
struct Scanner {
    characters: Vec<char>,
    at: usize,
}

impl Scanner {
    fn new(text: &str) -> Self {
        Self { characters: text.chars().collect(), at: 0 }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn before(&self, at: usize) -> Option<char> {
        self.characters.get(at.checked_sub(1)?).copied()
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> bool {
        let found = self.peek(0).is_some_and(wanted);
        self.at += usize::from(found);
        found
    }

    fn spaces(&mut self) {
        while self.take(char::is_whitespace) {}
    }

    fn digits(&mut self) -> String {
        let begin = self.at;
        while self.take(|c| c.is_ascii_digit()) {}
        self.characters[begin..self.at].iter().collect()
    }

    /// Reads what `read` does, or stays.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let begin = self.at;
        let found = read(self);
        if found.is_none() {
            self.at = begin;
        }
        found
    }

    /// A number with its sign, currency and percent sign.
    fn number(&mut self) -> Option<Number> {
        let sign = self.sign();
        let before = self.currency();
        let inner = if sign.is_none() { self.sign() } else { None };
        let (numerator, denominator) = self.magnitude()?;
        let after = self.attempt(|scanner| {
            scanner.spaces();
            scanner.currency()
        });
        let percent = self.attempt(|scanner| {
            scanner.spaces();
            scanner.take(|c| c == '%').then_some(())
        });
        self.attempt(|scanner| scanner.take(|c| c == '°').then_some(()));
        // `$5.60$` is set in mathematics, not in dollars.
        let currency = match (before, after) {
            (Some(a), Some(b)) if a == b => None,
            (before, after) => before.or(after),
        };
        let is_negative = sign.or(inner) == Some('-');
        Some(Number {
            numerator: if is_negative { -numerator } else { numerator },
            denominator,
            percent: percent.is_some(),
            unit: currency,
        })
    }

    fn sign(&mut self) -> Option<char> {
        let sign = self.peek(0).filter(|c| matches!(c, '-' | '+'))?;
        self.at += 1;
        self.spaces();
        Some(sign)
    }

    /// `$`, `US$`, `€`.
    fn currency(&mut self) -> Option<Unit> {
        let mark = self.attempt(|scanner| {
            for _ in 0..3 {
                scanner.take(|c| c.is_ascii_uppercase());
            }
            scanner.peek(0).filter(|c| matches!(c, '$' | '€' | '£' | '¥')).inspect(|_| {
                scanner.at += 1;
            })
        })?;
        self.spaces();
        unit(&mark.to_string())
    }

    /// An unsigned number as a reduced fraction: decimal, mixed, of two numbers, times a power of
    /// ten.
    fn magnitude(&mut self) -> Option<(i128, i128)> {
        let first = self.part()?;
        if first.1 == 1
            && let Some((over, under)) = self.attempt(Self::fraction_part)
        {
            // `2 1/2`.
            let sum = first.0.checked_mul(under)?.checked_add(over)?;
            return reduced(sum, under);
        }
        let over = self.attempt(|scanner| {
            scanner.spaces();
            scanner.take(|c| c == '/').then_some(())?;
            scanner.spaces();
            scanner.part()
        });
        if let Some(under) = over {
            return reduced(first.0.checked_mul(under.1)?, first.1.checked_mul(under.0)?);
        }
        let power = self.attempt(Self::power_of_ten);
        match power {
            Some(power) => scaled(first, power),
            None => reduced(first.0, first.1),
        }
    }

    /// ` 1/2` behind a whole number.
    fn fraction_part(&mut self) -> Option<(i128, i128)> {
        self.take(char::is_whitespace).then_some(())?;
        self.spaces();
        let over: i128 = self.digits().parse().ok()?;
        self.take(|c| c == '/').then_some(())?;
        let under: i128 = self.digits().parse().ok()?;
        let is_part = under != 0 && over < under && !self.continues();
        is_part.then_some((over, under))
    }

    /// ` × 10^3`.
    fn power_of_ten(&mut self) -> Option<i32> {
        self.spaces();
        self.take(|c| c == '*' || c == 'x').then_some(())?;
        self.spaces();
        (self.digits() == "10" && self.take(|c| c == '^')).then_some(())?;
        let is_bracketed = self.take(|c| c == '(');
        let sign = if self.take(|c| c == '-') { -1 } else { 1 };
        let power: i32 = self.digits().parse().ok()?;
        if is_bracketed && !self.take(|c| c == ')') {
            return None;
        }
        Some(sign * power)
    }

    /// Unsigned digits with thousands separators, a point and a power of ten, perhaps in
    /// parentheses with a sign.
    fn part(&mut self) -> Option<(i128, i128)> {
        let bracketed = self.attempt(|scanner| {
            scanner.take(|c| c == '(').then_some(())?;
            let is_negative = scanner.sign() == Some('-');
            let (over, under) = scanner.decimal()?;
            scanner.take(|c| c == ')').then_some((if is_negative { -over } else { over }, under))
        });
        bracketed.or_else(|| self.attempt(Self::decimal))
    }

    fn decimal(&mut self) -> Option<(i128, i128)> {
        let mut whole = self.digits();
        let first = whole.len();
        let mut groups = 0;
        while self.peek(0) == Some(',') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            let group = self.digits();
            if group.len() != 3 {
                return None;
            }
            whole += &group;
            groups += 1;
        }
        if groups > 0 && !(1..=3).contains(&first) {
            return None;
        }
        let has_point = self.peek(0) == Some('.')
            && (self.peek(1).is_some_and(|c| c.is_ascii_digit()) || !whole.is_empty());
        let mut part = String::new();
        if has_point {
            self.at += 1;
            part = self.digits();
        }
        if whole.is_empty() && part.is_empty() || self.continues() {
            return None;
        }
        let power = self.attempt(|scanner| {
            scanner.take(|c| c == 'e' || c == 'E').then_some(())?;
            let sign = match scanner.sign() {
                Some('-') => -1,
                _ => 1,
            };
            Some(sign * scanner.digits().parse::<i32>().ok()?)
        });
        let value: i128 = (whole + &part).parse().ok()?;
        let scale = i32::try_from(part.len()).ok()?;
        scaled((value, 1), power.unwrap_or(0).checked_sub(scale)?)
    }

    /// Whether more of the same stands behind a number: `1.2.3`, `3,14`.
    fn continues(&self) -> bool {
        matches!(self.peek(0), Some('.' | ',')) && self.peek(1).is_some_and(|c| c.is_ascii_digit())
    }

    /// The last number, if what comes last is one.
    fn last(&mut self) -> Option<Number> {
        let mut last = None;
        while self.at < self.characters.len() {
            let begin = self.at;
            let is_start = self.peek(0).is_some_and(|c| c.is_ascii_digit())
                || (self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()));
            if !is_start {
                self.at += 1;
                continue;
            }
            last = self.number_at(begin);
            if last.is_none() {
                // Past the rest of what is no number.
                let is_rest = |c: char| c.is_alphanumeric() || ".,/-:*^+()".contains(c);
                self.at = self.at.max(begin);
                while self.take(is_rest) {}
                self.at = self.at.max(begin + 1);
            }
        }
        last
    }

    /// The number whose first digit is here, with what stands around it.
    fn number_at(&mut self, begin: usize) -> Option<Number> {
        let mut start = begin;
        let mut unit_before = None;
        if self.before(start).is_some_and(|c| matches!(c, '$' | '€' | '£' | '¥')) {
            start -= 1;
            unit_before = unit(&self.characters[start].to_string());
            while self.before(start).is_some_and(|c| c.is_ascii_uppercase()) {
                start -= 1;
            }
        }
        let sign = self.sign_before(start)?;
        let mut number = self.number()?;
        number.unit = number.unit.or(unit_before);
        if number.numerator == i128::MIN {
            return None;
        }
        number.numerator *= sign;
        self.is_alone(&mut number).then_some(number)
    }

    /// 1 or -1 by what stands before a number; `None` where it is part of something else.
    fn sign_before(&self, start: usize) -> Option<i128> {
        match self.before(start) {
            Some('-') => match self.before(start - 1) {
                Some(c) if c.is_alphanumeric() || c == ')' || c == '-' => None,
                _ => Some(-1),
            },
            // Emphasis in Markdown.
            Some('*') if !self.is_factor(start) => Some(1),
            Some(c) if c.is_alphanumeric() || "_^*/+)".contains(c) => None,
            _ => {
                let mut at = start;
                while self.before(at).is_some_and(char::is_whitespace) {
                    at -= 1;
                }
                let is_operand =
                    |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == ')' || c == '%');
                let mut earlier = at.saturating_sub(1);
                while self.before(earlier).is_some_and(char::is_whitespace) {
                    earlier -= 1;
                }
                match self.before(at) {
                    Some('*' | '/' | '^' | '+') => None,
                    Some('-') if is_operand(self.before(earlier)) => None,
                    // `x = - 3`; after a word it is a dash.
                    Some('-') if matches!(self.before(earlier), Some('=' | ':' | '(') | None) => {
                        Some(-1)
                    }
                    _ => Some(1),
                }
            }
        }
    }

    /// Whether an operand stands before the stars that end here.
    fn is_factor(&self, start: usize) -> bool {
        let mut at = start;
        while self.before(at) == Some('*') {
            at -= 1;
        }
        self.before(at).is_some_and(|c| c.is_alphanumeric() || c == ')')
    }

    /// Whether no operator, variable or further part follows; takes the unit that does.
    fn is_alone(&mut self, number: &mut Number) -> bool {
        if self.continues() {
            return false;
        }
        let is_adjacent = self.peek(0).is_some_and(char::is_alphabetic);
        let begin = self.at;
        self.spaces();
        let word_at = self.at;
        while self.take(|c| c.is_alphabetic() || c == '°') {}
        let word: String = self.characters[word_at..self.at].iter().collect();
        if word.is_empty() {
            self.at = begin;
            return !self.is_operated(begin);
        }
        let power = self.attempt(|scanner| {
            scanner.take(|c| c == '^').then_some(())?;
            Some(scanner.digits()).filter(|digits| !digits.is_empty())
        });
        let name = format!("{word}{}", power.as_deref().unwrap_or_default());
        let known = unit(&name);
        number.unit = number.unit.or(known);
        // `2x` is no number, and `5x^2` is none.
        known.is_some() || (power.is_none() && !(is_adjacent && word.chars().count() == 1))
    }

    /// Whether an operator and an operand follow.
    fn is_operated(&self, at: usize) -> bool {
        let rest = &self.characters[at..];
        let spaces = rest.iter().take_while(|c| c.is_whitespace()).count();
        let starts_operand =
            |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || "($.\u{221a}".contains(*c));
        let mark = rest.get(spaces);
        let behind = &rest[(spaces + 1).min(rest.len())..];
        let gap = behind.iter().take_while(|c| c.is_whitespace()).count();
        match mark {
            // Digits that follow a space were no fraction: `2 3/2`.
            Some('(') => spaces == 0,
            Some('*') if behind.first() == Some(&'*') => false,
            Some('+' | '*' | '/' | '^' | '=') => {
                starts_operand(behind.get(gap)) && !(*mark.unwrap_or(&' ') == '=')
            }
            Some('-') => {
                let is_tight = spaces == 0 && gap == 0 && starts_operand(behind.first());
                let is_spaced = gap > 0
                    && spaces > 0
                    && behind.get(gap).is_some_and(|c| c.is_ascii_digit() || *c == '$');
                is_tight || is_spaced
            }
            Some(':') => spaces == 0 && behind.first().is_some_and(char::is_ascii_digit),
            _ => false,
        }
    }
}

fn scaled(number: (i128, i128), power: i32) -> Option<(i128, i128)> {
    if power.unsigned_abs() > MAX_SCALE {
        return None;
    }
    let factor = 10_i128.pow(power.unsigned_abs());
    match power >= 0 {
        true => reduced(number.0.checked_mul(factor)?, number.1),
        false => reduced(number.0, number.1.checked_mul(factor)?),
    }
}

/// The same fraction without a common divisor, its denominator positive; `None` for a zero below.
fn reduced(numerator: i128, denominator: i128) -> Option<(i128, i128)> {
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
            "٣",
            "5-3",
            "99999999999999999999999999999999999999999",
            "1 000",
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
            ("none at all", None),
            ("", None),
        ] {
            let given = Number::find(text).map(|number| number.to_string());
            assert_eq!(given, found.and_then(Number::parse).map(|n| n.to_string()), "{text}");
        }
    }
}
