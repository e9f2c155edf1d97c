//! One row, from whatever file, as an example for supervised training.

use super::cell::Cell;
use super::choices::choices;
use super::example::{ChatRole, ChatTurn, DemoTurn, Demonstration, Example};
use super::fields::Fields;
use super::form::{Form, GOLDS, QUESTIONS};
use super::messages::{content, messages, roles};
use super::passage::{input, passage, prepend_passage, refuse_marked, refuse_media, with_input};
use super::task_row::{action, is_record, missing, task};
use super::{Context, Row, Unused};
use crate::task::Task;
use crate::trajectory::Action;

/// An example and what it is selected by.
pub(super) struct ExampleRow {
    pub(super) example: Example,
    kind: Option<String>,
}

impl Row for ExampleRow {
    fn read(fields: &Fields, context: &Context<'_>) -> Result<(Self, Form), Unused> {
        let (example, form) = example(fields, context)?;
        let kind = fields.get("kind").and_then(Cell::scalar);
        Ok((Self { example, kind }, form))
    }

    fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    fn bytes(&self) -> usize {
        match &self.example {
            Example::Chat(turns) => turns.iter().map(|turn| turn.content.len()).sum(),
            Example::Episode(shown) => {
                let turn = |turn: &DemoTurn| {
                    turn.think.len() + turn.reply.as_ref().map_or(0, String::len) * 2
                };
                shown.turns.iter().map(turn).sum()
            }
        }
    }
}

fn example(fields: &Fields, context: &Context<'_>) -> Result<(Example, Form), Unused> {
    let options = context.options;
    refuse_unknown(fields)?;
    if options.question.is_none() && options.answer.is_none() && is_record(fields) {
        if options.context.is_some() {
            return Err(
                "it is a record of an episode, before whose question no `context` is put".into()
            );
        }
        return Ok((Example::Episode(episode(fields, context)?), Form::Record));
    }
    refuse_media(fields)?;
    let (turns, form) = chat(fields, context)?;
    refuse_roles(&turns)?;
    refuse_empty(&turns)?;
    if !turns.iter().any(|turn| turn.has_loss) {
        return Err(Unused::Skipped("all of its assistant's messages have weight 0"));
    }
    Ok((Example::Chat(turns), form))
}

/// Refuses a conversation that is not messages of the user and the assistant in turn, behind
/// whatever comes before the first reply, the assistant's as the last.
fn refuse_roles(turns: &[ChatTurn]) -> Result<(), Unused> {
    let is_reply = |turn: &ChatTurn| turn.role == ChatRole::Assistant;
    let first = turns.iter().position(is_reply).unwrap_or(turns.len());
    let (opening, replies) = turns.split_at(first);
    let is_asked = opening.last().is_some_and(|turn| turn.role == ChatRole::User);
    let role = |at: usize| if at.is_multiple_of(2) { ChatRole::Assistant } else { ChatRole::User };
    let is_in_turn = replies.iter().enumerate().all(|(at, turn)| turn.role == role(at));
    if is_asked && is_in_turn && replies.last().is_some_and(is_reply) {
        return Ok(());
    }
    let roles = roles(turns);
    Err(format!("its messages must be the user's and the assistant's in turn and end with the assistant's; their roles are {roles}").into())
}

/// Refuses a message that would be learnt without a text, or with nothing behind its reasoning.
fn refuse_empty(turns: &[ChatTurn]) -> Result<(), Unused> {
    let said = |turn: &ChatTurn| {
        let text = turn.content.rsplit("</think>").next();
        text.is_some_and(|text| !text.trim().is_empty())
    };
    match turns.iter().all(|turn| !turn.has_loss || said(turn)) {
        true => Ok(()),
        false => {
            Err("a message of its assistant is empty (one with `weight` 0 is not learnt)".into())
        }
    }
}

/// Columns that supervised training does not interpret.
fn refuse_unknown(fields: &Fields) -> Result<(), Unused> {
    let is_filled = |name: &str| fields.get(name).is_some_and(Cell::is_filled);
    if let Some(name) = ["tools", "functions"].iter().find(|name| is_filled(name)) {
        return Err(format!("it has `{name}`: conversations with tools are not trained on").into());
    }
    if ["chosen", "rejected"].iter().all(|name| fields.get(name).is_some()) {
        let reason = "it is a pair of `chosen` and `rejected` replies, which need preference training (rename `chosen` to `messages` to learn it alone)";
        return Err(reason.into());
    }
    let rejected = ["rejected", "rejected_response", "rejected_responses", "rejected_messages"];
    if let Some(name) = rejected.iter().find(|name| is_filled(name)) {
        return Err(format!("it has `{name}`, which needs preference training (drop the column to learn the other reply alone)").into());
    }
    if is_filled("history") {
        return Err("it has a `history`, of which there is no published form for training".into());
    }
    Ok(())
}

fn chat(fields: &Fields, context: &Context<'_>) -> Result<(Vec<ChatTurn>, Form), Unused> {
    let system = match fields.get("system") {
        Some(value) => Some(content(value, "system")?).filter(|text| !text.trim().is_empty()),
        None => None,
    };
    let system = system.map(|text| turn(ChatRole::System, text));
    let (turns, form) = asked(fields, context)?;
    Ok((system.into_iter().chain(turns).collect(), form))
}

fn asked(fields: &Fields, context: &Context<'_>) -> Result<(Vec<ChatTurn>, Form), Unused> {
    let options = context.options;
    let columns = if options.question.is_some() || options.answer.is_some() {
        let question = options.question.as_deref().unwrap_or(QUESTIONS[0]);
        let answer = options.answer.as_deref().unwrap_or("answer");
        Some((question, answer, Form::QuestionAnswer))
    } else {
        for (name, form) in [("messages", Form::Chat), ("conversations", Form::ShareGpt)] {
            if let Some(value) = fields.get(name) {
                refuse_marked(fields, context)?;
                return Ok((
                    with_passage(messages(value, name)?, passage(fields, context)?)?,
                    form,
                ));
            }
        }
        columns(fields)?
    };
    let has_choices = choices(fields)?.is_some();
    let Some((question, answer, form)) = columns.filter(|_| !has_choices) else {
        return as_task(fields, context);
    };
    refuse_marked(fields, context)?;
    let mut turns = pair(fields, question, answer)?;
    if let (Form::Alpaca, Some(first)) = (form, turns.first_mut()) {
        first.content = with_input(std::mem::take(&mut first.content), input(fields)?);
    }
    Ok((with_passage(turns, passage(fields, context)?)?, form))
}

/// The columns with the user's message and with the assistant's, as it is written. `None` where
/// that is a list, an object or the number of a choice.
fn columns(fields: &Fields) -> Result<Option<(&'static str, &'static str, Form)>, Unused> {
    if fields.get("prompt").is_some() {
        for reply in ["completion", "response"] {
            if fields.get(reply).is_some() {
                return Ok(Some(("prompt", reply, Form::PromptCompletion)));
            }
        }
    }
    if fields.get("instruction").is_some() {
        return Ok(Some(("instruction", "output", Form::Alpaca)));
    }
    let question = QUESTIONS.into_iter().find(|name| fields.get(name).is_some());
    if question.is_none() && fields.get("prompt").is_none() {
        let hint = "a row is `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, or `question` and `answer`";
        return Err(format!("it has {}; {hint}", fields.names()).into());
    }
    let replies = ["completion", "response", "output"];
    let answer = ["solution"].into_iter().chain(GOLDS).chain(replies).find(|name| {
        let is_text = |value: &Cell| value.scalar().is_some_and(|text| !text.trim().is_empty());
        fields.get(name).is_some_and(is_text)
    });
    Ok(question.zip(answer).map(|(question, answer)| (question, answer, Form::QuestionAnswer)))
}

/// The question as of a task, and the first of its golds.
fn as_task(fields: &Fields, context: &Context<'_>) -> Result<(Vec<ChatTurn>, Form), Unused> {
    let (task, form) = task(fields, context)?;
    let answer = task.golds.into_iter().next().unwrap_or_default();
    Ok((vec![turn(ChatRole::User, task.question), turn(ChatRole::Assistant, answer)], form))
}

/// Puts a passage before the first question.
fn with_passage(
    mut turns: Vec<ChatTurn>,
    passage: Option<String>,
) -> Result<Vec<ChatTurn>, Unused> {
    let Some(passage) = passage else { return Ok(turns) };
    let question = turns.iter_mut().find(|turn| turn.role == ChatRole::User);
    let question = question.ok_or("it has a passage, but no message of role `user`")?;
    question.content = prepend_passage(Some(passage), std::mem::take(&mut question.content));
    Ok(turns)
}

/// A user message and an assistant message; either may also be a list of messages.
fn pair(fields: &Fields, question: &str, answer: &str) -> Result<Vec<ChatTurn>, Unused> {
    let mut turns = Vec::new();
    for (name, role) in [(question, ChatRole::User), (answer, ChatRole::Assistant)] {
        let value = fields.get(name).ok_or_else(|| missing(name, fields))?;
        match value {
            Cell::List(items) if items.iter().any(|item| item.get("role").is_some()) => {
                turns.extend(messages(value, name)?);
            }
            value => turns.push(turn(role, content(value, name)?)),
        }
    }
    let learnt = turns.last().is_some_and(|turn| !turn.content.trim().is_empty());
    if learnt { Ok(turns) } else { Err(format!("its `{answer}` is empty").into()) }
}

fn turn(role: ChatRole, content: String) -> ChatTurn {
    ChatTurn { role, content, has_loss: role == ChatRole::Assistant }
}

/// Whether a part of a record has this flag; false flags may be left out.
fn is_set(value: Option<&Cell>, flag: &str) -> bool {
    matches!(value.and_then(|value| value.get(flag)), Some(Cell::Bool(true)))
}

/// A recorded episode that the policy answered itself. Turns that its caller gave are context.
fn episode(fields: &Fields, context: &Context<'_>) -> Result<Demonstration, Unused> {
    let text = |name: &str| fields.get(name).and_then(Cell::text).unwrap_or_default().to_owned();
    if text("finish_reason") != "answered" || text("answer_source") != "policy" {
        return Err(Unused::Skipped("its episode did not end with an answer by the policy"));
    }
    if matches!(fields.get("conversation"), Some(Cell::List(before)) if !before.is_empty()) {
        return Err(Unused::Skipped("its question stands in a longer conversation"));
    }
    if fields.get("attachments").is_some_and(Cell::is_filled) {
        return Err(Unused::Skipped("its question is not text alone"));
    }
    let turns = fields.get("trajectory").and_then(|trajectory| trajectory.get("turns"));
    let Some(Cell::List(turns)) = turns else { return Err("its record has no turns".into()) };
    let mut moves = Vec::with_capacity(turns.len());
    for turn in turns {
        if turn.get("finish").and_then(Cell::text) == Some("length") {
            return Err(Unused::Skipped("one of its turns was cut off at its limit"));
        }
        let action = turn.get("action").and_then(action);
        let action = action.ok_or(Unused::Skipped("one of its turns has no action"))?;
        let think = turn.get("think").and_then(Cell::text).unwrap_or_default().to_owned();
        let seen = turn.get("observation");
        // How much of it was shown is not recorded.
        if is_set(seen, "truncated") {
            return Err(Unused::Skipped("one of its replies was shown in part"));
        }
        let reply = seen.and_then(|seen| seen.get("reply"));
        let reply = reply.and_then(Cell::text).map(str::to_owned);
        if reply.is_some() == matches!(action, Action::Answer(_)) {
            return Err(Unused::Skipped("one of its prompts has no reply"));
        }
        moves.push(DemoTurn {
            is_repeated: is_set(seen, "repeated"),
            has_loss: !is_set(Some(turn), "is_given"),
            ..DemoTurn::new(think, action, reply)
        });
    }
    let task = Task {
        id: fields.get("id").and_then(Cell::scalar).unwrap_or_else(|| context.id()),
        question: text("question"),
        golds: vec![text("answer")],
        source: context.source.clone(),
        ..Task::default()
    };
    Ok(Demonstration { task, turns: moves })
}
