//! The protocol's tags in a text, complete or not.

use super::{ANSWER, FINAL_PROMPT, PROMPT, TAGS, THINK};

/// The tags of which a turn does one.
const ACTIONS: [&str; 3] = [PROMPT, FINAL_PROMPT, ANSWER];

/// What the names of prompts and of replies begin with. A policy that fails to write them writes
/// this at least.
pub(super) const INTERACTION: &str = "interaction";

/// What the names of all tags begin with.
const BEGINNINGS: [&str; 4] = [THINK, INTERACTION, FINAL_PROMPT, ANSWER];

/// Whether a text names a tag of the protocol, complete or not: `<answer>`, `</answer`,
/// `</interaction`. Escaped text names none, and an action that names one is not in the form.
pub fn names_tag(text: &str) -> bool {
    first_tag(text).is_some()
}

/// Where the first tag that `text` names begins.
pub(super) fn first_tag(text: &str) -> Option<usize> {
    marks(text, 0).find(|(_, mark)| mark.names_tag()).map(|(at, _)| at)
}

/// The text from a `<` on, of which every tag has one, at its front.
#[derive(Clone, Copy)]
pub(super) struct Mark<'a>(&'a str);

/// Every `<` of `text` from byte `from` on, and where it stands.
pub(super) fn marks(text: &str, from: usize) -> impl Iterator<Item = (usize, Mark<'_>)> {
    text[from..].match_indices('<').map(move |(at, _)| (from + at, Mark(&text[from + at..])))
}

impl Mark<'_> {
    /// What is left of it behind `front` and the whole of `name`.
    fn behind(&self, front: &str, name: &str) -> Option<&str> {
        self.0.strip_prefix(front)?.strip_prefix(name)
    }

    pub(super) fn opens(&self, tag: &str) -> bool {
        self.behind("<", tag).is_some_and(|rest| rest.starts_with('>'))
    }

    pub(super) fn closes(&self, tag: &str) -> bool {
        self.behind("</", tag).is_some_and(|rest| rest.starts_with('>'))
    }

    /// Whether the text breaks off inside what may become `tag`, opened.
    pub(super) fn may_open(&self, tag: &str) -> bool {
        self.breaks_off_in("<", tag)
    }

    /// The same for a closing one.
    fn may_close(&self, tag: &str) -> bool {
        self.breaks_off_in("</", tag)
    }

    fn breaks_off_in(&self, front: &str, name: &str) -> bool {
        match self.0.strip_prefix(front) {
            Some(rest) => name.starts_with(rest),
            None => front.starts_with(self.0),
        }
    }

    /// Whether this ends `tag` where its own closing tag never comes.
    pub(super) fn ends(&self, tag: &str) -> bool {
        match tag {
            THINK => ACTIONS.iter().any(|tag| self.opens(tag)),
            _ => TAGS.iter().any(|tag| self.opens(tag) || self.closes(tag)),
        }
    }

    /// Whether the text breaks off inside what may become an end of `tag`.
    pub(super) fn may_end(&self, tag: &str) -> bool {
        match tag {
            THINK => self.may_close(tag) || ACTIONS.iter().any(|tag| self.may_open(tag)),
            _ => TAGS.iter().any(|tag| self.may_open(tag) || self.may_close(tag)),
        }
    }

    /// Whether this begins a tag of the protocol, complete or not.
    fn names_tag(&self) -> bool {
        let name = self.0.strip_prefix('<').unwrap_or_default();
        let name = name.strip_prefix('/').unwrap_or(name);
        BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
    }
}
