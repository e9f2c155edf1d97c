//! Settings that change what a model computes, and that mistral.rs (0.8.1) does not read.

use std::path::Path;

use serde_json::Value;

use crate::gguf::Gguf;
use crate::hint::Reason;

/// The models, by their class in transformers, whose rotary scaling is not read. Others read it, or
/// refuse what they do not know.
const UNSCALED: [&str; 13] = [
    "Gemma2ForCausalLM",
    "GemmaForCausalLM",
    "Glm4ForCausalLM",
    "Glm4MoeForCausalLM",
    "Glm4MoeLiteForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3NextForCausalLM",
    "Starcoder2ForCausalLM",
];

/// Those whose biases are not read, though their configuration can have some.
const UNBIASED: [&str; 3] = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"];

/// The tensor of a GGUF file with a divisor of each rotary frequency, as Llama 3's files have it.
const DIVISORS: &str = "rope_freqs.weight";

/// Fails if mistral.rs would compute another model than the one at `path`. Files that cannot be
/// read are left to it.
///
/// # Errors
/// Names the setting that it ignores.
pub fn check_settings(path: &Path) -> Result<(), Reason> {
    if Gguf::is_path(path) {
        return Gguf::open(path).map_or(Ok(()), |file| check_gguf(&file));
    }
    let text = std::fs::read(path.join("config.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).map_or(Ok(()), |config| check_config(&config))
}

pub(super) fn check_config(config: &Value) -> Result<(), Reason> {
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let scaling = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| {
        let part = config.get(key)?;
        let kind = part.get("rope_type").or_else(|| part.get("type"))?.as_str()?;
        (kind != "default").then(|| format!("`{key}` of the type `{kind}`"))
    });
    let bias = ["attention_bias", "mlp_bias"].into_iter().find(|&key| config[key] == true);
    match (scaling, bias) {
        (Some(scaling), _) if UNSCALED.contains(&class) => Err(ignored_setting(&scaling)),
        (_, Some(bias)) if UNBIASED.contains(&class) => Err(ignored_setting(&format!("`{bias}`"))),
        _ => Ok(()),
    }
}

/// Of the rotary embedding, only its base is read from GGUF files.
pub(super) fn check_gguf(file: &Gguf) -> Result<(), Reason> {
    let key = |name: &str| {
        file.architecture().map(|kind| format!("{kind}.rope.scaling.{name}")).unwrap_or_default()
    };
    let (kind, factor) = (key("type"), key("factor"));
    let is_scaled = match file.text(&kind).ok().flatten() {
        Some("none") => false,
        None | Some("linear" | "yarn") => {
            file.float(&factor).ok().flatten().is_some_and(|factor| factor != 1.0)
        }
        Some(_) => true,
    };
    if is_scaled {
        return Err(ignored_setting(&format!("`{kind}` and `{factor}`")));
    }
    match file.tensor(DIVISORS).is_some_and(|all| all.to_f32().iter().any(|&one| one != 1.0)) {
        true => Err(ignored_setting(&format!("`{DIVISORS}`"))),
        false => Ok(()),
    }
}

fn ignored_setting(setting: &str) -> Reason {
    reason!(
        "mistral.rs ignores {setting}";
        hint: "serve the model with `policy.engine = \"native\"`, or by a token server with `policy.tokens`"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_be_ignored_is_named() {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0});
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0});
        let older = json!({"type": "linear", "factor": 2.0});
        let plain = json!({"rope_type": "default", "rope_theta": 1e6});
        for (class, key, value, ignored) in [
            ("Qwen2ForCausalLM", "rope_scaling", &yarn, Some("`rope_scaling` of the type `yarn`")),
            ("Qwen3ForCausalLM", "rope_parameters", &yarn, Some("`rope_parameters`")),
            ("MistralForCausalLM", "rope_scaling", &older, Some("`linear`")),
            ("Qwen3ForCausalLM", "rope_parameters", &plain, None),
            ("Qwen3ForCausalLM", "rope_scaling", &Value::Null, None),
            ("LlamaForCausalLM", "rope_scaling", &llama3, None),
            ("LlamaForCausalLM", "attention_bias", &json!(true), Some("`attention_bias`")),
            ("LlamaForCausalLM", "mlp_bias", &json!(true), Some("`mlp_bias`")),
            ("LlamaForCausalLM", "mlp_bias", &json!(false), None),
            ("Phi3ForCausalLM", "rope_scaling", &json!({"type": "longrope"}), None),
        ] {
            let mut config = json!({"architectures": [class]});
            config[key] = value.clone();
            let found = check_config(&config);
            match ignored {
                None => assert_eq!(found, Ok(()), "{class} {key}"),
                Some(named) => {
                    let reason = found.unwrap_err();
                    assert!(reason.text.contains(named) && reason.hint.is_some(), "{reason}");
                }
            }
        }
    }
}
