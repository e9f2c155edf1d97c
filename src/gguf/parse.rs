//! Reads the directory of a file and checks all its claims.

use std::collections::BTreeMap;

use super::error::ParseError;
use super::reader::Reader;
use super::tensor::{TensorInfo, TensorType, unsupported_name};
use super::value::{ParsedValue, Value};
use crate::hint::Reason;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Content {
    pub metadata: BTreeMap<String, ParsedValue>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// The maximum number of settings: more than any model has.
const MAX_KEYS: usize = 1 << 16;
/// The maximum number of tensors: more than any model has.
const MAX_TENSORS: usize = 1 << 20;
/// The longest name of a setting or tensor, bytes.
const MAX_NAME: usize = 1 << 16;

pub(super) fn parse(bytes: &[u8]) -> Result<Content, ParseError> {
    if let Some(reason) = super::pointer(bytes) {
        return Err(ParseError::Unsupported(reason));
    }
    let mut reader = Reader::new(bytes);
    check_version(&mut reader)?;
    // A tensor takes at least a name's length, a count of dimensions, one dimension, a type and an
    // offset.
    let tensors = reader.count(32, "tensors")?;
    // A setting takes at least a name's length, a type and a byte.
    let keys = reader.count(13, "settings")?;
    for (count, most, what) in [(tensors, MAX_TENSORS, "tensors"), (keys, MAX_KEYS, "settings")] {
        if count > most {
            return Err(ParseError::Unsupported(
                format!("it has {count} {what}, more than {most}").into(),
            ));
        }
    }
    let metadata = read_metadata(&mut reader, keys)?;
    let get = |key: &str| metadata.get(key).map(|stored| stored.view(bytes));
    if let Some(count) = get("split.count").and_then(Value::as_u64).filter(|&count| count > 1) {
        return Err(ParseError::Unsupported(reason!(
            "it is one of {count} parts of a model";
            hint: "join them with `llama-gguf-split --merge`"
        )));
    }
    let alignment = match get("general.alignment") {
        None => 32,
        Some(value) => value
            .as_u64()
            .filter(|n| n.is_power_of_two() && *n <= 1 << 20)
            .ok_or_else(|| ParseError::Damaged("`general.alignment` is no power of two".into()))?,
    };
    let tensors = read_tensors(&mut reader, tensors, alignment)?;
    Ok(Content { metadata, tensors })
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), ParseError> {
    match &reader.array::<4>("the file's mark")? {
        b"GGUF" => {}
        b"GGML" | b"lmgg" | b"tjgg" | b"fmgg" => {
            return Err(ParseError::Unsupported(reason!(
                "it is of a format older than GGUF";
                hint: "convert the original model anew"
            )));
        }
        _ => return Err(ParseError::Damaged("it does not begin as a GGUF file does".into())),
    }
    match reader.u32("the version")? {
        2 | 3 => Ok(()),
        version if version.trailing_zeros() >= 16 && version != 0 => {
            Err(ParseError::Unsupported(reason!(
                "its numbers are big-endian";
                hint: "convert the original model anew, without `--bigendian`"
            )))
        }
        version => {
            let text = format!("it is of version {version} of the format; 2 and 3 are supported");
            Err(ParseError::Unsupported(Reason::from(text).with_hint(match version {
                0 | 1 => "convert the original model anew",
                _ => "take a newer version of this program, or convert the original model with an older converter",
            })))
        }
    }
}

fn read_name(reader: &mut Reader<'_>, what: &str) -> Result<String, ParseError> {
    let (name, _) = reader.text(what)?;
    if name.len() > MAX_NAME {
        return Err(ParseError::Damaged(format!("{what} is {} bytes long", name.len())));
    }
    Ok(name.to_owned())
}

fn read_metadata(
    reader: &mut Reader<'_>,
    count: usize,
) -> Result<BTreeMap<String, ParsedValue>, ParseError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = read_name(reader, "the name of a setting")?;
        let value = ParsedValue::read(reader)?;
        if metadata.contains_key(&key) {
            return Err(ParseError::Damaged(format!("`{}` stands in it twice", shown(&key))));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

/// A tensor's entry in the directory.
struct Entry {
    name: String,
    kind: TensorType,
    shape: Vec<usize>,
    /// From the start of the data.
    offset: u64,
    /// Bytes.
    size: u64,
}

fn read_tensors(
    reader: &mut Reader<'_>,
    count: usize,
    alignment: u64,
) -> Result<BTreeMap<String, TensorInfo>, ParseError> {
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(read_entry(reader, alignment)?);
    }
    // The data begins at the next multiple of the alignment, and ends with the file.
    let padding = (reader.position() as u64).next_multiple_of(alignment) - reader.position() as u64;
    if !entries.is_empty() {
        reader.skip(padding, "the padding before the data")?;
    }
    let (start, room) = (reader.position(), reader.left() as u64);
    entries.sort_by_key(|entry| entry.offset);
    let mut tensors = BTreeMap::new();
    let mut free = 0;
    for Entry { name, kind, shape, offset, size } in entries {
        let damaged =
            |what: String| ParseError::Damaged(format!("the tensor `{}` {what}", shown(&name)));
        if offset < free {
            return Err(damaged("overlaps another".into()));
        }
        free = offset
            .checked_add(size)
            .filter(|&end| end <= room)
            .ok_or_else(|| damaged(format!("ends beyond the file's {room} bytes of data")))?;
        // Both fit: they are no larger than the file.
        let data = start + offset as usize..start + free as usize;
        if tensors.contains_key(&name) {
            return Err(damaged("stands in it twice".into()));
        }
        tensors.insert(name, TensorInfo { kind, shape, data });
    }
    Ok(tensors)
}

fn read_entry(reader: &mut Reader<'_>, alignment: u64) -> Result<Entry, ParseError> {
    let name = read_name(reader, "the name of a tensor")?;
    let damaged =
        |what: String| ParseError::Damaged(format!("the tensor `{}` {what}", shown(&name)));
    let dimensions = reader.u32("a tensor's shape")?;
    if !(1..=4).contains(&dimensions) {
        return Err(damaged(format!("has {dimensions} dimensions, not 1 to 4")));
    }
    let mut shape = Vec::with_capacity(4);
    let mut len: u64 = 1;
    for _ in 0..dimensions {
        let dimension = reader.u64("a tensor's shape")?;
        len = len
            .checked_mul(dimension)
            .filter(|&len| len > 0 && usize::try_from(len).is_ok())
            .ok_or_else(|| damaged("is empty or impossibly large".into()))?;
        shape.push(dimension as usize);
    }
    let id = reader.u32("a tensor's type")?;
    let kind = TensorType::from_id(id).ok_or_else(|| match unsupported_name(id) {
        Some(kind) => ParseError::Unsupported(reason!(
            "the tensor `{}` is stored as {kind}, which is not supported", shown(&name);
            hint: "take the model quantised as Q4_K_M, Q8_0 or F16"
        )),
        None => damaged(format!("is of the unknown type {id}")),
    })?;
    let (block_len, block_bytes) = (kind.block_len() as u64, kind.block_bytes() as u64);
    if !shape[0].is_multiple_of(kind.block_len()) {
        return Err(damaged(format!("has rows of {}, no multiple of {block_len}", shape[0])));
    }
    let size = (len / block_len)
        .checked_mul(block_bytes)
        .ok_or_else(|| damaged("is empty or impossibly large".into()))?;
    let offset = reader.u64("a tensor's place")?;
    if !offset.is_multiple_of(alignment) {
        return Err(damaged(format!("lies at {offset}, no multiple of {alignment}")));
    }
    shape.reverse();
    Ok(Entry { name, kind, shape, offset, size })
}

/// A name, truncated for messages.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}
