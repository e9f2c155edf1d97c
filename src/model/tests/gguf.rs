//! Models out of GGUF files.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::golden::{continued, ids};
use crate::gguf::{Entry, Gguf, TensorType, Writer};
use crate::model::generate::decoder::{Decoder, Shape};
use crate::model::slots::{EMBED, HEAD, NORM, Slot};
use crate::model::{Family, GgufType, Spec, Weights};

const CASES: [&str; 5] = ["tied", "qwen2", "llama", "llama_linear", "gemma3"];

fn golden(case: &str) -> (Spec, Weights) {
    let folder = super::golden::folder(case);
    let spec = Spec::load(&folder).unwrap();
    let weights = Weights::load(&folder, &spec, DType::F32, &Device::Cpu).unwrap();
    (spec, weights)
}

/// The names and rows that converters produce: the halves of a Llama's heads are interleaved, and
/// norms include their offset.
fn tensors(spec: &Spec, weights: &Weights) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut tensors = Vec::new();
    let mut add = |name: String, tensor: &candle_core::Tensor, is_norm: bool, heads: usize| {
        let shift = if is_norm { spec.norm_offset } else { 0.0 };
        let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.iter_mut().for_each(|x| *x += shift);
        if heads > 0 && spec.family == Family::Llama {
            let (rows, half) = (tensor.dims()[0], tensor.dims()[0] / heads / 2);
            let width = values.len() / rows;
            let row = |head: usize, part: usize, at: usize| (head * 2 + part) * half + at;
            values = (0..heads)
                .flat_map(|head| {
                    (0..half).flat_map(move |at| [0, 1].map(|part| row(head, part, at)))
                })
                .flat_map(|row| values[row * width..(row + 1) * width].to_vec())
                .collect();
        }
        tensors.push((name, tensor.dims().to_vec(), values));
    };
    for (name, tensor) in weights.named(spec) {
        match name.as_str() {
            EMBED => add("token_embd.weight".into(), tensor, false, 0),
            NORM => add("output_norm.weight".into(), tensor, true, 0),
            HEAD => add("output.weight".into(), tensor, false, 0),
            _ => {}
        }
    }
    for (index, layer) in weights.layers.iter().enumerate() {
        for slot in Slot::ALL {
            let Some(tensor) = layer.get(slot) else { continue };
            let heads = match slot {
                Slot::Query | Slot::QueryBias => spec.num_attention_heads,
                Slot::Key | Slot::KeyBias => spec.num_key_value_heads,
                _ => 0,
            };
            let name = slot.gguf_name(index);
            add(name.clone(), tensor, name.contains("norm"), heads);
        }
    }
    tensors
}

fn settings(spec: &Spec) -> Vec<(String, Entry)> {
    let architecture = spec.family.gguf_name().unwrap();
    let number = |n: usize| Entry::U32(n as u32);
    let mut settings = vec![("general.architecture".to_owned(), Entry::Text(architecture.into()))];
    let mut set = |name: &str, entry| settings.push((format!("{architecture}.{name}"), entry));
    set("embedding_length", number(spec.hidden_size));
    set("feed_forward_length", number(spec.intermediate_size));
    set("block_count", number(spec.layers.len()));
    set("context_length", number(spec.max_position_embeddings));
    set("attention.head_count", number(spec.num_attention_heads));
    set("attention.head_count_kv", number(spec.num_key_value_heads));
    set("attention.key_length", number(spec.head_dim));
    set("attention.layer_norm_rms_epsilon", Entry::F32(spec.rms_norm_eps as f32));
    set("rope.freq_base", Entry::F32(spec.ropes[0].theta as f32));
    if let crate::model::spec::RopeScaling::Linear { factor } = spec.ropes[0].scaling {
        set("rope.scaling.type", Entry::Text("linear".into()));
        set("rope.scaling.factor", Entry::F32(factor as f32));
    }
    if let Some(window) = spec.layers[0].window {
        set("attention.sliding_window", number(window));
        set("attention.sliding_window_pattern", number(2));
    }
    settings
}

fn written(spec: &Spec, weights: &Weights, more: &[(&str, Entry)]) -> Gguf {
    let tensors = tensors(spec, weights);
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let mut writer = Writer::default();
    let is_changed = |key: &str| more.iter().any(|(changed, _)| *changed == key);
    for (key, entry) in settings(spec).into_iter().filter(|(key, _)| !is_changed(key)) {
        writer.set(&key, entry);
    }
    for (key, entry) in more {
        writer.set(key, entry.clone());
    }
    for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
        writer.tensor(name, TensorType::F32, shape, bytes);
    }
    let mut file = Vec::new();
    writer.write(&mut file).unwrap();
    Gguf::parse(file, "model.gguf").unwrap()
}

#[test]
fn a_file_gives_the_model_that_went_into_it() {
    for case in CASES {
        let (mut spec, weights) = golden(case);
        let file = written(&spec, &weights, &[]);
        let read = Spec::from_gguf(&file).unwrap();
        // Not in the file, or the same under other names.
        spec.token_ids = read.token_ids.clone();
        if spec.family == Family::Gemma3 {
            spec.query_pre_attn_scalar = Some(spec.head_dim as f64);
        }
        assert_eq!(read, spec, "{case}");
        let found = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap();
        for ((name, a), (_, b)) in found.named(&spec).into_iter().zip(weights.named(&spec)) {
            let distance = super::distance(a, b);
            assert!(distance < 1e-6, "{case} {name}: {distance}");
        }
    }
}

#[test]
fn a_written_file_is_read_as_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["tied", "qwen2", "llama", "llama_linear", "wide_group"] {
        let (mut spec, weights) = golden(case);
        for kind in [GgufType::F32, GgufType::F16, GgufType::Q8_0] {
            let path = folder.path().join("model.gguf");
            weights.write_gguf(&spec, Vec::new(), kind, &path).unwrap();
            let file = Gguf::open(&path).unwrap();
            let read = Spec::from_gguf(&file).unwrap();
            spec.token_ids = read.token_ids.clone();
            assert_eq!(read, spec, "{case}");
            let found = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap();
            for ((name, a), (_, b)) in found.named(&spec).into_iter().zip(weights.named(&spec)) {
                // Half a step: of f16 as a part of the number, of eight bits of the largest.
                let distance = super::distance(a, b);
                let largest = super::list(b).into_iter().fold(0.0, |all: f64, x| all.max(x.abs()));
                let is_exact = a.dims().len() == 1 || kind == GgufType::F32;
                let step = if is_exact { 0.0 } else { 1.0 / 127.0 };
                assert!(distance <= largest * step, "{case} {name}: {distance}");
            }
        }
    }
}

#[test]
fn models_that_files_cannot_hold_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (case, said) in [
        ("mistral", "sliding windows"),
        ("qwen2_window", "sliding windows"),
        ("qwen3_yarn", "bias"),
    ] {
        let (spec, weights) = golden(case);
        let path = folder.path().join("model.gguf");
        let error = weights.write_gguf(&spec, Vec::new(), GgufType::F16, &path).unwrap_err();
        assert!(error.to_string().contains(said), "{case}: {error}");
        assert!(!path.exists());
    }
}

#[test]
fn what_a_file_says_beyond_that_is_refused() {
    let (spec, weights) = golden("llama");
    for (key, entry, said) in [
        ("general.architecture", Entry::Text("mamba".into()), "`mamba` is not supported"),
        ("llama.expert_count", Entry::U32(8), "`llama.expert_count`"),
        ("llama.rope.scaling.type", Entry::Text("longrope".into()), "`longrope`"),
        ("llama.rope.dimension_count", Entry::U32(2), "are rotated, not all"),
        ("llama.block_count", Entry::U32(u32::MAX), "`num_hidden_layers`"),
        ("llama.attention.head_count", Entry::U32(0), "`num_attention_heads`"),
    ] {
        let file = written(&spec, &weights, &[(key, entry)]);
        let error = Spec::from_gguf(&file).unwrap_err().to_string();
        assert!(error.contains(said), "{key}: {error}");
    }
    let file = written(&spec, &weights, &[("llama.block_count", Entry::U32(1))]);
    let read = Spec::from_gguf(&file).unwrap();
    let error = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("holds `blk.1."), "{error}");
}

/// `tests/golden/model/run.sh` runs it.
#[test]
#[ignore = "needs GREEDY_MODEL, a GGUF file, and GREEDY_TOKENS, made by tests/golden/model/greedy.py"]
fn greedy_tokens_of_a_real_model() {
    let path = std::env::var("GREEDY_MODEL").unwrap();
    let lines = std::fs::read_to_string(std::env::var("GREEDY_TOKENS").unwrap()).unwrap();
    let spec = Spec::load(Path::new(&path)).unwrap();
    let weights = Weights::load(Path::new(&path), &spec, DType::F32, &Device::Cpu).unwrap();
    let decoder = Decoder::new(Arc::new(Shape::new(&spec)), &weights).unwrap();
    assert!(!lines.is_empty());
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let expected = ids(&case["tokens"]);
        let found = continued(&decoder, &ids(&case["prompt"]), expected.len());
        assert_eq!(found, expected);
    }
}
