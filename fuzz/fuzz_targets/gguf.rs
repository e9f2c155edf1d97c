//! A model file: any bytes are parsed or refused, and everything read lies within the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/hint.rs"]
#[allow(dead_code)]
#[macro_use]
mod hint;

#[path = "../../src/gguf/mod.rs"]
#[allow(dead_code, unused_imports)]
mod gguf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = gguf::Gguf::parse(bytes.to_vec(), "fuzz") else { return };
    for key in file.keys() {
        let array = file.get(key).and_then(gguf::Value::as_array);
        if let Some(array) = array {
            array.texts().map(Iterator::count);
            array.floats().map(Iterator::count);
        }
    }
    for (_, tensor) in file.tensors() {
        assert_eq!(tensor.to_f32().len(), tensor.len());
    }
});
