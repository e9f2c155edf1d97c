//! One pass through a model: its launches, in order.

use candle_core::{Result, Tensor};

use super::Fused;
use super::inputs::Inputs;
use super::launch::{Address, Launcher, NULL, address};
use crate::model::generate::device::kv_pool::{KvPool, LayerMemory};
use crate::model::generate::device::rows::Rows;
use crate::model::lora::Adapter;
use crate::model::slots::{Projection, Slot};
use crate::model::spec::Spec;
use crate::model::weights::{LayerWeights, Weights};

/// The activations of a pass, `(rows, width)` each; every layer writes them anew.
struct Buffers {
    /// The residual stream.
    stream: Tensor,
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    gate: Tensor,
    up: Tensor,
    /// What a layer with post-norms adds to the stream.
    added: Tensor,
}

impl Buffers {
    fn new(spec: &Spec, rows: usize, launcher: &Launcher) -> Result<Self> {
        let make = |width| launcher.buffer(rows, width);
        Ok(Self {
            stream: make(spec.hidden_size)?,
            normed: make(spec.hidden_size)?,
            q: make(spec.query_width())?,
            k: make(spec.key_width())?,
            v: make(spec.key_width())?,
            attended: make(spec.query_width())?,
            gate: make(spec.intermediate_size)?,
            up: make(spec.intermediate_size)?,
            added: make(spec.hidden_size)?,
        })
    }
}

/// What joins the residual stream before a norm; 0 for what a model does not have.
#[derive(Clone, Copy, Default)]
struct Addition {
    addend: Address,
    bias: Address,
    post: Address,
}

/// The rows of a pass on their way through a model.
pub(super) struct Pass<'a> {
    fused: &'a Fused,
    spec: &'a Spec,
    adapter: Option<&'a Adapter>,
    inputs: Inputs,
    buffers: Buffers,
    rows: usize,
}

impl<'a> Pass<'a> {
    pub fn new(
        fused: &'a Fused,
        spec: &'a Spec,
        adapter: Option<&'a Adapter>,
        rows: &Rows<'_>,
    ) -> Result<Self> {
        let count = rows.ids.len();
        Ok(Self {
            fused,
            spec,
            adapter,
            inputs: Inputs::upload(rows, &fused.launcher.device)?,
            buffers: Buffers::new(spec, count, &fused.launcher)?,
            rows: count,
        })
    }

    /// The logits of the wanted rows, of which there are so many; `None` if there are none. Keys
    /// and values are written to the pool.
    pub fn logits(
        &self,
        weights: &Weights,
        pool: &KvPool,
        wanted: usize,
    ) -> Result<Option<Tensor>> {
        self.embed(weights)?;
        let mut before = None;
        for (index, layer) in weights.layers.iter().enumerate() {
            self.keys_and_values(index, before, layer, pool.layer(index))?;
            if wanted == 0 && index + 1 == weights.layers.len() {
                return Ok(None);
            }
            self.attend(index, pool.layer(index))?;
            let attended = &self.buffers.attended;
            self.join(index, layer, Projection::Output, attended, Slot::PostAttentionNorm)?;
            self.feed_forward(index, layer)?;
            before = Some(layer);
        }
        self.head(weights, before, wanted).map(Some)
    }

    fn embed(&self, weights: &Weights) -> Result<()> {
        let launcher = &self.fused.launcher;
        let (width, scale) = (self.spec.hidden_size as i32, self.spec.embed_scale());
        let (table, stream) = (address(&weights.embed)?, address(&self.buffers.stream)?);
        launcher
            .kernel(&self.fused.embed)
            .args(&[self.inputs.ids, table, stream])
            .int(width)
            .float(scale)
            .launch((self.rows, 1, 1), (256, 1), 0)
    }

    /// Queries of a layer, and its keys and values in the pool.
    fn keys_and_values(
        &self,
        index: usize,
        before: Option<&LayerWeights>,
        layer: &LayerWeights,
        memory: &LayerMemory,
    ) -> Result<()> {
        let Buffers { normed, q, k, v, .. } = &self.buffers;
        self.normalize(self.after(before)?, layer.need(Slot::InputNorm)?, normed, None)?;
        self.project(index, layer, Projection::Query, normed, q, 0.0)?;
        self.project(index, layer, Projection::Key, normed, k, 0.0)?;
        self.project(index, layer, Projection::Value, normed, v, 0.0)?;
        self.place_heads(index, layer, memory)
    }

    fn feed_forward(&self, index: usize, layer: &LayerWeights) -> Result<()> {
        let Buffers { normed, gate, up, .. } = &self.buffers;
        let addition = self.addition(layer, Slot::PostAttentionNorm, Some(Slot::OutputBias))?;
        self.normalize(addition, layer.need(Slot::MlpNorm)?, normed, None)?;
        self.project(index, layer, Projection::Gate, normed, gate, 0.0)?;
        self.project(index, layer, Projection::Up, normed, up, 0.0)?;
        let count = gate.elem_count();
        let (a, b) = self.spec.gate.polynomial();
        self.fused
            .launcher
            .kernel(&self.fused.gated)
            .args(&[address(gate)?, address(up)?, count as u64])
            .float(a as f32)
            .float(b as f32)
            .launch((count.div_ceil(256), 1, 1), (256, 1), 0)?;
        self.join(index, layer, Projection::Down, gate, Slot::PostMlpNorm)
    }

    /// Logits of the wanted rows.
    fn head(
        &self,
        weights: &Weights,
        last: Option<&LayerWeights>,
        wanted: usize,
    ) -> Result<Tensor> {
        let launcher = &self.fused.launcher;
        let addition = self.after(last)?;
        let normed = launcher.buffer(wanted, self.spec.hidden_size)?;
        self.normalize(addition, &weights.norm, &normed, Some(self.inputs.wanted))?;
        let logits = launcher.buffer(wanted, self.spec.vocab_size)?;
        launcher.multiply(&normed, weights.output(), &logits, 1.0, 0.0)?;
        Ok(logits)
    }

    /// What a layer left to be added to the stream.
    fn after(&self, layer: Option<&LayerWeights>) -> Result<Addition> {
        layer.map_or(Ok(Addition::default()), |layer| self.addition(layer, Slot::PostMlpNorm, None))
    }

    /// What the last [`Pass::join`] before a norm left to be added there.
    fn addition(&self, layer: &LayerWeights, post: Slot, bias: Option<Slot>) -> Result<Addition> {
        let optional = |slot| layer.get(slot).map_or(Ok(NULL), address);
        let post = optional(post)?;
        let addend = if post == NULL { NULL } else { address(&self.buffers.added)? };
        Ok(Addition { addend, bias: bias.map_or(Ok(NULL), optional)?, post })
    }

    /// Norms of the stream's rows after `addition`: of all, or of those in a list.
    fn normalize(
        &self,
        addition: Addition,
        weight: &Tensor,
        normed: &Tensor,
        listed: Option<Address>,
    ) -> Result<()> {
        let width = self.spec.hidden_size;
        let Addition { addend, bias, post } = addition;
        let (stream, to) = (address(&self.buffers.stream)?, address(normed)?);
        let rows = listed.unwrap_or(NULL);
        self.fused
            .launcher
            .kernel(&self.fused.normalize)
            .args(&[stream, addend, bias, post, address(weight)?, to, rows])
            .int(width as i32)
            .float(self.spec.rms_norm_eps as f32)
            .float(self.spec.norm_offset)
            .launch((normed.dim(0)?, 1, 1), (256, 1), width * size_of::<f32>())
    }

    fn place_heads(&self, index: usize, layer: &LayerWeights, memory: &LayerMemory) -> Result<()> {
        let Buffers { q, k, v, .. } = &self.buffers;
        let optional = |slot| layer.get(slot).map_or(Ok(NULL), address);
        let (frequencies, factor) = &self.fused.ropes[self.spec.layers[index].rope];
        let (heads, kv_heads) = (self.spec.num_attention_heads, self.spec.num_key_value_heads);
        let warps = 4;
        self.fused
            .launcher
            .kernel(&self.fused.place_heads)
            .args(&[address(q)?, address(k)?, address(v)?])
            .args(&[optional(Slot::QueryBias)?, optional(Slot::KeyBias)?])
            .args(&[optional(Slot::ValueBias)?])
            .args(&[optional(Slot::QueryNorm)?, optional(Slot::KeyNorm)?, address(frequencies)?])
            .args(&[self.inputs.positions, self.inputs.slots])
            .args(&[address(&memory.keys)?, address(&memory.values)?])
            .int(heads as i32)
            .int(kv_heads as i32)
            .float(*factor)
            .float(self.spec.rms_norm_eps as f32)
            .float(self.spec.norm_offset)
            .launch((self.rows, (heads + 2 * kv_heads).div_ceil(warps), 1), (32, warps), 0)
    }

    fn attend(&self, index: usize, memory: &LayerMemory) -> Result<()> {
        let Inputs { positions, sequences, tables, table_width, longest, .. } = self.inputs;
        let (fused, spec) = (self.fused, self.spec);
        let kv_heads = spec.num_key_value_heads;
        // Few rows with many keys: more threads for each.
        let warps = if longest > 512 { 8 } else { 4 };
        let shared = warps * fused.heads * (spec.head_dim + 2) * size_of::<f32>();
        let window = spec.layers[index].window.unwrap_or(0);
        fused
            .launcher
            .kernel(&fused.attend)
            .args(&[address(&self.buffers.q)?, address(&memory.keys)?, address(&memory.values)?])
            .args(&[positions, sequences, tables, address(&self.buffers.attended)?])
            .int(table_width as i32)
            .int(kv_heads as i32)
            .int(window as i32)
            .float(spec.score_scale())
            .launch(
                (self.rows, kv_heads, spec.group().div_ceil(fused.heads)),
                (32 * warps, 1),
                shared,
            )
    }

    /// `y = x·Wᵀ + beta·y` with the adapter's part, without the bias.
    fn project(
        &self,
        index: usize,
        layer: &LayerWeights,
        which: Projection,
        x: &Tensor,
        y: &Tensor,
        beta: f32,
    ) -> Result<()> {
        let launcher = &self.fused.launcher;
        launcher.multiply(x, layer.need(which.slot())?, y, 1.0, beta)?;
        let Some(delta) = self.adapter.and_then(|adapter| adapter.delta(index, which)) else {
            return Ok(());
        };
        let down = launcher.buffer(self.rows, delta.a.dim(0)?)?;
        launcher.multiply(x, &delta.a, &down, delta.scale as f32, 0.0)?;
        launcher.multiply(&down, &delta.b, y, 1.0, 1.0)
    }

    /// Adds a projection to the residual stream; with a post-norm, leaves it to be added by the
    /// next norm.
    fn join(
        &self,
        index: usize,
        layer: &LayerWeights,
        which: Projection,
        x: &Tensor,
        post: Slot,
    ) -> Result<()> {
        match layer.get(post) {
            Some(_) => self.project(index, layer, which, x, &self.buffers.added, 0.0),
            None => self.project(index, layer, which, x, &self.buffers.stream, 1.0),
        }
    }
}
