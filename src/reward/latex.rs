//! LaTeX as plain text.

use super::plain::without_separators;

/// Opens a matrix, and one between bars (a determinant); `CLOSINGS` close them.
pub(super) const MATRICES: [char; 2] = ['⟦', '⟬'];
/// Closes what `MATRICES` opens.
pub(super) const CLOSINGS: [char; 2] = ['⟧', '⟭'];
/// Between the rows of a matrix; `&` stands between its columns.
pub(super) const ROW: char = '⏎';

/// Text without LaTeX: `\frac{1}{2}` is `1/2`, `\sqrt{2}` is `sqrt(2)`, `\text{ km}` is ` km `,
/// `\{1\}` is `{1}`, `x^{10}` is `x^(10)`, a matrix of two rows is `⟦1⏎2⟧`. Groups nested too
/// deeply are left out.
pub(super) fn without_latex(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut latex = Latex { characters: &characters, at: 0, depth: 0, matrices: 0 };
    without_separators(&latex.rest())
}

/// Groups inside groups, at most.
const MAX_DEPTH: u32 = 32;

struct Latex<'a> {
    characters: &'a [char],
    at: usize,
    depth: u32,
    /// In how many matrices this is.
    matrices: u32,
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
                let is_joined = self.peek().is_some_and(|c| c.is_ascii_digit());
                match out.ends_with(['^', '_']) {
                    true if content.chars().count() > 1 || is_joined => {
                        out.push_str(&format!("({content})"));
                    }
                    _ => out.push_str(&content),
                }
            }
            Some('}') | None => {}
            Some('~') => out.push(' '),
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
        Latex { characters, at: 0, depth: self.depth + 1, matrices: self.matrices }.rest()
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
        let before = out.len();
        match name.as_str() {
            "" => self.symbol(out),
            "frac" | "dfrac" | "tfrac" | "cfrac" => {
                let (over, under) = (self.argument(), self.argument());
                let separator = before_fraction(out);
                out.extend(separator);
                let fraction = format!("{}/{}", bracketed(&over), below(&under));
                match out.ends_with(['^', '_']) {
                    true => out.push_str(&format!("({fraction})")),
                    false => out.push_str(&fraction),
                }
                if self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    out.push('*');
                }
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
            | "operatorname" | "mathbb" | "mathcal" | "mathsf" | "mathtt" | "textsf" | "texttt"
            | "textnormal" | "textsc" | "emph" | "underline" | "boldsymbol" | "bm" | "hbox" => {
                let content = self.argument();
                out.push_str(&format!(" {content} "));
            }
            "boxed" | "fbox" => out.push_str(&self.argument()),
            "hspace" | "vspace" | "phantom" | "color" | "label" | "tag" => drop(self.argument()),
            "binom" | "dbinom" | "tbinom" => {
                let (over, under) = (self.argument(), self.argument());
                out.push_str(&format!("binom({over};{under})"));
            }
            "overline" if number_at_end(out).contains('.') => self.overline(out),
            "begin" => self.begin(out),
            "end" => self.end(out),
            "left" | "right" => self.at += usize::from(self.peek() == Some('.')),
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr"
            | "displaystyle" | "limits" => {}
            "quad" | "qquad" | "thinspace" | "enspace" => out.push(' '),
            "cdot" | "times" | "ast" => out.push('*'),
            "div" => out.push('/'),
            "pm" => out.push('±'),
            "infty" => out.push_str("inf"),
            "cup" => out.push('∪'),
            "le" | "leq" | "leqslant" => out.push('≤'),
            "ge" | "geq" | "geqslant" => out.push('≥'),
            "lt" => out.push('<'),
            "gt" => out.push('>'),
            "ne" | "neq" => out.push('≠'),
            "equiv" => out.push('≡'),
            "in" => out.push('∈'),
            "emptyset" | "varnothing" => out.push('∅'),
            "langle" => out.push('⟨'),
            "rangle" => out.push('⟩'),
            "lfloor" => out.push('⌊'),
            "rfloor" => out.push('⌋'),
            "lceil" => out.push('⌈'),
            "rceil" => out.push('⌉'),
            "lvert" | "rvert" | "vert" => out.push('|'),
            "lbrace" => out.push('{'),
            "rbrace" => out.push('}'),
            "ldots" | "dots" | "cdots" => out.push_str("..."),
            "circ" | "degree" => {
                if out.ends_with('^') {
                    out.pop();
                }
                out.push('°');
            }
            _ => self.unknown(&name, out),
        }
        // `x\sqrt{2}` is no `xsqrt`.
        let is_letter = |c: char| c.is_ascii_alphabetic();
        let is_name = out.get(before..).is_some_and(|added| added.starts_with(is_letter));
        if is_name && out[..before].ends_with(is_letter) {
            out.insert(before, ' ');
        }
    }

    /// A command by its name, its arguments each in parentheses.
    fn unknown(&mut self, name: &str, out: &mut String) {
        out.push_str(name);
        let begin = out.len();
        while self.peek() == Some('{') && self.depth < MAX_DEPTH {
            let content = self.argument();
            if !content.is_empty() {
                out.push_str(&format!("({content})"));
            }
        }
        // `\pi r` are two names.
        if out.len() == begin && self.peek() != Some(' ') {
            out.push(' ');
        }
    }

    /// A line over digits that repeat, or over anything else behind a decimal number.
    fn overline(&mut self, out: &mut String) {
        let digits = self.argument();
        match repeating(number_at_end(out), &digits) {
            Some(fraction) => {
                let length = out.len() - number_at_end(out).len();
                out.truncate(length);
                out.push_str(&fraction);
            }
            None => out.push_str(&format!("overline({digits})")),
        }
    }

    fn begin(&mut self, out: &mut String) {
        let Some(kind) = kind(&self.argument()) else { return out.push(' ') };
        // The columns of an `array`, or an alignment.
        if self.peek() == Some('{') && self.depth < MAX_DEPTH {
            drop(self.argument());
        }
        self.matrices += 1;
        out.push(MATRICES[kind]);
    }

    fn end(&mut self, out: &mut String) {
        let Some(kind) = kind(&self.argument()) else { return out.push(' ') };
        self.matrices = self.matrices.saturating_sub(1);
        out.push(CLOSINGS[kind]);
    }

    /// A command of one character that is no letter.
    fn symbol(&mut self, out: &mut String) {
        match self.next() {
            Some(c @ ('$' | '%' | '&' | '#' | '_' | '{' | '}' | '|')) => out.push(c),
            Some('!') | None => {}
            Some('\\') if self.matrices > 0 => out.push(ROW),
            Some(_) => out.push(' '),
        }
    }
}

/// Which of `MATRICES` an environment is.
fn kind(environment: &str) -> Option<usize> {
    match environment {
        "matrix" | "pmatrix" | "bmatrix" | "Bmatrix" | "smallmatrix" | "array" => Some(0),
        "vmatrix" | "Vmatrix" => Some(1),
        _ => None,
    }
}

/// The digits and points that a text ends with, unless a comma stands before them.
fn number_at_end(text: &str) -> &str {
    let before = text.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if before.ends_with(',') { "" } else { &text[before.len()..] }
}

/// In parentheses, unless it is a number or a name.
fn bracketed(text: &str) -> String {
    let text = text.trim();
    match text.chars().all(char::is_alphabetic) {
        true => text.to_owned(),
        false => below(text),
    }
}

/// In parentheses, unless it is a number: what follows `1/x` or stands in `1/2x` would be read with
/// it.
fn below(text: &str) -> String {
    let text = text.trim();
    match text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        true => text.to_owned(),
        false => format!("({text})"),
    }
}

/// What separates a fraction from the text before it: a whole number makes it mixed, another
/// fraction or a variable is a factor.
fn before_fraction(text: &str) -> Option<char> {
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let whole = text.trim_end_matches(|c: char| c.is_ascii_digit());
    if whole.len() < text.len() {
        return Some(if whole.ends_with('/') { '*' } else { ' ' });
    }
    let before = text.strip_suffix(is_letter);
    let is_variable = before.is_some_and(|before| !before.ends_with(is_letter));
    (is_variable || text.ends_with(')')).then_some('*')
}

/// The fraction that a decimal number is whose last digits repeat: `0.1` and then `6`, without end,
/// is `(15/90)`.
fn repeating(number: &str, digits: &str) -> Option<String> {
    let (whole, part) = number.split_once('.')?;
    let power = |length: usize| 10_i128.checked_pow(u32::try_from(length).ok()?);
    let read = |digits: &str| match digits.is_empty() {
        true => Some(0),
        false => digits.parse::<i128>().ok(),
    };
    if digits.is_empty() || ![part, digits].concat().bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fixed = read(&[whole, part].concat())?;
    let over = read(&[whole, part, digits].concat())?.checked_sub(fixed)?;
    let under = (power(digits.len())? - 1).checked_mul(power(part.len())?)?;
    Some(format!("({over}/{under})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latex_becomes_plain() {
        for (text, plain) in [
            (r"\frac12", "1/2"),
            (r"2\frac{1}{2}", "2 1/2"),
            (r"-\dfrac{3}{4}", "-3/4"),
            (r"\frac{x+1}{2}", "(x+1)/2"),
            (r"\frac{1}{2x}", "1/(2x)"),
            (r"\frac{1}{x}y", "1/(x)y"),
            (r"x\frac12", "x*1/2"),
            (r"\frac12\frac13", "1/2*1/3"),
            (r"x^\frac12", "x^(1/2)"),
            (r"\frac123", "1/2*3"),
            (r"0.1\overline{6}", "(15/90)"),
            (r"2.\overline3", "(21/9)"),
            (r"-.\overline{45}", "-(45/99)"),
            (r"0.5\overline{x}", "0.5overline(x)"),
            (r"\overline{AB}", "overline(AB)"),
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
            (r"x\sqrt{2}", "x sqrt(2)"),
            (r"r\cos\theta", "r cos theta "),
            (r"2\,1/2", "2 1/2"),
            (r"2^{3}4", "2^(3)4"),
            (r"x^{2}y", "x^2y"),
            (r"\binom{1}{23}", "binom(1;23)"),
            (r"\vec{a}{b}", "vec(a)(b)"),
            (r"\begin{pmatrix}\frac12\\2&x\end{pmatrix}", "⟦1/2⏎2&x⟧"),
            (r"\begin{vmatrix}1\end{vmatrix}", "⟬1⟭"),
            (r"x\in[1,2]", "x∈[1,2]"),
        ] {
            assert_eq!(without_latex(text), plain, "{text}");
        }
    }
}
