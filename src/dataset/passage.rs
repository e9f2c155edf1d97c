//! What stands beside a question and its answer: a passage, an input, images, a mark.

use super::cell::Cell;
use super::fields::Fields;
use super::form::QUESTIONS;
use super::{Context, Unused};

/// Columns with a text that a question is about. It is left out unless `context` names its column:
/// the same questions are asked without it, too.
pub(super) const PASSAGES: [&str; 6] =
    ["context", "passage", "paragraphs", "story", "document", "support"];
/// Columns with a text without which a question cannot be understood.
pub(super) const BODIES: [&str; 2] = ["body", "article"];
/// Columns with parts of a question that are no text.
pub(super) const MEDIA: [&str; 9] = [
    "image",
    "images",
    "image_path",
    "video",
    "videos",
    "audio",
    "audios",
    "decoded_image",
    "attachments",
];

/// The text that stands before the question. A conversation or prompt contains its own.
pub(super) fn passage(fields: &Fields, context: &Context<'_>) -> Result<Option<String>, Unused> {
    if let Some(column) = &context.options.context {
        let text = fields.get(column).and_then(text_of).filter(|text| !text.is_empty());
        return match text {
            Some(text) => Ok(Some(text)),
            None => {
                Err(format!("it has no text in `{column}`, and no paragraphs of a known form")
                    .into())
            }
        };
    }
    if PASSAGES.iter().any(|name| fields.get(name).is_some()) {
        context.note("its passage is left out (set `context` to its column to show it)");
    }
    let is_question = fields.first(&QUESTIONS).is_some() && fields.get("messages").is_none();
    let body = fields.first(&BODIES).filter(|(_, value)| value.is_filled());
    let Some((name, body)) = body.filter(|_| is_question || context.options.question.is_some())
    else {
        return Ok(None);
    };
    match body {
        Cell::Text(text) => Ok(Some(text.trim().to_owned())),
        other => Err(format!("its `{name}` is {}, not text", other.kind()).into()),
    }
}

/// The text of a passage, or of its paragraphs: as HotpotQA has them, an object of the lists
/// `title` and `sentences`, or a list of each title with its sentences; as MuSiQue has them, objects
/// of `title` and `paragraph_text`; or a list of texts.
fn text_of(value: &Cell) -> Option<String> {
    let paragraphs: Option<Vec<String>> = match value {
        Cell::Text(text) => return Some(text.trim().to_owned()),
        Cell::Record(_) => {
            let (titles, texts) = (value.get("title")?, value.get("sentences")?);
            let (Cell::List(titles), Cell::List(texts)) = (titles, texts) else { return None };
            let both = titles.iter().zip(texts).filter(|_| titles.len() == texts.len());
            both.map(|(title, text)| paragraph(Some(title), text)).collect()
        }
        Cell::List(items) => items
            .iter()
            .map(|item| match item {
                Cell::List(parts) => match parts.as_slice() {
                    [title, text @ Cell::List(_)] => paragraph(Some(title), text),
                    _ => None,
                },
                Cell::Record(_) => {
                    let text = ["paragraph_text", "text"].iter().find_map(|name| item.get(name))?;
                    paragraph(item.get("title"), text)
                }
                text => paragraph(None, text),
            })
            .collect(),
        _ => None,
    };
    Some(paragraphs?.join("\n\n"))
}

/// A paragraph below its title; `text` may be a list of sentences.
fn paragraph(title: Option<&Cell>, text: &Cell) -> Option<String> {
    let text = match text {
        Cell::List(sentences) => {
            let sentences = sentences.iter().map(|one| Some(one.text()?.trim()));
            sentences.collect::<Option<Vec<_>>>()?.join(" ")
        }
        text => text.text()?.trim().to_owned(),
    };
    match title {
        Some(title) => Some(format!("{}\n{text}", title.text()?.trim())),
        None => Some(text),
    }
}

/// Puts a passage before a question.
pub(super) fn prepend_passage(passage: Option<String>, question: String) -> String {
    match passage {
        Some(passage) => format!("{passage}\n\n{question}"),
        None => question,
    }
}

/// The `input` of Alpaca's form.
pub(super) fn input(fields: &Fields) -> Result<Option<String>, Unused> {
    let Some(value) = fields.get("input") else { return Ok(None) };
    let input =
        value.scalar().ok_or_else(|| format!("its `input` is {}, not text", value.kind()))?;
    Ok(Some(input.trim().to_owned()).filter(|input| !input.is_empty()))
}

/// Puts an input behind an instruction.
pub(super) fn with_input(instruction: String, input: Option<String>) -> String {
    match input {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction,
    }
}

/// Refuses a question that is not text alone.
pub(super) fn refuse_media(fields: &Fields) -> Result<(), Unused> {
    let media = MEDIA.iter().find(|name| fields.get(name).is_some_and(Cell::is_filled));
    match media {
        Some(name) => Err(format!("it has `{name}`, and only text is read").into()),
        None => Ok(()),
    }
}

/// Refuses a reply that is marked as bad: by `label`, as for KTO.
pub(super) fn refuse_marked(fields: &Fields, context: &Context<'_>) -> Result<(), Unused> {
    let is_answer = |name: &String| name.eq_ignore_ascii_case("label");
    let label =
        fields.get("label").filter(|_| !context.options.answer.as_ref().is_some_and(is_answer));
    let Some(label) = label.and_then(Cell::scalar) else { return Ok(()) };
    match label.to_ascii_lowercase().as_str() {
        "false" | "0" => Err(format!(
            "its `label` is `{label}`, which marks its answer as bad (drop the column if it means something else)"
        )
        .into()),
        "true" | "1" => Ok(()),
        _ => {
            context.note("its `label` is neither true nor false, and is not read");
            Ok(())
        }
    }
}
