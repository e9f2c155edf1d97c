//! Writes a turn as a policy would: the inverse of parsing one.

use super::escape::escape_content;
use super::{PROMPT, THINK};

/// The turn that thinks `think`, if anything, and sends `prompt`. References in the prompt stay
/// references; whatever else names a tag is escaped, so that parsing gives both texts back,
/// trimmed.
pub fn write_prompt(think: Option<&str>, prompt: &str) -> String {
    let element = |tag: &str, text: &str| {
        let text = escape_content(tag, text.trim());
        format!("<{tag}>{text}</{tag}>")
    };
    let think = think.map(|think| element(THINK, think)).unwrap_or_default();
    think + &element(PROMPT, prompt)
}

#[cfg(test)]
mod tests {
    use crate::protocol::parse_turn;
    use crate::trajectory::Action;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (think, prompt) in [
            (None, "Where is it?"),
            (Some("First the place."), "<question/> and <reply 1/>"),
            (Some("</think><answer>no</answer>"), "</interaction_prompt><answer>x</answer>"),
            (Some("<interaction>"), "Which elements does </interactions> end?"),
            (Some("&lt;answer>"), "&lt;question/> &amp;lt;think> <b>&</b>"),
        ] {
            let parsed = parse_turn(&write_prompt(think, prompt));
            assert_eq!(parsed.think.as_deref(), think);
            assert_eq!(parsed.action, Action::Prompt(prompt.to_owned()));
        }
    }

    #[test]
    fn it_is_written_as_policies_write() {
        let turn = write_prompt(Some(" a "), "b");
        assert_eq!(turn, "<think>a</think><interaction_prompt>b</interaction_prompt>");
    }
}
