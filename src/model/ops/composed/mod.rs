//! The operations as compositions of candle's own: for any device and type, and the reference of
//! the fused forms. Uses candle's fused kernels on a GPU where they exist.
//!
//! Norms, softmax and gradients are computed in f32 (f64 stays f64) whatever the model's type is.

pub(crate) mod attention;

use candle_core::{D, DType, Result, Tensor};

use super::types::{GatedGradient, Head, Linear, Norm, Rotation, ScoreGradients};
use crate::model::batch::TokenScores;
use crate::model::spec::Gate;

/// Rows whose f32 logits exist at a time: 64 MiB of them in host memory; 512 MiB on a GPU, where
/// every chunk costs a pass over the projection's gradient; at least one row.
fn chunk_rows(head: &Head) -> Result<usize> {
    let bytes = if head.hidden.device().is_cpu() { 64 << 20 } else { 512 << 20 };
    Ok((bytes / (4 * head.weight.dim(0)?)).max(1))
}

/// The type sums are made in: f32, or f64 for a model in f64.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// In the type sums are made in.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x.dtype()))
}

/// `a·b`. candle multiplies no bf16 on a CPU: there the operands are widened and the product
/// rounded, which is what a GPU computes.
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

/// Over the last dimension.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return candle_nn::ops::softmax_last_dim(x);
    }
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

pub(super) fn rms_norm(x: &Tensor, norm: Norm) -> Result<Tensor> {
    if norm.offset != 0.0 {
        // Weights near 0 keep their digits only if the offset is added separately.
        let wide = widen(x)?;
        let normed = wide.broadcast_mul(&inverse_root(&wide, norm.eps)?)?;
        return normed.broadcast_mul(&factors(norm)?)?.to_dtype(x.dtype());
    }
    if !x.device().is_cpu() {
        return candle_nn::ops::rms_norm(x, norm.weight, norm.eps);
    }
    let wide = widen(x)?;
    let normed = wide.broadcast_mul(&inverse_root(&wide, norm.eps)?)?;
    normed.to_dtype(x.dtype())?.broadcast_mul(norm.weight)
}

/// The factor on normalised values, widened.
fn factors(norm: Norm) -> Result<Tensor> {
    widen(norm.weight)? + f64::from(norm.offset)
}

/// Gradients of `x` and the weight, widened.
fn norm_gradients(x: &Tensor, norm: Norm, d_y: &Tensor) -> Result<(Tensor, Tensor)> {
    let (x, factors, d_y) = (widen(x)?, factors(norm)?, widen(d_y)?);
    let scale = inverse_root(&x, norm.eps)?;
    let normed = x.broadcast_mul(&scale)?;
    let pulled = d_y.broadcast_mul(&factors)?;
    let mean = (&pulled * &normed)?.mean_keepdim(D::Minus1)?;
    let d_x = (pulled - normed.broadcast_mul(&mean)?)?.broadcast_mul(&scale)?;
    let d_weight = (d_y * normed)?.reshape(((), factors.elem_count()))?.sum(0)?;
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

pub(super) fn norm_rope(x: &Tensor, norm: Option<Norm>, rotation: &Rotation) -> Result<Tensor> {
    let half = rotation.cos.dim(1)?;
    let heads = by_head(x, 2 * half)?;
    let normed = match norm {
        Some(norm) => widen(&rms_norm(&heads, norm)?)?,
        None => widen(&heads)?,
    };
    let rotated = if x.device().is_cpu() {
        rotate(&normed, rotation, 1.0)?
    } else {
        // Each row is a batch of its own, with one position.
        let (rows, heads, head) = normed.dims3()?;
        let angles = |x: &Tensor| x.reshape((rows, 1, half));
        let normed = normed.reshape((rows, heads, 1, head))?;
        candle_nn::rotary_emb::rope(&normed, &angles(&rotation.cos)?, &angles(&rotation.sin)?)?
    };
    rotated.to_dtype(x.dtype())?.reshape(x.shape())
}

pub(super) fn norm_rope_backward(
    norm: Option<(&Tensor, Norm)>,
    rotation: &Rotation,
    d_y: &Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let head = 2 * rotation.cos.dim(1)?;
    let d_normed = rotate(&widen(&by_head(d_y, head)?)?, rotation, -1.0)?;
    let d_x = match norm {
        Some((x, norm)) => {
            let (d_x, from_weight) = norm_gradients(&by_head(x, head)?, norm, &d_normed)?;
            accumulate_option(d_weight, &from_weight)?;
            d_x
        }
        None => d_normed,
    };
    d_x.to_dtype(d_y.dtype())?.reshape(d_y.shape())
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

pub(super) fn gated(gate: &Tensor, up: &Tensor, kind: Gate) -> Result<Tensor> {
    if kind == Gate::Silu {
        return gate.silu()? * up;
    }
    let (a, b) = kind.polynomial();
    let wide = widen(gate)?;
    let active = (&wide * sigmoid(&(&wide * wide.sqr()?.affine(b, a)?)?)?)?;
    active.to_dtype(gate.dtype())? * up
}

pub(super) fn gated_backward(
    gate: &Tensor,
    up: &Tensor,
    d_y: &Tensor,
    kind: Gate,
) -> Result<GatedGradient> {
    let ((a, b), dtype) = (kind.polynomial(), gate.dtype());
    let (gate, up, d_y) = (widen(gate)?, widen(up)?, widen(d_y)?);
    let square = gate.sqr()?;
    let sigmoid = sigmoid(&(&gate * square.affine(b, a)?)?)?;
    let active = (&gate * &sigmoid)?;
    let from_argument = (square.affine(3.0 * b, a)? * &active)?;
    let slope = (&sigmoid + (from_argument * sigmoid.affine(-1.0, 1.0)?)?)?;
    Ok(GatedGradient {
        y: (&active * &up)?.to_dtype(dtype)?,
        d_gate: ((&d_y * &up)? * slope)?.to_dtype(dtype)?,
        d_up: (d_y * active)?.to_dtype(dtype)?,
    })
}

pub(super) fn bias(y: Tensor, bias: &Tensor) -> Result<Tensor> {
    y.broadcast_add(&bias.to_dtype(y.dtype())?)
}

pub(super) fn bias_backward(d_y: &Tensor, d_bias: &mut Tensor) -> Result<()> {
    accumulate(d_bias, &widen(d_y)?.sum(0)?)
}

/// The delta stays apart from the weight: in bf16 most of it would be rounded away there.
pub(super) fn linear(x: &Tensor, linear: Linear, residual: Option<&Tensor>) -> Result<Tensor> {
    let mut y = matmul(x, &linear.weight.t()?)?;
    if let Some(delta) = linear.delta {
        y = (y + matmul(&(matmul(x, &delta.a.t()?)? * delta.scale)?, &delta.b.t()?)?)?;
    }
    match residual {
        Some(residual) => y + residual,
        None => Ok(y),
    }
}

pub(super) fn linear_backward_input(
    d_y: &Tensor,
    linear: Linear,
    sum: Option<Tensor>,
) -> Result<Tensor> {
    let mut d_x = matmul(d_y, linear.weight)?;
    if let Some(delta) = linear.delta {
        d_x = (d_x + matmul(&(matmul(d_y, &delta.b)? * delta.scale)?, &delta.a)?)?;
    }
    match sum {
        Some(sum) => sum + d_x,
        None => Ok(d_x),
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

pub(super) fn head(head: &Head) -> Result<TokenScores> {
    let mut scores = TokenScores::default();
    let chunk = chunk_rows(head)?;
    for (index, targets) in head.targets.chunks(chunk).enumerate() {
        let (log_p, entropy) = log_probs(head, index * chunk, targets.len())?;
        let targets = Tensor::new(targets, log_p.device())?.unsqueeze(1)?;
        let list = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        scores.log_probs.extend(list(log_p.gather(&targets, 1)?)?);
        scores.entropies.extend(list(entropy)?);
    }
    Ok(scores)
}

pub(super) fn head_backward(
    head: &Head,
    gradient: ScoreGradients,
    mut d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let chunk = chunk_rows(head)?;
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
