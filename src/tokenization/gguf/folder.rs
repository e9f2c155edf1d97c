//! The text side of a GGUF file as the files of a model folder.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::gguf::Gguf;
use crate::tokenization::chat_template::{SpecialTokens, TemplateMessage};
use crate::tokenization::tokenizer::write_file;
use crate::tokenization::{ChatTokenizer, TokenizerError};

/// Writes `tokenizer.json`, `tokenizer_config.json` with the chat template, and
/// `generation_config.json` with the stop tokens into `folder`. Loaded again, they give the same
/// ids as the file.
///
/// # Errors
/// When the file's tokenizer or chat template cannot be used, and when a file cannot be written.
pub fn write_text_files(file: &Gguf, folder: &Path) -> Result<(), TokenizerError> {
    write_texts(&ChatTokenizer::from_gguf(file)?, folder)
}

/// The same of any tokenizer and chat template, which need not be of one model.
///
/// # Errors
/// When a file cannot be written.
pub fn write_texts(text: &ChatTokenizer, folder: &Path) -> Result<(), TokenizerError> {
    let source = text.template.source();
    let SpecialTokens { bos_token, eos_token, pad_token, unk_token } =
        text.template.tokens().clone();
    let source = match begins_by_itself(text)? {
        true => source.to_owned(),
        // A folder's template says what a conversation begins with.
        false => format!("{{{{ bos_token }}}}{source}"),
    };
    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    settings.insert("clean_up_tokenization_spaces".into(), false.into());
    for (key, token) in [
        ("bos_token", bos_token),
        ("eos_token", eos_token),
        ("pad_token", pad_token),
        ("unk_token", unk_token),
    ] {
        settings.extend(token.map(|token| (key.to_owned(), Value::from(token))));
    }
    settings.insert("add_bos_token".into(), text.tokenizer.begin().is_some().into());
    settings.insert("chat_template".into(), source.into());

    let write = |name: &str, text: String| write_file(folder, name, text);
    let pretty = |value: Value| format!("{value:#}\n");
    write("tokenizer.json", text.tokenizer.to_json()?)?;
    write("tokenizer_config.json", pretty(settings.into()))?;
    let ends: Vec<u32> = text.turn_end().into_iter().collect();
    let others = text.tokenizer.end_ids().iter().filter(|id| !ends.contains(id));
    let ends: Vec<u32> = ends.iter().chain(others).copied().collect();
    write("generation_config.json", pretty(json!({ "eos_token_id": ends })))
}

/// Whether the chat template writes the token at the start of a conversation, if there is one.
fn begins_by_itself(text: &ChatTokenizer) -> Result<bool, TokenizerError> {
    let Some(begin) = text.tokenizer.begin() else { return Ok(true) };
    let rendered = text.template.render(&[TemplateMessage::markup("user", "a")])?;
    Ok(text.tokenizer.encode_pieces(&rendered)?.first() == Some(&begin))
}
