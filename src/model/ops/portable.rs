//! Every operation as a composition of candle's own: for any device and type, and the fused forms' oracle.
//!
//! Norms, softmax and gradients are computed in f32 (f64 stays f64) whatever the model's type is.

use candle_core::{D, DType, Device, Result, Tensor};

use super::attention::{Gradient, Inputs, Layout};
use super::head::{Head, ScoreGradients};
use super::rms_norm::Norm;
use super::rope::Rotation;
use super::swiglu::Backward;
use crate::model::batch::{Branch, TokenScores};

/// Most bytes of attention scores that exist at a time, as long as one key-value head's fit.
const SCORE_BYTES: usize = 256 << 20;

/// Most bytes of f32 logits that exist at a time, as long as one row's fit.
const LOGIT_BYTES: usize = 64 << 20;

fn chunk_rows(vocab: usize) -> usize {
    (LOGIT_BYTES / (4 * vocab)).max(1)
}

/// The type sums are made in: f32, or f64 for a model in f64.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// In the type sums are made in.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x.dtype()))
}

/// `a·b`. candle multiplies no bf16 on a CPU: there the operands are widened and the product rounded,
/// which is what a GPU computes.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        return widen(a)?.matmul(&widen(b)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

fn accumulate(sum: &mut Tensor, addend: &Tensor) -> Result<()> {
    *sum = (&*sum + addend.to_dtype(sum.dtype())?)?;
    Ok(())
}

fn accumulate_option(sum: Option<&mut Tensor>, addend: &Tensor) -> Result<()> {
    sum.map_or(Ok(()), |sum| accumulate(sum, addend))
}

fn inverse_root(x: &Tensor, eps: f32) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?.recip()
}

pub(super) fn rms_norm(x: &Tensor, norm: Norm) -> Result<Tensor> {
    let wide = widen(x)?;
    let normed = wide.broadcast_mul(&inverse_root(&wide, norm.eps)?)?;
    normed.to_dtype(x.dtype())?.broadcast_mul(norm.weight)
}

/// Gradients of `x` and `weight`, widened.
fn norm_gradients(x: &Tensor, norm: Norm, d_y: &Tensor) -> Result<(Tensor, Tensor)> {
    let (x, weight, d_y) = (widen(x)?, widen(norm.weight)?, widen(d_y)?);
    let scale = inverse_root(&x, norm.eps)?;
    let normed = x.broadcast_mul(&scale)?;
    let pulled = d_y.broadcast_mul(&weight)?;
    let mean = (&pulled * &normed)?.mean_keepdim(D::Minus1)?;
    let d_x = (pulled - normed.broadcast_mul(&mean)?)?.broadcast_mul(&scale)?;
    let d_weight = (d_y * normed)?.reshape(((), weight.elem_count()))?.sum(0)?;
    Ok((d_x, d_weight))
}

pub(super) fn rms_norm_backward(
    x: &Tensor,
    norm: Norm,
    d_y: &Tensor,
    d_x: &mut Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<()> {
    let (from_x, from_weight) = norm_gradients(x, norm, d_y)?;
    accumulate(d_x, &from_x)?;
    accumulate_option(d_weight, &from_weight)
}

/// Rotates `(rows, heads, head_dim)`; `direction` −1 rotates back.
fn rotate(x: &Tensor, rotation: &Rotation, direction: f64) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let cos = rotation.cos.to_dtype(x.dtype())?.unsqueeze(1)?;
    let sin = (rotation.sin.to_dtype(x.dtype())? * direction)?.unsqueeze(1)?;
    let (x1, x2) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[y1, y2], 2)
}

fn by_head(x: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    x.reshape((rows, width / head_dim, head_dim))
}

pub(super) fn norm_rope(x: &Tensor, norm: Norm, rotation: &Rotation) -> Result<Tensor> {
    let normed = rms_norm(&by_head(x, norm.weight.elem_count())?, norm)?;
    rotate(&widen(&normed)?, rotation, 1.0)?.to_dtype(x.dtype())?.reshape(x.shape())
}

pub(super) fn norm_rope_backward(
    x: &Tensor,
    norm: Norm,
    rotation: &Rotation,
    d_y: &Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let head = norm.weight.elem_count();
    let d_normed = rotate(&widen(&by_head(d_y, head)?)?, rotation, -1.0)?;
    let (d_x, from_weight) = norm_gradients(&by_head(x, head)?, norm, &d_normed)?;
    accumulate_option(d_weight, &from_weight)?;
    d_x.to_dtype(x.dtype())?.reshape(x.shape())
}

pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

pub(super) fn swiglu_backward(gate: &Tensor, up: &Tensor, d_y: &Tensor) -> Result<Backward> {
    let dtype = gate.dtype();
    let (gate, up, d_y) = (widen(gate)?, widen(up)?, widen(d_y)?);
    let sigmoid = (gate.neg()?.exp()? + 1.0)?.recip()?;
    let silu = (&gate * &sigmoid)?;
    let slope = (&sigmoid + (&silu * sigmoid.affine(-1.0, 1.0)?)?)?;
    Ok(Backward {
        y: (&silu * &up)?.to_dtype(dtype)?,
        d_gate: ((&d_y * &up)? * slope)?.to_dtype(dtype)?,
        d_up: (d_y * silu)?.to_dtype(dtype)?,
    })
}

pub(super) fn linear(x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let y = matmul(x, &weight.t()?)?;
    residual.map_or(Ok(y.clone()), |residual| y + residual)
}

pub(super) fn linear_backward_input(
    d_y: &Tensor,
    weight: &Tensor,
    d_x: &mut Option<Tensor>,
) -> Result<()> {
    let made = matmul(d_y, weight)?;
    match d_x {
        Some(d_x) => accumulate(d_x, &made),
        None => {
            *d_x = Some(made);
            Ok(())
        }
    }
}

pub(super) fn linear_backward_weight(
    d_y: &Tensor,
    x: &Tensor,
    d_weight: &mut Tensor,
) -> Result<()> {
    accumulate(d_weight, &matmul(&d_y.t()?.contiguous()?, x)?)
}

pub(super) fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    table.index_select(&Tensor::new(ids, table.device())?, 0)
}

pub(super) fn embedding_backward(d_y: &Tensor, ids: &[u32], d_table: &mut Tensor) -> Result<()> {
    let ids = Tensor::new(ids, d_y.device())?;
    *d_table = d_table.index_add(&ids, &d_y.to_dtype(d_table.dtype())?, 0)?;
    Ok(())
}

/// Some key-value heads of one branch: keys of its path `(kv, length, d)`, and what belongs to the
/// query heads that share them, of its own rows, stacked as `(kv, group × own, d)`.
struct Part<'a> {
    layout: &'a Layout,
    branch: &'a Branch,
    kv_first: usize,
    kv_count: usize,
}

impl<'a> Part<'a> {
    /// The parts of each branch.
    fn all(layout: &'a Layout) -> Vec<Vec<Self>> {
        let parts = |branch: &'a Branch| {
            let scores = layout.group() * branch.own().len() * branch.len();
            let most = (SCORE_BYTES / (4 * scores)).max(1);
            let part = |kv_first| {
                let kv_count = most.min(layout.kv_heads - kv_first);
                Self { layout, branch, kv_first, kv_count }
            };
            (0..layout.kv_heads).step_by(most).map(part).collect()
        };
        layout.branches().map(parts).collect()
    }

    /// Of the branch's own rows of `x` `(rows, kv_heads × per × head_dim)`: `(kv, per × own, head_dim)`.
    fn take(&self, x: &Tensor, per: usize) -> Result<Tensor> {
        let own = self.branch.own();
        self.heads(&x.narrow(0, own.start, own.len())?, per)
    }

    /// Of all rows on the branch's path of `x` `(rows, kv_heads × head_dim)`: `(kv, length, head_dim)`.
    fn take_path(&self, x: &Tensor) -> Result<Tensor> {
        let pieces = self.branch.path.iter().map(|rows| x.narrow(0, rows.start, rows.len()));
        self.heads(&Tensor::cat(&pieces.collect::<Result<Vec<_>>>()?, 0)?, 1)
    }

    fn heads(&self, x: &Tensor, per: usize) -> Result<Tensor> {
        let (rows, d) = (x.dim(0)?, self.layout.head_dim);
        x.reshape((rows, self.layout.kv_heads, per, d))?
            .narrow(1, self.kv_first, self.kv_count)?
            .permute((1, 2, 0, 3))?
            .contiguous()?
            .reshape((self.kv_count, per * rows, d))
    }

    /// The inverse of taking: `(rows, kv × per × head_dim)`.
    fn give(&self, x: &Tensor, per: usize) -> Result<Tensor> {
        let (rows, d) = (x.dim(1)? / per, self.layout.head_dim);
        x.reshape((self.kv_count, per, rows, d))?
            .permute((2, 0, 1, 3))?
            .contiguous()?
            .reshape((rows, self.kv_count * per * d))
    }

    /// `(kv, group × own, length)`, widened.
    fn probabilities(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let (past, length, group) = (self.branch.past(), self.branch.len(), self.layout.group());
        let own = length - past;
        let scores = (widen(&matmul(q, &k.t()?)?)? * f64::from(self.layout.scale()))?;
        let is_hidden = |at: usize| at % length > past + at / length;
        let hidden: Vec<f32> = (0..own * length)
            .map(|at| if is_hidden(at) { f32::NEG_INFINITY } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(hidden, (1, 1, own, length), &Device::Cpu)?
            .to_device(q.device())?
            .to_dtype(scores.dtype())?;
        let scores = scores.reshape((self.kv_count, group, own, length))?.broadcast_add(&mask)?;
        let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.reshape((self.kv_count, group * own, length))
    }
}

pub(super) fn attention(inputs: &Inputs, layout: &Layout) -> Result<Tensor> {
    let mut branches = Vec::new();
    for parts in Part::all(layout) {
        let mut heads = Vec::new();
        for part in parts {
            let (q, k) = (part.take(inputs.q, layout.group())?, part.take_path(inputs.k)?);
            let p = part.probabilities(&q, &k)?.to_dtype(q.dtype())?;
            heads.push(part.give(&matmul(&p, &part.take_path(inputs.v)?)?, layout.group())?);
        }
        branches.push(Tensor::cat(&heads, 1)?);
    }
    Tensor::cat(&branches, 0)
}

pub(super) fn attention_backward(
    inputs: &Inputs,
    layout: &Layout,
    d_y: &Tensor,
) -> Result<Gradient> {
    let (mut d_q, mut d_k, mut d_v) = (Vec::new(), Vec::new(), Vec::new());
    let group = layout.group();
    for parts in Part::all(layout) {
        let (mut q_heads, mut k_heads, mut v_heads) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            let (q, k, v) =
                (part.take(inputs.q, group)?, part.take_path(inputs.k)?, part.take_path(inputs.v)?);
            let d_y = part.take(d_y, group)?;
            let p = part.probabilities(&q, &k)?;
            let d_p = widen(&matmul(&d_y, &v.t()?)?)?;
            let mean = (&p * &d_p)?.sum_keepdim(D::Minus1)?;
            let d_s = ((&p * d_p.broadcast_sub(&mean)?)? * f64::from(layout.scale()))?;
            let d_s = d_s.to_dtype(q.dtype())?;
            let transposed = |x: &Tensor| x.t()?.contiguous();
            q_heads.push(part.give(&matmul(&d_s, &k)?, group)?);
            k_heads.push(part.give(&matmul(&transposed(&d_s)?, &q)?, 1)?);
            let p = p.to_dtype(q.dtype())?;
            v_heads.push(part.give(&matmul(&transposed(&p)?, &d_y)?, 1)?);
        }
        d_q.push(Tensor::cat(&q_heads, 1)?);
        d_k.push(Tensor::cat(&k_heads, 1)?);
        d_v.push(Tensor::cat(&v_heads, 1)?);
    }
    Ok(Gradient {
        d_q: Tensor::cat(&d_q, 0)?,
        d_k: along_paths(&d_k, layout, inputs.k)?,
        d_v: along_paths(&d_v, layout, inputs.v)?,
    })
}

/// Adds up what each branch gives to the rows on its path, in the shape of `like`.
fn along_paths(parts: &[Tensor], layout: &Layout, like: &Tensor) -> Result<Tensor> {
    let all = Tensor::cat(parts, 0)?;
    if layout.branches().all(|branch| branch.past() == 0) {
        return Ok(all);
    }
    let rows = layout.branches().flat_map(|branch| branch.path.iter().cloned().flatten());
    let rows: Vec<u32> = rows.map(|row| row as u32).collect();
    let rows = Tensor::new(rows, all.device())?;
    let sum = widen(&like.zeros_like()?)?.index_add(&rows, &widen(&all)?, 0)?;
    sum.to_dtype(like.dtype())
}

/// One chunk's log-probabilities over the vocabulary, `(rows, vocab)`, widened.
fn log_probs(head: &Head, first: usize, rows: usize) -> Result<(Tensor, Tensor)> {
    let hidden = head.hidden.narrow(0, first, rows)?;
    let logits = matmul(&hidden, &head.weight.t()?)?;
    let logits = (widen(&logits)? / f64::from(head.temperature))?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    let log_p = shifted.broadcast_sub(&log_sum)?;
    let entropy = (log_p.exp()? * &log_p)?.sum_keepdim(1)?.neg()?;
    Ok((log_p, entropy))
}

pub(super) fn head(head: &Head, scores: &mut TokenScores) -> Result<()> {
    let chunk = chunk_rows(head.weight.dim(0)?);
    for (index, targets) in head.targets.chunks(chunk).enumerate() {
        let (log_p, entropy) = log_probs(head, index * chunk, targets.len())?;
        let targets = Tensor::new(targets, log_p.device())?.unsqueeze(1)?;
        let list = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        scores.log_probs.extend(list(log_p.gather(&targets, 1)?)?);
        scores.entropies.extend(list(entropy)?);
    }
    Ok(())
}

pub(super) fn head_backward(
    head: &Head,
    gradient: ScoreGradients,
    mut d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let chunk = chunk_rows(head.weight.dim(0)?);
    let mut d_hidden = Vec::new();
    for (index, targets) in head.targets.chunks(chunk).enumerate() {
        let first = index * chunk;
        let (log_p, entropy) = log_probs(head, first, targets.len())?;
        let column = |all: &[f32]| {
            let slice = &all[first..first + targets.len()];
            Tensor::new(slice, log_p.device())?.to_dtype(log_p.dtype())?.unsqueeze(1)
        };
        let d_log_probs = column(gradient.log_probs)?;
        let p = log_p.exp()?;
        let mut d_logits = p.broadcast_mul(&d_log_probs)?.neg()?;
        if let Some(entropies) = gradient.entropies {
            let pull = (p * log_p.broadcast_add(&entropy)?)?;
            d_logits = (d_logits - pull.broadcast_mul(&column(entropies)?)?)?;
        }
        let targets = Tensor::new(targets, log_p.device())?.unsqueeze(1)?;
        let d_logits = d_logits.scatter_add(&targets, &d_log_probs, 1)?;
        let d_logits = (d_logits / f64::from(head.temperature))?.to_dtype(head.hidden.dtype())?;
        d_hidden.push(matmul(&d_logits, head.weight)?);
        if let Some(d_weight) = d_weight.as_deref_mut() {
            let hidden = head.hidden.narrow(0, first, targets.dim(0)?)?;
            linear_backward_weight(&d_logits, &hidden, d_weight)?;
        }
    }
    Tensor::cat(&d_hidden, 0)
}
