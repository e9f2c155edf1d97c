//! A tokenizer that knows which text is ours and which is not.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde_json::Value;

use crate::protocol::{Piece, escape};

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
    /// A chat template is missing or does not do what one must.
    #[error(
        "the chat template of `{path}` is not usable: {reason}\nhint: put a `chat_template.jinja` that renders user and assistant messages into the folder"
    )]
    Template {
        /// The folder.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer refused a text.
    #[error("cannot tokenise: {0}")]
    Encode(String),
}

/// A Hugging Face tokenizer with its control tokens set apart.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The text of every added token; none may come about from outside text.
    control: Vec<String>,
    control_ids: HashSet<u32>,
    end_ids: Vec<u32>,
    stop_ids: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and the stop tokens named in `generation_config.json`, `config.json`
    /// and `tokenizer_config.json`.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| {
            TokenizerError::Read { path: path.display().to_string(), reason: error.to_string() }
        })?;
        // Settings that some folders carry for batch training; here they would corrupt a stream.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let added = inner.get_added_tokens_decoder();
        let control = added.values().map(|token| token.content.clone()).collect();
        let control_ids = added.keys().copied().collect();
        let special: Vec<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let mut end_ids = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            match read_json(&folder.join(file)).get("eos_token_id") {
                Some(Value::Array(ids)) => {
                    end_ids.extend(ids.iter().filter_map(Value::as_u64).map(|id| id as u32));
                }
                Some(id) => end_ids.extend(id.as_u64().map(|id| id as u32)),
                None => {}
            }
        }
        let settings = read_json(&folder.join("tokenizer_config.json"));
        end_ids
            .extend(token_text(&settings, "eos_token").and_then(|text| inner.token_to_id(&text)));
        end_ids.sort_unstable();
        end_ids.dedup();
        let stop_ids = end_ids.iter().copied().chain(special).collect::<BTreeSet<_>>();
        let stop_ids = stop_ids.into_iter().collect();
        Ok(Self { inner, control, control_ids, end_ids, stop_ids })
    }

    /// Ids of text of ours: control tokens in it are recognised.
    pub fn encode_markup(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of text from outside: they decode to the same text, and none is a control token.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let cut = self.first_control_end(rest).unwrap_or(rest.len());
            let encoded = self.encode_markup(&rest[..cut])?;
            if encoded.iter().any(|id| self.control_ids.contains(id)) {
                // A normaliser can make a control token out of text that does not look like one.
                // Single characters cannot spell one.
                for (at, c) in rest[..cut].char_indices() {
                    let single = self.encode_markup(&rest[at..at + c.len_utf8()])?;
                    ids.extend(single.into_iter().filter(|id| !self.control_ids.contains(id)));
                }
            } else {
                ids.extend(encoded);
            }
            rest = &rest[cut..];
        }
        Ok(ids)
    }

    /// Ids of pieces in order, each by its origin; the protocol's tags are escaped in text from
    /// outside, for tokenizers in which they are no control tokens.
    pub fn encode_pieces(&self, pieces: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Markup(text) => ids.extend(self.encode_markup(text)?),
                Piece::Text(text) => ids.extend(self.encode_text(&escape(text))?),
            }
        }
        Ok(ids)
    }

    /// The text of ids, control tokens included.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, false).map_err(|error| TokenizerError::Encode(error.to_string()))
    }

    /// The ids with which the model ends a turn, ascending.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The ids at which sampling stops, ascending: those that end a turn, and every other special
    /// token, since a model that writes one has left its turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Where to cut `text` so that the part before contains no whole control token: one character
    /// before the end of the control token that ends first.
    fn first_control_end(&self, text: &str) -> Option<usize> {
        self.control
            .iter()
            .filter(|token| token.chars().nth(1).is_some())
            .filter_map(|token| {
                let last = token.chars().next_back()?.len_utf8();
                Some(text.find(token.as_str())? + token.len() - last)
            })
            .min()
    }
}

/// A JSON file, or null when it is absent or no JSON: these files are optional.
pub(super) fn read_json(path: &Path) -> Value {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Value::Null)
}

/// A token named in `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn token_text(settings: &Value, key: &str) -> Option<String> {
    let value = settings.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
