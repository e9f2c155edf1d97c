//! The context of a number in running text, which may make it a part of something else.

use super::equation::has_variables;
use super::number::Number;
use super::scanner::Scanner;
use super::unit::{COMPOUND, MAX_NAME, Unit, unit};
use super::words::{is_mathematics, is_operand, is_part, is_symbol, is_variables, multiplier};

/// How far back the beginning of a bracket or of an equation is looked for, characters.
const MAX_BACK: usize = 80;

impl Scanner {
    /// The last number, if what comes last is one.
    pub(super) fn last(&mut self) -> Option<Number> {
        self.all().pop().flatten()
    }

    /// The number, if there is only one.
    pub(super) fn only(&mut self) -> Option<Number> {
        let all = self.all();
        if all.len() == 1 { all.into_iter().next().flatten() } else { None }
    }

    /// The numbers of the text; `None` for each that is part of something else.
    fn all(&mut self) -> Vec<Option<Number>> {
        let mut all = Vec::new();
        while self.at < self.characters.len() {
            let begin = self.at;
            if self.peek(0) == Some('(') {
                let found = self.attempt(|scanner| scanner.number_at(begin));
                all.extend(found.map(Some));
                self.at = self.at.max(begin + 1);
                continue;
            }
            let is_start = self.peek(0).is_some_and(|c| c.is_ascii_digit())
                || (self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()));
            if !is_start {
                self.at += 1;
                continue;
            }
            let found = self.number_at(begin);
            all.push(found);
            if found.is_none() {
                // Past the rest of what is no number.
                let is_rest = |c: char| is_symbol(c) || ".,/-:*^+()".contains(c);
                self.at = self.at.max(begin);
                while self.take(is_rest) {}
                self.at = self.at.max(begin + 1);
            }
        }
        all
    }

    /// The number whose first digit or parenthesis is here, with what stands around it.
    fn number_at(&mut self, begin: usize) -> Option<Number> {
        let mut start = begin;
        if self.before(start).is_some_and(|c| matches!(c, '$' | '€' | '£' | '¥' | '₹')) {
            start -= 1;
            let is_upper = |c: &&char| c.is_ascii_uppercase();
            start -= self.characters[..start].iter().rev().take(3).take_while(is_upper).count();
        }
        let sign = self.sign_before(start)?;
        // With the currency, on which the meaning of `M` depends.
        self.at = start;
        let mut number = self.number()?;
        if number.numerator == i128::MIN {
            return None;
        }
        number.numerator *= sign;
        let is_whole = self.is_alone(begin, &mut number)
            && !number.unit.is_some_and(|unit| self.is_further_part(start, unit));
        is_whole.then_some(number)
    }

    /// Whether another part of the same quantity stands before a number with this unit: `2 hours
    /// and`, `5 feet`.
    fn is_further_part(&self, start: usize, own: Unit) -> bool {
        let (mut name, mut begin) = self.word_before(self.trimmed(start));
        if name == "and" {
            let end = self.trimmed(begin);
            let has_comma = self.before(end) == Some(',');
            (name, begin) = self.word_before(self.trimmed(end - usize::from(has_comma)));
        }
        let before = self.trimmed(begin);
        let is_counted =
            self.is_operand(before) || matches!(self.word_before(before).0.as_str(), "an" | "one");
        is_counted && unit(&name).is_some_and(|unit| unit.is_combined_with(own))
    }

    /// Whether the mark of a list or of a quotation in Markdown ends here: first on a line behind
    /// others, unless a calculation goes on there.
    fn is_bullet(&self, at: usize) -> bool {
        let is_mark = |at: usize| self.before(at).is_some_and(|c| "-*+>".contains(c));
        let Some(line) = self.line_start(at.saturating_sub(1)) else { return false };
        let end = self.trimmed(line);
        if !is_mark(at) || matches!(self.before(end), Some('=' | '(') | None) {
            return false;
        }
        // `52\n- 10`, but not `- 40\n- 42`, and not behind an empty line.
        let is_next = self.characters[end..line].iter().filter(|c| **c == '\n').count() == 1;
        let begin = self.characters[..end].iter().rposition(|c| *c == '\n').map_or(0, |at| at + 1);
        let indent = self.characters[begin..end].iter().take_while(|c| c.is_whitespace()).count();
        !(is_next && self.is_operand(end) && !is_mark(begin + indent + 1))
    }

    /// Where the line begins whose text before here is spaces; `None` on the first line, or if it
    /// has other text.
    fn line_start(&self, mut at: usize) -> Option<usize> {
        while self.before(at).is_some_and(|c| c != '\n' && c.is_whitespace()) {
            at -= 1;
        }
        (self.before(at) == Some('\n')).then_some(at)
    }

    /// Where the text before here ends without spaces.
    fn trimmed(&self, mut at: usize) -> usize {
        while self.before(at).is_some_and(char::is_whitespace) {
            at -= 1;
        }
        at
    }

    /// Whether a number or a bracket ends here, or a rate: `$5/week`.
    fn is_operand(&self, at: usize) -> bool {
        let is_number =
            |at: usize| self.before(at).is_some_and(|c| c.is_ascii_digit() || c == ')' || c == '%');
        let (word, begin) = self.word_before(at);
        let is_rate = || !word.is_empty() && self.before(begin) == Some('/');
        is_number(at) || (is_rate() && is_number(begin - 1))
    }

    /// 1 or -1 by what stands before a number; `None` where it is part of something else.
    fn sign_before(&self, start: usize) -> Option<i128> {
        let at = self.trimmed(start);
        let is_tight = at == start;
        if !is_tight && self.is_bullet(at) {
            return Some(1);
        }
        let at = if is_tight { at } else { self.before_emphasis(at) };
        let earlier = self.trimmed(at.saturating_sub(1));
        let sign = match self.before(at) {
            Some('-') if is_tight => match self.before(at - 1) {
                Some(c) if is_symbol(c) || ")-|".contains(c) => return None,
                _ => -1,
            },
            Some('-') if self.is_operand(earlier) => return None,
            // `x = - 3`; after a word it is a dash.
            Some('-') if matches!(self.before(earlier), Some('=' | ':' | '(') | None) => -1,
            // Emphasis in Markdown.
            Some('*') if is_tight && !self.is_factor(start) => 1,
            Some(c) if is_tight && (is_symbol(c) || "_^/)|".contains(c)) => return None,
            Some('*' | '/' | '^' | '+' | '_') => return None,
            _ => self.sign_in_words(at)?,
        };
        let bound = if sign == -1 && self.before(at) == Some('-') { earlier } else { at };
        (!self.is_bound(bound) && !self.is_element(bound)).then_some(sign)
    }

    /// Where the text before here ends without a mark that closes emphasis in Markdown, as in
    /// `**Answer:** 42`.
    fn before_emphasis(&self, at: usize) -> usize {
        let mut inner = at;
        while matches!(self.before(inner), Some('*' | '_')) {
            inner -= 1;
        }
        let is_closed = self.before(inner).is_some_and(|c| !c.is_whitespace());
        let is_operand = self.before(inner).is_some_and(|c| is_symbol(c) || c == ')');
        let is_word = self.word_before(inner).0.chars().count() > 1;
        if is_closed && (is_word || !is_operand) { inner } else { at }
    }

    /// Whether an operand stands before the stars that end here.
    fn is_factor(&self, start: usize) -> bool {
        let mut at = start;
        while self.before(at) == Some('*') {
            at -= 1;
        }
        self.before(at).is_some_and(|c| is_symbol(c) || c == ')')
    }

    /// The word that ends here, in lower case, and where it begins.
    fn word_before(&self, at: usize) -> (String, usize) {
        let mut begin = at;
        while self.before(begin).is_some_and(char::is_alphabetic) {
            begin -= 1;
        }
        (self.characters[begin..at].iter().collect::<String>().to_lowercase(), begin)
    }

    /// 1 or -1 by the word that ends here; `None` where it makes the number part of something else.
    fn sign_in_words(&self, at: usize) -> Option<i128> {
        let (word, begin) = self.word_before(at);
        let before = self.trimmed(begin);
        let earlier = || self.word_before(before).0;
        let is_after_number =
            || self.is_operand(before) || multiplier(&earlier(), false, false).is_some();
        match word.as_str() {
            "" => Some(1),
            "negative" => Some(-1),
            word if word.ends_with(['负', '負']) || word.ends_with("マイナス") => Some(-1),
            "minus" => (!is_after_number()).then_some(-1),
            "plus" | "times" | "x" | "or" | "and" | "和" | "或" | "と" => {
                (!is_after_number()).then_some(1)
            }
            "of" => (!matches!(earlier().as_str(), "half" | "third" | "quarter")).then_some(1),
            "not" | "double" | "分之" => None,
            "to" => (!self.is_range(before)).then_some(1),
            // `less than 5`, but `no more than 5`.
            "than" => {
                let (_, begin) = self.word_before(before);
                let word = self.word_before(self.trimmed(begin)).0;
                matches!(word.as_str(), "no" | "not").then_some(1)
            }
            word if word.ends_with("根号") || word.ends_with("根號") => None,
            word if is_mathematics(word) || multiplier(word, false, false).is_some() => None,
            _ => Some(1),
        }
    }

    /// Whether a number ends here that begins a range or a ratio: `40`, `is 40`, but not `from 40`.
    fn is_range(&self, end: usize) -> bool {
        let is_part = |c: &&char| c.is_ascii_digit() || ".,$%".contains(**c);
        let number = end - self.characters[..end].iter().rev().take_while(is_part).count();
        let word = self.word_before(self.trimmed(number)).0;
        self.is_operand(end) && matches!(word.as_str(), "" | "is" | "are" | "be" | "about")
    }

    /// Whether what ends here is a relation, an index, or the side of an equation that makes the
    /// number behind it no result.
    fn is_bound(&self, at: usize) -> bool {
        let Some(mark) = self.before(at) else { return false };
        let previous = self.before(at - 1);
        match mark {
            '<' | '≤' | '≥' | '≠' | '≡' | '±' | '∓' | '⟦' | '⟬' | '⏎' | '&' | '⌊' | '⌈' => {
                true
            }
            // `x > 5`, but not `->`, `=>`, `<b>` and `<<2+3=5>>5`.
            '>' => !matches!(previous, Some('-' | '=' | '>')) && !self.is_tag(at),
            '=' => match previous {
                Some('<' | '>' | '!') => true,
                _ => self.is_equation(at - 1),
            },
            // `log_2 5`.
            c if c.is_alphanumeric() || c == ')' => {
                let is_part = |c: &&char| c.is_alphanumeric() || "()".contains(**c);
                let length = self.characters[..at].iter().rev().take_while(is_part).count();
                self.before(at - length) == Some('_')
            }
            _ => false,
        }
    }

    /// Whether a tag of HTML ends here.
    fn is_tag(&self, at: usize) -> bool {
        let is_name = |c: &&char| c.is_alphanumeric() || **c == '/';
        let length = self.characters[..at - 1].iter().rev().take_while(is_name).count();
        length > 0 && self.before(at - 1 - length) == Some('<')
    }

    /// Whether the side of an equation that ends here makes the number behind it no result.
    fn is_equation(&self, at: usize) -> bool {
        has_variables(&self.characters[at.saturating_sub(MAX_BACK)..at].iter().collect::<String>())
    }

    /// Whether the number that begins here is an argument of a function, or an element of a tuple,
    /// an interval, a set or a list.
    fn is_element(&self, start: usize) -> bool {
        let first = start.saturating_sub(MAX_BACK);
        let mut depth = 0;
        for at in (first..start).rev() {
            match self.characters[at] {
                ')' | ']' | '}' | '⟩' => depth += 1,
                '(' | '[' | '{' | '⟨' if depth == 0 => {
                    return self.is_bracketed_element(at, start);
                }
                '(' | '[' | '{' | '⟨' => depth -= 1,
                _ => {}
            }
        }
        self.is_listed(start)
    }

    /// The same for a number behind the open bracket at `open`.
    fn is_bracketed_element(&self, open: usize, start: usize) -> bool {
        if self.before(open).is_some_and(|c| is_symbol(c) || "_^)-".contains(c)) {
            return true;
        }
        let inside: String = self.characters[open + 1..start].iter().collect();
        let is_word = |word: &str| word.len() > 1 && word != "inf";
        let has_words = inside.split(|c: char| !c.is_alphabetic()).any(is_word);
        if !has_words && inside.contains([',', ';']) {
            return true;
        }
        // The first of several.
        let rest = &self.characters[start..];
        let is_part = |c: &&char| c.is_ascii_digit() || c.is_whitespace() || ".-$".contains(**c);
        let next = rest.get(rest.iter().take_while(is_part).count());
        (inside.trim().is_empty() && matches!(next, Some(',' | ';'))) || self.is_listed(start)
    }

    /// Whether a list of numbers stands before here: `3, 5`, but not `in 2023, 5` and `May 5,
    /// 2024`.
    fn is_listed(&self, start: usize) -> bool {
        let comma = self.trimmed(start);
        let end = self.trimmed(comma.saturating_sub(1));
        let is_after_number = matches!(self.before(comma), Some(',' | ';'))
            && self.before(end).is_some_and(|c| c.is_ascii_digit());
        let is_part = |c: &&char| c.is_ascii_digit() || **c == '.';
        let number = end - self.characters[..end].iter().rev().take_while(is_part).count();
        let word = self.word_before(self.trimmed(number)).0;
        let opens_list =
            ["", "are", "is", "be", "were", "values", "numbers", "solutions", "roots", "and", "or"];
        // `共3，5`.
        let is_tight = self.before(number).is_some_and(|c| c.is_alphabetic() && !is_symbol(c));
        is_after_number && (is_tight || opens_list.contains(&word.as_str()))
    }

    /// Whether no operator, relation, variable or further part follows; takes the unit that does.
    fn is_alone(&mut self, begin: usize, number: &mut Number) -> bool {
        if self.continues() || matches!(self.peek(0), Some('‰' | '_')) {
            return false;
        }
        // A factorial; in a sentence it is a cry.
        if self.peek(0) == Some('!') && begin == 0 && self.at + 1 == self.characters.len() {
            return false;
        }
        let end = self.at;
        let is_adjacent = self.peek(0).is_some_and(char::is_alphabetic);
        self.spaces();
        let is_next_line = self.characters[end..self.at].contains(&'\n');
        if let Some(unit) = self.unit_ahead() {
            number.unit = number.unit.or(Some(unit));
            return true;
        }
        let word = self.word();
        if word.is_empty() {
            self.at = end;
            return !self.is_operated(end, number.unit.is_some());
        }
        let lower = word.to_lowercase();
        // `24 units^2`.
        if matches!(lower.as_str(), "unit" | "units") {
            self.attempt(|scanner| {
                scanner.spaces();
                scanner.take(|c| c == '^').then_some(())?;
                scanner.exponent()
            });
        }
        let is_power = self.peek(0) == Some('^');
        let is_letter = word.chars().count() == 1 && word.chars().all(is_symbol);
        let is_single = is_letter && !is_next_line && !["a", "A", "I"].contains(&word.as_str());
        let is_factor = is_single || (is_adjacent && (word == "a" || is_variables(&word)));
        // `2x` is no number, and `5x^2` is none.
        let is_root_or_power = ["根号", "根號", "次方"].iter().any(|word| lower.starts_with(word));
        !(is_power || is_factor || is_root_or_power || is_mathematics(&lower) || is_part(&lower))
    }

    /// The longest known unit that stands here; by another one it is a unit of its own.
    fn unit_ahead(&mut self) -> Option<Unit> {
        let is_inside = |c: char| c.is_alphanumeric() || "°µμ¢/^()- ".contains(c);
        let rest = &self.characters[self.at..];
        let length = rest.iter().take(MAX_NAME).take_while(|c| is_inside(**c)).count();
        let is_end = |end: usize| {
            !rest[end - 1].is_whitespace()
                && rest.get(end).is_none_or(|c| !is_symbol(*c) && *c != '^' && *c != '°')
        };
        let found = (1..=length).rev().filter(|end| is_end(*end)).find_map(|end| {
            let name: String = rest[..end].iter().collect();
            // `5 in total`.
            let is_preposition = name == "in" && rest[end..].iter().any(|c| c.is_alphanumeric());
            Some((unit(&name).filter(|_| !is_preposition)?, end))
        });
        let (unit, end) = found?;
        let is_compound =
            rest.get(end) == Some(&'/') && rest.get(end + 1).is_some_and(|c| c.is_alphabetic());
        self.at += end;
        Some(if is_compound { COMPOUND } else { unit })
    }

    /// Whether an operator and an operand follow, or a relation. Behind a slash or a tight dash a
    /// word is no operand: `$18/day`, `18-year-old`.
    fn is_operated(&self, at: usize, is_money: bool) -> bool {
        let rest = &self.characters[at..];
        let spaces = rest.iter().take_while(|c| c.is_whitespace()).count();
        let starts_operand = |text: &[char]| match text {
            ['.', next, ..] => next.is_ascii_digit(),
            [c, ..] => c.is_alphanumeric() || "($\u{221a}".contains(*c),
            [] => false,
        };
        let begins_operand = |text: &[char]| {
            let letters: String = text.iter().take_while(|c| c.is_alphabetic()).collect();
            starts_operand(text) && (letters.is_empty() || is_operand(&letters, is_money))
        };
        let mark = rest.get(spaces);
        let behind = &rest[(spaces + 1).min(rest.len())..];
        let gap = behind.iter().take_while(|c| c.is_whitespace()).count();
        match mark {
            // Digits that follow a space were no fraction: `2 3/2`.
            Some('(') => {
                spaces == 0 && behind.first().is_none_or(|c| is_symbol(*c) || !c.is_alphabetic())
            }
            // A list or a quotation in Markdown begins.
            Some('+' | '-' | '*' | '>') if gap > 0 && rest[..spaces].contains(&'\n') => false,
            Some('*') if behind.first() == Some(&'*') => false,
            // Emphasis ends: `*5* km`.
            Some('*') if spaces == 0 && gap > 0 => begins_operand(&behind[gap..]),
            Some('/') => begins_operand(&behind[gap..]),
            Some('+' | '*' | '^') => starts_operand(&behind[gap..]),
            Some('-') => {
                let is_tight = spaces == 0 && gap == 0 && begins_operand(behind);
                let is_spaced = gap > 0
                    && spaces > 0
                    && behind.get(gap).is_some_and(|c| c.is_ascii_digit() || *c == '$');
                is_tight || is_spaced
            }
            Some(':') => spaces == 0 && behind.first().is_some_and(char::is_ascii_digit),
            Some('±' | '∓' | '≤' | '≥' | '≠' | '≡' | '⏎' | '&' | '⟧' | '⟭' | '⌋' | '⌉') => {
                true
            }
            // Not a tag of HTML.
            Some('<') => !behind.first().is_some_and(|c| c.is_alphabetic() || *c == '/'),
            Some('>') => starts_operand(&behind[gap..]) && spaces == gap,
            _ => false,
        }
    }
}
