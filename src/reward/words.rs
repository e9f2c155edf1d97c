//! Words beside numbers that change them, and names of mathematics.

use super::unit::unit;

/// What a word behind a number multiplies it by. A letter counts only where it cannot be a unit:
/// right behind the number (`5k`, `3M`), or after an amount of money (`$3 M`, `$3m`).
pub(super) fn multiplier(word: &str, is_tight: bool, is_money: bool) -> Option<i128> {
    let lower = word.to_lowercase();
    Some(match lower.strip_suffix('s').unwrap_or(&lower) {
        "hundred" | "百" => 100,
        "thousand" | "千" => 1_000,
        "万" | "萬" | "만" => 10_000,
        "million" => 1_000_000,
        "亿" | "億" | "억" => 100_000_000,
        "billion" | "bn" => 1_000_000_000,
        "trillion" => 1_000_000_000_000,
        "dozen" => 12,
        _ => match word {
            "k" | "K" if is_tight || is_money => 1_000,
            "M" if is_tight || is_money => 1_000_000,
            "m" | "mn" if is_money => 1_000_000,
            "b" | "B" if is_money => 1_000_000_000,
            _ => return None,
        },
    })
}

/// Greek letters that are variables.
pub(super) const GREEK: [&str; 19] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu",
    "nu", "xi", "rho", "sigma", "tau", "phi", "psi", "omega",
];

/// Whether a word is a constant, a function or an operation: beside a number it is more than one.
pub(super) fn is_mathematics(word: &str) -> bool {
    const NAMES: [&str; 37] = [
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "arcsin",
        "arccos",
        "arctan",
        "ln",
        "log",
        "lg",
        "exp",
        "inf",
        "theta",
        "alpha",
        "beta",
        "gamma",
        "phi",
        "lambda",
        "binom",
        "choose",
        "mod",
        "pmod",
        "bmod",
        "factorial",
        "squared",
        "cubed",
        "overline",
        "root",
        "gcd",
        "lcm",
        "neq",
        "twice",
        "half",
    ];
    NAMES.contains(&word)
}

/// Whether a word behind a number makes it that many parts: `5 tenths`.
pub(super) fn is_part(word: &str) -> bool {
    const PARTS: [&str; 12] = [
        "halves",
        "thirds",
        "fourths",
        "fifths",
        "sixths",
        "sevenths",
        "eighths",
        "ninths",
        "tenths",
        "hundredths",
        "thousandths",
        "millionths",
    ];
    PARTS.contains(&word)
}

/// Whether a character right beside a number is part of a name or a formula with it: digits, and
/// letters of the scripts that formulas are written in, Latin and Greek. Words of others, such as
/// Chinese, stand beside numbers without a space.
pub(super) fn is_symbol(c: char) -> bool {
    let is_of_formulas =
        matches!(c, '\0'..='\u{3ff}' | '\u{1e00}'..='\u{218f}' | '\u{1d400}'..='\u{1d7ff}');
    is_of_formulas && c.is_alphanumeric()
}

/// Whether letters right behind a number are variables: `5xy`.
pub(super) fn is_variables(letters: &str) -> bool {
    let usual = match letters.len() {
        2 => "abckmnrtxyz",
        _ => "abcxyz",
    };
    letters != "am" && letters.chars().all(|c| usual.contains(c))
}

/// Whether letters behind an operator are an operand rather than a word: `x`, `pi`, `xy`. A letter
/// that is a unit is none behind a quantity: `km/h`.
pub(super) fn is_operand(letters: &str, is_quantity: bool) -> bool {
    let is_unit = || unit(letters).is_some();
    match letters.chars().count() {
        1 => letters.chars().all(is_symbol) && !(is_quantity && is_unit()),
        _ => is_mathematics(&letters.to_lowercase()) || (is_variables(letters) && !is_unit()),
    }
}

/// Whether text behind a number is words that name what is counted, and no mathematics.
pub(super) fn is_counted(text: &str) -> bool {
    let is_word = |word: &str| {
        let letters = word.trim_matches(|c: char| !c.is_alphabetic());
        !is_mathematics(letters) && (letters.len() > 1 || letters == "a")
    };
    !text.is_empty()
        && text.chars().all(|c| c.is_alphabetic() || " -'.".contains(c))
        && text.split_whitespace().all(is_word)
}
