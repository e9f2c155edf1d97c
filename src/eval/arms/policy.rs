//! An arm in which a policy prompts the large model.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use crate::engine::Sampling;
use crate::episode::{
    DiscardEvents, Episode, EpisodeError, EpisodeRequest, FinishReason, Limits, Participants,
    run_episode,
};
use crate::eval::rows::{AnswerStep, ArmAnswer, CutTexts};
use crate::large_model::{LargeModel, Reply};
use crate::policy::Policy;
use crate::protocol::{Protocol, parse_turn};
use crate::seed::of_sample;
use crate::task::Task;
use crate::trajectory::{Action, Turn, TurnFinish};

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
    /// The number of turns that the opening shows, if it is not that of `limits`.
    shown_turns: Option<usize>,
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
        let PolicySetup { name, policy, large_model, protocol, mut limits, sampling } = setup;
        // As episodes are run, so that an identity says what was measured.
        limits.observation_chars = protocol.settings().observation_chars(limits.observation_chars);
        let identity = json!({
            "policy": policy.1,
            "large_model": large_model.1,
            "limits": limits,
            "sampling": sampling,
        })
        .to_string();
        let (policy, large_model) = (policy.0, large_model.0);
        let name = name.to_owned();
        let shown_turns = None;
        Self { name, identity, policy, large_model, protocol, limits, sampling, shown_turns }
    }

    /// The arm that lets the policy write a single prompt, the one that it begins an episode of
    /// all its turns with, and takes the reply for the answer.
    pub fn first_prompt(mut setup: PolicySetup<'_>) -> Self {
        let turns = setup.limits.max_turns;
        setup.limits.max_turns = 1;
        // The reply is the answer of last resort; without fallback, a last prompt is not sent.
        setup.limits.fallback = true;
        let arm = Self::new(setup);
        let identity = format!("first prompt of {turns} {}", arm.identity);
        Self { shown_turns: Some(turns), identity, ..arm }
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
        // In the range that endpoints accept: larger seeds may count as random, and are not sent.
        let seed = if self.policy.is_remote() { of_sample(seed, 0) } else { seed };
        let sampling = Sampling { seed, ..self.sampling };
        let request = EpisodeRequest {
            limits: self.limits.clone(),
            shown_turns: self.shown_turns,
            takes_any_reply: self.shown_turns.is_some(),
            ..EpisodeRequest::new(task.question.clone(), sampling)
        };
        let participants = Participants {
            policy: &*self.policy,
            large_model: &*self.large_model,
            protocol: &self.protocol,
        };
        run_episode(participants, &request, &mut DiscardEvents).await.map(attempt)
    }
}

fn attempt(episode: Episode) -> ArmAnswer {
    ArmAnswer {
        cut_off: Some(cut_off(&episode)),
        finish: episode.finish_reason.as_str().to_owned(),
        usage: episode.usage,
        steps: episode.trajectory.turns.into_iter().flat_map(steps).collect(),
        answer: episode.answer,
        micros: None,
    }
}

/// The replies and turns of an episode that were cut off at a token limit or by a content filter.
/// An answer that the deadline cut off is not one of them: `finish` tells it.
fn cut_off(episode: &Episode) -> CutTexts {
    let turns = &episode.trajectory.turns;
    let is_late = episode.finish_reason == FinishReason::Deadline;
    let is_final = |turn: &Turn| matches!(turn.action, Action::FinalPrompt(_));
    let seen = turns.iter().filter(|turn| !(is_late && is_final(turn)));
    let seen = seen.filter_map(|turn| turn.observation.as_ref());
    let replies = seen.filter(|seen| seen.cut_off && !seen.repeated).count();
    // The reply to the question itself, by which the fallback answers, is part of no turn.
    let of_turn = turns.last().filter(|turn| is_final(turn) && turn.observation.is_some());
    let bare = episode.reply.as_ref().filter(|_| of_turn.is_none() && !is_late);
    let is_cut =
        |turn: &&Turn| turn.finish == TurnFinish::Length && !parse_turn(&turn.text).is_closed;
    CutTexts {
        replies: replies as u64 + u64::from(bare.is_some_and(Reply::is_cut_off)),
        turns: turns.iter().filter(is_cut).count() as u64,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chat::ChatMessage;
    use crate::episode::{AnswerSource, EpisodeUsage};
    use crate::large_model::{Call, Scripted};
    use crate::policy::{RemotePolicy, ScriptedPolicy};
    use crate::trajectory::Trajectory;

    /// A model whose replies to prompts with the word `long` are cut off.
    fn cutting_long() -> Arc<dyn LargeModel> {
        Arc::new(Scripted::new("m", |call: &Call| {
            let asked = call.messages.last().map(ChatMessage::as_text).unwrap_or_default();
            let finish_reason = if asked.contains("long") { "length" } else { "stop" }.to_owned();
            Ok(Reply { finish_reason, ..Reply::text(format!("of {asked}")) })
        }))
    }

    #[tokio::test]
    async fn an_endpoint_that_plays_the_policy_is_always_sent_a_seed() {
        let model: Arc<dyn LargeModel> = Arc::new(Scripted::new("m", |call: &Call| {
            Ok(Reply::text(format!("<answer>{}</answer>", call.optional_params["seed"])))
        }));
        let policy: Arc<dyn Policy> = Arc::new(RemotePolicy::new(Arc::clone(&model)));
        let arm = PolicyArm::new(PolicySetup {
            name: "x",
            policy: (policy, "p"),
            large_model: (model, "m"),
            protocol: Arc::new(Protocol::load(None).unwrap()),
            limits: Limits::default(),
            sampling: Sampling::GREEDY,
        });
        for (seed, sent) in [(5, "5"), ((1 << 31) + 7, "7"), (u64::MAX, "2147483647")] {
            assert_eq!(arm.answer(&Task::default(), seed).await.unwrap().answer, sent);
        }
    }

    #[tokio::test]
    async fn replies_and_turns_that_were_cut_off_are_counted() {
        let model = cutting_long();
        let asks = |what: &str| format!("<interaction_prompt>{what}</interaction_prompt>");
        let (long, short, says) = (asks("long"), asks("short"), "<answer>so</answer>".to_owned());
        let overrun = format!("{short} and more");
        let open = "<answer>so it goes on".to_owned();
        // A turn of more than three words is cut off.
        for (question, turns, replies, cut_turns) in [
            ("q", vec![short.clone(), says.clone()], 0, 0),
            ("q", vec![long.clone(), short.clone(), says.clone()], 1, 0),
            // A repeated prompt is not sent again.
            ("q", vec![long.clone(), long.clone(), says.clone()], 1, 0),
            // The last prompt, whose reply is the answer.
            ("q", vec![short.clone(), short.clone(), long.clone()], 1, 0),
            // What is cut off behind a closed action was not needed.
            ("q", vec![format!("{overrun} of it"), says.clone()], 0, 0),
            ("q", vec![long.clone(), open.clone()], 1, 1),
            // Without a prompt the question itself is asked.
            ("a long one", vec!["a b c d e".to_owned()], 1, 1),
        ] {
            let said = turns.clone();
            let policy = ScriptedPolicy::new(move |shown| said[shown.len() - 1].clone());
            let policy: Arc<dyn Policy> = Arc::new(policy);
            let arm = PolicyArm::new(PolicySetup {
                name: "x",
                policy: (policy, "p"),
                large_model: (Arc::clone(&model), "m"),
                protocol: Arc::new(Protocol::load(None).unwrap()),
                limits: Limits { max_turns: 3, max_turn_tokens: 3, ..Limits::default() },
                sampling: Sampling::GREEDY,
            });
            let task = Task { question: question.into(), ..Task::default() };
            let attempt = arm.answer(&task, 0).await.unwrap();
            let expected = CutTexts { replies, turns: cut_turns };
            assert_eq!(attempt.cut_off, Some(expected), "{turns:?}: {attempt:?}");
        }
    }

    #[tokio::test]
    async fn a_fallback_that_was_cut_off_counts_though_prompts_were_sent() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prompt.j2"), "{{ prompt }}").unwrap();
        let protocol = Arc::new(Protocol::load(Some(folder.path())).unwrap());
        let asks = "<interaction_prompt>a part</interaction_prompt>";
        for (question, replies) in [("a long one", 1), ("q", 0)] {
            let policy: Arc<dyn Policy> = Arc::new(ScriptedPolicy::turns([asks]));
            let arm = PolicyArm::new(PolicySetup {
                name: "x",
                policy: (policy, "p"),
                large_model: (cutting_long(), "m"),
                protocol: Arc::clone(&protocol),
                limits: Limits { max_turns: 1, ..Limits::default() },
                sampling: Sampling::GREEDY,
            });
            let task = Task { question: question.into(), ..Task::default() };
            let attempt = arm.answer(&task, 0).await.unwrap();
            assert_eq!(attempt.answer, format!("of {question}"));
            assert_eq!(attempt.cut_off, Some(CutTexts { replies, turns: 0 }), "{question}");
        }
    }

    #[test]
    fn what_the_deadline_cuts_off_is_no_text_at_a_token_limit() {
        for (finish_reason, replies) in [(FinishReason::TurnLimit, 1), (FinishReason::Deadline, 0)]
        {
            let episode = Episode {
                answer: "so".into(),
                answer_source: AnswerSource::LargeModel,
                finish_reason,
                trajectory: Trajectory::default(),
                usage: EpisodeUsage::default(),
                model_micros: 0,
                reply: Some(Reply { finish_reason: "length".into(), ..Reply::text("so") }),
            };
            assert_eq!(cut_off(&episode), CutTexts { replies, turns: 0 }, "{finish_reason:?}");
        }
    }

    #[tokio::test]
    async fn a_first_prompt_is_that_of_a_whole_episode_and_is_always_sent() {
        // It writes what it was shown.
        let policy = ScriptedPolicy::new(|shown| {
            format!("<think>t</think><interaction_prompt>{}</interaction_prompt>", shown[0].len())
        });
        let policy: Arc<dyn Policy> = Arc::new(policy);
        let model: Arc<dyn LargeModel> =
            Arc::new(Scripted::new("m", |call: &Call| Ok(Reply::text(call.messages[0].as_text()))));
        let setup = |max_turns: usize| PolicySetup {
            name: "x",
            policy: (Arc::clone(&policy), "p"),
            large_model: (Arc::clone(&model), "m"),
            protocol: Arc::new(Protocol::load(None).unwrap()),
            limits: Limits { max_turns, fallback: false, ..Limits::default() },
            sampling: Sampling::GREEDY,
        };
        let task = Task { question: "q".into(), ..Task::default() };
        // One digit and three.
        for turns in [2, 200] {
            let first = PolicyArm::first_prompt(setup(turns)).answer(&task, 0).await.unwrap();
            let whole = PolicyArm::new(setup(turns)).answer(&task, 0).await.unwrap();
            assert_eq!(first.steps[..], whole.steps[..3]);
            assert_eq!((first.usage.policy.calls, first.usage.large_model.calls), (1, 1));
            assert_eq!(Some(AnswerStep::Reply(first.answer)), whole.steps.get(2).cloned());
        }
        let identity = |turns: usize| PolicyArm::first_prompt(setup(turns)).identity;
        assert_ne!(identity(2), identity(200));
    }
}
