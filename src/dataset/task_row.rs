//! One row, from whatever file, as a task.

use std::sync::Arc;

use super::cell::Cell;
use super::choices::choices;
use super::example::ChatRole;
use super::fields::Fields;
use super::form::{Form, QUESTIONS};
use super::golds::golds;
use super::messages::{messages, roles};
use super::passage::{input, passage, prepend_passage, refuse_media, with_input};
use super::{Context, Row, Unused};
use crate::protocol::{ANSWER, PROMPT, THINK};
use crate::task::Task;
use crate::trajectory::Action;

impl Row for Task {
    fn read(fields: &Fields, context: &Context<'_>) -> Result<(Self, Form), Unused> {
        if fields.get("system").is_some_and(Cell::is_filled) {
            context.note("its system message is left out");
        }
        task(fields, context)
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn set_id(&mut self, id: String) {
        self.id = id;
    }

    fn question(&self) -> &str {
        &self.question
    }

    fn source(&self) -> &str {
        &self.source
    }

    fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    fn bytes(&self) -> usize {
        self.question.len() + self.golds.iter().map(String::len).sum::<usize>()
    }
}

/// A row as a task, without its system message.
pub(super) fn task(fields: &Fields, context: &Context<'_>) -> Result<(Task, Form), Unused> {
    if context.options.answer.is_none() && is_record(fields) {
        return Err("it is a record of an episode: its `answer` is what the policy said, not what is right (set `answer` to a column with the right one)".into());
    }
    refuse_media(fields)?;
    if fields.get("history").is_some_and(Cell::is_filled) {
        return Err("it has a `history`: its question stands in a longer conversation".into());
    }
    let (mut question, question_form) = question(fields, context)?;
    let choices = choices(fields)?;
    let (golds, gold_form) = golds(fields, context, choices.as_ref())?;
    if let Some(choices) = choices {
        question += &choices.listed();
    }
    let text = |name: &str| fields.get(name).and_then(Cell::scalar);
    let task = Task {
        question: prepend_passage(passage(fields, context)?, question),
        golds,
        id: text("id").or_else(|| text("_id")).unwrap_or_else(|| context.id()),
        source: source(fields, context),
        kind: text("kind"),
        hops: hops(fields)?,
    };
    Ok((task, gold_form.unwrap_or(question_form)))
}

/// The data set of a row: the one of the options, that which the row names, or that of its file.
fn source(fields: &Fields, context: &Context<'_>) -> Arc<str> {
    let named = named_source(fields).filter(|_| context.options.source.is_none());
    named.map_or_else(|| context.source.clone(), |source| context.shared(source))
}

/// The data set that a row names.
pub(super) fn named_source(fields: &Fields) -> Option<String> {
    let names = ["source", "data_source"].into_iter();
    names.filter_map(|name| fields.get(name)).find_map(Cell::scalar)
}

/// A data set and a kind, for a hint.
pub(super) fn class(source: &str, kind: Option<&str>) -> String {
    match kind {
        Some(kind) => format!("`{source}/{kind}`"),
        None => format!("`{source}`"),
    }
}

/// Whether the row is an episode that the server has recorded.
pub(super) fn is_record(fields: &Fields) -> bool {
    ["trajectory", "finish_reason", "question"].iter().all(|name| fields.get(name).is_some())
}

fn question(fields: &Fields, context: &Context<'_>) -> Result<(String, Form), Unused> {
    let (question, form) = match &context.options.question {
        Some(column) => {
            let named = fields.get(column).ok_or_else(|| missing(column, fields))?;
            (plain(named, column, context)?, Form::QuestionAnswer)
        }
        None => found_question(fields, context)?,
    };
    if question.trim().is_empty() {
        return Err("its question is empty".into());
    }
    Ok((question, form))
}

fn found_question(fields: &Fields, context: &Context<'_>) -> Result<(String, Form), Unused> {
    if let Some((name, question)) = fields.first(&QUESTIONS) {
        let form = match fields.get("reward_model") {
            Some(_) => Form::Verl,
            None => Form::QuestionAnswer,
        };
        return Ok((plain(question, name, context)?, form));
    }
    if let Some(prompt) = fields.get("prompt") {
        let form = match fields.first(&["completion", "response"]) {
            Some(_) => Form::PromptCompletion,
            None => Form::Verl,
        };
        let message = user_message(prompt, "prompt", context)?;
        let bare = fields
            .get("extra_info")
            .and_then(|info| info.get("question"))
            .and_then(Cell::text)
            .filter(|question| message.contains(question.trim()));
        return Ok((bare.map_or_else(|| unwrapped(&message), str::to_owned), form));
    }
    if let Some(instruction) = fields.get("instruction") {
        let instruction = plain(instruction, "instruction", context)?;
        return Ok((with_input(instruction, input(fields)?), Form::Alpaca));
    }
    for (name, form) in [("messages", Form::Chat), ("conversations", Form::ShareGpt)] {
        if let Some(value) = fields.get(name) {
            return Ok((user_message(value, name, context)?, form));
        }
    }
    Err(format!("it has no question: its columns are {} (set `question` and `answer` to the names of yours)", fields.names()).into())
}

fn plain(value: &Cell, name: &str, context: &Context<'_>) -> Result<String, Unused> {
    match value {
        Cell::Text(text) => Ok(text.clone()),
        Cell::List(_) => Ok(unwrapped(&user_message(value, name, context)?)),
        other => Err(format!("its `{name}` is {}, not text", other.kind()).into()),
    }
}

/// What the user asks in a conversation of one question; that may also be text itself.
fn user_message(value: &Cell, name: &str, context: &Context<'_>) -> Result<String, Unused> {
    if let Cell::Text(text) = value {
        return Ok(text.clone());
    }
    let messages = messages(value, name)?;
    let of = |role: ChatRole| messages.iter().filter(move |message| message.role == role);
    let mut asked = of(ChatRole::User);
    let (message, more) = (asked.next(), asked.next());
    let Some(message) = message else {
        return Err(format!("its `{name}` has no message of role `user`").into());
    };
    // Of a whole conversation, the last message is the answer.
    let is_whole = ["messages", "conversations"].contains(&name);
    let before = match messages.split_last() {
        Some((last, before)) if is_whole && last.role == ChatRole::Assistant => before,
        _ => &messages[..],
    };
    if more.is_some() || before.iter().any(|message| message.role == ChatRole::Assistant) {
        let roles = roles(&messages);
        return Err(format!("its `{name}` is a conversation, not one question: {roles}").into());
    }
    if of(ChatRole::System).next().is_some() {
        context.note("its system message is left out");
    }
    Ok(message.content.clone())
}

/// The question inside an instruction. It stands after `Question:`, at the message's start up to
/// the last line starting with `First,` before the first mention of a tag of the protocol, or
/// alone behind an instruction that mentions one. A message of another form is the question as it
/// is.
fn unwrapped(message: &str) -> String {
    const MARK: &str = "Question:";
    let first_tag = |text: &str| {
        [THINK, PROMPT, ANSWER].iter().filter_map(|tag| text.find(&format!("<{tag}>"))).min()
    };
    let before_instruction = || {
        let body = message.trim_start().strip_prefix(MARK)?;
        let instruction = &body[..first_tag(body)?];
        Some(body[..instruction.rfind("\nFirst,")?].trim())
    };
    let behind_instruction = || {
        let (instruction, question) = message.rsplit_once(MARK)?;
        first_tag(instruction)?;
        Some(question.trim())
    };
    let bare = before_instruction().or_else(behind_instruction);
    bare.filter(|question| !question.is_empty()).unwrap_or(message).to_owned()
}

fn hops(fields: &Fields) -> Result<Option<u32>, Unused> {
    let value = match fields.get("hops") {
        None | Some(Cell::Opaque("NaN")) => return Ok(None),
        Some(value) => value,
    };
    let hops = value.integer().and_then(|hops| u32::try_from(hops).ok());
    hops.map(Some).ok_or_else(|| {
        let shown = value.scalar().unwrap_or_else(|| value.kind().to_owned());
        format!("its `hops` is `{shown}`, not a whole number").into()
    })
}

pub(super) fn missing(column: &str, fields: &Fields) -> String {
    format!("it has no `{column}`, but {}", fields.names())
}

/// An action of a recorded turn.
pub(super) fn action(value: &Cell) -> Option<Action> {
    let text = || value.get("text").and_then(Cell::text).map(str::to_owned);
    Some(match value.get("kind")?.text()? {
        "prompt" => Action::Prompt(text()?),
        "final_prompt" => Action::FinalPrompt(text()?),
        "answer" => Action::Answer(text()?),
        _ => return None,
    })
}
