//! JSON inside the wrappers that models put around it.

/// The JSON in a text that starts with thoughts or is in a Markdown fence; `None` if there is
/// neither.
pub(super) fn bare_json(text: &str) -> Option<&str> {
    let answer = match text.trim_start().strip_prefix("<think>") {
        Some(thoughts) => thoughts.split_once("</think>")?.1,
        None => text,
    };
    let bare = match answer.split_once("```") {
        Some((_, fenced)) => {
            let (language, body) = fenced.split_once('\n')?;
            let is_language = language.trim().chars().all(char::is_alphanumeric);
            body.rsplit_once("```").filter(|_| is_language)?.0
        }
        None => answer,
    };
    let bare = bare.trim();
    (bare != text).then_some(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappings_are_taken_off() {
        let table = [
            ("{}", None),
            ("```json\n{\"a\": 1}\n```", Some("{\"a\": 1}")),
            ("Here it is:\n```\n{}\n```\nDone.", Some("{}")),
            ("<think>\nhm {\n</think>\n\n{}", Some("{}")),
            ("<think>hm</think>```JSON\n{}```", Some("{}")),
            ("```json\n{\"code\": \"```\"}\n```", Some("{\"code\": \"```\"}")),
            ("<think>hm", None),
            ("```json {}", None),
            (" {} ", Some("{}")),
        ];
        for (text, expected) in table {
            assert_eq!(bare_json(text), expected, "{text}");
        }
    }
}
