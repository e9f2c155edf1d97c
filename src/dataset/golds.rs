//! The gold answers of a row.

use super::cell::Cell;
use super::choices::Choices;
use super::example::ChatRole;
use super::fields::Fields;
use super::form::{Form, GOLDS};
use super::passage::refuse_marked;
use super::task_row::missing;
use super::{Context, Unused};
use crate::reward::{Number, boxed};

/// Columns with longer texts that contain an answer, used if no answer column exists.
const TEXTS: [&str; 4] = ["solution", "completion", "response", "output"];

/// The acceptable answers, and the form that they imply.
pub(super) fn golds(
    fields: &Fields,
    context: &Context<'_>,
    choices: Option<&Choices>,
) -> Result<(Vec<String>, Option<Form>), Unused> {
    let chosen = context.options.answer.as_deref();
    let chosen_value = match chosen {
        Some(column) => Some((column, fields.get(column).ok_or_else(|| missing(column, fields))?)),
        None => None,
    };
    if let Some(choices) = choices {
        return Ok((choices.golds(fields, chosen)?, Some(Form::MultipleChoice)));
    }
    refuse_marked(fields, context)?;
    let mut found = Found::default();
    if let Some((column, value)) = chosen_value {
        found.add(column, value)?;
        return found.finish(column);
    }
    let mut empty = None;
    for name in GOLDS {
        let Some(value) = fields.get(name) else { continue };
        found.add(name, value)?;
        if !found.golds.is_empty() {
            if let Some(aliases) = fields.get("answer_aliases") {
                found.add("answer_aliases", aliases)?;
            }
            if found.form.is_none() && has_worked_solution(fields) {
                found.form = Some(Form::Math);
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
        found.add_value(name, value)?;
        if name == "solution" && found.form != Some(Form::Math) {
            return Err(r"its `solution` has no `\boxed{…}`".into());
        }
        return found.finish(name);
    }
    for (name, form) in [("messages", Form::Chat), ("conversations", Form::ShareGpt)] {
        if let Some(value) = fields.get(name) {
            let messages = super::messages::messages(value, name)?;
            let last = messages.iter().rfind(|message| message.role == ChatRole::Assistant);
            let last = last.ok_or_else(|| format!("its `{name}` has no answer"))?;
            if !last.has_loss {
                return Err(
                    format!("the answer in its `{name}` is marked as not to be learnt").into()
                );
            }
            found.add_text(&last.content);
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

/// Whether there is a solution with `\boxed{…}` besides the answer, as in MATH-500.
fn has_worked_solution(fields: &Fields) -> bool {
    let solution = fields.get("solution").and_then(Cell::text).and_then(boxed);
    solution.is_some_and(|content| !content.is_empty())
}

#[derive(Default)]
struct Found {
    golds: Vec<String>,
    form: Option<Form>,
}

impl Found {
    /// Adds what a column holds. Text may be a list: file formats without nested columns store it
    /// so.
    fn add(&mut self, name: &str, value: &Cell) -> Result<(), Unused> {
        match value.text().map(|text| list_in(name, text)).transpose()?.flatten() {
            Some(items) => {
                items.into_iter().for_each(|item| self.push(item));
                Ok(())
            }
            None => self.add_value(name, value),
        }
    }

    fn add_value(&mut self, name: &str, value: &Cell) -> Result<(), Unused> {
        match value {
            Cell::Null => {}
            Cell::Text(text) => self.add_text(text),
            Cell::List(items) => {
                return items.iter().try_for_each(|item| self.add_value(name, item));
            }
            Cell::Record(_) => return self.add_record(name, value),
            Cell::Opaque(kind) => return Err(format!("its `{name}` is {kind}").into()),
            // A question that is answered so may be answered either way.
            Cell::Bool(true) => {
                ["yes", "true"].map(String::from).into_iter().for_each(|gold| self.push(gold))
            }
            Cell::Bool(false) => {
                ["no", "false"].map(String::from).into_iter().for_each(|gold| self.push(gold))
            }
            Cell::Number(_) | Cell::Unread => self.push(value.scalar().unwrap_or_default()),
        }
        Ok(())
    }

    fn add_record(&mut self, name: &str, value: &Cell) -> Result<(), Unused> {
        let parts: &[&str] = if let Some(text) = value.get("text") {
            if value.get("answer_start").is_some() {
                self.form = Some(Form::Squad);
            }
            return self.add_value(name, text);
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
        parts
            .iter()
            .filter_map(|part| value.get(part))
            .try_for_each(|part| self.add_value(name, part))
    }

    fn add_text(&mut self, text: &str) {
        let (gold, form) = short(text);
        if form.is_some() {
            self.form = form;
        }
        self.push(gold.to_owned());
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

/// The texts of a column that is a list in JSON. Other text in brackets may be an interval, unless
/// the column's name is that of a list.
fn list_in(name: &str, text: &str) -> Result<Option<Vec<String>>, Unused> {
    let text = text.trim();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let is_plural = name.ends_with("answers") || name.ends_with("aliases");
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(items) if is_plural || !items.is_empty() => Ok(Some(items)),
        Err(_) if is_plural || text.starts_with("['") => {
            Err(format!("its `{name}` is text that looks like a list, but is not valid JSON")
                .into())
        }
        _ => Ok(None),
    }
}

/// The answer in a worked solution: what follows its last `####`, or what stands in its last
/// `\boxed{…}`. Any other text is the answer as it is.
fn short(text: &str) -> (&str, Option<Form>) {
    if let Some(answer) = marked(text) {
        return (answer, Some(Form::Gsm8k));
    }
    match boxed(text).filter(|content| !content.is_empty()) {
        Some(content) => (content, Some(Form::Math)),
        None => (text, None),
    }
}

/// What follows the last `####` in its line. Before the last line that must be a number: in
/// Markdown, the mark begins a heading.
fn marked(text: &str) -> Option<&str> {
    let (_, rest) = text.trim_end().rsplit_once("####")?;
    let (answer, is_last) = match rest.split_once('\n') {
        Some((answer, _)) => (answer.trim(), false),
        None => (rest.trim(), true),
    };
    (is_last || Number::parse_with_unit(answer).is_some()).then_some(answer)
}
