//! Attention as a composition of candle's own operations, over branches padded to one length: the
//! trainer's composed form, and what a decoder on any device attends with.

use candle_core::{DType, Device, Result, Tensor};

use super::{matmul, softmax, wide, widen};
use crate::model::batch::Branch;
use crate::model::ops::types::{AttentionGradient, AttentionInputs, Layout, first_seen};

/// The most bytes of attention scores that exist at a time, if one key-value head's fit.
pub(crate) const SCORE_BYTES: usize = 256 << 20;

/// The accepted share of padding.
const PADDING: f64 = 0.5;

/// Adjacent branches: `queries` rows of each attend to `keys` rows of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Padded<'a> {
    pub layout: &'a Layout,
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
}

impl Padded<'_> {
    /// `(batch × length, kv_heads × per × head_dim)` → `(batch × kv_heads, per × length,
    /// head_dim)`: what belongs to the query heads that share a key-value head is stacked.
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

    /// What queries at `positions` (of all branches, one after another) must not attend to: −∞ for
    /// the keys after them, and before their `window`, and 0 for the others, `(batch × kv_heads, 1,
    /// queries, keys)`, widened. Padded keys come after every query.
    pub fn hidden(
        &self,
        positions: &[u32],
        window: Option<usize>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let Self { batch, queries, keys, .. } = *self;
        let shape = (batch, queries, keys);
        let column = |values: Vec<u32>| Tensor::from_vec(values, (batch, queries, 1), device);
        let last = column(positions.to_vec())?;
        let keys_at = Tensor::arange(0u32, keys as u32, device)?.reshape((1, 1, keys))?;
        let mut is_hidden = keys_at.broadcast_as(shape)?.gt(&last.broadcast_as(shape)?)?;
        if window.is_some() {
            let first = |&position: &u32| first_seen(position as usize, window) as u32;
            let first = column(positions.iter().map(first).collect())?;
            let is_earlier = keys_at.broadcast_as(shape)?.lt(&first.broadcast_as(shape)?)?;
            is_hidden = is_hidden.maximum(&is_earlier)?;
        }
        let never = Tensor::new(f32::NEG_INFINITY, device)?.broadcast_as(shape)?;
        is_hidden
            .where_cond(&never, &never.zeros_like()?)?
            .to_dtype(wide(dtype))?
            .reshape((batch, 1, 1, queries, keys))?
            .broadcast_as((batch, self.layout.kv_heads, 1, queries, keys))?
            .reshape((batch * self.layout.kv_heads, 1, queries, keys))
    }

    /// `q` `(n, group × queries, d)` and `k` `(n, keys, d)` for some heads → their probabilities
    /// `(n, group × queries, keys)`, widened; `hidden` is those heads' part.
    pub fn probabilities(&self, q: &Tensor, k: &Tensor, hidden: &Tensor) -> Result<Tensor> {
        let scores = (widen(&matmul(q, &k.t()?)?)? * f64::from(self.layout.scale))?;
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

/// Consecutive branches of similar size, and the location of their rows.
struct Chunk<'a> {
    padded: Padded<'a>,
    /// The row of each padded query, `(batch × queries)`: the branch's first one for padding.
    queries: Tensor,
    /// Which padded queries are real, `(batch × queries, 1)`; `None` if all are.
    real: Option<Tensor>,
    /// The row of each padded key, `(batch × keys)`: the first of the path for padding.
    keys: Tensor,
    /// The padded query of each of the branches' own rows.
    back: Tensor,
    hidden: Tensor,
}

impl<'a> Chunk<'a> {
    /// All branches; their own rows follow each other as in the batch.
    fn all(
        inputs: &AttentionInputs,
        layout: &'a Layout,
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<Self>> {
        let branches: Vec<&Branch> = layout.branches().collect();
        let mut chunks = Vec::new();
        let mut rest = &branches[..];
        while !rest.is_empty() {
            let (mut count, mut most, mut scores) = (0, (0, 0), 0);
            for branch in rest {
                let (own, len) = (branch.own().len(), branch.len());
                let with = (most.0.max(own), most.1.max(len));
                let padded = (count + 1) * with.0 * with.1;
                scores += own * len;
                if count > 0 && padded as f64 > scores as f64 * (1.0 + PADDING) {
                    break;
                }
                (count, most) = (count + 1, with);
            }
            let padded = Padded { layout, batch: count, queries: most.0, keys: most.1 };
            chunks.push(Self::new(padded, &rest[..count], inputs.window, dtype, device)?);
            rest = &rest[count..];
        }
        Ok(chunks)
    }

    fn new(
        padded: Padded<'a>,
        branches: &[&Branch],
        window: Option<usize>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let (mut real, mut back, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for branch in branches {
            let (own, past, filled) = (branch.own(), branch.past(), queries.len());
            back.extend((filled..filled + own.len()).map(|at| at as u32));
            for at in 0..padded.queries {
                let is_real = at < own.len();
                queries.push(if is_real { own.start + at } else { own.start } as u32);
                real.push(if is_real { 1f32 } else { 0.0 });
                positions.push((past + at) as u32);
            }
            let path = branch.path.iter().cloned().flatten().map(|row| row as u32);
            keys.extend(path);
            keys.resize(keys.len() + padded.keys - branch.len(), branch.path[0].start as u32);
        }
        let rows = queries.len();
        let real = (back.len() < rows).then(|| Tensor::from_vec(real, (rows, 1), device));
        Ok(Self {
            padded,
            queries: Tensor::new(queries, device)?,
            real: real.transpose()?.map(|real| real.to_dtype(dtype)).transpose()?,
            keys: Tensor::new(keys, device)?,
            back: Tensor::new(back, device)?,
            hidden: padded.hidden(&positions, window, dtype, device)?,
        })
    }

    /// The rows of `x` that are queries, and the inverse: own rows only.
    fn take_queries(&self, x: &Tensor, per: usize) -> Result<Tensor> {
        self.padded.by_head(&x.index_select(&self.queries, 0)?, self.padded.queries, per)
    }

    fn give_queries(&self, x: &Tensor) -> Result<Tensor> {
        let group = self.padded.layout.group();
        self.padded.by_row(x, self.padded.queries, group)?.index_select(&self.back, 0)
    }

    /// The rows of `x` on the paths.
    fn take_keys(&self, x: &Tensor) -> Result<Tensor> {
        self.padded.by_head(&x.index_select(&self.keys, 0)?, self.padded.keys, 1)
    }

    /// Adds each branch's part for the rows on its path.
    fn add_keys(&self, sum: &Tensor, x: &Tensor) -> Result<Tensor> {
        let rows = self.padded.by_row(x, self.padded.keys, 1)?;
        sum.index_add(&self.keys, &widen(&rows)?, 0)
    }
}

pub(crate) fn forward(inputs: &AttentionInputs, layout: &Layout) -> Result<Tensor> {
    let (dtype, device) = (inputs.q.dtype(), inputs.q.device());
    let mut chunks = Vec::new();
    for chunk in Chunk::all(inputs, layout, dtype, device)? {
        let q = chunk.take_queries(inputs.q, layout.group())?;
        let (k, v) = (chunk.take_keys(inputs.k)?, chunk.take_keys(inputs.v)?);
        let mut parts = Vec::new();
        for (first, count) in chunk.padded.parts() {
            let part = |x: &Tensor| x.narrow(0, first, count);
            let hidden = part(&chunk.hidden)?;
            let p = chunk.padded.probabilities(&part(&q)?, &part(&k)?, &hidden)?;
            parts.push(matmul(&p.to_dtype(dtype)?, &part(&v)?)?);
        }
        chunks.push(chunk.give_queries(&Tensor::cat(&parts, 0)?)?);
    }
    Tensor::cat(&chunks, 0)
}

pub(crate) fn backward(
    inputs: &AttentionInputs,
    layout: &Layout,
    d_y: &Tensor,
) -> Result<AttentionGradient> {
    let (dtype, device, group) = (inputs.q.dtype(), inputs.q.device(), layout.group());
    let zeros = |x: &Tensor| Tensor::zeros(x.shape(), wide(dtype), device);
    let (mut d_q, mut d_k, mut d_v) = (Vec::new(), zeros(inputs.k)?, zeros(inputs.v)?);
    for chunk in Chunk::all(inputs, layout, dtype, device)? {
        let q = chunk.take_queries(inputs.q, group)?;
        let (k, v) = (chunk.take_keys(inputs.k)?, chunk.take_keys(inputs.v)?);
        // Padding has no gradient, so its queries do not contribute to those of keys and values.
        let d_y = match &chunk.real {
            Some(real) => d_y.index_select(&chunk.queries, 0)?.broadcast_mul(real)?,
            None => d_y.index_select(&chunk.queries, 0)?,
        };
        let d_y = chunk.padded.by_head(&d_y, chunk.padded.queries, group)?;
        let (mut q_parts, mut k_parts, mut v_parts) = (Vec::new(), Vec::new(), Vec::new());
        for (first, count) in chunk.padded.parts() {
            let part = |x: &Tensor| x.narrow(0, first, count);
            let (q, k, v, d_y) = (part(&q)?, part(&k)?, part(&v)?, part(&d_y)?);
            let p = chunk.padded.probabilities(&q, &k, &part(&chunk.hidden)?)?;
            let d_p = widen(&matmul(&d_y, &v.t()?)?)?;
            let mean = (&p * &d_p)?.sum_keepdim(2)?;
            let d_s = ((&p * d_p.broadcast_sub(&mean)?)? * f64::from(layout.scale))?;
            let (d_s, p) = (d_s.to_dtype(dtype)?, p.to_dtype(dtype)?);
            let transposed = |x: &Tensor| x.t()?.contiguous();
            q_parts.push(matmul(&d_s, &k)?);
            k_parts.push(matmul(&transposed(&d_s)?, &q)?);
            v_parts.push(matmul(&transposed(&p)?, &d_y)?);
        }
        d_q.push(chunk.give_queries(&Tensor::cat(&q_parts, 0)?)?);
        d_k = chunk.add_keys(&d_k, &Tensor::cat(&k_parts, 0)?)?;
        d_v = chunk.add_keys(&d_v, &Tensor::cat(&v_parts, 0)?)?;
    }
    Ok(AttentionGradient {
        d_q: Tensor::cat(&d_q, 0)?,
        d_k: d_k.to_dtype(dtype)?,
        d_v: d_v.to_dtype(dtype)?,
    })
}
