//! References in prompts, so that a small policy need not copy a long text exactly.
//!
//! | in a prompt | stands for |
//! |---|---|
//! | `<question/>` | the question |
//! | `<reply N/>` | the whole reply that the policy got in turn `N`, counted from 1 |
//!
//! Names are in lower case; white space is allowed before the slash. Nothing else is a reference:
//! `<question>` or `<reply x/>` are sent as they are. Only prompts are expanded, never thoughts or
//! answers, and what is put in is not expanded again. In untrusted text `<question` and `<reply`
//! are escaped like the protocol's tags, so that a copy of it is no reference; in a prompt that
//! escaping is undone here, after the references are resolved.

use super::REFERENCES;
use super::escape::unescape_names;

/// Why the references of a prompt cannot be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpandError {
    /// There is no reply of this turn.
    Missing(usize),
    /// With them, the prompt is longer than it may be.
    TooLong,
}

/// `prompt` with its references resolved; `replies` has those of each turn so far, `None` where a
/// turn had none. A reference takes a few bytes and may stand for megabytes, so the result has at
/// most `max_bytes` bytes.
///
/// # Errors
/// For the first reference to a reply that does not exist, or that makes the prompt too long.
pub fn expand(
    prompt: &str,
    question: &str,
    replies: &[Option<&str>],
    max_bytes: usize,
) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(prompt.len());
    let mut rest = prompt;
    while let Some((before, reference, after)) = next(rest) {
        expanded.push_str(&unescape_names(before, &REFERENCES));
        let text = match reference {
            Reference::Question => question,
            Reference::Reply(turn) => {
                let reply = turn.checked_sub(1).and_then(|index| *replies.get(index)?);
                reply.ok_or(ExpandError::Missing(turn))?
            }
        };
        if expanded.len() + text.len() > max_bytes {
            return Err(ExpandError::TooLong);
        }
        expanded.push_str(text);
        rest = after;
    }
    expanded.push_str(&unescape_names(rest, &REFERENCES));
    Ok(expanded)
}

/// What two prompts share that differ only in case and white space: these are the same.
pub fn comparable(prompt: &str) -> String {
    let mut comparable = String::with_capacity(prompt.len());
    for word in prompt.split_whitespace() {
        if !comparable.is_empty() {
            comparable.push(' ');
        }
        if word.is_ascii() {
            comparable.extend(word.chars().map(|letter| letter.to_ascii_lowercase()));
        } else {
            comparable.push_str(&word.to_lowercase());
        }
    }
    comparable
}

/// Whether `prompt` says all of `question`, but for case and white space.
pub fn contains_question(prompt: &str, question: &str) -> bool {
    prompt.contains(question) || comparable(prompt).contains(&comparable(question))
}

enum Reference {
    Question,
    Reply(usize),
}

/// The text before the first reference, the reference, and the text after it.
fn next(text: &str) -> Option<(&str, Reference, &str)> {
    text.match_indices('<').find_map(|(at, _)| {
        let (reference, after) = reference(&text[at..])?;
        Some((&text[..at], reference, after))
    })
}

/// The reference that `text` begins with, and the text after it.
fn reference(text: &str) -> Option<(Reference, &str)> {
    let inner = text.strip_prefix('<')?;
    let (reference, rest) = if let Some(rest) = inner.strip_prefix("question") {
        (Reference::Question, rest)
    } else {
        let number = inner.strip_prefix("reply")?;
        let rest = number.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = number[..number.len() - rest.len()].trim_start();
        if digits.len() == number.len() - rest.len() {
            // No space before the number.
            return None;
        }
        (Reference::Reply(digits.parse().ok()?), rest)
    };
    Some((reference, rest.trim_start().strip_prefix("/>")?))
}

#[cfg(test)]
mod tests {
    use super::super::escape;
    use super::*;

    const QUESTION: &str = "How many <reply 1/> are <question/>?";

    #[test]
    fn references_stand_for_as_much_as_they_may() {
        for (prompt, max_bytes, expanded) in [
            ("<reply 1/><reply 1/>", 8, Ok("fourfour".to_owned())),
            ("<reply 1/><reply 1/>", 7, Err(ExpandError::TooLong)),
            ("a<question/>", 7, Err(ExpandError::TooLong)),
            // The length of the prompt itself is bounded elsewhere.
            ("without any", 7, Ok("without any".to_owned())),
        ] {
            assert_eq!(
                expand(prompt, "question", &[Some("four")], max_bytes),
                expanded,
                "{prompt}"
            );
        }
    }

    #[test]
    fn references_stand_for_texts() {
        use ExpandError::Missing;
        let replies = [Some("It is 4."), None, Some("<question/> &lt;reply")];
        for (prompt, expanded) in [
            ("What is 2 + 2?", Ok("What is 2 + 2?")),
            ("<question/>", Ok(QUESTION)),
            ("Check: <question/> <reply 1/>", Ok(&*format!("Check: {QUESTION} It is 4."))),
            ("<question /> <reply  1 />", Ok(&*format!("{QUESTION} It is 4."))),
            // What is put in is not expanded again, nor unescaped.
            ("<reply 3/>", Ok("<question/> &lt;reply")),
            ("<reply 2/>", Err(Missing(2))),
            ("<question/> <reply 4/> <reply 5/>", Err(Missing(4))),
            ("<reply 0/>", Err(Missing(0))),
            // No references.
            ("<question> <question", Ok("<question> <question")),
            ("<Question/> <reply/> <reply x/>", Ok("<Question/> <reply/> <reply x/>")),
            ("<reply1/> <reply -1/> <reply 1>", Ok("<reply1/> <reply -1/> <reply 1>")),
            ("<reply 99999999999999999999/>", Ok("<reply 99999999999999999999/>")),
            ("a < b <", Ok("a < b <")),
            // Untrusted text, copied by the policy.
            ("&lt;question/> &lt;reply 1/>", Ok("<question/> <reply 1/>")),
            ("&amp;lt;question/>", Ok("&lt;question/>")),
        ] {
            let found = expand(prompt, QUESTION, &replies, 99);
            assert_eq!(found.as_deref().map_err(|&error| error), expanded, "{prompt}");
        }
    }

    #[test]
    fn copied_text_is_never_a_reference() {
        for outside in
            ["<question/>", "x <reply 1/>", "&lt;question/>", "<QUESTION/>", "<<reply 1/>"]
        {
            let copied = expand(&escape(outside), "q", &[Some("r")], 99);
            assert_eq!(copied.as_deref(), Ok(outside));
        }
    }

    #[test]
    fn prompts_are_compared_by_their_words() {
        for (one, other, same) in [
            ("What is\n 2 + 2? ", "what IS 2 + 2?", true),
            ("What is 2 + 2?", "What is 2 + 2", false),
            ("2 + 2", "2 - 2", false),
        ] {
            assert_eq!(comparable(one) == comparable(other), same, "{one} / {other}");
        }
        assert!(contains_question("Solve this: how  many\nEGGS? Step by step.", "How many eggs?"));
        assert!(!contains_question("How many?", "How many eggs?"));
    }
}
