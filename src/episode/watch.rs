//! Streams a turn's events while the policy writes it.

use std::ops::ControlFlow;

use async_trait::async_trait;

use super::estimate::CallEstimate;
use super::{AnswerSource, EpisodeErrorKind, EpisodeEvent, EventSink};
use crate::large_model::{FailedCalls, UnseenUsage, Waiting};
use crate::policy::{PolicyError, TurnSink};
use crate::protocol::{Fragment, ParsedTurn, TurnParser};

/// Parses a turn as it is written and emits its events.
pub(super) struct TurnWatch<'a> {
    parser: TurnParser,
    events: &'a mut dyn EventSink,
    /// Whether its answers are drafts, of which the large model makes the answer.
    drafts: bool,
    /// Whether some of an answer was streamed to someone.
    has_answered: bool,
    /// The pieces of an answer that is not streamed: it may turn out to be malformed.
    held_back: Vec<String>,
    writing: CallEstimate,
}

/// A turn as it was watched.
pub(super) struct WatchedTurn {
    /// All of it, verbatim.
    pub text: String,
    pub parsed: ParsedTurn,
    pub writing: CallEstimate,
    /// The pieces of its answer, if they were not emitted.
    pub held_back: Vec<String>,
}

impl<'a> TurnWatch<'a> {
    pub(super) fn new(events: &'a mut dyn EventSink, drafts: bool, writing: CallEstimate) -> Self {
        let parser = TurnParser::default();
        Self { parser, events, drafts, has_answered: false, held_back: Vec::new(), writing }
    }

    /// Whether some of an answer was streamed, which cannot be taken back.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// The turn so far.
    pub(super) fn finish(self) -> WatchedTurn {
        let Self { parser, writing, held_back, .. } = self;
        WatchedTurn { text: parser.text().to_owned(), parsed: parser.finish(), writing, held_back }
    }

    /// Emits what was held back, at the end of the turn.
    pub(super) async fn close(&mut self) -> Result<(), EpisodeErrorKind> {
        let fragments = self.parser.close();
        self.emit(fragments).await
    }

    async fn emit(&mut self, fragments: Vec<Fragment>) -> Result<(), EpisodeErrorKind> {
        for fragment in fragments {
            let event = match fragment {
                Fragment::Think(text) => EpisodeEvent::Think(text),
                Fragment::Prompt(text) | Fragment::FinalPrompt(text) => EpisodeEvent::Prompt(text),
                Fragment::Answer(_) if self.drafts => continue,
                Fragment::Answer(text) if !self.events.is_live() => {
                    self.held_back.push(text);
                    continue;
                }
                Fragment::Answer(text) => {
                    self.has_answered = true;
                    EpisodeEvent::Answer(text, AnswerSource::Policy)
                }
            };
            self.events.emit(event).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl TurnSink for TurnWatch<'_> {
    fn waiting(&self) -> Waiting {
        self.writing.waiting.clone()
    }

    fn failed_calls(&self) -> FailedCalls {
        self.writing.failed_calls.clone()
    }

    fn unseen(&self) -> UnseenUsage {
        self.writing.unseen.clone()
    }

    async fn text(&mut self, text: &str) -> Result<ControlFlow<()>, PolicyError> {
        self.writing.write(text);
        let fragments = self.parser.push(text);
        self.emit(fragments).await.map_err(|_| PolicyError::Cancelled)?;
        let overrun = self.parser.is_overrun();
        Ok(if overrun { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}
