//! A conversation as tokens for training: the same tokens that its episode would have.

use std::borrow::Cow;

use crate::dataset::{ChatRole, ChatTurn, DemoTurn, Demonstration};
use crate::hint::Hint;
use crate::protocol::{
    ANSWER, FINAL_PROMPT, Opening, PROMPT, Piece, PromptResult, Protocol, ProtocolError, THINK,
    write_prompt,
};
use crate::tokenization::{ChatTokenizer, TemplateMessage, TokenizerError};
use crate::trajectory::{Action, SampledToken, TokenTrace};

/// A conversation that could not be made into tokens.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    /// A text could not be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A template failed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl Hint for ExampleError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Tokenizer(error) => error.hint(),
            Self::Protocol(error) => error.hint(),
        }
    }
}

/// A question and its answer, as a model without protocol answers it.
///
/// # Errors
/// When a text cannot be framed or tokenized.
pub fn question_and_answer(
    text: &ChatTokenizer,
    question: &str,
    answer: &str,
) -> Result<TokenTrace, ExampleError> {
    let message = TemplateMessage::text("user", question);
    let mut trace = TokenTrace::default();
    trace.push_context(&text.conversation_ids(&[message])?);
    push_turn(text, &mut trace, answer)?;
    Ok(trace)
}

/// A demonstration of the protocol, turn by turn as the loop would run it. Turns that are not to be
/// learnt are context only.
///
/// # Errors
/// When a text cannot be framed or tokenized.
pub fn demonstration(
    text: &ChatTokenizer,
    protocol: &Protocol,
    max_turns: usize,
    shown: &Demonstration,
) -> Result<TokenTrace, ExampleError> {
    let question = shown.task.question.as_str();
    let opening = Opening { question, max_turns, ..Opening::default() };
    let mut trace = TokenTrace::default();
    trace.push_context(&text.opening_ids(&protocol.opening(&opening)?)?);
    for turn in &shown.turns {
        match turn.has_loss {
            true => push_turn(text, &mut trace, &turn_text(&turn.think, &turn.action))?,
            false => trace.push_context(&text.turn_ids(&given_text(turn))?),
        }
        if let Some(reply) = &turn.reply {
            let last = trace.ids.last().copied();
            let seen = match turn.is_repeated {
                true => PromptResult::Repeated(reply),
                false => PromptResult::Reply(reply),
            };
            let observation = protocol.observation(seen)?;
            trace.push_context(&text.observation_ids(last, &observation)?);
        }
    }
    Ok(trace)
}

/// A chat, to be learnt turn by turn, whose roles are in the order that the data set's reader
/// requires. Turns that are not to be learnt are context only.
///
/// # Errors
/// When a text cannot be framed or tokenized.
pub fn chat(text: &ChatTokenizer, lines: &[ChatTurn]) -> Result<TokenTrace, ExampleError> {
    let is_reply = |line: &ChatTurn| line.role == ChatRole::Assistant;
    let (opening, replies) = lines.split_at(lines.iter().position(is_reply).unwrap_or(lines.len()));
    let opening: Vec<TemplateMessage> = opening
        .iter()
        .map(|line| {
            let role = if line.role == ChatRole::System { "system" } else { "user" };
            TemplateMessage::text(role, &line.content)
        })
        .collect();
    let mut trace = TokenTrace::default();
    trace.push_context(&text.conversation_ids(&opening)?);
    for line in replies {
        match (is_reply(line), line.has_loss) {
            (true, true) => push_turn(text, &mut trace, &line.content)?,
            (true, false) => trace.push_context(&text.turn_ids(&line.content)?),
            (false, _) => {
                let last = trace.ids.last().copied();
                let observation = [Piece::Text(line.content.clone())];
                trace.push_context(&text.observation_ids(last, &observation)?);
            }
        }
    }
    Ok(trace)
}

/// The text that a policy writes for this thought and action.
pub fn turn_text(think: &str, action: &Action) -> String {
    let act = match action {
        Action::Prompt(text) => format!("<{PROMPT}>{text}</{PROMPT}>"),
        Action::FinalPrompt(text) => format!("<{FINAL_PROMPT}>{text}</{FINAL_PROMPT}>"),
        Action::Answer(text) => format!("<{ANSWER}>{text}</{ANSWER}>"),
        Action::Nothing => String::new(),
    };
    format!("<{THINK}>{think}</{THINK}>{act}")
}

/// The text of a turn that a caller gives, as the loop writes it.
fn given_text(turn: &DemoTurn) -> String {
    match &turn.action {
        Action::Prompt(prompt) => {
            write_prompt(Some(turn.think.as_str()).filter(|think| !think.is_empty()), prompt)
        }
        action => turn_text(&turn.think, action),
    }
}

/// Appends an assistant turn as if the model had sampled it, its stop token included.
fn push_turn(text: &ChatTokenizer, trace: &mut TokenTrace, turn: &str) -> Result<(), ExampleError> {
    for id in text.turn_ids(turn)? {
        trace.push_action(SampledToken { id, log_prob: 0.0 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;
    use crate::task::Task;

    #[test]
    fn given_turns_are_context_and_repeated_prompts_get_no_new_reply() {
        let text = ChatTokenizer::load(Path::new("models/policy")).unwrap();
        let protocol = Protocol::load(None).unwrap();
        let traced = |has_loss, is_repeated| {
            let ask = Action::Prompt("Where is it?".to_owned());
            let ask = DemoTurn::new("first".to_owned(), ask, Some("There".to_owned()));
            let answer = DemoTurn::new("so".to_owned(), Action::Answer("There".to_owned()), None);
            let task = Task { question: "Where?".to_owned(), ..Task::default() };
            let turns = vec![DemoTurn { has_loss, is_repeated, ..ask }, answer];
            demonstration(&text, &protocol, 5, &Demonstration { task, turns }).unwrap()
        };
        let (own, given) = (traced(true, false), traced(false, false));
        assert_eq!(own.ids, given.ids, "the policy sees the same");
        let answer = text.turn_ids("<think>so</think><answer>There</answer>").unwrap();
        assert_eq!(given.action_count(), answer.len(), "its answer alone is learnt");
        assert!(own.action_count() > given.action_count());
        assert_ne!(traced(true, true).ids, own.ids, "it reads that the prompt was sent before");
    }
}
