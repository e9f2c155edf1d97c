//! A model's weights as the decoder reads them.

use candle_core::{DType, Device};

use super::kernels::Isa;
use super::kernels::matmul::Packed;
use super::kernels::quantized::{Matrix, StoredRows};
use super::kernels::simd::LANES;
use crate::model::error::ModelError;
use crate::model::gguf_weights::GgufWeights;
use crate::model::slots::{EMBED, HEAD, NORM, Slot};
use crate::model::spec::Spec;
use crate::model::weights::Weights;

/// One layer: norm weights ready to multiply by, projections of the same input packed into one.
#[derive(Debug)]
pub(super) struct PackedLayer {
    pub input_norm: Vec<f32>,
    pub qkv: PackedProjection,
    /// Of all columns of `qkv`.
    pub qkv_bias: Option<Vec<f32>>,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub attention: Joined,
    pub mlp_norm: Vec<f32>,
    pub gate_up: PackedProjection,
    pub mlp: Joined,
}

/// A projection into the residual stream.
#[derive(Debug)]
pub(super) struct Joined {
    pub weight: PackedProjection,
    pub bias: Option<Vec<f32>>,
    /// Of the projection, before it joins the stream.
    pub norm: Option<Vec<f32>>,
}

/// A projection, in f32 or as in its file.
#[derive(Debug)]
pub(super) enum PackedProjection {
    Float(Packed),
    Quantized(Matrix),
}

impl PackedProjection {
    /// Columns of the product, padding included.
    pub fn columns(&self) -> usize {
        match self {
            Self::Float(packed) => packed.columns(),
            Self::Quantized(matrix) => matrix.columns(),
        }
    }

    pub fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }
}

/// The embedding, `(vocab, hidden)`.
#[derive(Debug)]
pub(super) enum Table {
    Float(Vec<f32>),
    Quantized(Matrix),
    /// It is the quantised output projection.
    Head,
}

/// A copy of all weights on the CPU: in f32, or quantised as in their file.
#[derive(Debug)]
pub(super) struct PackedWeights {
    pub embed: Table,
    pub layers: Vec<PackedLayer>,
    pub norm: Vec<f32>,
    pub head: PackedProjection,
}

/// A weight of a model.
#[derive(Debug, Clone, Copy)]
pub(super) enum WeightId {
    Embed,
    Norm,
    Head,
    Layer(usize, Slot),
}

/// A source of weights.
pub(super) trait WeightSource {
    /// A weight in f32, row by row.
    fn floats(&self, id: WeightId) -> Result<Vec<f32>, ModelError>;

    /// Matrices of this depth, one below the other, unchanged; `None` if they are not all
    /// quantised.
    fn quantized(&self, depth: usize, ids: &[WeightId]) -> Result<Option<Matrix>, ModelError>;

    /// Unchanged if they are quantised, otherwise in f32.
    fn projection(
        &self,
        isa: Isa,
        depth: usize,
        ids: &[WeightId],
    ) -> Result<PackedProjection, ModelError> {
        if let Some(matrix) = self.quantized(depth, ids)? {
            return Ok(PackedProjection::Quantized(matrix));
        }
        let matrices = ids.iter().map(|&id| self.floats(id));
        let matrices = matrices.collect::<Result<Vec<_>, _>>()?;
        let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        Ok(PackedProjection::Float(Packed::new(isa, depth, &matrices)))
    }
}

impl WeightSource for Weights {
    fn floats(&self, id: WeightId) -> Result<Vec<f32>, ModelError> {
        let tensor = match id {
            WeightId::Embed => &self.embed,
            WeightId::Norm => &self.norm,
            WeightId::Head => self.output(),
            WeightId::Layer(index, slot) => self.layers[index].need(slot)?,
        };
        let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        Ok(tensor.flatten_all()?.to_vec1()?)
    }

    fn quantized(&self, _: usize, _: &[WeightId]) -> Result<Option<Matrix>, ModelError> {
        Ok(None)
    }
}

impl WeightSource for GgufWeights<'_> {
    fn floats(&self, id: WeightId) -> Result<Vec<f32>, ModelError> {
        let (name, shape) = self.named(id)?;
        GgufWeights::floats(self, &name, &shape)
    }

    fn quantized(&self, depth: usize, ids: &[WeightId]) -> Result<Option<Matrix>, ModelError> {
        let mut tensors = Vec::with_capacity(ids.len());
        for &id in ids {
            let (name, shape) = self.named(id)?;
            tensors.push(self.rows(&name, &shape)?);
        }
        let rows: Vec<StoredRows<'_>> = tensors
            .iter()
            .map(|(tensor, order)| StoredRows {
                kind: tensor.kind,
                data: tensor.data,
                order: order.as_deref(),
            })
            .collect();
        Ok(Matrix::new(depth, &rows))
    }
}

impl GgufWeights<'_> {
    /// A weight's name in checkpoints, and its shape.
    fn named(&self, id: WeightId) -> Result<(String, Vec<usize>), ModelError> {
        let spec = self.spec();
        let table = vec![spec.vocab_size, spec.hidden_size];
        Ok(match id {
            WeightId::Norm => (NORM.to_owned(), vec![spec.hidden_size]),
            WeightId::Head if !spec.tie_word_embeddings => (HEAD.to_owned(), table),
            WeightId::Embed | WeightId::Head => (EMBED.to_owned(), table),
            WeightId::Layer(index, slot) => match slot.shape(spec) {
                Some(shape) => (slot.name(spec, index), shape),
                None => return Err(ModelError::Batch(format!("the layer has no {slot:?}"))),
            },
        })
    }
}

impl PackedWeights {
    pub fn new(isa: Isa, spec: &Spec, source: &impl WeightSource) -> Result<Self, ModelError> {
        let head = source.projection(isa, spec.hidden_size, &[WeightId::Head])?;
        let embed = if spec.tie_word_embeddings && head.is_quantized() {
            Table::Head
        } else {
            match source.quantized(spec.hidden_size, &[WeightId::Embed])? {
                Some(matrix) => Table::Quantized(matrix),
                None => Table::Float(source.floats(WeightId::Embed)?),
            }
        };
        let layers = (0..spec.layers.len()).map(|index| Layer { isa, spec, source, index }.pack());
        Ok(Self {
            embed,
            layers: layers.collect::<Result<_, _>>()?,
            norm: shifted(spec, source.floats(WeightId::Norm)?),
            head,
        })
    }

    /// Writes a row of the embedding.
    pub fn embedding(&self, id: u32, out: &mut [f32]) {
        match (&self.embed, &self.head) {
            (Table::Float(values), _) => {
                out.copy_from_slice(&values[id as usize * out.len()..][..out.len()]);
            }
            (Table::Quantized(matrix), _) | (Table::Head, PackedProjection::Quantized(matrix)) => {
                matrix.read_row(id as usize, out);
            }
            // The head serves as the embedding only if it is quantised.
            (Table::Head, PackedProjection::Float(_)) => {}
        }
    }

    /// Whether any projection is quantised.
    pub fn is_quantized(&self) -> bool {
        self.head.is_quantized() || self.layers.iter().any(|layer| layer.qkv.is_quantized())
    }
}

/// A layer to be packed.
struct Layer<'a, S> {
    isa: Isa,
    spec: &'a Spec,
    source: &'a S,
    index: usize,
}

impl<S: WeightSource> Layer<'_, S> {
    fn pack(&self) -> Result<PackedLayer, ModelError> {
        let Spec { hidden_size, intermediate_size, .. } = *self.spec;
        let biases = [Slot::QueryBias, Slot::KeyBias, Slot::ValueBias];
        Ok(PackedLayer {
            input_norm: shifted(self.spec, self.floats(Slot::InputNorm)?),
            qkv: self.matrices(hidden_size, &[Slot::Query, Slot::Key, Slot::Value])?,
            qkv_bias: match self.spec.qkv_bias {
                true => Some(self.aligned(&biases)?),
                false => None,
            },
            q_norm: self.norm(Slot::QueryNorm)?,
            k_norm: self.norm(Slot::KeyNorm)?,
            attention: Joined {
                weight: self.matrices(self.spec.query_width(), &[Slot::Output])?,
                bias: self.optional(Slot::OutputBias)?,
                norm: self.norm(Slot::PostAttentionNorm)?,
            },
            mlp_norm: shifted(self.spec, self.floats(Slot::MlpNorm)?),
            gate_up: self.matrices(hidden_size, &[Slot::Gate, Slot::Up])?,
            mlp: Joined {
                weight: self.matrices(intermediate_size, &[Slot::Down])?,
                bias: None,
                norm: self.norm(Slot::PostMlpNorm)?,
            },
        })
    }

    fn matrices(&self, depth: usize, slots: &[Slot]) -> Result<PackedProjection, ModelError> {
        let ids: Vec<WeightId> =
            slots.iter().map(|&slot| WeightId::Layer(self.index, slot)).collect();
        self.source.projection(self.isa, depth, &ids)
    }

    fn floats(&self, slot: Slot) -> Result<Vec<f32>, ModelError> {
        self.source.floats(WeightId::Layer(self.index, slot))
    }

    fn optional(&self, slot: Slot) -> Result<Option<Vec<f32>>, ModelError> {
        slot.shape(self.spec).map(|_| self.floats(slot)).transpose()
    }

    /// Vectors one after another, each from a multiple of sixteen on, as the columns of a product
    /// are.
    fn aligned(&self, slots: &[Slot]) -> Result<Vec<f32>, ModelError> {
        let mut all = Vec::new();
        for &slot in slots {
            all.resize(all.len().next_multiple_of(LANES), 0.0);
            all.extend(self.floats(slot)?);
        }
        Ok(all)
    }

    fn norm(&self, slot: Slot) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.optional(slot)?.map(|weight| shifted(self.spec, weight)))
    }
}

/// The factor on normalised values, for a norm's weight.
fn shifted(spec: &Spec, weight: Vec<f32>) -> Vec<f32> {
    weight.into_iter().map(|weight| weight + spec.norm_offset).collect()
}
