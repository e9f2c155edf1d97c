//! The measured shapes and devices.

#![allow(dead_code)] // each benchmark takes what it needs

use candle_core::{DType, Device};
use prompt_r1::model::spec::{LayerKind, Rope};
use prompt_r1::model::{DeviceChoice, DtypeChoice, Family, Spec};

/// That of the bundled policy: 1 M parameters with this vocabulary.
pub fn small() -> Spec {
    Spec {
        vocab_size: 1024,
        hidden_size: 128,
        intermediate_size: 384,
        layers: vec![LayerKind::default(); 4],
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 512,
        tie_word_embeddings: true,
        ..Family::Qwen3.spec()
    }
}

/// That of Qwen3-0.6B.
pub fn qwen3_0_6b() -> Spec {
    Spec {
        vocab_size: 151_936,
        hidden_size: 1024,
        intermediate_size: 3072,
        layers: vec![LayerKind::default(); 28],
        num_attention_heads: 16,
        num_key_value_heads: 8,
        head_dim: 128,
        max_position_embeddings: 4096,
        ropes: vec![Rope::new(1_000_000.0)],
        tie_word_embeddings: true,
        ..Family::Qwen3.spec()
    }
}

/// That of SmolLM2-135M.
pub fn smollm2_135m() -> Spec {
    Spec {
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        layers: vec![LayerKind::default(); 30],
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        max_position_embeddings: 8192,
        ropes: vec![Rope::new(100_000.0)],
        tie_word_embeddings: true,
        ..Family::Llama.spec()
    }
}

/// The GPU, and the type to compute in, where the benchmark's argument is `cuda`; else nothing.
pub fn gpu() -> anyhow::Result<Option<(Device, DType)>> {
    if !std::env::args().any(|argument| argument == "cuda") {
        return Ok(None);
    }
    let device = DeviceChoice::Cuda(0).open()?;
    let dtype = DtypeChoice::Auto.on(&device);
    Ok(Some((device, dtype)))
}
