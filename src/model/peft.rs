//! The settings of PEFT's adapters: what is plain LoRA is read, all else refused by its name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::AdapterConfig;
use super::slots::Projection;
use super::spec::Keys;
use crate::hint::Reason;

/// What to do with an adapter that is not read here.
const HINT: &str = "merge it with PEFT (`merge_and_unload`), and use the merged folder";

/// An adapter that is not read here.
fn unread(text: String) -> Reason {
    Reason::from(text).with_hint(HINT)
}

/// Ways to begin an adapter that leave the base as it is; the others move a part of the base's
/// weights into the adapter, which is of no use without that changed base.
const PLAIN_INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "default"];

/// Settings that say nothing of what an adapter computes: about training, or its writer. All that
/// is not named here or read below must be off, as PEFT writes what an adapter does not use.
const HARMLESS: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
];

/// The settings of an `adapter_config.json` beside tensors of these names.
///
/// # Errors
/// Names the setting that is not understood.
pub(super) fn read<'n>(
    value: &Value,
    tensors: impl Iterator<Item = &'n String>,
) -> Result<AdapterConfig, Reason> {
    let mut keys = Keys::new("", value.clone())?;
    for (key, plain) in [("peft_type", "LORA"), ("task_type", "CAUSAL_LM"), ("bias", "none")] {
        if let Some(found) = keys.take(key).filter(|found| found != plain) {
            return Err(unread(format!("`{key}` is {found}, not `{plain}`")));
        }
    }
    if let Some(init) = keys.take("init_lora_weights").filter(|init| !is_plain_init(init)) {
        return Err(unread(format!(
            "`init_lora_weights` is {init}: such an adapter belongs to a changed base"
        )));
    }
    let targets = keys.take("target_modules");
    let (rank, alpha) = (keys.size("r")?, keys.need("lora_alpha")?);
    let alpha = match keys.take("use_rslora") {
        None | Some(Value::Bool(false)) => alpha,
        // Divided by the root of the rank, instead of by the rank.
        Some(Value::Bool(true)) => alpha * (rank as f64).sqrt(),
        Some(value) => return Err(unread(format!("`use_rslora` is {value}, not true or false"))),
    };
    let is_used =
        |(key, value): &(&String, &Value)| !HARMLESS.contains(&key.as_str()) && !is_off(value);
    if let Some((key, _)) = keys.left().find(is_used) {
        return Err(unread(format!("`{key}` is not supported")));
    }
    let mut targets = self::targets(targets, tensors)?;
    targets.sort();
    targets.dedup();
    let config = AdapterConfig { rank, alpha, targets };
    config.check()?;
    Ok(config)
}

fn is_plain_init(value: &Value) -> bool {
    value.is_boolean() || value.as_str().is_some_and(|init| PLAIN_INITS.contains(&init))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The adapted projections. Where they are not listed by their names, the tensors say which they
/// are; an adapter that has them in some layers only lacks tensors, which is said later.
fn targets<'n>(
    value: Option<Value>,
    tensors: impl Iterator<Item = &'n String>,
) -> Result<Vec<Projection>, Reason> {
    let wrong =
        |value: &Value| Reason::from(format!("`target_modules` is {value}, not names of modules"));
    let paths = match &value {
        None => None,
        Some(Value::String(all)) if all == "all-linear" => return Ok(Projection::ALL.to_vec()),
        // A regex.
        Some(Value::String(_)) => None,
        Some(value @ Value::Array(names)) => {
            let names = names.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            let names = names.ok_or_else(|| wrong(value))?;
            let known = names.iter().map(|name| Projection::parse(name));
            if let Some(known) = known.collect::<Option<Vec<_>>>() {
                return Ok(known);
            }
            // With dots it may be the path of a module.
            let is_odd = |name: &&&str| Projection::parse(name).is_none() && !name.contains('.');
            if let Some(name) = names.iter().find(is_odd) {
                return Err(unread(format!("unknown target module `{name}`")));
            }
            Some(names)
        }
        Some(value) => return Err(wrong(value)),
    };
    let modules: BTreeSet<&str> =
        tensors.map(|name| name.rsplit(".lora_").nth(1).unwrap_or(name)).collect();
    if let Some(paths) = paths {
        check_paths(&paths, &modules)?;
    }
    let target = |module: &&str| {
        let leaf = module.rsplit('.').next().unwrap_or(module);
        Projection::parse(leaf)
            .filter(|target| module.ends_with(target.module()))
            .ok_or_else(|| unread(format!("it adapts `{module}`, which is not supported")))
    };
    modules.iter().map(target).collect()
}

/// Fails unless these paths name exactly the `modules` that there are tensors of.
fn check_paths(paths: &[&str], modules: &BTreeSet<&str>) -> Result<(), Reason> {
    let is_at = |module: &str, path: &str| {
        module.strip_suffix(path).is_some_and(|start| start.is_empty() || start.ends_with('.'))
    };
    if let Some(path) = paths.iter().find(|path| !modules.iter().any(|module| is_at(module, path)))
    {
        return Err(
            format!("`target_modules` names `{path}`, which there are no tensors of").into()
        );
    }
    match modules.iter().find(|module| !paths.iter().any(|path| is_at(module, path))) {
        None => Ok(()),
        Some(module) => {
            Err(format!("`target_modules` does not name `{module}`, which there are tensors of")
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn named(modules: &[&str]) -> Vec<String> {
        let halves = modules.iter().flat_map(|module| {
            ["A", "B"]
                .map(|half| format!("base_model.model.model.layers.0.{module}.lora_{half}.weight"))
        });
        halves.collect()
    }

    #[test]
    fn what_is_no_plain_lora_is_refused_by_its_name() {
        for (key, setting) in [
            ("peft_type", json!("IA3")),
            ("peft_type", json!("ADALORA")),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("olora")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("lora_ga")),
            ("alora_invocation_tokens", json!([1, 2])),
            ("exclude_modules", json!("k_proj")),
            ("layers_to_transform", json!([0])),
            ("use_dora", json!(true)),
            ("use_dora", json!(0)),
            ("use_rslora", json!("true")),
            ("use_foo", json!(true)),
            ("kasa_config", json!({"beta": 1e-4})),
            ("bias", json!("all")),
            ("bias", json!(true)),
            ("bias", json!(["all"])),
            ("init_lora_weights", json!(["pissa"])),
            ("init_lora_weights", json!("mini_lora")),
            ("peft_type", json!(5)),
            ("task_type", json!("SEQ_CLS")),
        ] {
            let mut value = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"] });
            value[key] = setting;
            let error = read(&value, named(&[]).iter()).unwrap_err();
            assert!(error.text.contains(&format!("`{key}`")), "{error}");
            assert_eq!(error.hint.as_deref(), Some(HINT), "{error}");
        }
    }

    #[test]
    fn targets_that_are_not_listed_follow_from_the_tensors() {
        let tensors = named(&["self_attn.q_proj", "mlp.up_proj"]);
        for modules in [
            json!(null),
            json!(".*(q_proj|up_proj)"),
            json!(["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]),
        ] {
            let value = json!({ "r": 2, "lora_alpha": 4, "target_modules": modules });
            let config = read(&value, tensors.iter()).unwrap();
            assert_eq!(config.targets, [Projection::Query, Projection::Up], "{modules}");
        }
        let value = json!({ "r": 2, "lora_alpha": 4, "target_modules": null });
        let error = read(&value, named(&["embed_tokens"]).iter()).unwrap_err();
        assert!(error.text.contains("embed_tokens"), "{error}");
    }

    #[test]
    fn what_peft_writes_of_a_plain_adapter_is_read() {
        // By PEFT 0.21.2.
        let written = r#"{
            "task_type": "CAUSAL_LM", "peft_type": "LORA", "auto_mapping": null,
            "peft_version": "0.21.2", "base_model_name_or_path": null, "revision": null,
            "inference_mode": true, "r": 2, "target_modules": ["q_proj"], "exclude_modules": null,
            "lora_alpha": 4, "lora_dropout": 0.05, "fan_in_fan_out": false, "bias": "none",
            "use_rslora": false, "modules_to_save": null, "init_lora_weights": true,
            "layers_to_transform": null, "layers_pattern": null, "rank_pattern": {},
            "alpha_pattern": {}, "megatron_config": null, "megatron_core": "megatron.core",
            "trainable_token_indices": null, "loftq_config": {}, "eva_config": null,
            "corda_config": null, "lora_ga_config": null, "use_dora": false,
            "velora_config": null, "alora_invocation_tokens": null, "use_qalora": false,
            "qalora_group_size": 16, "monteclora_config": null, "layer_replication": null,
            "lora_bias": false, "target_parameters": null, "use_bdlora": null,
            "arrow_config": null, "kasa_config": null, "ensure_weight_tying": false
        }"#;
        let config = read(&serde_json::from_str(written).unwrap(), [].iter()).unwrap();
        let expected = AdapterConfig { rank: 2, alpha: 4.0, targets: vec![Projection::Query] };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_scale_by_the_root_of_the_rank_is_read() {
        let settings = |is_root: bool| json!({ "r": 16, "lora_alpha": 8, "use_rslora": is_root, "target_modules": ["q_proj"] });
        let alpha = |is_root| read(&settings(is_root), [].iter()).unwrap().alpha;
        // 8 / √16 = 32 / 16
        assert_eq!((alpha(false), alpha(true)), (8.0, 32.0));
    }

    #[test]
    fn values_of_another_type_or_size_are_named() {
        for (key, value, said) in [
            ("r", json!(4.0), "`r` is 4.0, not a whole number"),
            ("r", json!(null), "`r` is missing"),
            ("lora_alpha", json!("8"), "`lora_alpha` is \"8\", not a number"),
            ("lora_alpha", json!(1e308), "`alpha / rank` is 5e307"),
            ("target_modules", json!(5), "`target_modules` is 5"),
            ("target_modules", json!(["q_proj", 5]), "`target_modules` is [\"q_proj\",5]"),
            ("target_modules", json!(["lm_head", "q_proj"]), "target module `lm_head`"),
            ("target_modules", json!(["q_proj", "lm_head"]), "target module `lm_head`"),
        ] {
            let mut settings = json!({ "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"] });
            settings[key] = value;
            let error = read(&settings, named(&["self_attn.q_proj"]).iter()).unwrap_err();
            assert!(error.text.contains(said), "{error}");
        }
    }

    #[test]
    fn paths_name_all_modules_that_have_tensors() {
        let tensors = named(&["self_attn.q_proj", "mlp.up_proj"]);
        for (paths, said) in [
            (json!(["layers.0.self_attn.q_proj"]), "does not name `base_model."),
            (
                json!(["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]),
                "`layers.1.mlp.up_proj`",
            ),
            (json!(["0.self_attn.q_proj", "ers.0.mlp.up_proj"]), "`ers.0.mlp.up_proj`"),
        ] {
            let value = json!({ "r": 2, "lora_alpha": 4, "target_modules": paths });
            let error = read(&value, tensors.iter()).unwrap_err();
            assert!(error.text.contains(said), "{error}");
        }
    }
}
