//! Turns that the caller wrote: the policy continues after them as if they were its own.

use std::ops::ControlFlow;

use tokio::time::timeout_at;

use crate::compute;
use crate::large_model::Reply;
use crate::policy::PolicySession;
use crate::protocol::{ExpandError, parse_turn, write_prompt};
use crate::token_estimate::TokenEstimate;
use crate::trajectory::{Observation, TokenUsage, Turn, TurnFinish};

use super::ask::{PromptOutcome, Ready};
use super::{Ending, Run};
use crate::episode::{EpisodeErrorKind, EpisodeEvent, GivenTurn};

impl Run<'_> {
    /// Appends a given turn with its reply. A missing reply is requested.
    pub(super) async fn given(
        &mut self,
        session: &mut dyn PolicySession,
        given: &GivenTurn,
    ) -> Result<ControlFlow<Ending>, EpisodeErrorKind> {
        let (text, parsed) = compute::in_place(given.prompt.len(), || {
            let text = write_prompt(given.think.as_deref(), &given.prompt);
            let parsed = parse_turn(&text);
            (text, parsed)
        });
        let limit_ms = self.request.limits.deadline_ms;
        let taken = timeout_at(self.turns_end.into(), session.given(&text)).await;
        taken.map_err(|_| EpisodeErrorKind::Deadline { limit_ms })??;
        if let Some(think) = &parsed.think {
            self.events.emit(EpisodeEvent::Think(think.clone())).await?;
        }
        let prompt = given.prompt.trim();
        self.events.emit(EpisodeEvent::Prompt(prompt.to_owned())).await?;
        self.shown += compute::in_place(text.len(), || TokenEstimate::of(&text));
        self.turns.push(Turn {
            text,
            think: parsed.think,
            action: parsed.action,
            finish: TurnFinish::Stop,
            is_given: true,
            tokens: 0,
            cost: 0.0,
            millis: 0,
            observation: None,
        });
        let asked = match &given.response {
            Some(reply) => self.replied(prompt, reply).await,
            None => self.ask(prompt, false).await,
        };
        if matches!(asked, Ok(PromptOutcome::Unsent(ExpandError::TooLong))) {
            let max = self.request.limits.prompt_bytes;
            return Err(EpisodeErrorKind::PromptTooLong { turn: self.turns.len() - 1, max });
        }
        self.show(session, asked).await
    }

    /// Treats a reply as if the large model had sent it in answer to `prompt`.
    async fn replied(
        &mut self,
        prompt: &str,
        reply: &str,
    ) -> Result<PromptOutcome, EpisodeErrorKind> {
        let written = prompt;
        let Ready { prompt, key } = match self.ready(prompt) {
            Ok(ready) => ready,
            Err(error) => return Ok(PromptOutcome::Unsent(error)),
        };
        let message = self.prompt(&prompt)?;
        let sent = Some(message.as_text()).filter(|sent| sent != written);
        self.exchanged(message, reply);
        self.replies.insert(key, reply.to_owned());
        self.announce(false, reply.to_owned()).await?;
        let observation = Observation {
            sent,
            reply: reply.to_owned(),
            truncated: false,
            repeated: false,
            cut_off: false,
            usage: TokenUsage::default(),
            cost: 0.0,
            millis: 0,
        };
        Ok(PromptOutcome::Replied(Box::new(Reply::text(reply)), observation))
    }
}
