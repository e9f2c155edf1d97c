//! What supervised training learns: conversations, and episodes turn by turn.

use std::fmt;

use crate::task::Task;
use crate::trajectory::Action;

/// A row of data for supervised training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Example {
    /// A conversation, in the model's own chat template.
    Chat(Vec<ChatTurn>),
    /// An episode of the protocol, as the loop runs it.
    Episode(Demonstration),
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatRole {
    /// The instructions before a conversation.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl fmt::Display for ChatRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        })
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTurn {
    /// Who says it.
    pub role: ChatRole,
    /// The text. The reasoning of an assistant's message stands before it in `<think>` tags.
    pub content: String,
    /// Whether its tokens count in the loss: those of the assistant's messages do, unless `weight`
    /// is 0.
    pub has_loss: bool,
}

/// One turn of a demonstration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoTurn {
    /// The thought.
    pub think: String,
    /// The action: a prompt, or the answer.
    pub action: Action,
    /// The large model's reply to a prompt.
    pub reply: Option<String>,
    /// Whether the prompt was sent before, so that the policy reads that instead of the reply.
    pub is_repeated: bool,
    /// Whether its tokens count in the loss: false for a turn that the caller gave.
    pub has_loss: bool,
}

impl DemoTurn {
    /// A turn of the policy's own.
    pub fn new(think: String, action: Action, reply: Option<String>) -> Self {
        Self { think, action, reply, is_repeated: false, has_loss: true }
    }
}

/// A question and how it is answered; rendering it as text is the protocol's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demonstration {
    /// The question. Its gold is not always the answer given: a question that is asked all at once
    /// ends with the large model's guess.
    pub task: Task,
    /// The moves; the last is the answer.
    pub turns: Vec<DemoTurn>,
}
