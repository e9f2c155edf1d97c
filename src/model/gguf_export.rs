//! Exports weights to a GGUF file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device};

use super::error::ModelError;
use super::gguf_weights::{Conversion, deinterleaved_rows, names};
use super::slots::Slot;
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
    /// Blocks of 32 numbers of 8 bits with a scale.
    Q8_0,
    /// llama.cpp's mixture `Q4_K_M`: Q4_K, and Q6_K for the matrices where fewer bits cost most.
    Q4K,
}

impl GgufType {
    /// The type of a tensor: the first of those of its kind whose blocks its rows consist of, as
    /// llama.cpp chooses it.
    fn of(self, name: &str, shape: &[usize], spec: &Spec) -> TensorType {
        // Norms and biases are few.
        let [.., _, columns] = shape else { return TensorType::F32 };
        let kinds: &[TensorType] = match self {
            Self::F32 => &[TensorType::F32],
            Self::F16 => &[TensorType::F16],
            Self::Q8_0 => &[TensorType::Q8_0],
            Self::Q4K if has_six_bits(name, spec) => &[TensorType::Q6_K, TensorType::Q8_0],
            Self::Q4K => &[TensorType::Q4_K, TensorType::Q5_0],
        };
        let fitting = kinds.iter().find(|kind| columns.is_multiple_of(kind.block_len()));
        fitting.copied().unwrap_or(TensorType::F16)
    }

    /// Its number in `general.file_type`.
    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4K => 15,
        }
    }
}

/// Whether a matrix has six bits in llama.cpp's mixture `Q4_K_M`: the output, which may be the
/// embedding, and in about half of the layers two that errors pass through most directly.
fn has_six_bits(name: &str, spec: &Spec) -> bool {
    let output = if spec.tie_word_embeddings { "token_embd.weight" } else { "output.weight" };
    let count = spec.layers.len();
    let is_one_of = |&layer: &usize| {
        layer < count / 8 || layer >= 7 * count / 8 || (layer - count / 8) % 3 == 2
    };
    let is_in = |layer| [Slot::Value, Slot::Down].iter().any(|slot| slot.gguf_name(layer) == name);
    name == output || (0..count).filter(is_one_of).any(is_in)
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
            invalid(reason!(
                "GGUF files cannot hold this model: {reason}";
                hint: "export it as a folder, with `--out`"
            ))
        })?;
        let mut tensors = Vec::new();
        for tensor in self.gguf_tensors(spec) {
            let (name, shape, values) = tensor?;
            let kind = kind.of(&name, &shape, spec);
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

impl Conversion {
    /// The values of a checkpoint's tensor in a file's form.
    fn put(self, mut values: Vec<f32>, rows: usize, spec: &Spec) -> Vec<f32> {
        match self {
            Self::AsIs => {}
            Self::Shifted => values.iter_mut().for_each(|x| *x += spec.norm_offset),
            Self::Interleaved(heads) => {
                let width = values.len() / rows;
                let mut put = vec![0.0; values.len()];
                for (row, place) in values.chunks_exact(width).zip(deinterleaved_rows(rows, heads))
                {
                    put[place * width..][..width].copy_from_slice(row);
                }
                values = put;
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::LayerKind;
    use super::*;

    fn spec(layers: usize, tie_word_embeddings: bool) -> Spec {
        let layers = vec![LayerKind::default(); layers];
        Spec { layers, tie_word_embeddings, ..Family::Llama.spec() }
    }

    /// The layers with six bits in files that llama.cpp made.
    #[test]
    fn the_mixture_is_that_of_llama_cpp() {
        for (layers, expected) in
            [(18, vec![0, 1, 4, 7, 10, 13, 15, 16, 17]), (2, vec![1]), (1, vec![0])]
        {
            let spec = spec(layers, true);
            for leaf in ["attn_v", "ffn_down"] {
                let name = |layer: usize| format!("blk.{layer}.{leaf}.weight");
                let six = |layer: &usize| has_six_bits(&name(*layer), &spec);
                assert_eq!((0..layers).filter(six).collect::<Vec<_>>(), expected, "{leaf}");
            }
            assert!(!has_six_bits("blk.0.attn_k.weight", &spec));
        }
        for is_tied in [false, true] {
            let spec = spec(2, is_tied);
            assert!(is_tied || has_six_bits("output.weight", &spec));
            assert_eq!(has_six_bits("token_embd.weight", &spec), is_tied);
        }
    }

    #[test]
    fn rows_that_are_not_whole_blocks_have_smaller_blocks() {
        use TensorType::{F16, F32, Q4_K, Q5_0, Q6_K, Q8_0};
        let spec = spec(18, true);
        for (columns, four, six) in [(512, Q4_K, Q6_K), (576, Q5_0, Q8_0), (40, F16, F16)] {
            let of = |name: &str| GgufType::Q4K.of(name, &[3, columns], &spec);
            assert_eq!((of("blk.0.ffn_up.weight"), of("blk.0.ffn_down.weight")), (four, six));
            assert_eq!(of("token_embd.weight"), six);
        }
        assert_eq!(GgufType::Q8_0.of("blk.0.ffn_up.weight", &[3, 40], &spec), F16);
        assert_eq!(GgufType::Q8_0.of("blk.0.ffn_up.weight", &[3, 64], &spec), Q8_0);
        for kind in [GgufType::F32, GgufType::F16, GgufType::Q8_0, GgufType::Q4K] {
            assert_eq!(kind.of("blk.0.attn_norm.weight", &[512], &spec), F32);
        }
    }
}
