//! A tokenizer that knows which text is ours and which is not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use aho_corasick::AhoCorasick;
use serde_json::Value;

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
    inner: tokenizers::Tokenizer,
    control: BTreeMap<u32, String>,
    /// Finds the control tokens in a text, by the earliest end.
    finder: AhoCorasick,
    end_ids: Vec<u32>,
    stop_ids: Vec<u32>,
    begin: Option<u32>,
}

impl Tokenizer {
    pub(super) fn new(
        mut inner: tokenizers::Tokenizer,
        special: Special,
    ) -> Result<Self, TokenizerError> {
        let failed = |error: String| TokenizerError::Encode(error);
        // Settings that some folders have for batch training; here they would corrupt a stream.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| failed(error.to_string()))?;
        // A single character cannot be cut in two.
        let cuttable = special.control.values().filter(|text| text.chars().nth(1).is_some());
        let finder = AhoCorasick::new(cuttable).map_err(|error| failed(error.to_string()))?;
        let Special { control, mut ends, mut stops, begin } = special;
        stops.extend(&ends);
        for ids in [&mut ends, &mut stops] {
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(Self { inner, control, finder, end_ids: ends, stop_ids: stops, begin })
    }

    /// Reads `tokenizer.json` and the stop tokens named in `generation_config.json`, `config.json`
    /// and `tokenizer_config.json`.
    ///
    /// # Errors
    /// When there is no tokenizer, or one that cannot be used.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| {
            TokenizerError::Read { path: path.display().to_string(), reason: error.to_string() }
        })?;
        let added = inner.get_added_tokens_decoder();
        // Models also add ordinary text as tokens, such as runs of newlines; of those, only the
        // protocol's own tags must not come from outside.
        let control = added
            .iter()
            .filter(|(_, token)| token.special || is_tag(&token.content))
            .map(|(&id, token)| (id, token.content.clone()))
            .collect();
        // A policy writes the protocol's tags within its turns, however they were added.
        let stops = added
            .iter()
            .filter(|(_, token)| token.special && !is_tag(&token.content))
            .map(|(&id, _)| id)
            .collect();
        let mut ends = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let path = folder.join(file);
            ends.extend(ids_of(&path, &read_json(&path)?, "eos_token_id")?);
        }
        let settings = read_json(&folder.join("tokenizer_config.json"))?;
        ends.extend(token_text(&settings, "eos_token").and_then(|text| inner.token_to_id(&text)));
        Self::new(inner, Special { control, ends, stops, begin: None })
    }

    /// Tokenises trusted text: control tokens in it are recognised.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode_markup(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokenises text from outside: it decodes to the same text, and no id is a control token.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let whole = self.encode_markup(text)?;
        if !self.has_control(&whole) {
            return Ok(whole);
        }
        // Splitting one character before the end of each control token leaves parts without any.
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(self.first_control_end(rest).unwrap_or(rest.len()));
            let encoded = self.encode_markup(part)?;
            if self.has_control(&encoded) {
                // A normaliser can turn other text into a control token. Single characters cannot.
                for (at, c) in part.char_indices() {
                    let single = self.encode_markup(&part[at..at + c.len_utf8()])?;
                    ids.extend(single.into_iter().filter(|id| !self.control.contains_key(id)));
                }
            } else {
                ids.extend(encoded);
            }
            rest = after;
        }
        Ok(ids)
    }

    fn has_control(&self, ids: &[u32]) -> bool {
        ids.iter().any(|id| self.control.contains_key(id))
    }

    /// Ids of pieces in order, each by its origin; the protocol's tags are escaped in text from
    /// outside, for tokenizers in which they are no control tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot encode a piece.
    pub fn encode_pieces(&self, pieces: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_each(pieces, |text| self.encode_text(&escape(text)))
    }

    /// The same without escaping: for a model that knows no protocol, and reads text as it is.
    ///
    /// # Errors
    /// When the tokenizer cannot encode a piece.
    pub fn encode_unescaped(&self, pieces: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_each(pieces, |text| self.encode_text(text))
    }

    fn encode_each(
        &self,
        pieces: &[Piece],
        encode_text: impl Fn(&str) -> Result<Vec<u32>, TokenizerError>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for piece in pieces {
            ids.extend(match piece {
                Piece::Markup(text) => self.encode_markup(text)?,
                Piece::Text(text) => encode_text(text)?,
            });
        }
        Ok(ids)
    }

    /// The text of ids, control tokens included.
    ///
    /// # Errors
    /// When an id is none of the tokenizer's.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, false).map_err(|error| TokenizerError::Encode(error.to_string()))
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
        self.inner.to_string(true).map_err(|error| TokenizerError::Encode(error.to_string()))
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

/// A token named in `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn token_text(settings: &Value, key: &str) -> Option<String> {
    let value = settings.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
