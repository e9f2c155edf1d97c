//! A learner at a Tinker server, which has the adapter and its optimizer; the objective is computed
//! here.

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::archive::unpack;
use super::client::{Client, Repeat};
use super::config::{LossScale, TinkerConfig};
use super::error::TinkerError;
use super::wire::{Capabilities, Datum, ForwardBackwardRequest, Session};
use crate::model::{Adapter, Model};
use crate::protocol::Opening;
use crate::train::adamw::AdamWConfig;
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::grpo::config::GrpoConfig;
use crate::train::grpo::learner::{Learner, TraceScores};
use crate::train::grpo::update::Update;
use crate::train::json_file;
use crate::train::pack;
use crate::train::start::Start;
use crate::trajectory::{SampledToken, TokenTrace};

/// The interval between heartbeats of the session, as in the SDK.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The time-out for ending a session.
const END_SESSION_TIMEOUT: Duration = Duration::from_secs(5);
/// The most trajectories and bytes of one request, the limits of Thinking Machines' service.
const CHUNK: (usize, usize) = (1024, 5_000_000);
/// The size of a position in a request: its token, its target, two values.
const POSITION_BYTES: usize = 20;
/// The number of tokens on which the server's model is compared with the local one.
const PROBE: usize = 64;
/// Names that are tried for saved weights.
const NAMES: usize = 3;

/// In a checkpoint: the location of the server's part.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    weights: String,
}

/// Trains an adapter at a Tinker server.
pub struct TinkerLearner {
    config: TinkerConfig,
    adamw: AdamWConfig,
    micro_batch_tokens: usize,
    client: Client,
    /// Computations run on the calling thread; heartbeats on a thread of their own.
    runtime: Runtime,
    model_id: String,
    /// The number of the last request for the model. The server executes equal numbers once.
    seq_id: i32,
    /// The model in `model.path`.
    base: Model,
    /// The base with the server's current adapter.
    policy: Model,
}

impl TinkerLearner {
    /// Begins with a new adapter, or continues from the checkpoint in the folder `checkpoint`.
    ///
    /// # Errors
    /// When the server cannot be reached, trains another model than that of `start`, or no longer
    /// has its part of the checkpoint.
    pub fn new(
        config: &GrpoConfig,
        tinker: &TinkerConfig,
        key: Option<SecretString>,
        start: &Start,
        checkpoint: Option<&Path>,
    ) -> Result<Self, TrainError> {
        let saved = checkpoint.map(Saved::load).transpose()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = Client::new(tinker, key)?;
        let model_id = runtime.block_on(create(&client, tinker, config.seed))?;
        let mut learner = Self {
            config: tinker.clone(),
            adamw: AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() },
            micro_batch_tokens: config.micro_batch_tokens,
            client,
            runtime,
            model_id,
            seq_id: 0,
            base: start.model.clone(),
            policy: start.model.clone(),
        };
        if let Some(saved) = saved {
            let body = json!({ "path": saved.weights, "optimizer": true, "type": "load_weights" });
            learner.run("load_weights", body, Repeat::Unsent)?;
        }
        learner.fetch_policy()?;
        learner.compare(start, config.guards.max_rollout_logprob_diff)?;
        Ok(learner)
    }

    /// Starts a computation with the model and waits for its result.
    fn run(
        &mut self,
        call: &'static str,
        mut body: Value,
        repeat: Repeat,
    ) -> Result<super::wire::Finished, TinkerError> {
        self.seq_id += 1;
        body["model_id"] = self.model_id.clone().into();
        body["seq_id"] = self.seq_id.into();
        self.runtime.block_on(async {
            let begun = self.client.begin(call, &body, repeat).await?;
            self.client.end(call, &begun).await
        })
    }

    /// Saves weights under a new name, and returns that.
    fn save_as(&mut self, call: &'static str) -> Result<(String, Option<String>), TinkerError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let name = format!("save-{}", self.seq_id + 1);
            let body = json!({ "path": name, "type": call });
            match self.run(call, body, Repeat::Safe) {
                Ok(finished) => return Ok((name, finished.path)),
                // The response to the first attempt was lost: the server has saved the weights, but
                // does not say so.
                Err(TinkerError::Refused { status: 409, .. }) if tries < NAMES => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fetches the server's current adapter.
    fn fetch_policy(&mut self) -> Result<(), TrainError> {
        let (name, _) = self.save_as("save_weights_for_sampler")?;
        let full = format!("sampler_weights/{name}");
        let file = self.client.archive(&self.model_id, [name, full.clone()]);
        let file = self.runtime.block_on(file)?;
        let folder = tempfile::tempdir()?;
        unpack(file, folder.path()).map_err(|error| TinkerError::Unreadable {
            call: "archive",
            reason: error.to_string(),
        })?;
        let embed = &self.base.weights().embed;
        let (dtype, device) = (embed.dtype(), embed.device());
        let adapter = Adapter::load(folder.path(), self.base.spec(), dtype, device)?;
        self.policy = self.base.clone().with_adapter(adapter);
        // It was fetched; one for each update would fill the server's disk.
        if let Err(error) = self.runtime.block_on(self.client.delete(&self.model_id, &full)) {
            tracing::warn!(%error, "cannot delete weights that the server no longer needs");
        }
        Ok(())
    }

    /// Compares the server's model, with its adapter, to the local one.
    fn compare(&mut self, start: &Start, allowed: f64) -> Result<(), TrainError> {
        let opening = Opening { question: "Who was first?", max_turns: 4, ..Opening::default() };
        let mut ids = start.text.opening_ids(&start.protocol()?.opening(&opening)?)?;
        ids.truncate(PROBE);
        let mut trace = TokenTrace::default();
        trace.push_context(&ids[..1]);
        ids[1..].iter().for_each(|&id| trace.push_action(SampledToken { id, log_prob: 0.0 }));
        let there = self.log_probs(&[&trace])?.remove(0);
        let here =
            pack::log_probs(&self.policy, &[&trace], self.micro_batch_tokens, 1.0)?.remove(0);
        let sum: f64 = there.iter().zip(&here).map(|(there, here)| (there - here).abs()).sum();
        let difference = sum / here.len().max(1) as f64;
        tracing::info!(
            difference,
            tokens = here.len(),
            "the server's model was compared to the one here"
        );
        if difference <= allowed {
            return Ok(());
        }
        Err(TinkerError::ModelMismatch {
            base_model: self.config.base_model.clone(),
            tokens: here.len(),
            difference,
            allowed,
        }
        .into())
    }

    /// Log-probabilities of every position of each trajectory; with `losses`, also accumulates
    /// their gradient.
    fn score(
        &mut self,
        data: Vec<Datum>,
        lengths: &[usize],
        forward_only: bool,
    ) -> Result<Vec<Vec<f32>>, TinkerError> {
        let loss_fn = if forward_only { "cross_entropy" } else { "importance_sampling" };
        let mut data = data.into_iter();
        let mut all = Vec::with_capacity(lengths.len());
        for count in chunks(lengths) {
            self.seq_id += 1;
            let request = ForwardBackwardRequest {
                model_id: self.model_id.clone(),
                seq_id: self.seq_id,
                data: data.by_ref().take(count).collect(),
                loss_fn: loss_fn.into(),
                forward_only,
            };
            all.extend(self.runtime.block_on(self.client.score(&request))?);
        }
        let found: Vec<usize> = all.iter().map(Vec::len).collect();
        if found != lengths {
            let reason = format!("it has scores for {found:?} tokens, not {lengths:?}");
            return Err(TinkerError::Unreadable { call: "forward", reason });
        }
        Ok(all)
    }

    /// Log-probabilities of every position of each trajectory under the current policy.
    fn forward(&mut self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f32>>, TinkerError> {
        let ones = |trace: &TokenTrace| vec![1.0; positions(trace)];
        let data = traces
            .iter()
            .map(|trace| Datum::new(&trace.ids).with("weights", ones(trace)))
            .collect();
        self.score(data, &lengths(traces), true)
    }

    /// Accumulates the gradient of a function whose derivatives with respect to each position's
    /// log-probability are `token_gradients`, where the log-probabilities are now `scores`.
    fn backward(
        &mut self,
        traces: &[&TokenTrace],
        scores: &[Vec<f32>],
        token_gradients: &[Vec<f64>],
    ) -> Result<(), TinkerError> {
        let data = (traces.iter().zip(scores).zip(token_gradients))
            .map(|((trace, scores), token_gradients)| {
                Datum::new(&trace.ids).with("logprobs", scores.iter().copied()).with(
                    "advantages",
                    advantages(self.config.loss_scale, traces.len(), token_gradients),
                )
            })
            .collect();
        self.score(data, &lengths(traces), false).map(drop)
    }
}

impl Learner for TinkerLearner {
    fn policy(&self) -> &Model {
        &self.policy
    }

    fn log_probs(&mut self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f64>>, TrainError> {
        let scores = self.forward(traces)?;
        Ok(traces.iter().zip(&scores).map(|(trace, scores)| sampled(trace, scores)).collect())
    }

    fn update(&mut self, update: &mut Update<'_>) -> Result<Option<f64>, TrainError> {
        let traces = update.traces();
        let scores = self.forward(&traces)?;
        let mut token_gradients = Vec::with_capacity(traces.len());
        for (index, (trace, scores)) in traces.iter().zip(&scores).enumerate() {
            let log_probs = sampled(trace, scores);
            // Entropy is the mean of this over what the policy samples.
            let entropies = log_probs.iter().map(|log_prob| -log_prob).collect();
            let own = TraceScores { log_probs, entropies };
            token_gradients.push(spread(trace, &update.gradients(index, &own).log_probs));
        }
        if !update.loss().is_finite()
            || !token_gradients.iter().flatten().all(|gradient| gradient.is_finite())
        {
            return Ok(None);
        }
        self.backward(&traces, &scores, &token_gradients)?;
        let AdamWConfig { betas: (beta1, beta2), eps, weight_decay, .. } = self.adamw;
        let body = json!({
            "adam_params": {
                "learning_rate": update.learning_rate(),
                "beta1": beta1,
                "beta2": beta2,
                "eps": eps,
                "weight_decay": weight_decay,
            },
            "type": "optim_step",
        });
        let done = self.run("optim_step", body, Repeat::Safe)?;
        let norm = done.metrics.iter().find(|(name, _)| name.ends_with("grad_norm"));
        let norm = match norm {
            None => f64::NAN,
            Some((_, Some(norm))) if norm.is_finite() => *norm,
            Some(_) => return Err(TinkerError::NonFinite.into()),
        };
        self.fetch_policy()?;
        Ok(Some(norm))
    }

    fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        let (_, path) = self.save_as("save_weights")?;
        let weights = path.ok_or(TinkerError::Unreadable {
            call: "save_weights",
            reason: "it has no field `path`".into(),
        })?;
        json_file::write(&folder.join(checkpoint::TINKER), &Saved { weights })?;
        Ok(self.policy.save_trainable(&folder.join(checkpoint::TRAINABLE))?)
    }
}

impl Drop for TinkerLearner {
    /// Releases the server's slot.
    fn drop(&mut self) {
        let body = json!({ "model_id": self.model_id, "type": "unload_model" });
        let unload = self.client.begin("unload_model", &body, Repeat::Unsent);
        match self.runtime.block_on(async { timeout(END_SESSION_TIMEOUT, unload).await }) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot end the session at the Tinker server")
            }
            Err(_) => tracing::warn!("the Tinker server did not end the session in time"),
        }
    }
}

impl Saved {
    fn load(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(checkpoint::TINKER);
        if !path.is_file() {
            return Err(TrainError::Config(reason!(
                "the checkpoint `{}` was not made with `trainer.kind = \"tinker\"`", folder.display();
                hint: "continue with the trainer that the run began with, or start in another `output`"
            )));
        }
        Ok(json_file::read(&path)?)
    }
}

/// Opens a session, keeps it alive, and creates a new model in it; returns the model's id.
async fn create(client: &Client, config: &TinkerConfig, seed: u64) -> Result<String, TinkerError> {
    let wanted = &config.base_model;
    let offered: Capabilities = client.ask("get_server_capabilities", None, Repeat::Safe).await?;
    let names: Vec<String> =
        offered.supported_models.into_iter().map(|model| model.model_name).collect();
    if !names.contains(wanted) {
        let offered = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(TinkerError::ModelNotOffered { offered, wanted: wanted.clone() });
    }
    let body = json!({
        "tags": [],
        "user_metadata": {},
        "sdk_version": "0.25.0",
        "type": "create_session",
    });
    let session: Session = client.ask("create_session", Some(&body), Repeat::Safe).await?;
    if let Some(message) = session.error_message {
        return Err(TinkerError::Refused { call: "create_session", status: 200, message });
    }
    if let Some(warning) = session.warning_message {
        tracing::warn!(warning, "message from the Tinker server");
    }
    tokio::spawn(heartbeats(client.clone(), session.session_id.clone()));
    let body = json!({
        "session_id": session.session_id,
        "model_seq_id": 0,
        "base_model": wanted,
        "lora_config": {
            "rank": config.rank,
            // SkyRL's seeds have 31 bits.
            "seed": seed % (1 << 31),
            "train_unembed": false,
            "train_mlp": true,
            "train_attn": true,
        },
        "type": "create_model",
    });
    let begun = client.begin("create_model", &body, Repeat::Unsent).await?;
    client.end("create_model", &begun).await?;
    begun.model_id.ok_or(TinkerError::Unreadable {
        call: "create_model",
        reason: "it has no field `model_id`".into(),
    })
}

/// Sends heartbeats. The server ends a session without them, and gives its slot to others.
async fn heartbeats(client: Client, session: String) {
    let body = json!({ "session_id": session, "type": "session_heartbeat" });
    loop {
        let heard: Result<Value, _> =
            client.ask("session_heartbeat", Some(&body), Repeat::Safe).await;
        if let Err(error) = heard {
            // Requests that need the session fail by themselves, and say so.
            tracing::debug!(%error, "cannot send a heartbeat");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// The number of scored tokens of a trajectory: all but the first.
fn positions(trace: &TokenTrace) -> usize {
    trace.ids.len() - 1
}

fn lengths(traces: &[&TokenTrace]) -> Vec<usize> {
    traces.iter().map(|trace| positions(trace)).collect()
}

/// The number of trajectories in each request.
fn chunks(lengths: &[usize]) -> Vec<usize> {
    let mut counts: Vec<usize> = Vec::new();
    let mut filled = 0;
    for length in lengths {
        let bytes = length * POSITION_BYTES;
        match counts.last_mut() {
            Some(count) if *count < CHUNK.0 && filled + bytes <= CHUNK.1 => {
                *count += 1;
                filled += bytes;
            }
            _ => {
                counts.push(1);
                filled = bytes;
            }
        }
    }
    counts
}

/// The advantages to send for a trajectory, one of `trajectories` in the update.
///
/// The server's loss is `-exp(log_prob - logprobs) * advantage`, whose derivative with respect to
/// `log_prob` is `-advantage` as long as that still equals `logprobs`.
pub(super) fn advantages(
    scale: LossScale,
    trajectories: usize,
    token_gradients: &[f64],
) -> Vec<f32> {
    let factor = scale.factor(trajectories, token_gradients.len());
    token_gradients.iter().map(|gradient| (-gradient * factor) as f32).collect()
}

/// The values of the sampled tokens, of one for each position.
fn sampled(trace: &TokenTrace, values: &[f32]) -> Vec<f64> {
    let scored = values.iter().zip(&trace.action_mask[1..]);
    scored.filter(|(_, sampled)| **sampled).map(|(value, _)| f64::from(*value)).collect()
}

/// One value for each position from those of the sampled tokens; 0 elsewhere.
pub(super) fn spread(trace: &TokenTrace, values: &[f64]) -> Vec<f64> {
    let mut values = values.iter();
    let at = |&sampled: &bool| if sampled { values.next().copied().unwrap_or(0.0) } else { 0.0 };
    trace.action_mask[1..].iter().map(at).collect()
}
