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
    writing: CallEstimate,
}

impl<'a> TurnWatch<'a> {
    pub(super) fn new(events: &'a mut dyn EventSink, drafts: bool, writing: CallEstimate) -> Self {
        let parser = TurnParser::default();
        Self { parser, events, drafts, has_answered: false, writing }
    }

    /// Whether some of an answer was streamed, which cannot be taken back.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// The turn so far, verbatim, its parsed content, and its usage.
    pub(super) fn finish(self) -> (String, ParsedTurn, CallEstimate) {
        (self.parser.text().to_owned(), self.parser.finish(), self.writing)
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
                // Where nobody watches, an answer is told by the episode alone: it may turn out to be
                // malformed.
                Fragment::Answer(_) if self.drafts || !self.events.is_live() => continue,
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
