//! Whether a trajectory follows the protocol's form. Pure, over the turns' texts.

use crate::protocol::{ANSWER, PROMPT, THINK, names_tag};
use crate::trajectory::{Action, Trajectory, Turn};

use super::Coefficients;

/// What a turn's tags look like, apart from what they say.
struct TurnTags<'t> {
    text: &'t str,
}

impl<'t> TurnTags<'t> {
    fn of(turn: &'t Turn) -> Self {
        Self { text: turn.text.trim() }
    }

    /// The content of `tag`, when it is opened once, closed once, in this order.
    fn only(&self, tag: &str) -> Option<&'t str> {
        let (opening, closing) = (format!("<{tag}>"), format!("</{tag}>"));
        let (before, rest) = self.text.split_once(&opening)?;
        let (content, after) = rest.split_once(&closing)?;
        let once = !before.contains(&closing)
            && !content.contains(&opening)
            && !after.contains(&opening)
            && !after.contains(&closing);
        once.then_some(content)
    }

    /// Whether a think and then `tag` are opened and closed once each, whatever else there is but a
    /// piece of a tag inside `tag`.
    fn has_both(&self, tag: &str) -> bool {
        let ends = |tag: &str| self.text.find(&format!("</{tag}>"));
        let starts = |tag: &str| self.text.find(&format!("<{tag}>"));
        let is_sent = self.only(tag).is_some_and(|content| !names_tag(content));
        self.only(THINK).is_some() && is_sent && ends(THINK) < starts(tag)
    }

    /// Whether the turn is a think, then `tag`, and nothing else: both with content, and no tag of
    /// the protocol inside the content, complete or not.
    fn is_exactly(&self, tag: &str) -> bool {
        let inner = || {
            let rest = self.text.strip_prefix(&format!("<{THINK}>"))?;
            let (think, rest) = rest.split_once(&format!("</{THINK}>"))?;
            let rest = rest.trim_start().strip_prefix(&format!("<{tag}>"))?;
            let content = rest.strip_suffix(&format!("</{tag}>"))?;
            Some([think, content])
        };
        inner().is_some_and(|parts| {
            parts.iter().all(|part| !part.trim().is_empty() && !names_tag(part))
        })
    }
}

/// The published format reward by component, before its cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PublishedFormat {
    /// α for each turn with one think and then one prompt.
    pub prompts: f64,
    /// β when the last turn has an answer tag.
    pub answer_present: f64,
    /// γ when that answer is not empty, and names no tag.
    pub answer_filled: f64,
    /// δ when the last turn is exactly a think and then an answer.
    pub answer_form: f64,
}

impl PublishedFormat {
    pub fn of(trajectory: &Trajectory, coefficients: &Coefficients) -> Self {
        let prompts =
            trajectory.turns.iter().filter(|turn| TurnTags::of(turn).has_both(PROMPT)).count();
        let last = trajectory.turns.last().map(TurnTags::of);
        let answer = last.as_ref().and_then(|last| first_answer(last.text));
        let weight = |holds: bool, coefficient: f64| if holds { coefficient } else { 0.0 };
        Self {
            prompts: coefficients.alpha * prompts as f64,
            answer_present: weight(answer.is_some(), coefficients.beta),
            answer_filled: weight(
                answer.is_some_and(|answer| !answer.trim().is_empty() && !names_tag(answer)),
                coefficients.gamma,
            ),
            answer_form: weight(
                last.is_some_and(|last| last.is_exactly(ANSWER)),
                coefficients.delta,
            ),
        }
    }

    pub fn sum(&self) -> f64 {
        self.prompts + self.answer_present + self.answer_filled + self.answer_form
    }
}

/// The content of the first closed answer tag.
fn first_answer(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(&format!("<{ANSWER}>"))?;
    Some(rest.split_once(&format!("</{ANSWER}>"))?.0)
}

/// The constraints of the strict scheme, each satisfied or not by the trajectory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StrictFormat {
    /// The policy itself gave an answer that is not empty.
    pub answered: bool,
    /// It asked the large model at least once before.
    pub consulted: bool,
    /// It thought in every turn.
    pub thought: bool,
    /// Every turn is exactly a think and then one action.
    pub exact: bool,
}

impl StrictFormat {
    pub fn of(trajectory: &Trajectory) -> Self {
        let turns = &trajectory.turns;
        let is_exact = |turn: &Turn| match turn.action {
            Action::Prompt(_) => TurnTags::of(turn).is_exactly(PROMPT),
            Action::Answer(_) => TurnTags::of(turn).is_exactly(ANSWER),
            Action::FinalPrompt(_) | Action::Nothing => false,
        };
        Self {
            answered: super::own_answer(trajectory).is_some(),
            consulted: turns
                .iter()
                .any(|turn| matches!(turn.action, Action::Prompt(_)) && turn.observation.is_some()),
            thought: turns.iter().all(|turn| turn.think.is_some()),
            exact: turns.iter().all(is_exact),
        }
    }

    /// The share of constraints that are satisfied; none without an answer.
    pub fn share(&self) -> f64 {
        let kept = self.all().into_iter().filter(|&kept| kept).count();
        if self.answered { kept as f64 / self.all().len() as f64 } else { 0.0 }
    }

    pub fn is_perfect(&self) -> bool {
        self.all() == [true; 4]
    }

    fn all(&self) -> [bool; 4] {
        [self.answered, self.consulted, self.thought, self.exact]
    }
}
