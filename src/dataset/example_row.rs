//! One row, from whatever file, as an example for supervised training.

use super::cell::Cell;
use super::example::{ChatRole, ChatTurn, DemoTurn, Demonstration, Example};
use super::fields::Fields;
use super::form::{Form, GOLDS, QUESTIONS};
use super::task_row::{action, is_record, missing};
use super::{Context, Row, Unused};
use crate::task::Task;
use crate::trajectory::Action;

impl Row for Example {
    fn read(fields: &Fields, context: &Context<'_>) -> Result<(Self, Form), Unused> {
        let options = context.options;
        refuse_unknown(fields)?;
        if options.question.is_none() && options.answer.is_none() && is_record(fields) {
            return Ok((Self::Episode(episode(fields, context)?), Form::Record));
        }
        let (turns, form) = chat(fields, context)?;
        if !turns.iter().any(|turn| turn.is_learnt) {
            return Err(Unused::Skipped("all of its assistant's messages have weight 0"));
        }
        Ok((Self::Chat(turns), form))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Chat(turns) => turns.iter().map(|turn| turn.content.len()).sum(),
            Self::Episode(shown) => {
                let turn = |turn: &DemoTurn| {
                    turn.think.len() + turn.reply.as_ref().map_or(0, String::len) * 2
                };
                shown.turns.iter().map(turn).sum()
            }
        }
    }
}

/// Columns that supervised training does not interpret.
fn refuse_unknown(fields: &Fields) -> Result<(), Unused> {
    let is_filled = |name: &str| match fields.get(name) {
        Some(Cell::List(items)) => !items.is_empty(),
        Some(Cell::Text(text)) => !text.trim().is_empty() && text != "[]",
        found => found.is_some(),
    };
    if let Some(name) = ["tools", "functions"].iter().find(|name| is_filled(name)) {
        return Err(format!("it has `{name}`: conversations with tools are not trained on").into());
    }
    if ["chosen", "rejected"].iter().all(|name| fields.get(name).is_some()) {
        let reason = "it is a pair of `chosen` and `rejected` replies, which need preference training (rename `chosen` to `messages` to learn it alone)";
        return Err(reason.into());
    }
    if is_filled("history") {
        return Err("it has a `history`, of which there is no published form for training".into());
    }
    Ok(())
}

fn chat(fields: &Fields, context: &Context<'_>) -> Result<(Vec<ChatTurn>, Form), Unused> {
    let options = context.options;
    let system = match fields.get("system") {
        Some(value) => Some(content(value, "system")?).filter(|text| !text.trim().is_empty()),
        None => None,
    };
    let system = system.map(|text| turn(ChatRole::System, text));
    let (turns, form) = if options.question.is_some() || options.answer.is_some() {
        let question = options.question.as_deref().unwrap_or(QUESTIONS[0]);
        let answer = options.answer.as_deref().unwrap_or("answer");
        (pair(fields, question, answer)?, Form::QuestionAnswer)
    } else if let Some(value) = fields.get("messages") {
        (messages(value, "messages")?, Form::Chat)
    } else if let Some(value) = fields.get("conversations") {
        (messages(value, "conversations")?, Form::ShareGpt)
    } else if let (Some(_), Some((name, _))) =
        (fields.get("prompt"), fields.first(&["completion", "response"]))
    {
        (pair(fields, "prompt", name)?, Form::PromptCompletion)
    } else if fields.get("instruction").is_some() {
        let mut turns = pair(fields, "instruction", "output")?;
        let input = fields.get("input").and_then(Cell::text).unwrap_or_default().trim();
        if let (false, Some(first)) = (input.is_empty(), turns.first_mut()) {
            first.content = format!("{}\n\n{input}", first.content);
        }
        (turns, Form::Alpaca)
    } else if QUESTIONS.iter().chain(&["prompt"]).any(|name| fields.get(name).is_some()) {
        asked(fields, context)?
    } else {
        let hint = "a row is `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, or `question` and `answer`";
        return Err(format!("it has {}; {hint}", fields.names()).into());
    };
    Ok((system.into_iter().chain(turns).collect(), form))
}

/// A question and its answer as it is written; where that is a list, an object or the number of a
/// choice, the first of the golds is learnt.
fn asked(fields: &Fields, context: &Context<'_>) -> Result<(Vec<ChatTurn>, Form), Unused> {
    let written = ["solution"].into_iter().chain(GOLDS).find(|name| {
        let is_text = |value: &Cell| value.scalar().is_some_and(|text| !text.trim().is_empty());
        fields.get(name).is_some_and(is_text)
    });
    match (fields.first(&QUESTIONS), written) {
        (Some((question, _)), Some(answer)) if fields.get("choices").is_none() => {
            Ok((pair(fields, question, answer)?, Form::QuestionAnswer))
        }
        _ => {
            let (task, form) = Task::read(fields, context)?;
            let answer = task.golds.into_iter().next().unwrap_or_default();
            let turns =
                vec![turn(ChatRole::User, task.question), turn(ChatRole::Assistant, answer)];
            Ok((turns, form))
        }
    }
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
    ChatTurn { role, content, is_learnt: role == ChatRole::Assistant }
}

/// The messages of a conversation: OpenAI's `role` and `content`, or ShareGPT's `from` and `value`.
pub(super) fn messages(value: &Cell, name: &str) -> Result<Vec<ChatTurn>, Unused> {
    let parsed;
    let list = match value {
        Cell::List(list) => list,
        // File formats without nested columns store it as text.
        Cell::Text(text) => {
            let raw: Option<&serde_json::value::RawValue> = serde_json::from_str(text).ok();
            parsed = raw.and_then(|raw| Cell::from_json(raw).ok());
            match &parsed {
                Some(Cell::List(list)) => list,
                _ => return Err(format!("its `{name}` is no list of messages").into()),
            }
        }
        _ => return Err(format!("its `{name}` is no list of messages").into()),
    };
    if list.is_empty() {
        return Err(format!("its `{name}` is empty").into());
    }
    list.iter().enumerate().map(|(at, message)| one_message(message, name, at + 1)).collect()
}

fn one_message(message: &Cell, name: &str, number: usize) -> Result<ChatTurn, Unused> {
    let at = |reason: &str| Unused::Rejected(format!("message {number} of its `{name}` {reason}"));
    let role = message.get("role").or_else(|| message.get("from")).and_then(Cell::text);
    let role = match role.ok_or_else(|| at("has no `role`"))? {
        "system" | "developer" => ChatRole::System,
        "user" | "human" => ChatRole::User,
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" => ChatRole::Assistant,
        role @ ("tool" | "function" | "function_call" | "observation" | "ipython") => {
            return Err(at(&format!(
                "has the role `{role}`: conversations with tools are not trained on"
            )));
        }
        role => return Err(at(&format!("has the unknown role `{role}`"))),
    };
    for call in ["tool_calls", "function_call", "audio"] {
        if message.get(call).is_some_and(|value| *value != Cell::List(Vec::new())) {
            return Err(at(&format!("has `{call}`, which is not trained on")));
        }
    }
    let text = message.get("content").or_else(|| message.get("value"));
    let text = text.ok_or_else(|| at("has no `content`"))?;
    let mut content = content(text, "content").map_err(|error| match error {
        Unused::Rejected(reason) => at(&reason),
        skipped @ Unused::Skipped(_) => skipped,
    })?;
    let reasoning = message.get("reasoning_content").or_else(|| message.get("thinking"));
    if let (ChatRole::Assistant, Some(reasoning)) = (role, reasoning.and_then(Cell::text)) {
        let reasoning = reasoning.trim();
        if !reasoning.is_empty() && !content.contains("</think>") {
            content = format!("<think>\n{reasoning}\n</think>\n\n{}", content.trim_start());
        }
    }
    let weight = message.get("weight").and_then(Cell::scalar);
    let is_learnt = match weight.as_deref() {
        None | Some("1") => role == ChatRole::Assistant,
        Some("0") => false,
        Some(weight) => return Err(at(&format!("has the weight `{weight}`, not 0 or 1"))),
    };
    Ok(ChatTurn { role, content, is_learnt })
}

/// Text, or parts of type `text`.
fn content(value: &Cell, name: &str) -> Result<String, Unused> {
    let part = |part: &Cell| {
        let kind = part.get("type").and_then(Cell::text).unwrap_or("text");
        match (kind, part.get("text").and_then(Cell::text)) {
            ("text" | "input_text" | "output_text", Some(text)) => Ok(text.to_owned()),
            _ => Err(Unused::from(format!("has a part of type `{kind}`, not text"))),
        }
    };
    match value {
        Cell::List(parts) => parts.iter().map(part).collect(),
        value => value
            .scalar()
            .ok_or_else(|| format!("its `{name}` is {}, not text", value.kind()).into()),
    }
}

/// The roles of a conversation, for a reason.
pub(super) fn roles(messages: &[ChatTurn]) -> String {
    messages.iter().map(|message| message.role.to_string()).collect::<Vec<_>>().join(", ")
}

/// A recorded episode that the policy answered itself.
fn episode(fields: &Fields, context: &Context<'_>) -> Result<Demonstration, Unused> {
    let text = |name: &str| fields.get(name).and_then(Cell::text).unwrap_or_default().to_owned();
    if text("finish_reason") != "answered" || text("answer_source") != "policy" {
        return Err(Unused::Skipped("its episode did not end with an answer by the policy"));
    }
    if matches!(fields.get("conversation"), Some(Cell::List(before)) if !before.is_empty()) {
        return Err(Unused::Skipped("its question stands in a longer conversation"));
    }
    let turns = fields.get("trajectory").and_then(|trajectory| trajectory.get("turns"));
    let Some(Cell::List(turns)) = turns else { return Err("its record has no turns".into()) };
    let mut moves = Vec::with_capacity(turns.len());
    for turn in turns {
        let action = turn.get("action").and_then(action);
        let action = action.ok_or(Unused::Skipped("one of its turns has no action"))?;
        let think = turn.get("think").and_then(Cell::text).unwrap_or_default().to_owned();
        let reply = turn.get("observation").and_then(|seen| seen.get("reply"));
        let reply = reply.and_then(Cell::text).map(str::to_owned);
        if reply.is_some() == matches!(action, Action::Answer(_)) {
            return Err(Unused::Skipped("one of its prompts has no reply"));
        }
        moves.push(DemoTurn { think, action, reply });
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
