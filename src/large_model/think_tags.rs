//! Separates the thoughts that a model writes before its reply, in tags, from the reply.

use serde_json::Value;

use super::THOUGHTS;
use crate::chat::ChatMessage;

/// Whitespace that is held back, bytes: without a bound, reading it again and again takes long.
const MAX_SPACE: usize = 1024;
const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// What a model writes, on its way to becoming thoughts and a text.
#[derive(Debug)]
pub(super) struct ThoughtSplitter {
    position: SplitPosition,
    /// What may still become a tag, or whitespace at an end.
    held: String,
}

/// Where the next piece stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SplitPosition {
    /// Before anything but whitespace.
    Start,
    /// The same of a reply that keeps its whitespace if it does not begin with thoughts.
    Verbatim,
    /// Behind the tag that opens the thoughts.
    Opened,
    Thoughts,
    /// Before the text.
    Closed,
    Text,
}

/// More of what is thought, and more of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SplitText {
    pub(super) thoughts: String,
    pub(super) text: String,
}

impl ThoughtSplitter {
    pub(super) fn at(position: SplitPosition) -> Self {
        Self { position, held: String::new() }
    }

    /// Takes a piece, and returns what is certain by now.
    pub(super) fn push(&mut self, piece: &str) -> SplitText {
        self.held.push_str(piece);
        let mut said = SplitText::default();
        loop {
            let start = self.held.trim_start();
            match self.position {
                SplitPosition::Start | SplitPosition::Verbatim => match start.strip_prefix(OPEN) {
                    Some(rest) => self.go_on(SplitPosition::Opened, rest.to_owned()),
                    None if OPEN.starts_with(start) && self.held.len() < MAX_SPACE => return said,
                    None if self.position == SplitPosition::Start => {
                        self.position = SplitPosition::Closed
                    }
                    None => self.position = SplitPosition::Text,
                },
                SplitPosition::Opened | SplitPosition::Closed if start.is_empty() => {
                    self.held.clear();
                    return said;
                }
                SplitPosition::Opened => self.go_on(SplitPosition::Thoughts, start.to_owned()),
                SplitPosition::Thoughts => match self.held.split_once(CLOSE) {
                    Some((thoughts, rest)) => {
                        said.thoughts.push_str(thoughts.trim_end());
                        self.go_on(SplitPosition::Closed, rest.to_owned());
                    }
                    None => {
                        let rest = self.held.split_off(certain(&self.held));
                        said.thoughts.push_str(&std::mem::replace(&mut self.held, rest));
                        return said;
                    }
                },
                SplitPosition::Closed => self.go_on(SplitPosition::Text, start.to_owned()),
                SplitPosition::Text => {
                    said.text.push_str(&std::mem::take(&mut self.held));
                    return said;
                }
            }
        }
    }

    /// What was held back, at the end.
    pub(super) fn finish(&mut self) -> SplitText {
        let held = std::mem::take(&mut self.held);
        match self.position {
            SplitPosition::Opened | SplitPosition::Thoughts => {
                SplitText { thoughts: held.trim_end().to_owned(), text: String::new() }
            }
            SplitPosition::Verbatim => SplitText { thoughts: String::new(), text: held },
            _ => SplitText { thoughts: String::new(), text: held.trim_start().to_owned() },
        }
    }

    fn go_on(&mut self, position: SplitPosition, rest: String) {
        self.position = position;
        self.held = rest;
    }
}

/// How many bytes of thoughts cannot be the start of the closing tag, or whitespace before it.
fn certain(held: &str) -> usize {
    let begun = (1..CLOSE.len()).rev().find(|&length| held.ends_with(&CLOSE[..length]));
    let rest = &held[..held.len() - begun.unwrap_or(0)];
    let end = rest.trim_end().len();
    if rest.len() - end < MAX_SPACE { end } else { rest.len() }
}

/// Takes the thoughts that a message begins with, in tags, out of its text. `may_be_opened`: also if
/// only the tag that closes them is there, as where the chat template opens them.
pub(super) fn separate(message: &mut ChatMessage, may_be_opened: bool) {
    let Some(text) = message.content.as_str() else { return };
    let mut written = match text.trim_start().starts_with(OPEN) {
        true => ThoughtSplitter::at(SplitPosition::Verbatim),
        false if may_be_opened && is_closed(text) => ThoughtSplitter::at(SplitPosition::Opened),
        false => return,
    };
    let (said, rest) = (written.push(text), written.finish());
    let mut known = THOUGHTS.iter().filter_map(|key| message.extra.get(*key)?.as_str());
    let known = known.find(|known| !known.is_empty()).unwrap_or_default();
    let thoughts = [known, &*said.thoughts, &*rest.thoughts].concat();
    message.content = Value::String(said.text + &rest.text);
    if !thoughts.is_empty() {
        message.extra.insert(THOUGHTS[0].to_owned(), thoughts.into());
    }
}

/// Whether thoughts end in a text: where the tag has a line of its own, it is no quotation.
fn is_closed(text: &str) -> bool {
    text.split_once(CLOSE).is_some_and(|(thoughts, rest)| {
        let is_alone = thoughts.ends_with('\n') && (rest.is_empty() || rest.starts_with('\n'));
        is_alone && !thoughts.contains(OPEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_apart() {
        use SplitPosition::{Closed, Opened, Start, Verbatim};
        let table = [
            (Start, "", "", ""),
            (Start, " \n a < b ", "", "a < b "),
            (
                Start,
                "\n<think>\nhm, <b>\n\n so\n</think>\n\nYes. </think>",
                "hm, <b>\n\n so",
                "Yes. </think>",
            ),
            (Start, "<think></think>Yes.", "", "Yes."),
            (Start, "<thin air", "", "<thin air"),
            (Start, "<th", "", "<th"),
            (Start, "So <think>no</think>", "", "So <think>no</think>"),
            (Start, "<think>cut o", "cut o", ""),
            (Start, "<think>cut </thi", "cut </thi", ""),
            (Opened, "\nhm\n</think>\n\nYes.", "hm", "Yes."),
            (Opened, " ", "", ""),
            (Closed, "\n<think>hm</think>a", "", "<think>hm</think>a"),
            (Verbatim, " \n a < b ", "", " \n a < b "),
            (Verbatim, "\n<think>hm\n</think>\n\nYes.", "hm", "Yes."),
            (Verbatim, " <thi", "", " <thi"),
            (Verbatim, " \n", "", " \n"),
        ];
        for (position, written, thoughts, text) in table {
            let letters: Vec<String> = written.chars().map(String::from).collect();
            for pieces in [vec![written.to_owned()], letters] {
                let mut parts = ThoughtSplitter::at(position);
                let mut found = SplitText::default();
                let mut add = |more: SplitText| {
                    found.thoughts.push_str(&more.thoughts);
                    found.text.push_str(&more.text);
                };
                pieces.iter().for_each(|piece| add(parts.push(piece)));
                add(parts.finish());
                let expected = SplitText { thoughts: thoughts.to_owned(), text: text.to_owned() };
                assert_eq!(found, expected, "{position:?} {pieces:?}");
            }
        }
    }

    #[test]
    fn much_whitespace_is_not_held_back() {
        for (position, begun) in [(SplitPosition::Verbatim, ""), (SplitPosition::Thoughts, "hm")] {
            let mut parts = ThoughtSplitter::at(position);
            parts.push(begun);
            let mut most = 0;
            for _ in 0..4 * MAX_SPACE {
                parts.push(" ");
                most = most.max(parts.held.len());
            }
            assert!(most <= MAX_SPACE, "{position:?}: {most}");
        }
    }

    #[test]
    fn a_message_keeps_all_of_its_thoughts() {
        let table = [
            ("<think>hm</think>\n\nYes.", None, "Yes.", Some("hm")),
            ("<think>hm</think>Yes.", Some("so "), "Yes.", Some("so hm")),
            (" Yes. <think>", None, " Yes. <think>", None),
            ("<think>cut", None, "", Some("cut")),
            ("hm\n</think>\n\nYes.", None, "Yes.", Some("hm")),
            ("It ends with </think>\n", None, "It ends with </think>\n", None),
        ];
        for (text, known, expected, thoughts) in table {
            let mut message = ChatMessage::text("assistant", text);
            if let Some(known) = known {
                message.extra.insert(THOUGHTS[0].to_owned(), known.into());
            }
            separate(&mut message, true);
            let found = message.extra.get(THOUGHTS[0]).and_then(Value::as_str);
            assert_eq!((&*message.as_text(), found), (expected, thoughts), "{text}");
        }
    }
}
