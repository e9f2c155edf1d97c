//! How the engines run.

use serde::{Deserialize, Serialize};

/// How mistral.rs is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MistralRsConfig {
    /// Requests that sample at once. With 1, a turn is computed from where the last one ended, and
    /// its tokens depend on its request alone. More may be faster on a GPU, but then every turn is
    /// computed from its beginning, and mistral.rs lets requests of other lengths disturb each other
    /// (see ARCHITECTURE.md): the same seed need not give the same tokens.
    pub max_batch: usize,
    /// Requests that may wait for a place; one more is refused.
    pub queue: usize,
    /// Memory for the computed prefixes of earlier turns on a CPU, MiB; one is always kept. On a GPU
    /// mistral.rs keeps the last 16.
    pub prefix_cache_mib: usize,
    /// Use the CPU even where the build has a GPU backend.
    pub force_cpu: bool,
}

impl Default for MistralRsConfig {
    fn default() -> Self {
        Self { max_batch: 1, queue: 256, prefix_cache_mib: 1024, force_cpu: false }
    }
}

/// How much the native engine takes on at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NativeConfig {
    /// Sequences in flight; further requests wait. At least 1.
    pub max_batch: usize,
    /// Requests that may wait; one more is refused as overload.
    pub queue: usize,
    /// Tokens of finished sequences whose keys and values are kept for requests that begin alike;
    /// 0 keeps none. A token takes `8 × layers × kv_heads × head_dim` bytes.
    pub cache_tokens: usize,
    /// Prompt tokens computed in one step, at least 1: how long a long prompt may hold up the
    /// sequences that are being sampled.
    pub prefill_tokens: usize,
    /// On a GPU: tokens whose keys and values there is memory for, taken at the start, those of
    /// `cache_tokens` included. Sequences that find none wait, or are computed anew. Unless it is
    /// said, as many as fit in a quarter of the memory that is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tokens: Option<usize>,
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self {
            max_batch: 128,
            queue: 1024,
            cache_tokens: 32_768,
            prefill_tokens: 512,
            device_tokens: None,
        }
    }
}
