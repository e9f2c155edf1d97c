//! The only list of a transformer's tensors: their names in checkpoints and their shapes.

use serde::{Deserialize, Serialize};

use super::spec::Spec;

/// The embedding's name, `(vocab, hidden)`.
pub const EMBED: &str = "model.embed_tokens.weight";
/// The last norm's name, `(hidden)`.
pub const NORM: &str = "model.norm.weight";
/// The output projection's name, `(vocab, hidden)`; absent if it is the embedding.
pub const HEAD: &str = "lm_head.weight";

/// A tensor of a layer. Projections are `(out, in)`, as in checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Norm before attention, `(hidden)`.
    InputNorm,
    /// `(heads × head_dim, hidden)`
    Query,
    /// `(kv_heads × head_dim, hidden)`
    Key,
    /// `(kv_heads × head_dim, hidden)`
    Value,
    /// `(hidden, heads × head_dim)`
    Output,
    /// `(heads × head_dim)`
    QueryBias,
    /// `(kv_heads × head_dim)`
    KeyBias,
    /// `(kv_heads × head_dim)`
    ValueBias,
    /// `(hidden)`
    OutputBias,
    /// Norm of each head of queries, `(head_dim)`.
    QueryNorm,
    /// Norm of each head of keys, `(head_dim)`.
    KeyNorm,
    /// Norm after attention, before it joins the residual stream, `(hidden)`.
    PostAttentionNorm,
    /// Norm before the feed-forward layer, `(hidden)`.
    MlpNorm,
    /// `(intermediate, hidden)`
    Gate,
    /// `(intermediate, hidden)`
    Up,
    /// `(hidden, intermediate)`
    Down,
    /// Norm after the feed-forward layer, before it joins the residual stream, `(hidden)`.
    PostMlpNorm,
}

impl Slot {
    /// All of them, in the order in which weights are listed.
    pub const ALL: [Self; 17] = [
        Self::InputNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::QueryBias,
        Self::KeyBias,
        Self::ValueBias,
        Self::OutputBias,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::PostAttentionNorm,
        Self::MlpNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::PostMlpNorm,
    ];

    /// Its shape in a model of this kind; `None` if the model has no such tensor.
    pub fn shape(self, spec: &Spec) -> Option<Vec<usize>> {
        let (hidden, queries, keys) = (spec.hidden_size, spec.query_width(), spec.key_width());
        if let Some(projection) = Projection::ALL.into_iter().find(|which| which.slot() == self) {
            let (out, width) = projection.shape(spec);
            return Some(vec![out, width]);
        }
        match self {
            Self::QueryBias => spec.qkv_bias.then(|| vec![queries]),
            Self::KeyBias | Self::ValueBias => spec.qkv_bias.then(|| vec![keys]),
            Self::OutputBias => spec.output_bias.then(|| vec![hidden]),
            Self::QueryNorm | Self::KeyNorm => spec.qk_norm.then(|| vec![spec.head_dim]),
            Self::PostAttentionNorm | Self::PostMlpNorm => spec.post_norms.then(|| vec![hidden]),
            // The norms that every model has.
            _ => Some(vec![hidden]),
        }
    }

    /// Its checkpoint name in a layer, such as `model.layers.3.self_attn.q_proj.weight`.
    pub fn name(self, spec: &Spec, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.leaf(spec.post_norms))
    }

    /// Its name in a GGUF file, such as `blk.3.attn_q.weight`.
    pub fn gguf_name(self, layer: usize) -> String {
        let leaf = match self {
            Self::InputNorm => "attn_norm.weight",
            Self::Query => "attn_q.weight",
            Self::Key => "attn_k.weight",
            Self::Value => "attn_v.weight",
            Self::Output => "attn_output.weight",
            Self::QueryBias => "attn_q.bias",
            Self::KeyBias => "attn_k.bias",
            Self::ValueBias => "attn_v.bias",
            Self::OutputBias => "attn_output.bias",
            Self::QueryNorm => "attn_q_norm.weight",
            Self::KeyNorm => "attn_k_norm.weight",
            Self::PostAttentionNorm => "post_attention_norm.weight",
            Self::MlpNorm => "ffn_norm.weight",
            Self::Gate => "ffn_gate.weight",
            Self::Up => "ffn_up.weight",
            Self::Down => "ffn_down.weight",
            Self::PostMlpNorm => "post_ffw_norm.weight",
        };
        format!("blk.{layer}.{leaf}")
    }

    fn leaf(self, has_post_norms: bool) -> &'static str {
        match self {
            Self::InputNorm => "input_layernorm.weight",
            Self::Query => "self_attn.q_proj.weight",
            Self::Key => "self_attn.k_proj.weight",
            Self::Value => "self_attn.v_proj.weight",
            Self::Output => "self_attn.o_proj.weight",
            Self::QueryBias => "self_attn.q_proj.bias",
            Self::KeyBias => "self_attn.k_proj.bias",
            Self::ValueBias => "self_attn.v_proj.bias",
            Self::OutputBias => "self_attn.o_proj.bias",
            Self::QueryNorm => "self_attn.q_norm.weight",
            Self::KeyNorm => "self_attn.k_norm.weight",
            Self::PostAttentionNorm => "post_attention_layernorm.weight",
            // After attention too, but in the residual stream: without post-norms it has that name.
            Self::MlpNorm if !has_post_norms => "post_attention_layernorm.weight",
            Self::MlpNorm => "pre_feedforward_layernorm.weight",
            Self::Gate => "mlp.gate_proj.weight",
            Self::Up => "mlp.up_proj.weight",
            Self::Down => "mlp.down_proj.weight",
            Self::PostMlpNorm => "post_feedforward_layernorm.weight",
        }
    }
}

/// Every tensor of a model of this kind: its name in checkpoints, and its shape.
pub(super) fn tensors(spec: &Spec) -> Vec<(String, Vec<usize>)> {
    let table = vec![spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![(EMBED.to_owned(), table.clone())];
    for layer in 0..spec.layers.len() {
        for slot in Slot::ALL {
            tensors.extend(slot.shape(spec).map(|shape| (slot.name(spec, layer), shape)));
        }
    }
    tensors.push((NORM.to_owned(), vec![spec.hidden_size]));
    if !spec.tie_word_embeddings {
        tensors.push((HEAD.to_owned(), table));
    }
    tensors
}

/// The projections of a layer: what an adapter can adapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Projection {
    /// `q_proj`
    #[serde(rename = "q_proj")]
    Query,
    /// `k_proj`
    #[serde(rename = "k_proj")]
    Key,
    /// `v_proj`
    #[serde(rename = "v_proj")]
    Value,
    /// `o_proj`
    #[serde(rename = "o_proj")]
    Output,
    /// `gate_proj`
    #[serde(rename = "gate_proj")]
    Gate,
    /// `up_proj`
    #[serde(rename = "up_proj")]
    Up,
    /// `down_proj`
    #[serde(rename = "down_proj")]
    Down,
}

impl Projection {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its weight.
    pub fn slot(self) -> Slot {
        match self {
            Self::Query => Slot::Query,
            Self::Key => Slot::Key,
            Self::Value => Slot::Value,
            Self::Output => Slot::Output,
            Self::Gate => Slot::Gate,
            Self::Up => Slot::Up,
            Self::Down => Slot::Down,
        }
    }

    /// Its bias, if some model has one there.
    pub fn bias(self) -> Option<Slot> {
        match self {
            Self::Query => Some(Slot::QueryBias),
            Self::Key => Some(Slot::KeyBias),
            Self::Value => Some(Slot::ValueBias),
            Self::Output => Some(Slot::OutputBias),
            Self::Gate | Self::Up | Self::Down => None,
        }
    }

    /// The name within a layer, such as `self_attn.q_proj`.
    pub fn module(self) -> &'static str {
        self.slot().leaf(false).trim_end_matches(".weight")
    }

    /// The last part of the name, such as `q_proj`.
    pub fn leaf(self) -> &'static str {
        self.module().rsplit('.').next().unwrap_or_default()
    }

    /// From a name as PEFT's `target_modules` has it: `q_proj`, or with its parent.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|which| name == which.leaf() || name == which.module())
    }

    /// `(out, in)` in a model of this kind.
    pub fn shape(self, spec: &Spec) -> (usize, usize) {
        let (hidden, mlp) = (spec.hidden_size, spec.intermediate_size);
        match self {
            Self::Query => (spec.query_width(), hidden),
            Self::Key | Self::Value => (spec.key_width(), hidden),
            Self::Output => (hidden, spec.query_width()),
            Self::Gate | Self::Up => (mlp, hidden),
            Self::Down => (hidden, mlp),
        }
    }
}
