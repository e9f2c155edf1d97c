//! Separates the thoughts that a model writes before its reply from the reply.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// What a model writes, on its way to becoming thoughts and a text.
#[derive(Debug)]
pub(super) struct Written {
    place: Place,
    /// What may still become a tag, or whitespace at an end.
    held: String,
}

/// Where the next piece stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before anything but whitespace.
    Start,
    /// Behind the tag that opens the thoughts.
    Opened,
    Thoughts,
    /// Before the text.
    Closed,
    Text,
}

/// More of what is thought, and more of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) thoughts: String,
    pub(super) text: String,
}

impl Written {
    pub(super) fn at(place: Place) -> Self {
        Self { place, held: String::new() }
    }

    /// Takes a piece, and returns what is certain by now.
    pub(super) fn push(&mut self, piece: &str) -> Said {
        self.held.push_str(piece);
        let mut said = Said::default();
        loop {
            let start = self.held.trim_start();
            match self.place {
                Place::Start => match start.strip_prefix(OPEN) {
                    Some(rest) => self.go_on(Place::Opened, rest.to_owned()),
                    None if OPEN.starts_with(start) => return said,
                    None => self.place = Place::Closed,
                },
                Place::Opened | Place::Closed if start.is_empty() => return said,
                Place::Opened => self.go_on(Place::Thoughts, start.to_owned()),
                Place::Thoughts => match self.held.split_once(CLOSE) {
                    Some((thoughts, rest)) => {
                        said.thoughts.push_str(thoughts.trim_end());
                        self.go_on(Place::Closed, rest.to_owned());
                    }
                    None => {
                        let rest = self.held.split_off(certain(&self.held));
                        said.thoughts.push_str(&std::mem::replace(&mut self.held, rest));
                        return said;
                    }
                },
                Place::Closed => self.go_on(Place::Text, start.to_owned()),
                Place::Text => {
                    said.text.push_str(&std::mem::take(&mut self.held));
                    return said;
                }
            }
        }
    }

    /// What was held back, at the end.
    pub(super) fn finish(&mut self) -> Said {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Opened | Place::Thoughts => {
                Said { thoughts: held.trim_end().to_owned(), text: String::new() }
            }
            _ => Said { thoughts: String::new(), text: held.trim_start().to_owned() },
        }
    }

    fn go_on(&mut self, place: Place, rest: String) {
        self.place = place;
        self.held = rest;
    }
}

/// How many bytes of thoughts cannot be the start of the closing tag, or whitespace before it.
fn certain(held: &str) -> usize {
    let begun = (1..CLOSE.len()).rev().find(|&length| held.ends_with(&CLOSE[..length]));
    held[..held.len() - begun.unwrap_or(0)].trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_apart() {
        use Place::{Closed, Opened, Start};
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
        ];
        for (place, written, thoughts, text) in table {
            let letters: Vec<String> = written.chars().map(String::from).collect();
            for pieces in [vec![written.to_owned()], letters] {
                let mut parts = Written::at(place);
                let mut found = Said::default();
                let mut add = |more: Said| {
                    found.thoughts.push_str(&more.thoughts);
                    found.text.push_str(&more.text);
                };
                pieces.iter().for_each(|piece| add(parts.push(piece)));
                add(parts.finish());
                let expected = Said { thoughts: thoughts.to_owned(), text: text.to_owned() };
                assert_eq!(found, expected, "{place:?} {pieces:?}");
            }
        }
    }
}
