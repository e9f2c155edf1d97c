//! Chooses the engine of a policy if the configuration does not.

use std::path::Path;

use crate::config::{PolicyConfig, PolicyEngine};
#[cfg(feature = "mistralrs")]
use crate::engine::mistralrs::has_gpu;
use crate::model::{Adapter, DeviceChoice, Spec};

/// A GPU is chosen for mistral.rs alone.
#[cfg(not(feature = "mistralrs"))]
fn has_gpu() -> bool {
    false
}

/// An engine, and why it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineChoice {
    /// `native` or `mistralrs`.
    pub engine: PolicyEngine,
    /// The reason, to be read after "because".
    pub reason: String,
}

impl EngineChoice {
    /// For the model in the folder or GGUF file `path`: mistral.rs on a GPU; on a CPU the native
    /// engine if it supports the architecture, otherwise mistral.rs.
    pub fn of(config: &PolicyConfig, path: &Path) -> Self {
        let has_adapters = config.adapter.is_some() || !config.adapters.is_empty();
        if has_adapters || Adapter::is_alone(path) {
            let reason = "it serves adapters".to_owned();
            return Self { engine: PolicyEngine::Native, reason };
        }
        let may_use_gpu = config.device != DeviceChoice::Cpu && !config.mistralrs.force_cpu;
        Self::from(
            may_use_gpu && has_gpu(),
            config.device,
            Spec::load(path)
                .map(|spec| spec.family.model_type())
                .map_err(|error| error.to_string()),
        )
    }

    fn from(has_gpu: bool, device: DeviceChoice, known: Result<&str, String>) -> Self {
        let choice = |engine, reason: String| Self { engine, reason };
        match (device, known) {
            // The device of the native engine was set.
            (DeviceChoice::Cuda(_), Ok(kind)) => choice(
                PolicyEngine::Native,
                format!("it supports `{kind}` models, and `policy.device` names its device"),
            ),
            (_, _) if has_gpu => choice(PolicyEngine::MistralRs, "there is a GPU".into()),
            (_, Ok(kind)) => choice(PolicyEngine::Native, format!("it supports `{kind}` models")),
            (_, Err(error)) => {
                choice(PolicyEngine::MistralRs, format!("`native` cannot run it: {error}"))
            }
        }
    }

    /// The engine's name in configurations.
    pub fn name(&self) -> &'static str {
        match self.engine {
            PolicyEngine::Native => "native",
            _ => "mistralrs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_runs_what_it_knows_on_a_cpu() {
        let known = || Ok("llama");
        let unknown = || Err("`general.architecture`: `mamba` is not supported".to_owned());
        for (has_gpu, device, known, engine, reason) in [
            (false, DeviceChoice::Auto, known(), PolicyEngine::Native, "`llama`"),
            (false, DeviceChoice::Cpu, known(), PolicyEngine::Native, "CPU"),
            (true, DeviceChoice::Auto, known(), PolicyEngine::MistralRs, "GPU"),
            (true, DeviceChoice::Cuda(1), known(), PolicyEngine::Native, "`policy.device`"),
            (true, DeviceChoice::Auto, unknown(), PolicyEngine::MistralRs, "GPU"),
            (false, DeviceChoice::Auto, unknown(), PolicyEngine::MistralRs, "`mamba`"),
        ] {
            let choice = EngineChoice::from(has_gpu, device, known);
            assert_eq!(choice.engine, engine, "{has_gpu} {device:?}");
            assert!(choice.reason.contains(reason), "{choice:?}");
        }
    }
}
