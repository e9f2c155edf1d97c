//! A turn of the policy: it is parsed the same, however it is split; the reported pieces add up to
//! the parsed turn, unless its action names a tag; unescaping inverts escaping; and escaped text
//! contains no reference.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/protocol/escape.rs"]
mod escape;
#[path = "../../src/protocol/parse.rs"]
mod parse;
#[path = "../../src/protocol/reference.rs"]
mod reference;
#[path = "../../src/protocol/tags.rs"]
mod tags;
#[path = "../../src/trajectory.rs"]
mod trajectory;

// As in `protocol`.
const THINK: &str = "think";
const PROMPT: &str = "interaction_prompt";
const FINAL_PROMPT: &str = "final_prompt";
const RESPONSE: &str = "interaction_response";
const ANSWER: &str = "answer";
const TAGS: [&str; 5] = [THINK, PROMPT, FINAL_PROMPT, RESPONSE, ANSWER];

const REFERENCES: [&str; 2] = ["question", "reply"];
const MESSAGE: &str = "message";

const QUESTION: &str = "\u{FDD2}";

use escape::{escape, unescape};
use parse::{Fragment, TurnParser, parse_turn};
use reference::expand;
use tags::first_tag;
use trajectory::Action;

fuzz_target!(|input: (u8, &str)| {
    let (size, text) = (usize::from(input.0 % 16) + 1, input.1);
    let mut parser = TurnParser::default();
    let letters: Vec<char> = text.chars().collect();
    let mut fragments = Vec::new();
    for piece in letters.chunks(size) {
        fragments.extend(parser.push(&String::from_iter(piece)));
    }
    fragments.extend(parser.close());
    let (mut think, mut action) = (String::new(), String::new());
    for fragment in fragments {
        match fragment {
            Fragment::Think(part) => think.push_str(&part),
            Fragment::Prompt(part) | Fragment::FinalPrompt(part) | Fragment::Answer(part) => {
                action.push_str(&part);
            }
        }
    }
    let parsed = parser.finish();
    assert_eq!(parsed, parse_turn(text));
    assert_eq!(parsed.think.as_deref().unwrap_or_default(), think);
    let said = match &parsed.action {
        Action::Prompt(text) | Action::FinalPrompt(text) | Action::Answer(text) => text.as_str(),
        Action::Nothing => "",
    };
    // Of an action that names a tag there may be a beginning.
    let tags = text.match_indices('<').filter(|(at, _)| first_tag(&text[*at..]) == Some(0)).count();
    assert!(said == action || said.is_empty() && tags > 1);

    let escaped = escape(text);
    assert_eq!(unescape(&escaped), text);
    let copied = expand(&escaped, QUESTION, &[], usize::MAX).expect("a copy refers to no reply");
    assert_eq!(copied.contains(QUESTION), text.contains(QUESTION));
    assert_eq!(parse_turn(&escaped).action, Action::Nothing);
});
