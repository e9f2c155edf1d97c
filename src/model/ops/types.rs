//! What the operations take and give, whichever form computes them.

use candle_core::{Device, Result, Tensor};

use crate::model::batch::Branch;

/// A norm's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    /// `(width)`
    pub weight: &'a Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

/// Cosines and sines of `position × θ^(−2i/head_dim)` for the rows of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// `(rows, head_dim / 2)`, f32.
    pub cos: Tensor,
    /// `(rows, head_dim / 2)`, f32.
    pub sin: Tensor,
}

impl Rotation {
    /// For each row its position within its own sequence.
    pub fn new(positions: &[u32], head_dim: usize, theta: f64, device: &Device) -> Result<Self> {
        let half = head_dim / 2;
        let rows = positions.len();
        // Rounded to f32 where transformers does: frequencies, then angles.
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (1.0 / theta.powf((2 * i) as f64 / head_dim as f64)) as f32)
            .collect();
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let mut table = Vec::with_capacity(longest * half);
        for position in 0..longest {
            table.extend(frequencies.iter().map(|f| (position as f32 * f).sin_cos()));
        }
        let (mut cos, mut sin) = (Vec::with_capacity(rows * half), Vec::with_capacity(rows * half));
        for &position in positions {
            let angles = &table[position as usize * half..(position as usize + 1) * half];
            cos.extend(angles.iter().map(|(_, cos)| *cos));
            sin.extend(angles.iter().map(|(sin, _)| *sin));
        }
        Ok(Self {
            cos: Tensor::from_vec(cos, (rows, half), device)?,
            sin: Tensor::from_vec(sin, (rows, half), device)?,
        })
    }

    /// Some rows of a table of all positions.
    pub fn rows(&self, positions: &Tensor) -> Result<Self> {
        Ok(Self {
            cos: self.cos.index_select(positions, 0)?,
            sin: self.sin.index_select(positions, 0)?,
        })
    }
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
}

impl Layout {
    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// All branches.
    pub(super) fn branches(&self) -> impl Iterator<Item = &Branch> {
        self.trees.iter().flatten()
    }
}

/// What attention gives, and in the fused form the log-sum of each row's scores.
pub(crate) struct Attended {
    /// `(rows, heads × head_dim)`
    pub y: Tensor,
    /// `(rows, heads)`; `None` in the composed form, whose backward computes the scores again.
    pub log_sums: Option<Tensor>,
}

/// What attention reads.
pub(crate) struct AttentionInputs<'a> {
    /// `(rows, heads × head_dim)`
    pub q: &'a Tensor,
    /// `(rows, kv_heads × head_dim)`
    pub k: &'a Tensor,
    /// `(rows, kv_heads × head_dim)`
    pub v: &'a Tensor,
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

/// What the output head reads.
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
