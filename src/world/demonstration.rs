//! Demonstrations of answering a question, move by move, for supervised training of a policy.
//!
//! Each think names what is asked next: "birthplace of Ana Vel", then "country of Mirburg". All of
//! its words are in the question or in the last reply, and the next noun directly follows the last
//! one in the question, so that a chain of any length repeats the same step. The last think states
//! the result: "Tarnia", or "Tarnia and Gasuna" for a question about two things.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::{DemonstrationMix, PhrasingChoice};
use super::{
    Entity, Familiarity, Goal, Phrasing, Sampler, Split, Step, TaskKind, World, WorldError,
    WorldTask,
};
use crate::dataset::{DemoTurn, Demonstration};
use crate::trajectory::Action;

/// The think of a turn that sends the whole question to the large model.
const ASK_ALL: &str = "the whole question";

impl DemonstrationMix {
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
                    turns.push(DemoTurn::new(
                        format!("{} of {subject}", step.relation.spec().noun),
                        Action::Prompt(phrasing.question(subject)),
                        Some(self.name(step.object).to_owned()),
                    ));
                }
            }
            found.extend(steps.last().map(|step| self.name(step.object)));
        }
        if let Goal::Equals(value) | Goal::BothEqual(value) = task.goal {
            found.push(self.name(value));
        }
        let answer = task.task.golds.first().cloned().unwrap_or_default();
        turns.push(DemoTurn::new(found.join(" and "), Action::Answer(answer), None));
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
            DemoTurn::new(
                ASK_ALL.to_owned(),
                Action::Prompt(task.task.question.clone()),
                Some(guess.to_owned()),
            ),
            DemoTurn::new(guess.to_owned(), Action::Answer(guess.to_owned()), None),
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
