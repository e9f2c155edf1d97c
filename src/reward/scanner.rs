//! Reads numbers in running text, and distinguishes those that are part of something else.

use super::number::{Number, reduced};
use super::unit::{Unit, unit};

/// Digits behind the point, or powers of ten, beyond which a text is not taken for a number.
const MAX_SCALE: u32 = 30;

/// Reads numbers in plain text.
pub(super) struct Scanner {
    characters: Vec<char>,
    at: usize,
}

impl Scanner {
    pub(super) fn new(text: &str) -> Self {
        Self { characters: text.chars().collect(), at: 0 }
    }

    /// What was not read.
    pub(super) fn rest(&self) -> String {
        self.characters[self.at..].iter().collect()
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
    pub(super) fn number(&mut self) -> Option<Number> {
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
    pub(super) fn last(&mut self) -> Option<Number> {
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
            Some('+' | '*' | '/' | '^') => starts_operand(behind.get(gap)),
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
