//! Attention as a composition of candle's own operations, over sequences padded to one length: the
//! trainer's portable form, and what a decoder on any device attends with.

use candle_core::{DType, Device, Result, Tensor};

use super::attention::{Gradient, Inputs, Layout};
use super::portable::{matmul, softmax, wide, widen};

/// Most bytes of attention scores that exist at a time, as long as one key-value head's fit.
pub(crate) const SCORE_BYTES: usize = 256 << 20;

/// Padding that is put up with, as a share of what is padded.
const PADDING: f64 = 0.5;

/// Sequences side by side: `queries` rows of each see `keys` rows of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Padded<'a> {
    pub layout: &'a Layout,
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
}

impl Padded<'_> {
    /// `(batch × length, kv_heads × per × head_dim)` → `(batch × kv_heads, per × length, head_dim)`:
    /// what belongs to the query heads that share a key-value head is stacked.
    pub fn by_head(&self, x: &Tensor, length: usize, per: usize) -> Result<Tensor> {
        let (kv_heads, d) = (self.layout.kv_heads, self.layout.head_dim);
        x.reshape((self.batch, length, kv_heads, per, d))?
            .permute((0, 2, 3, 1, 4))?
            .contiguous()?
            .reshape((self.batch * kv_heads, per * length, d))
    }

    /// The inverse of [`Padded::by_head`].
    pub fn by_row(&self, x: &Tensor, length: usize, per: usize) -> Result<Tensor> {
        let (kv_heads, d) = (self.layout.kv_heads, self.layout.head_dim);
        x.reshape((self.batch, kv_heads, per, length, d))?
            .permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((self.batch * length, kv_heads * per * d))
    }

    /// `q` `(n, group × queries, d)` and `k` `(n, keys, d)` for some heads → their probabilities
    /// `(n, group × queries, keys)`, widened. `hidden` is −∞ where a query does not see a key and 0
    /// elsewhere; it broadcasts to `(n, group, queries, keys)`.
    pub fn probabilities(&self, q: &Tensor, k: &Tensor, hidden: &Tensor) -> Result<Tensor> {
        let scores = (widen(&matmul(q, &k.t()?)?)? * f64::from(self.layout.scale()))?;
        let (n, rows, keys) = scores.dims3()?;
        let shape = (n, self.layout.group(), self.queries, keys);
        let scores = scores.reshape(shape)?.broadcast_add(hidden)?;
        softmax(&scores)?.reshape((n, rows, keys))
    }

    /// Heads whose scores fit in [`SCORE_BYTES`], as `(first, count)`.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let all = self.batch * self.layout.kv_heads;
        let each = 4 * self.layout.group() * self.queries * self.keys;
        let most = (SCORE_BYTES / each).max(1);
        (0..all).step_by(most).map(move |first| (first, most.min(all - first)))
    }
}

/// Consecutive sequences of about one length, and where their rows are.
struct Chunk {
    batch: usize,
    length: usize,
    /// `(batch × length)`: the row that each padded row is; the sequence's first one for padding.
    rows: Tensor,
    /// Which padded rows are none, `(batch × length, 1)`; `None` where all are.
    real: Option<Tensor>,
    /// The padded row of each row.
    back: Tensor,
    /// `(1, 1, length, length)`
    hidden: Tensor,
}

impl Chunk {
    fn all(layout: &Layout, dtype: DType, device: &Device) -> Result<Vec<Self>> {
        let mut chunks = Vec::new();
        let mut first = 0;
        while first + 1 < layout.starts.len() {
            let (mut count, mut longest) = (0, 0);
            while first + count + 1 < layout.starts.len() {
                let length = layout.starts[first + count + 1] - layout.starts[first + count];
                let tokens = layout.starts[first + count + 1] - layout.starts[first];
                let padded = longest.max(length) * (count + 1);
                if count > 0 && padded as f64 > tokens as f64 * (1.0 + PADDING) {
                    break;
                }
                (count, longest) = (count + 1, longest.max(length));
            }
            let starts = &layout.starts[first..=first + count];
            chunks.push(Self::new(starts, longest, dtype, device)?);
            first += count;
        }
        Ok(chunks)
    }

    fn new(starts: &[usize], length: usize, dtype: DType, device: &Device) -> Result<Self> {
        let batch = starts.len() - 1;
        let (mut rows, mut real, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, pair) in starts.windows(2).enumerate() {
            let count = pair[1] - pair[0];
            let row = |at| if at < count { pair[0] + at } else { pair[0] };
            rows.extend((0..length).map(|at| row(at) as u32));
            real.extend((0..length).map(|at| if at < count { 1f32 } else { 0.0 }));
            back.extend((0..count).map(|at| (sequence * length + at) as u32));
        }
        let is_padded = back.len() < rows.len();
        let real = is_padded.then(|| Tensor::from_vec(real, (batch * length, 1), device));
        Ok(Self {
            batch,
            length,
            rows: Tensor::new(rows, device)?,
            real: real.transpose()?.map(|real| real.to_dtype(dtype)).transpose()?,
            back: Tensor::new(back, device)?,
            hidden: causal(length, dtype, device)?,
        })
    }

    fn padded<'a>(&self, layout: &'a Layout) -> Padded<'a> {
        Padded { layout, batch: self.batch, queries: self.length, keys: self.length }
    }
}

/// Hides from each position those after it: `(1, 1, length, length)`, widened.
fn causal(length: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let positions = Tensor::arange(0u32, length as u32, device)?;
    let shape = (length, length);
    let (query, key) = (positions.reshape((length, 1))?, positions.reshape((1, length))?);
    let is_later = key.broadcast_as(shape)?.gt(&query.broadcast_as(shape)?)?;
    let never = Tensor::new(f32::NEG_INFINITY, device)?.broadcast_as(shape)?;
    let hidden = is_later.where_cond(&never, &never.zeros_like()?)?;
    hidden.to_dtype(wide(dtype))?.reshape((1, 1, length, length))
}

pub(super) fn attention(inputs: &Inputs, layout: &Layout) -> Result<Tensor> {
    let (dtype, device) = (inputs.q.dtype(), inputs.q.device());
    let mut chunks = Vec::new();
    for chunk in Chunk::all(layout, dtype, device)? {
        let (padded, n) = (chunk.padded(layout), chunk.length);
        let take = |x: &Tensor, per| padded.by_head(&x.index_select(&chunk.rows, 0)?, n, per);
        let (q, k, v) = (take(inputs.q, layout.group())?, take(inputs.k, 1)?, take(inputs.v, 1)?);
        let mut parts = Vec::new();
        for (first, count) in padded.parts() {
            let part = |x: &Tensor| x.narrow(0, first, count);
            let p = padded.probabilities(&part(&q)?, &part(&k)?, &chunk.hidden)?;
            parts.push(matmul(&p.to_dtype(dtype)?, &part(&v)?)?);
        }
        let y = padded.by_row(&Tensor::cat(&parts, 0)?, n, layout.group())?;
        chunks.push(y.index_select(&chunk.back, 0)?);
    }
    Tensor::cat(&chunks, 0)
}

pub(super) fn attention_backward(
    inputs: &Inputs,
    layout: &Layout,
    d_y: &Tensor,
) -> Result<Gradient> {
    let (dtype, device, group) = (inputs.q.dtype(), inputs.q.device(), layout.group());
    let (mut d_q, mut d_k, mut d_v) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in Chunk::all(layout, dtype, device)? {
        let (padded, n) = (chunk.padded(layout), chunk.length);
        let take = |x: &Tensor, per| padded.by_head(&x.index_select(&chunk.rows, 0)?, n, per);
        let (q, k, v) = (take(inputs.q, group)?, take(inputs.k, 1)?, take(inputs.v, 1)?);
        // Padding has no gradient; then its queries have no part in those of keys and values either.
        let d_y = d_y.index_select(&chunk.rows, 0)?;
        let d_y = match &chunk.real {
            Some(real) => d_y.broadcast_mul(real)?,
            None => d_y,
        };
        let d_y = padded.by_head(&d_y, n, group)?;
        let (mut q_parts, mut k_parts, mut v_parts) = (Vec::new(), Vec::new(), Vec::new());
        for (first, count) in padded.parts() {
            let part = |x: &Tensor| x.narrow(0, first, count);
            let (q, k, v, d_y) = (part(&q)?, part(&k)?, part(&v)?, part(&d_y)?);
            let p = padded.probabilities(&q, &k, &chunk.hidden)?;
            let d_p = widen(&matmul(&d_y, &v.t()?)?)?;
            let mean = (&p * &d_p)?.sum_keepdim(2)?;
            let d_s = ((&p * d_p.broadcast_sub(&mean)?)? * f64::from(layout.scale()))?;
            let (d_s, p) = (d_s.to_dtype(dtype)?, p.to_dtype(dtype)?);
            let transposed = |x: &Tensor| x.t()?.contiguous();
            q_parts.push(matmul(&d_s, &k)?);
            k_parts.push(matmul(&transposed(&d_s)?, &q)?);
            v_parts.push(matmul(&transposed(&p)?, &d_y)?);
        }
        let give = |parts: Vec<Tensor>, per| {
            padded.by_row(&Tensor::cat(&parts, 0)?, n, per)?.index_select(&chunk.back, 0)
        };
        d_q.push(give(q_parts, group)?);
        d_k.push(give(k_parts, 1)?);
        d_v.push(give(v_parts, 1)?);
    }
    Ok(Gradient {
        d_q: Tensor::cat(&d_q, 0)?,
        d_k: Tensor::cat(&d_k, 0)?,
        d_v: Tensor::cat(&d_v, 0)?,
    })
}
