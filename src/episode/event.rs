//! What an episode tells while it runs.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::EpisodeErrorKind;

/// One piece of news from an episode.
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
    /// More of the answer.
    Answer(String),
}

/// Takes an episode's news. An error ends the episode: nobody listens any more.
#[async_trait]
pub trait EventSink: Send {
    /// Whether anyone watches live; if not, replies are fetched whole, which is cheaper.
    fn is_live(&self) -> bool;

    /// Takes one piece of news.
    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind>;
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

#[async_trait]
impl EventSink for Silent {
    fn is_live(&self) -> bool {
        false
    }

    async fn emit(&mut self, _event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        Ok(())
    }
}

/// A watcher at the other end of a bounded channel; when it leaves, the episode ends.
#[async_trait]
impl EventSink for mpsc::Sender<EpisodeEvent> {
    fn is_live(&self) -> bool {
        true
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        self.send(event).await.map_err(|_| EpisodeErrorKind::Cancelled)
    }
}
