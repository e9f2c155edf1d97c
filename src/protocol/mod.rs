//! The protocol between the policy and the loop: what the policy is shown, how its turns are
//! parsed, and how untrusted text is kept from being parsed as either. Pure functions.
//!
//! # Reading and escaping
//! A turn is a thought and one action, each in tags; [`parse_turn`] says what an incomplete one
//! means. An action that names a tag itself ([`names_tag`]) is malformed. A prompt may hold
//! references ([`expand`]): `<question/>`, `<reply N/>`. The templates frame untrusted text with
//! further tags. In that text every name of the three is escaped ([`escape`]), so it can neither
//! end its frame nor act; a policy that copies it writes it escaped, and parsing a turn takes the
//! escaping away. Only that of references in prompts stays until they are resolved.

mod escape;
mod parse;
mod piece;
mod reference;
mod settings;
mod tags;
mod template;
mod write;

pub use escape::{escape, unescape};
pub use parse::{Fragment, ParsedTurn, TurnParser, parse_turn};
pub use piece::{Piece, concat, length};
pub use reference::{ExpandError, comparable, contains_question, expand};
pub use settings::{SETTINGS_FILE, Settings};
pub use tags::names_tag;
pub use template::{
    Opening, PromptResult, Protocol, ProtocolError, TEMPLATE_FILES, TEMPLATES, own_templates,
};
pub use write::write_prompt;

/// The tag that holds the policy's thinking.
pub const THINK: &str = "think";
/// The tag that holds a prompt for the large model.
pub const PROMPT: &str = "interaction_prompt";
/// The tag that holds a prompt whose reply is the answer.
pub const FINAL_PROMPT: &str = "final_prompt";
/// The tag that holds the large model's reply.
pub const RESPONSE: &str = "interaction_response";
/// The tag that holds the answer.
pub const ANSWER: &str = "answer";

/// Every tag of the protocol.
pub const TAGS: [&str; 5] = [THINK, PROMPT, FINAL_PROMPT, RESPONSE, ANSWER];
/// The names of references in prompts.
pub const REFERENCES: [&str; 2] = ["question", "reply"];
/// The tag that holds a message of the conversation in the policy's opening.
pub const MESSAGE: &str = "message";
