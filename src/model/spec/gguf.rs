//! The settings of a GGUF file as a [`Spec`].

use std::collections::BTreeSet;

use super::{Family, LayerKind, MAX_SIZES, Rope, RopeScaling, Spec, TokenIds};
use crate::gguf::{Gguf, GgufError};
use crate::hint::Reason;

/// Settings below the architecture's name that do not affect the computation, or that follow from
/// the tensors.
const HARMLESS: [&str; 3] = ["vocab_size", "attention.value_length", "rope.dimension_sections"];

/// Gemma 3's distance between layers that attend to everything, if the file does not contain it.
pub(super) const GEMMA3_PATTERN: usize = 6;

impl Family {
    /// The family of a file of this `general.architecture`; of several, the first.
    fn of_gguf(architecture: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.gguf_name() == Some(architecture))
    }
}

impl Spec {
    /// From the settings and the tensors of a GGUF file.
    ///
    /// # Errors
    /// Names the architecture or the setting that is missing or not supported.
    pub fn from_gguf(file: &Gguf) -> Result<Self, GgufError> {
        let architecture = file.architecture()?;
        let Some(family) = Family::of_gguf(architecture) else {
            let known: BTreeSet<_> =
                Family::ALL.into_iter().filter_map(Family::gguf_name).collect();
            let known = Vec::from_iter(known).join("`, `");
            let reason = format!("`{architecture}` is not supported here, but `{known}` are");
            return Err(file.wrong("general.architecture", reason));
        };
        let mut keys = Keys { file, architecture, read: BTreeSet::new() };
        let embed = keys.shape("token_embd.weight")?;
        let heads = keys.size("attention.head_count")?;
        let hidden_size = keys.size("embedding_length")?;
        if heads == 0 {
            return Err(keys.wrong("attention.head_count", "it is 0"));
        }
        let head_dim = match keys.size_if("attention.key_length")? {
            Some(width) => width,
            None if !hidden_size.is_multiple_of(heads) => {
                let reason = format!("{heads} does not divide `embedding_length` {hidden_size}");
                return Err(keys.wrong("attention.head_count", reason));
            }
            None => hidden_size / heads,
        };
        if let Some(width) = keys.size_if("rope.dimension_count")?.filter(|&w| w != head_dim) {
            let reason = format!("{width} of {head_dim} dimensions are rotated, not all");
            return Err(keys.wrong("rope.dimension_count", reason));
        }
        let base = family.spec();
        let layers = keys.size("block_count")?.min(MAX_SIZES.layers + 1);
        let has = |name: &str| file.tensor(name).is_some();
        let mut spec = Self {
            vocab_size: embed[0],
            hidden_size,
            intermediate_size: keys.size("feed_forward_length")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.size_if("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            max_position_embeddings: keys.size("context_length")?,
            layers: vec![LayerKind::default(); layers],
            rms_norm_eps: keys.need("attention.layer_norm_rms_epsilon")?,
            qkv_bias: base.qkv_bias || has("blk.0.attn_q.bias"),
            output_bias: has("blk.0.attn_output.bias"),
            tie_word_embeddings: !has("output.weight"),
            token_ids: TokenIds {
                eos: [keys.token("eos")?, keys.token("eot")?].into_iter().flatten().collect(),
                bos: keys.token("bos")?,
                pad: keys.token("padding")?,
            },
            ..base
        };
        spec.token_ids.eos.dedup();
        // Before anything is built from them.
        spec.check().map_err(|reason| file.wrong(architecture, reason))?;
        spec.ropes[0].theta = keys.number("rope.freq_base", spec.ropes[0].theta)?;
        spec.ropes[0].scaling = keys.scaling(spec.max_position_embeddings)?;
        if let Some(factors) = file.tensor("rope_freqs.weight") {
            spec.ropes[0] = divided(file, &spec, &factors.to_f32())?;
        }
        if family == Family::Gemma3 {
            spec.query_pre_attn_scalar = Some(match layers {
                // The 27 B model: the width that its heads would have if they split the stream.
                62 => (hidden_size / heads) as f64,
                _ => head_dim as f64,
            });
            spec.ropes[1].theta = keys.number("rope.freq_base_swa", spec.ropes[1].theta)?;
            let window = Some(keys.size("attention.sliding_window")?);
            let every = keys.size_if("attention.sliding_window_pattern")?.unwrap_or(GEMMA3_PATTERN);
            for (index, layer) in spec.layers.iter_mut().enumerate() {
                if (index + 1) % every.max(1) != 0 {
                    *layer = LayerKind { rope: 1, window };
                }
            }
        }
        keys.finish()?;
        spec.check().map_err(|reason| file.wrong(architecture, reason))?;
        Ok(spec)
    }
}

/// The rotary embedding of a file that has a divisor of each frequency, as those of Llama 3 do.
fn divided(file: &Gguf, spec: &Spec, divisors: &[f32]) -> Result<Rope, GgufError> {
    let wrong = |reason: &'static str| file.wrong("rope_freqs.weight", reason);
    let Rope { theta, scaling } = &spec.ropes[0];
    if *scaling != RopeScaling::Default {
        return Err(wrong("together with a `rope.scaling.factor`, it is not supported"));
    }
    Rope::of_divisors(*theta, spec.head_dim, divisors)
        .ok_or_else(|| wrong("not the frequencies of Llama 3"))
}

/// The settings below the architecture's name; unread ones can be listed.
struct Keys<'a> {
    file: &'a Gguf,
    architecture: &'a str,
    read: BTreeSet<String>,
}

impl Keys<'_> {
    fn key(&mut self, name: &str) -> String {
        let key = format!("{}.{name}", self.architecture);
        self.read.insert(key.clone());
        key
    }

    fn wrong(&self, name: &str, reason: impl Into<Reason>) -> GgufError {
        self.file.wrong(&format!("{}.{name}", self.architecture), reason)
    }

    fn shape(&self, tensor: &str) -> Result<Vec<usize>, GgufError> {
        match self.file.tensor(tensor) {
            Some(tensor) if tensor.shape.len() == 2 => Ok(tensor.shape.to_vec()),
            Some(_) => Err(self.file.wrong(tensor, "not a matrix")),
            None => Err(self.file.missing(tensor)),
        }
    }

    fn size_if(&mut self, name: &str) -> Result<Option<usize>, GgufError> {
        let key = self.key(name);
        let number = self.file.number(&key)?;
        number.map(|n| usize::try_from(n).map_err(|_| self.wrong(name, "too large"))).transpose()
    }

    fn size(&mut self, name: &str) -> Result<usize, GgufError> {
        let key = self.key(name);
        self.size_if(name)?.ok_or_else(|| self.file.missing(&key))
    }

    fn number_if(&mut self, name: &str) -> Result<Option<f64>, GgufError> {
        let key = self.key(name);
        // Stored as f32: `1e-5` must become that again.
        Ok(self.file.float(&key)?.map(|x| format!("{}", x as f32).parse().unwrap_or(x)))
    }

    fn number(&mut self, name: &str, default: f64) -> Result<f64, GgufError> {
        Ok(self.number_if(name)?.unwrap_or(default))
    }

    fn need(&mut self, name: &str) -> Result<f64, GgufError> {
        let key = self.key(name);
        self.number_if(name)?.ok_or_else(|| self.file.missing(&key))
    }

    fn token(&self, name: &str) -> Result<Option<u32>, GgufError> {
        let number = self.file.number(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(number.and_then(|id| u32::try_from(id).ok()))
    }

    fn scaling(&mut self, context: usize) -> Result<RopeScaling, GgufError> {
        let key = self.key("rope.scaling.type");
        // As in llama.cpp.
        let kind = self.file.text(&key)?.unwrap_or("linear").to_owned();
        let factor = self.number("rope.scaling.factor", 1.0)?;
        let original = self.size_if("rope.scaling.original_context_length")?.unwrap_or(context);
        let attention = self.number("rope.scaling.attn_factor", 1.0)?;
        if kind != "yarn" && attention != 1.0 {
            let reason = format!("{attention} is not supported without YaRN");
            return Err(self.wrong("rope.scaling.attn_factor", reason));
        }
        match kind.as_str() {
            "none" => Ok(RopeScaling::Default),
            "linear" if factor == 1.0 => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor,
                original,
                beta_fast: self.number("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: self.number("rope.scaling.yarn_beta_slow", 1.0)?,
                attention_factor: attention * (0.1 * factor.max(1.0).ln() + 1.0),
                truncate: true,
            }),
            other => Err(self.wrong("rope.scaling.type", format!("`{other}` is not supported"))),
        }
    }

    /// Every setting of the architecture must have been read.
    fn finish(&self) -> Result<(), GgufError> {
        let start = format!("{}.", self.architecture);
        let is_left = |key: &&str| {
            let name = key.strip_prefix(&start);
            name.is_some_and(|name| !HARMLESS.contains(&name) && !self.read.contains(*key))
        };
        match self.file.keys().find(is_left) {
            None => Ok(()),
            Some(key) => Err(self.file.wrong(
                key,
                reason!(
                    "a setting that is not known here, and might change what the model computes";
                    hint: "if its name is misspelt, correct it; otherwise the model is of a variant that is not supported"
                ),
            )),
        }
    }
}
