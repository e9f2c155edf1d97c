//! The text side of a model as settings of a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::TEMPLATE;
use crate::gguf::{Entry, Gguf};
use crate::tokenization::chat_template::TemplateMessage;
use crate::tokenization::pre_tokenizer::{DIGIT, GPT_2, PreTokenizer};
use crate::tokenization::token_settings::{read_settings, token_text};
use crate::tokenization::tokenizer::is_tag;
use crate::tokenization::{ChatTokenizer, TokenizerError};

/// The name of a pre-tokenizer that every reader knows.
const ANY_CUT: &str = "default";

/// The numbers of kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The purpose of the tokenizer in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufTokenizer {
    /// To read and write texts.
    Texts,
    /// To decode only: clients send token ids, so the pre-tokenizer need not be known.
    IdsOnly,
}

/// The settings with the tokenizer and the chat template `text` of the model in a folder or GGUF
/// file, for a model with `vocabulary` embeddings.
///
/// # Errors
/// When there is no usable one, or one that such files cannot hold.
pub fn gguf_entries(
    path: &Path,
    text: &ChatTokenizer,
    vocabulary: usize,
    wanted: GgufTokenizer,
) -> Result<Vec<(String, Entry)>, TokenizerError> {
    if !Gguf::is_path(path) {
        return from_folder(path, text, vocabulary, wanted);
    }
    let file = Gguf::open(path)?;
    let keys = file.keys().filter(|key| key.starts_with("tokenizer."));
    let entry = |key: &str| Some((key.to_owned(), Entry::copy(file.get(key)?)?));
    let mut entries: Vec<_> = keys.filter_map(entry).collect();
    // The template may be an adapter's.
    if file.get(TEMPLATE).is_none() {
        entries.push((TEMPLATE.to_owned(), Entry::Text(text.template.source().to_owned())));
    }
    Ok(entries)
}

fn from_folder(
    folder: &Path,
    text: &ChatTokenizer,
    vocabulary: usize,
    wanted: GgufTokenizer,
) -> Result<Vec<(String, Entry)>, TokenizerError> {
    let cannot = |reason: String| TokenizerError::Inexpressible {
        path: folder.display().to_string(),
        reason,
    };
    // Not the file: others add tokens to it.
    let json: Value = serde_json::from_str(&text.tokenizer.to_json()?)
        .map_err(|error| cannot(error.to_string()))?;
    check_kind(&json).map_err(cannot)?;
    let pre = match (pre_tokenizer(&json), wanted) {
        (Err(_), GgufTokenizer::IdsOnly) => ANY_CUT,
        (pre, _) => pre.map_err(cannot)?,
    };
    let model = &json["model"];
    let mut tokens: BTreeMap<u32, (String, i32)> = BTreeMap::new();
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        let id = id.as_u64().unwrap_or_default() as u32;
        tokens.insert(id, (token.clone(), NORMAL));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str()) else {
            return Err(cannot("an added token has no id or no text".to_owned()));
        };
        let id = id as u32;
        let is_control = text.tokenizer.is_control(id) && !is_tag(content);
        let kind = if token["special"] == true || is_control { CONTROL } else { USER_DEFINED };
        tokens.insert(id, (content.to_owned(), kind));
    }
    let tokens: Vec<(String, i32)> = (0..vocabulary as u32)
        .map(|id| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)))
        .collect();
    let (tokens, kinds) = tokens.into_iter().unzip();
    let merges: Option<Vec<String>> =
        model["merges"].as_array().into_iter().flatten().map(merge).collect();
    let merges = merges.ok_or_else(|| cannot("a merge is not a pair of tokens".to_owned()))?;

    let settings = read_settings(folder)?;
    let id = |key: &str| {
        let text_of = token_text(&settings, key)?;
        text.tokenizer.encode_markup(&text_of).ok().filter(|ids| ids.len() == 1).map(|ids| ids[0])
    };
    let begin = id("bos_token");
    let opened = text.conversation_ids(&[TemplateMessage::markup("user", "a")])?;
    // Readers put the token before conversations, too, unless the template has written it. ChatML
    // begins with a token that may be named as BOS, but stands before no plain text.
    let begins = match begin.filter(|_| opened.first().copied() == begin) {
        Some(id) => match settings["add_bos_token"].as_bool() {
            Some(begins) => begins,
            None => text.tokenizer.begins_texts_with(id)?,
        },
        None => false,
    };
    let mut entries = vec![
        ("tokenizer.ggml.model", Entry::Text("gpt2".into())),
        ("tokenizer.ggml.pre", Entry::Text(pre.into())),
        ("tokenizer.ggml.tokens", Entry::Texts(tokens)),
        ("tokenizer.ggml.token_type", Entry::I32s(kinds)),
        ("tokenizer.ggml.merges", Entry::Texts(merges)),
        ("tokenizer.ggml.add_bos_token", Entry::Bool(begins)),
        (TEMPLATE, Entry::Text(text.template.source().to_owned())),
    ];
    for (key, id) in [
        ("tokenizer.ggml.bos_token_id", begin),
        ("tokenizer.ggml.eos_token_id", text.turn_end().or_else(|| id("eos_token"))),
        ("tokenizer.ggml.padding_token_id", id("pad_token")),
        ("tokenizer.ggml.unknown_token_id", id("unk_token")),
    ] {
        entries.extend(id.map(|id| (key, Entry::U32(id))));
    }
    Ok(entries.into_iter().map(|(key, entry)| (key.to_owned(), entry)).collect())
}

/// `"a b"`, of `"a b"` or `["a", "b"]`.
fn merge(merge: &Value) -> Option<String> {
    match merge {
        Value::String(pair) => Some(pair.clone()),
        Value::Array(pair) => {
            Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?))
        }
        _ => None,
    }
}

/// Describes a `tokenizer.json`, unless its tokens are bytes.
fn check_kind(json: &Value) -> Result<(), String> {
    let model = &json["model"];
    let kind = model["type"].as_str().unwrap_or("BPE");
    if kind != "BPE" || model["byte_fallback"] == true {
        return Err(format!("it is no byte-level BPE, but {kind} on characters"));
    }
    Ok(())
}

/// The name of the pre-tokenizer of a `tokenizer.json`; if it has none, what it does.
fn pre_tokenizer(json: &Value) -> Result<&'static str, String> {
    let model = &json["model"];
    // Unicode composition: GGUF files leave it out, and few texts need it.
    let normalizer = json["normalizer"]["type"].as_str();
    if let Some(other) = normalizer.filter(|kind| *kind != "NFC") {
        return Err(format!("it normalises texts by `{other}`"));
    }
    let pre = &json["pre_tokenizer"];
    let steps = match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().cloned().unwrap_or_default(),
        _ => vec![pre.clone()],
    };
    let mut patterns: Vec<&str> = Vec::new();
    for step in &steps {
        match step["type"].as_str() {
            Some("Split") if step["pattern"]["Regex"].is_string() => {
                patterns.extend(step["pattern"]["Regex"].as_str());
            }
            Some("Digits") if step["individual_digits"] == true => patterns.push(DIGIT),
            Some("ByteLevel") if step["add_prefix_space"] == true => {
                return Err("it puts a space before texts".to_owned());
            }
            Some("ByteLevel") if step["use_regex"] == false => {}
            Some("ByteLevel") => patterns.push(GPT_2),
            other => return Err(format!("it cuts texts by `{}`", other.unwrap_or("nothing"))),
        }
    }
    let ignore_merges = model["ignore_merges"] == true;
    PreTokenizer::name_of(&patterns, ignore_merges).ok_or_else(|| {
        format!("it cuts texts in a way that has no name: `{}`", patterns.join("`, `"))
    })
}
