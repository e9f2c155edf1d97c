//! Numbers as people write them, compared exactly.

use std::fmt;

/// A number read from text: a reduced fraction, and whether a percent sign stood behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    numerator: i128,
    /// Positive, without a divisor in common with the numerator.
    denominator: i128,
    percent: bool,
}

const CURRENCIES: [char; 4] = ['$', '€', '£', '¥'];
/// Digits behind the point, or powers of ten, beyond which a text is not taken for a number.
const MAX_SCALE: u32 = 30;

impl Number {
    /// Reads a text that is a number and nothing else: `-3`, `1,000`, `$5.60`, `50%`, `3/4`,
    /// `\frac{3}{4}`, `1.5e3`, `\boxed{7}`. `None` for anything else, also for numbers of more
    /// digits than fit 128 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = plain(text);
        let (sign, rest) = split_sign(plain.trim());
        let rest = rest.trim_start_matches(CURRENCIES).trim();
        let (inner_sign, rest) = if sign.is_some() { (None, rest) } else { split_sign(rest) };
        let rest = rest.trim_end_matches(CURRENCIES).trim_end();
        let (rest, percent) = match rest.strip_suffix('%') {
            Some(rest) => (rest.trim_end(), true),
            None => (rest, false),
        };
        let (numerator, denominator) = match rest.split_once('/') {
            Some((over, under)) => {
                let (over, under) = (decimal(over.trim())?, decimal(under.trim())?);
                (over.0.checked_mul(under.1)?, over.1.checked_mul(under.0)?)
            }
            None => decimal(rest)?,
        };
        if denominator == 0 {
            return None;
        }
        let negative = sign.or(inner_sign) == Some('-');
        let divisor = gcd(numerator, denominator).max(1);
        Some(Self {
            numerator: if negative { -numerator } else { numerator } / divisor,
            denominator: denominator / divisor,
            percent,
        })
    }

    /// The number that a text gives as its answer: the last `\boxed{…}` where there is one, else
    /// the text itself, else the last number in it. Of "x = 42 km." it is 42.
    pub fn find(text: &str) -> Option<Self> {
        if let Some(content) = boxed(text) {
            return Self::parse(content).or_else(|| Self::last_in(content));
        }
        Self::parse(text).or_else(|| Self::last_in(text))
    }

    fn last_in(text: &str) -> Option<Self> {
        text.rsplit(|c: char| c.is_whitespace() || c == '=').find_map(|word| {
            let word = word.trim_matches(|c: char| {
                !c.is_alphanumeric() && !"-−+.%\\{}".contains(c) && !CURRENCIES.contains(&c)
            });
            let word = word.trim_end_matches('.');
            Self::parse(word).or_else(|| Self::parse(word.trim_end_matches(char::is_alphabetic)))
        })
    }

    /// Whether both are one number. A percent sign may be missing on either side, or be written
    /// out: 50% is 50, and it is 0.5.
    pub fn same(self, other: Self) -> bool {
        let equal = |a: Self, b: Self| (a.numerator, a.denominator) == (b.numerator, b.denominator);
        equal(self, other)
            || match (self.percent, other.percent) {
                (true, false) => self.hundredth().is_some_and(|part| equal(part, other)),
                (false, true) => other.hundredth().is_some_and(|part| equal(self, part)),
                _ => false,
            }
    }

    fn hundredth(self) -> Option<Self> {
        let denominator = self.denominator.checked_mul(100)?;
        let divisor = gcd(self.numerator.abs(), denominator).max(1);
        Some(Self {
            numerator: self.numerator / divisor,
            denominator: denominator / divisor,
            percent: false,
        })
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

/// What stands in the last `\boxed{…}`.
pub(super) fn boxed(text: &str) -> Option<&str> {
    const OPEN: &str = "\\boxed{";
    let content = &text[text.rfind(OPEN)? + OPEN.len()..];
    let mut depth = 1;
    for (at, c) in content.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(content[..at].trim());
        }
    }
    None
}

/// The text without the mark-up that numbers are set in.
fn plain(text: &str) -> String {
    let text = boxed(text).unwrap_or(text).trim();
    let text = text.replace("{,}", ",").replace(['\u{2212}', '\u{2013}'], "-");
    let mut text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac");
    for mark in ["\\(", "\\)", "\\[", "\\]", "\\,", "\\!", "\\ "] {
        text = text.replace(mark, "");
    }
    text = text.replace("\\$", "$").replace("\\%", "%").replace(['\u{a0}', '\u{202f}'], "");
    let fraction = text.split_once("\\frac{").and_then(|(before, rest)| {
        let (over, rest) = rest.split_once("}{")?;
        let (under, after) = rest.split_once('}')?;
        Some(format!("{before}{over}/{under}{after}"))
    });
    fraction.unwrap_or(text)
}

fn split_sign(text: &str) -> (Option<char>, &str) {
    match text.chars().next() {
        Some(sign @ ('-' | '+')) => (Some(sign), text[1..].trim_start()),
        _ => (None, text),
    }
}

/// Unsigned digits with thousands separators, a point and a power of ten, as numerator and
/// denominator.
fn decimal(text: &str) -> Option<(i128, i128)> {
    let (mantissa, power) = match text.split_once(['e', 'E']) {
        Some((mantissa, power)) => (mantissa, power.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = without_separators(whole)?;
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let digits = whole + part;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: i128 = digits.parse().ok()?;
    let scale = i32::try_from(part.len()).ok()?.checked_sub(power)?;
    if scale.unsigned_abs() > MAX_SCALE {
        return None;
    }
    let factor = 10_i128.pow(scale.unsigned_abs());
    if scale >= 0 { Some((value, factor)) } else { Some((value.checked_mul(factor)?, 1)) }
}

/// The digits of `1,000,000`; `None` where a comma stands elsewhere than before three digits.
fn without_separators(whole: &str) -> Option<String> {
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let well_grouped = groups.clone().all(|group| group.len() == 3)
        && (groups.clone().next().is_none() || (1..=3).contains(&first.len()));
    well_grouped.then(|| whole.replace(',', ""))
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
            assert_eq!(Number::find(text), found.and_then(Number::parse), "{text}");
        }
    }
}
