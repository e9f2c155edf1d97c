//! Values of expressions: exact fractions while they fit, else binary fractions with the most that
//! rounding can have changed.

use super::number::reduced;

/// Beyond this, a binary fraction has no digits after the point.
const MAX_VALUE: f64 = 1e15;
/// The greatest exponent that is computed exactly.
const MAX_EXPONENT: i128 = 127;

/// A value, known exactly or up to `error`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Approximate {
    pub(super) value: f64,
    error: f64,
    exact: Option<(i128, i128)>,
}

impl Approximate {
    pub(super) fn new(value: f64) -> Self {
        Self { value, error: value.abs() * f64::EPSILON, exact: None }
    }

    /// The fraction, reduced or not.
    pub(super) fn fraction(over: i128, under: i128) -> Self {
        let value = over as f64 / under as f64;
        Self { exact: reduced(over, under), ..Self::new(value) }
    }

    fn rounded(value: f64, error: f64, exact: Option<(i128, i128)>) -> Self {
        let error = if exact.is_some() { 0.0 } else { error };
        Self { value, error: error + value.abs() * f64::EPSILON, exact }
    }

    /// A value of which `function` is taken.
    pub(super) fn map(self, function: impl Fn(f64) -> f64) -> Self {
        let value = function(self.value);
        let off = |by: f64| Some((function(self.value + by) - value).abs()).filter(|d| !d.is_nan());
        let error = [off(self.error), off(-self.error)].into_iter().flatten().fold(0.0, f64::max);
        Self::rounded(value, error, None)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let exact = self.exact.zip(other.exact).and_then(|(a, b)| {
            let over = a.0.checked_mul(b.1)?.checked_add(b.0.checked_mul(a.1)?)?;
            reduced(over, a.1.checked_mul(b.1)?)
        });
        Self::rounded(self.value + other.value, self.error + other.error, exact)
    }

    pub(super) fn negative(self) -> Self {
        Self { value: -self.value, exact: self.exact.map(|(over, under)| (-over, under)), ..self }
    }

    pub(super) fn times(self, other: Self) -> Self {
        let exact = self
            .exact
            .zip(other.exact)
            .and_then(|(a, b)| reduced(a.0.checked_mul(b.0)?, a.1.checked_mul(b.1)?));
        let error = self.value.abs() * other.error + other.value.abs() * self.error;
        Self::rounded(self.value * other.value, error, exact)
    }

    pub(super) fn over(self, other: Self) -> Self {
        let inverse = Self {
            exact: other.exact.and_then(|(over, under)| reduced(under, over)),
            ..other.map(f64::recip)
        };
        Self { value: self.value / other.value, ..self.times(inverse) }
    }

    pub(super) fn power(self, exponent: Self) -> Self {
        let value = self.value.powf(exponent.value);
        let by_base = self.map(|base| base.powf(exponent.value)).error;
        let by_exponent = exponent.map(|exponent| self.value.powf(exponent)).error;
        let exact = self.exact.zip(exponent.exact).and_then(|(base, exponent)| {
            let is_whole = exponent.1 == 1 && exponent.0.abs() <= MAX_EXPONENT;
            let size = u32::try_from(exponent.0.unsigned_abs()).ok().filter(|_| is_whole)?;
            let (over, under) = (base.0.checked_pow(size)?, base.1.checked_pow(size)?);
            if exponent.0 < 0 { reduced(under, over) } else { reduced(over, under) }
        });
        Self::rounded(value, by_base + by_exponent, exact)
    }

    pub(super) fn absolute(self) -> Self {
        let exact = self.exact.map(|(over, under)| (over.abs(), under));
        Self { value: self.value.abs(), exact, ..self }
    }

    /// `5!`, where it is exact.
    pub(super) fn factorial(self) -> Option<Self> {
        let (over, under) = self.exact?;
        let product = (1..=over).try_fold(1_i128, |product, factor| product.checked_mul(factor))?;
        (over >= 0 && under == 1).then(|| Self::fraction(product, 1))
    }

    /// The number of ways to choose `few` of these, where it is exact.
    pub(super) fn choose(self, few: Self) -> Option<Self> {
        let ((all, 1), (few, 1)) = (self.exact?, few.exact?) else { return None };
        if !(0..=all).contains(&few) || all > MAX_EXPONENT {
            return None;
        }
        let ways = (0..few)
            .try_fold(1_i128, |ways, done| Some(ways.checked_mul(all - done)? / (done + 1)))?;
        Some(Self::fraction(ways, 1))
    }

    /// Whether both are one value; `None` where that cannot be said.
    pub(super) fn same(self, other: Self) -> Option<bool> {
        if let (Some(a), Some(b)) = (self.exact, other.exact) {
            return Some(a == b);
        }
        let size = self.value.abs().max(other.value.abs());
        if !size.is_finite() || size > MAX_VALUE {
            return None;
        }
        // What is left of terms that cancel is noise; a small value is none.
        let noise = 16.0 * (self.error + other.error);
        noise.is_finite().then_some((self.value - other.value).abs() <= (1e-9 * size).max(noise))
    }
}
