//! Logits, scores and gradients against transformers'. `tests/golden/model/make.py` made the files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{devices, distance};
use crate::model::generate::decode::{Decode, Draw, SequenceCache, Span};
use crate::model::generate::decoder::{Decoder, Shape};
use crate::model::generate::device::DeviceDecoder;
use crate::model::generate::kv_cache::KvCache;
use crate::model::generate::sampler;
use crate::model::{Batch, Model, Selection, Spec, Weights, files};
use crate::sampling::Sampling;

/// The largest difference that rounding in f32 explains, as a part of the largest value.
const NEAR: f64 = 1e-5;

pub(super) fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(case)
}

/// The names of all folders with a `case.json`.
fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap());
    let cases = folders.filter(|entry| entry.path().join("case.json").is_file());
    let cases: Vec<String> = cases.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(cases.len() >= 12, "{cases:?}");
    cases
}

fn described(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(super) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// On the CPU f32 uses the fused operations, f64 the composed ones, as on a GPU.
#[test]
fn agrees_with_transformers() {
    for case in cases() {
        let folder = folder(&case);
        let value = described(&folder);
        let sequences: Vec<Vec<u32>> =
            value["sequences"].as_array().unwrap().iter().map(ids).collect();
        let batch = Batch::pack(&sequences);
        let selection = Selection { rows: ids(&value["rows"]), targets: ids(&value["targets"]) };
        let temperature = value["temperature"].as_f64().unwrap() as f32;
        let expected =
            files::load_tensors(&folder.join("expected.safetensors"), &Device::Cpu).unwrap();
        let factors = |name: &str| expected[name].to_vec1::<f32>().unwrap();

        let forms = devices().into_iter().map(|device| (DType::F32, device));
        for (dtype, device) in forms.chain([(DType::F64, Device::Cpu)]) {
            let model = Model::load(&folder, dtype, &device).unwrap();
            let logits = model.logits(&batch).unwrap().to_device(&Device::Cpu).unwrap();
            let largest = distance(&logits, &expected["logits"]);
            assert!(largest < NEAR, "{case} {dtype:?}: logits differ by {largest}");

            let (scores, tape) = model.forward(&batch, &selection, temperature).unwrap();
            assert_eq!(scores, model.score(&batch, &selection, temperature).unwrap());
            for (name, scores) in
                [("log_probs", &scores.log_probs), ("entropies", &scores.entropies)]
            {
                for (score, expected) in scores.iter().zip(factors(name)) {
                    assert!((score - expected).abs() < 1e-5, "{case} {dtype:?} {name}");
                }
            }
            let mut gradients = model.gradients().unwrap();
            let (a, b) = (factors("d_log_probs"), factors("d_entropies"));
            model.backward(tape, &a, Some(&b), &mut gradients).unwrap();
            let known = expected.keys().filter(|name| name.starts_with("grad.")).count();
            assert_eq!(gradients.iter().count(), known);
            for (name, gradient) in gradients.iter() {
                let gradient = gradient.to_device(&Device::Cpu).unwrap();
                let distance = distance(&gradient, &expected[&format!("grad.{name}")]);
                assert!(distance < NEAR, "{case} {dtype:?}: {name} differs by {distance}");
            }
        }
    }
}

/// The decoders give the logits of transformers and of the trainer, and the same greedy tokens.
#[test]
fn decodes_as_transformers_does() {
    for case in cases() {
        let folder = folder(&case);
        let value = described(&folder);
        let spec = Spec::load(&folder).unwrap();
        let weights = Weights::load(&folder, &spec, DType::F32, &Device::Cpu).unwrap();
        let decoder = Decoder::new(Arc::new(Shape::new(&spec)), &weights).unwrap();
        let expected =
            files::load_tensors(&folder.join("expected.safetensors"), &Device::Cpu).unwrap();
        let expected = expected["logits"].to_vec2::<f32>().unwrap();
        let mut rows = expected.iter();
        for sequence in value["sequences"].as_array().unwrap() {
            let mut cache = KvCache::default();
            for id in ids(sequence) {
                let mut scratch = Default::default();
                let mut spans =
                    [Span { cache: &mut cache, tokens: &[id], logits: true, adapter: None }];
                let logits = decoder.logits(&mut spans, &mut scratch).next().unwrap();
                for (logit, expected) in logits.iter().zip(rows.next().unwrap()) {
                    assert!((logit - expected).abs() < 1e-4, "{case}: {logit} is not {expected}");
                }
            }
        }
        let Some(greedy) = value.get("greedy").map(ids) else { continue };
        let prompt = ids(&value["prompt"]);
        assert_eq!(continued(&decoder, &prompt, greedy.len()), greedy, "{case}");
        for device in devices() {
            let weights = weights.to_device(&device).unwrap();
            let decoder = DeviceDecoder::new(&spec, &weights, Some(64)).unwrap();
            assert_eq!(continued(&decoder, &prompt, greedy.len()), greedy, "{case} {device:?}");
        }
    }
}

/// The likeliest tokens after `prompt`.
pub(super) fn continued<D: Decode>(decoder: &D, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = D::Cache::default();
    let mut all = prompt.to_vec();
    while all.len() < prompt.len() + count {
        let tokens = &all[cache.len()..];
        assert!(decoder.reserve(&mut cache, tokens.len()));
        let sampling = Sampling::GREEDY;
        let mut rng = sampler::generator(&sampling);
        let mut draws = [Draw { sampling, rng: &mut rng }];
        let mut spans = [Span { cache: &mut cache, tokens, logits: true, adapter: None }];
        let drawn = decoder.sample(&mut spans, &mut Default::default(), &mut draws).unwrap();
        all.push(drawn[0].id);
    }
    all.split_off(prompt.len())
}

/// A saved model is read back the same, under the names that transformers uses.
#[test]
fn saves_what_it_loads() {
    for case in cases() {
        let model = Model::load(&folder(&case), DType::F32, &Device::Cpu).unwrap();
        let written = tempfile::tempdir().unwrap();
        model.save(written.path()).unwrap();
        let again = Model::load(written.path(), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(model.spec(), again.spec());
        let same = |(a, b): ((String, &Tensor), (String, &Tensor))| {
            a.0 == b.0 && super::list(a.1) == super::list(b.1)
        };
        assert!(model.trainable().into_iter().zip(again.trainable()).all(same), "{case}");
    }
}

/// `tests/golden/model/written.sh` runs it, and has transformers read what it writes.
#[test]
#[ignore = "needs WRITTEN, a folder"]
fn writes_every_configuration() {
    let written = std::env::var("WRITTEN").unwrap();
    for case in cases() {
        let model = Model::load(&folder(&case), DType::F32, &Device::Cpu).unwrap();
        model.save(&Path::new(&written).join(case)).unwrap();
    }
}
