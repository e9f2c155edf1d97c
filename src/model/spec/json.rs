//! `config.json`: every key is applied, known to be irrelevant, or an error.

use serde_json::{Map, Value, json};

use super::{Family, Gate, LayerKind, Rope, RopeScaling, Spec, TokenIds};
use crate::hint::Reason;

/// Keys that do not affect the computation: about training, sampling, or the writer.
const HARMLESS: [&str; 34] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "cache_implementation",
    "chunk_size_feed_forward",
    "do_sample",
    "dtype",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_length",
    "max_new_tokens",
    "output_attentions",
    "output_hidden_states",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "repetition_penalty",
    "return_dict",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "use_return_dict",
];

impl Spec {
    /// From the content of `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// Names the key that is missing, impossible or not supported.
    pub fn from_json(value: Value) -> Result<Self, Reason> {
        let mut keys = Keys::new("", value)?;
        let kind = keys.text("model_type")?.ok_or("`model_type` is missing")?;
        let Some(family) = Family::ALL.into_iter().find(|family| family.model_type() == kind)
        else {
            let known: Vec<String> =
                Family::ALL.iter().map(|family| format!("`{}`", family.model_type())).collect();
            let known = known.join(", ");
            let text = format!("`model_type` `{kind}` is not supported here, but {known} are");
            return Err(text.into());
        };
        keys.only_class(family)?;
        keys.only("quantization_config", &[]).map_err(|_| {
            reason!(
                "`quantization_config` is not supported";
                hint: "take the weights as they were before, or a GGUF file"
            )
        })?;
        for (key, harmless) in [
            ("is_encoder_decoder", json!(false)),
            ("is_decoder", json!(true)),
            ("add_cross_attention", json!(false)),
            ("tie_encoder_decoder", json!(false)),
            ("rope_interleaved", json!(false)),
            ("use_mrope", json!(false)),
        ] {
            keys.only(key, &[json!(false), harmless])?;
        }

        let base = family.spec();
        let heads = keys.size("num_attention_heads")?;
        let kv_heads = match family {
            Family::Llama => keys.size_or("num_key_value_heads", heads)?.unwrap_or(heads),
            _ => keys.size("num_key_value_heads")?,
        };
        let hidden_size = keys.size("hidden_size")?;
        let head_dim = match family.default_head_dim() {
            Some(default) => default,
            None => hidden_size / heads.max(1),
        };
        let layers = keys.size("num_hidden_layers")?;
        let activation = keys.text(family.activation_key())?;
        let mut spec = Self {
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: keys.size_or("head_dim", head_dim)?.unwrap_or(head_dim),
            max_position_embeddings: keys.size("max_position_embeddings")?,
            layers: vec![LayerKind::default(); layers.min(super::MAX_SIZES.layers + 1)],
            rms_norm_eps: keys.number("rms_norm_eps", base.rms_norm_eps)?,
            gate: match activation.as_deref() {
                None => base.gate,
                Some("silu" | "swish") => Gate::Silu,
                Some("gelu_pytorch_tanh" | "gelu_new") => Gate::GeluTanh,
                Some(other) => {
                    let key = family.activation_key();
                    return Err(format!("`{key}` `{other}` is not supported").into());
                }
            },
            tie_word_embeddings: keys.flag("tie_word_embeddings", base.tie_word_embeddings)?,
            token_ids: TokenIds {
                eos: keys.ids("eos_token_id")?,
                bos: keys.ids("bos_token_id")?.first().copied(),
                pad: keys.ids("pad_token_id")?.first().copied(),
            },
            ..base
        };
        // Checked before anything is built from them.
        spec.check()?;
        spec.read_ropes(&mut keys)?;
        family.read(&mut keys, &mut spec)?;
        keys.finish(&HARMLESS)?;
        spec.check()?;
        Ok(spec)
    }

    /// The content of `config.json`: all that [`Spec::from_json`] reads, as transformers 4 and 5,
    /// mistral.rs and this crate understand it.
    pub fn to_json(&self) -> Value {
        let eos = match &self.token_ids.eos[..] {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let value = json!({
            "architectures": [self.family.architecture()],
            "attention_dropout": 0.0,
            "bos_token_id": self.token_ids.bos,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            (self.family.activation_key()): self.gate.name(),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": self.family.model_type(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.layers.len(),
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.token_ids.pad,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.ropes[0].scaling.to_json(),
            "rope_theta": self.ropes[0].theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "vocab_size": self.vocab_size,
        });
        let Value::Object(mut map) = value else { return value };
        if let Some(local) = self.ropes.get(1) {
            map.insert("rope_local_base_freq".into(), json!(local.theta));
        }
        self.family.write(self, &mut map);
        Value::Object(map)
    }

    /// The rotary embeddings: `rope_theta` with `rope_scaling`, or `rope_parameters`, which may
    /// hold one for each type of layer.
    fn read_ropes(&mut self, keys: &mut Keys) -> Result<(), Reason> {
        let parameters = keys.part("rope_parameters")?;
        let scaling = keys.part("rope_scaling")?;
        if parameters.is_some() && scaling.is_some() {
            return Err("`rope_parameters` and `rope_scaling` exclude each other".into());
        }
        let context = self.max_position_embeddings;
        let theta = keys.number("rope_theta", self.ropes[0].theta)?;
        if self.ropes.len() == 1 {
            self.ropes[0] = Rope::read(parameters.or(scaling), theta, context)?;
            return Ok(());
        }
        let local = keys.number("rope_local_base_freq", self.ropes[1].theta)?;
        let (global_part, local_part) = match parameters {
            Some(mut parts) => {
                let pair = (parts.part("full_attention")?, parts.part("sliding_attention")?);
                parts.finish(&[])?;
                pair
            }
            None => (scaling, None),
        };
        self.ropes =
            vec![Rope::read(global_part, theta, context)?, Rope::read(local_part, local, context)?];
        Ok(())
    }
}

impl Rope {
    /// From a table of rotary parameters, with `theta` if it has none.
    fn read(part: Option<Keys>, theta: f64, context: usize) -> Result<Self, Reason> {
        let Some(mut keys) = part else { return Ok(Self::new(theta)) };
        let legacy = keys.text("type")?;
        let kind = keys.text("rope_type")?.or(legacy).unwrap_or_else(|| "default".to_owned());
        let theta = keys.number("rope_theta", theta)?;
        keys.only("partial_rotary_factor", &[json!(1), json!(1.0)])?;
        // Some writers add keys that the type does not use.
        let original = keys.size_or("original_max_position_embeddings", context)?;
        let original = original.unwrap_or(context);
        let scaling = match kind.as_str() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: keys.need("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: keys.need("factor")?,
                low_freq_factor: keys.need("low_freq_factor")?,
                high_freq_factor: keys.need("high_freq_factor")?,
                original,
            },
            "yarn" => {
                let factor = keys.need("factor")?;
                // By the paper's suggestion, or from the two scales of some models.
                let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
                let (m, all) = (keys.number("mscale", 0.0)?, keys.number("mscale_all_dim", 0.0)?);
                let made = if m != 0.0 && all != 0.0 { scale(m) / scale(all) } else { scale(1.0) };
                RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: keys.number("beta_fast", 32.0)?,
                    beta_slow: keys.number("beta_slow", 1.0)?,
                    attention_factor: keys.number("attention_factor", made)?,
                    truncate: keys.flag("truncate", true)?,
                }
            }
            other => {
                return Err(reason!(
                    "the rotary scaling `{other}` is not supported";
                    hint: "`default`, `linear`, `llama3` and `yarn` are"
                ));
            }
        };
        keys.finish(&[])?;
        Ok(Self { theta, scaling })
    }
}

impl RopeScaling {
    fn to_json(&self) -> Value {
        match *self {
            Self::Default => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original,
            }),
            Self::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
                json!({
                    "rope_type": "yarn",
                    "factor": factor,
                    "original_max_position_embeddings": original,
                    "beta_fast": beta_fast,
                    "beta_slow": beta_slow,
                    "attention_factor": attention_factor,
                    "truncate": truncate,
                })
            }
        }
    }
}

/// The types of the layers, in the words of `config.json`.
pub(super) fn layer_types(spec: &Spec) -> Value {
    let kind = |layer: &LayerKind| match *layer == LayerKind::default() {
        true => "full_attention",
        false => "sliding_attention",
    };
    spec.layers.iter().map(kind).collect()
}

/// A number, without a fraction where it is whole: of some keys, transformers 5 checks the type.
pub(super) fn whole(number: f64) -> Value {
    match number as u64 {
        whole if whole as f64 == number => json!(whole),
        _ => json!(number),
    }
}

/// A table whose keys are removed as they are read, so that unread ones can be named.
pub(in crate::model) struct Keys {
    /// The path of the table, with a dot at the end.
    path: String,
    map: Map<String, Value>,
}

impl Keys {
    pub(in crate::model) fn new(path: &str, value: Value) -> Result<Self, Reason> {
        match value {
            Value::Object(map) => Ok(Self { path: path.to_owned(), map }),
            _ if path.is_empty() => Err("is not a JSON object".into()),
            _ => Err(format!("`{}` is not a table", path.trim_end_matches('.')).into()),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("`{}{key}`", self.path)
    }

    /// The value of `key`; none where it is missing or null.
    pub(in crate::model) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Reason {
        format!("{} is {value}, not {wanted}", self.name(key)).into()
    }

    fn part(&mut self, key: &str) -> Result<Option<Self>, Reason> {
        let path = format!("{}{key}.", self.path);
        self.take(key).map(|value| Self::new(&path, value)).transpose()
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Reason> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, &value, "a string")),
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> Result<bool, Reason> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(value) => Err(self.wrong(key, &value, "`true` or `false`")),
        }
    }

    pub(in crate::model) fn size(&mut self, key: &str) -> Result<usize, Reason> {
        if self.map.get(key).is_none_or(Value::is_null) {
            return Err(format!("{} is missing", self.name(key)).into());
        }
        Ok(self.size_or(key, 0)?.unwrap_or(0))
    }

    /// `default` if the key is missing, none if it is null.
    pub(super) fn size_or(&mut self, key: &str, default: usize) -> Result<Option<usize>, Reason> {
        match self.map.remove(key) {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(size) => Ok(Some(size)),
                None => Err(self.wrong(key, &value, "a whole number")),
            },
        }
    }

    pub(in crate::model) fn need(&mut self, key: &str) -> Result<f64, Reason> {
        if self.map.get(key).is_none_or(Value::is_null) {
            return Err(format!("{} is missing", self.name(key)).into());
        }
        self.number(key, 0.0)
    }

    pub(super) fn number(&mut self, key: &str, default: f64) -> Result<f64, Reason> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, &value, "a number")),
        }
    }

    /// One token or several.
    fn ids(&mut self, key: &str) -> Result<Vec<u32>, Reason> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match &value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, &value, "a token id, or a list of them"))
    }

    /// Whether each layer has a window, if the table contains it.
    pub(super) fn layer_types(&mut self, layers: usize) -> Result<Option<Vec<bool>>, Reason> {
        let Some(value) = self.take("layer_types") else { return Ok(None) };
        let kinds: Option<Vec<bool>> = value.as_array().and_then(|list| {
            list.iter()
                .map(|kind| match kind.as_str() {
                    Some("full_attention") => Some(false),
                    Some("sliding_attention") => Some(true),
                    _ => None,
                })
                .collect()
        });
        match kinds {
            Some(kinds) if kinds.len() == layers => Ok(Some(kinds)),
            _ => Err(format!(
                "`layer_types` must say `full_attention` or `sliding_attention` for each of {layers} layers"
            )
            .into()),
        }
    }

    /// The key must be missing, null, or one of `harmless`.
    pub(super) fn only(&mut self, key: &str, harmless: &[Value]) -> Result<(), Reason> {
        match self.take(key) {
            Some(value) if !harmless.contains(&value) => {
                Err(format!("{} {value} is not supported", self.name(key)).into())
            }
            _ => Ok(()),
        }
    }

    /// No class but that of `family` may be named: its code may compute something else.
    fn only_class(&mut self, family: Family) -> Result<(), Reason> {
        let own = family.architecture();
        let named = self.take("architectures").unwrap_or_else(|| json!([]));
        let classes = named.as_array().map_or(std::slice::from_ref(&named), Vec::as_slice);
        if let Some(class) = classes.iter().find(|class| class.as_str() != Some(own)) {
            return Err(reason!(
                "`architectures` names {class}, which is not supported here, but `{own}` is";
                hint: "if the model computes what `{own}` does, name that"
            ));
        }
        let code = self.take("auto_map").unwrap_or_default();
        match code.get("AutoModelForCausalLM") {
            None => Ok(()),
            Some(class) => Err(reason!(
                "`auto_map` names {class}, code of the model's own, which is not run here";
                hint: "if it computes what `{own}` of transformers does, remove `auto_map`"
            )),
        }
    }

    /// The keys that were not read, with their values.
    pub(in crate::model) fn left(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.map.iter()
    }

    /// No key may be left except those that are `harmless` or null.
    fn finish(self, harmless: &[&str]) -> Result<(), Reason> {
        let is_left = |(key, value): &(&String, &Value)| {
            !value.is_null() && !harmless.contains(&key.as_str())
        };
        match self.left().find(is_left) {
            None => Ok(()),
            Some((key, _)) => Err(reason!(
                "{} is a key that is not known here, and might change what the model computes", self.name(key);
                hint: "if it does not, remove it"
            )),
        }
    }
}
