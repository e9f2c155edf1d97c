//! A [`Spec`] as the settings of a GGUF file.

use super::{Family, GEMMA3_PATTERN, Rope, RopeScaling, Spec};
use crate::gguf::Entry;

impl Spec {
    /// The settings of a GGUF file for such a model.
    ///
    /// # Errors
    /// Explains what the format, or its readers, cannot express.
    pub fn to_gguf(&self) -> Result<Vec<(String, Entry)>, String> {
        self.is_expressible()?;
        let Some(architecture) = self.family.gguf_name() else {
            return Err(format!("`{}` models are not supported", self.family.model_type()));
        };
        let mut settings = vec![("general.architecture".to_owned(), text(architecture))];
        let mut set = |name: &str, entry| settings.push((format!("{architecture}.{name}"), entry));
        let number = |n: usize| Entry::U32(n as u32);
        set("vocab_size", number(self.vocab_size));
        set("context_length", number(self.max_position_embeddings));
        set("embedding_length", number(self.hidden_size));
        set("block_count", number(self.layers.len()));
        set("feed_forward_length", number(self.intermediate_size));
        set("attention.head_count", number(self.num_attention_heads));
        set("attention.head_count_kv", number(self.num_key_value_heads));
        set("attention.key_length", number(self.head_dim));
        set("attention.value_length", number(self.head_dim));
        set("attention.layer_norm_rms_epsilon", Entry::F32(self.rms_norm_eps as f32));
        set("rope.dimension_count", number(self.head_dim));
        set("rope.freq_base", Entry::F32(self.ropes[0].theta as f32));
        if let Some(local) = self.ropes.get(1) {
            set("rope.freq_base_swa", Entry::F32(local.theta as f32));
        }
        if let Some(window) = self.layers.iter().find_map(|layer| layer.window) {
            set("attention.sliding_window", number(window));
        }
        match self.ropes[0].scaling {
            // Llama 3's is stored as a tensor.
            RopeScaling::Default | RopeScaling::Llama3 { .. } => {}
            RopeScaling::Linear { factor } => {
                set("rope.scaling.type", text("linear"));
                set("rope.scaling.factor", Entry::F32(factor as f32));
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                set("rope.scaling.type", text("yarn"));
                set("rope.scaling.factor", Entry::F32(factor as f32));
                set("rope.scaling.original_context_length", number(original));
                set("rope.scaling.yarn_beta_fast", Entry::F32(beta_fast as f32));
                set("rope.scaling.yarn_beta_slow", Entry::F32(beta_slow as f32));
            }
        }
        Ok(settings)
    }

    /// The divisor of each frequency, for models that store it as a tensor.
    pub fn gguf_rope_factors(&self) -> Option<Vec<f32>> {
        let rope = &self.ropes[0];
        let has_them = matches!(rope.scaling, RopeScaling::Llama3 { .. });
        has_them.then(|| rope.divisors(self.head_dim))
    }

    /// Whether the divisors of the frequencies say how they are scaled.
    fn is_read_back(&self) -> bool {
        let Rope { theta, .. } = self.ropes[0];
        let divisors = self.gguf_rope_factors().unwrap_or_default();
        Rope::of_divisors(f64::from(theta as f32), self.head_dim, &divisors).is_some()
    }

    fn is_expressible(&self) -> Result<(), String> {
        // Without `..`: a new field is either written above or checked here.
        let Self {
            family,
            hidden_size,
            num_attention_heads,
            head_dim,
            ref layers,
            ref ropes,
            norm_offset,
            qkv_bias,
            output_bias,
            qk_norm,
            post_norms,
            gate,
            scaled_embeddings,
            query_pre_attn_scalar,
            vocab_size: _,
            intermediate_size: _,
            num_key_value_heads: _,
            max_position_embeddings: _,
            rms_norm_eps: _,
            // By whether there is a tensor for the output.
            tie_word_embeddings: _,
            // With the tokenizer.
            token_ids: _,
        } = *self;
        let is_gemma = family == Family::Gemma3;
        let is_llama = matches!(family, Family::Llama | Family::Mistral);
        let implied = family.spec();
        let has_pattern = |(index, layer): (usize, &super::LayerKind)| {
            layer.window.is_some() == ((index + 1) % GEMMA3_PATTERN != 0)
        };
        if is_gemma && !layers.iter().enumerate().all(has_pattern) {
            return Err(format!(
                "its sliding windows are not on all but every {GEMMA3_PATTERN}th layer"
            ));
        }
        if !is_gemma && layers.iter().any(|layer| layer.window.is_some()) {
            return Err("it has sliding windows".to_owned());
        }
        if gate != implied.gate {
            return Err(format!(
                "its activation is `{}`, but that of every `{}` in a GGUF file is `{}`",
                gate.name(),
                family.model_type(),
                implied.gate.name()
            ));
        }
        if (norm_offset, qk_norm) != (implied.norm_offset, implied.qk_norm)
            || (post_norms, scaled_embeddings) != (implied.post_norms, implied.scaled_embeddings)
        {
            return Err(format!(
                "its norms or embeddings are not those of a `{}`",
                family.model_type()
            ));
        }
        let scalar = match (is_gemma, layers.len()) {
            (true, 62) => (hidden_size / num_attention_heads) as f64,
            _ => head_dim as f64,
        };
        if query_pre_attn_scalar.is_some_and(|found| found != scalar) {
            return Err(format!("its `query_pre_attn_scalar` is not {scalar}"));
        }
        if !is_llama && (qkv_bias, output_bias) != (implied.qkv_bias, implied.output_bias) {
            return Err(format!(
                "its attention has other biases than a `{}` in a GGUF file",
                family.model_type()
            ));
        }
        if ropes.iter().skip(1).any(|rope| rope.scaling != RopeScaling::Default) {
            return Err("its local rotary embedding is scaled".to_owned());
        }
        match ropes[0].scaling {
            RopeScaling::Llama3 { .. } if !is_llama => {
                Err("its rotary embedding is scaled as in Llama 3".to_owned())
            }
            RopeScaling::Llama3 { .. } if !self.is_read_back() => {
                Err("its rotary embedding is not scaled between 1 and 4 turns within the context of its pre-training, as Llama 3's is".to_owned())
            }
            RopeScaling::Yarn { factor, attention_factor, truncate, .. }
                if !truncate || (attention_factor - (0.1 * factor.ln() + 1.0)).abs() > 1e-6 =>
            {
                Err("its YaRN has an `attention_factor` of its own, or is not truncated".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn text(text: &str) -> Entry {
    Entry::Text(text.to_owned())
}
