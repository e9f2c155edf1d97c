//! Expressions with operators, functions and variables, compared by their values.

use std::f64::consts::{E, PI};

use super::approximate::Approximate;
use super::words::GREEK;

/// How deep parentheses may be.
const MAX_DEPTH: u32 = 64;
/// At how many points with positive variables expressions are compared.
const POSITIVE: u32 = 8;
/// All points. Where variables are negative, only the values count that both have: most formulas
/// are meant for positive ones.
const POINTS: u32 = 12;

/// Whether two expressions have the same values wherever both have one. `None` where one of them
/// is no expression.
pub(super) fn same(a: &str, b: &str) -> Option<bool> {
    let mut compared = 0;
    for point in 0..POINTS {
        let (a, b) = (evaluate(a, point)?, evaluate(b, point)?);
        let (is_finite, others) = (a.value.is_finite(), b.value.is_finite());
        if is_finite != others && point < POSITIVE {
            // Outside of where one is defined, the other must not be either.
            return Some(false);
        }
        if is_finite && others {
            match a.same(b) {
                Some(true) => compared += 1,
                Some(false) => return Some(false),
                None => {}
            }
        }
    }
    Some(compared >= 2)
}

fn evaluate(text: &str, point: u32) -> Option<Approximate> {
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

    fn sum(&mut self) -> Option<Approximate> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut value = self.product()?;
        loop {
            if self.take('+') {
                value = value.plus(self.product()?);
            } else if self.take('-') {
                value = value.plus(self.product()?.negative());
            } else {
                self.depth -= 1;
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<Approximate> {
        let mut value = self.signed()?;
        loop {
            if self.take('*') {
                value = value.times(self.signed()?);
            } else if self.take('/') {
                value = value.over(self.signed()?);
            } else {
                self.spaces();
                // Two factors side by side; two numbers side by side are none.
                match self.peek() {
                    Some(c) if c.is_ascii_alphabetic() || c == '(' => {
                        value = value.times(self.power()?);
                    }
                    _ => return Some(value),
                }
            }
        }
    }

    fn signed(&mut self) -> Option<Approximate> {
        let mut is_negative = false;
        for _ in 0..MAX_DEPTH {
            if self.take('-') {
                is_negative = !is_negative;
            } else if !self.take('+') {
                let value = self.power()?;
                return Some(if is_negative { value.negative() } else { value });
            }
        }
        None
    }

    fn power(&mut self) -> Option<Approximate> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let base = self.atom()?;
        let value = match self.take('^') {
            true => base.power(self.signed()?),
            false => base,
        };
        self.depth -= 1;
        Some(value)
    }

    fn atom(&mut self) -> Option<Approximate> {
        self.spaces();
        let mut value = match self.peek()? {
            '(' => self.enclosed(')')?,
            '[' => self.enclosed(']')?,
            '|' => self.enclosed('|')?.absolute(),
            '⌊' => self.enclosed('⌋')?.map(f64::floor),
            '⌈' => self.enclosed('⌉')?.map(f64::ceil),
            c if c.is_ascii_digit() || c == '.' => self.number()?,
            c if c.is_ascii_alphabetic() => self.name()?,
            _ => return None,
        };
        while self.peek() == Some('!') {
            self.at += 1;
            value = value.factorial()?;
        }
        let is_percent = self.take('%');
        self.take('°');
        Some(if is_percent { value.times(Approximate::fraction(1, 100)) } else { value })
    }

    /// What stands between the mark here and `close`.
    fn enclosed(&mut self, close: char) -> Option<Approximate> {
        self.at += 1;
        let value = self.sum()?;
        self.take(close).then_some(value)
    }

    fn number(&mut self) -> Option<Approximate> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '.' || c == ',') {
            self.at += 1;
        }
        let digits: String = self.characters[begin..self.at].iter().collect();
        let number = super::Number::parse(&digits)?;
        Some(Approximate::fraction(number.numerator, number.denominator))
    }

    /// A constant, a function of what follows, or the variables that the letters are.
    fn name(&mut self) -> Option<Approximate> {
        let name = self.word();
        self.at += name.len();
        match name.as_str() {
            "pi" => return Some(Approximate::new(PI)),
            "e" => return Some(Approximate::new(E)),
            "inf" => return Some(Approximate::new(f64::INFINITY)),
            name if GREEK.contains(&name) => {
                return Some(self.variable(name.bytes().map(u32::from).sum()));
            }
            "binom" => return self.binomial(),
            "log" if self.take('_') => {
                let base = self.atom()?.map(f64::ln);
                return Some(self.factors()?.map(f64::ln).over(base));
            }
            _ => {}
        }
        let Some(function) = function(&name) else { return self.letters(&name) };
        let power = match self.take('^') {
            true => Some(self.atom()?),
            false => None,
        };
        // `sin^-1` is the inverse, and no power.
        let inverse = power.filter(|power| power.value == -1.0).and_then(|_| inverse(&name));
        let argument = self.factors()?;
        Some(match (inverse, power) {
            (Some(inverse), _) => argument.map(inverse),
            (None, Some(power)) => argument.map(function).power(power),
            (None, None) => argument.map(function),
        })
    }

    /// `(n;k)` behind `binom`.
    fn binomial(&mut self) -> Option<Approximate> {
        self.take('(').then_some(())?;
        let all = self.sum()?;
        self.take(';').then_some(())?;
        let few = self.sum()?;
        self.take(')').then_some(())?;
        all.choose(few)
    }

    /// A function's argument without parentheses: `sin 2x`. Another function is none of its factors.
    fn factors(&mut self) -> Option<Approximate> {
        self.spaces();
        if self.peek() == Some('(') {
            return self.power();
        }
        let mut value = self.power()?;
        while self.peek().is_some_and(|c| c.is_ascii_alphabetic())
            && function(&self.word()).is_none()
        {
            value = value.times(self.power()?);
        }
        Some(value)
    }

    /// The letters that come next.
    fn word(&self) -> String {
        self.characters[self.at..].iter().take_while(|c| c.is_ascii_alphabetic()).collect()
    }

    /// The variables that letters are. An exponent or a factorial behind them is that of the last,
    /// which is left to be read: `xy^2` is `x` times `y^2`.
    fn letters(&mut self, name: &str) -> Option<Approximate> {
        let next = self.characters[self.at..].iter().find(|c| !c.is_whitespace());
        if name.len() > 1 && matches!(next, Some('^' | '!')) {
            self.at -= 1;
            return match &name[..name.len() - 1] {
                "e" => Some(Approximate::new(E)),
                first => self.variables(first),
            };
        }
        self.variables(name)
    }

    /// One letter is a variable, and so are two that often are; more are a word.
    fn variables(&self, name: &str) -> Option<Approximate> {
        let is_usual = |c: char| "abckmnrtxyz".contains(c);
        match name.len() {
            1 => {}
            2 if name.chars().all(is_usual) => {}
            _ => return None,
        }
        let values = name.bytes().map(|letter| self.variable(letter.into()));
        values.reduce(Approximate::times)
    }

    /// Some value for each variable and point: up to 3.2, at every second point up to 1, where
    /// inverse functions have values too; at the last ones, some or all are negative.
    fn variable(&self, key: u32) -> Approximate {
        let mixed = (f64::from(key) * 12.9898 + f64::from(self.point) * 78.233).sin() * 43_758.545;
        let part = mixed.rem_euclid(1.0);
        let value = if self.point.is_multiple_of(2) { 0.2 + 3.0 * part } else { 0.05 + 0.9 * part };
        let behind = self.point.saturating_sub(POSITIVE);
        let is_negative =
            self.point >= POSITIVE && (behind < 2 || (key + behind).is_multiple_of(2));
        Approximate::new(if is_negative { -value } else { value })
    }
}

fn function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "sqrt" => f64::sqrt,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "sec" => |x: f64| x.cos().recip(),
        "csc" => |x: f64| x.sin().recip(),
        "cot" => |x: f64| x.tan().recip(),
        "arcsin" => f64::asin,
        "arccos" => f64::acos,
        "arctan" => f64::atan,
        "ln" => f64::ln,
        "log" => f64::log10,
        "exp" => f64::exp,
        _ => return None,
    })
}

fn inverse(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "sin" => f64::asin,
        "cos" => f64::acos,
        "tan" => f64::atan,
        _ => return None,
    })
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
            ("2^100+0", "2^100", Some(true)),
            ("10^16", "100^8", Some(true)),
            ("(1/2)^100", "(1/2)^99", Some(false)),
            ("1/3^100", "1/3^99", Some(false)),
            ("3^(-100)", "0", Some(false)),
            ("sin(pi)", "0", Some(true)),
            ("sqrt(2)-sqrt(8)/2", "0", Some(true)),
            ("(x+1)^2-x^2-2x-1", "0", Some(true)),
            ("x/10^13", "x^2/10^13", Some(false)),
            ("x^40", "x^40", Some(true)),
            ("sqrt(16)", "4", Some(true)),
            ("8^(1/3)", "2", Some(true)),
            ("log _(10) 100", "2", Some(true)),
            ("5!", "120", Some(true)),
            ("binom(5;2)", "10", Some(true)),
            ("|-5|", "5", Some(true)),
            ("⌊5.7⌋", "5", Some(true)),
            ("|x|", "x", Some(false)),
            ("sqrt(x^2)", "x", Some(false)),
            ("sqrt(x^2)", "|x|", Some(true)),
            ("sqrt(x) sqrt(x)", "x", Some(true)),
            ("x sqrt(x)", "x^(3/2)", Some(true)),
            ("sin^(-1) x", "arcsin x", Some(true)),
            ("sin^(-1) x", "1/sin(x)", Some(false)),
            ("sin^2 x", "1-cos^2 x", Some(true)),
            ("sin 2x", "2 sin(x) cos(x)", Some(true)),
            ("xy", "yx", Some(true)),
            ("xy^2", "y^2 x", Some(true)),
            ("xy^2", "x^2 y^2", Some(false)),
            ("2xy^2/3", "2y^2 x/3", Some(true)),
            ("sin 2xy^2", "sin(2 y^2 x)", Some(true)),
            ("sqrt(ab^2)", "sqrt(b^2 a)", Some(true)),
            ("1/xy", "1/(xy)", Some(true)),
            ("xe^x", "e^x x", Some(true)),
            ("xe^x", "(xe)^x", None),
            ("mu/2", "0.5 mu", Some(true)),
            ("mu/2", "nu/2", Some(false)),
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
