//! The data of a step: groups of scored episodes with their advantages.

use super::advantage::advantages;
use super::config::{AdvantageConfig, GrpoConfig};
use super::outage::{Failures, Pauses};
use super::rollout::{RolloutTask, Rollouts, Scored};
use super::tasks::Tasks;
use crate::engine::Sampling;
use crate::large_model::CallUsage;
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
    /// Those that failed.
    pub failures: Failures,
    /// What the large model cost: failed attempts and dropped groups included.
    pub cost: f64,
}

impl Collected {
    /// Samples the episodes of `step`. While the large model is down, waits and retries.
    pub async fn gather(
        config: &GrpoConfig,
        tasks: &Tasks,
        rollouts: &Rollouts,
        step: u64,
    ) -> Result<Self, TrainError> {
        let mut pauses = Pauses::new(&config.outage, step);
        let mut cost = 0.0;
        loop {
            let collected = Self::once(config, tasks, rollouts, step).await?;
            cost += collected.cost;
            if !collected.failures.is_outage() {
                return Ok(Self { cost, ..collected });
            }
            pauses.after(collected.failures).await?;
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
            if wanted == 0 || collected.failures.is_outage() {
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
        self.failures.started += outcomes.len();
        for task in tasks {
            let mut members = Vec::with_capacity(config.group_size);
            for outcome in outcomes.by_ref().take(config.group_size) {
                match outcome {
                    Ok(scored) => {
                        self.cost += scored.cost;
                        members.push(scored);
                    }
                    Err(failure) => {
                        self.cost += failure.cost;
                        self.failures.add(failure);
                    }
                }
            }
            if members.len() >= 2 {
                self.groups.push(Group::new(task, members, &config.advantage));
            }
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
        values.push(("zero_variance", 1.0 - self.learnable() as f64 / groups));
        values.push(("failed_episodes", self.failures.failed as f64));
        values.push(("cost", self.cost));
        let judged: Vec<_> = self.members().filter_map(|scored| scored.judged).collect();
        if !judged.is_empty() {
            let mut usage = CallUsage::default();
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
        let traces = self.members().map(|scored| &scored.episode.trajectory.trace);
        let (mut sum, mut count) = (0.0, 0.0);
        for log_prob in traces.flat_map(TokenTrace::action_log_probs) {
            sum -= log_prob;
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
