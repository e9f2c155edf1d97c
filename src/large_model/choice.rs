//! The table `large_model` of `server train grpo` and `server env`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{LargeModelConfig, check_local_params};
use crate::hint::{Hint, Reason};

/// The large model of a run: either `path` or `endpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LargeModelChoice {
    /// A model folder, run in this process.
    pub path: Option<PathBuf>,
    /// An OpenAI-compatible endpoint.
    pub endpoint: Option<LargeModelConfig>,
    /// Fields of every call, such as `temperature`.
    pub params: Map<String, Value>,
    /// How many replies are cached, so that a repeated call costs nothing; 0 for none. With a
    /// cache, every episode sends the same `seed`.
    pub cache_replies: usize,
    /// A file that keeps cached replies between runs.
    pub cache_file: Option<PathBuf>,
}

impl Default for LargeModelChoice {
    fn default() -> Self {
        Self {
            path: None,
            endpoint: None,
            params: Map::new(),
            cache_replies: 100_000,
            cache_file: None,
        }
    }
}

impl LargeModelChoice {
    /// The fields of every call of an episode: `params`, and with a cache a fixed `seed`, so that
    /// equal requests get equal replies.
    pub fn call_params(&self) -> Map<String, Value> {
        let mut params = self.params.clone();
        if self.cache_replies > 0 {
            params.entry("seed").or_insert(0.into());
        }
        params
    }

    /// Checks a setting of this name.
    ///
    /// # Errors
    /// When it is no choice, a local model cannot take its fields, or the endpoint has a setting that
    /// cannot be used.
    pub fn check(&self, key: &str) -> Result<(), Reason> {
        if self.path.is_some() == self.endpoint.is_some() {
            return Err(reason!(
                "`{key}` needs either `path` or `endpoint`";
                hint: "`path = \"models/large-model\"` is the bundled one"
            ));
        }
        match &self.endpoint {
            None => check_local_params(&format!("{key}.params"), &self.params),
            Some(endpoint) => {
                let checked = endpoint.validate(&format!("{key}.endpoint"));
                checked.map(drop).map_err(|error| error.reason())
            }
        }
    }
}
