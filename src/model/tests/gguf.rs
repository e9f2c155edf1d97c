//! Models out of GGUF files.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::devices;
use super::golden::{continued, ids};
use crate::gguf::{Entry, Gguf, TensorType, Writer};
use crate::hint::Hint;
use crate::model::generate::decode::{SequenceCache, Span};
use crate::model::generate::decoder::{Decoder, Scratch, Shape};
use crate::model::generate::device::DeviceDecoder;
use crate::model::generate::kv_cache::KvCache;
use crate::model::slots::{EMBED, HEAD, NORM, Slot};
use crate::model::spec::{Rope, RopeScaling};
use crate::model::{Family, GgufType, Model, ModelError, Spec, Weights};

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
    let is_changed = |key: &str| more.iter().any(|(changed, _)| *changed == key);
    let mut settings = settings(spec);
    settings.retain(|(key, _)| !is_changed(key));
    settings.extend(more.iter().map(|(key, entry)| ((*key).to_owned(), entry.clone())));
    file_of(&settings, &tensors(spec, weights))
}

fn file_of(settings: &[(String, Entry)], tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Gguf {
    let bytes = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let bytes: Vec<_> = bytes.collect();
    let mut writer = Writer::default();
    for (key, entry) in settings {
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
        for kind in [GgufType::F32, GgufType::F16, GgufType::Q8_0, GgufType::Q4K] {
            let path = folder.path().join("model.gguf");
            weights.write_gguf(&spec, Vec::new(), kind, &path).unwrap();
            let file = Gguf::open(&path).unwrap();
            let read = Spec::from_gguf(&file).unwrap();
            spec.token_ids = read.token_ids.clone();
            assert_eq!(read, spec, "{case}");
            let found = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap();
            for ((name, a), (_, b)) in found.named(&spec).into_iter().zip(weights.named(&spec)) {
                // Half a step: of f16 as a part of the number, of eight bits of the largest. With
                // five bits, values may also lie beyond the largest number.
                let distance = super::distance(a, b);
                let is_exact = a.dims().len() == 1 || kind == GgufType::F32;
                let step = match kind {
                    _ if is_exact => 0.0,
                    GgufType::Q4K => 1.0 / 8.0,
                    _ => 1.0 / 127.0,
                };
                assert!(distance <= step, "{case} {name}: {distance}");
            }
        }
    }
}

/// Each matrix in the type that llama.cpp gives it, and all values near those that were written.
#[test]
fn a_file_in_four_bits_is_one_of_llama_cpp() {
    use TensorType::{F32, Q4_K, Q5_0, Q6_K, Q8_0};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let spec = Spec {
        family: Family::Llama,
        hidden_size: 96,
        intermediate_size: 512,
        layers: vec![Default::default(); 2],
        tie_word_embeddings: false,
        ..super::tiny_llama()
    };
    let weights = Weights::random(&spec, 3, &Device::Cpu).unwrap();
    weights.write_gguf(&spec, Vec::new(), GgufType::Q4K, &path).unwrap();
    let file = Gguf::open(&path).unwrap();
    assert_eq!(file.number("general.file_type").unwrap(), Some(15));
    for (name, expected) in [
        ("output.weight", Q8_0),
        ("token_embd.weight", Q5_0),
        ("output_norm.weight", F32),
        ("blk.0.attn_v.weight", Q5_0),
        ("blk.1.attn_v.weight", Q8_0),
        ("blk.0.ffn_up.weight", Q5_0),
        ("blk.0.ffn_down.weight", Q4_K),
        ("blk.1.ffn_down.weight", Q6_K),
    ] {
        assert_eq!(file.tensor(name).unwrap().kind, expected, "{name}");
    }
    let read = Weights::from_gguf(&file, &spec, DType::F32, &Device::Cpu).unwrap();
    for ((name, a), (_, b)) in read.named(&spec).into_iter().zip(weights.named(&spec)) {
        let (a, b) = (super::list(a), super::list(b));
        let squares = |list: &mut dyn Iterator<Item = f64>| list.map(|x| x * x).sum::<f64>();
        let error = squares(&mut a.iter().zip(&b).map(|(a, b)| a - b));
        let error = (error / squares(&mut b.into_iter())).sqrt();
        assert!(error < 0.08, "{name}: {error}");
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
        ("llama.attention.head_count", Entry::U32(0), "`llama.attention.head_count`: it is 0"),
        ("llama.attention.head_count", Entry::U32(7), "`num_attention_heads` 7 is not a multiple"),
        ("llama.rope.scaling.attn_factor", Entry::F32(2.0), "`llama.rope.scaling.attn_factor`"),
    ] {
        let file = written(&spec, &weights, &[(key, entry)]);
        let error = Spec::from_gguf(&file).unwrap_err().to_string();
        assert!(error.contains(said), "{key}: {error}");
    }
    let file = written(&spec, &weights, &[("llama.block_count", Entry::U32(1))]);
    let read = Spec::from_gguf(&file).unwrap();
    let error = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("holds `blk.1."), "{error}");
    let mut settings = settings(&spec);
    settings.retain(|(key, _)| !key.ends_with("key_length") && !key.ends_with("head_count"));
    settings.push(("llama.rope.dimension_count".to_owned(), Entry::U32(4)));
    settings.push(("llama.attention.head_count".to_owned(), Entry::U32(7)));
    let error = Spec::from_gguf(&file_of(&settings, &tensors(&spec, &weights))).unwrap_err();
    let said = format!("head_count`: 7 does not divide `embedding_length` {}", spec.hidden_size);
    assert!(error.to_string().contains(&said), "{error}");
}

#[test]
fn a_file_that_does_not_fit_itself_comes_with_a_hint() {
    let (spec, weights) = golden("llama");
    for (key, entry) in [
        ("llama.expert_count", Entry::U32(8)),
        ("llama.block_count", Entry::U32(1)),
        ("llama.block_count", Entry::U32(3)),
        ("llama.feed_forward_length", Entry::U32(64)),
    ] {
        let file = written(&spec, &weights, &[(key, entry)]);
        let error = Spec::from_gguf(&file)
            .map_err(ModelError::from)
            .and_then(|read| Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).map(drop));
        assert!(error.unwrap_err().hint().is_some(), "{key}");
    }
    // Which program serves it depends on what asks.
    let other = ("general.architecture", Entry::Text("mamba".into()));
    let error = Spec::from_gguf(&written(&spec, &weights, &[other])).unwrap_err();
    assert_eq!(error.hint(), None);
}

/// Before any value is read.
#[test]
fn a_missing_tensor_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let (spec, weights) = golden("llama");
    weights.write_gguf(&spec, Vec::new(), GgufType::F32, &path).unwrap();
    let spec = Spec::load(&path).unwrap();
    Weights::check(&path, &spec).unwrap();
    let other = Spec { intermediate_size: 30, ..spec.clone() };
    let error = Weights::check(&path, &other).unwrap_err().to_string();
    assert!(error.contains("`blk.0.ffn_gate.weight` has shape [28, 24]"), "{error}");
    let mut tensors = tensors(&spec, &weights);
    tensors.retain(|(name, _, _)| name != "blk.1.ffn_up.weight");
    let file = file_of(&settings(&spec), &tensors);
    let loaded = Weights::from_gguf(&file, &spec, DType::F32, &Device::Cpu).unwrap_err();
    let served = Decoder::from_gguf(Arc::new(Shape::new(&spec)), &file).err().unwrap();
    for error in [loaded, served] {
        assert!(error.to_string().contains("has no tensor `blk.1.ffn_up.weight`"), "{error}");
    }
}

/// A file may have biases of some projections; a folder has those of all, or of none.
#[test]
fn missing_biases_are_saved_as_zeros() {
    for (case, of_output) in
        [("llama", false), ("llama", true), ("tied", false), ("tied", true), ("gemma3", false)]
    {
        let (mut spec, _) = golden(case);
        (spec.qkv_bias, spec.output_bias) = (!of_output, of_output);
        let file = written(&spec, super::model(&spec).weights(), &[]);
        let read = Spec::from_gguf(&file).unwrap();
        assert_eq!((read.qkv_bias, read.output_bias), (!of_output, of_output), "{case}");
        let weights = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap();
        let model = Model::new(read, weights);
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let saved = Model::load(folder.path(), DType::F32, &Device::Cpu).unwrap();
        assert!(saved.spec().qkv_bias && saved.spec().output_bias, "{case}");
        let logits = |model: &Model| model.logits(&super::batch()).unwrap();
        let distance = super::distance(&logits(&saved), &logits(&model));
        assert!(distance < 1e-6, "{case}: {distance}");
    }
    let (mut spec, _) = golden("qwen2");
    spec.output_bias = true;
    let folder = tempfile::tempdir().unwrap();
    let error = super::model(&spec).save(&folder.path().join("new")).unwrap_err().explained();
    assert!(error.contains("has a bias") && error.contains("can be served"), "{error}");
    assert!(!folder.path().join("new").exists());
}

/// A llama without a rotary scaling.
fn unscaled() -> (Spec, Weights) {
    let (mut spec, weights) = golden("llama");
    spec.ropes[0] = Rope::new(spec.ropes[0].theta);
    (spec, weights)
}

#[test]
fn a_factor_alone_scales_as_in_llama_cpp() {
    let (spec, weights) = unscaled();
    let factor = ("llama.rope.scaling.factor", Entry::F32(4.0));
    let read = |more: &[_]| Spec::from_gguf(&written(&spec, &weights, more)).unwrap();
    assert_eq!(read(&[]).ropes[0].scaling, RopeScaling::Default);
    let scaling = read(std::slice::from_ref(&factor)).ropes[0].scaling.clone();
    assert_eq!(scaling, RopeScaling::Linear { factor: 4.0 });
    let none = ("llama.rope.scaling.type", Entry::Text("none".into()));
    assert_eq!(read(&[none, factor]).ropes[0].scaling, RopeScaling::Default);
}

#[test]
fn divisors_beside_a_scaling_are_refused() {
    let (spec, weights) = unscaled();
    let mut tensors = tensors(&spec, &weights);
    let half = spec.head_dim / 2;
    tensors.push(("rope_freqs.weight".into(), vec![half], vec![1.0; half]));
    let mut settings = settings(&spec);
    Spec::from_gguf(&file_of(&settings, &tensors)).unwrap();
    settings.push(("llama.rope.scaling.factor".into(), Entry::F32(4.0)));
    let error = Spec::from_gguf(&file_of(&settings, &tensors)).unwrap_err().to_string();
    assert!(error.contains("`rope_freqs.weight`: together with"), "{error}");
}

#[test]
fn a_file_says_what_is_added_to_the_mean_square() {
    let (spec, weights) = unscaled();
    let mut settings = settings(&spec);
    settings.retain(|(key, _)| !key.ends_with("epsilon"));
    let error = Spec::from_gguf(&file_of(&settings, &tensors(&spec, &weights))).unwrap_err();
    assert!(error.to_string().contains("layer_norm_rms_epsilon`: it is missing"), "{error}");
}

/// Every scaling of Llama 3 that is written is read as the same.
#[test]
fn scalings_of_llama_3_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let (mut spec, weights) = unscaled();
    let mut write = |theta: f64, low_freq_factor: f64, factor: f64, original: usize| {
        let scaling =
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor: 4.0, original };
        spec.ropes[0] = Rope { theta, scaling };
        let written = weights.write_gguf(&spec, Vec::new(), GgufType::F32, &path);
        written.map(|()| (spec.clone(), Spec::from_gguf(&Gguf::open(&path).unwrap()).unwrap()))
    };
    for (theta, factor, original) in
        [(5e5, 8.0, 128), (5e5, 2.5, 8192), (5e5, 32.0, 8192), (1e4, 8.0, 64), (1e6, 4.0, 100)]
    {
        let (spec, read) = write(theta, 1.0, factor, original).unwrap();
        let frequencies = |spec: &Spec| spec.ropes[0].frequencies(spec.head_dim);
        for (a, b) in frequencies(&read).into_iter().zip(frequencies(&spec)) {
            assert!((a / b - 1.0).abs() < 1e-3, "{theta} {factor} {original}: {a} {b}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    let error = write(10.0, 3.0, 8.0, 20).unwrap_err().to_string();
    assert!(error.contains("GGUF files cannot hold this model"), "{error}");
    assert!(!path.exists());
}

#[test]
fn values_that_no_type_holds_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let below_f32 = vec![GgufType::F16, GgufType::Q8_0, GgufType::Q4K];
    for (value, refused) in [(1e5, vec![GgufType::F16]), (1e8, below_f32)] {
        let spec = Spec { intermediate_size: 32, ..super::tiny_llama() };
        let spec = Spec { family: Family::Llama, ..spec };
        let mut weights = Weights::random(&spec, 0, &Device::Cpu).unwrap();
        let down = weights.layers[1].need(Slot::Down).unwrap().affine(0.0, value).unwrap();
        weights.layers[1].set(Slot::Down, down);
        for kind in [GgufType::F32, GgufType::F16, GgufType::Q8_0, GgufType::Q4K] {
            let written = weights.write_gguf(&spec, Vec::new(), kind, &path);
            assert_eq!(written.is_err(), refused.contains(&kind), "{value} {kind:?}");
            if let Err(error) = written {
                let error = error.explained();
                assert!(error.contains("`blk.1.ffn_down.weight`"), "{error}");
                assert!(error.contains("--type f32"), "{error}");
            }
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let (spec, weights) = unscaled();
    for name in ["blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"] {
        let mut tensors = tensors(&spec, &weights);
        let at = tensors.iter().position(|(other, _, _)| other == name).unwrap();
        tensors[at].2[3] = f32::NAN;
        let file = file_of(&settings(&spec), &tensors);
        let shape = Arc::new(Shape::new(&spec));
        let served = Decoder::from_gguf(shape, &file).err().unwrap().to_string();
        let loaded = Weights::from_gguf(&file, &spec, DType::F32, &Device::Cpu).err().unwrap();
        for error in [served, loaded.to_string()] {
            let said = format!("`{name}` has values that are not finite");
            assert!(error.contains(&said), "{error}");
        }
    }
}

/// The log-probability of each of `tokens` after `prompt` and those before it.
fn log_probs(decoder: &Decoder, prompt: &[u32], tokens: &[u32]) -> Vec<f32> {
    let (mut cache, mut scratch) = (KvCache::default(), Scratch::default());
    let all = [prompt, tokens].concat();
    let mut log_prob = |at: usize| {
        let known = &all[cache.len()..at];
        let mut spans = [Span { cache: &mut cache, tokens: known, logits: true, adapter: None }];
        let logits = decoder.logits(&mut spans, &mut scratch).next().unwrap();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
        logits[all[at] as usize] - highest - sum.ln()
    };
    (prompt.len()..all.len()).map(&mut log_prob).collect()
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
    let on_gpus: Vec<DeviceDecoder> = devices()
        .into_iter()
        .filter(|device| !device.is_cpu())
        .map(|device| weights.to_device(&device).unwrap())
        .map(|weights| DeviceDecoder::new(&spec, &weights, Some(4096)).unwrap())
        .collect();
    let file = Gguf::open(Path::new(&path)).unwrap();
    let quantised = Decoder::from_gguf(Arc::new(Shape::new(&spec)), &file).unwrap();
    assert!(!lines.is_empty());
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (prompt, expected) = (ids(&case["prompt"]), ids(&case["tokens"]));
        assert_eq!(continued(&decoder, &prompt, expected.len()), expected);
        for decoder in &on_gpus {
            assert_eq!(continued(decoder, &prompt, expected.len()), expected);
        }
        // Its products round their inputs to eight bits, so its tokens may differ.
        let exact = log_probs(&decoder, &prompt, &expected);
        let rounded = log_probs(&quantised, &prompt, &expected);
        let difference = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).sum::<f32>();
        let mean = difference / expected.len() as f32;
        assert!(mean > 0.0 && mean < 0.1, "{mean}");
    }
}
