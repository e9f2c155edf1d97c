//! One row, whatever the file format, as a task.

use serde_json::{Map, Value};

use crate::protocol::{ANSWER, PROMPT, THINK};
use crate::task::Task;

/// A row's fields by name.
pub(super) type Fields = Map<String, Value>;

/// The fields that make a task; all else in a row is ignored.
pub(super) const FIELDS: [&str; 10] = [
    "id",
    "question",
    "prompt",
    "answer",
    "answers",
    "reward_model",
    "source",
    "data_source",
    "kind",
    "hops",
];

/// The row as a task, or what is wrong with it. `source` and `id` stand in where the row has none.
pub(super) fn task(
    fields: &Fields,
    source: &str,
    id: impl FnOnce() -> String,
) -> Result<Task, String> {
    let text = |name: &str| present(fields, name).and_then(scalar);
    Ok(Task {
        question: question(fields)?,
        golds: golds(fields)?,
        id: text("id").unwrap_or_else(id),
        source: text("source").or_else(|| text("data_source")).unwrap_or_else(|| source.to_owned()),
        kind: text("kind"),
        hops: hops(fields)?,
    })
}

/// A field that is there and not null.
fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn question(fields: &Fields) -> Result<String, String> {
    let question = match (present(fields, "question"), present(fields, "prompt")) {
        (Some(Value::String(question)), _) => question.clone(),
        (Some(_), _) => return Err("its `question` is not text".to_owned()),
        (None, Some(prompt)) => unwrapped(user_message(prompt)?),
        (None, None) => {
            return Err(format!("it has neither `question` nor `prompt`, but {}", names(fields)));
        }
    };
    if question.trim().is_empty() {
        return Err("its question is empty".to_owned());
    }
    Ok(question)
}

/// The last user message of `prompt`, which may also be that message itself.
fn user_message(prompt: &Value) -> Result<&str, String> {
    let messages = match prompt {
        Value::String(text) => return Ok(text),
        Value::Array(messages) => messages,
        _ => return Err("its `prompt` is not a list of messages".to_owned()),
    };
    messages
        .iter()
        .rev()
        .find(|message| message.get("role").and_then(Value::as_str) == Some("user"))
        .ok_or("its `prompt` has no message of role `user`")?
        .get("content")
        .and_then(Value::as_str)
        .ok_or_else(|| "the user message of its `prompt` has no text".to_owned())
}

/// The question inside an instruction: after `Question:`, up to the last line starting with
/// `First,` before the first mention of a tag of the protocol. A message of another form is the
/// question as it is.
fn unwrapped(message: &str) -> String {
    let bare = || {
        let body = message.trim_start().strip_prefix("Question:")?;
        let tags = [THINK, PROMPT, ANSWER].map(|tag| body.find(&format!("<{tag}>")));
        let instruction = &body[..tags.into_iter().flatten().min()?];
        let end = instruction.rfind("\nFirst,")?;
        Some(body[..end].trim().to_owned())
    };
    bare().unwrap_or_else(|| message.to_owned())
}

fn golds(fields: &Fields) -> Result<Vec<String>, String> {
    let (name, value) = ["answers", "answer"]
        .into_iter()
        .find_map(|name| Some((name, present(fields, name)?)))
        .or_else(|| {
            let truth = present(fields, "reward_model")?.get("ground_truth")?;
            Some(("reward_model.ground_truth", truth)).filter(|_| !truth.is_null())
        })
        .ok_or_else(|| {
            format!(
                "it has no `answer`, `answers` or `reward_model.ground_truth`, but {}",
                names(fields)
            )
        })?;
    let list = match value {
        Value::Array(list) => list.as_slice(),
        single => std::slice::from_ref(single),
    };
    let mut golds = Vec::with_capacity(list.len());
    for value in list.iter().filter(|value| !value.is_null()) {
        let gold =
            scalar(value).ok_or_else(|| format!("its `{name}` holds more than plain values"))?;
        if !gold.trim().is_empty() {
            golds.push(gold);
        }
    }
    if golds.is_empty() {
        return Err(format!("its `{name}` is empty"));
    }
    Ok(golds)
}

/// Text, a number or a truth value as text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn hops(fields: &Fields) -> Result<Option<u32>, String> {
    let Some(value) = present(fields, "hops") else {
        return Ok(None);
    };
    let hops = value.as_u64().and_then(|hops| u32::try_from(hops).ok());
    hops.map(Some).ok_or_else(|| format!("its `hops` is `{value}`, not a whole number"))
}

fn names(fields: &Fields) -> String {
    match fields.len() {
        0 => "no field at all".to_owned(),
        _ => fields.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
