//! One row, from whatever file, as a task.

use super::cell::Cell;
use super::example::ChatRole;
use super::example_row::{messages, roles};
use super::fields::Fields;
use super::form::{Form, QUESTIONS};
use super::golds::golds;
use super::{Context, ReadOptions, Row, Unused};
use crate::protocol::{ANSWER, PROMPT, THINK};
use crate::task::Task;
use crate::trajectory::Action;

/// Columns with a text that a question is about.
const PASSAGES: [&str; 3] = ["context", "passage", "paragraphs"];

impl Row for Task {
    fn read(fields: &Fields, context: &Context<'_>) -> Result<(Self, Form), Unused> {
        let options = context.options;
        if options.answer.is_none() && is_record(fields) {
            return Err("it is a record of an episode: its `answer` is what the policy said, not what is right (set `answer` to a column with the right one)".into());
        }
        let (question, question_form) = question(fields, context)?;
        let (golds, gold_form) = golds(fields, options)?;
        let mut question = question;
        let mut form = gold_form.unwrap_or(question_form);
        if let Some(choices) = choices(fields)? {
            question += &listed(&choices);
            form = Form::MultipleChoice;
        }
        if let Some(column) = &options.context {
            let passage = fields.get(column).and_then(Cell::text).map(str::trim);
            let passage = passage.filter(|text| !text.is_empty());
            let passage = passage.ok_or_else(|| format!("it has no text in `{column}`"))?;
            question = format!("{passage}\n\n{question}");
        } else if PASSAGES.iter().any(|name| fields.has(name)) {
            context.note("its passage is left out (set `context` to its column to show it)");
        }
        let text = |name: &str| fields.get(name).and_then(Cell::scalar);
        let task = Self {
            question,
            golds,
            id: text("id").or_else(|| text("_id")).unwrap_or_else(|| context.id()),
            source: match text("source").or_else(|| text("data_source")) {
                Some(source) => context.shared(source),
                None => context.source.clone(),
            },
            kind: text("kind"),
            hops: hops(fields)?,
        };
        Ok((task, form))
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn source(&self) -> &str {
        &self.source
    }

    fn is_wanted(&self, options: &ReadOptions) -> bool {
        let kind = self.kind.as_ref();
        (options.sources.is_empty() || options.sources.iter().any(|source| *source == *self.source))
            && (options.kinds.is_empty() || kind.is_some_and(|kind| options.kinds.contains(kind)))
    }

    fn class(&self) -> String {
        match &self.kind {
            Some(kind) => format!("`{}/{kind}`", self.source),
            None => format!("`{}`", self.source),
        }
    }

    fn bytes(&self) -> usize {
        self.question.len() + self.golds.iter().map(String::len).sum::<usize>()
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
        let input = fields.get("input").and_then(Cell::text).unwrap_or_default().trim();
        let question = match input {
            "" => instruction,
            _ => format!("{instruction}\n\n{input}"),
        };
        return Ok((question, Form::Alpaca));
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
    match (asked.next(), asked.next()) {
        (Some(message), None) if of(ChatRole::Assistant).count() <= 1 => {
            if of(ChatRole::System).next().is_some() {
                context.note("its system message is left out");
            }
            Ok(message.content.clone())
        }
        (None, _) => Err(format!("its `{name}` has no message of role `user`").into()),
        _ => {
            let roles = roles(&messages);
            Err(format!("its `{name}` is a conversation, not one question: {roles}").into())
        }
    }
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

/// The options of a multiple-choice question with their letters.
pub(super) fn choices(fields: &Fields) -> Result<Option<Vec<(String, String)>>, Unused> {
    let Some(value) = fields.get("choices") else { return Ok(None) };
    let (texts, labels) = match value {
        Cell::Record(_) => (value.get("text"), value.get("label")),
        _ => (Some(value), None),
    };
    let list = |value: Option<&Cell>| match value {
        Some(Cell::List(items)) => items.iter().map(Cell::scalar).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let texts = list(texts).filter(|texts| (1..=26).contains(&texts.len()));
    let texts = texts.ok_or("its `choices` is no list of up to 26 texts")?;
    let labels = list(labels).unwrap_or_else(|| ('A'..='Z').map(String::from).collect());
    Ok(Some(labels.into_iter().zip(texts).collect()))
}

fn listed(choices: &[(String, String)]) -> String {
    choices.iter().map(|(label, text)| format!("\n{label}. {text}")).collect()
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
