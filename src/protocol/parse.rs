//! Reads one turn of the policy, whole or as it is written.
//!
//! The first action tag decides what the turn does; a second one is ignored, because it was
//! written without knowing the reply. Inside a think tag only its closing tag counts. What is
//! never closed is taken to run to the end, or to the next tag of the protocol.

use crate::trajectory::Action;

use super::escape::unescape;
use super::{ANSWER, FINAL_PROMPT, PROMPT, TAGS, THINK};

/// What a whole turn says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedTurn {
    /// The content of the first think tag, trimmed.
    pub think: Option<String>,
    /// What to do; an action without content is `Nothing`.
    pub action: Action,
}

/// A stretch of a turn as it is written, by the tag it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fragment {
    /// Inside the think tag.
    Think(String),
    /// Inside a prompt.
    Prompt(String),
    /// Inside a final prompt.
    FinalPrompt(String),
    /// Inside the answer.
    Answer(String),
}

/// Reads a turn in one go.
pub fn parse_turn(text: &str) -> ParsedTurn {
    let mut parser = TurnParser::default();
    parser.push(text);
    parser.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    In(&'static str),
    /// Behind the closing tag of the action: nothing more can happen.
    Done,
}

/// Reads a turn as it is written.
#[derive(Debug, Clone)]
pub struct TurnParser {
    text: String,
    /// All before this byte has been read.
    read: usize,
    place: Place,
    think: Option<String>,
    action: Option<(&'static str, String)>,
    overrun: bool,
    /// White space at the end of the tag's content so far: reported once more content follows, so
    /// that the fragments of a tag add up to its trimmed content.
    blank: String,
    reported: bool,
}

impl Default for TurnParser {
    fn default() -> Self {
        Self {
            text: String::new(),
            read: 0,
            place: Place::Outside,
            think: None,
            action: None,
            overrun: false,
            blank: String::new(),
            reported: false,
        }
    }
}

impl TurnParser {
    /// Takes more of the turn; returns what became certain by it.
    pub fn push(&mut self, text: &str) -> Vec<Fragment> {
        self.text.push_str(text);
        let mut fragments = Vec::new();
        loop {
            let before = (self.read, self.place);
            self.step(&mut fragments);
            if before == (self.read, self.place) {
                return fragments;
            }
        }
    }

    /// Whether the policy writes on behind a closed action: the rest cannot matter.
    pub fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// The turn so far, verbatim.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the turn says, now that it is complete.
    pub fn finish(mut self) -> ParsedTurn {
        // What was held back because it might have become a tag is content after all.
        let tail = self.text[self.read..].to_owned();
        match self.place {
            Place::In(THINK) => {
                self.append(THINK, &tail);
                let content = self.think.clone().unwrap_or_default();
                if self.action.is_none()
                    && let Some((at, _)) = [PROMPT, FINAL_PROMPT, ANSWER]
                        .iter()
                        .filter_map(|tag| Some((content.find(&format!("<{tag}>"))?, tag)))
                        .min()
                {
                    let rest = parse_turn(&content[at..]);
                    return ParsedTurn { think: trimmed(&content[..at]), action: rest.action };
                }
            }
            Place::In(tag) => self.append(tag, &tail),
            Place::Outside | Place::Done => {}
        }
        let unclosed = matches!(self.place, Place::In(_));
        let action = match self.action {
            None => Action::Nothing,
            Some((tag, content)) => {
                let end = if unclosed { next_tag(&content) } else { content.len() };
                match (tag, trimmed(&content[..end])) {
                    (_, None) => Action::Nothing,
                    (PROMPT, Some(text)) => Action::Prompt(text),
                    (FINAL_PROMPT, Some(text)) => Action::FinalPrompt(text),
                    (_, Some(text)) => Action::Answer(text),
                }
            }
        };
        ParsedTurn { think: self.think.as_deref().and_then(trimmed), action }
    }

    fn step(&mut self, fragments: &mut Vec<Fragment>) {
        let rest = &self.text[self.read..];
        match self.place {
            Place::Outside => {
                let found = [THINK, PROMPT, FINAL_PROMPT, ANSWER]
                    .into_iter()
                    .filter(|&tag| tag != THINK || self.think.is_none())
                    .filter_map(|tag| Some((rest.find(&format!("<{tag}>"))?, tag)))
                    .min();
                if let Some((at, tag)) = found {
                    self.read += at + tag.len() + 2;
                    self.place = Place::In(tag);
                    self.blank.clear();
                    self.reported = false;
                    self.append(tag, "");
                } else {
                    self.read = self.text.len() - partial_tag(rest, "<");
                }
            }
            Place::In(tag) => {
                let closing = format!("</{tag}>");
                let (content, next) = match rest.find(&closing) {
                    Some(at) => (rest[..at].to_owned(), Some(at + closing.len())),
                    None => (rest[..rest.len() - suffix_of(rest, &closing)].to_owned(), None),
                };
                fragments.extend(self.report(&content).map(|text| fragment(tag, text)));
                self.append(tag, &content);
                self.read += next.unwrap_or(content.len());
                if next.is_some() {
                    self.place = if tag == THINK { Place::Outside } else { Place::Done };
                }
            }
            Place::Done => {
                self.overrun |= !rest.trim().is_empty();
                self.read = self.text.len();
            }
        }
    }

    /// What of a tag's further content can be reported now.
    fn report(&mut self, content: &str) -> Option<String> {
        let content = if self.reported { content } else { content.trim_start() };
        self.blank.push_str(content);
        let certain = self.blank.trim_end().len();
        let kept = self.blank.split_off(certain);
        let text = std::mem::replace(&mut self.blank, kept);
        self.reported |= !text.is_empty();
        (!text.is_empty()).then_some(text)
    }

    fn append(&mut self, tag: &'static str, content: &str) {
        if tag == THINK {
            self.think.get_or_insert_default().push_str(content);
        } else {
            self.action.get_or_insert((tag, String::new())).1.push_str(content);
        }
    }
}

fn fragment(tag: &str, content: String) -> Fragment {
    match tag {
        THINK => Fragment::Think(content),
        PROMPT => Fragment::Prompt(content),
        FINAL_PROMPT => Fragment::FinalPrompt(content),
        _ => Fragment::Answer(content),
    }
}

fn trimmed(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| unescape(text))
}

/// Where the first tag of the protocol starts, or the end.
fn next_tag(text: &str) -> usize {
    TAGS.iter()
        .flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")])
        .filter_map(|tag| text.find(&tag))
        .min()
        .unwrap_or(text.len())
}

/// How many bytes at the end of `text` may be the start of an opening tag.
fn partial_tag(text: &str, opening: &str) -> usize {
    TAGS.iter().map(|tag| suffix_of(text, &format!("{opening}{tag}>"))).max().unwrap_or(0)
}

/// The longest suffix of `text` that is a proper prefix of `tag`, in bytes.
fn suffix_of(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&length| text.ends_with(&tag[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(text: &str) -> Action {
        Action::Prompt(text.into())
    }
    fn answer(text: &str) -> Action {
        Action::Answer(text.into())
    }

    #[test]
    fn every_form_of_turn_has_a_decided_reading() {
        let cases: [(&str, Option<&str>, Action); 19] = [
            ("<think>a</think><interaction_prompt>b</interaction_prompt>", Some("a"), prompt("b")),
            ("<think>\na\n</think>\n\n<answer>\n b \n</answer>\n", Some("a"), answer("b")),
            (
                "<think>a</think><final_prompt>b</final_prompt>",
                Some("a"),
                Action::FinalPrompt("b".into()),
            ),
            ("<answer>b</answer>", None, answer("b")),
            // Both in one turn: the first decides.
            ("<interaction_prompt>p</interaction_prompt><answer>b</answer>", None, prompt("p")),
            ("<answer>b</answer><interaction_prompt>p</interaction_prompt>", None, answer("b")),
            // Never closed: to the end, or to the next tag.
            ("<think>a</think><interaction_prompt>p", Some("a"), prompt("p")),
            ("<interaction_prompt>p<answer>b</answer>", None, prompt("p")),
            ("<interaction_prompt>p</interaction_pro", None, prompt("p</interaction_pro")),
            ("<think>a <interaction_prompt>p</interaction_prompt>", Some("a"), prompt("p")),
            ("<think>a <answer>b", Some("a"), answer("b")),
            ("<think>never ends", Some("never ends"), Action::Nothing),
            // Tags that are only mentioned while thinking.
            (
                "<think>then <answer> it</think><answer>b</answer>",
                Some("then <answer> it"),
                answer("b"),
            ),
            // Nothing to act on.
            ("just text", None, Action::Nothing),
            ("", None, Action::Nothing),
            ("<answer>  </answer>", None, Action::Nothing),
            ("<interaction_prompt></interaction_prompt>", None, Action::Nothing),
            // The policy copies escaped text from its question: the world gets it as it was.
            ("<answer>use &lt;think></answer>", None, answer("use <think>")),
            // A second think is no think.
            ("<think>a</think><think>b</think><answer>c</answer>", Some("a"), answer("c")),
        ];
        for (text, think, action) in cases {
            let parsed = parse_turn(text);
            assert_eq!(parsed.think.as_deref(), think, "{text}");
            assert_eq!(parsed.action, action, "{text}");
        }
    }

    #[test]
    fn writing_on_behind_the_action_is_noticed() {
        let mut parser = TurnParser::default();
        parser.push("<answer>b</answer>\n");
        assert!(!parser.is_overrun());
        parser.push(" and");
        assert!(parser.is_overrun());
    }

    proptest! {
        #[test]
        fn reading_in_pieces_equals_reading_whole(
            text in "(<think>|</think>|<answer>|</answer>|<interaction_prompt>|</interaction_prompt>|<|</|an|swer>|é|x| ){0,14}",
            cuts in prop::collection::vec(0usize..80, 0..8),
        ) {
            let mut parser = TurnParser::default();
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&cut| text.is_char_boundary(cut.min(text.len()))).map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut streamed = String::new();
            for pair in cuts.windows(2) {
                for fragment in parser.push(&text[pair[0]..pair[1]]) {
                    if let Fragment::Answer(part) = fragment {
                        streamed.push_str(&part);
                    }
                }
            }
            let mut whole = TurnParser::default();
            let mut at_once = String::new();
            for fragment in whole.push(&text) {
                if let Fragment::Answer(part) = fragment {
                    at_once.push_str(&part);
                }
            }
            prop_assert_eq!(streamed, at_once);
            prop_assert_eq!(parser.is_overrun(), whole.is_overrun());
            prop_assert_eq!(parser.finish(), parse_turn(&text));
        }
    }
}
