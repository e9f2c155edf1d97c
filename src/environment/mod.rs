//! Episodes for other trainers: they sample the policy's turns, and the loop that serves and trains
//! does the rest.

mod config;
mod open_episode;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::episode::{FinishReason, Limits};
use crate::hint::{Hint, Reason};
use crate::large_model::LargeModel;
pub use crate::policy::ExternalTurn;
use crate::protocol::Protocol;
use crate::reward::{Reward, Rewarder};
use crate::task::Task;
use crate::tokenization::ChatTokenizer;
use crate::trajectory::TokenTrace;

pub use config::OpenEpisodesConfig;

use open_episode::OpenEpisode;

/// What all episodes have in common.
pub struct EnvironmentSetup {
    /// The large model.
    pub large_model: Arc<dyn LargeModel>,
    /// Frames what each of the models reads.
    pub protocol: Arc<Protocol>,
    /// The reward.
    pub rewarder: Arc<Rewarder>,
    /// Upper limits for what a reset may ask for. Fallback is off.
    pub limits: Limits,
    /// Fields of every call of the large model.
    pub params: Map<String, Value>,
    /// Tokenizer and chat template of the policy that is trained, and its context length. Without
    /// it, turns are texts.
    pub text: Option<(Arc<ChatTokenizer>, usize)>,
}

/// The state of an episode after a reset or a step.
#[derive(Debug, Clone, PartialEq)]
pub enum EpisodeState {
    /// The policy's next turn is awaited.
    Turn {
        /// Its number; the first is 0.
        turn: usize,
        /// What the policy was shown since its last turn.
        shown: String,
        /// The token stream so far, ready for the turn; empty in episodes of texts.
        trace: TokenTrace,
        /// Tokens that the turn may have.
        max_tokens: usize,
    },
    /// The episode is over.
    Done(Box<FinishedEpisode>),
}

/// A finished episode.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedEpisode {
    /// Turns that it had.
    pub turns: usize,
    /// Its token stream up to the last token that was sampled; empty in episodes of texts.
    pub trace: TokenTrace,
    /// The reward; `None` where the episode is not to be learnt from: see `error`.
    pub reward: Option<Reward>,
    /// Why it ended, unless it failed.
    pub finish_reason: Option<FinishReason>,
    /// The policy's answer; empty without one.
    pub answer: String,
    /// Calls of the large model, and what they cost.
    pub large_model_calls: u64,
    /// What they cost, in the currency of the configured prices.
    pub cost: f64,
    /// What failed other than the policy: a model, the reward, or time.
    pub error: Option<String>,
}

/// Limits of an episode, below the environment's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResetLimits {
    /// Turns of the policy.
    pub max_turns: Option<usize>,
    /// Tokens of one turn.
    pub max_turn_tokens: Option<usize>,
    /// Wall time, the trainer's own included, milliseconds.
    pub deadline_ms: Option<u64>,
}

/// A request that an environment refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// No such episode.
    #[error("there is no episode `{0}`")]
    Unknown(Uuid),
    /// There are too many.
    #[error("{0} episodes are open, which is the maximum")]
    Full(usize),
    /// Another step of the episode is under way, or was not waited for.
    #[error("a step of this episode is under way")]
    Busy,
    /// A step for another turn than the one that is awaited.
    #[error("turn {sent} was sent, but turn {expected} is expected")]
    WrongTurn {
        /// The turn that was sent.
        sent: usize,
        /// The turn that is awaited.
        expected: usize,
    },
    /// A turn that is longer than it may be.
    #[error("the turn has {found} {unit}, but it may have {max}")]
    TooLong {
        /// Its length.
        found: usize,
        /// The unit of its length.
        unit: &'static str,
        /// The maximum length.
        max: usize,
    },
    /// A turn that is invalid.
    #[error("the turn is invalid: {0}")]
    BadTurn(Reason),
}

impl Hint for EnvironmentError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Unknown(_) => "it was closed or expired, or the environment was restarted".into(),
            Self::Full(_) => "finish or close some, or raise `max_open`".into(),
            Self::Busy => "repeat it with its `turn` for the reply".into(),
            Self::TooLong { .. } => "sample at most `max_tokens`".into(),
            Self::BadTurn(reason) => return reason.hint(),
            Self::WrongTurn { .. } => return None,
        })
    }
}

/// The environment.
pub struct Environment {
    setup: Arc<EnvironmentSetup>,
    bounds: OpenEpisodesConfig,
    /// One more than the largest token id, where turns may be token ids.
    vocabulary: Option<usize>,
    episodes: Mutex<HashMap<Uuid, Arc<EpisodeSlot>>>,
}

struct EpisodeSlot {
    episode: tokio::sync::Mutex<OpenEpisode>,
    status: Mutex<EpisodeStatus>,
}

/// What is known of an episode without locking it.
#[derive(Clone, Copy)]
struct EpisodeStatus {
    touched: Instant,
    is_done: bool,
}

impl Environment {
    /// An environment without episodes.
    pub fn new(setup: EnvironmentSetup, bounds: OpenEpisodesConfig) -> Self {
        let vocabulary = setup.text.as_ref().map(|(text, _)| text.tokenizer.size());
        Self { setup: Arc::new(setup), bounds, vocabulary, episodes: Mutex::default() }
    }

    /// What all episodes have in common.
    pub fn setup(&self) -> &EnvironmentSetup {
        &self.setup
    }

    /// How many episodes are open.
    pub fn open(&self) -> usize {
        self.episodes().len()
    }

    /// Begins an episode. Must be called on a runtime.
    ///
    /// # Errors
    /// When too many are open.
    pub async fn reset(
        &self,
        id: Uuid,
        task: Task,
        asked: ResetLimits,
    ) -> Result<EpisodeState, EnvironmentError> {
        let own = &self.setup.limits;
        let limits = Limits {
            max_turns: asked.max_turns.unwrap_or(own.max_turns).clamp(1, own.max_turns),
            max_turn_tokens: asked
                .max_turn_tokens
                .unwrap_or(own.max_turn_tokens)
                .clamp(1, own.max_turn_tokens),
            deadline_ms: asked.deadline_ms.unwrap_or(own.deadline_ms).min(own.deadline_ms),
            fallback: false,
            ..own.clone()
        };
        let held = {
            let mut episodes = self.episodes();
            self.make_room(&mut episodes)?;
            let episode =
                OpenEpisode::begin(Arc::clone(&self.setup), self.vocabulary, task, limits);
            let status = Mutex::new(EpisodeStatus { touched: Instant::now(), is_done: false });
            let held = Arc::new(EpisodeSlot { episode: tokio::sync::Mutex::new(episode), status });
            episodes.insert(id, Arc::clone(&held));
            held
        };
        let mut episode = held.episode.lock().await;
        let state = episode.next().await;
        held.touch(matches!(state, EpisodeState::Done(_)));
        Ok(state)
    }

    /// Takes a turn and goes on to the next, or to the end. `turn` is its number: a repeated step
    /// changes nothing and returns the same reply again.
    ///
    /// # Errors
    /// When there is no such episode, or the turn is none that it awaits.
    pub async fn step(
        &self,
        id: Uuid,
        turn: Option<usize>,
        played: ExternalTurn,
    ) -> Result<EpisodeState, EnvironmentError> {
        let held = self.episodes().get(&id).cloned().ok_or(EnvironmentError::Unknown(id))?;
        let mut episode = held.episode.try_lock().map_err(|_| EnvironmentError::Busy)?;
        held.touch(false);
        let state = episode.step(turn, played).await?;
        held.touch(matches!(state, EpisodeState::Done(_)));
        Ok(state)
    }

    /// Closes an episode. Returns whether it was open.
    pub fn close(&self, id: Uuid) -> bool {
        self.episodes().remove(&id).is_some()
    }

    /// Makes room for one more episode.
    fn make_room(
        &self,
        episodes: &mut HashMap<Uuid, Arc<EpisodeSlot>>,
    ) -> Result<(), EnvironmentError> {
        let idle = Duration::from_millis(self.bounds.idle_ms);
        episodes.retain(|_, held| held.status().touched.elapsed() < idle || held.is_busy());
        if episodes.len() < self.bounds.max_open {
            return Ok(());
        }
        let done = episodes.iter().map(|(id, held)| (*id, held.status()));
        let oldest =
            done.filter(|(_, status)| status.is_done).min_by_key(|(_, status)| status.touched);
        let (id, _) = oldest.ok_or(EnvironmentError::Full(self.bounds.max_open))?;
        episodes.remove(&id);
        Ok(())
    }

    fn episodes(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<EpisodeSlot>>> {
        self.episodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EpisodeSlot {
    fn status(&self) -> EpisodeStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a step is under way, however long it takes.
    fn is_busy(&self) -> bool {
        self.episode.try_lock().is_err()
    }

    fn touch(&self, is_done: bool) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.touched = Instant::now();
        status.is_done |= is_done;
    }
}
