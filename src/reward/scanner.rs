//! Reads numbers as people write them.

use super::number::{Number, reduced};
use super::unit::{Unit, unit};
use super::words::multiplier;

/// Digits behind the point, or powers of ten, beyond which a text is not read as a number: what
/// fits 128 bits.
const MAX_SCALE: u32 = 38;
/// The greatest exponent that is computed.
const MAX_EXPONENT: u32 = 127;

/// Reads numbers in plain text.
pub(super) struct Scanner {
    pub(super) characters: Vec<char>,
    pub(super) at: usize,
}

impl Scanner {
    pub(super) fn new(text: &str) -> Self {
        Self { characters: text.chars().collect(), at: 0 }
    }

    /// What was not read.
    pub(super) fn rest(&self) -> String {
        self.characters[self.at..].iter().collect()
    }

    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    pub(super) fn before(&self, at: usize) -> Option<char> {
        self.characters.get(at.checked_sub(1)?).copied()
    }

    pub(super) fn take(&mut self, wanted: impl Fn(char) -> bool) -> bool {
        let found = self.peek(0).is_some_and(wanted);
        self.at += usize::from(found);
        found
    }

    pub(super) fn spaces(&mut self) {
        while self.take(char::is_whitespace) {}
    }

    pub(super) fn digits(&mut self) -> String {
        let begin = self.at;
        while self.take(|c| c.is_ascii_digit()) {}
        self.characters[begin..self.at].iter().collect()
    }

    /// A word as it is written.
    pub(super) fn word(&mut self) -> String {
        let begin = self.at;
        while self.take(char::is_alphabetic) {}
        self.characters[begin..self.at].iter().collect()
    }

    /// Spaces and then this word, in any case.
    fn takes_word(&mut self, wanted: &str) -> Option<()> {
        self.take(char::is_whitespace).then_some(())?;
        self.spaces();
        self.word().eq_ignore_ascii_case(wanted).then_some(())
    }

    /// Reads what `read` does, or stays.
    pub(super) fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let begin = self.at;
        let found = read(self);
        if found.is_none() {
            self.at = begin;
        }
        found
    }

    /// A number with its sign, currency, percent sign and words such as `million`.
    pub(super) fn number(&mut self) -> Option<Number> {
        let sign = self.sign();
        let before = self.currency();
        let inner = if sign.is_none() { self.sign() } else { None };
        let (numerator, denominator) = self.magnitude()?;
        let (numerator, denominator) =
            reduced(numerator.checked_mul(self.multipliers(before.is_some())?)?, denominator)?;
        let after = self.attempt(|scanner| {
            scanner.spaces();
            scanner.currency()
        });
        let percent = self.attempt(Self::percent);
        // An angle; in `20°C` the sign is part of the unit.
        if !self.peek(1).is_some_and(char::is_alphabetic) {
            self.take(|c| c == '°');
        }
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
            scanner.peek(0).filter(|c| matches!(c, '$' | '€' | '£' | '¥' | '₹')).inspect(|_| {
                scanner.at += 1;
            })
        })?;
        self.spaces();
        unit(&mark.to_string())
    }

    /// `%`, `percent`, `per cent`.
    fn percent(&mut self) -> Option<()> {
        self.spaces();
        if self.take(|c| c == '%') {
            return Some(());
        }
        match self.word().to_lowercase().as_str() {
            "percent" | "pct" => Some(()),
            "per" => self.takes_word("cent"),
            _ => None,
        }
    }

    /// The product of `hundred`, `million`, `k` and their like; 1 without any.
    fn multipliers(&mut self, is_money: bool) -> Option<i128> {
        let mut product = 1_i128;
        while let Some(factor) = self.attempt(|scanner| {
            let is_tight = !scanner.peek(0)?.is_whitespace();
            // Words behind it need no space: `5万元`.
            if is_tight && scanner.take(|c| "万萬만亿億억".contains(c)) {
                let name = scanner.characters[scanner.at - 1].to_string();
                return multiplier(&name, is_tight, is_money);
            }
            scanner.spaces();
            multiplier(&scanner.word(), is_tight, is_money)
        }) {
            product = product.checked_mul(factor)?;
        }
        Some(product)
    }

    /// A number without currency as a reduced fraction, perhaps in parentheses with its sign.
    fn magnitude(&mut self) -> Option<(i128, i128)> {
        let bracketed = self.attempt(|scanner| {
            let number = scanner.bracketed(Self::unsigned)?;
            // `(-3)/4` and `(-3)^2` are more.
            let spaces = scanner.characters[scanner.at..].iter().take_while(|c| **c == ' ').count();
            let is_part = matches!(scanner.peek(spaces), Some('/' | '^' | '*'));
            (!is_part).then_some(number)
        });
        bracketed.or_else(|| self.unsigned())
    }

    /// A number in parentheses, with its sign.
    fn bracketed(
        &mut self,
        read: impl FnOnce(&mut Self) -> Option<(i128, i128)>,
    ) -> Option<(i128, i128)> {
        self.take(|c| c == '(').then_some(())?;
        self.spaces();
        let is_negative = self.sign() == Some('-');
        let (over, under) = read(self)?;
        self.spaces();
        self.take(|c| c == ')').then_some((if is_negative { -over } else { over }, under))
    }

    /// An unsigned number as a reduced fraction: decimal, mixed, of two numbers, times a power of
    /// ten.
    fn unsigned(&mut self) -> Option<(i128, i128)> {
        let first = self.power()?;
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
            scanner.power()
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

    /// A part, perhaps with a whole exponent: `10^6`.
    fn power(&mut self) -> Option<(i128, i128)> {
        let base = self.part()?;
        let exponent = self.attempt(|scanner| {
            scanner.take(|c| c == '^').then_some(())?;
            let exponent = scanner.exponent()?;
            let is_more = scanner.peek(0).is_some_and(|c| c.is_ascii_digit() || "^.".contains(c));
            let is_end = scanner.peek(1).is_none_or(char::is_whitespace);
            (!is_more || (scanner.peek(0) == Some('.') && is_end)).then_some(exponent)
        });
        let Some(exponent) = exponent else { return Some(base) };
        let size = Some(exponent.unsigned_abs()).filter(|size| *size <= MAX_EXPONENT)?;
        let (over, under) = (base.0.checked_pow(size)?, base.1.checked_pow(size)?);
        if exponent < 0 { reduced(under, over) } else { reduced(over, under) }
    }

    /// `3`, `-3`, `(-3)`.
    pub(super) fn exponent(&mut self) -> Option<i32> {
        let is_bracketed = self.take(|c| c == '(');
        let sign = if self.take(|c| c == '-') { -1 } else { 1 };
        let power: i32 = self.digits().parse().ok()?;
        (!is_bracketed || self.take(|c| c == ')')).then_some(sign * power)
    }

    /// ` 1/2`, ` and 1/2` or ` and a half` behind a whole number.
    fn fraction_part(&mut self) -> Option<(i128, i128)> {
        let has_and = self.attempt(|scanner| scanner.takes_word("and")).is_some();
        self.take(char::is_whitespace).then_some(())?;
        self.spaces();
        if has_and && let Some(fraction) = self.attempt(Self::fraction_in_words) {
            return Some(fraction);
        }
        let over: i128 = self.digits().parse().ok()?;
        self.take(|c| c == '/').then_some(())?;
        let under: i128 = self.digits().parse().ok()?;
        let is_part = under != 0 && over < under && !self.continues();
        is_part.then_some((over, under))
    }

    /// `a half`, `one third`.
    fn fraction_in_words(&mut self) -> Option<(i128, i128)> {
        matches!(self.word().to_lowercase().as_str(), "a" | "one").then_some(())?;
        self.take(char::is_whitespace).then_some(())?;
        match self.word().to_lowercase().as_str() {
            "half" => Some((1, 2)),
            "third" => Some((1, 3)),
            "quarter" | "fourth" => Some((1, 4)),
            _ => None,
        }
    }

    /// ` × 10^3`.
    fn power_of_ten(&mut self) -> Option<i32> {
        self.spaces();
        self.take(|c| c == '*' || c == 'x').then_some(())?;
        self.spaces();
        (self.digits() == "10" && self.take(|c| c == '^')).then_some(())?;
        self.exponent()
    }

    /// Unsigned digits with thousands separators, a point and a power of ten, perhaps in
    /// parentheses with a sign.
    fn part(&mut self) -> Option<(i128, i128)> {
        self.attempt(|scanner| scanner.bracketed(Self::decimal))
            .or_else(|| self.attempt(Self::decimal))
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
    pub(super) fn continues(&self) -> bool {
        matches!(self.peek(0), Some('.' | ',')) && self.peek(1).is_some_and(|c| c.is_ascii_digit())
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
