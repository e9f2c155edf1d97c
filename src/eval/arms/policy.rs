//! An arm in which a policy prompts the large model.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use crate::engine::Sampling;
use crate::episode::{
    Episode, EpisodeError, EpisodeRequest, Limits, Participants, Silent, run_episode,
};
use crate::eval::rows::{AnswerStep, ArmAnswer};
use crate::large_model::LargeModel;
use crate::policy::Policy;
use crate::protocol::Protocol;
use crate::task::Task;
use crate::trajectory::{Action, Turn};

use super::Arm;

/// A policy that prompts a large model.
pub struct PolicyArm {
    name: String,
    identity: String,
    policy: Arc<dyn Policy>,
    large_model: Arc<dyn LargeModel>,
    protocol: Arc<Protocol>,
    limits: Limits,
    sampling: Sampling,
    takes_reply: bool,
}

/// The setup of a policy arm.
pub struct PolicySetup<'a> {
    /// Its name in the report.
    pub name: &'a str,
    /// The policy and everything its turns depend on.
    pub policy: (Arc<dyn Policy>, &'a str),
    /// The large model and everything its replies depend on.
    pub large_model: (Arc<dyn LargeModel>, &'a str),
    /// The protocol.
    pub protocol: Arc<Protocol>,
    /// Limits of an episode.
    pub limits: Limits,
    /// How the policy samples; the seed is the question's.
    pub sampling: Sampling,
}

impl PolicyArm {
    /// An arm of this setup.
    pub fn new(setup: PolicySetup<'_>) -> Self {
        let PolicySetup { name, policy, large_model, protocol, limits, sampling } = setup;
        let identity = json!({
            "policy": policy.1,
            "large_model": large_model.1,
            "limits": limits,
            "sampling": sampling,
        })
        .to_string();
        let (policy, large_model) = (policy.0, large_model.0);
        let name = name.to_owned();
        let takes_reply = false;
        Self { name, identity, policy, large_model, protocol, limits, sampling, takes_reply }
    }

    /// The arm that lets the policy write a single prompt, and takes the reply for the answer.
    pub fn first_prompt(mut setup: PolicySetup<'_>) -> Self {
        setup.limits.max_turns = 1;
        let arm = Self::new(setup);
        Self { takes_reply: true, identity: format!("first prompt {}", arm.identity), ..arm }
    }
}

#[async_trait]
impl Arm for PolicyArm {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    async fn answer(&self, task: &Task, seed: u64) -> Result<ArmAnswer, EpisodeError> {
        let sampling = Sampling { seed, ..self.sampling };
        let request = EpisodeRequest {
            limits: self.limits.clone(),
            ..EpisodeRequest::new(task.question.clone(), sampling)
        };
        let participants = Participants {
            policy: &*self.policy,
            large_model: &*self.large_model,
            protocol: &self.protocol,
        };
        let episode = run_episode(participants, &request, &mut Silent).await?;
        let mut answer = attempt(episode);
        if self.takes_reply && answer.answer.is_empty() {
            answer.answer = answer.steps.iter().rev().find_map(reply).unwrap_or_default();
        }
        Ok(answer)
    }
}

fn reply(step: &AnswerStep) -> Option<String> {
    match step {
        AnswerStep::Reply(text) => Some(text.clone()),
        _ => None,
    }
}

fn attempt(episode: Episode) -> ArmAnswer {
    ArmAnswer {
        finish: episode.finish_reason.as_str().to_owned(),
        usage: episode.usage,
        steps: episode.trajectory.turns.into_iter().flat_map(steps).collect(),
        answer: episode.answer,
    }
}

fn steps(turn: Turn) -> impl Iterator<Item = AnswerStep> {
    let think = turn.think.map(AnswerStep::Think);
    let action = match turn.action {
        Action::Prompt(text) | Action::FinalPrompt(text) => Some(AnswerStep::Prompt(text)),
        // The answer is shown as such.
        Action::Answer(_) => None,
        Action::Nothing => Some(AnswerStep::Other(turn.text)),
    };
    let reply = turn.observation.map(|observation| AnswerStep::Reply(observation.reply));
    [think, action, reply].into_iter().flatten()
}
