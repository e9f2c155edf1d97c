//! The families of models: the options of each, and its own keys of `config.json`.
//!
//! A new family is a variant here, and a case in `tests/golden/model/make.py`.

use serde_json::{Map, Value, json};

use super::json::{self, Keys};
use super::{Gate, LayerKind, Rope, Spec, TokenIds};
use crate::hint::Reason;

/// A family of models, by its `model_type` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `qwen3`
    Qwen3,
    /// `qwen2`, which is Qwen2.5 too.
    Qwen2,
    /// `llama`: Llama, SmolLM2 and many others.
    Llama,
    /// `mistral`
    Mistral,
    /// `gemma3_text`
    Gemma3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Qwen3, Self::Qwen2, Self::Llama, Self::Mistral, Self::Gemma3];

    /// Its name in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen3 => "qwen3",
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Gemma3 => "gemma3_text",
        }
    }

    /// The class that transformers loads it with.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }

    /// Its name in `general.architecture` of GGUF files; `None` where they are not supported.
    /// Converters call Mistral a `llama`.
    pub fn gguf_name(self) -> Option<&'static str> {
        match self {
            Self::Qwen3 => Some("qwen3"),
            Self::Qwen2 => Some("qwen2"),
            Self::Llama | Self::Mistral => Some("llama"),
            Self::Gemma3 => Some("gemma3"),
        }
    }

    /// A member with the family's options and without dimensions or layers.
    pub fn spec(self) -> Spec {
        let plain = Spec {
            family: self,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            max_position_embeddings: 0,
            layers: Vec::new(),
            ropes: vec![Rope::new(10_000.0)],
            rms_norm_eps: 1e-6,
            norm_offset: 0.0,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            post_norms: false,
            gate: Gate::Silu,
            scaled_embeddings: false,
            query_pre_attn_scalar: None,
            tie_word_embeddings: false,
            token_ids: TokenIds::default(),
        };
        match self {
            Self::Qwen3 => Spec { qk_norm: true, ..plain },
            Self::Qwen2 => Spec { qkv_bias: true, ..plain },
            Self::Llama | Self::Mistral => plain,
            Self::Gemma3 => Spec {
                ropes: vec![Rope::new(1_000_000.0), Rope::new(10_000.0)],
                norm_offset: 1.0,
                qk_norm: true,
                post_norms: true,
                gate: Gate::GeluTanh,
                scaled_embeddings: true,
                query_pre_attn_scalar: Some(256.0),
                tie_word_embeddings: true,
                ..plain
            },
        }
    }

    /// The width of heads if `config.json` does not contain it; `None` is `hidden / heads`.
    pub(super) fn default_head_dim(self) -> Option<usize> {
        match self {
            Self::Qwen3 => Some(128),
            Self::Gemma3 => Some(256),
            Self::Qwen2 | Self::Llama | Self::Mistral => None,
        }
    }

    /// The key of the activation.
    pub(super) fn activation_key(self) -> &'static str {
        match self {
            Self::Gemma3 => "hidden_activation",
            _ => "hidden_act",
        }
    }

    /// Reads the family's own keys, once the dimensions are known: `layers` has its length, and
    /// every layer attends to everything.
    pub(super) fn read(self, keys: &mut Keys, spec: &mut Spec) -> Result<(), Reason> {
        match self {
            Self::Qwen3 | Self::Qwen2 => {
                if self == Self::Qwen3 {
                    spec.read_attention_bias(keys)?;
                }
                // The window applies to the layers from `max_window_layers` on, if at all.
                let is_used = keys.flag("use_sliding_window", false)?;
                let window = keys.size_or("sliding_window", 4096)?.filter(|_| is_used);
                let first = keys.size_or("max_window_layers", 28)?.unwrap_or(28);
                let kinds = keys.layer_types(spec.layers.len())?;
                for (index, layer) in spec.layers.iter_mut().enumerate() {
                    let is_sliding = kinds.as_ref().map_or(index >= first, |kinds| kinds[index]);
                    layer.window = window.filter(|_| is_sliding);
                    if kinds.is_some() && is_sliding && window.is_none() {
                        return Err("`layer_types` has windows, but none is in use".into());
                    }
                }
            }
            Self::Llama => {
                spec.read_attention_bias(keys)?;
                keys.only("mlp_bias", &[json!(false)])?;
            }
            Self::Mistral => {
                keys.only("attention_bias", &[json!(false)])?;
                let window = keys.size_or("sliding_window", 4096)?;
                spec.layers.iter_mut().for_each(|layer| layer.window = window);
            }
            Self::Gemma3 => {
                spec.read_attention_bias(keys)?;
                for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                    keys.only(key, &[])?;
                }
                keys.only("use_bidirectional_attention", &[json!(false)])?;
                let scalar = keys.number("query_pre_attn_scalar", 256.0)?;
                spec.query_pre_attn_scalar = Some(scalar);
                let window = keys.size_or("sliding_window", 4096)?;
                if window.is_none() {
                    return Err("`sliding_window` is null, but layers have windows".into());
                }
                // transformers writes it beside `layer_types`, and does not read it.
                keys.take("_sliding_window_pattern");
                let every = keys.size_or("sliding_window_pattern", 6)?;
                let every = every.unwrap_or(6).max(1);
                let kinds = keys.layer_types(spec.layers.len())?;
                for (index, layer) in spec.layers.iter_mut().enumerate() {
                    let is_sliding =
                        kinds.as_ref().map_or((index + 1) % every != 0, |kinds| kinds[index]);
                    if is_sliding {
                        *layer = LayerKind { rope: 1, window };
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the keys that [`Family::read`] reads.
    pub(super) fn write(self, spec: &Spec, map: &mut Map<String, Value>) {
        let window = spec.layers.iter().find_map(|layer| layer.window);
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        match self {
            Self::Qwen3 | Self::Qwen2 => {
                if self == Self::Qwen3 {
                    put("attention_bias", json!(spec.output_bias));
                }
                put("use_sliding_window", json!(window.is_some()));
                put("sliding_window", json!(window));
                let first = spec.layers.iter().position(|layer| layer.window.is_some());
                put("max_window_layers", json!(first.unwrap_or(spec.layers.len())));
                if window.is_some() {
                    put("layer_types", json::layer_types(spec));
                }
            }
            Self::Llama => {
                put("attention_bias", json!(spec.output_bias));
                put("mlp_bias", json!(false));
            }
            Self::Mistral => {
                put("sliding_window", json!(window));
            }
            Self::Gemma3 => {
                put("attention_bias", json!(spec.output_bias));
                let scalar = spec.query_pre_attn_scalar.map(json::whole);
                put("query_pre_attn_scalar", json!(scalar));
                put("attn_logit_softcapping", Value::Null);
                put("final_logit_softcapping", Value::Null);
                put("sliding_window", json!(window.unwrap_or(4096)));
                put("layer_types", json::layer_types(spec));
                // For readers without support for `layer_types`.
                let is_full = |index: usize| spec.layers[index].rope == 0;
                let every = (0..spec.layers.len()).position(is_full).map_or(6, |first| first + 1);
                if (0..spec.layers.len()).all(|index| is_full(index) == ((index + 1) % every == 0))
                {
                    put("sliding_window_pattern", json!(every));
                }
            }
        }
    }
}

impl Spec {
    /// `attention_bias` is a bias on all four projections.
    fn read_attention_bias(&mut self, keys: &mut Keys) -> Result<(), Reason> {
        let has_bias = keys.flag("attention_bias", false)?;
        (self.qkv_bias, self.output_bias) = (has_bias, has_bias);
        Ok(())
    }

    /// This model as `config.json` describes it: where `attention_bias` is one key for the biases
    /// of all four projections, a model with some of them has all, of which others are zero.
    ///
    /// # Errors
    /// When it has a bias that its family has no key for.
    pub fn in_folder(&self) -> Result<Self, Reason> {
        let has_bias = self.qkv_bias || self.output_bias;
        let unwritten = match self.family {
            Family::Qwen3 | Family::Llama | Family::Gemma3 => {
                return Ok(Self { qkv_bias: has_bias, output_bias: has_bias, ..self.clone() });
            }
            Family::Qwen2 => self.output_bias,
            Family::Mistral => has_bias,
        };
        match unwritten {
            false => Ok(self.clone()),
            true => Err(reason!(
                "its attention has a bias that `config.json` of a `{}` cannot describe",
                self.family.model_type();
                hint: "it can be served as it is, but not trained or exported"
            )),
        }
    }
}
