//! Low-rank adapters (LoRA): `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ` with `W` frozen and `s = alpha / rank`.
//!
//! Folders are PEFT's: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

use super::config::AdapterConfig;
use super::error::ModelError;
use super::files::{self, TensorHead};
use super::ops::composed;
use super::ops::types::Delta;
use super::path_check;
use super::peft;
use super::slots::Projection;
use super::spec::Spec;
use super::weights::Weights;
use crate::hint::Reason;

/// The file that says what an adapter is, in its folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file of its weights.
pub(super) const TENSORS: &str = "adapter_model.safetensors";

impl AdapterConfig {
    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.rank == 0 || self.targets.is_empty() {
            return Err("an adapter needs a rank of at least 1 and a target module".to_owned());
        }
        if !(self.scale() as f32).is_finite() {
            return Err(format!("`alpha / rank` is {:e}, beyond all finite weights", self.scale()));
        }
        Ok(())
    }

    /// The name and shape of every tensor of such an adapter for `model`.
    fn tensors(&self, model: &Spec) -> impl Iterator<Item = (String, [usize; 2])> {
        let layers = 0..model.layers.len();
        let all =
            layers.flat_map(move |layer| self.targets.iter().map(move |&target| (layer, target)));
        all.flat_map(move |(layer, target)| {
            let (out, width) = target.shape(model);
            [('A', [self.rank, width]), ('B', [out, self.rank])]
                .map(|(half, shape)| (Adapter::name(layer, target, half), shape))
        })
    }
}

/// What a PEFT folder says of its adapter.
fn settings(folder: &Path) -> Result<Value, ModelError> {
    let path = folder.join(ADAPTER_CONFIG);
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(&path)
        .map_err(|source| ModelError::Io { path: shown(), source })?;
    serde_json::from_str(&text).map_err(|error| invalid(&path, error.to_string()))
}

/// The adapter of these settings, if it and these tensors are for `model`.
fn fitting(
    folder: &Path,
    settings: &Value,
    mut tensors: BTreeMap<String, TensorHead>,
    model: &Spec,
) -> Result<AdapterConfig, ModelError> {
    let config = peft::read(settings, tensors.keys())
        .map_err(|reason| invalid(&folder.join(ADAPTER_CONFIG), reason))?;
    let path = folder.join(TENSORS);
    for (name, shape) in config.tensors(model) {
        let TensorHead { kind, shape: found } =
            tensors.remove(&name).ok_or_else(|| missing(&path, &name))?;
        if !files::is_float(kind) {
            return Err(invalid(&path, files::unsupported_type(&name, &format!("{kind:?}"))));
        }
        if found != shape {
            return Err(ModelError::Adapter(reason!(
                "`{name}` has shape {found:?}, not {shape:?}";
                hint: "the adapter was made for another model"
            )));
        }
    }
    match tensors.keys().next() {
        None => Ok(config),
        Some(name) => {
            let reason = format!("holds `{name}`, which `{ADAPTER_CONFIG}` does not announce");
            Err(invalid(&path, reason))
        }
    }
}

fn missing(path: &Path, tensor: &str) -> ModelError {
    invalid(path, format!("has no `{tensor}`"))
}

fn invalid(path: &Path, reason: impl Into<Reason>) -> ModelError {
    ModelError::Invalid { path: path.display().to_string(), reason: reason.into() }
}

/// The deltas of all layers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Adapter {
    config: AdapterConfig,
    deltas: BTreeMap<(usize, Projection), Delta>,
}

impl Adapter {
    /// Whether a folder contains an adapter without a model. Some trainers put the `config.json` of
    /// its base beside it.
    pub fn is_adapter_only(folder: &Path) -> bool {
        let is_model = folder.join("config.json").exists() && path_check::has_weights(folder);
        folder.join(ADAPTER_CONFIG).is_file() && !is_model
    }

    /// A new adapter, which changes nothing yet: `A` uniform in ±1/√in as in PEFT, `B` zero.
    ///
    /// # Errors
    /// When the configuration names no layer of the model, or a rank of 0.
    pub fn new(
        model: &Spec,
        config: AdapterConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self::build(model, config, |_, shape, which| {
            let tensor = match which {
                'A' => {
                    let bound = 1.0 / (shape.1 as f32).sqrt();
                    let values: Vec<f32> = (0..shape.0 * shape.1)
                        .map(|_| random.random_range(-bound..bound))
                        .collect();
                    Tensor::from_vec(values, shape, &Device::Cpu)?
                }
                _ => Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
            };
            Ok(tensor.to_dtype(dtype)?.to_device(device)?)
        })
    }

    fn build(
        model: &Spec,
        mut config: AdapterConfig,
        mut make: impl FnMut(&str, (usize, usize), char) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        config.targets.sort();
        config.targets.dedup();
        config.check().map_err(|reason| ModelError::Adapter(reason.into()))?;
        let scale = config.scale();
        let mut deltas = BTreeMap::new();
        for layer in 0..model.layers.len() {
            for &target in &config.targets {
                let (out, width) = target.shape(model);
                let mut part = |shape: (usize, usize), half| {
                    make(&Self::name(layer, target, half), shape, half)
                };
                let a = part((config.rank, width), 'A')?;
                let b = part((out, config.rank), 'B')?;
                deltas.insert((layer, target), Delta { a, b, scale });
            }
        }
        Ok(Self { config, deltas })
    }

    /// Loads a PEFT folder.
    ///
    /// # Errors
    /// When a file cannot be read, or the adapter was made for another model.
    pub fn load(
        folder: &Path,
        model: &Spec,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (settings, path) = (settings(folder)?, folder.join(TENSORS));
        let config = fitting(folder, &settings, files::tensor_heads(&path)?, model)?;
        let mut tensors = files::load_tensors(&path, device)?;
        Self::build(model, config, |name, _, _| {
            let tensor = tensors.remove(name).ok_or_else(|| missing(&path, name))?;
            Ok(tensor.to_dtype(dtype)?)
        })
    }

    /// Checks a PEFT folder as [`Adapter::load`] does, without reading weights.
    ///
    /// # Errors
    /// When a file cannot be read, or the adapter was made for another model.
    pub fn check(folder: &Path, model: &Spec) -> Result<(), ModelError> {
        let (settings, path) = (settings(folder)?, folder.join(TENSORS));
        fitting(folder, &settings, files::tensor_heads(&path)?, model).map(drop)
    }

    /// Writes a PEFT folder that names `base` as its base model.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, folder: &Path, base: Option<&str>) -> Result<(), ModelError> {
        files::make_folder(folder)?;
        files::write_json(&folder.join(ADAPTER_CONFIG), &self.to_json(base))?;
        files::save_tensors(&folder.join(TENSORS), &self.named())
    }

    /// Its configuration.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// PEFT's name of one half of a delta.
    pub(super) fn name(layer: usize, which: Projection, half: char) -> String {
        format!("base_model.model.model.layers.{layer}.{}.lora_{half}.weight", which.module())
    }

    pub(super) fn delta(&self, layer: usize, which: Projection) -> Option<&Delta> {
        self.deltas.get(&(layer, which))
    }

    /// Every tensor with its PEFT name, in a fixed order.
    pub fn named(&self) -> Vec<(String, &Tensor)> {
        let deltas = self.deltas.iter();
        deltas
            .flat_map(|(&(layer, which), delta)| {
                [
                    (Self::name(layer, which, 'A'), &delta.a),
                    (Self::name(layer, which, 'B'), &delta.b),
                ]
            })
            .collect()
    }

    pub(super) fn named_mut(&mut self) -> Vec<(String, &mut Tensor)> {
        let deltas = self.deltas.iter_mut();
        deltas
            .flat_map(|(&(layer, which), delta)| {
                [
                    (Self::name(layer, which, 'A'), &mut delta.a),
                    (Self::name(layer, which, 'B'), &mut delta.b),
                ]
            })
            .collect()
    }

    /// `base` with `s·B·A` added to each adapted weight. These become f32 if `base` is narrower:
    /// rounding would lose most of what a short training changes.
    ///
    /// # Errors
    /// When a weight is missing, or the device fails.
    pub fn merge(&self, base: &Weights) -> Result<Weights, ModelError> {
        let mut merged = base.clone();
        for (&(layer, which), delta) in &self.deltas {
            let layer = &mut merged.layers[layer];
            let (a, b) = (composed::widen(&delta.a)?, composed::widen(&delta.b)?);
            let weight = composed::widen(layer.need(which.slot())?)?;
            layer.set(which.slot(), (weight + (b.matmul(&a)? * delta.scale)?)?);
        }
        Ok(merged)
    }

    fn to_json(&self, base: Option<&str>) -> Value {
        let targets: Vec<&str> = self.config.targets.iter().map(|target| target.leaf()).collect();
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
            "use_rslora": false
        })
    }
}
