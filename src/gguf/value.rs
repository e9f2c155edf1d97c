//! The settings of a file.

use std::ops::Range;

use super::error::ParseError;
use super::reader::Reader;

/// The type of a value in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let id = reader.u32("a type")?;
        let kind = usize::try_from(id).ok().and_then(|id| Self::ALL.get(id));
        kind.copied().ok_or_else(|| ParseError::Damaged(format!("no value has the type {id}")))
    }

    /// Bytes that a value takes, at least.
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }
}

/// A parsed value: texts and lists stay in the file.
#[derive(Debug, Clone)]
pub(super) enum ParsedValue {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(Range<usize>),
    Array { kind: ValueType, len: usize, data: Range<usize> },
}

impl ParsedValue {
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        match ValueType::read(reader)? {
            ValueType::Array => Self::read_array(reader),
            kind => Self::read_scalar(reader, kind),
        }
    }

    fn read_scalar(reader: &mut Reader<'_>, kind: ValueType) -> Result<Self, ParseError> {
        const WHAT: &str = "a value";
        Ok(match kind {
            ValueType::U8 => Self::Unsigned(reader.array::<1>(WHAT)?[0].into()),
            ValueType::I8 => Self::Signed(i8::from_le_bytes(reader.array(WHAT)?).into()),
            ValueType::U16 => Self::Unsigned(u16::from_le_bytes(reader.array(WHAT)?).into()),
            ValueType::I16 => Self::Signed(i16::from_le_bytes(reader.array(WHAT)?).into()),
            ValueType::U32 => Self::Unsigned(reader.u32(WHAT)?.into()),
            ValueType::I32 => Self::Signed(i32::from_le_bytes(reader.array(WHAT)?).into()),
            ValueType::F32 => Self::Float(f32::from_le_bytes(reader.array(WHAT)?).into()),
            ValueType::Bool => Self::Bool(reader.array::<1>(WHAT)?[0] != 0),
            ValueType::Text => Self::Text(reader.text("a text")?.1),
            ValueType::U64 => Self::Unsigned(reader.u64(WHAT)?),
            ValueType::I64 => Self::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
            ValueType::F64 => Self::Float(f64::from_le_bytes(reader.array(WHAT)?)),
            ValueType::Array => {
                return Err(ParseError::Unsupported("it holds a list of lists".into()));
            }
        })
    }

    fn read_array(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let kind = ValueType::read(reader)?;
        let len = reader.count(kind.size(), "entries in a list")?;
        let start = reader.position();
        match kind {
            ValueType::Array => {
                return Err(ParseError::Unsupported("it holds a list of lists".into()));
            }
            ValueType::Text => {
                for _ in 0..len {
                    reader.text("a text")?;
                }
            }
            kind => {
                // The count guarantees that it is there.
                reader.skip((len * kind.size()) as u64, "a list")?;
            }
        }
        Ok(Self::Array { kind, len, data: start..reader.position() })
    }

    pub fn view<'a>(&self, bytes: &'a [u8]) -> Value<'a> {
        match self {
            Self::Unsigned(n) => Value::Unsigned(*n),
            Self::Signed(n) => Value::Signed(*n),
            Self::Float(x) => Value::Float(*x),
            Self::Bool(flag) => Value::Bool(*flag),
            // It was checked to be UTF-8 when it was read.
            Self::Text(at) => {
                Value::Text(std::str::from_utf8(&bytes[at.clone()]).unwrap_or_default())
            }
            Self::Array { kind, len, data } => {
                Value::Array(Array { kind: *kind, len: *len, data: &bytes[data.clone()] })
            }
        }
    }
}

/// The value of a setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Of an unsigned type.
    Unsigned(u64),
    /// Of a signed type.
    Signed(i64),
    /// Of a floating-point type.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8.
    Text(&'a str),
    /// A list.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// A whole number that is not negative, of whatever type.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(n),
            Self::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// A number, of whatever type.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Self::Unsigned(n) => Some(n as f64),
            Self::Signed(n) => Some(n as f64),
            Self::Float(x) => Some(x),
            _ => None,
        }
    }

    /// A list.
    pub fn as_array(self) -> Option<Array<'a>> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// A list of values of one type, parsed during iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: ValueType,
    len: usize,
    data: &'a [u8],
}

impl<'a> Array<'a> {
    /// How many entries it has.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether its entries are of a type of whole numbers.
    pub fn is_whole(self) -> bool {
        !matches!(
            self.kind,
            ValueType::Text | ValueType::Array | ValueType::Bool | ValueType::F32 | ValueType::F64
        )
    }

    /// The entries, where they are texts.
    pub fn texts(self) -> Option<impl Iterator<Item = &'a str>> {
        let mut reader = Reader::new(self.data);
        let read = move |_| reader.text("a text").map(|(text, _)| text).unwrap_or_default();
        (self.kind == ValueType::Text).then(|| (0..self.len).map(read))
    }

    /// The entries, where they are numbers.
    pub fn floats(self) -> Option<impl Iterator<Item = f64>> {
        let is_number = !matches!(self.kind, ValueType::Text | ValueType::Array | ValueType::Bool);
        let mut reader = Reader::new(self.data);
        let read = move |_| {
            let value = ParsedValue::read_scalar(&mut reader, self.kind).ok();
            value.and_then(|value| value.view(&[]).as_f64()).unwrap_or_default()
        };
        is_number.then(|| (0..self.len).map(read))
    }

    /// The entries, where they are truth values.
    pub fn flags(self) -> Option<impl Iterator<Item = bool>> {
        (self.kind == ValueType::Bool).then(|| self.data.iter().map(|&byte| byte != 0))
    }
}
