//! A Qwen3's weights by their names in checkpoints, read from and written to safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::ModelConfig;
use super::error::ModelError;
use super::files;

/// The weights of one layer. Projections are `(out, in)`, as in checkpoints.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// `(hidden)`
    pub input_norm: Tensor,
    /// `(heads × head_dim, hidden)`
    pub q_proj: Tensor,
    /// `(kv_heads × head_dim, hidden)`
    pub k_proj: Tensor,
    /// `(kv_heads × head_dim, hidden)`
    pub v_proj: Tensor,
    /// `(hidden, heads × head_dim)`
    pub o_proj: Tensor,
    /// `(head_dim)`
    pub q_norm: Tensor,
    /// `(head_dim)`
    pub k_norm: Tensor,
    /// `(hidden)`
    pub post_norm: Tensor,
    /// `(intermediate, hidden)`
    pub gate_proj: Tensor,
    /// `(intermediate, hidden)`
    pub up_proj: Tensor,
    /// `(hidden, intermediate)`
    pub down_proj: Tensor,
}

/// The projections of a layer: what an adapter can adapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Projection {
    /// `q_proj`
    #[serde(rename = "q_proj")]
    Query,
    /// `k_proj`
    #[serde(rename = "k_proj")]
    Key,
    /// `v_proj`
    #[serde(rename = "v_proj")]
    Value,
    /// `o_proj`
    #[serde(rename = "o_proj")]
    Output,
    /// `gate_proj`
    #[serde(rename = "gate_proj")]
    Gate,
    /// `up_proj`
    #[serde(rename = "up_proj")]
    Up,
    /// `down_proj`
    #[serde(rename = "down_proj")]
    Down,
}

impl Projection {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The name within a layer, such as `self_attn.q_proj`.
    pub fn module(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The last part of the name, such as `q_proj`.
    pub fn leaf(self) -> &'static str {
        self.module().rsplit('.').next().unwrap_or_default()
    }

    /// From a name as PEFT's `target_modules` has it: `q_proj`, or with its parent.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|which| name == which.leaf() || name == which.module())
    }

    /// `(out, in)` in a model of this shape.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (hidden, ff) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        );
        match self {
            Self::Query => (q, hidden),
            Self::Key | Self::Value => (kv, hidden),
            Self::Output => (hidden, q),
            Self::Gate | Self::Up => (ff, hidden),
            Self::Down => (hidden, ff),
        }
    }
}

impl LayerWeights {
    /// One projection's weight.
    pub fn projection(&self, which: Projection) -> &Tensor {
        match which {
            Projection::Query => &self.q_proj,
            Projection::Key => &self.k_proj,
            Projection::Value => &self.v_proj,
            Projection::Output => &self.o_proj,
            Projection::Gate => &self.gate_proj,
            Projection::Up => &self.up_proj,
            Projection::Down => &self.down_proj,
        }
    }

    /// One projection's weight, to replace.
    pub(super) fn projection_mut(&mut self, which: Projection) -> &mut Tensor {
        match which {
            Projection::Query => &mut self.q_proj,
            Projection::Key => &mut self.k_proj,
            Projection::Value => &mut self.v_proj,
            Projection::Output => &mut self.o_proj,
            Projection::Gate => &mut self.gate_proj,
            Projection::Up => &mut self.up_proj,
            Projection::Down => &mut self.down_proj,
        }
    }
}

/// All weights. Cloning is cheap: tensors share their storage.
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
    /// Every weight with its checkpoint name and shape, in a fixed order.
    pub fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let (h, d) = (config.hidden_size, config.head_dim);
        let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
        let ff = config.intermediate_size;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, h])];
        for layer in 0..config.num_hidden_layers {
            for (name, shape) in [
                ("input_layernorm", vec![h]),
                ("self_attn.q_proj", vec![q, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, q]),
                ("self_attn.q_norm", vec![d]),
                ("self_attn.k_norm", vec![d]),
                ("post_attention_layernorm", vec![h]),
                ("mlp.gate_proj", vec![ff, h]),
                ("mlp.up_proj", vec![ff, h]),
                ("mlp.down_proj", vec![h, ff]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![h]));
        if !config.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![config.vocab_size, h]));
        }
        shapes
    }

    /// Builds from a function that makes each weight from its name and shape.
    pub fn build(
        config: &ModelConfig,
        mut make: impl FnMut(&str, &[usize]) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut made = BTreeMap::new();
        for (name, shape) in Self::shapes(config) {
            let tensor = make(&name, &shape)?;
            if tensor.dims() != shape {
                return Err(ModelError::Invalid {
                    path: name,
                    reason: format!(
                        "has shape {:?}, `config.json` asks for {shape:?}",
                        tensor.dims()
                    ),
                });
            }
            made.insert(name, tensor);
        }
        let mut take = |name: &str| {
            made.remove(name).ok_or_else(|| ModelError::Invalid {
                path: name.to_owned(),
                reason: "is missing".to_owned(),
            })
        };
        let embed = take("model.embed_tokens.weight")?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut part = |name: &str| take(&format!("model.layers.{layer}.{name}.weight"));
            layers.push(LayerWeights {
                input_norm: part("input_layernorm")?,
                q_proj: part("self_attn.q_proj")?,
                k_proj: part("self_attn.k_proj")?,
                v_proj: part("self_attn.v_proj")?,
                o_proj: part("self_attn.o_proj")?,
                q_norm: part("self_attn.q_norm")?,
                k_norm: part("self_attn.k_norm")?,
                post_norm: part("post_attention_layernorm")?,
                gate_proj: part("mlp.gate_proj")?,
                up_proj: part("mlp.up_proj")?,
                down_proj: part("mlp.down_proj")?,
            });
        }
        let norm = take("model.norm.weight")?;
        let lm_head = if config.tie_word_embeddings { None } else { Some(take("lm_head.weight")?) };
        Ok(Self { embed, layers, norm, lm_head })
    }

    /// Every weight with its checkpoint name, in the order of [`Weights::shapes`].
    pub fn named(&self) -> Vec<(String, &Tensor)> {
        let mut named = vec![("model.embed_tokens.weight".to_owned(), &self.embed)];
        for (index, layer) in self.layers.iter().enumerate() {
            for (name, tensor) in [
                ("input_layernorm", &layer.input_norm),
                ("self_attn.q_proj", &layer.q_proj),
                ("self_attn.k_proj", &layer.k_proj),
                ("self_attn.v_proj", &layer.v_proj),
                ("self_attn.o_proj", &layer.o_proj),
                ("self_attn.q_norm", &layer.q_norm),
                ("self_attn.k_norm", &layer.k_norm),
                ("post_attention_layernorm", &layer.post_norm),
                ("mlp.gate_proj", &layer.gate_proj),
                ("mlp.up_proj", &layer.up_proj),
                ("mlp.down_proj", &layer.down_proj),
            ] {
                named.push((format!("model.layers.{index}.{name}.weight"), tensor));
            }
        }
        named.push(("model.norm.weight".to_owned(), &self.norm));
        if let Some(head) = &self.lm_head {
            named.push(("lm_head.weight".to_owned(), head));
        }
        named
    }

    /// As [`Weights::named`], to replace.
    pub(super) fn named_mut(&mut self) -> Vec<(String, &mut Tensor)> {
        let mut named = vec![("model.embed_tokens.weight".to_owned(), &mut self.embed)];
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (name, tensor) in [
                ("input_layernorm", &mut layer.input_norm),
                ("self_attn.q_proj", &mut layer.q_proj),
                ("self_attn.k_proj", &mut layer.k_proj),
                ("self_attn.v_proj", &mut layer.v_proj),
                ("self_attn.o_proj", &mut layer.o_proj),
                ("self_attn.q_norm", &mut layer.q_norm),
                ("self_attn.k_norm", &mut layer.k_norm),
                ("post_attention_layernorm", &mut layer.post_norm),
                ("mlp.gate_proj", &mut layer.gate_proj),
                ("mlp.up_proj", &mut layer.up_proj),
                ("mlp.down_proj", &mut layer.down_proj),
            ] {
                named.push((format!("model.layers.{index}.{name}.weight"), tensor));
            }
        }
        named.push(("model.norm.weight".to_owned(), &mut self.norm));
        if let Some(head) = &mut self.lm_head {
            named.push(("lm_head.weight".to_owned(), head));
        }
        named
    }

    /// The same weights in another type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self, ModelError> {
        let mut cast = self.clone();
        for (_, tensor) in cast.named_mut() {
            *tensor = tensor.to_dtype(dtype)?;
        }
        Ok(cast)
    }

    /// The same weights on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self, ModelError> {
        let mut moved = self.clone();
        for (_, tensor) in moved.named_mut() {
            *tensor = tensor.to_device(device)?;
        }
        Ok(moved)
    }

    /// Fresh weights in f32: normal with deviation 0.02, norms at 1. The same seed gives the same weights.
    pub fn random(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self::build(config, |_, shape| {
            if let [width] = shape {
                return Ok(Tensor::ones(*width, DType::F32, device)?);
            }
            let values = normal(&mut random, shape.iter().product(), 0.02);
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?)
        })
    }

    /// Writes `config.json` and `model.safetensors`, each whole or not at all.
    pub fn save(&self, folder: &Path, config: &ModelConfig) -> Result<(), ModelError> {
        files::make_folder(folder)?;
        let mut value = config.to_json();
        value["torch_dtype"] = match self.embed.dtype() {
            DType::BF16 => "bfloat16".into(),
            DType::F16 => "float16".into(),
            _ => "float32".into(),
        };
        files::save_tensors(&folder.join("model.safetensors"), &self.named())?;
        files::write_json(&folder.join("config.json"), &value)
    }

    /// The output projection, `(vocab, hidden)`.
    pub fn output(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed)
    }

    /// Reads the safetensors files in `folder`: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    pub fn load(
        folder: &Path,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let files = safetensors_files(folder)?;
        let shown = folder.display().to_string();
        // Safety: the files are mapped read-only; replacing them under a running process is the
        // operator's error, and saving here always writes a new file and renames it.
        let tensors =
            unsafe { MmapedSafetensors::multi(&files) }.map_err(|error| ModelError::Invalid {
                path: shown.clone(),
                reason: format!("{error}\nhint: the file may be truncated; copy it again"),
            })?;
        Self::build(config, |name, _| {
            let tensor = tensors.load(name, device).map_err(|error| ModelError::Invalid {
                path: shown.clone(),
                reason: format!("cannot read `{name}`: {error}"),
            })?;
            Ok(tensor.to_dtype(dtype)?)
        })
    }
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

fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let shown = index.display().to_string();
    let text = std::fs::read_to_string(&index).map_err(|_| ModelError::Invalid {
        path: folder.display().to_string(),
        reason: "holds neither `model.safetensors` nor `model.safetensors.index.json`".to_owned(),
    })?;
    let invalid = |reason: &str| ModelError::Invalid { path: shown.clone(), reason: reason.into() };
    let value: Value = serde_json::from_str(&text).map_err(|e| invalid(&e.to_string()))?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| invalid("has no `weight_map`"))?;
    let mut files: Vec<PathBuf> =
        map.values().filter_map(Value::as_str).map(|name| folder.join(name)).collect();
    files.sort();
    files.dedup();
    Ok(files)
}
