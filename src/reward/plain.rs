//! Normalises Unicode forms to one way of writing.

use unicode_normalization::UnicodeNormalization;

use super::words::is_symbol;

/// What stands in the last `\boxed{…}`, `\fbox{…}` or `\boxed …`.
pub fn boxed(text: &str) -> Option<&str> {
    let (at, mark) = ["\\boxed", "\\fbox"]
        .into_iter()
        .filter_map(|mark| Some((text.rfind(mark)?, mark)))
        .max_by_key(|(at, _)| *at)?;
    let rest = &text[at + mark.len()..];
    let Some(content) = rest.trim_start().strip_prefix('{') else {
        let bare = rest.strip_prefix(' ')?.split(['$', '\n']).next()?;
        return Some(bare.trim());
    };
    let mut depth = 1;
    let mut is_escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            _ if is_escaped => {}
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
        if depth == 0 {
            return Some(content[..at].trim());
        }
    }
    None
}

/// Text in NFC with ASCII digits, signs, quotes, punctuation and spaces.
pub(super) fn plain_unicode(text: &str) -> String {
    let text = without_separators(text);
    let mut out = String::with_capacity(text.len());
    let mut characters = text.nfc().peekable();
    while let Some(c) = characters.next() {
        let after_digit = out.ends_with(|c: char| c.is_ascii_digit());
        match c {
            '\u{ff01}'..='\u{ff5e}' => {
                out.extend(char::from_u32(c as u32 - 0xfee0));
            }
            '\u{a0}' | '\u{202f}' | '\u{3000}' | '\u{2000}'..='\u{200a}' | '\u{205f}' => {
                out.push(' ');
            }
            '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => {}
            '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' => out.push('-'),
            '\u{2018}'..='\u{201b}' | '\u{2032}' | '\u{b4}' | '`' | '\u{2bc}' => out.push('\''),
            '\u{201c}'..='\u{201f}' | '\u{2033}' | '«' | '»' | '「' | '」' | '『' | '』' => {
                out.push('"');
            }
            '。' | '\u{66b}' => out.push('.'),
            '、' | '\u{60c}' | '\u{66c}' => out.push(','),
            '\u{66a}' => out.push('%'),
            '…' => out.push_str("..."),
            '\u{2044}' | '\u{2215}' | '÷' => out.push('/'),
            '×' | '⋅' | '∙' => out.push('*'),
            _ if superscript(c).is_some() => {
                let mut power: String = superscript(c).into_iter().collect();
                while let Some(more) = characters.peek().copied().and_then(superscript) {
                    power.push(more);
                    characters.next();
                }
                out.push_str(&raised(&power));
            }
            _ => match vulgar(c) {
                Some(fraction) => {
                    out.push_str(if after_digit { " " } else { "" });
                    out.push_str(fraction);
                }
                None => out.push(digit(c).unwrap_or(c)),
            },
        }
    }
    out
}

/// Zero in scripts with digits of their own, and in the styles of mathematics; the other digits
/// follow it.
const ZEROS: &str = "\u{660}\u{6f0}\u{966}\u{9e6}\u{a66}\u{ae6}\u{b66}\u{be6}\
                     \u{c66}\u{ce6}\u{d66}\u{de6}\u{e50}\u{ed0}\u{f20}\u{1040}\
                     \u{17e0}\u{1810}\u{1d7ce}\u{1d7d8}\u{1d7e2}\u{1d7ec}\u{1d7f6}";

/// The ASCII digit for a digit of another script.
fn digit(c: char) -> Option<char> {
    let of = |zero: char| char::from_digit(u32::from(c).checked_sub(u32::from(zero))?, 10);
    ZEROS.chars().filter(|_| !c.is_ascii()).find_map(of)
}

/// What a superscript raises to.
fn superscript(c: char) -> Option<char> {
    Some(match c {
        '⁰' => '0',
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁴'..='⁹' => char::from_digit(c as u32 - '⁰' as u32, 10)?,
        '⁺' => '+',
        '⁻' => '-',
        'ⁿ' => 'n',
        _ => return None,
    })
}

/// `^2`, `^(10)`.
fn raised(power: &str) -> String {
    match power.chars().count() {
        1 => format!("^{power}"),
        _ => format!("^({power})"),
    }
}

/// Whether a character separates thousands, besides the comma.
fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2007}' | '\'' | '\u{2019}')
}

/// Numbers whose digits stand in groups of three, written together: `1 234` is `1234`.
pub(super) fn without_separators(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let end = grouped(&characters, at).unwrap_or(at + 1);
        let is_group = end > at + 1;
        out.extend(characters[at..end].iter().filter(|c| !(is_group && is_separator(**c))));
        at = end;
    }
    out
}

/// Where the number ends that begins here and has groups of three digits.
fn grouped(characters: &[char], at: usize) -> Option<usize> {
    let digits = |from: usize| {
        characters[from.min(characters.len())..].iter().take_while(|c| c.is_ascii_digit()).count()
    };
    // Not inside of a number, a name or a power, nor the end of a list of numbers.
    let mut before = characters[..at].iter().rev();
    let previous = before.next();
    let is_inside = previous.is_some_and(|c| is_symbol(*c) || ".,/^_".contains(*c))
        || (previous.is_some_and(|c| is_separator(*c))
            && before.next().is_some_and(char::is_ascii_digit));
    let first = digits(at);
    if is_inside || !(1..=3).contains(&first) || characters[at] == '0' {
        return None;
    }
    let mut end = at + first;
    let separator = characters.get(end).copied().filter(|c| is_separator(*c))?;
    while characters.get(end) == Some(&separator) && digits(end + 1) == 3 {
        end += 4;
    }
    // `2 125/1000` and `1 234 56` are something else.
    let mut behind = characters[end..].iter();
    let next = behind.next();
    let is_other = next.is_some_and(|c| *c == '/' || is_symbol(*c))
        || (next == Some(&separator) && behind.next().is_some_and(char::is_ascii_digit));
    (end > at + first && !is_other).then_some(end)
}

fn vulgar(c: char) -> Option<&'static str> {
    Some(match c {
        '½' => "1/2",
        '⅓' => "1/3",
        '⅔' => "2/3",
        '¼' => "1/4",
        '¾' => "3/4",
        '⅕' => "1/5",
        '⅖' => "2/5",
        '⅗' => "3/5",
        '⅘' => "4/5",
        '⅙' => "1/6",
        '⅚' => "5/6",
        '⅛' => "1/8",
        '⅜' => "3/8",
        '⅝' => "5/8",
        '⅞' => "7/8",
        '⅐' => "1/7",
        '⅑' => "1/9",
        '⅒' => "1/10",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_is_found() {
        for (text, content) in [
            (r"so \boxed{7} and \boxed{\frac{1}{2}}.", Some(r"\frac{1}{2}")),
            (r"\fbox{5}", Some("5")),
            (r"$\boxed 5$ done", Some("5")),
            (r"\boxed{\{1, 2\}}", Some(r"\{1, 2\}")),
            (r"\boxed{open", None),
            ("none", None),
        ] {
            assert_eq!(boxed(text), content, "{text}");
        }
    }

    #[test]
    fn unicode_becomes_plain() {
        for (text, plain) in [
            ("７２", "72"),
            ("−3", "-3"),
            ("–3", "-3"),
            ("2½", "2 1/2"),
            ("2⅒", "2 1/10"),
            ("2\u{a0}1/2", "2 1/2"),
            ("10⁶", "10^6"),
            ("10⁻¹²", "10^(-12)"),
            ("1 234", "1234"),
            ("1 000 000", "1000000"),
            ("1'234", "1234"),
            ("1’234’567", "1234567"),
            ("1 2345", "1 2345"),
            ("12 34 567", "12 34 567"),
            ("x2 345", "x2 345"),
            ("2 125/1000", "2 125/1000"),
            ("1\u{202f}000", "1000"),
            ("“Help!”", "\"Help!\""),
            ("cafe\u{301}", "café"),
            ("北京。", "北京."),
            ("٤٢ ४२ ৪২ ๔๒ 𝟒𝟐", "42 42 42 42 42"),
            ("١٬٢٣٤٫٥٪", "1,234.5%"),
        ] {
            assert_eq!(plain_unicode(text), plain, "{text}");
        }
    }
}
