//! A tokenizer that keeps trusted and untrusted text apart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use aho_corasick::AhoCorasick;
use serde_json::Value;
use tokenizers::{AddedToken, Model, OffsetReferential, OffsetType, Tokenizer as Inner};

use super::space_prefix::SpacePrefix;
use super::token_settings::{
    add_declared, add_named, ids_of, not_applied, read_settings, token_text,
};
use crate::gguf::{Gguf, GgufError, pointer_at};
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
            Self::Read { path, .. } if is_missing(Path::new(path)) => "load the model's tokenizer with transformers and save it again, beside the model's other files: that writes `tokenizer.json`".into(),
            Self::Read { path, .. } => return pointer_at(Path::new(path)).and_then(|reason| reason.hint),
            Self::Write { .. } | Self::Inexpressible { .. } | Self::Encode(_) => return None,
        })
    }
}

/// Whether this is a `tokenizer.json` that does not exist.
fn is_missing(path: &Path) -> bool {
    path.ends_with("tokenizer.json") && !path.exists()
}

/// Tokens with a meaning beyond their text.
#[derive(Debug, Default)]
pub(super) struct Special {
    /// Those that untrusted text never becomes, with their texts.
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
        // protocol's own tags must not come from untrusted text.
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

    /// Tokenises untrusted text: it decodes to the same text, and no id is a control token.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_untrusted(text, true)
    }

    fn encode_untrusted(&self, text: &str, mut begins: bool) -> Result<Vec<u32>, TokenizerError> {
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

    /// Whether untrusted text never becomes `id`.
    pub(super) fn is_control(&self, id: u32) -> bool {
        self.control.contains_key(&id)
    }

    /// Whether `id` stops a turn, or is a control token that belongs to what is around turns.
    pub(super) fn is_frame(&self, id: u32) -> bool {
        self.stop_ids.contains(&id) || self.control.get(&id).is_some_and(|text| !is_tag(text))
    }

    /// Ids of pieces in order, each by its origin; the protocol's tags are escaped in
    /// untrusted text, for tokenizers in which they are no control tokens.
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
                ids.extend(self.encode_untrusted(&run, begins)?);
                run.clear();
                ids.push(id);
                begins = self.begins_after(id);
                read = end;
            }
            run.push_str(text.get(read..).unwrap_or_default());
        }
        ids.extend(self.encode_untrusted(&run, begins)?);
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

    /// Whether it puts this token before a plain text.
    pub(super) fn begins_texts_with(&self, id: u32) -> Result<bool, TokenizerError> {
        let first = |with_special: bool| -> Result<Option<u32>, TokenizerError> {
            let encoding = self.inner.encode_fast("a", with_special).map_err(refused)?;
            Ok(encoding.get_ids().first().copied())
        };
        Ok(first(true)? == Some(id) && first(false)? != Some(id))
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

/// Whether `text` opens or closes an element of the protocol.
pub(super) fn is_tag(text: &str) -> bool {
    let name = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    name.is_some_and(|name| TAGS.contains(&name.strip_prefix('/').unwrap_or(name)))
}

pub(super) fn unreadable(path: &Path, reason: impl ToString) -> TokenizerError {
    let reason = match pointer_at(path) {
        Some(pointer) => pointer.to_string(),
        None => reason.to_string(),
    };
    TokenizerError::Read { path: path.display().to_string(), reason }
}

/// Writes the file `name` of a tokenizer's folder.
pub(super) fn write_file(folder: &Path, name: &str, text: String) -> Result<(), TokenizerError> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| TokenizerError::Write {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
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
