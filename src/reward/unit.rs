//! Units after numbers: the same number with another unit is another answer.

/// A known unit, and the power that it is raised to: `square feet` are feet to the power of 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit(&'static str, u8);

/// A known unit by an unknown one: `g/ml`.
pub(super) const COMPOUND: Unit = Unit("compound", 1);

/// The most characters that the name of a unit has.
pub(super) const MAX_NAME: usize = 28;

/// Each unit with how it is written, but for a plural `s`. A single letter is written just so.
const UNITS: [(&str, &[&str]); 74] = [
    ("dollar", &["$", "dollar", "usd", "buck"]),
    ("canadian dollar", &["cad", "canadian dollar"]),
    ("cent", &["cent", "¢"]),
    ("euro", &["€", "euro", "eur"]),
    ("pound sterling", &["£", "gbp"]),
    ("yen", &["¥", "yen", "jpy", "円"]),
    ("rupee", &["₹", "rupee", "inr"]),
    ("peso", &["peso"]),
    ("yuan", &["yuan", "cny", "元"]),
    ("km", &["km", "kilometer", "kilometre"]),
    ("m", &["m", "meter", "metre"]),
    ("cm", &["cm", "centimeter", "centimetre"]),
    ("mm", &["mm", "millimeter", "millimetre"]),
    ("µm", &["µm", "μm", "micrometer", "micrometre", "micron"]),
    ("nm", &["nm", "nanometer", "nanometre"]),
    ("mile", &["mile", "mi"]),
    ("foot", &["foot", "feet", "ft"]),
    ("inch", &["inch", "inches", "in"]),
    ("yard", &["yard", "yd"]),
    ("light year", &["light year", "light-year", "ly"]),
    ("kg", &["kg", "kilogram", "kilo"]),
    ("g", &["g", "gram"]),
    ("mg", &["mg", "milligram"]),
    ("ton", &["ton", "tonne"]),
    ("ounce", &["ounce", "oz"]),
    ("lb", &["lb"]),
    ("l", &["l", "L", "liter", "litre"]),
    ("ml", &["ml", "milliliter", "millilitre"]),
    ("gallon", &["gallon", "gal"]),
    ("quart", &["quart"]),
    ("pint", &["pint"]),
    ("cup", &["cup"]),
    ("tablespoon", &["tablespoon", "tbsp"]),
    ("teaspoon", &["teaspoon", "tsp"]),
    ("ms", &["ms", "millisecond"]),
    ("s", &["s", "sec", "second", "秒"]),
    ("minute", &["minute", "min", "分钟", "分鐘"]),
    ("hour", &["hour", "h", "hr", "小时", "小時", "時間"]),
    ("day", &["day"]),
    ("night", &["night"]),
    ("week", &["week"]),
    ("month", &["month"]),
    ("year", &["year", "yr"]),
    ("decade", &["decade"]),
    ("century", &["century", "centuries"]),
    ("degree", &["degree", "°"]),
    ("radian", &["radian", "rad"]),
    ("°c", &["°c", "celsius", "degrees celsius", "degree celsius"]),
    ("°f", &["°f", "fahrenheit", "degrees fahrenheit", "degree fahrenheit"]),
    ("kelvin", &["K", "kelvin"]),
    ("acre", &["acre"]),
    ("hectare", &["hectare"]),
    ("mph", &["mph", "miles per hour", "mile per hour"]),
    ("km/h", &["km/h", "km/hr", "kph", "kmh", "kilometers per hour", "kilometres per hour"]),
    ("m/s", &["m/s", "meters per second", "metres per second"]),
    ("m/s2", &["m/s2", "meters per second squared", "metres per second squared"]),
    ("ft/s", &["ft/s", "feet per second"]),
    ("newton", &["N", "newton"]),
    ("joule", &["J", "joule"]),
    ("kj", &["kj", "kilojoule"]),
    ("watt", &["W", "watt"]),
    ("kw", &["kw", "kilowatt"]),
    ("volt", &["V", "volt"]),
    ("pascal", &["pa", "pascal"]),
    ("hz", &["hz", "hertz"]),
    ("khz", &["khz", "kilohertz"]),
    ("mhz", &["mhz", "megahertz"]),
    ("calorie", &["calorie", "cal"]),
    ("kcal", &["kcal", "kilocalorie"]),
    ("mol", &["mol", "mole"]),
    ("kb", &["kb", "kilobyte"]),
    ("mb", &["mb", "megabyte"]),
    ("gb", &["gb", "gigabyte"]),
    ("tb", &["tb", "terabyte"]),
];

/// Units of length, which may be squared and cubed.
const LENGTHS: [&str; 10] = ["km", "m", "cm", "mm", "µm", "nm", "mile", "foot", "inch", "yard"];

/// Units that are written together, as parts of one quantity: `2 hours and 5 minutes`.
const COMBINED: [&[&str]; 7] = [
    &["year", "month", "week", "day", "hour", "minute", "s"],
    &["mile", "yard", "foot", "inch"],
    &["km", "m", "cm", "mm"],
    &["kg", "g", "mg"],
    &["lb", "ounce"],
    &["gallon", "quart", "pint", "cup"],
    &["dollar", "euro", "cent"],
];

impl Unit {
    /// Whether a quantity may have a part in either unit.
    pub(super) fn is_combined_with(self, other: Self) -> bool {
        self.0 != other.0
            && self.1 == other.1
            && COMBINED.iter().any(|all| all.contains(&self.0) && all.contains(&other.0))
    }
}

/// The unit of this name, in the singular or the plural: `ft`, `square feet`, `feet^2`.
pub(super) fn unit(name: &str) -> Option<Unit> {
    let name = name.trim().trim_end_matches('.').replace(" ^", "").replace(['^', '(', ')'], "");
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    simple(&name).map(|unit| Unit(unit, 1)).or_else(|| {
        let (length, power) = raised(&name)?;
        let unit = simple(length).filter(|unit| LENGTHS.contains(unit))?;
        Some(Unit(unit, power))
    })
}

/// The unit of this name that is not raised to a power.
fn simple(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let is_single = name.chars().count() == 1;
    let is = |written: &str| if is_single { name == written } else { lower == written };
    // `ms` are milliseconds.
    let is_plural = |written: &str| written.len() > 1 && lower.strip_suffix('s') == Some(written);
    let find = |is: &dyn Fn(&str) -> bool| {
        UNITS.iter().find(|(_, all)| all.iter().any(|one| is(one))).map(|(unit, _)| *unit)
    };
    find(&is).or_else(|| find(&is_plural))
}

/// What a name raises, and to which power: of `square feet` and `feet2` it is `feet`, and 2.
fn raised(name: &str) -> Option<(&str, u8)> {
    let (first, behind) = name.split_once(' ').unwrap_or_default();
    match first.to_lowercase().as_str() {
        "square" | "sq" | "sq." => return Some((behind, 2)),
        "cubic" | "cu" | "cu." => return Some((behind, 3)),
        _ => {}
    }
    let ends = [("2", 2), ("3", 3), (" squared", 2), (" cubed", 3)];
    ends.into_iter().find_map(|(end, power)| Some((name.strip_suffix(end)?, power)))
}

/// Whether text behind a number is rather a part of a name than a unit: `50 Cent`.
pub(super) fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(char::is_uppercase)
        && text.len() > 2
        && characters.all(char::is_lowercase)
        && !["Celsius", "Fahrenheit", "Kelvin"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_known_by_its_names() {
        for (name, other, is_same) in [
            ("m", "meters", true),
            ("ms", "m", false),
            ("ms", "milliseconds", true),
            ("hrs", "hour", true),
            ("cm^2", "square centimeters", true),
            ("cm ^2", "cm2", true),
            ("feet ^2", "sq ft", true),
            ("inches^2", "square inches", true),
            ("miles^2", "square miles", true),
            ("meters squared", "m2", true),
            ("yards^3", "cubic yards", true),
            ("sq. ft", "cubic feet", false),
            ("feet^2", "feet", false),
            ("km/h", "kph", true),
            ("K", "kelvin", true),
            ("tons", "kg", false),
        ] {
            assert_eq!(unit(name) == unit(other), is_same, "{name} {other}");
            assert!(unit(name).is_some() && unit(other).is_some(), "{name} {other}");
        }
        for name in ["", "M", "k", "apples", "m 2", "S", "square", "square hours", "hours2", "2"] {
            assert_eq!(unit(name), None, "{name}");
        }
    }
}
