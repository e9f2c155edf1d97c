//! GGUF files: weights, tokenizer and settings of a model in one file.
//!
//! A file is memory-mapped and read on demand. Nothing is allocated by a length that the file
//! merely claims: every count is first compared with the number of bytes left.

use crate::hint::Reason;

mod error;
mod finite;
mod parse;
mod quant;
mod quantize;
mod reader;
mod tensor;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

pub use error::GgufError;
pub use finite::is_finite;
pub use quant::{Groups, dequantize, unpack};
pub use quantize::quantize;
pub use tensor::{TensorType, TensorView};
pub use value::{Array, Value};
pub use write::{Entry, Writer};

use error::ParseError;
use parse::Content;
use tensor::TensorInfo;

/// The storage of a file's bytes.
#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Whether a file begins as GGUF files do.
fn has_mark(path: &Path) -> std::io::Result<bool> {
    let mut begin = [0; 4];
    std::fs::File::open(path)?.read_exact(&mut begin)?;
    Ok(begin == *b"GGUF")
}

/// Why a file that begins like this is not what it should be, if it is what a clone without Git LFS
/// has in the place of a large file, or a web page.
fn pointer(start: &[u8]) -> Option<Reason> {
    if start.starts_with(b"version https://git-lfs") {
        return Some(reason!(
            "it is a pointer of Git LFS, in the place of the file itself";
            hint: "fetch the file with `git lfs pull`"
        ));
    }
    let text = start.trim_ascii_start();
    let begins = |tag: &[u8]| text.get(..tag.len()).is_some_and(|it| it.eq_ignore_ascii_case(tag));
    (begins(b"<!doctype html") || begins(b"<html")).then(|| {
        reason!(
            "it is a web page, in the place of the file itself";
            hint: "download the file; on the Hugging Face hub, its address has `/resolve/` where that of its page has `/blob/`"
        )
    })
}

/// The same of any file, which need not be a GGUF file.
pub fn pointer_at(path: &Path) -> Option<Reason> {
    let mut start = Vec::new();
    std::fs::File::open(path).ok()?.take(64).read_to_end(&mut start).ok()?;
    pointer(&start)
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: String,
    bytes: Bytes,
    metadata: BTreeMap<String, value::ParsedValue>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Whether `path` names a GGUF file, by its extension or by how the file begins: those in the
    /// stores of some programs have no extension.
    pub fn is_path(path: &Path) -> bool {
        let is_named =
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        is_named || (path.is_file() && has_mark(path).unwrap_or_default())
    }

    /// Maps a file and reads its directory. Tensor data is read on use.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or is of a kind that is not supported.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let shown = path.display().to_string();
        let failed = |error: std::io::Error| GgufError::Read {
            path: shown.clone(),
            reason: error.to_string(),
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(GgufError::Read { path: shown, reason: "it is not a file".into() });
        }
        // SAFETY: the mapping is read-only. As for every mapped model file, it must not be
        // truncated while it is in use.
        let mapped = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        Self::read(Bytes::Mapped(mapped), shown)
    }

    /// Reads a file from memory. `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn parse(bytes: Vec<u8>, path: &str) -> Result<Self, GgufError> {
        Self::read(Bytes::Owned(bytes), path.to_owned())
    }

    fn read(bytes: Bytes, path: String) -> Result<Self, GgufError> {
        match parse::parse(&bytes) {
            Ok(Content { metadata, tensors }) => Ok(Self { path, bytes, metadata, tensors }),
            Err(ParseError::Damaged(reason)) => Err(GgufError::Damaged { path, reason }),
            Err(ParseError::Unsupported(reason)) => Err(GgufError::Unsupported { path, reason }),
        }
    }

    /// The file's name, for errors.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The size of the file, bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// `general.architecture`, such as `llama`.
    ///
    /// # Errors
    /// When the file does not say.
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.text("general.architecture")?.ok_or_else(|| self.missing("general.architecture"))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.metadata.get(key).map(|stored| stored.view(&self.bytes))
    }

    /// All keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name).map(|info| info.view(&self.bytes))
    }

    /// All tensors with their names, in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info.view(&self.bytes)))
    }

    /// A text; `None` where the key is absent.
    ///
    /// # Errors
    /// When the value is of another type; so for the next ones.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn number(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number", |value| value.as_u64())
    }

    /// A number.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", |value| value.as_f64())
    }

    /// A truth value.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn texts(&self, key: &str) -> Result<Option<impl Iterator<Item = &str>>, GgufError> {
        self.typed(key, "a list of texts", |value| value.as_array()?.texts())
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn floats(&self, key: &str) -> Result<Option<impl Iterator<Item = f64>>, GgufError> {
        self.typed(key, "a list of numbers", |value| value.as_array()?.floats())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| GgufError::Key {
                path: self.path.clone(),
                key: key.to_owned(),
                reason: format!("it is not {expected}").into(),
            }),
        }
    }

    /// The error for a missing key.
    pub fn missing(&self, key: &str) -> GgufError {
        self.wrong(key, "it is missing")
    }

    /// The error for a key whose value cannot be used.
    pub fn wrong(&self, key: &str, reason: impl Into<Reason>) -> GgufError {
        GgufError::Key { path: self.path.clone(), key: key.to_owned(), reason: reason.into() }
    }
}
