//! Builds the parts of an evaluation: models, arms, and scoring.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli::assemble::{LocalPolicy, endpoint_setup, large_models, local_policies, protocol};
use crate::cli::checksum::{checksum, checksums};
use crate::cli::{Failure, hub};
use crate::config::{Config, EvalConfig, PolicyEngine};
use crate::engine::tokens::{LoadMeter, TokensEngine};
use crate::eval::EvalError;
use crate::eval::arms::{
    Arm, ArmSpec, BriefSources, Method, PLACEHOLDER, PolicyArm, PolicySetup, Prompt, PromptArm,
};
use crate::eval::config::SearchConfig;
use crate::eval::data::{Question, Questions, overlap_warning};
use crate::eval::metric_choice::Metric;
use crate::eval::run::{self, Outcomes};
use crate::eval::score::{Scorer, SentenceEncoder, is_used};
use crate::eval::search::{ResultFile, Search, SearchResult, training_questions};
use crate::judge::Judge;
use crate::large_model::{CachedModel, LargeModel, LargeModels, Prices};
use crate::model::SentenceModel;
use crate::policy::{Policy, ProgramPolicy, RemotePolicy};
use crate::protocol::Protocol;
use crate::task::Task;

/// The size of the cache of endpoints' replies.
const CACHED_REPLIES: usize = 1_000_000;

/// A large model, and everything its replies depend on.
type IdentifiedModel = (Arc<dyn LargeModel>, String);

/// An arm, or a placeholder for the one whose prompt must be searched first.
type Pending = Option<Arc<dyn Arm>>;

/// A policy with its protocol, and everything its turns depend on.
struct ArmPolicy {
    policy: Arc<dyn Policy>,
    protocol: Arc<Protocol>,
    identity: String,
}

/// An evaluation that is being set up.
pub(super) struct Setup<'a> {
    config: &'a EvalConfig,
    server: Config,
    models: Arc<LargeModels>,
    /// The models used so far: each has one cache.
    known: HashMap<String, IdentifiedModel>,
    search: Option<&'a SearchConfig>,
    /// The data sets in which a short answer is requested.
    brief: BriefSources,
    /// The servers that sample the policy's tokens, if it has some.
    servers: Option<Arc<TokensEngine>>,
}

impl<'a> Setup<'a> {
    pub(super) async fn new(
        config: &'a EvalConfig,
        questions: &[Question],
    ) -> Result<Self, Failure> {
        let mut server = config.server(None)?;
        let models = large_models(&server, &endpoint_setup(Arc::new(()))).await?;
        // Their files tell models apart, also those that an id on the hub names.
        for local in server.local_models.values_mut() {
            local.path = hub::resolve_path(&local.path).await?;
        }
        let searches = config.arms.iter().any(|arm| arm.method == Method::PromptSearch);
        let search = config.prompt_search.as_ref().filter(|_| searches);
        let brief = brief_among(config, questions);
        let known = HashMap::new();
        Ok(Self { config, server, models, known, search, brief, servers: None })
    }

    /// Measures the load of the policy's token servers from now on, if it has some.
    pub(super) fn load_meter(&self) -> Option<LoadMeter> {
        self.servers.clone().map(LoadMeter::new)
    }

    /// The name of the large model that is evaluated.
    pub(super) fn large_model(&self) -> &str {
        self.server.default_large_model()
    }

    /// A large model by name; by default the one that is evaluated.
    fn model(&mut self, name: Option<&str>) -> anyhow::Result<IdentifiedModel> {
        let name = name.unwrap_or(self.server.default_large_model()).to_owned();
        if let Some(known) = self.known.get(&name) {
            return Ok(known.clone());
        }
        let model = Arc::clone(self.models.get(&name)?);
        let identity = match self.server.local_models.get(&name) {
            // A model that was trained further in its folder is another model.
            Some(local) => format!("{} {}", model.identity(), checksum(&local.path)?),
            None => model.identity(),
        };
        let is_endpoint = self.server.large_models.contains_key(&name);
        let model: Arc<dyn LargeModel> = if self.config.cache && is_endpoint {
            let file = self.config.output.join(self.replies(&name));
            Arc::new(
                CachedModel::persistent(model, CACHED_REPLIES, &file)?.billing_cached_replies(),
            )
        } else {
            model
        };
        self.known.insert(name.clone(), (Arc::clone(&model), identity.clone()));
        Ok((model, identity))
    }

    /// Charges outcomes by the prices of now, where all replies have one price.
    pub(super) fn charge(
        &mut self,
        outcomes: &mut Outcomes,
        is_resumed: bool,
    ) -> anyhow::Result<()> {
        let (model, _) = self.model(None)?;
        let is_endpoint = self.server.large_models.contains_key(self.large_model());
        match model.only_prices() {
            Some(prices) => run::charge(outcomes, &self.config.arms, prices),
            None if is_resumed && is_endpoint => tracing::warn!(
                model = self.large_model(),
                "rows that were there already are charged by the prices of when they were asked, since fallbacks and `model_prices` have others"
            ),
            None => {}
        }
        Ok(())
    }

    /// What every call of a search costs, if they have one price.
    fn search_prices(
        &mut self,
        models: [&dyn LargeModel; 2],
        training: &[Question],
    ) -> anyhow::Result<Option<Prices>> {
        let mut prices = models.map(LargeModel::only_prices).to_vec();
        if is_used(Metric::Judge, training) {
            let (judge, _) = self.model(self.config.judge.model.as_deref())?;
            prices.push(judge.only_prices());
        }
        let first = prices[0];
        Ok(first.filter(|_| prices.iter().all(|other| *other == first)))
    }

    /// The file of a model's replies.
    fn replies(&self, name: &str) -> String {
        if name == self.large_model() {
            return "replies.jsonl".into();
        }
        let plain: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!("replies-{plain}-{:08x}.jsonl", crc32c::crc32c(name.as_bytes()))
    }

    /// The training questions of the prompt search, if there is one; warns about questions that are
    /// also asked.
    pub(super) fn training(&self, asked: &mut Questions) -> Result<Vec<Question>, Failure> {
        let Some(search) = self.search else { return Ok(Vec::new()) };
        let training = training_questions(search, &self.config.metrics, self.config.seed)?;
        asked
            .warnings
            .extend(training.warnings.into_iter().map(|text| format!("training: {text}")));
        asked.warnings.extend(overlap_warning(&training.questions, &asked.questions));
        Ok(training.questions)
    }

    /// The scorer for these questions.
    pub(super) async fn scorer(&mut self, questions: &[Question]) -> Result<Scorer, Failure> {
        let mut scorer = Scorer::new(self.config.metrics.normalization);
        if is_used(Metric::Ssim, questions) {
            scorer = scorer.with_encoder(self.encoder().await?);
        }
        if is_used(Metric::Judge, questions) {
            let config = &self.config.judge;
            let (model, _) = self.model(config.model.as_deref())?;
            let deadline = self.config.episode.deadline();
            scorer = scorer.with_judge(
                Judge::new(model, config.prompt.as_deref(), deadline).map_err(EvalError::from)?,
            );
        }
        Ok(scorer)
    }

    async fn encoder(&self) -> Result<Arc<dyn SentenceEncoder>, Failure> {
        let named = &self.config.metrics.sentence_model;
        let folder = hub::resolve(named).await.context(reason!(
            "the metric `ssim` needs a sentence model";
            hint: "name a folder with `metrics.sentence_model`, or another metric with `metrics.by_source`"
        ))?;
        let model = tokio::task::spawn_blocking(move || SentenceModel::load(&folder)).await;
        let model = model.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
        Ok(Arc::new(Sentences(model)))
    }

    /// The arms of the configuration.
    pub(super) async fn arms(&mut self) -> Result<Vec<Pending>, Failure> {
        let brief = self.brief.clone();
        let mut arms = Vec::new();
        for spec in &self.config.arms {
            let shared = self.model(None)?;
            let arm: Arc<dyn Arm> = match &spec.method {
                Method::PromptSearch => {
                    arms.push(None);
                    continue;
                }
                Method::Policy(policy) => {
                    let policy = self.policy(policy).await?;
                    Arc::new(PolicyArm::new(self.policy_arm(spec, &policy, &shared)))
                }
                Method::FirstPrompt(policy) => {
                    let policy = self.policy(policy).await?;
                    Arc::new(PolicyArm::first_prompt(self.policy_arm(spec, &policy, &shared)))
                }
                Method::SelfPolicy => {
                    let policy = self.self_policy(&shared)?;
                    Arc::new(PolicyArm::new(self.policy_arm(spec, &policy, &shared)))
                }
                Method::Script(command) => {
                    let policy = self.program(command)?;
                    Arc::new(PolicyArm::new(self.policy_arm(spec, &policy, &shared)))
                }
                Method::Direct => self.prompt_arm(spec, Prompt::direct(&brief)?, 1, shared),
                Method::ChainOfThought => {
                    self.prompt_arm(spec, Prompt::chain_of_thought(&brief)?, 1, shared)
                }
                Method::Template(file) => {
                    self.prompt_arm(spec, Prompt::load(file, &brief)?, 1, shared)
                }
                Method::SelfConsistency(k, file) => {
                    let prompt = match file {
                        Some(file) => Prompt::load(file, &brief)?,
                        None => Prompt::chain_of_thought(&brief)?,
                    };
                    self.prompt_arm(spec, prompt, *k, shared)
                }
            };
            arms.push(Some(arm));
        }
        if self.search.is_some() {
            self.model(self.search.and_then(|search| search.proposer.as_deref()))?;
        }
        Ok(arms)
    }

    fn prompt_arm(
        &self,
        spec: &ArmSpec,
        prompt: Prompt,
        samples: usize,
        model: IdentifiedModel,
    ) -> Arc<dyn Arm> {
        let deadline = self.config.episode.deadline();
        let (model, identity) = model;
        Arc::new(PromptArm::new(&spec.name, prompt, samples, (model, &identity), deadline))
    }

    /// The policy in a folder, a file, or on the hub.
    async fn policy(&mut self, named: &str) -> Result<ArmPolicy, Failure> {
        let server = self.config.server(Some(named))?;
        let engine = server.policy.engine.unwrap_or(PolicyEngine::Native);
        let mut policies = local_policies(&server.policy, engine).await?;
        let LocalPolicy { policy, folders, servers } = policies.remove(0);
        // No other arm has a policy then.
        self.servers = servers;
        let protocol = Arc::new(protocol(&server, &folders)?);
        // Servers are identified by address: they do not report which weights they have.
        let servers = server.policy.tokens.as_ref().map(|tokens| tokens.servers.join(" "));
        let engine = servers.map_or_else(|| format!("{engine:?}"), |at| format!("Tokens {at}"));
        let identity = format!("{engine} {} {}", checksums(&folders)?, self.templates()?);
        Ok(ArmPolicy { policy, protocol, identity })
    }

    /// The large model as the policy.
    fn self_policy(&self, (model, identity): &IdentifiedModel) -> Result<ArmPolicy, Failure> {
        let policy = Arc::new(RemotePolicy::new(Arc::clone(model)));
        self.untrained(policy, format!("self {identity}"))
    }

    /// A program as the policy. The files that its command names are a part of it; those that they
    /// read are not seen.
    fn program(&self, command: &str) -> Result<ArmPolicy, Failure> {
        let policy = ProgramPolicy::new(command).context("the program has no name")?;
        let identity = format!("script {command} {}", checksums(&policy.files())?);
        self.untrained(Arc::new(policy), identity.trim_end().to_owned())
    }

    fn untrained(&self, policy: Arc<dyn Policy>, identity: String) -> Result<ArmPolicy, Failure> {
        let protocol = Arc::new(protocol(&self.server, &[])?);
        let identity = format!("{identity} {}", self.templates()?);
        Ok(ArmPolicy { policy, protocol, identity })
    }

    /// A checksum of this evaluation's templates.
    fn templates(&self) -> anyhow::Result<String> {
        match &self.config.templates {
            Some(folder) => Ok(checksum(folder)?),
            None => Ok(String::new()),
        }
    }

    fn policy_arm<'b>(
        &self,
        spec: &'b ArmSpec,
        policy: &'b ArmPolicy,
        large_model: &'b IdentifiedModel,
    ) -> PolicySetup<'b> {
        let sampling = policy.protocol.settings().sampling(self.config.policy.sampling);
        PolicySetup {
            name: &spec.name,
            policy: (Arc::clone(&policy.policy), &policy.identity),
            large_model: (Arc::clone(&large_model.0), &large_model.1),
            protocol: Arc::clone(&policy.protocol),
            limits: self.config.episode.clone(),
            sampling: sampling.of_seed(0),
        }
    }

    /// Searches for a prompt, if an arm needs one and no stored result is found.
    pub(super) async fn search(
        &mut self,
        training: &[Question],
        scorer: &Scorer,
        stop: &CancellationToken,
    ) -> Result<Option<SearchResult>, Failure> {
        let Some(config) = self.search else { return Ok(None) };
        let (model, model_identity) = self.model(None)?;
        let (proposer, proposer_identity) = self.model(config.proposer.as_deref())?;
        let source = training.first().map(|question| question.task.source.clone());
        let place = Task {
            question: PLACEHOLDER.into(),
            source: source.unwrap_or_default(),
            ..Task::default()
        };
        let brief = brief_among(self.config, training);
        let mut start = Vec::new();
        for prompt in [
            Prompt::direct(&BriefSources::default()),
            Prompt::direct(&brief),
            Prompt::chain_of_thought(&brief),
        ] {
            let prompt = prompt?.render(&place)?;
            if !start.contains(&prompt) {
                start.push(prompt);
            }
        }
        let asked: Vec<_> =
            training.iter().map(|question| (&question.task, question.metric)).collect();
        let identity = json!({
            "search": config,
            "questions": asked,
            "metrics": self.config.metrics,
            "judge": self.config.judge,
            "large_model": model_identity,
            "proposer": proposer_identity,
            "start": start,
            "seed": self.config.seed,
        });
        let saved = ResultFile::new(&self.config.output, identity.to_string());
        let prices = self.search_prices([&*model, &*proposer], training)?;
        // By the prices of now, like the rows.
        let charged = |mut found: SearchResult| {
            if let Some(prices) = prices {
                found.usage.cost = prices.cost(found.usage.tokens);
            }
            found
        };
        if let Some(found) = saved.read()? {
            if prices.is_none() {
                tracing::warn!(
                    "the prompt search that was stored is charged by the prices of when it ran, since its models have several"
                );
            }
            return Ok(Some(charged(found)));
        }
        let search = Search {
            config,
            questions: training,
            model,
            proposer,
            scorer,
            start,
            brief: &brief,
            seed: self.config.seed,
            max_in_flight: self.config.max_in_flight,
            deadline: self.config.episode.deadline(),
        };
        let found = tokio::select! {
            found = search.run() => found?,
            () = stop.cancelled() => return Err(EvalError::SearchInterrupted.into()),
        };
        saved.write(&found)?;
        Ok(Some(charged(found)))
    }

    /// The arms, including those with the prompt that was found.
    pub(super) fn with_search(
        &mut self,
        arms: Vec<Pending>,
        found: Option<&SearchResult>,
    ) -> anyhow::Result<Vec<Arc<dyn Arm>>> {
        let mut all = Vec::with_capacity(arms.len());
        for (arm, spec) in arms.into_iter().zip(&self.config.arms) {
            all.push(match arm {
                Some(arm) => arm,
                None => {
                    let prompt = found.context("no prompt was searched for")?;
                    let shared = self.model(None)?;
                    self.prompt_arm(spec, Prompt::literal(&prompt.prompt, &self.brief), 1, shared)
                }
            });
        }
        Ok(all)
    }
}

/// The data sets of `questions` in which a short answer is requested.
fn brief_among(config: &EvalConfig, questions: &[Question]) -> BriefSources {
    let brief = BriefSources::among(questions);
    if config.brief { brief } else { brief.never() }
}

/// The sentence model behind the evaluation's port.
struct Sentences(SentenceModel);

impl SentenceEncoder for Sentences {
    fn embed(&self, text: &str) -> Result<Vec<f32>, String> {
        self.0.embed(text).map_err(|error| error.to_string())
    }
}
