//! Logits, scores and gradients against transformers'. `tests/golden/qwen3/make.py` made the files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{devices, distance};
use crate::model::{Batch, Model, Selection, files};

const CASES: [&str; 4] = ["tied", "sharded", "wide_group", "rope_parameters"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen3").join(case)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// On the CPU f32 takes the fused operations, f64 the portable ones, as a GPU does.
#[test]
fn agrees_with_transformers() {
    for case in CASES {
        let folder = folder(case);
        let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
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
            let difference = (&logits - &expected["logits"]).unwrap().abs().unwrap();
            let largest = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest < 1e-4, "{case} {dtype:?}: logits differ by {largest}");

            let (scores, tape) = model.forward(&batch, &selection, temperature).unwrap();
            assert_eq!(scores, model.score(&batch, &selection, temperature).unwrap());
            for (name, scores) in
                [("log_probs", &scores.log_probs), ("entropies", &scores.entropies)]
            {
                for (score, expected) in scores.iter().zip(factors(name)) {
                    assert!((score - expected).abs() < 1e-4, "{case} {dtype:?} {name}");
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
                assert!(distance < 1e-4, "{case} {dtype:?}: {name} differs by {distance}");
            }
        }
    }
}

/// What is written is read back the same, by the names that transformers uses.
#[test]
fn saves_what_it_loads() {
    for case in CASES {
        let model = Model::load(&folder(case), DType::F32, &Device::Cpu).unwrap();
        let written = tempfile::tempdir().unwrap();
        model.save(written.path()).unwrap();
        let again = Model::load(written.path(), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(model.config(), again.config());
        let same = |(a, b): ((String, &Tensor), (String, &Tensor))| {
            a.0 == b.0 && super::list(a.1) == super::list(b.1)
        };
        assert!(model.trainable().into_iter().zip(again.trainable()).all(same), "{case}");
    }
}
