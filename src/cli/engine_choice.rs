//! Chooses the engine of a policy if the configuration does not.

use std::path::Path;

use crate::config::{PolicyConfig, PolicyEngine};
#[cfg(feature = "mistralrs")]
use crate::engine::mistralrs::{check_settings, check_weights, has_gpu};
use crate::hint::{Hint, Reason};
use crate::model::{Adapter, DeviceChoice, Spec};

/// A GPU is chosen for mistral.rs alone.
#[cfg(not(feature = "mistralrs"))]
fn has_gpu() -> bool {
    false
}

#[cfg(not(feature = "mistralrs"))]
fn check_settings(_: &Path) -> Result<(), Reason> {
    Ok(())
}

#[cfg(not(feature = "mistralrs"))]
fn check_weights(_: &Path) -> Result<(), Reason> {
    Ok(())
}

/// An engine, and why it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineChoice {
    /// `native` or `mistralrs`.
    pub engine: PolicyEngine,
    /// The reason, to be read after "because".
    pub reason: Reason,
}

impl EngineChoice {
    /// `engine`, or if that is `auto`, the choice for the model in the folder or GGUF file `path`.
    pub fn resolve(engine: PolicyEngine, config: &PolicyConfig, path: &Path) -> Self {
        match engine {
            PolicyEngine::Auto => Self::of(config, path),
            engine => Self { engine, reason: "the configuration names it".into() },
        }
    }

    /// For the model in the folder or GGUF file `path`: mistral.rs on a GPU, unless it ignores a
    /// setting of a model that the native engine supports; on a CPU the native engine if it
    /// supports the architecture, otherwise mistral.rs.
    pub fn of(config: &PolicyConfig, path: &Path) -> Self {
        let has_adapters = config.adapter.is_some() || !config.adapters.is_empty();
        if has_adapters || Adapter::is_adapter_only(path) {
            let reason = "it serves adapters".into();
            return Self { engine: PolicyEngine::Native, reason };
        }
        let may_use_gpu = config.device != DeviceChoice::Cpu && !config.mistralrs.force_cpu;
        Self::from(
            may_use_gpu && has_gpu(),
            config.device,
            Spec::load(path).map(|spec| spec.family.model_type()).map_err(|error| error.reason()),
            check_settings(path),
        )
    }

    fn from(
        has_gpu: bool,
        device: DeviceChoice,
        known: Result<&str, Reason>,
        for_mistralrs: Result<(), Reason>,
    ) -> Self {
        let choice = |engine, reason: Reason| Self { engine, reason };
        let ignored = for_mistralrs.err().filter(|_| has_gpu);
        match (device, known, ignored) {
            // The device of the native engine was set.
            (DeviceChoice::Cuda(_), Ok(kind), _) => choice(
                PolicyEngine::Native,
                format!("it supports `{kind}` models, and `policy.device` names its device").into(),
            ),
            (_, Ok(kind), Some(ignored)) => {
                let text = format!("it supports `{kind}` models, and {ignored}");
                choice(PolicyEngine::Native, text.into())
            }
            _ if has_gpu => choice(PolicyEngine::MistralRs, "there is a GPU".into()),
            (_, Ok(kind), None) => {
                choice(PolicyEngine::Native, format!("it supports `{kind}` models").into())
            }
            (_, Err(error), _) => {
                let because = |text: &str| format!("`native` cannot run it: {text}");
                choice(PolicyEngine::MistralRs, error.map_text(because))
            }
        }
    }

    /// Fails if this build lacks the engine, or if it would compute another model than the one at
    /// `path`, or find no weights there.
    ///
    /// # Errors
    /// Says why this engine is needed, what it ignores, or what is wrong with the weights.
    pub fn check(&self, path: &Path) -> Result<(), Reason> {
        match self.engine {
            PolicyEngine::MistralRs if cfg!(not(feature = "mistralrs")) => {
                Err(self.not_built(path))
            }
            PolicyEngine::MistralRs => {
                check_settings(path)?;
                let unusable = |text: &str| format!("`{}` is not usable: {text}", path.display());
                check_weights(path).map_err(|reason| reason.map_text(unusable))
            }
            _ => Ok(()),
        }
    }

    /// The error that this build lacks mistral.rs, which the model at `path` needs.
    pub(super) fn not_built(&self, path: &Path) -> Reason {
        let reason = reason!(
            "`{}` needs the engine `mistralrs`, because {}; this program was built without it",
            path.display(),
            self.reason;
            hint: "build it without `--no-default-features`"
        );
        // What is wrong with a model is better mended.
        match &self.reason.hint {
            Some(hint) => reason.with_hint(hint.clone()),
            None => reason,
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
        let unknown = || Err("`general.architecture`: `mamba` is not supported".into());
        let read = || Ok(());
        let ignored = || Err(Reason::from("mistral.rs ignores `rope_scaling`"));
        for (has_gpu, device, known, for_mistralrs, engine, reason) in [
            (false, DeviceChoice::Auto, known(), read(), PolicyEngine::Native, "`llama`"),
            (false, DeviceChoice::Cpu, known(), read(), PolicyEngine::Native, "`llama`"),
            (false, DeviceChoice::Auto, known(), ignored(), PolicyEngine::Native, "`llama`"),
            (true, DeviceChoice::Auto, known(), read(), PolicyEngine::MistralRs, "GPU"),
            (true, DeviceChoice::Auto, known(), ignored(), PolicyEngine::Native, "`rope_scaling`"),
            (true, DeviceChoice::Cuda(1), known(), read(), PolicyEngine::Native, "`policy.device`"),
            (true, DeviceChoice::Auto, unknown(), read(), PolicyEngine::MistralRs, "GPU"),
            (true, DeviceChoice::Auto, unknown(), ignored(), PolicyEngine::MistralRs, "GPU"),
            (false, DeviceChoice::Auto, unknown(), read(), PolicyEngine::MistralRs, "`mamba`"),
        ] {
            let choice = EngineChoice::from(has_gpu, device, known, for_mistralrs);
            assert_eq!(choice.engine, engine, "{has_gpu} {device:?}");
            assert!(choice.reason.text.contains(reason), "{choice:?}");
        }
    }

    #[test]
    fn a_build_without_the_engine_says_why_it_is_needed() {
        let unknown = Reason::from("`general.architecture`: `mamba` is not supported");
        let misspelt = reason!("`llama.rope.freq_bas`: not known"; hint: "correct it");
        for (error, said, hint) in [
            (unknown, "`mamba` is not supported", "build it without"),
            (misspelt, "`llama.rope.freq_bas`", "correct it"),
        ] {
            let choice = EngineChoice::from(false, DeviceChoice::Auto, Err(error), Ok(()));
            let reason = choice.not_built(Path::new("a.gguf"));
            for said in ["`a.gguf`", "`mistralrs`", said] {
                assert!(reason.text.contains(said), "{reason}");
            }
            assert!(reason.hint().unwrap_or_default().starts_with(hint), "{reason:?}");
        }
    }
}
