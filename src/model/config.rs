//! A Qwen3's shape, read from and written to `config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ModelError;

/// The shape of a Qwen3, in the names of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even. `heads × head_dim` need not equal `hidden_size`.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Added to the mean square before the root.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Whether the output projection is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_rms_norm_eps() -> f64 {
    1e-6
}

impl ModelConfig {
    /// Reads `config.json` in `folder`. Accepts both ways of writing the rotary base: `rope_theta`
    /// at the top, and transformers 5's `rope_parameters.rope_theta`.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ModelError::Io { path: shown.clone(), source })?;
        let invalid = |reason: String| ModelError::Invalid { path: shown.clone(), reason };
        let mut value: Value = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        let kind = value.get("model_type").and_then(Value::as_str).unwrap_or("qwen3");
        if kind != "qwen3" {
            return Err(invalid(format!(
                "the native model is a Qwen3, this is a `{kind}`\nhint: serve it with `policy.engine = \"mistralrs\"`"
            )));
        }
        if let Some(theta) = value.pointer("/rope_parameters/rope_theta").cloned()
            && let Some(object) = value.as_object_mut()
        {
            object.entry("rope_theta").or_insert(theta);
        }
        let config: Self = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
        config.check().map_err(invalid)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.num_key_value_heads == 0
            || !self.num_attention_heads.is_multiple_of(self.num_key_value_heads)
        {
            return Err(format!(
                "`num_attention_heads` {} is not a multiple of `num_key_value_heads` {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(format!("`head_dim` {} is not a positive even number", self.head_dim));
        }
        Ok(())
    }

    /// The document to write beside the weights: readable by transformers, mistral.rs and this crate.
    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Some(object) = value.as_object_mut() {
            object.insert("architectures".into(), serde_json::json!(["Qwen3ForCausalLM"]));
            object.insert("model_type".into(), "qwen3".into());
            object.insert("hidden_act".into(), "silu".into());
            object.insert("attention_bias".into(), false.into());
            object.insert("attention_dropout".into(), 0.0.into());
            object.insert("use_sliding_window".into(), false.into());
            object.insert("sliding_window".into(), Value::Null);
            object.insert("max_window_layers".into(), self.num_hidden_layers.into());
            object.insert("torch_dtype".into(), "float32".into());
        }
        value
    }

    /// Query heads per key-value head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }
}
