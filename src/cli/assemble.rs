//! Builds the concrete models that a configuration names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;

use crate::config::{
    BUNDLED, BUNDLED_FOLDER, Config, LocalModelConfig, PolicyConfig, PolicyEngine,
};
use crate::engine::config::{MistralRsConfig, NativeConfig};
use crate::engine::native::{AdaptedEngine, Base, NativeEngine};
use crate::engine::tokens::TokensEngine;
use crate::engine::tokens::config::TokensConfig;
use crate::engine::{Engine, Sampling};
use crate::gguf::Gguf;
use crate::hint::Reason;
use crate::large_model::{
    AttemptObserver, Endpoint, EndpointSetup, LargeModel, LargeModels, LocalModel,
};
use crate::model::{
    ADAPTER_CONFIG, Adapter, DeviceChoice, DtypeChoice, Spec, Weights, check_finite, misplaced,
};
use crate::policy::{DirectPolicy, Policy, RemotePolicy, TokenPolicy};
use crate::protocol::{Protocol, own_templates};
use crate::tokenization::ChatTokenizer;

use super::engine_choice::EngineChoice;
use super::hub;
use super::model_check::{check_adapters, check_model, check_sizes, declared_context, not_loaded};
use super::secrets;

/// Everything that takes part in episodes.
pub struct Assembly {
    /// The small model.
    pub main: LoadedPolicy,
    /// The canary policy.
    pub canary: Option<LoadedPolicy>,
    /// Those that adapters make of the same weights.
    pub adapters: Vec<LoadedPolicy>,
    /// The large models.
    pub large_models: Arc<LargeModels>,
    /// Notes for the user about what was chosen.
    pub notes: Vec<Reason>,
}

/// A policy with its protocol and how it samples.
pub struct LoadedPolicy {
    /// The policy.
    pub policy: Arc<dyn Policy>,
    /// The protocol.
    pub protocol: Arc<Protocol>,
    /// How it samples; the seed is not used.
    pub sampling: Sampling,
}

/// A policy by its tokens.
pub struct LocalPolicy {
    /// The policy.
    pub policy: Arc<dyn Policy>,
    /// Where its files are: its adapter's, then its model's.
    pub folders: Vec<PathBuf>,
    /// The servers that sample its tokens, if they are not sampled here.
    pub servers: Option<Arc<TokensEngine>>,
}

/// Loads every model that `config` names.
pub async fn assemble(
    config: &Config,
    observer: Arc<dyn AttemptObserver>,
) -> anyhow::Result<Assembly> {
    let setup = endpoint_setup(observer);
    let large_models = large_models(config, &setup).await?;
    let mut notes = Vec::new();
    if matches!(config.policy.engine, None | Some(PolicyEngine::Direct)) {
        let default = config.default_large_model();
        notes.push(reason!(
            "no policy is configured: questions go to the large model `{default}` as they are";
            hint: "`--policy` names a policy; with `--policy-engine large_model` the large model is its own policy"
        ));
    }
    let mut adapters =
        load_policies(config, &config.policy, ("policy", "policy"), &large_models, &setup).await?;
    let main = adapters.remove(0);
    let canary = match &config.canary {
        Some(canary) => {
            let (policy, names) = (&canary.policy, ("canary", "canary.policy"));
            let mut policies = load_policies(config, policy, names, &large_models, &setup).await?;
            let canary = policies.remove(0);
            adapters.extend(policies);
            Some(canary)
        }
        None => None,
    };
    Ok(Assembly { main, canary, adapters, large_models, notes })
}

/// The policy of the table `table` in `config`, followed by those of its adapters; `endpoint` is its
/// name if it is behind one.
async fn load_policies(
    config: &Config,
    policy: &PolicyConfig,
    (endpoint, table): (&str, &str),
    large_models: &LargeModels,
    setup: &EndpointSetup<'_>,
) -> anyhow::Result<Vec<LoadedPolicy>> {
    let alone =
        |policy: Arc<dyn Policy>| vec![LocalPolicy { policy, folders: Vec::new(), servers: None }];
    let policies = match policy.engine {
        Some(PolicyEngine::Remote) => {
            let remote = policy.remote.as_ref().context("the policy's `remote` is missing")?;
            let name = policy.name.as_deref().unwrap_or(endpoint);
            let endpoint = Endpoint::new(name, remote, setup)
                .map_err(|error| error.in_table(&format!("{table}.remote")))?;
            alone(Arc::new(RemotePolicy::new(Arc::new(endpoint))))
        }
        None | Some(PolicyEngine::Direct) => alone(Arc::new(DirectPolicy)),
        Some(PolicyEngine::LargeModel) => {
            let model = large_models.get(config.default_large_model())?;
            let name = policy.name.as_deref().unwrap_or(model.name());
            alone(Arc::new(RemotePolicy::new(Arc::clone(model)).named(name)))
        }
        Some(
            engine @ (PolicyEngine::Auto
            | PolicyEngine::MistralRs
            | PolicyEngine::Native
            | PolicyEngine::Tokens),
        ) => local_policies(policy, engine).await?,
    };
    let configured = policy.sampling;
    let loaded = |LocalPolicy { policy, folders, .. }| {
        let protocol = Arc::new(protocol(config, &folders)?);
        let sampling = protocol.settings().sampling(configured).of_seed(0);
        Ok(LoadedPolicy { policy, protocol, sampling })
    };
    policies.into_iter().map(loaded).collect()
}

/// What endpoints need besides their configuration.
pub fn endpoint_setup(observer: Arc<dyn AttemptObserver>) -> EndpointSetup<'static> {
    EndpointSetup {
        keys: &secrets::from_environment,
        observer,
        seed: u64::from(std::process::id()),
    }
}

/// The large models of `config`.
pub async fn large_models(
    config: &Config,
    setup: &EndpointSetup<'_>,
) -> anyhow::Result<Arc<LargeModels>> {
    let mut in_process: Vec<Arc<dyn LargeModel>> = Vec::new();
    for (name, local) in &config.local_models {
        in_process.push(Arc::new(local_model(name, local).await?));
    }
    let default = config.default_large_model();
    Ok(Arc::new(LargeModels::new(in_process, &config.large_models, default, setup)?))
}

/// The token-based policy of `config`, followed by those of its adapters. For an adapter alone, the
/// base is found by the adapter's configuration.
pub async fn local_policies(
    config: &PolicyConfig,
    engine: PolicyEngine,
) -> anyhow::Result<Vec<LocalPolicy>> {
    let config = &with_adapters(config).await?;
    let named = config.model.as_deref().context("the policy's `model` is missing")?;
    let path = match engine {
        PolicyEngine::Tokens => hub::resolve_text(named).await?,
        _ => hub::resolve(named).await?,
    };
    if config.adapter.is_some() || !Adapter::is_adapter_only(&path) {
        return token_policies(config, engine, &path).await;
    }
    served_alone(named, engine)?;
    let base = base_of(&path)?;
    let name = Some(config.model_name());
    let config = PolicyConfig { name, adapter: Some(path), ..config.clone() };
    let found = hub::resolve(&base).await;
    let found =
        found.with_context(|| format!("cannot find the base `{base}` of the adapter `{named}`"))?;
    token_policies(&config, engine, &found).await
}

/// The same policy with its adapters on this machine, and the name that it has by theirs.
async fn with_adapters(config: &PolicyConfig) -> anyhow::Result<PolicyConfig> {
    let mut found = PolicyConfig { name: Some(config.model_name()), ..config.clone() };
    for adapter in found.adapter.iter_mut().chain(found.adapters.values_mut()) {
        *adapter = hub::resolve_adapter(adapter).await?;
    }
    Ok(found)
}

/// Fails if `engine` does not serve an adapter that is named in the place of a model.
fn served_alone(named: &str, engine: PolicyEngine) -> anyhow::Result<()> {
    match engine {
        PolicyEngine::Tokens => Err(reason!(
            "`{named}` is an adapter, whose weights token servers have";
            hint: "name its base by `policy.model`"
        )
        .into()),
        PolicyEngine::MistralRs => Err(reason!(
            "`{named}` is an adapter, which `mistralrs` does not serve";
            hint: "leave `policy.engine` out, or merge the adapter with `server export`"
        )
        .into()),
        _ => Ok(()),
    }
}

/// The base of an adapter: a folder next to it, or the name in its configuration.
fn base_of(adapter: &Path) -> anyhow::Result<String> {
    let file = adapter.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&file);
    let text = text.with_context(|| format!("cannot read `{}`", file.display()))?;
    let settings: Value = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is not valid JSON", file.display()))?;
    let named = settings["base_model_name_or_path"].as_str().filter(|named| !named.is_empty());
    let named = named.with_context(|| {
        reason!(
            "`{}` names no `base_model_name_or_path`", file.display();
            hint: "name the base with `--policy`, and the adapter with `--adapter`"
        )
    })?;
    let beside = adapter.join(named);
    if beside.exists() {
        return Ok(beside.display().to_string());
    }
    if !Path::new(named).exists() && !hub::is_hub_name(named) {
        let readme = adapter.join("README.md");
        let way = match readme.is_file() {
            true => format!(" (`{}` may say how to get it)", readme.display()),
            false => String::new(),
        };
        return Err(reason!(
            "the adapter `{}` needs its base, `{named}`, which is not there", adapter.display();
            hint: "put it into that folder{way}, or name it with `--policy`, and the adapter with `--adapter`"
        )
        .into());
    }
    let revision = settings["revision"].as_str().filter(|&revision| revision != "main");
    if let Some(revision) = revision.filter(|_| !Path::new(named).exists()) {
        return Err(reason!(
            "`{}` names the revision `{revision}` of `{named}`, of which the newest alone is fetched", file.display();
            hint: "download that revision into a folder, and name it with `--policy`, and the adapter with `--adapter`"
        )
        .into());
    }
    Ok(named.to_owned())
}

/// The protocol: the templates of `config`, otherwise those in the first of `folders` that has
/// some, otherwise the built-in ones.
pub fn protocol(config: &Config, folders: &[PathBuf]) -> anyhow::Result<Protocol> {
    let templates = config.templates.clone().or_else(|| own_templates(folders));
    Ok(Protocol::load(templates.as_deref())?)
}

/// The policy of the model at `path`, and then those of the adapters beside it.
async fn token_policies(
    config: &PolicyConfig,
    engine: PolicyEngine,
    path: &Path,
) -> anyhow::Result<Vec<LocalPolicy>> {
    let adapters: Vec<&Path> =
        config.adapter.iter().chain(config.adapters.values()).map(PathBuf::as_path).collect();
    // Before the engine, which crashes on a truncated tokenizer.
    let text = Arc::new(policy_text(engine, path, config.adapter.as_deref(), &adapters)?);
    let choice = EngineChoice::resolve(engine, config, path);
    if engine == PolicyEngine::Auto {
        tracing::info!(engine = choice.name(), reason = %choice.reason, "the engine is chosen");
    }
    if config.adapter.is_none()
        && let Some(first) = config.adapters.keys().next()
    {
        let base = config.model_name();
        tracing::info!(
            hint = format!(
                "a request names an adapter by its model, such as `prompt-r1:{first}`; an adapter without a name (`--adapter FOLDER`) answers all other requests"
            ),
            "requests that name no adapter are answered by the base `{base}` alone"
        );
    }
    let mut servers = None;
    let engines: Vec<Arc<dyn Engine>> = match choice.engine {
        PolicyEngine::Tokens => {
            let tokens = config.tokens.as_ref().context("the policy's `tokens` is missing")?;
            let tokens = Arc::new(token_servers(tokens, Arc::clone(&text), path).await?);
            servers = Some(Arc::clone(&tokens));
            vec![tokens]
        }
        PolicyEngine::Native => {
            let engine = native(path, &text, &adapters, &config.native, config.device).await?;
            let adapted = AdaptedEngine::all(&engine).map(|engine| Arc::new(engine) as _);
            let base = config.adapter.is_none().then(|| Arc::clone(&engine) as _);
            base.into_iter().chain(adapted).collect()
        }
        _ => vec![mistralrs(path, &config.mistralrs, &choice).await?],
    };
    let name = config.model_name();
    let names = std::iter::once(&name).chain(config.adapters.keys());
    let adapters = std::iter::once(config.adapter.as_deref())
        .chain(config.adapters.values().map(|adapter| Some(adapter.as_path())));
    let policies = names.zip(adapters).zip(engines).map(|((name, adapter), engine)| LocalPolicy {
        policy: Arc::new(TokenPolicy::new(name, engine, Arc::clone(&text), true)),
        folders: adapter.into_iter().chain([path]).map(Path::to_owned).collect(),
        servers: servers.clone(),
    });
    Ok(policies.collect())
}

/// Tokenizer and chat template of the policy at `path`, which must carry a conversation. A model
/// without a template is given that of the policy's own `adapter`, not of the further ones beside
/// it: it may be served without those.
fn policy_text<P: AsRef<Path>>(
    engine: PolicyEngine,
    path: &Path,
    adapter: Option<&Path>,
    adapters: &[P],
) -> anyhow::Result<ChatTokenizer> {
    if engine != PolicyEngine::Tokens {
        if let Some(reason) = misplaced(path, adapters) {
            return Err(reason.into());
        }
        check_sizes(path)?;
    }
    let text = ChatTokenizer::load_for(path, adapter)?;
    text.check_turns()?;
    Ok(text)
}

/// The servers of `config`, compared with the model whose files are at `path`.
pub async fn token_servers(
    config: &TokensConfig,
    text: Arc<ChatTokenizer>,
    path: &Path,
) -> anyhow::Result<TokensEngine> {
    let context = declared_context(path);
    let engine = TokensEngine::new(config, text, context, &secrets::from_environment)?;
    engine.connect().await?;
    Ok(engine)
}

/// A large model of this process.
pub async fn local_model(name: &str, config: &LocalModelConfig) -> anyhow::Result<LocalModel> {
    let model = load_local_model(name, config).await.map_err(|error| {
        let text = format!("cannot load the large model `{name}`");
        let is_bundled = name == BUNDLED && config.path.ends_with(BUNDLED_FOLDER);
        match is_bundled && !config.path.exists() {
            true => error.context(reason!(
                "{text}";
                hint: "start in the project's folder, or say where its `models` are with `--models-dir`"
            )),
            // The error says itself what to do.
            false => error.context(text),
        }
    })?;
    Ok(model.with_params(config.params.clone())?)
}

async fn load_local_model(name: &str, config: &LocalModelConfig) -> anyhow::Result<LocalModel> {
    let path = hub::resolve_path(&config.path).await?;
    let text = Arc::new(large_model_text(&path)?);
    let engine = native(&path, &text, &[], &config.native, config.device).await?;
    Ok(LocalModel::new(name, engine, text))
}

/// Tokenizer and chat template of the large model at `path`.
fn large_model_text(path: &Path) -> anyhow::Result<ChatTokenizer> {
    if let Some(reason) = misplaced::<&Path>(path, &[]) {
        let is_adapter = path.join(ADAPTER_CONFIG).is_file();
        return Err(match is_adapter {
            true => reason.with_hint(format!(
                "a large model takes no adapter: `server export BASE --adapter {} --out FOLDER` merges it into its base",
                path.display()
            )),
            false => reason,
        }
        .into());
    }
    check_sizes(path)?;
    Ok(ChatTokenizer::load(path)?)
}

#[cfg(feature = "mistralrs")]
async fn mistralrs(
    path: &Path,
    config: &MistralRsConfig,
    _: &EngineChoice,
) -> anyhow::Result<Arc<dyn Engine>> {
    Ok(Arc::new(crate::engine::mistralrs::MistralRsEngine::load(path, config).await?))
}

#[cfg(not(feature = "mistralrs"))]
async fn mistralrs(
    path: &Path,
    _: &MistralRsConfig,
    choice: &EngineChoice,
) -> anyhow::Result<Arc<dyn Engine>> {
    Err(choice.not_built(path).into())
}

/// Checks the files of a policy, and that this build has its engine, without reading weights.
/// Nothing is downloaded: a model on the hub is not looked at.
///
/// # Errors
/// Says why the policy cannot be loaded.
pub fn check_policy(config: &PolicyConfig) -> anyhow::Result<()> {
    let engine = config.engine.unwrap_or(PolicyEngine::Auto);
    let has_files = matches!(
        engine,
        PolicyEngine::Auto | PolicyEngine::MistralRs | PolicyEngine::Native | PolicyEngine::Tokens
    );
    let Some(named) = config.model.as_deref().filter(|_| has_files) else { return Ok(()) };
    let (mut config, mut path) = (config.clone(), PathBuf::from(named));
    if config.adapter.is_none() && Adapter::is_adapter_only(&path) {
        served_alone(named, engine)?;
        let base = PathBuf::from(base_of(&path)?);
        config.adapter = Some(std::mem::replace(&mut path, base));
    }
    if !path.exists() {
        return Ok(());
    }
    let is_here = |adapter: &&PathBuf| !hub::is_elsewhere(adapter);
    let own = config.adapter.as_ref().filter(is_here);
    let adapters: Vec<PathBuf> =
        own.into_iter().chain(config.adapters.values().filter(is_here)).cloned().collect();
    let text = policy_text(engine, &path, own.map(PathBuf::as_path), &adapters)?;
    check_adapters(&path, &text, &adapters)?;
    let choice = EngineChoice::resolve(engine, &config, &path);
    choice.check(&path)?;
    match choice.engine {
        PolicyEngine::Native => check_model(&path, &text).map(drop),
        _ => Ok(()),
    }
}

/// Checks the files of a large model of this process, without reading weights. Nothing is
/// downloaded.
///
/// # Errors
/// Says why it cannot be loaded.
pub fn check_local_model(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    check_model(path, &large_model_text(path)?).map(drop)
}

/// An engine for the model at `path`, whose tokenizer is that of `text`, with these adapters beside
/// its weights.
async fn native(
    path: &Path,
    text: &Arc<ChatTokenizer>,
    adapters: &[&Path],
    config: &NativeConfig,
    device: DeviceChoice,
) -> anyhow::Result<Arc<NativeEngine>> {
    let (path, text, config) = (path.to_owned(), Arc::clone(text), config.clone());
    let folders: Vec<PathBuf> = adapters.iter().map(|&adapter| adapter.to_owned()).collect();
    let engine = tokio::task::spawn_blocking(move || {
        check_adapters(&path, &text, &folders)?;
        let device = device.open()?;
        let (spec, dtype) = (Spec::load(&path)?, DtypeChoice::Auto.on(&device));
        text.check_size(spec.vocab_size)?;
        let adapters = folders.iter().map(|folder| {
            let adapter = Adapter::load(folder, &spec, dtype, &device);
            let adapter = adapter.with_context(|| not_loaded(folder))?;
            check_finite(folder, &adapter.named())?;
            Ok(adapter)
        });
        let adapters = adapters.collect::<anyhow::Result<Vec<_>>>()?;
        let engine = if Gguf::is_path(&path) && device.is_cpu() {
            let file = Gguf::open(&path)?;
            NativeEngine::with_adapters(&spec, Base::Gguf(&file), &adapters, &config)?
        } else {
            let weights = Weights::load(&path, &spec, dtype, &device)?;
            check_finite(&path, &weights.named(&spec))?;
            NativeEngine::with_adapters(&spec, Base::Weights(&weights), &adapters, &config)?
        };
        anyhow::Ok(engine)
    });
    Ok(Arc::new(engine.await??))
}
