//! Whether a side of an equation in running text is an expression with variables.

use super::unit::unit;
use super::words::{is_operand, is_variables};

/// Whether the side of an equation that ends a text is an expression with variables (`x^2`, `2x`,
/// `x + 2`), or one of several variables in a list (`x = 3 or x`). Numbers with units are none.
pub(super) fn has_variables(text: &str) -> bool {
    let side = text.rsplit(['=', ',', ';', ':', '\n']).next().unwrap_or_default();
    let pieces = pieces(side);
    let Some(&last) = pieces.iter().rfind(|piece| **piece != ")") else { return false };
    // In `3m + 2` the letter is no unit, since the other term has none.
    let is_bare = |term: &[&str]| {
        !term.is_empty() && term.iter().all(|piece| is_number(piece) || is_operator(piece))
    };
    let has_bare = pieces.split(|piece| ["+", "-"].contains(piece)).any(is_bare);
    let is_unit = |letters: &str| !has_bare && unit(letters).is_some();
    let is_multiple = |piece: &str| {
        let (digits, letters) = parts(piece);
        is_number(digits) && is_name(letters) && !is_unit(letters)
    };
    if is_multiple(last) {
        return true;
    }
    let (mut has_variable, mut has_operator, mut is_sum) = (false, false, false);
    let mut operand = None;
    for (at, &piece) in pieces.iter().enumerate().rev() {
        // `3 x (1/4)`.
        let is_times = || {
            let behind = pieces.get(at + 1).is_some_and(|next| *next == "(" || is_number(next));
            piece == "x" && behind && at > 0 && is_number(pieces[at - 1])
        };
        if piece == "(" || is_operator(piece) || is_times() {
            is_sum |= piece == "|";
            has_operator |= piece != "(";
            operand = None;
            continue;
        }
        if piece == ")" && operand.is_none() {
            continue;
        }
        if let Some(later) = operand {
            // `5 m`.
            if is_number(piece) && is_unit(later) {
                operand = Some(piece);
                continue;
            }
            // `2 x`, `3 or x`.
            let is_list = ["or", "and"].contains(&piece) && text.contains('=');
            return (is_sum && has_variable) || (is_letter(later) && (is_number(piece) || is_list));
        }
        let is_quantity = at > 0 && is_number(pieces[at - 1]) && is_unit(piece);
        has_variable |= is_multiple(piece) || (is_letter(piece) && !is_quantity);
        is_sum |= has_operator;
        operand = Some(piece);
    }
    let is_listed = || {
        text.trim_end()
            .strip_suffix(last)
            .is_some_and(|before| before.trim_end().ends_with([',', ';']) && before.contains('='))
    };
    (is_sum && has_variable) || (is_letter(last) && is_listed())
}

fn is_operator(piece: &str) -> bool {
    ["+", "-", "*", "**", "/", "^", "|"].contains(&piece)
}

/// The digits with which a piece begins, and the rest.
fn parts(piece: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    piece.split_at(piece.find(|c| !is_part(c)).unwrap_or(piece.len()))
}

/// Not `1.`, which numbers a line.
fn is_number(piece: &str) -> bool {
    piece.ends_with(|c: char| c.is_ascii_digit()) && parts(piece).1.is_empty()
}

fn is_letter(piece: &str) -> bool {
    piece.len() == 1 && piece.chars().all(|c| c.is_ascii_alphabetic())
}

/// Whether letters right behind a number are one variable or several.
fn is_name(letters: &str) -> bool {
    is_letter(letters) || (!letters.is_empty() && is_variables(letters))
}

/// Operands, operators and brackets. A rate (`/day`) is left out, and so is emphasis in Markdown.
fn pieces(side: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(mark) = side[at..].chars().next() {
        let (before, rest) = side.split_at(at);
        let length = match mark {
            '*' => rest.len() - rest.trim_start_matches('*').len(),
            '/' => 1 + rate(before, &rest[1..]),
            _ if is_gap(mark) || is_mark(mark) => mark.len_utf8(),
            _ => word(rest),
        };
        let (piece, behind) = rest.split_at(length);
        let is_open = |next: Option<char>| next.is_none_or(is_gap);
        let (previous, next) = (before.chars().next_back(), behind.chars().next());
        let is_piece = match mark {
            '*' => is_open(previous) == is_open(next),
            '/' => length == 1,
            // Of a table otherwise.
            '|' => !(is_open(previous) && is_open(next)),
            // `(2+3)x` is one operand, `1) x` is two.
            ')' => is_open(next),
            _ => !is_gap(mark),
        };
        if is_piece {
            pieces.push(piece);
        }
        at += length;
    }
    pieces
}

fn is_gap(c: char) -> bool {
    c.is_whitespace() || "$[]{}".contains(c)
}

fn is_mark(c: char) -> bool {
    "+-*/^|()".contains(c)
}

/// How long the word is that begins a text, with its hyphens.
fn word(text: &str) -> usize {
    let is_end = |(at, c): &(usize, char)| match c {
        '-' => !is_hyphen(&text[..*at], &text[at + 1..]),
        c => is_gap(*c) || is_mark(*c),
    };
    text.char_indices().find(is_end).map_or(text.len(), |(at, _)| at)
}

/// Whether what stands between these is a hyphen: `x-axis`, `B-12`.
fn is_hyphen(before: &str, after: &str) -> bool {
    let is_letter = |c: &char| c.is_alphabetic();
    before.chars().rev().take_while(is_letter).count() > 1
        || after.chars().take_while(is_letter).count() > 1
        || before.ends_with(char::is_uppercase)
}

/// How long the unit is that stands behind a slash; 0 where an operand does.
fn rate(before: &str, after: &str) -> usize {
    let bare = after.trim_start();
    let letters = &bare[..bare.find(|c: char| !c.is_alphabetic()).unwrap_or(bare.len())];
    // `km/h`, `$6/m`.
    let previous = before.trim_end().rsplit(char::is_whitespace).next().unwrap_or_default();
    let is_quantity = previous.starts_with('$') || unit(parts(previous).1).is_some();
    match letters.is_empty() || is_operand(letters, is_quantity) {
        true => 0,
        false => after.len() - bare.len() + letters.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::has_variables;

    #[test]
    fn units_and_words_are_no_variables() {
        let with = "x^2; 2x; 2 x; 3 x; 1.5x; (2x); x + 2; 2 + x; 2x + 3; 2x+3; x-2; x/2; x/y; a*b; \
                    5a + 3a; 5xy; 3(x+2); (x + 2) / 3; f(x) + 2; f(2) + 1; |x|; x**2; m + 2; \
                    3m + 2; 3 m + 2; 3*m + 2; $x + 2; x + 5 cm; x = 3 or x; x = 2, y";
        for side in with.split("; ") {
            assert!(has_variables(side), "{side}");
        }
        let without = "x; f(x); x_1; 1) x; 1. x; a) x; - x; **x; **Total**; x-axis; B-12; 3 + 2; \
                       3 x 8; 3 x (1/4); 3x8; 140m - 100m; 140 m - 100 m; 12cm+9cm; 46*7kg; \
                       1000 m; 10kg + 5kg; $15/phone + $5/phone; 60km/h * 3h; 60 km/h * 3 h; \
                       6 m * $6/m; 330km / 110km/hour; (700+280)cm^3; $8/hour * 5; $200 / week * 2; \
                       20% * 50; cost + tip; sqrt(4) + 1; 1kg / 0.5kg/pizza; class A + class B";
        for side in without.split("; ") {
            assert!(!has_variables(side), "{side}");
        }
    }
}
