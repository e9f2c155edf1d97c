//! Writes files.

use std::io::{self, Write};

use super::tensor::TensorType;
use super::value::{Value, ValueType};

/// Where the data of tensors begins: at a multiple of this.
const ALIGNMENT: usize = 32;

/// A setting to write.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "as they are named")]
pub enum Entry {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

impl Entry {
    /// A value that was read, to be written again: whole numbers that fit as u32 or i32, others as
    /// f32. `None` for a list of booleans.
    pub fn copy(value: Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Unsigned(n) => u32::try_from(n).map_or(Self::U64(n), Self::U32),
            Value::Signed(n) => u32::try_from(n).map_or(Self::F32(n as f32), Self::U32),
            Value::Float(x) => Self::F32(x as f32),
            Value::Bool(flag) => Self::Bool(flag),
            Value::Text(text) => Self::Text(text.to_owned()),
            Value::Array(list) => match (list.texts(), list.floats()) {
                (Some(texts), _) => Self::Texts(texts.map(str::to_owned).collect()),
                (None, Some(numbers)) if list.is_whole() => {
                    Self::I32s(numbers.map(|n| n as i32).collect())
                }
                (None, Some(numbers)) => Self::F32s(numbers.map(|x| x as f32).collect()),
                (None, None) => return None,
            },
        })
    }
}

/// A file under construction: settings and tensors in the order in which they were added.
#[derive(Debug, Default)]
pub struct Writer<'a> {
    metadata: Vec<(String, Entry)>,
    tensors: Vec<(String, TensorType, Vec<usize>, &'a [u8])>,
}

impl<'a> Writer<'a> {
    /// Adds a setting.
    pub fn set(&mut self, key: &str, value: Entry) -> &mut Self {
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// Adds a tensor: its blocks as they are stored, and its shape with the slowest dimension
    /// first.
    pub fn tensor(
        &mut self,
        name: &str,
        kind: TensorType,
        shape: &[usize],
        data: &'a [u8],
    ) -> &mut Self {
        self.tensors.push((name.to_owned(), kind, shape.to_owned(), data));
        self
    }

    /// Writes the file, version 3.
    ///
    /// # Errors
    /// When `to` fails.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut head, key);
            entry(&mut head, value);
        }
        let mut offset = 0;
        for (name, kind, shape, data) in &self.tensors {
            text(&mut head, name);
            head.extend((shape.len() as u32).to_le_bytes());
            for dimension in shape.iter().rev() {
                head.extend((*dimension as u64).to_le_bytes());
            }
            head.extend(kind.id().to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(ALIGNMENT);
        }
        to.write_all(&head)?;
        pad(to, head.len())?;
        for (_, _, _, data) in &self.tensors {
            to.write_all(data)?;
            pad(to, data.len())?;
        }
        Ok(())
    }
}

fn pad(to: &mut impl Write, len: usize) -> io::Result<()> {
    to.write_all(&[0; ALIGNMENT][..len.next_multiple_of(ALIGNMENT) - len])
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

fn kind(to: &mut Vec<u8>, kind: ValueType) {
    to.extend((kind as u32).to_le_bytes());
}

fn list<T>(to: &mut Vec<u8>, of: ValueType, items: &[T], mut item: impl FnMut(&mut Vec<u8>, &T)) {
    kind(to, ValueType::Array);
    kind(to, of);
    to.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|value| item(to, value));
}

fn entry(to: &mut Vec<u8>, value: &Entry) {
    match value {
        Entry::U32(n) => {
            kind(to, ValueType::U32);
            to.extend(n.to_le_bytes());
        }
        Entry::U64(n) => {
            kind(to, ValueType::U64);
            to.extend(n.to_le_bytes());
        }
        Entry::F32(x) => {
            kind(to, ValueType::F32);
            to.extend(x.to_le_bytes());
        }
        Entry::Bool(flag) => {
            kind(to, ValueType::Bool);
            to.push((*flag).into());
        }
        Entry::Text(value) => {
            kind(to, ValueType::Text);
            text(to, value);
        }
        Entry::Texts(values) => list(to, ValueType::Text, values, |to, value| text(to, value)),
        Entry::F32s(values) => list(to, ValueType::F32, values, |to, x| to.extend(x.to_le_bytes())),
        Entry::I32s(values) => list(to, ValueType::I32, values, |to, n| to.extend(n.to_le_bytes())),
    }
}
