#![allow(clippy::unwrap_used)]

use super::*;
use crate::hint::Hint;

fn golden() -> Gguf {
    Gguf::open(Path::new("tests/golden/gguf/blocks.gguf")).unwrap()
}

/// A small file with every kind of entry.
fn small() -> Vec<u8> {
    let data = [7; 64];
    let mut writer = Writer::default();
    writer
        .set("general.architecture", Entry::Text("llama".into()))
        .set("llama.block_count", Entry::U32(2))
        .set("large", Entry::U64(1 << 40))
        .set("scale", Entry::F32(0.5))
        .set("tokenizer.ggml.tokens", Entry::Texts(vec!["a".into(), "☃".into()]))
        .set("tokenizer.ggml.scores", Entry::F32s(vec![0.0, -1.0]))
        .set("tokenizer.ggml.token_type", Entry::I32s(vec![1, 3]))
        .set("tokenizer.ggml.add_bos_token", Entry::Bool(true))
        .tensor("one", TensorType::F32, &[2, 4], &data[..32])
        .tensor("two", TensorType::Q8_0, &[1, 32], &data[..34])
        .tensor("three", TensorType::F16, &[5], &data[..10]);
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_file_is_known_by_its_extension_or_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, expected) in [
        ("sha256-0123abcd", &small()[..], true),
        ("model.gguf", &b""[..], true),
        ("model.GGUF", &b""[..], true),
        ("model.safetensors", &b"\x08\0\0\0\0\0\0\0{}"[..], false),
        ("short", &b"GG"[..], false),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Gguf::is_path(&path), expected, "{name}");
    }
    assert!(Gguf::is_path(Path::new("not/there.gguf")));
    assert!(!Gguf::is_path(folder.path()) && !Gguf::is_path(Path::new("not/there")));
}

/// `small` with the bytes of `from`, which occur in it once, replaced.
fn with(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert_eq!(places.len(), 1, "{from:?}");
    bytes.splice(places[0]..places[0] + from.len(), to.iter().copied());
    bytes
}

fn refusal(bytes: Vec<u8>) -> String {
    Gguf::parse(bytes, "model.gguf").unwrap_err().explained()
}

#[test]
fn values_equal_the_reference() {
    let file = golden();
    for kind in TensorType::ALL {
        let name = format!("{kind:?}");
        let stored = file.tensor(&name).unwrap();
        assert_eq!(stored.kind, kind);
        let values = file.tensor(&format!("{name}.values")).unwrap().to_f32();
        assert_eq!(stored.to_f32(), values, "{name}");
    }
}

#[test]
fn settings_are_read() {
    let file = golden();
    assert_eq!(file.architecture().unwrap(), "blocks");
    assert_eq!(file.text("test.text").unwrap(), Some("naïve ☃"));
    let texts: Vec<&str> = file.texts("test.texts").unwrap().unwrap().collect();
    assert_eq!(texts, ["a", "", "日本"]);
    let floats: Vec<f64> = file.floats("test.floats").unwrap().unwrap().collect();
    assert_eq!(floats, [0.5, -1.25]);
    assert_eq!(file.get("test.negative"), Some(Value::Signed(-7)));
    assert_eq!(file.number("test.large").unwrap(), Some(1 << 40));
    assert_eq!(file.float("test.large").unwrap(), Some((1u64 << 40) as f64));
    assert_eq!(file.flag("test.flag").unwrap(), Some(true));
    assert_eq!(file.text("absent").unwrap(), None);
    let error = file.number("test.negative").unwrap_err().to_string();
    assert!(error.contains("`test.negative`: it is not a whole number"), "{error}");
}

#[test]
fn what_is_written_is_read() {
    let file = Gguf::parse(small(), "model.gguf").unwrap();
    assert_eq!(file.architecture().unwrap(), "llama");
    assert_eq!(file.number("llama.block_count").unwrap(), Some(2));
    assert_eq!(file.float("scale").unwrap(), Some(0.5));
    assert_eq!(file.keys().count(), 8);
    let one = file.tensor("one").unwrap();
    assert_eq!((one.shape, one.len(), one.row_bytes()), (&[2, 4][..], 8, 16));
    assert_eq!(file.tensor("two").unwrap().data, [7; 34]);
    assert_eq!(file.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["one", "three", "two"]);
}

#[test]
fn what_is_not_supported_is_named() {
    let head = |n: u32| [&b"GGUF"[..], &n.to_le_bytes()].concat();
    let version = |n: u32| with(&head(3), &head(n));
    let mut split = Writer::default();
    split.set("split.count", Entry::U32(3));
    let mut part = Vec::new();
    split.write(&mut part).unwrap();
    let place = |id: u32| [&id.to_le_bytes()[..], &32u64.to_le_bytes()].concat();
    let kind = |id: u32| with(&place(8), &place(id));
    for (bytes, message) in [
        (with(b"GGUF", b"GGML"), "of a format older than GGUF"),
        (with(b"GGUF", b"PK\x03\x04"), "does not begin as a GGUF file does"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "is a pointer of Git LFS"),
        (version(1), "version 1 of the format; 2 and 3 are supported"),
        (version(1), "\nhint: convert the original model anew"),
        (
            version(99),
            "version 99 of the format; 2 and 3 are supported\nhint: take a newer version",
        ),
        (b"\n<!DOCTYPE html><html>".to_vec(), "it is a web page"),
        (version(3 << 24), "its numbers are big-endian"),
        (part, "one of 3 parts of a model\nhint: join them"),
        (kind(20), "is stored as IQ4_NL, which is not supported\nhint:"),
        (kind(31), "is stored as Q4_0_4_4, which is not supported\nhint:"),
        (kind(38), "is stored as IQ4_NL_8_8, which is not supported\nhint:"),
        (kind(77), "is of the unknown type 77"),
        (Vec::new(), "the file's mark at byte 0 takes 4 bytes, of which 0 are there"),
    ] {
        let error = refusal(bytes);
        assert!(error.starts_with("`model.gguf` ") && error.contains(message), "{error}");
    }
    let error = Gguf::open(Path::new("tests")).unwrap_err().to_string();
    assert_eq!(error, "cannot read `tests`: it is not a file");
}

#[test]
fn what_is_claimed_must_be_there() {
    let count = |at: usize, n: u64| {
        let mut bytes = small();
        bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    let one = [&4u64.to_le_bytes()[..], &2u64.to_le_bytes(), &0u32.to_le_bytes()].concat();
    let sized = |n: u64| [&n.to_le_bytes()[..], &2u64.to_le_bytes(), &0u32.to_le_bytes()].concat();
    let place = [&8u32.to_le_bytes()[..], &32u64.to_le_bytes()].concat();
    let placed = |n: u64| [&8u32.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let name = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    for (bytes, message) in [
        (count(8, 1 << 60), "it claims 1152921504606846976 tensors"),
        (count(16, u64::MAX), "it claims 18446744073709551615 settings"),
        (with(&name("llama"), &[&u64::MAX.to_le_bytes()[..], b"llama"].concat()), "a text at byte"),
        (with("☃".as_bytes(), b"\xff\xff\xff"), "is not UTF-8 text"),
        (with(&one, &sized(1 << 62)), "the tensor `one` is empty or impossibly large"),
        (with(&one, &sized(0)), "the tensor `one` is empty or impossibly large"),
        (with(&one, &sized(1 << 20)), "the tensor `one` ends beyond the file's"),
        (with(&one, &sized(9)), "the tensor `two` overlaps another"),
        (with(&place, &placed(33)), "the tensor `two` lies at 33, no multiple of 32"),
        (with(&place, &placed(0)), "overlaps another"),
        (with(&place, &placed(u64::MAX - 31)), "the tensor `two` ends beyond"),
        (with(&name("two"), &name("one")), "the tensor `one` stands in it twice"),
        (with(&name("scale"), &name("large")), "`large` stands in it twice"),
    ] {
        let error = refusal(bytes);
        assert!(error.starts_with("`model.gguf` is damaged: "), "{error}");
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn no_file_is_too_broken_for_an_error() {
    let good = small();
    // The last tensor has ten bytes, then padding.
    for len in 0..good.len() - 22 {
        Gguf::parse(good[..len].to_vec(), "cut").unwrap_err();
    }
    // A simple generator: the same files each time.
    let mut state = 1u64;
    let mut draw = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(3) {
                0 => bytes[at] = draw(256) as u8,
                1 => bytes[at] ^= 1 << draw(8),
                _ => {
                    let end = bytes.len().min(at + 8);
                    bytes[at..end].fill(if draw(2) == 0 { 255 } else { 0 });
                }
            }
        }
        if let Ok(file) = Gguf::parse(bytes, "mutated") {
            walk(&file);
        }
    }
}

/// Reads all of a file.
fn walk(file: &Gguf) {
    for key in file.keys() {
        if let Some(array) = file.get(key).and_then(Value::as_array) {
            let texts = array.texts().map_or(0, Iterator::count);
            let numbers = array.floats().map_or(0, Iterator::count);
            let flags = array.flags().map_or(0, Iterator::count);
            assert!([texts, numbers, flags].contains(&array.len()));
        }
    }
    for (_, tensor) in file.tensors() {
        assert_eq!(tensor.to_f32().len(), tensor.shape.iter().product::<usize>());
        assert!(tensor.data.len() <= file.size());
    }
}
