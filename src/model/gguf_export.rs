//! Exports weights to a GGUF file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device};

use super::error::ModelError;
use super::gguf_weights::{Stored, apart, names};
use super::spec::{Family, Spec};
use super::weights::Weights;
use crate::atomic_file::replace;
use crate::gguf::{Entry, TensorType, Writer, is_finite, quantize};
use crate::hint::Reason;

/// The types that weights can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// Blocks of 32 numbers of 8 bits with a scale; matrices whose rows are not whole blocks in f16.
    Q8_0,
}

impl GgufType {
    fn of(self, shape: &[usize]) -> TensorType {
        match (self, shape) {
            // Norms and biases are few.
            (Self::F32, _) | (_, [_]) => TensorType::F32,
            (Self::Q8_0, [.., columns]) if columns.is_multiple_of(TensorType::Q8_0.block_len()) => {
                TensorType::Q8_0
            }
            _ => TensorType::F16,
        }
    }

    /// Its number in `general.file_type`.
    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }
}

impl Weights {
    /// Writes a GGUF file atomically, with `settings` besides those of the model.
    ///
    /// # Errors
    /// When the format cannot express the model, and when the file cannot be written.
    pub fn write_gguf(
        &self,
        spec: &Spec,
        settings: Vec<(String, Entry)>,
        kind: GgufType,
        to: &Path,
    ) -> Result<(), ModelError> {
        let shown = to.display().to_string();
        let invalid = |reason: Reason| ModelError::Invalid { path: shown.clone(), reason };
        let own = spec.to_gguf().map_err(|reason| {
            invalid(format!("GGUF files cannot hold this model: {reason}").into())
        })?;
        let mut tensors = Vec::new();
        for tensor in self.gguf_tensors(spec) {
            let (name, shape, values) = tensor?;
            let kind = kind.of(&shape);
            let data = quantize(kind, &values)
                .ok_or_else(|| invalid(format!("{kind:?} cannot be written").into()))?;
            if !is_finite(kind, &data) {
                return Err(invalid(reason!(
                    "`{name}` holds values beyond the range of {kind:?}";
                    hint: "export it with `--type f32`"
                )));
            }
            tensors.push((name, kind, shape, data));
        }
        if let Some(factors) = spec.gguf_rope_factors() {
            let data = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push((
                "rope_freqs.weight".to_owned(),
                TensorType::F32,
                vec![factors.len()],
                data,
            ));
        }
        let mut writer = Writer::default();
        writer.set("general.file_type", Entry::U32(kind.id()));
        writer.set("general.quantization_version", Entry::U32(2));
        for (key, entry) in own.into_iter().chain(settings) {
            writer.set(&key, entry);
        }
        for (name, kind, shape, data) in &tensors {
            writer.tensor(name, *kind, shape, data);
        }
        replace(to, |beside| {
            let mut file = BufWriter::new(File::create(beside)?);
            writer.write(&mut file).and_then(|()| file.flush())
        })
        .map_err(|source| ModelError::Io { path: to.display().to_string(), source })
    }

    /// Every weight in a file's form: its name there, its shape, and its values.
    pub(super) fn gguf_tensors(
        &self,
        spec: &Spec,
    ) -> impl Iterator<Item = Result<(String, Vec<usize>, Vec<f32>), ModelError>> {
        // GGUF has one architecture for the two, with one order of rows.
        let family = if spec.family == Family::Mistral { Family::Llama } else { spec.family };
        let places = names(&Spec { family, ..spec.clone() });
        self.named(spec).into_iter().map(move |(name, tensor)| {
            let (name, stored) = places.get(&name).ok_or_else(|| ModelError::Invalid {
                path: name.clone(),
                reason: "GGUF files have no place for it".into(),
            })?;
            let shape = tensor.dims().to_vec();
            let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let values = stored.put(values.flatten_all()?.to_vec1()?, shape[0], spec);
            Ok((name.clone(), shape, values))
        })
    }
}

impl Stored {
    /// The values of a checkpoint's tensor in a file's form.
    fn put(self, mut values: Vec<f32>, rows: usize, spec: &Spec) -> Vec<f32> {
        match self {
            Self::AsIs => {}
            Self::Shifted => values.iter_mut().for_each(|x| *x += spec.norm_offset),
            Self::Interleaved(heads) => {
                let width = values.len() / rows;
                let mut put = vec![0.0; values.len()];
                for (row, place) in values.chunks_exact(width).zip(apart(rows, heads)) {
                    put[place * width..][..width].copy_from_slice(row);
                }
                values = put;
            }
        }
        values
    }
}
