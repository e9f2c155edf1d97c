//! The tokenizer and chat template that a GGUF file carries.

mod entries;
mod folder;

use std::collections::BTreeMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as Splitters;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer as Inner};

use super::chat_template::SpecialTokens;
use super::pre_tokenizer::PreTokenizer;
use super::token_settings::not_applied_of_file;
use super::tokenizer::{Special, Tokenizer, TokenizerError, is_ordinary, is_tag};
use crate::gguf::{Gguf, GgufError};

pub use entries::{GgufTokenizer, gguf_entries};
pub use folder::{write_text_files, write_texts};

const TOKENS: &str = "tokenizer.ggml.tokens";
/// The chat template of a file.
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
/// SentencePiece's space.
const SPACE: &str = "▁";
/// The longest token, bytes.
const MAX_TOKEN: usize = 1024;
/// How many times more pairs of pieces there may be than pieces, and bytes in them than in all
/// pieces. Vocabularies of natural text have about three times more.
const PAIRS: usize = 32;
/// Bytes of pairs that are always allowed.
const FEW_PAIRS: usize = 1 << 22;
/// Control tokens that end a turn, by common names: not every file marks them, as ends or as
/// control tokens.
const TURN_ENDS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
];
/// Those that begin one.
const TURN_STARTS: [&str; 5] =
    ["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|turn>"];

/// A token's entry in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// What texts begin with.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    Bare,
    With(u32),
    /// A BOS token that the file does not name.
    Unnamed,
}

/// The vocabulary of a file.
struct Vocabulary<'a> {
    file: &'a Gguf,
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file. Its ids are those of llama.cpp.
    ///
    /// # Errors
    /// When the file has none, an unknown kind, or an inconsistent one.
    pub fn from_gguf(file: &Gguf) -> Result<Self, TokenizerError> {
        let vocabulary = Vocabulary::read(file)?;
        let key = "tokenizer.ggml.model";
        let model = file.text(key)?.ok_or_else(|| file.missing(key))?;
        let (mut inner, begins) = match model {
            "gpt2" => byte_level(&vocabulary)?,
            "llama" => sentence_piece(&vocabulary)?,
            other => {
                let reason =
                    format!("the kind of tokenizer `{other}` is not known; `gpt2` and `llama` are");
                return Err(file.wrong(key, reason).into());
            }
        };
        let added = |of: Kind, special: bool| -> Vec<AddedToken> {
            let texts = vocabulary.of_kind(of).map(|(_, text)| text);
            texts.map(|text| AddedToken::from(text, special).normalized(false)).collect()
        };
        inner.add_special_tokens(&added(Kind::Control, true));
        inner.add_special_tokens(&added(Kind::Unknown, true));
        inner.add_tokens(&added(Kind::UserDefined, false));

        let mut ends: Vec<u32> = vocabulary
            .of_kind(Kind::Control)
            .filter(|(_, text)| TURN_ENDS.contains(text))
            .map(|(id, _)| id)
            .collect();
        for name in ["eos", "eot", "eom"] {
            ends.extend(vocabulary.named(name)?);
        }
        let begin = vocabulary.begin(begins)?;
        if let Begin::Unnamed = begin {
            tracing::warn!(
                path = file.path(),
                "the file names no BOS token (`tokenizer.ggml.bos_token_id`), so texts begin without one, but llama.cpp assumes one"
            );
        }
        for key in not_applied_of_file(file) {
            let path = file.path();
            tracing::warn!(path, "`{key}` is not applied: this program samples without it");
        }
        let control = vocabulary.of_kind(Kind::Control).chain(vocabulary.of_kind(Kind::Unknown));
        let control: BTreeMap<u32, String> =
            control.map(|(id, text)| (id, text.to_owned())).collect();
        let stops = control.iter().filter(|(_, text)| !is_tag(text)).map(|(&id, _)| id).collect();
        let begin = match begin {
            Begin::With(id) => Some(id),
            Begin::Unnamed | Begin::Bare => None,
        };
        Self::new(inner, Special { control, ends, stops, begin })
    }
}

/// The chat template of a file, with the texts of its special tokens.
pub(super) fn chat_template(file: &Gguf) -> Result<(String, SpecialTokens), TokenizerError> {
    let source = file.text(TEMPLATE)?.ok_or_else(|| TokenizerError::Template {
        path: file.path().to_owned(),
        reason: "the file has none: it is of a model that was not trained to chat".into(),
    })?;
    Ok((source.to_owned(), special_tokens(file)?))
}

/// The texts of a file's special tokens.
pub(super) fn special_tokens(file: &Gguf) -> Result<SpecialTokens, TokenizerError> {
    let vocabulary = Vocabulary::read(file)?;
    let text = |name: &str| -> Result<Option<String>, TokenizerError> {
        let id = vocabulary.named(name)?;
        Ok(id.map(|id| vocabulary.tokens[id as usize].to_owned()))
    };
    Ok(SpecialTokens {
        bos_token: text("bos")?,
        eos_token: text("eos")?,
        pad_token: text("padding")?,
        unk_token: text("unknown")?,
    })
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a Gguf) -> Result<Self, TokenizerError> {
        let tokens: Vec<&str> = file.texts(TOKENS)?.ok_or_else(|| file.missing(TOKENS))?.collect();
        if let Some(token) = tokens.iter().find(|token| token.len() > MAX_TOKEN) {
            let reason = format!("a token is {} bytes long, more than {MAX_TOKEN}", token.len());
            return Err(file.wrong(TOKENS, reason).into());
        }
        let key = "tokenizer.ggml.token_type";
        let kinds = match file.floats(key)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(kinds) => kinds
                .map(|kind| match kind as i64 {
                    1 => Ok(Kind::Normal),
                    2 => Ok(Kind::Unknown),
                    3 => Ok(Kind::Control),
                    4 => Ok(Kind::UserDefined),
                    5 => Ok(Kind::Unused),
                    6 => Ok(Kind::Byte),
                    _ => Err(file.wrong(key, format!("no token is of the type {kind}"))),
                })
                .collect::<Result<_, _>>()?,
        };
        if kinds.len() != tokens.len() {
            return Err(uneven(file, key, kinds.len(), tokens.len()).into());
        }
        let mut vocabulary = Self { file, tokens, kinds };
        vocabulary.mark_control();
        Ok(vocabulary)
    }

    /// Makes control tokens of those that are ones by their name or by what the file says of them,
    /// whatever kind it gives them.
    fn mark_control(&mut self) {
        for (token, kind) in self.tokens.iter().zip(&mut self.kinds) {
            let is_text = matches!(kind, Kind::Normal | Kind::UserDefined);
            if is_text && (TURN_ENDS.contains(token) || TURN_STARTS.contains(token)) {
                *kind = Kind::Control;
            }
        }
        for name in ["bos", "eos", "eot", "eom", "unknown", "padding"] {
            // Where it is needed, an id that is out of range is an error.
            let Ok(Some(id)) = self.named(name) else { continue };
            let at = id as usize;
            if self.kinds[at] == Kind::UserDefined && !is_ordinary(self.tokens[at]) {
                self.kinds[at] = Kind::Control;
            }
        }
    }

    fn ids(&self) -> impl Iterator<Item = (u32, &'a str)> {
        (0..).zip(self.tokens.iter().copied())
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (u32, &'a str)> {
        self.ids().zip(&self.kinds).filter(move |(_, of)| **of == kind).map(|(token, _)| token)
    }

    /// The id of the token with this part, such as `eos`.
    fn named(&self, part: &str) -> Result<Option<u32>, GgufError> {
        let key = format!("tokenizer.ggml.{part}_token_id");
        match self.file.number(&key)? {
            None => Ok(None),
            Some(id) if id < self.tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => {
                Err(self.file.wrong(&key, format!("{id} is not below {}", self.tokens.len())))
            }
        }
    }

    /// What texts begin with; `assumed` is whether with a BOS token where the file does not say.
    fn begin(&self, assumed: bool) -> Result<Begin, GgufError> {
        if !self.file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(assumed) {
            return Ok(Begin::Bare);
        }
        Ok(self.named("bos")?.map_or(Begin::Unnamed, Begin::With))
    }

    fn to_vocab(&self) -> Result<Vocab, GgufError> {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, token) in self.ids() {
            if vocab.insert(token.to_owned(), id).is_some() {
                return Err(self.file.wrong(TOKENS, format!("`{token}` stands in it twice")));
            }
        }
        Ok(vocab)
    }
}

fn uneven(file: &Gguf, key: &str, len: usize, tokens: usize) -> GgufError {
    file.wrong(key, format!("it has {len} entries for {tokens} tokens"))
}

fn build(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode(error.to_string())
}

/// A byte-level BPE tokenizer as of GPT-2, and whether it puts a BOS token before texts
/// where the file does not say.
fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<(Inner, bool), TokenizerError> {
    let file = vocabulary.file;
    let key = "tokenizer.ggml.pre";
    let name = file.text(key)?.unwrap_or("default");
    let pre = PreTokenizer::named(name).ok_or_else(|| {
        let known = PreTokenizer::names().collect::<Vec<_>>().join("`, `");
        file.wrong(key, reason!("`{name}` is not known"; hint: "known are `{known}`"))
    })?;
    let key = "tokenizer.ggml.merges";
    let merges = file.texts(key)?.ok_or_else(|| file.missing(key))?;
    let merges: Merges = merges
        .map(|merge| {
            // A space separates the two, unless it is the first character.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let at = merge[first..].find(' ').map(|at| at + first);
            let at = at.ok_or_else(|| file.wrong(key, format!("`{merge}` is not a pair")))?;
            Ok((merge[..at].to_owned(), merge[at + 1..].to_owned()))
        })
        .collect::<Result<_, GgufError>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.to_vocab()?, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|error| file.wrong(key, error.to_string()))?;
    let mut splitters: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in pre.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(build)?;
        splitters.push(split.into());
    }
    splitters.push(ByteLevel::new(false, false, false).into());
    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(Splitters::new(splitters)));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    Ok((inner, pre.begins))
}

/// About the bytes of a token's two parts as texts of their own.
fn pair_size(token: &str) -> usize {
    token.len() + 64
}

/// Fails where scores give no order in which pieces merge, and warns where they leave it open for
/// some: llama.cpp merges the leftmost ones first, which the tokenizer's library cannot.
fn check_order(file: &Gguf, key: &str, mut mergeable: Vec<(f64, &str)>) -> Result<(), GgufError> {
    mergeable.sort_by(|a, b| b.0.total_cmp(&a.0));
    let [(highest, _), .., (lowest, _)] = mergeable[..] else { return Ok(()) };
    let shared = mergeable.windows(2).find(|pair| pair[0].0 == pair[1].0);
    let Some(&[(score, one), (_, other)]) = shared else { return Ok(()) };
    if highest == lowest {
        return Err(file.wrong(
            key,
            reason!(
                "every piece has the score {score}, so it is open which ones merge first, such as `{one}` or `{other}`";
                hint: "take the folder of the original model, with its `tokenizer.json`"
            ),
        ));
    }
    tracing::warn!(
        path = file.path(),
        "the pieces `{one}` and `{other}` have the same score, {score}: texts with such pieces may have other tokens than in llama.cpp"
    );
    Ok(())
}

/// A SentencePiece tokenizer with scores: pieces merge, those of the highest score first. Every
/// character of a piece is taken to be a piece: so SentencePiece trains them.
fn sentence_piece(vocabulary: &Vocabulary<'_>) -> Result<(Inner, bool), TokenizerError> {
    let file = vocabulary.file;
    let key = "tokenizer.ggml.scores";
    let scores: Vec<f64> = file.floats(key)?.ok_or_else(|| file.missing(key))?.collect();
    let tokens = &vocabulary.tokens;
    if scores.len() != tokens.len() {
        return Err(uneven(file, key, scores.len(), tokens.len()).into());
    }
    let vocab = vocabulary.to_vocab()?;
    let mut merges: Vec<(f64, u32, u32)> = Vec::new();
    let mut room = PAIRS * tokens.iter().map(|token| pair_size(token)).sum::<usize>() + FEW_PAIRS;
    let mut mergeable = Vec::new();
    for ((token, &score), kind) in tokens.iter().zip(&scores).zip(&vocabulary.kinds) {
        let known = merges.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (vocab.get(left), vocab.get(right)) {
                // Texts of tokens that consist of each other would grow with their length cubed.
                room = room.checked_sub(pair_size(token)).ok_or_else(|| {
                    file.wrong(TOKENS, "its tokens consist of each other in too many ways")
                })?;
                merges.push((score, left, right));
            }
        }
        // Tokens of other kinds are found before any piece merges.
        if merges.len() > known && *kind == Kind::Normal {
            mergeable.push((score, *token));
        }
    }
    check_order(file, key, mergeable)?;
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let text = |id: u32| tokens[id as usize].to_owned();
    let merges: Merges =
        merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect();
    let mut model =
        BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = vocabulary.named("unknown")? {
        model = model.unk_token(text(unknown));
    }
    let model = model.build().map_err(|error| file.wrong(key, error.to_string()))?;
    let mut inner = Inner::new(model);
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(build)?.into(),
        ByteFallback::default().into(),
        Fuse::default().into(),
    ];
    let spaces = Replace::new(" ", SPACE).map_err(build)?;
    if file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        let prefix = Prepend::new(SPACE.to_owned());
        inner.with_normalizer(Some(Normalizers::new(vec![prefix.into(), spaces.into()])));
        decoders.push(Strip::new(' ', 1, 0).into());
    } else {
        inner.with_normalizer(Some(spaces));
    }
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok((inner, true))
}

#[cfg(test)]
mod tests;
