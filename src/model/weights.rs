//! A model's weights by their names in checkpoints, read from and written to safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::error::ModelError;
use super::files::{self, TensorHead};
use super::gguf_weights::GgufWeights;
use super::shards::safetensors_files;
use super::slots::{EMBED, HEAD, NORM, Slot, tensors};
use super::spec::Spec;
use crate::gguf::Gguf;
use crate::hint::Reason;

/// The weights of one layer.
#[derive(Debug, Clone)]
pub struct LayerWeights([Option<Tensor>; Slot::ALL.len()]);

impl LayerWeights {
    /// One weight.
    ///
    /// # Errors
    /// If models of this kind have no such weight.
    pub fn need(&self, slot: Slot) -> candle_core::Result<&Tensor> {
        match self.get(slot) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("the layer has no {slot:?}"),
        }
    }

    /// One weight; `None` if models of this kind have no such weight.
    pub fn get(&self, slot: Slot) -> Option<&Tensor> {
        self.0[slot as usize].as_ref()
    }

    /// Replaces a weight.
    pub(super) fn set(&mut self, slot: Slot, tensor: Tensor) {
        self.0[slot as usize] = Some(tensor);
    }
}

/// All weights. Cheap to clone: tensors share their storage.
#[derive(Debug, Clone)]
pub struct Weights {
    /// `(vocab, hidden)`
    pub embed: Tensor,
    /// In order from the input.
    pub layers: Vec<LayerWeights>,
    /// `(hidden)`
    pub norm: Tensor,
    /// `(vocab, hidden)`; `None` when the embedding serves as the output projection.
    pub lm_head: Option<Tensor>,
}

impl Weights {
    /// Builds all weights with a function from name and shape.
    ///
    /// # Errors
    /// When `make` fails.
    pub fn build(
        spec: &Spec,
        mut make: impl FnMut(&str, &[usize]) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut checked = |name: &str, shape: &[usize]| {
            let tensor = make(name, shape)?;
            check_shape(name, tensor.dims(), shape)?;
            Ok::<_, ModelError>(tensor)
        };
        let table = [spec.vocab_size, spec.hidden_size];
        let embed = checked(EMBED, &table)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for layer in 0..spec.layers.len() {
            let mut weights = LayerWeights([const { None }; Slot::ALL.len()]);
            for slot in Slot::ALL {
                if let Some(shape) = slot.shape(spec) {
                    weights.set(slot, checked(&slot.name(spec, layer), &shape)?);
                }
            }
            layers.push(weights);
        }
        let norm = checked(NORM, &[spec.hidden_size])?;
        let lm_head = match spec.tie_word_embeddings {
            true => None,
            false => Some(checked(HEAD, &table)?),
        };
        Ok(Self { embed, layers, norm, lm_head })
    }

    /// Every weight with its checkpoint name, in a fixed order.
    pub fn named(&self, spec: &Spec) -> Vec<(String, &Tensor)> {
        let mut named = vec![(EMBED.to_owned(), &self.embed)];
        for (index, layer) in self.layers.iter().enumerate() {
            for (slot, tensor) in Slot::ALL.into_iter().zip(&layer.0) {
                named.extend(tensor.as_ref().map(|tensor| (slot.name(spec, index), tensor)));
            }
        }
        named.push((NORM.to_owned(), &self.norm));
        named.extend(self.lm_head.as_ref().map(|head| (HEAD.to_owned(), head)));
        named
    }

    /// Mutable [`Weights::named`].
    pub(super) fn named_mut(&mut self, spec: &Spec) -> Vec<(String, &mut Tensor)> {
        let mut named = vec![(EMBED.to_owned(), &mut self.embed)];
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (slot, tensor) in Slot::ALL.into_iter().zip(&mut layer.0) {
                named.extend(tensor.as_mut().map(|tensor| (slot.name(spec, index), tensor)));
            }
        }
        named.push((NORM.to_owned(), &mut self.norm));
        named.extend(self.lm_head.as_mut().map(|head| (HEAD.to_owned(), head)));
        named
    }

    /// The same weights, each transformed by `change`.
    fn map(
        &self,
        change: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Self, ModelError> {
        let mut changed = self.clone();
        let layers = changed.layers.iter_mut().flat_map(|layer| layer.0.iter_mut().flatten());
        let outer = [&mut changed.embed, &mut changed.norm];
        for tensor in outer.into_iter().chain(&mut changed.lm_head).chain(layers) {
            *tensor = change(tensor)?;
        }
        Ok(changed)
    }

    /// The same weights in another type.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self, ModelError> {
        self.map(|tensor| tensor.to_dtype(dtype))
    }

    /// The same weights on another device.
    ///
    /// # Errors
    /// When the device fails or has no memory left.
    pub fn to_device(&self, device: &Device) -> Result<Self, ModelError> {
        self.map(|tensor| tensor.to_device(device))
    }

    /// Fresh weights in f32: normal with deviation 0.02, norms at 1, biases at 0. The same seed
    /// gives the same weights.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn random(spec: &Spec, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self::build(spec, |name, shape| {
            let values = match shape {
                [width] if name.ends_with(".bias") => vec![0.0; *width],
                [width] => vec![1.0 - spec.norm_offset; *width],
                _ => normal(&mut random, shape.iter().product(), 0.02),
            };
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?)
        })
    }

    /// The same weights with zeros for those that `spec` alone has: biases of some projections.
    fn completed(&self, spec: &Spec) -> Result<Self, ModelError> {
        let mut all = self.clone();
        for layer in &mut all.layers {
            for slot in Slot::ALL {
                if let Some(shape) = slot.shape(spec).filter(|_| layer.get(slot).is_none()) {
                    let (dtype, device) = (self.embed.dtype(), self.embed.device());
                    layer.set(slot, Tensor::zeros(shape, dtype, device)?);
                }
            }
        }
        Ok(all)
    }

    /// Writes `config.json` and `model.safetensors`, each atomically.
    ///
    /// # Errors
    /// When a file cannot be written, or `config.json` cannot describe the model.
    pub fn save(&self, folder: &Path, spec: &Spec) -> Result<(), ModelError> {
        let spec = &spec.in_folder().map_err(|reason| invalid(folder, reason))?;
        let all = self.completed(spec)?;
        files::make_folder(folder)?;
        let mut value = spec.to_json();
        value["torch_dtype"] = match self.embed.dtype() {
            DType::BF16 => "bfloat16".into(),
            DType::F16 => "float16".into(),
            _ => "float32".into(),
        };
        files::save_tensors(&folder.join("model.safetensors"), &all.named(spec))?;
        files::write_json(&folder.join("config.json"), &value)
    }

    /// The output projection, `(vocab, hidden)`.
    pub fn output(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed)
    }

    /// Reads a `.gguf` file, dequantised, or the safetensors files in a folder:
    /// `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or there is one that the model does not use.
    pub fn load(
        path: &Path,
        spec: &Spec,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        match Gguf::is_path(path) {
            true => Self::from_gguf(&Gguf::open(path)?, spec, dtype, device),
            false => Self::from_folder(path, spec, dtype, device),
        }
    }

    /// Checks the files of a model as [`Weights::load`] does, without reading values.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn check(path: &Path, spec: &Spec) -> Result<(), ModelError> {
        if Gguf::is_path(path) {
            let file = Gguf::open(path)?;
            return GgufWeights::new(&file, spec).map(drop);
        }
        check_files(path, &safetensors_files(path)?, spec)
    }

    fn from_folder(
        folder: &Path,
        spec: &Spec,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let files = safetensors_files(folder)?;
        check_files(folder, &files, spec)?;
        let invalid = |text: String| invalid(folder, text.into());
        // SAFETY: the files are mapped read-only. Replacing them under a running process is an
        // operator's error, and saving here always writes a new file and renames it.
        let tensors = unsafe { MmapedSafetensors::multi(&files) }
            .map_err(|error| invalid(error.to_string()))?;
        let load = |name: &str| {
            let tensor = tensors.load(name, device);
            tensor.map_err(|error| invalid(format!("cannot read `{name}`: {error}")))
        };
        let weights = Self::build(spec, |name, _| Ok(load(name)?.to_dtype(dtype)?))?;
        if spec.tie_word_embeddings && tensors.get(HEAD).is_ok() {
            let other = load(HEAD)?.to_dtype(dtype)?.ne(&weights.embed)?;
            if other.flatten_all()?.max(0)?.to_scalar::<u8>()? != 0 {
                return Err(untied(folder));
            }
        }
        Ok(weights)
    }
}

/// Fails unless `all` files together hold the tensors of such a model, and no other. Values are not
/// read.
fn check_files(folder: &Path, all: &[PathBuf], spec: &Spec) -> Result<(), ModelError> {
    let mut heads: BTreeMap<String, TensorHead> = BTreeMap::new();
    for file in all {
        heads.extend(files::tensor_heads(file)?);
    }
    for (name, shape) in tensors(spec) {
        let Some(TensorHead { kind, shape: found }) = heads.remove(&name) else {
            return Err(invalid(folder, format!("holds no `{name}`").into()));
        };
        check_shape(&name, &found, &shape)?;
        if !files::is_float(kind) {
            return Err(invalid(folder, files::unsupported_type(&name, &format!("{kind:?}"))));
        }
    }
    // Some tied models have the embedding twice.
    if let Some(head) = heads.remove(HEAD)
        && head.shape != [spec.vocab_size, spec.hidden_size]
    {
        return Err(untied(folder));
    }
    // Older checkpoints contain the rotary frequencies, which the configuration determines.
    match heads.keys().find(|name| !name.ends_with("rotary_emb.inv_freq")) {
        None => Ok(()),
        Some(name) => {
            let family = spec.family.model_type();
            let text =
                format!("holds `{name}`, which a `{family}` of this configuration does not use");
            Err(invalid(folder, text.into()))
        }
    }
}

fn untied(folder: &Path) -> ModelError {
    let reason = reason!(
        "holds an `{HEAD}` that is not the embedding, but `tie_word_embeddings` is true";
        hint: "set it to false in `config.json`"
    );
    invalid(folder, reason)
}

fn invalid(folder: &Path, reason: Reason) -> ModelError {
    ModelError::Invalid { path: folder.display().to_string(), reason }
}

fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::Invalid {
        path: name.to_owned(),
        reason: format!("has shape {found:?}, `config.json` asks for {expected:?}").into(),
    })
}

/// Normally distributed values (Box and Muller).
fn normal(random: &mut impl Rng, count: usize, deviation: f64) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * deviation) as f32
        })
        .collect()
}
