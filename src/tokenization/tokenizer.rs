//! A tokenizer that knows which text is ours and which is not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use aho_corasick::AhoCorasick;
use serde_json::Value;
use tokenizers::{AddedToken, Model, OffsetReferential, OffsetType, Tokenizer as Inner};

use super::space_prefix::SpacePrefix;
use crate::gguf::{Gguf, GgufError};
use crate::hint::Hint;
use crate::protocol::{Piece, TAGS, escape};

/// A tokenizer folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("cannot read `{path}`: {reason}")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`: {reason}")]
    Write {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The chat template is missing or does not render conversations.
    #[error("the chat template of `{path}` is not usable: {reason}")]
    Template {
        /// The folder.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A GGUF file cannot hold the tokenizer.
    #[error("the tokenizer of `{path}` cannot be written into a GGUF file: {reason}")]
    Inexpressible {
        /// The folder.
        path: String,
        /// What the format cannot express.
        reason: String,
    },
    /// The file that carries the tokenizer cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer refused a text.
    #[error("cannot tokenise: {0}")]
    Encode(String),
}

impl Hint for TokenizerError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Template { path, .. } if Gguf::is_path(Path::new(path)) => {
                "take the file of a model that was trained to chat, or add a `tokenizer.chat_template` that renders user and assistant messages".into()
            }
            Self::Template { .. } => "put a `chat_template.jinja` that renders user and assistant messages into the folder".into(),
            Self::Gguf(error) => return error.hint(),
            Self::Read { .. } | Self::Write { .. } | Self::Inexpressible { .. } | Self::Encode(_) => return None,
        })
    }
}

/// The keys of `tokenizer_config.json` and `special_tokens_map.json` that name one token.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Those that name several.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Tokens with a meaning beyond their text.
#[derive(Debug, Default)]
pub(super) struct Special {
    /// Those that text from outside never becomes, with their texts.
    pub control: BTreeMap<u32, String>,
    /// Those that end a turn.
    pub ends: Vec<u32>,
    /// Further tokens at which sampling stops.
    pub stops: Vec<u32>,
    /// The token at the start of every conversation, whether or not the chat template writes it.
    pub begin: Option<u32>,
}

/// A Hugging Face tokenizer with its control tokens set apart.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    /// The space that it puts before texts, where there is one.
    prefix: Option<SpacePrefix>,
    control: BTreeMap<u32, String>,
    /// Finds the control tokens in a text, by the earliest end.
    finder: AhoCorasick,
    end_ids: Vec<u32>,
    stop_ids: Vec<u32>,
    begin: Option<u32>,
}

impl Tokenizer {
    pub(super) fn new(mut inner: Inner, special: Special) -> Result<Self, TokenizerError> {
        // Settings that some folders have for batch training; here they would corrupt a stream.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(refused)?;
        let Special { mut control, mut ends, mut stops, begin } = special;
        for &id in &ends {
            if let Some(text) = inner.id_to_token(id).filter(|text| !is_ordinary(text)) {
                control.insert(id, text);
            }
        }
        stops.extend(&ends);
        for ids in [&mut ends, &mut stops] {
            ids.sort_unstable();
            ids.dedup();
        }
        let finder = finder(&control)?;
        let prefix = SpacePrefix::of(&inner);
        Ok(Self { inner, prefix, control, finder, end_ids: ends, stop_ids: stops, begin })
    }

    /// Reads `tokenizer.json`, the tokens that `tokenizer_config.json` and
    /// `special_tokens_map.json` add to it, and the stop tokens named in `generation_config.json`,
    /// `config.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// When there is no tokenizer, or one that cannot be used.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let mut inner = Inner::from_file(&path).map_err(|error| unreadable(&path, error))?;
        let settings = read_settings(folder)?;
        let mut special =
            add_declared(&mut inner, &folder.join("tokenizer_config.json"), &settings)?;
        special.extend(add_named(&mut inner, &settings));
        let added = inner.get_added_tokens_decoder();
        let is_special = |id: &u32, token: &AddedToken| token.special || special.contains(id);
        // Models also add ordinary text as tokens, such as runs of newlines; of those, only the
        // protocol's own tags must not come from outside.
        let control = added
            .iter()
            .filter(|(id, token)| is_special(id, token) || is_tag(&token.content))
            .map(|(&id, token)| (id, token.content.clone()))
            .collect();
        // A policy writes the protocol's tags within its turns, however they were added.
        let stops = added
            .iter()
            .filter(|(id, token)| is_special(id, token) && !is_tag(&token.content))
            .map(|(&id, _)| id)
            .collect();
        let mut ends = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let path = folder.join(file);
            let settings = read_json(&path)?;
            ends.extend(ids_of(&path, &settings, "eos_token_id")?);
            for key in not_applied(&settings) {
                let path = path.display();
                tracing::warn!(%path, "`{key}` is not applied: this program samples without it");
            }
        }
        ends.extend(token_text(&settings, "eos_token").and_then(|text| inner.token_to_id(&text)));
        Self::new(inner, Special { control, ends, stops, begin: None })
    }

    /// Counts the added tokens among `framed`, what the chat template writes, as control tokens,
    /// and those among `between`, what it writes between turns, as stop tokens, too: not every
    /// model's files mark them as special.
    pub(super) fn set_frame(
        &mut self,
        framed: &[u32],
        between: &[u32],
    ) -> Result<(), TokenizerError> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let marked = |id: &u32| {
            let text = &added.get(id)?.content;
            (!is_ordinary(text)).then(|| (*id, text.clone()))
        };
        let stops = between.iter().filter_map(marked).filter(|(_, text)| !is_tag(text));
        self.stop_ids.extend(stops.map(|(id, _)| id));
        self.stop_ids.sort_unstable();
        self.stop_ids.dedup();
        self.control.extend(framed.iter().chain(between).filter_map(marked));
        self.finder = finder(&self.control)?;
        Ok(())
    }

    /// Tokenises trusted text: control tokens in it are recognised.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode_markup(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Like [`Tokenizer::encode_markup`]; unless it `begins` a text, without the space before it.
    pub(super) fn encode_part(&self, text: &str, begins: bool) -> Result<Vec<u32>, TokenizerError> {
        let Some(prefix) = self.prefix.as_ref().filter(|_| !begins) else {
            return self.encode_markup(text);
        };
        let mut text = prefix.pre_tokenized(&self.inner, text).map_err(refused)?;
        let model = self.inner.get_model();
        text.tokenize(|part| model.tokenize(part.get())).map_err(refused)?;
        let encoding = text.into_encoding(None, 0, OffsetType::None).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokenises text from outside: it decodes to the same text, and no id is a control token.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_outside(text, true)
    }

    fn encode_outside(&self, text: &str, mut begins: bool) -> Result<Vec<u32>, TokenizerError> {
        let whole = self.encode_part(text, begins)?;
        if !self.has_control(&whole) {
            return Ok(whole);
        }
        // Splitting one character before the end of each control token leaves parts without any.
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(self.first_control_end(rest).unwrap_or(rest.len()));
            let encoded = self.encode_part(part, begins)?;
            if self.has_control(&encoded) {
                // A normaliser can turn other text into a control token. Single characters cannot.
                for (at, c) in part.char_indices() {
                    let single = self.encode_part(&part[at..at + c.len_utf8()], begins)?;
                    begins = false;
                    ids.extend(single.into_iter().filter(|id| !self.control.contains_key(id)));
                }
            } else {
                ids.extend(encoded);
            }
            begins = false;
            rest = after;
        }
        Ok(ids)
    }

    fn has_control(&self, ids: &[u32]) -> bool {
        ids.iter().any(|id| self.control.contains_key(id))
    }

    /// Whether text from outside never becomes `id`.
    pub(super) fn is_control(&self, id: u32) -> bool {
        self.control.contains_key(&id)
    }

    /// Whether `id` stops a turn, or is a control token that belongs to what is around turns.
    pub(super) fn is_frame(&self, id: u32) -> bool {
        self.stop_ids.contains(&id) || self.control.get(&id).is_some_and(|text| !is_tag(text))
    }

    /// Ids of pieces in order, each by its origin; the protocol's tags are escaped in text from
    /// outside, for tokenizers in which they are no control tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot encode a piece.
    pub fn encode_pieces(&self, pieces: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_unescaped(&escaped(pieces), true)
    }

    /// Like [`Tokenizer::encode_pieces`], of pieces that follow the token `last`.
    pub(super) fn encode_pieces_after(
        &self,
        last: Option<u32>,
        pieces: &[Piece],
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode_unescaped(&escaped(pieces), last.is_some_and(|id| self.begins_after(id)))
    }

    /// Whether the text after this token is encoded as if it began there.
    pub(super) fn begins_after(&self, id: u32) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| prefix.is_after(id))
    }

    /// Whether `id` is an added token.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// Ids of pieces whose texts are read as they are: escaped already, or for a model that knows no
    /// protocol; the first one `begins` a text, or not.
    pub(super) fn encode_unescaped(
        &self,
        pieces: &[Piece],
        mut begins: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if self.prefix.is_none() {
            for piece in pieces {
                match piece {
                    Piece::Markup(text) => ids.extend(self.encode_markup(text)?),
                    Piece::Text(text) => ids.extend(self.encode_text(text)?),
                }
            }
            return Ok(ids);
        }
        // A SentencePiece token has the space before its word, which can stand in another piece.
        // So all that stands between two control tokens of markup is encoded at once, and none of
        // it becomes one.
        let added = self.inner.get_added_vocabulary();
        let mut run = String::new();
        for piece in pieces {
            let text = match piece {
                Piece::Text(text) => {
                    run.push_str(text);
                    continue;
                }
                Piece::Markup(text) => text,
            };
            let split = added.extract_and_normalize(self.inner.get_normalizer(), text);
            let mut read = 0;
            for (_, (start, end), tokens) in
                split.get_splits(OffsetReferential::Original, OffsetType::Byte)
            {
                let mut found = tokens.iter().flatten().map(|token| token.id);
                let Some(id) = found.find(|id| self.control.contains_key(id)) else { continue };
                run.push_str(text.get(read..start).unwrap_or_default());
                ids.extend(self.encode_outside(&run, begins)?);
                run.clear();
                ids.push(id);
                begins = self.begins_after(id);
                read = end;
            }
            run.push_str(text.get(read..).unwrap_or_default());
        }
        ids.extend(self.encode_outside(&run, begins)?);
        Ok(ids)
    }

    /// The text of ids, control tokens included.
    ///
    /// # Errors
    /// When an id is none of the tokenizer's.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, false).map_err(refused)
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The largest id that text can become. Of control tokens only the protocol's tags count: other
    /// ones are not made of text.
    pub(super) fn largest_of_texts(&self) -> Option<u32> {
        let is_text = |id: &u32| self.control.get(id).is_none_or(|text| is_tag(text));
        self.inner.get_vocab(true).into_values().filter(is_text).max()
    }

    /// The ids with which the model ends a turn, ascending.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The ids at which sampling stops, ascending: those that end a turn, and every other special
    /// token but the protocol's tags, since a model that writes one has left its turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The content of a `tokenizer.json`.
    pub(super) fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(true).map_err(refused)
    }

    /// The token that every conversation begins with, where there is one besides what the chat
    /// template says.
    pub(super) fn begin(&self) -> Option<u32> {
        self.begin
    }

    /// Where to split `text` so that the first part contains no complete control token: one
    /// character before the end of the control token that ends first.
    fn first_control_end(&self, text: &str) -> Option<usize> {
        let found = self.finder.find(text)?;
        let last = text[..found.end()].chars().next_back()?.len_utf8();
        Some(found.end() - last)
    }
}

fn refused(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode(error.to_string())
}

fn escaped(pieces: &[Piece]) -> Vec<Piece> {
    let escaped = |piece: &Piece| match piece {
        Piece::Markup(text) => Piece::Markup(text.clone()),
        Piece::Text(text) => Piece::Text(escape(text)),
    };
    pieces.iter().map(escaped).collect()
}

/// Finds control tokens in a text. A single character cannot be cut in two.
fn finder(control: &BTreeMap<u32, String>) -> Result<AhoCorasick, TokenizerError> {
    let cuttable = control.values().filter(|text| text.chars().nth(1).is_some());
    AhoCorasick::new(cuttable).map_err(|error| TokenizerError::Encode(error.to_string()))
}

/// Whether people write `text` as such: a word, a space, a single character. Even if a file names
/// it as a special token, it must remain possible to write it.
pub(super) fn is_ordinary(text: &str) -> bool {
    text.chars().nth(1).is_none() || text.chars().all(|c| c.is_alphanumeric() || c.is_whitespace())
}

/// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, and returns those that
/// are marked as special there.
fn add_declared(
    inner: &mut Inner,
    path: &Path,
    settings: &Value,
) -> Result<BTreeSet<u32>, TokenizerError> {
    let wrong = |reason: String| unreadable(path, format!("`added_tokens_decoder`: {reason}"));
    let mut declared = BTreeMap::new();
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        let number: u32 = id.parse().map_err(|_| wrong(format!("`{id}` is not a token id")))?;
        declared.insert(number, token);
    }
    let mut special = BTreeSet::new();
    let mut missing = Vec::new();
    for (&id, &token) in &declared {
        let text = text_of(token).ok_or_else(|| wrong(format!("the token {id} has no text")))?;
        let flag = |key: &str| token[key].as_bool();
        let is_special = flag("special").unwrap_or_default();
        if is_special {
            special.insert(id);
        }
        if inner.get_added_vocabulary().get_vocab().get(&text) != Some(&id) {
            let added = AddedToken::from(text.clone(), is_special)
                .normalized(flag("normalized").unwrap_or(!is_special))
                .single_word(flag("single_word").unwrap_or_default())
                .lstrip(flag("lstrip").unwrap_or_default())
                .rstrip(flag("rstrip").unwrap_or_default());
            missing.push((id, added));
        }
    }
    let tokens: Vec<AddedToken> = missing.iter().map(|(_, token)| token.clone()).collect();
    inner.add_tokens(&tokens);
    for (id, token) in missing {
        let text = &token.content;
        let found = inner.token_to_id(text);
        if found != Some(id) {
            let found = found.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(wrong(format!(
                "`{text}` has the id {id}, but by `tokenizer.json` it is {found}"
            )));
        }
    }
    Ok(special)
}

/// Adds the named special tokens that are in the vocabulary alone, and returns the ids of all.
fn add_named(inner: &mut Inner, settings: &Value) -> BTreeSet<u32> {
    let one = NAMES.iter().filter_map(|key| settings.get(key));
    let several = LISTS.iter().filter_map(|key| settings.get(key)).flat_map(|value| match value {
        Value::Array(values) => values.iter().collect::<Vec<_>>(),
        Value::Object(values) => values.values().collect(),
        _ => Vec::new(),
    });
    let texts = one.chain(several).filter_map(text_of);
    let named: BTreeMap<u32, String> = texts
        .filter(|text| !is_ordinary(text))
        .filter_map(|text| Some((inner.token_to_id(&text)?, text)))
        .collect();
    let added = inner.get_added_tokens_decoder();
    let new = named.iter().filter(|(id, _)| !added.contains_key(id));
    let new: Vec<AddedToken> = new.map(|(_, text)| AddedToken::from(text.as_str(), true)).collect();
    inner.add_special_tokens(&new);
    named.into_keys().collect()
}

/// Settings of `generation_config.json` that would change what is sampled, and are not applied.
fn not_applied(settings: &Value) -> Vec<&'static str> {
    const KEYS: [&str; 6] = [
        "repetition_penalty",
        "suppress_tokens",
        "bad_words_ids",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "no_repeat_ngram_size",
    ];
    let has_effect = |key: &&str| match &settings[*key] {
        Value::Null => false,
        Value::Array(values) => !values.is_empty(),
        value if *key == "repetition_penalty" => value.as_f64() != Some(1.0),
        value if *key == "no_repeat_ngram_size" => value.as_f64() != Some(0.0),
        _ => true,
    };
    KEYS.into_iter().filter(has_effect).collect()
}

/// Whether `text` opens or closes an element of the protocol.
pub(super) fn is_tag(text: &str) -> bool {
    let name = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    name.is_some_and(|name| TAGS.contains(&name.strip_prefix('/').unwrap_or(name)))
}

fn unreadable(path: &Path, reason: impl ToString) -> TokenizerError {
    TokenizerError::Read { path: path.display().to_string(), reason: reason.to_string() }
}

/// The text of a file without its byte order mark; none if there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_start_matches('\u{feff}').to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// The table in a JSON file, or null if there is no such file: these files are optional.
pub(super) fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    let Some(text) = read_text(path)? else { return Ok(Value::Null) };
    let value: Value = serde_json::from_str(&text).map_err(|error| unreadable(path, error))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(unreadable(path, "it is not a JSON object")),
    }
}

/// The token ids that the `settings` in `path` have below `key`: one, or a list of them.
fn ids_of(path: &Path, settings: &Value, key: &str) -> Result<Vec<u32>, TokenizerError> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let Some(value) = settings.get(key).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let ids = match value {
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        unreadable(path, format!("`{key}` is {value}, not a token id, or a list of them"))
    })
}

/// `tokenizer_config.json`, with the special tokens that only `special_tokens_map.json` names.
pub(super) fn read_settings(folder: &Path) -> Result<Value, TokenizerError> {
    let mut settings = read_json(&folder.join("tokenizer_config.json"))?;
    let named = read_json(&folder.join("special_tokens_map.json"))?;
    for key in NAMES.into_iter().chain(LISTS) {
        if let (None, Some(token)) = (settings.get(key), named.get(key)) {
            settings[key] = token.clone();
        }
    }
    Ok(settings)
}

/// A token named in [`read_settings`].
pub(super) fn token_text(settings: &Value, key: &str) -> Option<String> {
    text_of(settings.get(key)?)
}

/// The text of a token in a file: a string, or an object with `content`.
fn text_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_sampling_that_are_not_applied_are_named() {
        for (settings, named) in [
            (json!(null), &[][..]),
            (json!({ "eos_token_id": 2, "repetition_penalty": 1.0, "bad_words_ids": null }), &[]),
            (json!({ "no_repeat_ngram_size": 0, "suppress_tokens": [] }), &[]),
            (json!({ "repetition_penalty": 1.1 }), &["repetition_penalty"]),
            (
                json!({ "forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "suppress_tokens": [1] }),
                &["suppress_tokens", "forced_eos_token_id", "no_repeat_ngram_size"],
            ),
            (
                json!({ "forced_bos_token_id": 0, "bad_words_ids": [[5]] }),
                &["bad_words_ids", "forced_bos_token_id"],
            ),
        ] {
            assert_eq!(not_applied(&settings), named, "{settings}");
        }
    }
}
