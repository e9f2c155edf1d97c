//! Reads one turn of the policy, whole or as it is written.
//!
//! The first action tag decides what the turn does; a second one is ignored, because it was
//! written without knowing the reply. Inside a think tag only its closing tag counts. What is
//! never closed is taken to run to the end, or to the next tag of the protocol. An action that still
//! names a tag ([`names_tag`]), such as `</answer`, is malformed: it counts as none.

use std::ops::Range;

use crate::trajectory::Action;

use super::escape::{Unescaper, names_in, unescape_names};
use super::tags::{first_tag, marks, names_tag};
use super::{ANSWER, FINAL_PROMPT, PROMPT, TAGS, THINK};

/// What a whole turn says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedTurn {
    /// The content of the first think tag, trimmed.
    pub think: Option<String>,
    /// What to do; an action without content, or whose content names a tag, is `Nothing`.
    pub action: Action,
    /// Whether the action's closing tag was read: nothing of the action was cut off.
    pub is_closed: bool,
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
enum Position {
    Outside,
    In {
        tag: &'static str,
        /// Where its content starts.
        start: usize,
        /// Where it ends unless its closing tag follows: at the first tag that would end it.
        doubt: Option<usize>,
    },
    /// Behind the closing tag of the action: nothing more can happen.
    Done,
}

/// Reads a turn as it is written.
#[derive(Debug, Clone)]
pub struct TurnParser {
    text: String,
    /// All before this byte has been read.
    read: usize,
    position: Position,
    /// Where the contents of the closed tags stand.
    think: Option<Range<usize>>,
    action: Option<(&'static str, Range<usize>)>,
    is_closed: bool,
    overrun: bool,
    /// Whether the action names a tag, so that no more of it is reported.
    is_malformed: bool,
    /// The content of the open tag is reported up to this byte.
    reported: usize,
    report: Report,
}

impl Default for TurnParser {
    fn default() -> Self {
        Self {
            text: String::new(),
            read: 0,
            position: Position::Outside,
            think: None,
            action: None,
            is_closed: false,
            overrun: false,
            is_malformed: false,
            reported: 0,
            report: Report::default(),
        }
    }
}

impl TurnParser {
    /// Takes more of the turn; returns what became certain by it.
    pub fn push(&mut self, text: &str) -> Vec<Fragment> {
        self.text.push_str(text);
        let mut fragments = Vec::new();
        loop {
            let before = (self.read, self.position);
            self.step(&mut fragments);
            if before == (self.read, self.position) {
                return fragments;
            }
        }
    }

    /// Ends the turn: returns what was held back because it might have become something else. The
    /// fragments of each tag now add up to what [`Self::finish`] gives, or to the beginning of a
    /// malformed action, up to the tag that it names.
    pub fn close(&mut self) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        while let Position::In { tag, start, doubt } = self.position {
            let end = doubt.unwrap_or(self.text.len());
            fragments.extend(self.report(tag, end, true));
            self.leave(tag, start..end);
            // A think tag that was never closed ends at the action inside it.
            self.read = end;
            fragments.extend(self.push(""));
        }
        fragments
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
        self.close();
        let content = |tag: &str, at: Range<usize>| {
            let content = self.text[at].trim();
            (!content.is_empty()).then(|| unescape_names(content, names_in(tag)))
        };
        let action = self.action.filter(|(_, at)| !names_tag(&self.text[at.clone()]));
        let action = action.and_then(|(tag, at)| Some((tag, content(tag, at)?)));
        let action = match action {
            None => Action::Nothing,
            Some((PROMPT, text)) => Action::Prompt(text),
            Some((FINAL_PROMPT, text)) => Action::FinalPrompt(text),
            Some((_, text)) => Action::Answer(text),
        };
        let think = self.think.and_then(|at| content(THINK, at));
        ParsedTurn { think, action, is_closed: self.is_closed }
    }

    fn step(&mut self, fragments: &mut Vec<Fragment>) {
        match self.position {
            Position::Outside => {
                for (at, mark) in marks(&self.text, self.read) {
                    let opened = [THINK, PROMPT, FINAL_PROMPT, ANSWER]
                        .into_iter()
                        .filter(|&tag| tag != THINK || self.think.is_none())
                        .find(|tag| mark.opens(tag));
                    if let Some(tag) = opened {
                        self.read = at + tag.len() + 2;
                        self.position = Position::In { tag, start: self.read, doubt: None };
                        (self.reported, self.report) = (self.read, Report::within(tag));
                        return;
                    }
                    if TAGS.iter().any(|tag| mark.may_open(tag)) {
                        self.read = at;
                        return;
                    }
                }
                self.read = self.text.len();
            }
            Position::In { tag, start, mut doubt } => {
                let mut read = self.text.len();
                let mut closing = None;
                for (at, mark) in marks(&self.text, self.read) {
                    if mark.closes(tag) {
                        closing = Some(at);
                        break;
                    }
                    if mark.ends(tag) {
                        doubt = doubt.or(Some(at));
                    } else if mark.may_end(tag) {
                        read = at;
                    }
                }
                if let Some(end) = closing {
                    self.read = end + tag.len() + 3;
                    fragments.extend(self.report(tag, end, true));
                    self.leave(tag, start..end);
                    self.is_closed = tag != THINK;
                } else {
                    self.read = read;
                    self.position = Position::In { tag, start, doubt };
                    fragments.extend(self.report(tag, doubt.unwrap_or(read), false));
                }
            }
            Position::Done => {
                self.overrun |= !self.text[self.read..].trim().is_empty();
                self.read = self.text.len();
            }
        }
    }

    /// Reports the open tag's content up to `end`.
    fn report(&mut self, tag: &str, end: usize, is_all: bool) -> Option<Fragment> {
        let mut content = &self.text[self.reported..end];
        if tag != THINK {
            let sure = if self.is_malformed { Some(0) } else { first_tag(content) };
            if let Some(sure) = sure {
                content = &content[..sure];
                self.is_malformed = true;
            }
        }
        let text = self.report.push(content, is_all);
        self.reported = end;
        let text = Some(text).filter(|text| !text.is_empty())?;
        Some(match tag {
            THINK => Fragment::Think(text),
            PROMPT => Fragment::Prompt(text),
            FINAL_PROMPT => Fragment::FinalPrompt(text),
            _ => Fragment::Answer(text),
        })
    }

    fn leave(&mut self, tag: &'static str, content: Range<usize>) {
        if tag == THINK {
            self.think = Some(content);
            self.position = Position::Outside;
        } else {
            self.action = Some((tag, content));
            self.position = Position::Done;
        }
    }
}

/// A tag's content on its way out: trimmed and unescaped, bit by bit.
#[derive(Debug, Clone, Default)]
struct Report {
    /// White space so far, reported once more content follows.
    blank: String,
    has_begun: bool,
    unescaper: Unescaper,
}

impl Report {
    fn within(tag: &str) -> Self {
        Self { unescaper: Unescaper::within(tag), ..Self::default() }
    }

    fn push(&mut self, content: &str, is_all: bool) -> String {
        let content = if self.has_begun { content } else { content.trim_start() };
        self.has_begun |= !content.is_empty();
        let (sure, blank) = content.split_at(content.trim_end().len());
        let mut text = String::new();
        if !sure.is_empty() {
            text = std::mem::take(&mut self.blank);
            text.push_str(sure);
            text = self.unescaper.push(text);
        }
        self.blank.push_str(blank);
        if is_all {
            text.push_str(&self.unescaper.finish());
        }
        text
    }
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
        let cases: [(&str, Option<&str>, Action); 20] = [
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
            // The escaping of references stays until they are resolved, which is for prompts only.
            (
                "<interaction_prompt>&lt;think> <reply 1/> &lt;question/></interaction_prompt>",
                None,
                prompt("<think> <reply 1/> &lt;question/>"),
            ),
            ("<answer>&lt;question/> <reply 1/></answer>", None, answer("<question/> <reply 1/>")),
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
    fn an_action_that_names_a_tag_is_malformed() {
        for text in [
            "<answer>another question</answer</answer</interaction</interaction>",
            "<answer>b</answer",
            "<answer>b</answer</answer>",
            "<answer>b <think c</answer>",
            "<answer>b<answer>c</answer>",
            "<answer></final_prompt b",
            "<interaction_prompt>p</interaction_pro",
            "<interaction_prompt>p</interaction></interaction_prompt>",
            "<final_prompt>p</answer</final_prompt>",
        ] {
            let turn = format!("<think>a</answer b</think>{text}");
            let parsed = parse_turn(&turn);
            assert_eq!(parsed.think.as_deref(), Some("a</answer b"), "{text}");
            assert_eq!(parsed.action, Action::Nothing, "{text}");
        }
        // What is copied from a question is escaped, and other tags are not the protocol's.
        for (text, said) in [
            ("Write &lt;/answer, not &lt;answer>.", "Write </answer, not <answer>."),
            ("&amp;lt;/interaction_response", "&lt;/interaction_response"),
            (
                "a < b, </div>, List<Answer>, <question/>",
                "a < b, </div>, List<Answer>, <question/>",
            ),
        ] {
            assert_eq!(parse_turn(&format!("<answer>{text}</answer>")).action, answer(said));
        }
    }

    #[test]
    fn of_a_malformed_action_the_beginning_is_reported() {
        let mut parser = TurnParser::default();
        let pieces = ["<answer>b c</ans", "wer", "</interaction", "> d", "</answer>"];
        let fragments: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        assert_eq!(fragments, [Fragment::Answer("b c".into())]);
        assert_eq!(parser.close(), []);
        assert_eq!(parser.finish().action, Action::Nothing);
    }

    #[test]
    fn whether_the_action_was_closed_is_known() {
        for (text, is_closed) in [
            ("<think>a</think><interaction_prompt>b</interaction_prompt>", true),
            ("<think>a <answer>b</answer>", true),
            ("<answer>b</answer> and", true),
            ("<answer>b</answer", false),
            ("<interaction_prompt>p<answer>b</answer>", false),
            ("<think>a</think>", false),
            ("", false),
        ] {
            assert_eq!(parse_turn(text).is_closed, is_closed, "{text}");
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

    #[test]
    fn what_was_written_for_the_protocol_is_reported_as_it_was_meant() {
        let pieces = [
            "<think>a &l",
            "t;/think> b <answ",
            "er> c</think><answer> use &am",
            "p;lt;",
            "answer> or ",
            "&lt;thi",
            "nk> ",
            " </answer>",
        ];
        let mut parser = TurnParser::default();
        let fragments: Vec<_> = pieces.iter().map(|piece| parser.push(piece)).collect();
        let think = |text: &str| vec![Fragment::Think(text.into())];
        let answer = |text: &str| vec![Fragment::Answer(text.into())];
        assert_eq!(
            fragments,
            [
                think("a "),
                think("</think> b"),
                [think(" <answer> c"), answer("use ")].concat(),
                vec![],
                answer("&lt;answer> or"),
                answer(" "),
                answer("<think>"),
                vec![],
            ]
        );
        assert_eq!(parser.close(), []);
    }

    proptest! {
        #[test]
        fn reading_in_pieces_equals_reading_whole(
            text in "(<think>|</think>|<answer>|</answer>|<interaction_prompt>|</interaction_prompt>|<|</|&|&amp;|amp;|lt;|think|an|swer>|que|stion/>|é|x| ){0,14}",
            cuts in prop::collection::vec(0usize..80, 0..8),
        ) {
            let mut parser = TurnParser::default();
            let mut cuts: Vec<usize> = cuts
                .into_iter()
                .map(|cut| cut.min(text.len()))
                .filter(|&cut| text.is_char_boundary(cut))
                .collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).flat_map(|pair| parser.push(&text[pair[0]..pair[1]]));
            let mut fragments: Vec<_> = pieces.collect();
            let mut whole = TurnParser::default();
            whole.push(&text);
            prop_assert_eq!(parser.is_overrun(), whole.is_overrun());
            fragments.extend(parser.close());
            let (mut think, mut action) = (String::new(), Action::Nothing);
            for fragment in fragments {
                let before = match std::mem::replace(&mut action, Action::Nothing) {
                    Action::Prompt(text) | Action::FinalPrompt(text) | Action::Answer(text) => text,
                    Action::Nothing => String::new(),
                };
                action = match fragment {
                    Fragment::Think(part) => {
                        prop_assert_eq!(&before, "", "thoughts come first");
                        think.push_str(&part);
                        Action::Nothing
                    }
                    Fragment::Prompt(part) => Action::Prompt(before + &part),
                    Fragment::FinalPrompt(part) => Action::FinalPrompt(before + &part),
                    Fragment::Answer(part) => Action::Answer(before + &part),
                };
            }
            let parsed = parser.finish();
            prop_assert_eq!(&parsed, &parse_turn(&text));
            prop_assert_eq!(parsed.think.unwrap_or_default(), think);
            // Of a malformed action there may be a beginning.
            let is_begun = parsed.action == Action::Nothing && names_twice(&text);
            prop_assert!(is_begun || parsed.action == action, "{:?} / {:?}", parsed.action, action);
        }
    }

    /// Whether the text names at least two tags, of which one may be in the other.
    fn names_twice(text: &str) -> bool {
        first_tag(text).is_some_and(|at| names_tag(&text[at + 1..]))
    }
}
