//! Expressions with operators, functions and variables, compared by their values.

use std::f64::consts::{E, PI};

/// How deep parentheses may be.
const MAX_DEPTH: u32 = 64;
/// Beyond this, an `f64` has no digits after the point.
const MAX_VALUE: f64 = 1e15;
/// How many points variables are set to.
const POINTS: u32 = 6;

/// Whether two expressions have the same values wherever both have one. `None` where one of them
/// is no expression.
pub(super) fn same(a: &str, b: &str) -> Option<bool> {
    let mut compared = 0;
    for point in 0..POINTS {
        let (a, b) = (evaluate(a, point)?, evaluate(b, point)?);
        if !a.is_finite() || !b.is_finite() {
            // Outside of where one is defined, the other must not be either.
            if a.is_finite() != b.is_finite() {
                return Some(false);
            }
            continue;
        }
        let size = a.abs().max(b.abs());
        if size > MAX_VALUE || (a - b).abs() > 1e-9 * size.max(1e-3) {
            return Some(false);
        }
        compared += 1;
    }
    Some(compared >= POINTS / 2)
}

fn evaluate(text: &str, point: u32) -> Option<f64> {
    let characters: Vec<char> = text.chars().filter(|c| *c != '$').collect();
    let mut parser = Parser { characters: &characters, at: 0, depth: 0, point };
    let value = parser.sum()?;
    parser.spaces();
    (parser.at == characters.len()).then_some(value)
}

struct Parser<'a> {
    characters: &'a [char],
    at: usize,
    depth: u32,
    point: u32,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        self.spaces();
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn sum(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut value = self.product()?;
        loop {
            if self.take('+') {
                value += self.product()?;
            } else if self.take('-') {
                value -= self.product()?;
            } else {
                self.depth -= 1;
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.signed()?;
        loop {
            if self.take('*') {
                value *= self.signed()?;
            } else if self.take('/') {
                value /= self.signed()?;
            } else {
                self.spaces();
                // Two factors side by side; two numbers side by side are none.
                match self.peek() {
                    Some(c) if c.is_ascii_alphabetic() || c == '(' => value *= self.power()?,
                    _ => return Some(value),
                }
            }
        }
    }

    fn signed(&mut self) -> Option<f64> {
        let mut sign = 1.0;
        for _ in 0..MAX_DEPTH {
            if self.take('-') {
                sign = -sign;
            } else if !self.take('+') {
                return Some(sign * self.power()?);
            }
        }
        None
    }

    fn power(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let base = self.atom()?;
        let value = match self.take('^') {
            true => base.powf(self.signed()?),
            false => base,
        };
        self.depth -= 1;
        Some(value)
    }

    fn atom(&mut self) -> Option<f64> {
        self.spaces();
        let value = match self.peek()? {
            '(' | '[' => {
                let close = if self.peek() == Some('(') { ')' } else { ']' };
                self.at += 1;
                let value = self.sum()?;
                self.take(close).then_some(value)?
            }
            '|' => {
                self.at += 1;
                let value = self.sum()?;
                self.take('|').then_some(value.abs())?
            }
            c if c.is_ascii_digit() || c == '.' => self.number()?,
            c if c.is_ascii_alphabetic() => self.name()?,
            _ => return None,
        };
        let is_percent = self.take('%');
        self.take('°');
        Some(if is_percent { value / 100.0 } else { value })
    }

    fn number(&mut self) -> Option<f64> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '.' || c == ',') {
            self.at += 1;
        }
        let digits: String = self.characters[begin..self.at].iter().collect();
        super::Number::parse(&digits).map(super::Number::as_f64)
    }

    /// A constant, a function of what follows, or the variables that the letters are.
    fn name(&mut self) -> Option<f64> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let name: String = self.characters[begin..self.at].iter().collect();
        let function: fn(f64) -> f64 = match name.as_str() {
            "pi" => return Some(PI),
            "e" => return Some(E),
            "inf" => return Some(f64::INFINITY),
            "sqrt" => f64::sqrt,
            "sin" => f64::sin,
            "cos" => f64::cos,
            "tan" => f64::tan,
            "arcsin" => f64::asin,
            "arccos" => f64::acos,
            "arctan" => f64::atan,
            "ln" => f64::ln,
            "log" => f64::log10,
            "exp" => f64::exp,
            "theta" | "alpha" | "beta" | "gamma" | "phi" | "lambda" => {
                return Some(self.variable(name.bytes().map(u32::from).sum()));
            }
            _ => return self.variables(&name),
        };
        let power = match self.take('^') {
            true => Some(self.atom()?),
            false => None,
        };
        let value = function(self.atom_product()?);
        Some(power.map_or(value, |power| value.powf(power)))
    }

    /// A function's argument without parentheses: `sin 2x`.
    fn atom_product(&mut self) -> Option<f64> {
        self.spaces();
        if self.peek() == Some('(') {
            return self.power();
        }
        let mut value = self.power()?;
        while self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            value *= self.power()?;
        }
        Some(value)
    }

    /// One letter is a variable, and so are two that often are; more are a word.
    fn variables(&self, name: &str) -> Option<f64> {
        let is_usual = |c: char| "abckmnrtxyz".contains(c);
        match name.len() {
            1 => {}
            2 if name.chars().all(is_usual) => {}
            _ => return None,
        }
        Some(name.bytes().map(|letter| self.variable(letter.into())).product())
    }

    /// Some value between 0.2 and 3.2 for each variable and point.
    fn variable(&self, key: u32) -> f64 {
        let mixed = (f64::from(key) * 12.9898 + f64::from(self.point) * 78.233).sin() * 43_758.545;
        0.2 + 3.0 * mixed.rem_euclid(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn expressions_are_compared_by_value() {
        for (a, b, equal) in [
            ("x+1", "1+x", Some(true)),
            ("2(x+1)", "2x+2", Some(true)),
            ("(x+1)^2", "x^2+2x+1", Some(true)),
            ("x^2", "x^3", Some(false)),
            ("sqrt(3)/2", "sqrt(3)/3", Some(false)),
            ("sqrt(12)", "2sqrt(3)", Some(true)),
            ("1/sqrt(2)", "sqrt(2)/2", Some(true)),
            ("2pi r", "2*pi*r", Some(true)),
            ("-x^2", "-(x^2)", Some(true)),
            ("2^10", "1024", Some(true)),
            ("2^100", "2^100+1", Some(false)),
            ("sin 2x", "2 sin(x) cos(x)", Some(true)),
            ("xy", "yx", Some(true)),
            ("sqrt(-1)", "sqrt(-2)", Some(false)),
            ("dog", "god", None),
            ("1 2", "12", None),
            ("(1", "1", None),
            ("", "1", None),
        ] {
            assert_eq!(same(a, b), equal, "{a} {b}");
        }
    }
}
