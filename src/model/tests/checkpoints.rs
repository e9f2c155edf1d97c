//! Weights from a seed, and folders and batches that cannot be used.

use candle_core::{DType, Device, Tensor};

use super::{batch, list, tiny, wave};
use crate::hint::Hint;
use crate::model::{Batch, Model, Selection, Spec, Weights};

#[test]
fn random_weights_follow_the_seed() {
    let spec = Spec { vocab_size: 400, hidden_size: 64, ..tiny(false) };
    let [a, b, c] = [1, 1, 2].map(|seed| Weights::random(&spec, seed, &Device::Cpu).unwrap());
    assert_eq!(list(&a.embed), list(&b.embed));
    assert_ne!(list(&a.embed), list(&c.embed));
    assert!(list(&a.norm).iter().all(|x| *x == 1.0));
    let values = list(&a.embed);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let deviation = (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
    assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 5e-4, "{mean} {deviation}");
}

#[test]
fn a_saved_folder_replaces_the_old_one_whole() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..2 {
        let weights = Weights::random(&tiny(true), seed, &Device::Cpu).unwrap();
        weights.save(folder.path(), &tiny(true)).unwrap();
        let read = Model::load(folder.path(), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(list(&read.weights().embed), list(&weights.embed));
    }
    let mut files: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["config.json", "model.safetensors"]);
}

#[test]
fn unusable_folders_say_why() {
    let folder = tempfile::tempdir().unwrap();
    // What is said without reading weights is the same.
    let load = || {
        let said = Model::load(folder.path(), DType::F32, &Device::Cpu).unwrap_err().explained();
        if let Ok(spec) = Spec::load(folder.path()) {
            assert_eq!(Weights::check(folder.path(), &spec).unwrap_err().explained(), said);
        }
        said
    };
    assert!(load().contains("config.json"));
    let weights = Weights::random(&tiny(true), 0, &Device::Cpu).unwrap();
    weights.save(folder.path(), &tiny(true)).unwrap();
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(load().contains("truncated"), "{}", load());
    std::fs::write(&file, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(load().contains("`git lfs pull`"), "{}", load());
    weights.save(folder.path(), &Spec { hidden_size: 14, ..tiny(true) }).unwrap();
    assert!(load().contains("`config.json` asks for"), "{}", load());
    std::fs::remove_file(&file).unwrap();
    assert!(load().contains("holds neither"), "{}", load());
    std::fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(load().contains("that writes safetensors"), "{}", load());
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let model = super::model(&tiny(true));
    let selection = Selection { rows: vec![0], targets: vec![1] };
    let select = |rows: &[u32], targets: &[u32]| Selection {
        rows: rows.to_vec(),
        targets: targets.to_vec(),
    };
    let cut = |starts: &[usize], parents: &[Option<usize>]| Batch {
        ids: vec![1, 2],
        starts: starts.to_vec(),
        parents: parents.to_vec(),
    };
    let cases = [
        (Batch::default(), selection.clone(), 1.0, "`starts` must rise"),
        (cut(&[0, 1], &[None]), selection.clone(), 1.0, "`starts`"),
        (cut(&[0, 0, 2], &[None; 2]), selection.clone(), 1.0, "`starts`"),
        (cut(&[0, 1, 2], &[None]), selection.clone(), 1.0, "2 branches but 1 parents"),
        (cut(&[0, 1, 2], &[None, Some(1)]), selection.clone(), 1.0, "earlier row"),
        (cut(&[0, 2], &[Some(0)]), selection.clone(), 1.0, "earlier row"),
        (Batch::pack(&[[23]]), selection.clone(), 1.0, "token `23` is outside"),
        (Batch::pack(&[[1; 129]]), selection.clone(), 1.0, "exceeds"),
        (batch(), select(&[], &[]), 1.0, "no row is selected"),
        (batch(), select(&[49], &[1]), 1.0, "must stay below 49"),
        (batch(), select(&[0], &[1, 1]), 1.0, "1 rows but 2 targets"),
        (batch(), select(&[0], &[23]), 1.0, "target `23` is outside"),
        (batch(), selection.clone(), 0.0, "temperature `0`"),
        (batch(), selection, f32::NAN, "temperature `NaN`"),
    ];
    for (batch, selection, temperature, said) in cases {
        let error = model.score(&batch, &selection, temperature).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn every_tensor_of_a_file_is_used_or_known_to_be_harmless_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let spec = tiny(true);
    let weights = Weights::random(&spec, 0, &Device::Cpu).unwrap();
    let load = |extra: &str, tensor: Tensor| {
        weights.save(folder.path(), &spec).unwrap();
        let file = folder.path().join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        tensors.insert(extra.to_owned(), tensor);
        candle_core::safetensors::save(&tensors, &file).unwrap();
        Model::load(folder.path(), DType::F32, &Device::Cpu).map_err(|error| error.explained())
    };
    let of = |shape: &[usize]| wave(shape, 1);
    for (name, tensor, said) in [
        ("model.layers.0.self_attn.q_proj.bias", of(&[24]), "holds `model.layers.0.self_attn.q_p"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", of(&[1, 1]), "up_proj.weight_scale_inv`"),
        ("model.layers.1.mlp.up_proj.weight_scale", of(&[1]), "up_proj.weight_scale`"),
        ("model.layers.2.input_layernorm.weight", of(&[12]), "holds `model.layers.2."),
        ("lm_head.weight", of(&[23, 12]), "`lm_head.weight` that is not the embedding"),
        ("lm_head.weight", of(&[22, 12]), "`lm_head.weight` that is not the embedding"),
    ] {
        let error = load(name, tensor).unwrap_err();
        assert!(error.contains(said), "{name}: {error}");
    }
    load("lm_head.weight", weights.embed.clone()).unwrap();
    load("model.layers.0.self_attn.rotary_emb.inv_freq", of(&[3])).unwrap();
    let codes = Tensor::zeros((20, 12), DType::U8, &Device::Cpu).unwrap();
    let error = load("model.layers.0.mlp.up_proj.weight", codes).unwrap_err();
    assert!(error.contains("is of type u8") && error.contains("hint: save the model"), "{error}");
}

/// What the index of two shards says is true of them, or refused.
#[test]
fn an_index_places_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::random(&tiny(true), 0, &Device::Cpu).unwrap();
    weights.save(folder.path(), &tiny(true)).unwrap();
    let all = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&all, &Device::Cpu).unwrap();
    std::fs::remove_file(&all).unwrap();
    let shards = ["one.safetensors", "two.safetensors"];
    let place = |name: &str| usize::from(name > "model.layers.0.mlp.z");
    let save = |extra: Option<&str>| {
        for (at, shard) in shards.iter().enumerate() {
            let held = tensors.iter().filter(|(name, _)| {
                place(name) == at || extra.is_some_and(|extra| *extra == **name)
            });
            let held: std::collections::HashMap<_, _> =
                held.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
            candle_core::safetensors::save(&held, folder.path().join(shard)).unwrap();
        }
    };
    let load = |name: &str, shard: serde_json::Value| {
        let mut map: serde_json::Map<String, serde_json::Value> =
            tensors.keys().map(|name| (name.clone(), shards[place(name)].into())).collect();
        map.insert(name.to_owned(), shard);
        map.retain(|_, shard| !shard.is_null());
        let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        Model::load(folder.path(), DType::F32, &Device::Cpu).map_err(|error| error.explained())
    };
    let embed = "model.embed_tokens.weight";
    save(None);
    let read = load(embed, shards[0].into()).unwrap();
    assert_eq!(list(&read.weights().embed), list(&weights.embed));
    for (name, shard, said) in [
        (embed, shards[1].into(), "in `one.safetensors`, which holds it"),
        (embed, 5.into(), "in 5, which is not a file"),
        (embed, "../two.safetensors".into(), "which is not a file of this folder"),
        (embed, serde_json::Value::Null, "which holds it"),
        ("ghost.weight", shards[0].into(), "in `one.safetensors`, which does not hold it"),
        ("ghost.weight", "three.safetensors".into(), "three.safetensors"),
    ] {
        let error = load(name, shard).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
    save(Some(embed));
    let error = load(embed, shards[0].into()).err().unwrap();
    assert!(error.contains("does not place `model.embed_tokens.weight` in `two.s"), "{error}");
}
