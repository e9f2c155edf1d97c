//! The gold answers of a row.

use super::cell::Cell;
use super::example::ChatRole;
use super::fields::Fields;
use super::form::{Form, GOLDS};
use super::task_row::{choices, missing};
use super::{ReadOptions, Unused};
use crate::reward::boxed;

/// Columns with longer texts that contain an answer, used if no answer column exists.
const TEXTS: [&str; 4] = ["solution", "completion", "response", "output"];

/// The acceptable answers, and the form that they imply.
pub(super) fn golds(
    fields: &Fields,
    options: &ReadOptions,
) -> Result<(Vec<String>, Option<Form>), Unused> {
    let mut found = Found::default();
    if let Some(column) = &options.answer {
        found.add(column, fields.get(column).ok_or_else(|| missing(column, fields))?)?;
        return found.finish(column);
    }
    if let Some(choices) = choices(fields)? {
        return of_choices(fields, &choices);
    }
    let mut empty = None;
    for name in GOLDS {
        let Some(value) = fields.get(name) else { continue };
        found.add(name, value)?;
        if !found.golds.is_empty() {
            if let Some(aliases) = fields.get("answer_aliases") {
                found.add("answer_aliases", aliases)?;
            }
            return found.finish(name);
        }
        empty = empty.or(Some(name));
    }
    if let Some(truth) = fields.get("reward_model").and_then(|model| model.get("ground_truth")) {
        found.form = Some(Form::Verl);
        found.add("reward_model.ground_truth", truth)?;
        return found.finish("reward_model.ground_truth");
    }
    if let Some(name) = empty {
        if is_unanswerable(fields) {
            return Err(Unused::Skipped("it is marked as having no answer"));
        }
        return Err(format!("its `{name}` is empty").into());
    }
    if let Some((name, value)) = fields.first(&TEXTS) {
        found.add(name, value)?;
        if name == "solution" && found.form != Some(Form::Math) {
            return Err(r"its `solution` has no `\boxed{…}`".into());
        }
        return found.finish(name);
    }
    for (name, form) in [("messages", Form::Chat), ("conversations", Form::ShareGpt)] {
        if let Some(value) = fields.get(name) {
            let messages = super::example_row::messages(value, name)?;
            let last = messages.iter().rfind(|message| message.role == ChatRole::Assistant);
            let last = last.ok_or_else(|| format!("its `{name}` has no answer"))?;
            found.add(name, &Cell::Text(last.content.clone()))?;
            found.form = found.form.or(Some(form));
            return found.finish(name);
        }
    }
    Err(format!(
        "it has no answer: its columns are {} (set `question` and `answer` to the names of yours)",
        fields.names()
    )
    .into())
}

fn is_unanswerable(fields: &Fields) -> bool {
    // In SQuAD 2 the answers are empty; MuSiQue and SQuAD's own file have a flag.
    fields.get("is_impossible") == Some(&Cell::Bool(true))
        || fields.get("answerable") == Some(&Cell::Bool(false))
        || fields.get("answers").is_some_and(|value| value.get("answer_start").is_some())
}

/// The letter of the right choice, and its text.
fn of_choices(
    fields: &Fields,
    choices: &[(String, String)],
) -> Result<(Vec<String>, Option<Form>), Unused> {
    let (name, value) = fields
        .first(&["answerKey", "answer"])
        .ok_or("it has `choices`, but no `answer` or `answerKey`")?;
    let given = value.scalar().unwrap_or_default();
    let by_label =
        choices.iter().find(|(label, text)| label.eq_ignore_ascii_case(&given) || *text == given);
    // Numbers are indices from 0, unless they are labels.
    let by_index = || choices.get(given.parse::<usize>().ok()?);
    let (label, text) = by_label
        .or_else(by_index)
        .ok_or_else(|| format!("its `{name}` is `{given}`, which is none of its `choices`"))?;
    Ok((vec![label.clone(), text.clone()], Some(Form::MultipleChoice)))
}

#[derive(Default)]
struct Found {
    golds: Vec<String>,
    form: Option<Form>,
}

impl Found {
    /// Adds what a column holds.
    fn add(&mut self, name: &str, value: &Cell) -> Result<(), Unused> {
        match value {
            Cell::Null => Ok(()),
            Cell::Text(text) => self.add_text(name, text),
            Cell::List(items) => items.iter().try_for_each(|item| self.add(name, item)),
            Cell::Record(_) => self.add_record(name, value),
            Cell::Opaque(kind) => Err(format!("its `{name}` is {kind}").into()),
            Cell::Number(_) | Cell::Bool(_) | Cell::Unread => {
                self.push(value.scalar().unwrap_or_default());
                Ok(())
            }
        }
    }

    fn add_record(&mut self, name: &str, value: &Cell) -> Result<(), Unused> {
        let parts: &[&str] = if let Some(text) = value.get("text") {
            if value.get("answer_start").is_some() {
                self.form = Some(Form::Squad);
            }
            return self.add(name, text);
        } else if value.get("value").is_some() {
            self.form = Some(Form::TriviaQa);
            &["value", "aliases", "normalized_aliases"]
        } else if value.get("target").is_some() {
            &["target"]
        } else if value.get("spans").is_some() {
            &["spans"]
        } else {
            return Err(format!("its `{name}` is an object of no known form").into());
        };
        parts.iter().filter_map(|part| value.get(part)).try_for_each(|part| self.add(name, part))
    }

    fn add_text(&mut self, name: &str, text: &str) -> Result<(), Unused> {
        let is_plural = name.ends_with("answers") || name.ends_with("aliases");
        if is_plural && text.trim_start().starts_with('[') {
            let items: Vec<String> = serde_json::from_str(text).map_err(|_| {
                Unused::from(format!("its `{name}` is text that looks like a list, but is no JSON"))
            })?;
            items.into_iter().for_each(|item| self.push(item));
            return Ok(());
        }
        let (gold, form) = short(text);
        if form.is_some() {
            self.form = form;
        }
        self.push(gold.to_owned());
        Ok(())
    }

    fn push(&mut self, gold: String) {
        if !gold.trim().is_empty() && !self.golds.contains(&gold) {
            self.golds.push(gold);
        }
    }

    fn finish(mut self, name: &str) -> Result<(Vec<String>, Option<Form>), Unused> {
        // Most rows have one answer, in a list with room for four.
        self.golds.shrink_to_fit();
        match self.golds.is_empty() {
            true => Err(format!("its `{name}` is empty").into()),
            false => Ok((self.golds, self.form)),
        }
    }
}

/// The answer in a worked solution: what follows `####` in its last line, or what stands in its
/// last `\boxed{…}`. Any other text is the answer as it is.
fn short(text: &str) -> (&str, Option<Form>) {
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    if let Some(answer) = last.trim_start().strip_prefix("####") {
        return (answer.trim(), Some(Form::Gsm8k));
    }
    match boxed(text).filter(|content| !content.is_empty()) {
        Some(content) => (content, Some(Form::Math)),
        None => (text, None),
    }
}
