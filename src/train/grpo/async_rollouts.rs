//! Rollouts while the trainer updates: the episodes of several steps are in flight at one time.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::collect::Collected;
use super::config::GrpoConfig;
use super::learner::Learner;
use super::rollout::Rollouts;
use super::tasks::Tasks;
use crate::engine::native::NativeEngine;
use crate::engine::tokens::TokensEngine;
use crate::policy::TokenPolicy;
use crate::tokenization::TextSide;
use crate::train::error::TrainError;

/// The episodes of the next step and of `max_policy_lag` steps after it.
///
/// A step's episodes are all sampled with the weights from before as many steps, or with the first
/// there are: which weights that is follows from the step's number, never from timing.
pub struct AsyncRollouts {
    config: Arc<GrpoConfig>,
    tasks: Arc<Tasks>,
    /// One more than `max_policy_lag`, which take turns: the weights of one are replaced when all
    /// that it sampled has been learnt from.
    samplers: Vec<Sampler>,
    /// Sample in their place, with the weights that the run began with.
    servers: Option<Arc<Rollouts>>,
    /// The steps that were begun and not asked for yet, in order.
    in_flight: VecDeque<JoinHandle<Result<Gathered, TrainError>>>,
}

struct Sampler {
    engine: Arc<NativeEngine>,
    rollouts: Arc<Rollouts>,
    /// Steps after which the policy had its weights.
    weights: u64,
}

/// The episodes of a step, and how they were come by.
pub struct Gathered {
    /// The episodes.
    pub collected: Collected,
    /// How many steps older than the policy that learns from them is the one that sampled them.
    pub policy_lag: u64,
    /// From the beginning of the first to the end of the last.
    pub seconds: f64,
}

impl AsyncRollouts {
    /// Prepares for the steps after those that `learner` has done. `rollouts` makes those of an
    /// engine from its policy.
    pub fn new(
        config: Arc<GrpoConfig>,
        tasks: Arc<Tasks>,
        learner: &Learner<'_>,
        text: &Arc<TextSide>,
        servers: Option<Arc<TokensEngine>>,
        rollouts: impl Fn(TokenPolicy) -> Rollouts,
    ) -> Result<Self, TrainError> {
        let servers = servers.map(|engine| {
            Arc::new(rollouts(TokenPolicy::new("policy", engine, Arc::clone(text), false)))
        });
        // With servers there is one engine here, which evaluates.
        let oldest = if servers.is_some() { 0 } else { config.max_policy_lag as u64 };
        let mut samplers = Vec::with_capacity(oldest as usize + 1);
        for age in (0..=oldest).rev() {
            let (weights, model) = learner.policy_after(learner.step.saturating_sub(age));
            let engine =
                Arc::new(NativeEngine::new(model.spec(), &model.merged()?, &config.engine)?);
            let policy = TokenPolicy::new("policy", engine.clone(), Arc::clone(text), false);
            samplers.push(Sampler { engine, rollouts: Arc::new(rollouts(policy)), weights });
        }
        let mut ahead = Self { config, tasks, samplers, servers, in_flight: VecDeque::new() };
        // The oldest weights are for the step that is next.
        let turn = ahead.turn(learner.step);
        ahead.samplers.rotate_right(turn);
        Ok(ahead)
    }

    /// Whose turn it is in step `step`.
    fn turn(&self, step: u64) -> usize {
        (step % self.samplers.len() as u64) as usize
    }

    /// The episodes of step `step`, which follows the one that was asked for last. Sees to it that
    /// those of the steps after it are in flight. Runs in a tokio runtime.
    pub async fn gather(&mut self, step: u64) -> Result<Gathered, TrainError> {
        let due = self.in_flight.pop_front().unwrap_or_else(|| self.begin(step));
        let end = self.config.steps.min(step + self.config.max_policy_lag as u64 + 1);
        for later in step + 1 + self.in_flight.len() as u64..end {
            self.in_flight.push_back(self.begin(later));
        }
        match due.await {
            Ok(gathered) => gathered,
            // Nobody aborts it, so it panicked.
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    fn begin(&self, step: u64) -> JoinHandle<Result<Gathered, TrainError>> {
        let sampler = &self.samplers[self.turn(step)];
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

    /// Gives the weights of `learner` to the engine that sampled what its last step learnt from.
    pub fn renew(&mut self, learner: &Learner<'_>) -> Result<(), TrainError> {
        let turn = self.turn(learner.step - 1);
        let sampler = &mut self.samplers[turn];
        sampler.engine.set_weights(&learner.policy.model.merged()?);
        sampler.weights = learner.step;
        Ok(())
    }

    /// The engine with the policy that there is before the first step.
    pub fn first(&self) -> &NativeEngine {
        &self.samplers[0].engine
    }

    /// Rollouts of the policy after `step` steps, the newest there is.
    pub fn newest(&self, step: u64) -> &Rollouts {
        // Its weights are those of the sampler whose turn comes last.
        &self.samplers[self.turn(step + self.samplers.len() as u64 - 1)].rollouts
    }
}
