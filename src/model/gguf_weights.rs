//! Loads weights from a GGUF file, in the order and the scale of checkpoints.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::error::ModelError;
use super::finite::not_finite;
use super::slots::{EMBED, HEAD, NORM, Slot, tensors};
use super::spec::{Family, Spec};
use super::weights::Weights;
use crate::gguf::{Gguf, TensorView};
use crate::hint::Reason;

/// What to do about tensors that are not those of the settings.
const MISFIT: &str = "its settings and its tensors do not fit: download it again, or convert the original model anew";

/// What converters do to a tensor, to be undone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Conversion {
    /// Nothing.
    AsIs,
    /// A norm with its offset added.
    Shifted,
    /// The rows of each of so many heads are interleaved: those of the first half of a head with
    /// those of the second.
    Interleaved(usize),
}

/// The tensors of a file by their names in checkpoints.
#[derive(Debug)]
pub(super) struct GgufWeights<'a> {
    file: &'a Gguf,
    spec: &'a Spec,
    names: HashMap<String, (String, Conversion)>,
}

impl<'a> GgufWeights<'a> {
    /// # Errors
    /// When the file has a tensor that the model would not use, or one is missing or has another
    /// shape.
    pub fn new(file: &'a Gguf, spec: &'a Spec) -> Result<Self, ModelError> {
        let names = names(spec);
        let known = |name: &str| {
            name == "rope_freqs.weight" || names.values().any(|(known, _)| known == name)
        };
        if let Some((name, _)) = file.tensors().find(|(name, _)| !known(name)) {
            let text = format!("holds `{name}`, which this kind of model does not use");
            let reason = Reason::from(text).with_hint(MISFIT);
            return Err(ModelError::Invalid { path: file.path().into(), reason });
        }
        let weights = Self { file, spec, names };
        for (name, shape) in tensors(spec) {
            weights.find(&name, &shape)?;
        }
        Ok(weights)
    }

    pub fn spec(&self) -> &Spec {
        self.spec
    }

    /// The tensor of a checkpoint's name, and the row that belongs at each place, unless they are
    /// in order.
    ///
    /// # Errors
    /// When it is missing, has another shape, or a quantised value is not finite.
    pub fn rows(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<(TensorView<'a>, Option<Vec<usize>>), ModelError> {
        let (tensor, stored) = self.find(name, shape)?;
        // Others are read once more as numbers.
        if tensor.kind.block_len() > 1 {
            self.finite(name, tensor)?;
        }
        let order = match stored {
            Conversion::Interleaved(heads) => Some(deinterleaved_rows(shape[0], heads)),
            _ => None,
        };
        Ok((tensor, order))
    }

    /// The values of a checkpoint's name.
    ///
    /// # Errors
    /// When it is missing, has another shape, or a value is not finite.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (tensor, stored) = self.find(name, shape)?;
        self.finite(name, tensor)?;
        let mut values = tensor.to_f32();
        match stored {
            Conversion::AsIs => {}
            Conversion::Shifted => values.iter_mut().for_each(|x| *x -= self.spec.norm_offset),
            Conversion::Interleaved(heads) => {
                let width = values.len() / shape[0];
                let order = deinterleaved_rows(shape[0], heads).into_iter();
                values = order.flat_map(|row| &values[row * width..][..width]).copied().collect();
            }
        }
        Ok(values)
    }

    /// Fails if a value of the tensor of a checkpoint's name is not finite.
    fn finite(&self, name: &str, tensor: TensorView<'_>) -> Result<(), ModelError> {
        if tensor.is_finite() {
            return Ok(());
        }
        let name = self.names.get(name).map_or(name, |(name, _)| name);
        Err(ModelError::Invalid { path: self.file.path().into(), reason: not_finite(name) })
    }

    fn find(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<(TensorView<'a>, Conversion), ModelError> {
        let invalid = |text: String| ModelError::Invalid {
            path: self.file.path().into(),
            reason: Reason::from(text).with_hint(MISFIT),
        };
        let Some((name, stored)) = self.names.get(name) else {
            return Err(invalid(format!("has no place for `{name}`")));
        };
        let tensor =
            self.file.tensor(name).ok_or_else(|| invalid(format!("has no tensor `{name}`")))?;
        if tensor.shape != shape {
            let found = &tensor.shape;
            let text =
                format!("`{name}` has shape {found:?}, the file's settings ask for {shape:?}");
            return Err(invalid(text));
        }
        Ok((tensor, *stored))
    }
}

impl Weights {
    /// Reads the tensors of `file`, dequantised.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn from_gguf(
        file: &Gguf,
        spec: &Spec,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let weights = GgufWeights::new(file, spec)?;
        Self::build(spec, |name, shape| {
            let values = weights.floats(name, shape)?;
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
        })
    }
}

/// For each checkpoint name, the name in the file and how the tensor is stored there.
pub(super) fn names(spec: &Spec) -> HashMap<String, (String, Conversion)> {
    let mut names = HashMap::from([
        (EMBED.to_owned(), ("token_embd.weight".to_owned(), Conversion::AsIs)),
        (NORM.to_owned(), ("output_norm.weight".to_owned(), Conversion::Shifted)),
        (HEAD.to_owned(), ("output.weight".to_owned(), Conversion::AsIs)),
    ]);
    for layer in 0..spec.layers.len() {
        for slot in Slot::ALL.into_iter().filter(|slot| slot.shape(spec).is_some()) {
            names.insert(slot.name(spec, layer), (slot.gguf_name(layer), stored(spec, slot)));
        }
    }
    names
}

fn stored(spec: &Spec, slot: Slot) -> Conversion {
    let is_interleaved = spec.family == Family::Llama;
    match slot {
        Slot::Query | Slot::QueryBias if is_interleaved => {
            Conversion::Interleaved(spec.num_attention_heads)
        }
        Slot::Key | Slot::KeyBias if is_interleaved => {
            Conversion::Interleaved(spec.num_key_value_heads)
        }
        Slot::InputNorm
        | Slot::QueryNorm
        | Slot::KeyNorm
        | Slot::PostAttentionNorm
        | Slot::MlpNorm
        | Slot::PostMlpNorm => Conversion::Shifted,
        _ => Conversion::AsIs,
    }
}

/// Which row belongs at each place so that the two halves of each head are consecutive again.
pub(super) fn deinterleaved_rows(rows: usize, heads: usize) -> Vec<usize> {
    let head = rows / heads;
    let from = |row: usize| {
        let (first, within) = (row / head * head, row % head);
        first + 2 * (within % (head / 2)) + within / (head / 2)
    };
    (0..rows).map(from).collect()
}
