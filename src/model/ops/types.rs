//! Inputs and outputs of the operations, in both forms.

use candle_core::Tensor;

use crate::model::batch::Branch;

/// A projection's weight, and the low-rank delta that is added to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear<'a> {
    /// `(out, in)`
    pub weight: &'a Tensor,
    pub delta: Option<&'a Delta>,
}

impl<'a> Linear<'a> {
    /// A weight as it is.
    pub fn plain(weight: &'a Tensor) -> Self {
        Self { weight, delta: None }
    }
}

/// The low-rank delta of a weight: `scale·B·A`.
#[derive(Debug, Clone)]
pub(crate) struct Delta {
    /// `(rank, in)`
    pub a: Tensor,
    /// `(out, rank)`
    pub b: Tensor,
    pub scale: f64,
}

/// A norm's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    /// `(width)`
    pub weight: &'a Tensor,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight.
    pub offset: f32,
}

/// Cosines and sines of the rotary angles of each row.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// `(rows, head_dim / 2)`, f32.
    pub cos: Tensor,
    /// `(rows, head_dim / 2)`, f32.
    pub sin: Tensor,
}

/// How rows are grouped: trees of branches, and heads within a row.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// As in [`crate::model::Batch`].
    pub trees: Vec<Vec<Branch>>,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The factor on scores.
    pub scale: f32,
}

impl Layout {
    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// All branches.
    pub(super) fn branches(&self) -> impl Iterator<Item = &Branch> {
        self.trees.iter().flatten()
    }
}

/// The output of attention, and in the fused form the log-sum of each row's scores.
pub(crate) struct Attended {
    /// `(rows, heads × head_dim)`
    pub y: Tensor,
    /// `(rows, heads)`; `None` in the composed form, whose backward recomputes the scores.
    pub log_sums: Option<Tensor>,
}

/// The inputs of attention.
pub(crate) struct AttentionInputs<'a> {
    /// `(rows, heads × head_dim)`
    pub q: &'a Tensor,
    /// `(rows, kv_heads × head_dim)`
    pub k: &'a Tensor,
    /// `(rows, kv_heads × head_dim)`
    pub v: &'a Tensor,
    /// A row attends to this many rows up to and including itself; `None` is all of them.
    pub window: Option<usize>,
}

/// The first position that a row at `position` attends to.
pub(crate) fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Gradients of the inputs, in their shapes.
pub(crate) struct AttentionGradient {
    pub d_q: Tensor,
    pub d_k: Tensor,
    pub d_v: Tensor,
}

/// The gate's output once more, and the gradients of `gate` and `up`.
pub(crate) struct GatedGradient {
    pub y: Tensor,
    pub d_gate: Tensor,
    pub d_up: Tensor,
}

/// The inputs of the output head.
pub(crate) struct Head<'a> {
    /// Selected rows after the last norm, `(rows, width)`.
    pub hidden: &'a Tensor,
    /// `(vocab, width)`
    pub weight: &'a Tensor,
    /// One token for each row.
    pub targets: &'a [u32],
    /// Logits are divided by it.
    pub temperature: f32,
}

/// Gradients of the scores, one for each row.
#[derive(Clone, Copy)]
pub(crate) struct ScoreGradients<'a> {
    pub log_probs: &'a [f32],
    pub entropies: Option<&'a [f32]>,
}
