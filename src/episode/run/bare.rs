//! JSON inside the wrappers that models put around it.

/// The JSON in a text that starts with thoughts or is in a Markdown fence; `None` if there is
/// neither. Some chat templates open the thoughts, so that a reply only closes them.
pub(super) fn bare_json(text: &str) -> Option<&str> {
    let answer = match text.rsplit_once("</think>") {
        Some((_, answer)) => answer,
        None if text.trim_start().starts_with("<think>") => return None,
        None => text,
    };
    let bare = match answer.split_once("```") {
        Some((_, fenced)) => {
            let body = fenced.trim_start_matches(char::is_alphanumeric);
            body.rsplit_once("```")?.0
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
            ("hm {\n</think>\n\n{}", Some("{}")),
            ("<think>a</think>b</think>{}", Some("{}")),
            ("```json {\"a\": 1}```", Some("{\"a\": 1}")),
            ("```{}```", Some("{}")),
            (" {} ", Some("{}")),
        ];
        for (text, expected) in table {
            assert_eq!(bare_json(text), expected, "{text}");
        }
    }
}
