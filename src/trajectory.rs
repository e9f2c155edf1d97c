//! The record of an episode: what was sampled, what was observed. Data only.

use serde::{Deserialize, Serialize};

/// One sampled token and how likely the policy thought it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SampledToken {
    /// The token's id in the policy's vocabulary.
    pub id: u32,
    /// Natural-log probability under `softmax(logits / temperature)`, before top-k and top-p.
    /// Greedy decoding (temperature 0) reports it at temperature 1.
    pub log_prob: f32,
}

/// The one token stream of an episode: what the policy was conditioned on and what it sampled, in
/// order. The same in serving and in training; nothing is ever decoded and encoded again.
///
/// The three vectors have one length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenTrace {
    /// Token ids: the opening, then turns and observations alternating.
    pub ids: Vec<u32>,
    /// Natural-log probability of each sampled token; 0 where the token was given.
    pub log_probs: Vec<f32>,
    /// Whether the policy sampled the token (`true`) or was given it (`false`).
    pub action_mask: Vec<bool>,
}

impl TokenTrace {
    /// Appends tokens that the policy was given.
    pub fn push_context(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.log_probs.resize(self.ids.len(), 0.0);
        self.action_mask.resize(self.ids.len(), false);
    }

    /// Appends a token that the policy sampled.
    pub fn push_action(&mut self, token: SampledToken) {
        self.ids.push(token.id);
        self.log_probs.push(token.log_prob);
        self.action_mask.push(true);
    }

    /// Removes what follows the last token that the policy sampled.
    pub fn end_with_action(&mut self) {
        let end = self.action_mask.iter().rposition(|&sampled| sampled).map_or(0, |last| last + 1);
        self.ids.truncate(end);
        self.log_probs.truncate(end);
        self.action_mask.truncate(end);
    }

    /// The log-probabilities of the tokens that the policy sampled, in order.
    pub fn action_log_probs(&self) -> impl Iterator<Item = f64> + '_ {
        let sampled = self.log_probs.iter().zip(&self.action_mask).filter(|(_, sampled)| **sampled);
        sampled.map(|(log_prob, _)| f64::from(*log_prob))
    }

    /// How many tokens the policy sampled.
    pub fn action_count(&self) -> usize {
        self.action_mask.iter().filter(|&&sampled| sampled).count()
    }
}

/// What the policy did in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "text")]
pub enum Action {
    /// A prompt for the large model.
    Prompt(String),
    /// A prompt whose reply is the answer, returned unchanged.
    FinalPrompt(String),
    /// The answer.
    Answer(String),
    /// No action.
    Nothing,
}

/// Why the policy stopped writing a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnFinish {
    /// It ended the turn itself, or continued after a closed action.
    Stop,
    /// It reached the token limit.
    Length,
}

/// Tokens that a chat model was billed for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Tokens read from the endpoint's cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
    /// Tokens written as thoughts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
}

fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

impl TokenUsage {
    /// The usage that an endpoint reports, capped so that sums cannot overflow.
    pub fn reported(prompt_tokens: u64, completion_tokens: u64) -> Self {
        const MAX: u64 = u32::MAX as u64;
        let (prompt_tokens, completion_tokens) =
            (prompt_tokens.min(MAX), completion_tokens.min(MAX));
        Self { prompt_tokens, completion_tokens, ..Self::default() }
    }
}

impl std::ops::AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cached_tokens += other.cached_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}

/// The large model's reply to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The message that was sent, if it differs from the policy's prompt: with references resolved,
    /// or with the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// The reply, in full.
    pub reply: String,
    /// Whether the policy was shown only the beginning.
    pub truncated: bool,
    /// Whether an earlier identical prompt was answered from the episode's own record.
    pub repeated: bool,
    /// Whether the reply ended before it was complete: at its token limit, or by a content filter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
    /// What the call was billed; zero when repeated.
    pub usage: TokenUsage,
    /// What that cost, in the operator's currency.
    #[serde(default)]
    pub cost: f64,
    /// From sending the prompt to the end of the reply, milliseconds.
    pub millis: u64,
}

/// One turn: what the policy wrote, its action, and the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The policy's text, verbatim.
    pub text: String,
    /// The content of its think tag, if any.
    pub think: Option<String>,
    /// What it did.
    pub action: Action,
    /// Why it stopped writing.
    pub finish: TurnFinish,
    /// Whether the caller wrote the turn, and not the policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_given: bool,
    /// Tokens it sampled.
    pub tokens: usize,
    /// Their cost, in the operator's currency; 0 for a policy that runs here.
    #[serde(default)]
    pub cost: f64,
    /// Time it took to sample them, milliseconds.
    pub millis: u64,
    /// The reply, when the action was a prompt that was answered.
    pub observation: Option<Observation>,
}

/// The whole record of one episode.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// The turns, in order.
    pub turns: Vec<Turn>,
    /// The token stream; empty for policies that do not expose their tokens.
    pub trace: TokenTrace,
}

impl Trajectory {
    /// The length of the turns' texts, bytes.
    pub fn text_bytes(&self) -> usize {
        let turns = self.turns.iter();
        turns.map(|turn| turn.text.len() + turn.observation.as_ref().map_or(0, seen_bytes)).sum()
    }
}

fn seen_bytes(seen: &Observation) -> usize {
    seen.reply.len() + seen.sent.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_a_trajectory_are_measured() {
        let turn = Turn {
            text: "four".to_owned(),
            think: None,
            action: Action::Prompt("four".to_owned()),
            finish: TurnFinish::Stop,
            is_given: false,
            tokens: 1,
            cost: 0.0,
            millis: 0,
            observation: None,
        };
        let seen = Observation {
            sent: Some("sent".to_owned()),
            reply: "a reply".to_owned(),
            truncated: false,
            repeated: false,
            cut_off: false,
            usage: TokenUsage::default(),
            cost: 0.0,
            millis: 0,
        };
        let turns = vec![turn.clone(), Turn { observation: Some(seen), ..turn }];
        assert_eq!(Trajectory { turns, ..Trajectory::default() }.text_bytes(), 4 + 4 + 4 + 7);
    }

    #[test]
    fn a_trace_ends_with_what_was_sampled() {
        let mut trace = TokenTrace::default();
        trace.push_context(&[1, 2]);
        trace.push_action(SampledToken { id: 3, log_prob: -1.0 });
        let expected = trace.clone();
        trace.push_context(&[4, 5]);
        trace.end_with_action();
        assert_eq!(trace, expected);
        trace.action_mask.fill(false);
        trace.end_with_action();
        assert_eq!(trace, TokenTrace::default());
    }
}
