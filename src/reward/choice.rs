//! Multiple choice: the letter that an answer chooses.

use super::plain::{boxed, plain_unicode, without_latex};

/// The letter of a gold that is one and nothing else: `B`, `(b)`, `C.`.
pub(super) fn letter(gold: &str) -> Option<char> {
    let plain = plain_unicode(&without_latex(boxed(gold).unwrap_or(gold)));
    let bare = plain.trim_matches(|c: char| c.is_whitespace() || "()[]{}.:*\"'$".contains(c));
    let mut characters = bare.chars();
    match (characters.next(), characters.next()) {
        (Some(c), None) if c.is_ascii_alphabetic() => Some(c.to_ascii_uppercase()),
        _ => None,
    }
}

/// The letter that an answer chooses: all that it says, what follows its last `answer is`, `answer:`
/// or `option`, or what it begins with before `.`, `)` or `:`.
pub(super) fn chosen(answer: &str) -> Option<char> {
    if boxed(answer).is_some() {
        return letter(answer);
    }
    if let Some(letter) = letter(answer) {
        return Some(letter);
    }
    let plain = plain_unicode(&without_latex(answer));
    let upper = plain.to_ascii_uppercase();
    let named = ["ANSWER IS", "ANSWER:", "OPTION", "CHOICE"]
        .into_iter()
        .filter_map(|mark| Some(upper.rfind(mark)? + mark.len()))
        .max();
    if let Some(at) = named {
        return first_letter(&plain[at..]);
    }
    let first = plain.trim_start_matches(|c: char| c.is_whitespace() || "(*[".contains(c));
    let mut characters = first.chars();
    let letter = characters.next().filter(char::is_ascii_alphabetic)?;
    let is_marked = matches!(characters.next(), Some('.' | ')' | ':' | ']'));
    is_marked.then(|| letter.to_ascii_uppercase())
}

/// The letter that text begins with, if it stands alone.
fn first_letter(text: &str) -> Option<char> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || "(*[:\"'$".contains(c));
    let mut characters = text.chars();
    let letter = characters.next().filter(char::is_ascii_alphabetic)?;
    let is_alone = characters.next().is_none_or(|c| !c.is_alphanumeric() && c != '\'');
    // `The answer is a dog`.
    let is_article = letter == 'a' && text.starts_with("a ");
    (is_alone && !is_article).then(|| letter.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_letter_is_found() {
        for (answer, found) in [
            ("B", Some('B')),
            ("(b)", Some('B')),
            ("**C**", Some('C')),
            ("B. Paris", Some('B')),
            ("(B) Paris", Some('B')),
            ("The answer is (C).", Some('C')),
            ("Answer: D", Some('D')),
            (r"\boxed{A}", Some('A')),
            (r"\boxed{\text{(A)}}", Some('A')),
            ("Option B is wrong, so the answer is C", Some('C')),
            ("The answer is a dog", None),
            ("A dog", None),
            ("Because of that", None),
            ("The answer is Berlin", None),
            (r"\boxed{12}", None),
            ("", None),
        ] {
            assert_eq!(chosen(answer), found, "{answer}");
        }
    }
}
