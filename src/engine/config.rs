//! Configuration of the engines.

use serde::{Deserialize, Serialize};

/// The table of the engine `mistralrs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MistralRsConfig {
    /// Concurrent requests. With 1, a turn continues from the computed end of the last one, and its
    /// tokens depend on its request alone. More may be faster on a GPU, but then every turn is
    /// computed from its beginning, and mistral.rs lets requests of different lengths affect each
    /// other (see ARCHITECTURE.md): the same seed need not give the same tokens.
    pub max_batch: usize,
    /// Requests that may queue; one more is refused.
    pub queue: usize,
    /// Memory for cached prefixes of earlier turns on a CPU, MiB; at least one is cached. On a GPU
    /// mistral.rs caches the last 16.
    pub prefix_cache_mib: usize,
    /// Use the CPU even where the build has a GPU backend.
    pub force_cpu: bool,
}

impl Default for MistralRsConfig {
    fn default() -> Self {
        Self { max_batch: 1, queue: 256, prefix_cache_mib: 1024, force_cpu: false }
    }
}

/// The table of the engine `native`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NativeConfig {
    /// Concurrent sequences; further requests wait. At least 1.
    pub max_batch: usize,
    /// Requests that may queue; one more is refused as overload.
    pub queue: usize,
    /// Tokens of finished sequences whose keys and values are cached for requests with the same
    /// prefix; 0 caches none. A token takes `8 × layers × kv_heads × head_dim` bytes.
    pub cache_tokens: usize,
    /// Prompt tokens computed in one step, at least 1: bounds how long a long prompt delays the
    /// sequences that are being sampled.
    pub prefill_tokens: usize,
    /// On a GPU: tokens whose keys and values fit in the memory reserved at start, including those
    /// of `cache_tokens`. Sequences that find no memory wait, or are recomputed. Default: as many
    /// as fit in a quarter of the free memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tokens: Option<usize>,
}

impl NativeConfig {
    /// The same with room for as many `requests` at once: for callers that have at most that many,
    /// and for which one that is refused has failed.
    pub fn queueing(self, requests: usize) -> Self {
        Self { queue: self.queue.max(requests), ..self }
    }
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
