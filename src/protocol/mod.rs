//! The protocol between the policy and the loop: what the policy is told, how its turns are read,
//! and how text from outside is kept from posing as either. Pure.

mod escape;
mod parse;
mod piece;
mod template;

pub use escape::{escape, unescape};
pub use parse::{Fragment, ParsedTurn, TurnParser, parse_turn};
pub use piece::{Piece, concat};
pub(crate) use piece::{join as join_pieces, split as split_pieces};
pub use template::{Opening, Protocol, ProtocolError, TEMPLATE_FILES};

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
