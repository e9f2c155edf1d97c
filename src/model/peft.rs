//! The settings of PEFT's adapters: what is plain LoRA is read, all else refused by its name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::lora::AdapterConfig;
use super::slots::Projection;
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

/// Settings that change what an adapter computes, or which weights it has.
const MUST_BE_PLAIN: [&str; 19] = [
    "use_dora",
    "use_rslora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "exclude_modules",
    "arrow_config",
    "velora_config",
    "megatron_config",
];

/// The settings of an `adapter_config.json` beside tensors of these names.
///
/// # Errors
/// Names the setting that is not understood.
pub(super) fn read<'n>(
    value: &Value,
    tensors: impl Iterator<Item = &'n String>,
) -> Result<AdapterConfig, Reason> {
    let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
    if kind != "LORA" {
        return Err(unread(format!("`peft_type` is `{kind}`, not `LORA`")));
    }
    if let Some(key) = MUST_BE_PLAIN.into_iter().find(|key| !is_plain(value.get(*key))) {
        return Err(unread(format!("`{key}` is not supported")));
    }
    if let Some(bias) = value.get("bias").and_then(Value::as_str).filter(|bias| *bias != "none") {
        return Err(unread(format!("`bias` is `{bias}`, not `none`")));
    }
    if let Some(init) = value.get("init_lora_weights").and_then(Value::as_str)
        && !PLAIN_INITS.contains(&init)
    {
        return Err(unread(format!(
            "`init_lora_weights` is `{init}`: such an adapter belongs to a changed base"
        )));
    }
    let mut targets = targets(value.get("target_modules"), tensors)?;
    targets.sort();
    targets.dedup();
    let rank = value.get("r").and_then(Value::as_u64).ok_or("`r` is missing")? as usize;
    let alpha = value.get("lora_alpha").and_then(Value::as_f64).ok_or("`lora_alpha` is missing")?;
    let config = AdapterConfig { rank, alpha, targets };
    config.check()?;
    Ok(config)
}

fn is_plain(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// The adapted projections. Where they are not listed by their names, the tensors say which they
/// are; an adapter that has them in some layers only lacks tensors, which is said later.
fn targets<'n>(
    value: Option<&Value>,
    tensors: impl Iterator<Item = &'n String>,
) -> Result<Vec<Projection>, Reason> {
    let listed = match value {
        Some(Value::Array(names)) => {
            let names: Vec<&str> =
                names.iter().map(|name| name.as_str().unwrap_or_default()).collect();
            let known =
                names.iter().map(|name| Projection::parse(name)).collect::<Option<Vec<_>>>();
            // With dots it may be the path of a module.
            let odd = names.iter().find(|name| known.is_none() && !name.contains('.'));
            if let Some(name) = odd.filter(|name| Projection::parse(name).is_none()) {
                return Err(unread(format!("unknown target module `{name}`")));
            }
            known
        }
        Some(Value::String(all)) if all == "all-linear" => Some(Projection::ALL.to_vec()),
        _ => None,
    };
    if let Some(listed) = listed {
        return Ok(listed);
    }
    // A regex, a list of paths, or nothing.
    let mut found = BTreeSet::new();
    for name in tensors {
        let module = name.rsplit(".lora_").nth(1).unwrap_or(name);
        let leaf = module.rsplit('.').next().unwrap_or(module);
        let target = Projection::parse(leaf)
            .filter(|target| module.ends_with(target.module()))
            .ok_or_else(|| unread(format!("it adapts `{module}`, which is not supported")))?;
        found.insert(target);
    }
    Ok(found.into_iter().collect())
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
            ("bias", json!("all")),
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
}
