//! Weights out of a GGUF file, in the order and the scale that checkpoints have.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::error::ModelError;
use super::slots::{EMBED, HEAD, NORM, Slot};
use super::spec::{Family, Spec};
use super::weights::Weights;
use crate::gguf::Gguf;

/// What converters do to a tensor, to be undone.
#[derive(Debug, Clone, Copy)]
enum Stored {
    /// Nothing.
    AsIs,
    /// A norm with its offset added.
    Shifted,
    /// The rows of each of so many heads are interleaved: those of the first half of a head with those
    /// of the second.
    Interleaved(usize),
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
        let invalid = |reason: String| ModelError::Invalid { path: file.path().into(), reason };
        let names = names(spec);
        let known = |name: &str| {
            name == "rope_freqs.weight" || names.values().any(|(known, _)| known == name)
        };
        if let Some((name, _)) = file.tensors().find(|(name, _)| !known(name)) {
            return Err(invalid(format!("holds `{name}`, which this kind of model does not use")));
        }
        Self::build(spec, |name, shape| {
            let Some((name, stored)) = names.get(name) else {
                return Err(invalid(format!("has no place for `{name}`")));
            };
            let tensor =
                file.tensor(name).ok_or_else(|| invalid(format!("has no tensor `{name}`")))?;
            if tensor.shape != shape {
                return Err(invalid(format!(
                    "`{name}` has shape {:?}, the file's settings ask for {shape:?}",
                    tensor.shape
                )));
            }
            let mut values = tensor.to_f32();
            match *stored {
                Stored::AsIs => {}
                Stored::Shifted => values.iter_mut().for_each(|x| *x -= spec.norm_offset),
                Stored::Interleaved(heads) => values = apart(&values, shape[0], heads),
            }
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
        })
    }
}

/// For each checkpoint name the file's, and how the tensor is stored there.
fn names(spec: &Spec) -> HashMap<String, (String, Stored)> {
    let mut names = HashMap::from([
        (EMBED.to_owned(), ("token_embd.weight".to_owned(), Stored::AsIs)),
        (NORM.to_owned(), ("output_norm.weight".to_owned(), Stored::Shifted)),
        (HEAD.to_owned(), ("output.weight".to_owned(), Stored::AsIs)),
    ]);
    for layer in 0..spec.layers.len() {
        for slot in Slot::ALL.into_iter().filter(|slot| slot.shape(spec).is_some()) {
            names.insert(slot.name(spec, layer), (slot.gguf_name(layer), stored(spec, slot)));
        }
    }
    names
}

fn stored(spec: &Spec, slot: Slot) -> Stored {
    let is_interleaved = spec.family == Family::Llama;
    match slot {
        Slot::Query | Slot::QueryBias if is_interleaved => {
            Stored::Interleaved(spec.num_attention_heads)
        }
        Slot::Key | Slot::KeyBias if is_interleaved => {
            Stored::Interleaved(spec.num_key_value_heads)
        }
        Slot::InputNorm
        | Slot::QueryNorm
        | Slot::KeyNorm
        | Slot::PostAttentionNorm
        | Slot::MlpNorm
        | Slot::PostMlpNorm => Stored::Shifted,
        _ => Stored::AsIs,
    }
}

/// The rows of each head with the two halves one after the other again.
fn apart(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, head) = (values.len() / rows, rows / heads);
    let mut ordered = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (first, within) = (row / head * head, row % head);
        let from = first + 2 * (within % (head / 2)) + within / (head / 2);
        ordered.extend_from_slice(&values[from * width..(from + 1) * width]);
    }
    ordered
}
