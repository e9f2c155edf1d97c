//! The specification of a decoder-only transformer: dimensions, and the options of its family.
//! Everything that differs between families is decided here and read everywhere else.

mod family;
mod gguf;
mod json;
mod rope;
mod to_gguf;

use std::path::Path;

use candle_core::Tensor;

pub use family::Family;
pub use rope::{Rope, RopeScaling};

use gguf::GEMMA3_PATTERN;
pub(super) use json::Keys;

use super::batch::Branch;
use super::error::ModelError;
use super::ops::embedding;
use super::ops::types::{Layout, Norm};
use crate::gguf::Gguf;
use crate::hint::Reason;

/// The shape of a decoder-only transformer. Dimensions have the names of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The family, which determines names.
    pub family: Family,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even. `heads × head_dim` need not equal `hidden_size`.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// The layers, in order from the input.
    pub layers: Vec<LayerKind>,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Added to the weights of norms: 1 where they are stored as their difference from 1.
    pub norm_offset: f32,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub qk_norm: bool,
    /// Whether attention and feed-forward are also normalised after, not only before.
    pub post_norms: bool,
    /// The activation of the feed-forward layer.
    pub gate: Gate,
    /// Whether embeddings are multiplied by `√hidden_size`.
    pub scaled_embeddings: bool,
    /// Scores are divided by its square root; `None` stands for `head_dim`.
    pub query_pre_attn_scalar: Option<f64>,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Special tokens, stored for readers of a saved model.
    pub token_ids: TokenIds,
}

/// The options of one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerKind {
    /// Which of [`Spec::ropes`].
    pub rope: usize,
    /// A token attends to this many tokens up to and including itself; `None` to all of them.
    pub window: Option<usize>,
}

/// The activation `f` of `f(gate) · up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x·σ(x)`
    Silu,
    /// The approximation of GELU by a hyperbolic tangent, which is a sigmoid of twice its argument:
    /// `x·σ(2·√(2/π)·(x + 0.044715·x³))`
    GeluTanh,
}

impl Gate {
    /// Its name in `config.json`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }

    /// `a` and `b` of the activation `x·σ(a·x + b·x³)`.
    pub(crate) fn polynomial(self) -> (f64, f64) {
        match self {
            Self::Silu => (1.0, 0.0),
            Self::GeluTanh => {
                let a = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
                (a, 0.044_715 * a)
            }
        }
    }
}

/// The special tokens that `config.json` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// End of a sequence; may be several.
    pub eos: Vec<u32>,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// The largest accepted value of each dimension: a file with a larger one is invalid.
const MAX_SIZES: SpecLimits = SpecLimits {
    vocab_size: 1 << 22,
    width: 1 << 20,
    heads: 1 << 12,
    head_dim: 1 << 12,
    layers: 1 << 12,
    context: 1 << 26,
};

struct SpecLimits {
    vocab_size: usize,
    width: usize,
    heads: usize,
    head_dim: usize,
    layers: usize,
    context: usize,
}

impl Spec {
    /// Reads the settings of a `.gguf` file, or `config.json` in a folder.
    ///
    /// # Errors
    /// When the file cannot be read, or describes a model that this crate would compute
    /// differently: another family, or a key that is neither applied nor known to be irrelevant.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        if Gguf::is_path(path) {
            return Ok(Self::from_gguf(&Gguf::open(path)?)?);
        }
        let path = path.join("config.json");
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ModelError::Io { path: shown.clone(), source })?;
        let invalid = |reason: Reason| ModelError::Invalid { path: shown.clone(), reason };
        let value =
            serde_json::from_str(&text).map_err(|error| invalid(error.to_string().into()))?;
        Self::from_json(value).map_err(invalid)
    }

    /// Checks that the dimensions are possible and consistent.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, size, most) in [
            ("vocab_size", self.vocab_size, MAX_SIZES.vocab_size),
            ("hidden_size", self.hidden_size, MAX_SIZES.width),
            ("intermediate_size", self.intermediate_size, MAX_SIZES.width),
            ("num_attention_heads", self.num_attention_heads, MAX_SIZES.heads),
            ("num_key_value_heads", self.num_key_value_heads, MAX_SIZES.heads),
            ("head_dim", self.head_dim, MAX_SIZES.head_dim),
            ("num_hidden_layers", self.layers.len(), MAX_SIZES.layers),
            ("max_position_embeddings", self.max_position_embeddings, MAX_SIZES.context),
        ] {
            if size == 0 || size > most {
                return Err(format!("`{name}` is {size}, which is not between 1 and {most}"));
            }
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "`num_attention_heads` {heads} is not a multiple of `num_key_value_heads` {kv_heads}"
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("`head_dim` {} is not even", self.head_dim));
        }
        let is_positive = |x: f64| x > 0.0 && x.is_finite();
        if !is_positive(self.rms_norm_eps) {
            return Err(format!("`rms_norm_eps` {} is not above 0", self.rms_norm_eps));
        }
        if let Some(scalar) = self.query_pre_attn_scalar.filter(|&x| !is_positive(x)) {
            return Err(format!("`query_pre_attn_scalar` {scalar} is not above 0"));
        }
        if self.layers.iter().any(|layer| layer.window == Some(0)) {
            return Err("`sliding_window` is 0".to_owned());
        }
        self.ropes.iter().try_for_each(Rope::check)
    }

    /// The distinct window sizes of the layers.
    pub fn windows(&self) -> Vec<Option<usize>> {
        let mut windows: Vec<_> = self.layers.iter().map(|layer| layer.window).collect();
        windows.sort();
        windows.dedup();
        windows
    }

    /// Query heads per key-value head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// A norm of this model with `weight`.
    pub(super) fn norm<'a>(&self, weight: &'a Tensor) -> Norm<'a> {
        Norm { weight, eps: self.rms_norm_eps as f32, offset: self.norm_offset }
    }

    /// The attention layout for groups of `trees`.
    pub(super) fn layout(&self, trees: Vec<Vec<Branch>>) -> Layout {
        Layout {
            trees,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            scale: self.score_scale(),
        }
    }

    /// Rows of the embedding `(vocab, hidden)` as the first layer's input.
    pub(super) fn embed(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor, candle_core::Error> {
        self.scale_embeddings(embedding::forward(table, ids)?)
    }

    /// `x` with the scale of embeddings, which also applies to the gradient.
    pub(super) fn scale_embeddings(&self, x: Tensor) -> Result<Tensor, candle_core::Error> {
        match self.scaled_embeddings {
            true => x * f64::from(self.embed_scale()),
            false => Ok(x),
        }
    }

    /// The factor on embeddings.
    pub fn embed_scale(&self) -> f32 {
        match self.scaled_embeddings {
            true => (self.hidden_size as f64).sqrt() as f32,
            false => 1.0,
        }
    }

    /// The factor on attention scores.
    pub fn score_scale(&self) -> f32 {
        let scalar = self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64);
        1.0 / (scalar as f32).sqrt()
    }
}

#[cfg(test)]
mod tests;
