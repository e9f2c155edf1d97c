//! Units after numbers: the same number with another unit is another answer.

/// A known unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit(&'static str);

/// Each unit with how it is written, but for a plural `s`.
const UNITS: [(&str, &[&str]); 36] = [
    ("dollar", &["$", "dollar", "usd", "buck"]),
    ("cent", &["cent", "¢"]),
    ("euro", &["€", "euro", "eur"]),
    ("pound sterling", &["£", "gbp"]),
    ("yen", &["¥", "yen", "jpy"]),
    ("km", &["km", "kilometer", "kilometre"]),
    ("m", &["m", "meter", "metre"]),
    ("cm", &["cm", "centimeter", "centimetre"]),
    ("mm", &["mm", "millimeter", "millimetre"]),
    ("mile", &["mile", "mi"]),
    ("foot", &["foot", "feet", "ft"]),
    ("inch", &["inch", "inches"]),
    ("yard", &["yard", "yd"]),
    ("kg", &["kg", "kilogram", "kilo"]),
    ("g", &["g", "gram"]),
    ("mg", &["mg", "milligram"]),
    ("ounce", &["ounce", "oz"]),
    ("lb", &["lb"]),
    ("l", &["l", "liter", "litre"]),
    ("ml", &["ml", "milliliter", "millilitre"]),
    ("gallon", &["gallon", "gal"]),
    ("s", &["s", "sec", "second"]),
    ("minute", &["minute", "min"]),
    ("hour", &["hour", "h", "hr"]),
    ("day", &["day"]),
    ("week", &["week"]),
    ("month", &["month"]),
    ("year", &["year", "yr"]),
    ("degree", &["degree", "°"]),
    ("°c", &["°c", "celsius"]),
    ("°f", &["°f", "fahrenheit"]),
    ("m2", &["m2", "square meter", "square metre", "sq m"]),
    ("cm2", &["cm2", "square centimeter", "square centimetre", "sq cm"]),
    ("km2", &["km2", "square kilometer", "square kilometre", "sq km"]),
    ("m3", &["m3", "cubic meter", "cubic metre"]),
    ("mph", &["mph", "miles per hour"]),
];

/// The unit of this name, in the singular or the plural.
pub(super) fn unit(name: &str) -> Option<Unit> {
    let lower = name.trim().trim_end_matches('.').to_lowercase().replace('^', "");
    let is = |written: &str| lower == written || lower.strip_suffix('s') == Some(written);
    UNITS.iter().find(|(_, written)| written.iter().any(|one| is(one))).map(|(unit, _)| Unit(unit))
}
