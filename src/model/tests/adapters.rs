//! Adapters: PEFT folders, merging, the reference below them.

use candle_core::{DType, Device};

use super::{batch, distance, list, model, tiny, wave};
use crate::hint::Hint;
use crate::model::{
    Adapter, AdapterConfig, Model, ModelError, Projection, Selection, Slot, Weights, files,
};

fn adapted(targets: Vec<Projection>) -> Model {
    let spec = tiny(false);
    let adapter = AdapterConfig { rank: 2, alpha: 4.0, targets };
    let adapter = Adapter::new(&spec, adapter, 1, DType::F32, &Device::Cpu).unwrap();
    model(&spec).with_adapter(adapter)
}

fn trained() -> Model {
    let mut model = adapted(vec![Projection::Query, Projection::Down]);
    for (index, (_, tensor)) in model.trainable_mut().into_iter().enumerate() {
        *tensor = (&*tensor + (wave(tensor.dims(), index) * 0.3).unwrap()).unwrap();
    }
    model
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let model = adapted(Projection::ALL.to_vec());
    let (with, without) =
        (model.logits(&batch()).unwrap(), model.without_adapter().logits(&batch()).unwrap());
    assert_eq!(list(&with), list(&without));
}

#[test]
fn only_the_adapter_is_trained() {
    let model = adapted(vec![Projection::Value]);
    let names: Vec<String> = model.trainable().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
            "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight",
            "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight",
        ]
    );
    let batch = batch();
    let gradients = super::gradients(&model, &batch, &Selection::next_tokens(&batch));
    // `B` is zero, so `A` has no gradient yet, and `B` has.
    for (name, gradient) in gradients.iter() {
        assert_eq!(list(gradient).iter().any(|x| *x != 0.0), name.contains("lora_B"), "{name}");
    }
}

#[test]
fn merged_weights_compute_the_same() {
    let model = trained();
    let merged = Model::new(model.spec().clone(), model.merged().unwrap());
    let (a, b) = (model.logits(&batch()).unwrap(), merged.logits(&batch()).unwrap());
    assert!(distance(&a, &b) < 1e-5);
    let base = model.without_adapter().logits(&batch()).unwrap();
    assert!(distance(&base, &b) > 0.01, "the adapter changed nothing");
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let saved = Model::load(folder.path(), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(list(&saved.logits(&batch()).unwrap()), list(&b));
}

/// A change that bf16 cannot represent next to its weight reaches the sampler, and is rounded once
/// it is saved.
#[test]
fn merging_rounds_nothing_away() {
    let model = super::cast(&trained(), DType::BF16);
    let merged = model.merged().unwrap();
    let queries = |weights: &Weights| weights.layers[0].need(Slot::Query).unwrap().clone();
    assert_eq!(queries(&merged).dtype(), DType::F32);
    assert_eq!(merged.layers[0].need(Slot::Key).unwrap().dtype(), DType::BF16);
    let expected = super::cast(&model, DType::F32).merged().unwrap();
    assert_eq!(list(&queries(&merged)), list(&queries(&expected)));
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
    let path = folder.path().join("model.safetensors");
    let saved = files::load_tensors(&path, &Device::Cpu).unwrap();
    assert!(saved.values().all(|tensor| tensor.dtype() == DType::BF16));
}

#[test]
fn a_folder_is_read_back() {
    let model = trained();
    let folder = tempfile::tempdir().unwrap();
    let adapter = model.adapter().unwrap();
    adapter.save(folder.path(), Some("a/base")).unwrap();
    let read = Adapter::load(folder.path(), model.spec(), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(read.config(), adapter.config());
    for ((name, a), (known, b)) in read.named().into_iter().zip(adapter.named()) {
        assert_eq!((&name, list(a)), (&known, list(b)));
    }
}

#[test]
fn unusable_folders_say_why() {
    let model = trained();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_config.json");
    for (change, said) in [
        (serde_json::json!({"use_dora": true}), "`use_dora` is not supported"),
        (serde_json::json!({"bias": "all"}), "`bias`"),
        (serde_json::json!({"target_modules": ["lm_head"]}), "unknown target module `lm_head`"),
        (serde_json::json!({"target_modules": ["q_proj"]}), "does not announce"),
        (serde_json::json!({"target_modules": ["q_proj", "k_proj"]}), "has no `base_model."),
        (serde_json::json!({"r": 3}), "has shape"),
    ] {
        model.adapter().unwrap().save(folder.path(), None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (key, part) in change.as_object().unwrap() {
            value[key] = part.clone();
        }
        files::write_json(&path, &value).unwrap();
        let error = Adapter::load(folder.path(), model.spec(), DType::F32, &Device::Cpu);
        let error: ModelError = error.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        let checked = Adapter::check(folder.path(), model.spec()).unwrap_err();
        assert_eq!(checked.to_string(), error.to_string());
    }
    model.adapter().unwrap().save(folder.path(), None).unwrap();
    Adapter::check(folder.path(), model.spec()).unwrap();
    let tensors = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&tensors).unwrap();
    std::fs::write(&tensors, &bytes[..bytes.len() - 1]).unwrap();
    let error = Adapter::check(folder.path(), model.spec()).unwrap_err();
    assert!(error.hint().unwrap().contains("truncated"), "{error}");
    model.adapter().unwrap().save(folder.path(), None).unwrap();
    let mut held = candle_core::safetensors::load(&tensors, &Device::Cpu).unwrap();
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    let whole = held[name].to_dtype(DType::I64).unwrap();
    held.insert(name.to_owned(), whole);
    candle_core::safetensors::save(&held, &tensors).unwrap();
    for error in [
        Adapter::check(folder.path(), model.spec()).unwrap_err(),
        Adapter::load(folder.path(), model.spec(), DType::F32, &Device::Cpu).unwrap_err(),
    ] {
        assert!(error.to_string().contains(&format!("`{name}` is of type i64")), "{error}");
    }
    std::fs::remove_file(&tensors).unwrap();
    let error = Adapter::check(folder.path(), model.spec()).unwrap_err();
    assert!(matches!(error, ModelError::Io { .. }), "{error}");
}
