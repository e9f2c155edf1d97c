//! Demonstrations of answering a question, move by move, for supervised training of a policy.
//!
//! Each think names what is asked next: "birthplace of Ana Vel", then "country of Mirburg". All of
//! its words are in the question or in the last reply, and the next noun directly follows the last
//! one in the question, so that a chain of any length repeats the same step. The last think states
//! the result: "Tarnia", or "Tarnia and Gasuna" for a question about two things.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    Entity, Familiarity, Goal, MAX_HOPS, Phrasing, Sampler, Split, Step, TaskKind, World,
    WorldError, WorldTask,
};
use crate::dataset::{DemoTurn, Demonstration};
use crate::trajectory::Action;

/// The think of a turn that sends the whole question to the large model.
const ASK_ALL: &str = "the whole question";

/// The wordings in which demonstrated prompts ask for single facts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhrasingChoice {
    /// All equally often.
    Uniform,
    /// Only wordings that the large model knows.
    #[default]
    KnownOnly,
}

/// The mix of demonstrations, and their quality. The default is flawless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemonstrationMix {
    /// The shortest chain; 1 is a single fact.
    pub min_hops: usize,
    /// The longest chain, at most [`MAX_HOPS`]. Lengths between are equally frequent.
    pub max_hops: usize,
    /// The share of comparisons.
    pub comparison_share: f64,
    /// The share of yes/no checks of one thing.
    pub check_share: f64,
    /// The share of yes/no checks of two things; the rest after the three shares are chains.
    pub check_both_share: f64,
    /// The share in which the whole question is sent to the large model at once, which can only
    /// guess: the reply is any object of the right kind, and it becomes the answer.
    pub all_at_once_share: f64,
    /// The share of facts that are asked for a second time, in another wording, as a check. A
    /// policy that has seen this cannot infer its progress in a chain from the number of turns.
    pub asked_twice_share: f64,
    /// How single facts are asked for.
    pub phrasings: PhrasingChoice,
}

impl Default for DemonstrationMix {
    fn default() -> Self {
        Self {
            min_hops: 1,
            max_hops: MAX_HOPS,
            comparison_share: 0.2,
            check_share: 0.1,
            check_both_share: 0.0,
            all_at_once_share: 0.0,
            asked_twice_share: 0.0,
            phrasings: PhrasingChoice::KnownOnly,
        }
    }
}

impl DemonstrationMix {
    fn check(&self) -> Result<(), WorldError> {
        if self.min_hops < 1 || self.min_hops > self.max_hops || self.max_hops > MAX_HOPS {
            return Err(WorldError::Config {
                field: "min_hops..max_hops",
                found: format!("{}..{}", self.min_hops, self.max_hops),
                expected: format!("within 1..{MAX_HOPS} and in order"),
            });
        }
        for (field, share) in [
            ("comparison_share", self.comparison_share),
            ("check_share", self.check_share),
            ("check_both_share", self.check_both_share),
            ("all_at_once_share", self.all_at_once_share),
            ("asked_twice_share", self.asked_twice_share),
            (
                "comparison_share + check_share + check_both_share",
                self.comparison_share + self.check_share + self.check_both_share,
            ),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(WorldError::Config {
                    field,
                    found: share.to_string(),
                    expected: "between 0 and 1".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn kind(&self, rng: &mut ChaCha8Rng) -> TaskKind {
        let draw: f64 = rng.random();
        if draw < self.comparison_share {
            return TaskKind::Comparison;
        }
        if draw < self.comparison_share + self.check_share {
            return TaskKind::Check;
        }
        if draw < self.comparison_share + self.check_share + self.check_both_share {
            return TaskKind::CheckBoth;
        }
        match rng.random_range(self.min_hops..=self.max_hops) {
            1 => TaskKind::Single,
            hops => TaskKind::Chain(hops),
        }
    }
}

impl World {
    /// `n` demonstrations over questions of `split`, drawn independently.
    ///
    /// # Errors
    /// When the world has too few questions, or a share of `mix` is out of range.
    pub fn demonstrations(
        &self,
        mix: &DemonstrationMix,
        split: Split,
        n: usize,
        seed: u64,
    ) -> Result<Vec<Demonstration>, WorldError> {
        mix.check()?;
        let sampler = Sampler::new(self, split);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| {
                let kind = mix.kind(&mut rng);
                let affirmative = rng.random();
                let task = sampler.draw(kind, affirmative, &mut rng)?;
                Ok(self.demonstrate(&task, mix, &mut rng))
            })
            .collect()
    }

    /// How `task` is answered, all at once as often as `mix` says.
    pub fn demonstrate(
        &self,
        task: &WorldTask,
        mix: &DemonstrationMix,
        rng: &mut ChaCha8Rng,
    ) -> Demonstration {
        let turns = if rng.random_bool(mix.all_at_once_share.clamp(0.0, 1.0)) {
            self.all_at_once(task, rng)
        } else {
            self.hop_by_hop(task, mix, rng)
        };
        Demonstration { task: task.task.clone(), turns }
    }

    fn hop_by_hop(
        &self,
        task: &WorldTask,
        mix: &DemonstrationMix,
        rng: &mut ChaCha8Rng,
    ) -> Vec<DemoTurn> {
        let side = match task.goal {
            Goal::Same | Goal::BothEqual(_) => task.plan.len() / 2,
            Goal::Object | Goal::Equals(_) => task.plan.len(),
        };
        let mut turns = Vec::with_capacity(task.plan.len() + 1);
        let mut found = Vec::new();
        for steps in task.plan.chunks(side.max(1)) {
            for step in steps {
                let subject = self.name(step.subject);
                for phrasing in wordings(*step, mix, rng) {
                    turns.push(DemoTurn {
                        think: format!("{} of {subject}", step.relation.spec().noun),
                        action: Action::Prompt(phrasing.question(subject)),
                        reply: Some(self.name(step.object).to_owned()),
                    });
                }
            }
            found.extend(steps.last().map(|step| self.name(step.object)));
        }
        if let Goal::Equals(value) | Goal::BothEqual(value) = task.goal {
            found.push(self.name(value));
        }
        let answer = task.task.golds.first().cloned().unwrap_or_default();
        turns.push(DemoTurn {
            think: found.join(" and "),
            action: Action::Answer(answer),
            reply: None,
        });
        turns
    }

    fn all_at_once(&self, task: &WorldTask, rng: &mut ChaCha8Rng) -> Vec<DemoTurn> {
        let guess = match (task.goal, task.plan.last()) {
            (Goal::Object, Some(step)) => {
                let kind = step.object.kind;
                self.name(Entity { kind, index: rng.random_range(0..self.count(kind)) })
            }
            _ if rng.random() => "yes",
            _ => "no",
        };
        vec![
            DemoTurn {
                think: ASK_ALL.to_owned(),
                action: Action::Prompt(task.task.question.clone()),
                reply: Some(guess.to_owned()),
            },
            DemoTurn {
                think: guess.to_owned(),
                action: Action::Answer(guess.to_owned()),
                reply: None,
            },
        ]
    }
}

/// The wordings in which a fact is asked for: one, or two different ones with the frequency in
/// `mix`.
fn wordings(step: Step, mix: &DemonstrationMix, rng: &mut ChaCha8Rng) -> Vec<Phrasing> {
    let mut allowed = step.relation.spec().phrasings.to_vec();
    if mix.phrasings == PhrasingChoice::KnownOnly {
        allowed.retain(|phrasing| phrasing.familiarity == Familiarity::Known);
    }
    let is_doubted = mix.asked_twice_share > 0.0 && rng.random_bool(mix.asked_twice_share);
    let mut chosen = Vec::with_capacity(2);
    for _ in 0..if is_doubted { 2 } else { 1 } {
        chosen.extend(allowed.choose(rng).copied());
        allowed.retain(|phrasing| !chosen.contains(phrasing));
    }
    chosen
}
