//! A value of a row, whatever the file format. Numbers stay decimal text, so that none is changed.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Lists and objects in one another, at most: conversion and what follows is recursive.
const MAX_DEPTH: usize = 64;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    /// In plain decimal digits: `18`, never `18.0` or `1.8e1`.
    Number(String),
    Text(String),
    List(Vec<Cell>),
    Record(Vec<(String, Cell)>),
    /// A value that is no text or number, by its name: `NaN`, `binary data`.
    Opaque(&'static str),
    /// A column that no form needs, which was not converted.
    Unread,
}

impl Cell {
    /// Converts JSON text.
    pub(super) fn from_json(raw: &RawValue) -> Result<Self, String> {
        Self::at_depth(raw, 0)
    }

    /// Converts JSON text in `depth` lists and objects.
    fn at_depth(raw: &RawValue, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it has more than {MAX_DEPTH} nested lists or objects"));
        }
        let inner = |value: &RawValue| Self::at_depth(value, depth + 1);
        let wrong = |error: serde_json::Error| format!("it is not JSON: {error}");
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'"') => Self::Text(serde_json::from_str(text).map_err(wrong)?),
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(wrong)?;
                Self::List(items.into_iter().map(inner).collect::<Result<_, _>>()?)
            }
            Some(b'{') => Self::Record(
                pairs(text)
                    .map_err(wrong)?
                    .into_iter()
                    .map(|(name, value)| Ok((name, inner(value)?)))
                    .collect::<Result<_, String>>()?,
            ),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number(plain_number(text)),
        })
    }

    /// A number of a binary file.
    pub(super) fn from_f64(number: f64) -> Self {
        if number.is_finite() {
            Self::Number(plain_number(&number.to_string()))
        } else {
            Self::Opaque(if number.is_nan() { "NaN" } else { "an infinite number" })
        }
    }

    /// The field of this name, in any case, that is not null.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Record(fields) = self else { return None };
        find(fields, name).filter(|value| **value != Self::Null)
    }

    /// The text that it is.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it holds anything: no empty text or list.
    pub(super) fn is_filled(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Text(text) => !matches!(text.trim(), "" | "[]"),
            Self::List(items) => !items.is_empty(),
            _ => true,
        }
    }

    /// Text, a number or a truth value as text.
    pub(super) fn scalar(&self) -> Option<String> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text.clone()),
            Self::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// The whole number that it is.
    pub(super) fn integer(&self) -> Option<u64> {
        match self {
            Self::Text(text) | Self::Number(text) => plain_number(text.trim()).parse().ok(),
            _ => None,
        }
    }

    /// Its description in a reason.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null | Self::Unread => "null",
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Record(_) => "an object",
            Self::Opaque(name) => name,
        }
    }
}

/// The value of this name: exactly so where there is one, else in any case.
pub(super) fn find<'c>(fields: &'c [(String, Cell)], name: &str) -> Option<&'c Cell> {
    let exact = fields.iter().find(|(field, _)| field == name);
    let found = exact.or_else(|| fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)));
    found.map(|(_, value)| value)
}

/// The members of a JSON object in order, those of equal names included.
pub(super) fn pairs(text: &str) -> serde_json::Result<Vec<(String, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::with_capacity(4);
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(Members)?;
    json.end()?;
    Ok(members)
}

/// A decimal number without a power of ten and without a fraction of zeros: `18.0` is `18`, `1e3`
/// is `1000`. Other digits stay as they are, however many; what is no decimal number stays whole.
pub(super) fn plain_number(text: &str) -> String {
    /// Powers of ten beyond which a number is left as it is written.
    const MAX_POWER: i32 = 64;
    let (mantissa, power) = match text.split_once(['e', 'E']) {
        Some((mantissa, power)) => (mantissa, power.parse::<i32>().unwrap_or(i32::MAX)),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(part) || power.abs() > MAX_POWER {
        return text.to_owned();
    }
    let (whole, part) = shifted(whole, part, power);
    let whole = match whole.trim_start_matches('0') {
        // As written: `007` in a text is no number.
        _ if power == 0 => whole.as_str(),
        "" => "0",
        trimmed => trimmed,
    };
    match part.bytes().all(|byte| byte == b'0') {
        true if whole.bytes().all(|byte| byte == b'0') => whole.to_owned(),
        true => format!("{sign}{whole}"),
        false => format!("{sign}{whole}.{part}"),
    }
}

/// The digits before and behind the point after multiplying by a power of ten.
fn shifted(whole: &str, part: &str, power: i32) -> (String, String) {
    let distance = power.unsigned_abs() as usize;
    if power >= 0 {
        let moved = distance.min(part.len());
        let zeros = "0".repeat(distance - moved);
        (format!("{whole}{}{zeros}", &part[..moved]), part[moved..].to_owned())
    } else {
        let zeros = "0".repeat((distance + 1).saturating_sub(whole.len()));
        let padded = format!("{zeros}{whole}");
        let (kept, moved) = padded.split_at(padded.len() - distance);
        (kept.to_owned(), format!("{moved}{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::plain_number;

    #[test]
    fn numbers_are_exact_and_plain() {
        for (written, plain) in [
            ("18.0", "18"),
            ("-18.000", "-18"),
            ("-0.0", "0"),
            ("1.50", "1.50"),
            ("007", "007"),
            ("1e3", "1000"),
            ("1.25e1", "12.5"),
            ("5E-3", "0.005"),
            ("-12.5e-1", "-1.25"),
            ("0.5e1", "5"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-9223372036854775809", "-9223372036854775809"),
            ("3.14159265358979323846264338327950288", "3.14159265358979323846264338327950288"),
            ("1e400", "1e400"),
            ("1.2.3", "1.2.3"),
            ("x", "x"),
            ("", ""),
            (".5", ".5"),
        ] {
            assert_eq!(plain_number(written), plain, "{written}");
        }
    }
}
