//! The data of a step: groups of scored episodes with their advantages.

use std::time::Duration;

use super::advantage::advantages;
use super::config::{AdvantageConfig, GrpoConfig};
use super::failure::{Cause, RolloutFailure};
use super::rollout::{RolloutTask, Rollouts, Scored};
use super::tasks::Tasks;
use crate::engine::Sampling;
use crate::episode::RoleUsage;
use crate::seed::{Purpose, derive};
use crate::task::Task;
use crate::train::error::TrainError;
use crate::train::metrics::Values;
use crate::trajectory::{TokenTrace, TurnFinish};

/// The episodes of one task.
pub struct Group {
    /// What was asked.
    pub task: Task,
    /// Those that were completed by the policy.
    pub members: Vec<Scored>,
    /// One for each member; `None` if nothing can be learnt.
    pub advantages: Option<Vec<f64>>,
}

/// A trajectory and its advantage.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Its tokens.
    pub trace: &'a TokenTrace,
    /// Its advantage.
    pub advantage: f64,
}

/// Everything that a step sampled.
#[derive(Default)]
pub struct Collected {
    /// The groups, of all rounds.
    pub groups: Vec<Group>,
    /// Episodes that failed, retry included.
    pub failed: usize,
    /// Those whose reward failed.
    pub failed_rewards: usize,
    /// Those whose judge failed.
    pub failed_judgements: usize,
    /// Episodes that were started.
    pub asked: usize,
    /// Whether one of the failures is permanent.
    pub is_final: bool,
    /// The last failure that is not a mere consequence of others; a permanent one if there is one.
    pub last_failure: Option<RolloutFailure>,
}

impl Collected {
    /// Samples the episodes of `step`. While the large model is down, waits and retries.
    pub async fn gather(
        config: &GrpoConfig,
        tasks: &Tasks,
        rollouts: &Rollouts,
        step: u64,
    ) -> Result<Self, TrainError> {
        let mut pause = Duration::from_millis(config.outage.pause_ms);
        let mut retries = 0;
        let mut before: Option<RolloutFailure> = None;
        loop {
            let collected = Self::once(config, tasks, rollouts, step).await?;
            if !collected.is_outage() {
                return Ok(collected);
            }
            let cause = collected.cause();
            let Self { failed, asked, last_failure, is_final, .. } = collected;
            // While a circuit breaker is open, an attempt has no failure of its own: what opened it
            // happened in one before.
            let last_failure = match (before.take(), last_failure) {
                (Some(before), Some(last)) if before.cause == last.cause => {
                    Some(before.or_later(last))
                }
                (before, last) => last.or(before),
            };
            before = last_failure.clone();
            let reason = last_failure.map(|failure| failure.reason).unwrap_or_default();
            if is_final || retries == config.outage.retries {
                return Err(match cause {
                    Cause::Model => TrainError::Outage { step, failed, asked, retries, reason },
                    Cause::Reward => {
                        TrainError::RewardFails { step, failed, asked, retries, reason }
                    }
                    Cause::Judge => TrainError::JudgeFails { step, failed, asked, retries, reason },
                });
            }
            let cause = cause.as_str();
            let pause_ms = pause.as_millis() as u64;
            tracing::warn!(cause, failed, asked, reason, pause_ms, "most episodes failed");
            tokio::time::sleep(pause).await;
            pause *= 2;
            retries += 1;
        }
    }

    /// Ends early once more than half of a round's episodes have failed.
    pub(super) async fn once(
        config: &GrpoConfig,
        tasks: &Tasks,
        rollouts: &Rollouts,
        step: u64,
    ) -> Result<Self, TrainError> {
        let mut collected = Self::default();
        for round in 0..=config.extra_rounds {
            let wanted = config.groups_per_step - collected.learnable();
            if wanted == 0 || collected.is_outage() {
                break;
            }
            let asked = tasks.draw(step, round, wanted, config.groups_per_step)?;
            collected.round(config, asked, rollouts, (step, round)).await;
        }
        Ok(collected)
    }

    async fn round(
        &mut self,
        config: &GrpoConfig,
        tasks: Vec<Task>,
        rollouts: &Rollouts,
        (step, round): (u64, u32),
    ) {
        // Group members are consecutive, so that their common prompt is computed once.
        let attempts: Vec<RolloutTask<'_>> = (tasks.iter().enumerate())
            .flat_map(|(place, task)| {
                (0..config.group_size).map(move |member| (place, task, member))
            })
            .map(|(place, task, member)| {
                let parts = [step, u64::from(round), place as u64, member as u64];
                let seed = derive(config.seed, Purpose::Episode, &parts);
                let temperature = config.temperature;
                RolloutTask {
                    task,
                    sampling: Sampling { temperature, top_p: 1.0, top_k: None, seed },
                }
            })
            .collect();
        let mut outcomes = rollouts.run(&attempts).await.into_iter();
        self.asked += outcomes.len();
        for task in tasks {
            let mut members = Vec::with_capacity(config.group_size);
            for outcome in outcomes.by_ref().take(config.group_size) {
                match outcome {
                    Ok(scored) => members.push(scored),
                    Err(failure) => {
                        self.failed += 1;
                        self.failed_rewards += usize::from(failure.cause == Cause::Reward);
                        self.failed_judgements += usize::from(failure.cause == Cause::Judge);
                        self.is_final |= failure.is_final;
                        self.last_failure = Some(match self.last_failure.take() {
                            Some(last) => last.or_later(failure),
                            None => failure,
                        });
                    }
                }
            }
            if members.len() >= 2 {
                self.groups.push(Group::new(task, members, &config.advantage));
            }
        }
    }

    /// Whether so many episodes failed that a model, the reward or the judge must be down, or one
    /// failed permanently.
    pub fn is_outage(&self) -> bool {
        self.is_final || self.failed * 2 > self.asked
    }

    /// The cause of most failures.
    fn cause(&self) -> Cause {
        match self.last_failure {
            Some(RolloutFailure { cause, is_final: true, .. }) => cause,
            _ if self.failed_judgements * 2 > self.failed => Cause::Judge,
            _ if self.failed_rewards * 2 > self.failed => Cause::Reward,
            _ => Cause::Model,
        }
    }

    fn learnable(&self) -> usize {
        self.groups.iter().filter(|group| group.advantages.is_some()).count()
    }

    /// The samples that can be learnt from.
    pub fn samples(&self) -> Vec<Sample<'_>> {
        self.groups
            .iter()
            .flat_map(|group| group.members.iter().zip(group.advantages.iter().flatten()))
            .map(|(scored, &advantage)| Sample {
                trace: &scored.episode.trajectory.trace,
                advantage,
            })
            .filter(|sample| sample.trace.action_count() > 0)
            .collect()
    }

    /// All episodes.
    pub fn members(&self) -> impl Iterator<Item = &Scored> {
        self.groups.iter().flat_map(|group| &group.members)
    }

    /// Means over the episodes, by name.
    pub fn values(&self) -> Values {
        let mut values = Values::new();
        let mut add = |name, value: f64| match values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += value,
            None => values.push((name, value)),
        };
        for Scored { episode, reward, .. } in self.members() {
            add("reward", reward.total);
            add("answer", reward.answer);
            add("format", reward.format);
            for (name, value) in &reward.components {
                add(name, *value);
            }
            let turns = &episode.trajectory.turns;
            let cut = turns.iter().filter(|turn| turn.finish == TurnFinish::Length).count();
            add("cut_turns", cut as f64 / turns.len().max(1) as f64);
            add("turns", turns.len() as f64);
            add("response_tokens", episode.trajectory.trace.action_count() as f64);
            add("large_model_calls", episode.usage.large_model.calls as f64);
        }
        let episodes = self.members().count().max(1) as f64;
        values.iter_mut().for_each(|(_, sum)| *sum /= episodes);
        let groups = self.groups.len().max(1) as f64;
        let cost: f64 = self.members().map(|scored| scored.episode.usage.large_model.cost).sum();
        values.push(("zero_variance", 1.0 - self.learnable() as f64 / groups));
        values.push(("failed_episodes", self.failed as f64));
        values.push(("cost", cost));
        let judged: Vec<_> = self.members().filter_map(|scored| scored.judged).collect();
        if !judged.is_empty() {
            let mut usage = RoleUsage::default();
            judged.iter().for_each(|judged| usage += judged.usage);
            let agreeing = judged.iter().filter(|judged| judged.agrees).count();
            values.push(("judge_agreement", agreeing as f64 / judged.len() as f64));
            values.push(("judge_calls", usage.calls as f64));
            values.push(("judge_cost", usage.cost));
        }
        values
    }

    /// Entropy of the policy, estimated by the mean surprise of its sampled tokens, nats.
    pub fn sampled_entropy(&self) -> Option<f64> {
        let tokens = self.members().flat_map(|scored| {
            let trace = &scored.episode.trajectory.trace;
            trace.log_probs.iter().zip(&trace.action_mask)
        });
        let (mut sum, mut count) = (0.0, 0.0);
        for (log_prob, _) in tokens.filter(|(_, sampled)| **sampled) {
            sum -= f64::from(*log_prob);
            count += 1.0;
        }
        (count > 0.0).then(|| sum / count)
    }

    /// Tokens that the policy sampled.
    pub fn sampled_tokens(&self) -> usize {
        self.members().map(|scored| scored.episode.trajectory.trace.action_count()).sum()
    }
}

impl Group {
    pub(super) fn new(task: Task, members: Vec<Scored>, config: &AdvantageConfig) -> Self {
        let rewards: Vec<f64> = members
            .iter()
            .map(|Scored { episode, reward, .. }| {
                let tokens = episode.trajectory.trace.action_count();
                reward.total - config.overlong.map_or(0.0, |overlong| overlong.penalty(tokens))
            })
            .collect();
        let advantages = advantages(&rewards, config.scaling, config.epsilon);
        Self { task, members, advantages }
    }
}
