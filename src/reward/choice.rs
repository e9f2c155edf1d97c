//! Multiple choice: the option that an answer chooses.

use super::answer::{Normalization, exact_match};
use super::latex::without_latex;
use super::plain::{boxed, plain_unicode};
use super::words::is_symbol;

/// Whether an answer chooses the label that the first gold is, or is one of the golds in words. Of
/// further golds, one that could be the label of another option counts for nothing.
pub(super) fn is_correct(answer: &str, golds: &[String]) -> bool {
    let Some(first) = golds.first() else { return false };
    let answer = answer.replace("<answer>", "Answer: ").replace("</answer>", "\n");
    let answer = answer.as_str();
    let wanted = label(first);
    if wanted.is_some_and(|wanted| chosen(answer, Labels::of(wanted)) == Some(wanted)) {
        return true;
    }
    let is_label = |gold: &str| {
        wanted.zip(label(gold)).is_some_and(|(own, other)| Labels::of(own) == Labels::of(other))
    };
    let mut texts = golds.iter().filter(|gold| !is_label(gold));
    let tail = after_answer(answer);
    texts.any(|gold| {
        let is = |text: &str| exact_match(text, gold, Normalization::Strict);
        is(answer) || tail.is_some_and(is)
    })
}

/// The label that an answer chooses, of the kind that `gold` is: a letter or a digit.
pub fn chosen_label(answer: &str, gold: &str) -> Option<char> {
    label(gold).and_then(|gold| chosen(answer, Labels::of(gold)))
}

/// What options are labelled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Labels {
    Letters,
    Digits,
}

impl Labels {
    fn of(label: char) -> Self {
        if label.is_ascii_digit() { Self::Digits } else { Self::Letters }
    }

    fn has(self, c: char) -> bool {
        match self {
            Self::Letters => c.is_ascii_alphabetic(),
            Self::Digits => c.is_ascii_digit(),
        }
    }
}

/// The label of a gold that is one and nothing else: `B`, `(b)`, `C.`, `2`.
fn label(gold: &str) -> Option<char> {
    let plain = plain(gold);
    let bare =
        bare_line(&plain).trim_matches(|c: char| c.is_whitespace() || "()[]{}.:*\"'$!".contains(c));
    let mut characters = bare.chars();
    match (characters.next(), characters.next()) {
        (Some(c), None) if c.is_ascii_alphanumeric() => Some(c.to_ascii_uppercase()),
        _ => None,
    }
}

fn plain(text: &str) -> String {
    plain_unicode(&without_latex(boxed(text).unwrap_or(text)))
}

/// What follows the last `answer is` or `answer:`.
fn after_answer(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let ends = ["answer is", "answer:"].map(|mark| Some(lower.rfind(mark)? + mark.len()));
    Some(&text[ends.into_iter().flatten().max()?..])
}

/// The label that an answer chooses: all that it says; else what follows its last `answer`, what
/// its last line is, what it begins with, what it calls an option or a choice, or what it ends
/// with. `None` where it leaves several open.
fn chosen(answer: &str, labels: Labels) -> Option<char> {
    if let Some(label) = label(answer) {
        return Some(label).filter(|label| labels.has(*label));
    }
    let plain = plain(answer).replace("<b>", "").replace("</b>", "");
    let rules = [named_answer, last_line, first, named_option, last];
    for rule in rules {
        match rule(&plain, labels) {
            Found::Label(label) => return Some(label),
            Found::Several => return None,
            Found::Nothing => {}
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Label(char),
    /// It hedges.
    Several,
    Nothing,
}

/// `answer` in the languages that multiple-choice questions are often translated into.
const ANSWERS: [&str; 11] = [
    "answer",
    "antwort",
    "respuesta",
    "réponse",
    "resposta",
    "risposta",
    "ответ",
    "Ответ",
    "答案",
    "故选",
    "故選",
];

/// Words between `answer` and the label.
const FILLERS: [&str; 32] = [
    "is",
    "was",
    "would",
    "should",
    "must",
    "will",
    "be",
    "therefore",
    "clearly",
    "thus",
    "so",
    "option",
    "choice",
    "letter",
    "the",
    "to",
    "this",
    "question",
    "likely",
    "probably",
    "definitely",
    "indeed",
    "then",
    "correct",
    "best",
    "ist",
    "lautet",
    "es",
    "est",
    "la",
    "correcta",
    "correta",
];

/// The label after the last `answer` that has one.
fn named_answer(text: &str, labels: Labels) -> Found {
    let mut named: Vec<&str> = ANSWERS.iter().flat_map(|mark| marked(text, mark)).collect();
    // The last first.
    named.sort_unstable_by_key(|rest| rest.len());
    named
        .into_iter()
        .map(|rest| chosen_at(without_fillers(rest), labels))
        .find(|found| *found != Found::Nothing)
        .unwrap_or(Found::Nothing)
}

/// The label that the last of several lines is (`**B**`) or begins with (`B) Paris`), unless that
/// line goes on with a list or calls it wrong.
fn last_line(text: &str, labels: Labels) -> Found {
    let mut lines = text.lines().rev().map(bare_line).filter(|line| !line.is_empty()).peekable();
    let Some(line) = lines.next() else { return Found::Nothing };
    let Some((label, is_whole)) = labelled(line, labels) else { return Found::Nothing };
    if lines.peek().is_none() {
        return Found::Nothing;
    }
    // The nearest first.
    let earlier: Vec<char> = lines
        .filter_map(|line| labelled(line, labels).filter(|(_, whole)| *whole == is_whole))
        .map(|(label, _)| label)
        .collect();
    let follows = |before: &char| u32::from(*before) + 1 == u32::from(label);
    let is_listed = earlier.first().is_some_and(|near| !earlier.contains(&label) || follows(near));
    // `A) Rome B) Paris` and `J. K. Rowling` have several labels, `B) Vitamin C.` has one.
    let is_other = |word: &str| begins_other(word, label, labels);
    let has_others = line.trim_end_matches('.').split_whitespace().skip(1).any(is_other);
    let is_wrong = ["wrong", "incorrect"].iter().any(|word| marked(line, word).next().is_some());
    // `Option B is correct.`, and then why another is not.
    let chose_other = || {
        let begins = label_at(text, labels).is_some_and(|(c, rest)| c != label && affirms(rest));
        begins || matches!(named_option(text, labels), Found::Label(c) if c != label)
    };
    match is_listed || has_others || is_wrong || (!is_whole && chose_other()) {
        true => Found::Nothing,
        false => chosen_at(line, labels),
    }
}

/// A line without emphasis and the marks of a heading or a quotation.
fn bare_line(line: &str) -> &str {
    let is_emphasis = |c: char| c.is_whitespace() || "*_`".contains(c);
    line.trim_start_matches(|c: char| is_emphasis(c) || "#>".contains(c))
        .trim_end_matches(is_emphasis)
}

/// The label that a line is, or begins with before a mark and a space, and whether it is nothing
/// else.
fn labelled(line: &str, labels: Labels) -> Option<(char, bool)> {
    if let Some(label) = label(line).filter(|label| labels.has(*label)) {
        return Some((label, true));
    }
    // `i.e.` begins with none.
    let behind_mark = line.trim_start_matches(['(', '[']).chars().nth(2);
    let is_option = begins_option(line, labels) && !behind_mark.is_some_and(char::is_alphanumeric);
    let (label, _) = label_at(line, labels).filter(|_| is_option)?;
    Some((label, false))
}

/// The label that text begins with, before a mark, the end of the line, or `is correct`.
fn first(text: &str, labels: Labels) -> Found {
    let Some((label, rest)) = label_at(text, labels) else { return Found::Nothing };
    if !begins_option(text, labels) && !affirms(rest) && !follows_softly(text, label, rest) {
        return if hedges(label, rest, labels) { Found::Several } else { Found::Nothing };
    }
    let is_other = |line: &str| begins_other(line, label, labels);
    let is_only_other = |line: &str| {
        labelled(bare_line(line), labels)
            .is_some_and(|(other, is_whole)| is_whole && other != label)
    };
    // `A. Apple`, `B. Banana`: the options themselves; or `A` and `B`, each on a line.
    let has_others = text.lines().skip(1).any(|line| is_other(line) || is_only_other(line));
    match has_others || is_other(rest.trim_start_matches(['.', ':'])) {
        true => Found::Several,
        false => chosen_at(text, labels),
    }
}

/// Whether text begins with a label and the mark of one: `B)`, `B.`, `B:`, `(B`.
fn begins_option(text: &str, labels: Labels) -> bool {
    let bare = text.trim_start_matches(|c: char| c.is_whitespace() || "(*[".contains(c));
    let mut characters = bare.chars();
    let is_label = characters.next().is_some_and(|c| labels.has(c));
    let is_marked = matches!(characters.next(), Some('.' | ')' | ':' | ']'));
    is_label && is_marked && !characters.next().is_some_and(|c| c.is_ascii_digit())
}

/// Whether text begins with another label than this and its mark.
fn begins_other(text: &str, label: char, labels: Labels) -> bool {
    begins_option(text, labels) && label_at(text, labels).is_some_and(|(other, _)| other != label)
}

/// Whether a capital begins a text of its own: `B, because`, `B - Paris`, or a line.
fn follows_softly(text: &str, label: char, rest: &str) -> bool {
    let is_capital = text.trim_start_matches(|c: char| !c.is_alphanumeric()).starts_with(label);
    let is_mark = rest.starts_with([',', '\n', ';']) || rest.starts_with(" - ");
    is_capital && is_mark && label != 'I'
}

/// The only label that is called an option or chosen, and not called wrong.
fn named_option(text: &str, labels: Labels) -> Found {
    let marks = ["option", "choice", "choose", "pick", "select", "it's", "it is", "letter"];
    let mut found = Vec::new();
    for mark in marks {
        found.extend(marked(text, mark).map(|rest| chosen_at(without_fillers(rest), labels)));
    }
    found.retain(|found| *found != Found::Nothing);
    found.dedup();
    match found.as_slice() {
        [] => Found::Nothing,
        [only] => *only,
        _ => Found::Several,
    }
}

/// What may stand before a label at the end.
const CONCLUSIONS: [&str; 4] = [" is ", " must be ", " should be ", " has to be "];
/// What a last sentence of a label may begin with.
const LEADS: [&str; 8] =
    ["thus", "therefore", "hence", "so", "response", "solution", "conclusion", "final"];

/// The label at the end, after `is`, `must be` or `Thus,`, or alone in parentheses: `Paris (B)`.
fn last(text: &str, labels: Labels) -> Found {
    let end = text.trim_end_matches(|c: char| c.is_whitespace() || ".*\"$!".contains(c));
    let bare = end.trim_end_matches([')', ']']);
    let Some(label) = bare.chars().next_back().filter(|c| labels.has(*c)) else {
        return Found::Nothing;
    };
    let before = &bare[..bare.len() - 1];
    let is_bracketed = bare.len() < end.len()
        && before.ends_with(['(', '['])
        && !before[..before.len() - 1].contains(['(', '[']);
    let before = before.trim_end_matches(['(', '[', '*', '"', '$']);
    let lower = before.to_ascii_lowercase();
    let sentence = lower.rsplit(['.', '!', '?', '\n']).next().unwrap_or_default();
    let lead = sentence.trim_matches(|c: char| !c.is_alphanumeric());
    let is_apart = before.ends_with(|c: char| c.is_whitespace() || c == ':');
    let concludes = CONCLUSIONS.iter().any(|words| lower.ends_with(*words))
        || (is_apart && LEADS.contains(&lead));
    match is_bracketed || (concludes && !label.is_ascii_lowercase()) {
        true => Found::Label(label.to_ascii_uppercase()),
        false => Found::Nothing,
    }
}

/// What follows each place where `mark` stands as a word. Words of Chinese stand side by side.
fn marked<'t>(text: &'t str, mark: &str) -> impl DoubleEndedIterator<Item = &'t str> {
    let lower = text.to_ascii_lowercase();
    let ends: Vec<usize> = lower
        .match_indices(mark)
        .filter(|(at, _)| !(mark.starts_with(is_symbol) && lower[..*at].ends_with(is_symbol)))
        .map(|(at, _)| at + mark.len())
        .filter(|end| !(mark.ends_with(is_symbol) && lower[*end..].starts_with(is_symbol)))
        .collect();
    ends.into_iter().map(move |end| &text[end..])
}

/// Characters between `answer` and the label; `é` is a word of Portuguese.
const MARKS: &str = ":=*_éè是为為应應该該选選项項";

fn without_fillers(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || MARKS.contains(c));
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let word = rest[..length].to_ascii_lowercase();
        if !FILLERS.contains(&word.as_str()) || rest[length..].starts_with('\'') {
            return rest;
        }
        rest = &rest[length..];
    }
}

/// The label that text begins with, if it stands alone, and what follows it.
fn label_at(text: &str, labels: Labels) -> Option<(char, &str)> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || "(*[:\"'$".contains(c));
    let mut characters = text.chars();
    let label = characters.next().filter(|c| labels.has(*c))?;
    let rest = characters.as_str();
    let is_decimal = label.is_ascii_digit()
        && rest
            .strip_prefix(['.', ',', ':'])
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let is_alone = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\'') && !is_decimal;
    // `The answer is a dog`, `I think`.
    let begins_word = |rest: &str| rest.trim_start().starts_with(char::is_alphabetic);
    let is_word = match label {
        'a' => rest.starts_with(' ') && begins_word(rest),
        'I' => rest.starts_with([' ', ',']) && begins_word(&rest[1..]) && !affirms(rest),
        _ => false,
    };
    let rest = rest.trim_start_matches([')', ']', '*', '"', '\'', '$']);
    (is_alone && !is_word).then(|| (label.to_ascii_uppercase(), rest))
}

/// The label that text begins with, unless the text calls it wrong or names further ones.
fn chosen_at(text: &str, labels: Labels) -> Found {
    match label_at(text, labels) {
        None => Found::Nothing,
        Some((_, rest)) if is_denied(rest) => Found::Nothing,
        Some((label, rest)) if hedges(label, rest, labels) => Found::Several,
        Some((label, _)) => Found::Label(label),
    }
}

/// The words that follow `is` behind a label.
fn predicate(rest: &str) -> Option<&str> {
    let rest = rest.trim_start();
    ["is ", "was ", "are "].iter().find_map(|word| rest.strip_prefix(word)).map(str::trim_start)
}

/// Whether a label is called right: `is correct`, `is the answer`.
fn affirms(rest: &str) -> bool {
    let right =
        ["correct", "right", "true", "the answer", "the correct", "the right", "the best", "my"];
    predicate(rest).is_some_and(|words| right.iter().any(|right| words.starts_with(right)))
}

/// Whether a label is called wrong.
fn is_denied(rest: &str) -> bool {
    let wrong = ["wrong", "incorrect", "false", "not", "too", "impossible", "out", "invalid"];
    let rest = rest.trim_start_matches(['.', ':']);
    let rest_words = rest.trim_start();
    predicate(rest).is_some_and(|words| wrong.iter().any(|wrong| words.starts_with(wrong)))
        || ["isn't", "can't", "cannot"].iter().any(|word| rest_words.starts_with(word))
}

/// Whether another label follows: `A or B`, `A/B`, `A, B`, `A; B`.
fn hedges(label: char, rest: &str, labels: Labels) -> bool {
    let rest = rest.trim_start();
    let next = ["or ", "and ", "/", ",", ";", "&"].iter().find_map(|mark| rest.strip_prefix(mark));
    let is_or = rest.starts_with("or ");
    next.is_some_and(|next| {
        let is_other =
            label_at(next, labels).is_some_and(|(other, rest)| other != label && !is_denied(rest));
        is_or || (is_other && !next.trim_start().starts_with("I "))
    })
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
