//! What the bundled large model is trained and tested on: single facts, one at a time; and the
//! text that a tokenizer for this world is trained on.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::config::{DemonstrationMix, PhrasingChoice};
use super::{Familiarity, Relation, Sampler, Split, TaskKind, World, WorldError, stable_hash};
use crate::trajectory::Action;

/// A single fact in one wording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleFact {
    /// The question.
    pub question: String,
    /// The bare name of the object.
    pub answer: String,
    /// What is asked.
    pub relation: Relation,
    /// Which of the relation's phrasings it is worded in.
    pub phrasing: usize,
    /// How well the large model should know that phrasing.
    pub familiarity: Familiarity,
    /// Whether the large model is trained on this exact question: always in a known wording, a
    /// tenth of the time in a rare one, never in an unknown one.
    pub trained: bool,
}

impl World {
    /// Every fact in every wording, in a fixed order.
    pub fn single_facts(&self) -> impl Iterator<Item = SingleFact> + '_ {
        self.facts().flat_map(move |fact| {
            let subject = self.name(fact.subject);
            fact.relation.spec().phrasings.iter().enumerate().map(move |(index, phrasing)| {
                let question = phrasing.question(subject);
                let trained = match phrasing.familiarity {
                    Familiarity::Known => true,
                    Familiarity::Rare => stable_hash(&question).is_multiple_of(10),
                    Familiarity::Unknown => false,
                };
                SingleFact {
                    question,
                    answer: self.name(fact.object).to_owned(),
                    relation: fact.relation,
                    phrasing: index,
                    familiarity: phrasing.familiarity,
                    trained,
                }
            })
        })
    }

    /// Text in which every word of the world occurs as it does in use: every single fact in every
    /// wording, then `dialogues` questions of each kind with how they are answered.
    ///
    /// # Errors
    /// When the world has too few questions of a kind.
    pub fn vocabulary_corpus(
        &self,
        dialogues: usize,
        seed: u64,
    ) -> Result<Vec<String>, WorldError> {
        let mut lines: Vec<String> =
            self.single_facts().flat_map(|fact| [fact.question, fact.answer]).collect();
        let sampler = Sampler::new(self, Split::Train);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mix = DemonstrationMix {
            all_at_once_share: 0.5,
            phrasings: PhrasingChoice::Uniform,
            ..DemonstrationMix::default()
        };
        for index in 0..dialogues {
            for kind in
                [TaskKind::Chain(3), TaskKind::Comparison, TaskKind::Check, TaskKind::CheckBoth]
            {
                let task = sampler.draw(kind, index.is_multiple_of(2), &mut rng)?;
                let shown = self.demonstrate(&task, &mix, &mut rng);
                lines.push(shown.task.question);
                for turn in shown.turns {
                    lines.push(turn.think);
                    if let Action::Prompt(text) | Action::Answer(text) = turn.action {
                        lines.push(text);
                    }
                }
            }
        }
        Ok(lines)
    }
}
