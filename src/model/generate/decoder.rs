//! A pass of a model on the CPU over tokens of several sequences, each with its own cache.

use std::sync::Arc;

use rayon::prelude::*;

use super::adapter::{AdaptedLayer, PackedAdapter, PackedPair};
use super::decode::{Decode, Draw, SequenceCache, Span};
use super::kernels::Isa;
use super::kernels::attention::Attention;
use super::kernels::matmul::Matmul;
use super::kernels::quantized::{self, Inputs};
use super::kernels::rows::{Gated, NormRotate, RmsNorm};
use super::kernels::simd::{LANES, Line};
use super::kv_cache::{KvCache, KvLayout};
use super::sampler;
use super::weights::{PackedProjection, PackedWeights};
use crate::gguf::Gguf;
use crate::model::error::ModelError;
use crate::model::gguf_weights::GgufWeights;
use crate::model::lora::Adapter;
use crate::model::ops::types::first_seen;
use crate::model::rotary::RotaryTable;
use crate::model::spec::Spec;
use crate::model::weights::Weights;
use crate::trajectory::SampledToken;

/// A model ready to decode on the CPU: in f32, or with the quantised weights of a file.
///
/// Its results for a sequence are bit-identical whatever else is in the pass, however its tokens
/// are split into spans, and whether its cache was computed or taken from another sequence.
#[derive(Debug)]
pub struct Decoder {
    shape: Arc<Shape>,
    weights: PackedWeights,
    adapters: Arc<[PackedAdapter]>,
    /// Whether the threads share the work of a pass; otherwise each takes some sequences.
    is_shared: bool,
}

/// Data that does not depend on the weights.
#[derive(Debug)]
pub struct Shape {
    isa: Isa,
    spec: Spec,
    /// One for each of [`Spec::ropes`].
    rotary: Arc<[RotaryTable]>,
}

impl Shape {
    /// Prepares for a model of this shape on this CPU.
    pub fn new(spec: &Spec) -> Self {
        Self::on(Isa::detect(), spec)
    }

    pub(super) fn on(isa: Isa, spec: &Spec) -> Self {
        Self { isa, spec: spec.clone(), rotary: RotaryTable::all(spec) }
    }

    /// Width of the residual stream with its padding.
    fn stride(&self) -> usize {
        self.spec.hidden_size.next_multiple_of(self.isa.panel_lines() * LANES)
    }

    fn layout(&self) -> KvLayout {
        KvLayout {
            layers: self.spec.layers.len(),
            kv_heads: self.spec.num_key_value_heads,
            head_dim: self.spec.head_dim,
        }
    }
}

/// A row of a pass: one token.
#[derive(Debug, Clone, Copy)]
struct Row {
    span: usize,
    position: usize,
    logits: bool,
    adapter: Option<usize>,
}

/// Working memory of a pass, reused by the next.
#[derive(Debug, Default)]
pub struct Scratch {
    rows: Vec<Row>,
    x: Vec<f32>,
    normal: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    joined: Vec<f32>,
    logits: Vec<f32>,
    scores: Vec<Line>,
    rounded: Rounded,
    low: Vec<f32>,
}

/// Working memory of a product with quantised weights.
#[derive(Debug, Default)]
struct Rounded {
    inputs: Inputs,
    panels: Vec<f32>,
}

impl Decoder {
    /// Copies the weights to f32 on the CPU, wherever they are. This invalidates caches of other
    /// weights.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    pub fn new(shape: Arc<Shape>, weights: &Weights) -> Result<Self, ModelError> {
        let weights = PackedWeights::new(shape.isa, &shape.spec, weights)?;
        Ok(Self { shape, weights, adapters: Arc::default(), is_shared: false })
    }

    /// Takes the weights from a file: quantised ones unchanged, others in f32.
    ///
    /// # Errors
    /// When the file does not hold the weights of such a model.
    pub fn from_gguf(shape: Arc<Shape>, file: &Gguf) -> Result<Self, ModelError> {
        let source = GgufWeights::new(file, &shape.spec)?;
        let weights = PackedWeights::new(shape.isa, &shape.spec, &source)?;
        let is_shared = weights.is_quantized();
        Ok(Self { shape, weights, adapters: Arc::default(), is_shared })
    }

    /// The same with `adapters`, by which spans can be computed; the weights are not changed.
    ///
    /// # Errors
    /// When a tensor cannot be copied to the CPU.
    pub fn with_adapters(self, adapters: &[Adapter]) -> Result<Self, ModelError> {
        let adapters = adapters.iter().map(|adapter| PackedAdapter::new(&self.shape.spec, adapter));
        Ok(Self { adapters: adapters.collect::<Result<_, _>>()?, ..self })
    }

    /// Computes the tokens of all spans and appends them to their caches. Returns the logits of the
    /// spans that need them, in order: rows of `vocab_size`.
    ///
    /// # Panics
    /// On an id outside the vocabulary, or a sequence longer than the context.
    pub fn logits<'s>(
        &self,
        spans: &mut [Span<'_, KvCache>],
        scratch: &'s mut Scratch,
    ) -> impl Iterator<Item = &'s mut [f32]> + use<'s> {
        self.embed(spans, scratch);
        for index in 0..self.weights.layers.len() {
            self.attend(index, spans, scratch);
            self.feed_forward(index, scratch);
        }
        for span in spans {
            span.cache.advance(span.tokens.len());
        }
        let head = &self.weights.head;
        self.normalise(&self.weights.norm, scratch);
        let rows = &scratch.rows;
        let logits = sized(&mut scratch.logits, rows.len() * head.columns());
        let x = ProductInput { values: &scratch.normal, width: self.shape.spec.hidden_size, rows };
        self.multiply(x, head, logits, false, &mut scratch.rounded);
        let vocabulary = self.shape.spec.vocab_size;
        logits.chunks_exact_mut(head.columns()).map(move |row| &mut row[..vocabulary])
    }

    fn embed(&self, spans: &mut [Span<'_, KvCache>], scratch: &mut Scratch) {
        let (hidden, scale) = (self.shape.spec.hidden_size, self.shape.spec.embed_scale());
        let count = spans.iter().map(|span| span.tokens.len()).sum::<usize>();
        scratch.rows.clear();
        let mut rows = sized(&mut scratch.x, count * self.shape.stride())
            .chunks_exact_mut(self.shape.stride());
        for (index, span) in spans.iter_mut().enumerate() {
            span.cache.reserve(self.shape.layout(), span.tokens.len());
            for (offset, (&id, x)) in span.tokens.iter().zip(rows.by_ref()).enumerate() {
                self.weights.embedding(id, &mut x[..hidden]);
                x[..hidden].iter_mut().for_each(|x| *x *= scale);
                scratch.rows.push(Row {
                    span: index,
                    position: span.cache.len() + offset,
                    logits: span.logits && offset + 1 == span.tokens.len(),
                    adapter: span.adapter,
                });
            }
        }
    }

    /// Adds a layer's attention to the residual stream. From here on, the last layer skips rows
    /// whose logits are not needed: only their keys and values are.
    fn attend(&self, index: usize, spans: &mut [Span<'_, KvCache>], scratch: &mut Scratch) {
        let layer = &self.weights.layers[index];
        let spec = &self.shape.spec;
        let (queries, keys, kind) = (spec.query_width(), spec.key_width(), spec.layers[index]);
        let (keys_at, stride) = (queries.next_multiple_of(LANES), layer.qkv.columns());
        let values_at = keys_at + keys.next_multiple_of(LANES);

        self.normalise(&layer.input_norm, scratch);
        let rows = &scratch.rows;
        let qkv = sized(&mut scratch.qkv, rows.len() * stride);
        let x = ProductInput { values: &scratch.normal, width: spec.hidden_size, rows };
        self.multiply(x, &layer.qkv, qkv, false, &mut scratch.rounded);
        self.adapt(x, qkv, index, |layer| &layer.qkv, &mut scratch.low);
        for (row, qkv) in scratch.rows.iter().zip(qkv.chunks_exact_mut(stride)) {
            add(qkv, layer.qkv_bias.as_deref());
            let angles = self.shape.rotary[kind.rope].angles(row.position);
            let eps = spec.rms_norm_eps as f32;
            let norm = layer.q_norm.as_deref().map(|weight| (weight, eps));
            let (heads, scale) = (&mut qkv[..queries], spec.score_scale());
            self.shape.isa.run(NormRotate { heads, norm, angles, scale });
            let norm = layer.k_norm.as_deref().map(|weight| (weight, eps));
            let heads = &mut qkv[keys_at..keys_at + keys];
            self.shape.isa.run(NormRotate { heads, norm, angles, scale: 1.0 });
            let written = (&qkv[keys_at..keys_at + keys], &qkv[values_at..values_at + keys]);
            spans[row.span].cache.write(self.shape.layout(), index, row.position, written);
        }
        if index + 1 == self.weights.layers.len() {
            scratch.keep_wanted(self.shape.stride(), stride);
        }

        let attended = sized(&mut scratch.attended, scratch.rows.len() * queries);
        let caches: Vec<&KvCache> = spans.iter().map(|span| &*span.cache).collect();
        let attend = |scores: &mut Vec<Line>, row: &Row, qkv: &[f32], out: &mut [f32]| {
            self.shape.isa.run(Attention {
                queries: &qkv[..queries],
                out,
                blocks: caches[row.span].blocks(),
                layout: self.shape.layout(),
                layer: index,
                seen: first_seen(row.position, kind.window)..row.position + 1,
                scores,
            });
        };
        if self.is_shared && scratch.rows.len() > 1 {
            let rows = scratch.rows.par_iter().zip(scratch.qkv.par_chunks_exact(stride));
            rows.zip(attended.par_chunks_exact_mut(queries))
                .for_each_init(Vec::new, |scores, ((row, qkv), out)| attend(scores, row, qkv, out));
        } else {
            let rows = scratch.rows.iter().zip(scratch.qkv.chunks_exact(stride));
            for ((row, qkv), out) in rows.zip(attended.chunks_exact_mut(queries)) {
                attend(&mut scratch.scores, row, qkv, out);
            }
        }
        self.join(index, Input::Attended, scratch);
    }

    /// Adds a layer's gated feed-forward to the residual stream.
    fn feed_forward(&self, index: usize, scratch: &mut Scratch) {
        let layer = &self.weights.layers[index];
        let Spec { hidden_size: hidden, intermediate_size: width, .. } = self.shape.spec;
        let stride = layer.gate_up.columns();
        self.normalise(&layer.mlp_norm, scratch);
        let rows = &scratch.rows;
        let gate_up = sized(&mut scratch.gate_up, rows.len() * stride);
        let x = ProductInput { values: &scratch.normal, width: hidden, rows };
        self.multiply(x, &layer.gate_up, gate_up, false, &mut scratch.rounded);
        self.adapt(x, gate_up, index, |layer| &layer.gate_up, &mut scratch.low);
        let gated = sized(&mut scratch.gated, rows.len() * width);
        let up_at = width.next_multiple_of(LANES);
        let (a, b) = self.shape.spec.gate.polynomial();
        let polynomial = (a as f32, b as f32);
        for (row, out) in gate_up.chunks_exact(stride).zip(gated.chunks_exact_mut(width)) {
            let (gate, up) = (&row[..width], &row[up_at..up_at + width]);
            self.shape.isa.run(Gated { gate, up, out, polynomial });
        }
        self.join(index, Input::Gated, scratch);
    }

    /// Adds a layer's projection of `input` to the residual stream.
    fn join(&self, index: usize, input: Input, scratch: &mut Scratch) {
        let (rows, x_stride) = (&scratch.rows, self.shape.stride());
        let (layer, spec) = (&self.weights.layers[index], &self.shape.spec);
        let (joined, pairs, values, width): (_, Pairs, _, _) = match input {
            Input::Attended => {
                let width = spec.query_width();
                (&layer.attention, |layer| &layer.attention, &scratch.attended, width)
            }
            Input::Gated => {
                (&layer.mlp, |layer| &layer.mlp, &scratch.gated, spec.intermediate_size)
            }
        };
        let input = ProductInput { values, width, rows };
        let x = sized(&mut scratch.x, rows.len() * x_stride);
        let Some(norm) = &joined.norm else {
            self.multiply(input, &joined.weight, x, true, &mut scratch.rounded);
            self.adapt(input, x, index, pairs, &mut scratch.low);
            x.chunks_exact_mut(x_stride).for_each(|x| add(x, joined.bias.as_deref()));
            return;
        };
        let hidden = spec.hidden_size;
        let made = sized(&mut scratch.joined, rows.len() * x_stride);
        self.multiply(input, &joined.weight, made, false, &mut scratch.rounded);
        self.adapt(input, made, index, pairs, &mut scratch.low);
        let normal = sized(&mut scratch.normal, hidden);
        let eps = spec.rms_norm_eps as f32;
        for (made, x) in made.chunks_exact_mut(x_stride).zip(x.chunks_exact_mut(x_stride)) {
            add(made, joined.bias.as_deref());
            let out = &mut *normal;
            self.shape.isa.run(RmsNorm { x: &made[..hidden], weight: norm, out, eps });
            add(x, Some(normal));
        }
    }

    fn normalise(&self, weight: &[f32], scratch: &mut Scratch) {
        let hidden = self.shape.spec.hidden_size;
        let rows = scratch.rows.len();
        let normal = sized(&mut scratch.normal, rows * hidden);
        let x = scratch.x.chunks_exact(self.shape.stride());
        for (x, out) in x.zip(normal.chunks_exact_mut(hidden)) {
            let eps = self.shape.spec.rms_norm_eps as f32;
            self.shape.isa.run(RmsNorm { x: &x[..hidden], weight, out, eps });
        }
    }

    /// Adds the output of each row's adapter to the rows of a product; `pairs` selects the part of
    /// a layer's adapter that belongs to the product.
    fn adapt(
        &self,
        x: ProductInput<'_>,
        out: &mut [f32],
        index: usize,
        pairs: Pairs,
        low: &mut Vec<f32>,
    ) {
        let rows = x.rows;
        if rows.iter().all(|row| row.adapter.is_none()) {
            return;
        }
        let (isa, stride) = (self.shape.isa, out.len() / rows.len());
        let adapt = |low: &mut Vec<f32>, row: &Row, x: &[f32], out: &mut [f32]| {
            let adapter = row.adapter.map(|adapter| &self.adapters[adapter]);
            for pair in adapter.into_iter().flat_map(|adapter| pairs(&adapter.layers[index])) {
                pair.add(isa, x, out, low);
            }
        };
        if self.is_shared && rows.len() > 1 {
            let rows = rows.par_iter().zip(x.values.par_chunks_exact(x.width));
            rows.zip(out.par_chunks_exact_mut(stride))
                .for_each_init(Vec::new, |low, ((row, x), out)| adapt(low, row, x, out));
        } else {
            let rows = rows.iter().zip(x.values.chunks_exact(x.width));
            for ((row, x), out) in rows.zip(out.chunks_exact_mut(stride)) {
                adapt(low, row, x, out);
            }
        }
    }

    /// `out = x · Wᵀ`, or adds it to `out`.
    fn multiply(
        &self,
        x: ProductInput<'_>,
        weight: &PackedProjection,
        out: &mut [f32],
        add: bool,
        rounded: &mut Rounded,
    ) {
        let (isa, ProductInput { values: x, width, rows }) = (self.shape.isa, x);
        let rows = rows.len();
        match weight {
            PackedProjection::Float(weight) => {
                isa.run(Matmul { x, stride: width, weight, out, add })
            }
            PackedProjection::Quantized(weight) => {
                rounded.inputs.round(isa, x, width, width, rows);
                let Rounded { inputs, panels } = rounded;
                quantized::multiply(isa, inputs, weight, out, add, panels);
            }
        }
    }
}

/// Of what an adapter adds to a layer, the part that belongs to one product.
type Pairs = fn(&AdaptedLayer) -> &[PackedPair];

/// The left side of a product: the first values of a buffer, `(rows, width)`.
#[derive(Clone, Copy)]
struct ProductInput<'a> {
    values: &'a [f32],
    width: usize,
    rows: &'a [Row],
}

impl Decode for Decoder {
    type Cache = KvCache;
    type Scratch = Scratch;

    fn is_divided(&self) -> bool {
        !self.is_shared
    }

    fn context(&self) -> usize {
        self.shape.spec.max_position_embeddings
    }

    fn with_weights(&self, weights: &Weights) -> Result<Self, ModelError> {
        let adapters = Arc::clone(&self.adapters);
        Ok(Self { adapters, ..Self::new(Arc::clone(&self.shape), weights)? })
    }

    /// Host memory is not limited: a pass allocates what it needs.
    fn reserve(&self, _: &mut KvCache, _: usize) -> bool {
        true
    }

    fn sample(
        &self,
        spans: &mut [Span<'_, KvCache>],
        scratch: &mut Scratch,
        draws: &mut [Draw<'_>],
    ) -> Result<Vec<SampledToken>, ModelError> {
        let rows = self.logits(spans, scratch).zip(draws);
        Ok(rows.map(|(logits, draw)| sampler::sample(logits, &draw.sampling, draw.rng)).collect())
    }
}

impl Scratch {
    /// Moves the rows whose logits are needed to the front and drops the others.
    fn keep_wanted(&mut self, x_stride: usize, qkv_stride: usize) {
        let mut kept = 0;
        for index in 0..self.rows.len() {
            if self.rows[index].logits {
                self.rows[kept] = self.rows[index];
                self.x.copy_within(index * x_stride..(index + 1) * x_stride, kept * x_stride);
                self.qkv
                    .copy_within(index * qkv_stride..(index + 1) * qkv_stride, kept * qkv_stride);
                kept += 1;
            }
        }
        self.rows.truncate(kept);
    }
}

/// The input of a projection into the residual stream.
#[derive(Clone, Copy)]
enum Input {
    Attended,
    Gated,
}

/// Adds to the first values of a row.
fn add(row: &mut [f32], addend: Option<&[f32]>) {
    if let Some(addend) = addend {
        row.iter_mut().zip(addend).for_each(|(value, addend)| *value += addend);
    }
}

/// The first `len` floats of a buffer that only grows.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
