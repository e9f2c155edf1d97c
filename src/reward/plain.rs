//! Normalises Unicode forms and LaTeX to one way of writing.

use unicode_normalization::UnicodeNormalization;

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
    let mut out = String::with_capacity(text.len());
    let mut characters = text.nfc().peekable();
    while let Some(c) = characters.next() {
        let after_digit = out.ends_with(|c: char| c.is_ascii_digit());
        match c {
            '\u{ff01}'..='\u{ff5e}' => {
                out.extend(char::from_u32(c as u32 - 0xfee0));
            }
            // Between digits these separate thousands.
            '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2007}' => {
                let before_digit = characters.peek().is_some_and(char::is_ascii_digit);
                if !(after_digit && before_digit) {
                    out.push(' ');
                }
            }
            '\u{3000}' | '\u{2000}'..='\u{200a}' | '\u{205f}' => out.push(' '),
            '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => {}
            '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' => out.push('-'),
            '\u{2018}'..='\u{201b}' | '\u{2032}' | '\u{b4}' | '`' | '\u{2bc}' => out.push('\''),
            '\u{201c}'..='\u{201f}' | '\u{2033}' | '«' | '»' | '「' | '」' | '『' | '』' => {
                out.push('"');
            }
            '。' => out.push('.'),
            '、' => out.push(','),
            '…' => out.push_str("..."),
            '\u{2044}' | '\u{2215}' | '÷' => out.push('/'),
            '×' | '⋅' | '∙' => out.push('*'),
            _ => match vulgar(c) {
                Some(fraction) => {
                    out.push_str(if after_digit { " " } else { "" });
                    out.push_str(fraction);
                }
                None => out.push(c),
            },
        }
    }
    out
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
        _ => return None,
    })
}

/// Text without LaTeX: `\frac{1}{2}` is `1/2`, `\sqrt{2}` is `sqrt(2)`, `\text{ km}` is ` km `,
/// `\{1\}` is `{1}`, `x^{10}` is `x^(10)`. Groups nested too deeply are left out.
pub(super) fn without_latex(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut latex = Latex { characters: &characters, at: 0, depth: 0 };
    latex.rest()
}

/// Groups inside groups, at most.
const MAX_DEPTH: u32 = 32;

struct Latex<'a> {
    characters: &'a [char],
    at: usize,
    depth: u32,
}

impl Latex<'_> {
    fn rest(&mut self) -> String {
        let mut out = String::new();
        while self.at < self.characters.len() {
            self.item(&mut out);
        }
        out
    }

    fn next(&mut self) -> Option<char> {
        let c = self.characters.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    /// Appends what the next character, group or command stands for.
    fn item(&mut self, out: &mut String) {
        match self.next() {
            Some('\\') => self.command(out),
            Some('{') => {
                let content = self.group();
                if content == "°" && out.ends_with('^') {
                    out.pop();
                }
                match out.ends_with(['^', '_']) {
                    true if content.chars().count() > 1 => {
                        out.push('(');
                        out.push_str(&content);
                        out.push(')');
                    }
                    _ => out.push_str(&content),
                }
            }
            Some('}') | None => {}
            Some('~') => out.push(' '),
            Some('²') => out.push_str("^2"),
            Some('³') => out.push_str("^3"),
            Some('√') => out.push_str("sqrt"),
            Some('π') => out.push_str("pi"),
            Some('∞') => out.push_str("inf"),
            Some(c) => out.push(c),
        }
    }

    /// The content of a group whose brace was read.
    fn group(&mut self) -> String {
        let begin = self.at;
        let mut depth = 1;
        while let Some(c) = self.next() {
            match c {
                '\\' => self.at += 1,
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        let end = self.at.min(self.characters.len());
        let end = if depth == 0 { end - 1 } else { end };
        if self.depth >= MAX_DEPTH {
            return String::new();
        }
        let characters = &self.characters[begin.min(end)..end];
        Latex { characters, at: 0, depth: self.depth + 1 }.rest()
    }

    /// A command's argument: a group, a command or a character.
    fn argument(&mut self) -> String {
        while self.peek() == Some(' ') {
            self.at += 1;
        }
        let mut out = String::new();
        if self.depth < MAX_DEPTH {
            self.depth += 1;
            self.item(&mut out);
            self.depth -= 1;
        }
        out
    }

    fn command(&mut self, out: &mut String) {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let name: String = self.characters[begin..self.at].iter().collect();
        match name.as_str() {
            "" => self.symbol(out),
            "frac" | "dfrac" | "tfrac" | "cfrac" => {
                let (over, under) = (self.argument(), self.argument());
                if out.ends_with(|c: char| c.is_ascii_digit()) {
                    out.push(' ');
                }
                out.push_str(&format!("{}/{}", bracketed(&over), bracketed(&under)));
            }
            "sqrt" => {
                let mut degree = String::new();
                if self.peek() == Some('[') {
                    while let Some(c) = self.next().filter(|&c| c != ']') {
                        degree.extend((c != '[').then_some(c));
                    }
                }
                let content = self.argument();
                match degree.is_empty() {
                    true => out.push_str(&format!("sqrt({content})")),
                    false => out.push_str(&format!("({content})^(1/{})", bracketed(&degree))),
                }
            }
            "text" | "textbf" | "textit" | "textrm" | "mathrm" | "mathbf" | "mathit" | "mbox"
            | "operatorname" | "mathbb" | "mathcal" => {
                let content = self.argument();
                out.push_str(&format!(" {content} "));
            }
            "begin" | "end" => drop(self.argument()),
            "left" | "right" => self.at += usize::from(self.peek() == Some('.')),
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr"
            | "displaystyle" => {}
            "quad" | "qquad" | "thinspace" | "enspace" => out.push(' '),
            "cdot" | "times" | "ast" => out.push('*'),
            "div" => out.push('/'),
            "pm" => out.push('±'),
            "infty" => out.push_str("inf"),
            "cup" => out.push('∪'),
            "le" | "leq" => out.push('≤'),
            "ge" | "geq" => out.push('≥'),
            "ldots" | "dots" | "cdots" => out.push_str("..."),
            "circ" | "degree" => {
                if out.ends_with('^') {
                    out.pop();
                }
                out.push('°');
            }
            _ => {
                out.push_str(&name);
                // `\pi r` are two names.
                out.push_str(if self.peek() == Some(' ') { "" } else { " " });
            }
        }
    }

    /// A command of one character that is no letter.
    fn symbol(&mut self, out: &mut String) {
        match self.next() {
            Some(c @ ('$' | '%' | '&' | '#' | '_' | '{' | '}' | '|')) => out.push(c),
            Some(',' | ';' | ':' | ' ') => {
                let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
                if !(is_digit(out.chars().next_back()) && is_digit(self.peek())) {
                    out.push(' ');
                }
            }
            Some('!') | None => {}
            Some(_) => out.push(' '),
        }
    }
}

/// In parentheses, unless it is a number or a name.
fn bracketed(text: &str) -> String {
    let text = text.trim();
    match text.chars().all(|c| c.is_alphanumeric() || c == '.') {
        true => text.to_owned(),
        false => format!("({text})"),
    }
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
    fn unicode_and_latex_become_plain() {
        for (text, plain) in [
            ("７２", "72"),
            ("−3", "-3"),
            ("–3", "-3"),
            ("2½", "2 1/2"),
            ("1\u{202f}000", "1000"),
            ("“Help!”", "\"Help!\""),
            ("cafe\u{301}", "café"),
            ("北京。", "北京."),
        ] {
            assert_eq!(plain_unicode(text), plain, "{text}");
        }
        for (text, plain) in [
            (r"\frac12", "1/2"),
            (r"2\frac{1}{2}", "2 1/2"),
            (r"-\dfrac{3}{4}", "-3/4"),
            (r"\frac{x+1}{2}", "(x+1)/2"),
            (r"\sqrt{2}", "sqrt(2)"),
            (r"\sqrt[3]{8}", "(8)^(1/3)"),
            (r"18\text{ apples}", "18  apples "),
            (r"90^\circ", "90°"),
            (r"90^{\circ}", "90°"),
            (r"x^{10}", "x^(10)"),
            (r"\{1,2\}", "{1,2}"),
            (r"1{,}000", "1,000"),
            (r"1\,000", "1000"),
            (r"\left(1, 2\right)", "(1, 2)"),
            (r"2\pi r", "2pi r"),
        ] {
            assert_eq!(without_latex(text), plain, "{text}");
        }
    }
}
