//! Rollouts during updates: the episodes of several steps are in flight at once.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::collect::Collected;
use super::config::GrpoConfig;
use super::rollout::Rollouts;
use super::tasks::Tasks;
use super::trainer::Trainer;
use crate::engine::native::NativeEngine;
use crate::engine::tokens::TokensEngine;
use crate::model::Model;
use crate::policy::TokenPolicy;
use crate::tokenization::ChatTokenizer;
use crate::train::error::TrainError;

/// The episodes of the next step and of `max_policy_lag` steps after it.
///
/// All episodes of a step are sampled with the weights of the same earlier step, or with the
/// initial ones. Which weights follows from the step's number, never from timing.
pub struct AsyncRollouts {
    config: Arc<GrpoConfig>,
    tasks: Arc<Tasks>,
    /// One more than `max_policy_lag`, used in turn: the weights of one are replaced once
    /// everything that it sampled has been learnt from.
    samplers: Vec<Sampler>,
    /// Servers that sample instead, with the initial weights of the run.
    servers: Option<Arc<Rollouts>>,
    /// The steps that were started and not collected yet, in order.
    in_flight: VecDeque<JoinHandle<Result<Gathered, TrainError>>>,
}

struct Sampler {
    engine: Arc<NativeEngine>,
    rollouts: Arc<Rollouts>,
    /// The step after which the policy had its weights.
    weights: u64,
}

/// The episodes of a step, and their statistics.
pub struct Gathered {
    /// The episodes.
    pub collected: Collected,
    /// How many steps older the policy that sampled them is than the one that learns from them.
    pub policy_lag: u64,
    /// The time from the start of the first to the end of the last.
    pub seconds: f64,
}

impl AsyncRollouts {
    /// Prepares for the steps after those that `trainer` has done. `rollouts` makes the rollouts of
    /// an engine.
    pub fn new(
        config: Arc<GrpoConfig>,
        tasks: Arc<Tasks>,
        trainer: &Trainer<'_>,
        text: &Arc<ChatTokenizer>,
        servers: Option<Arc<TokensEngine>>,
        rollouts: impl Fn(TokenPolicy) -> Rollouts,
    ) -> Result<Self, TrainError> {
        let servers = servers.map(|engine| {
            Arc::new(rollouts(TokenPolicy::new("policy", engine, Arc::clone(text), false)))
        });
        // With servers, there is one local engine, for evaluation.
        let oldest = if servers.is_some() { 0 } else { config.max_policy_lag as u64 };
        // An episode that waits for the engine has not failed.
        let engine_config = config.engine.clone().queueing(config.max_in_flight);
        let mut samplers = Vec::with_capacity(oldest as usize + 1);
        for age in (0..=oldest).rev() {
            let (weights, model) = trainer.policy_after(trainer.step.saturating_sub(age));
            let engine =
                Arc::new(NativeEngine::new(model.spec(), &model.merged()?, &engine_config)?);
            let policy = TokenPolicy::new("policy", engine.clone(), Arc::clone(text), false);
            samplers.push(Sampler { engine, rollouts: Arc::new(rollouts(policy)), weights });
        }
        let mut this = Self { config, tasks, samplers, servers, in_flight: VecDeque::new() };
        // The next step uses the oldest weights.
        let index = this.sampler_index(trainer.step);
        this.samplers.rotate_right(index);
        Ok(this)
    }

    /// Which sampler samples the episodes of step `step`.
    fn sampler_index(&self, step: u64) -> usize {
        (step % self.samplers.len() as u64) as usize
    }

    /// The episodes of step `step`, which follows the last one collected. Starts those of the
    /// following steps. Runs in a tokio runtime.
    pub async fn gather(&mut self, step: u64) -> Result<Gathered, TrainError> {
        let due = self.in_flight.pop_front().unwrap_or_else(|| self.begin(step));
        let end = self.config.steps.min(step + self.config.max_policy_lag as u64 + 1);
        for later in step + 1 + self.in_flight.len() as u64..end {
            self.in_flight.push_back(self.begin(later));
        }
        match due.await {
            Ok(gathered) => gathered,
            // It is never aborted, so it panicked.
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    fn begin(&self, step: u64) -> JoinHandle<Result<Gathered, TrainError>> {
        let sampler = &self.samplers[self.sampler_index(step)];
        let (rollouts, weights) = match &self.servers {
            Some(servers) => (servers, 0),
            None => (&sampler.rollouts, sampler.weights),
        };
        let policy_lag = step - weights;
        let (config, tasks) = (Arc::clone(&self.config), Arc::clone(&self.tasks));
        let rollouts = Arc::clone(rollouts);
        tokio::spawn(async move {
            let begun = Instant::now();
            let collected = Collected::gather(&config, &tasks, &rollouts, step).await?;
            Ok(Gathered { collected, policy_lag, seconds: begun.elapsed().as_secs_f64() })
        })
    }

    /// Gives the weights of `trainer` to the engine that sampled the episodes of its last step.
    pub fn update_weights(&mut self, trainer: &Trainer<'_>) -> Result<(), TrainError> {
        let index = self.sampler_index(trainer.step - 1);
        let sampler = &mut self.samplers[index];
        sampler.engine.set_weights(&trainer.policy().merged()?);
        sampler.weights = trainer.step;
        Ok(())
    }

    /// The engine with the initial policy.
    pub fn first(&self) -> &NativeEngine {
        &self.samplers[0].engine
    }

    /// Rollouts of the policy after `step` steps, the newest one.
    pub fn newest(&self, step: u64) -> &Rollouts {
        &self.newest_sampler(step).rollouts
    }

    /// Gives other weights to the engine of [`Self::newest`], while nothing is in flight.
    pub fn set_newest(&self, step: u64, policy: &Model) -> Result<(), TrainError> {
        self.newest_sampler(step).engine.set_weights(&policy.merged()?);
        Ok(())
    }

    fn newest_sampler(&self, step: u64) -> &Sampler {
        // Its weights are those of the sampler that is used last.
        &self.samplers[self.sampler_index(step + self.samplers.len() as u64 - 1)]
    }
}
