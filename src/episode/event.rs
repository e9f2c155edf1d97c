//! Events of an episode while it runs.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{AnswerSource, EpisodeErrorKind};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpisodeEvent {
    /// A turn begins; the first is 0.
    Turn(usize),
    /// More of the policy's thinking.
    Think(String),
    /// More of its prompt for the large model.
    Prompt(String),
    /// More of the large model's reply.
    Response(String),
    /// More of what the large model thinks before it answers.
    ReplyThought(String),
    /// More of the answer, and who writes it.
    Answer(String, AnswerSource),
}

/// Receives an episode's events. An error ends the episode: the receiver is gone.
#[async_trait]
pub trait EventSink: Send {
    /// Whether the events are streamed to someone; if not, replies are fetched whole, which is
    /// cheaper.
    fn is_live(&self) -> bool;

    /// Receives an event.
    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind>;
}

/// Discards all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiscardEvents;

#[async_trait]
impl EventSink for DiscardEvents {
    fn is_live(&self) -> bool {
        false
    }

    async fn emit(&mut self, _event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        Ok(())
    }
}

/// Sends events to a bounded channel. When the receiver is dropped, the episode ends.
#[async_trait]
impl EventSink for mpsc::Sender<EpisodeEvent> {
    fn is_live(&self) -> bool {
        true
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        self.send(event).await.map_err(|_| EpisodeErrorKind::Cancelled)
    }
}
