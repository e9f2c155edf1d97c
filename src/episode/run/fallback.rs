//! What becomes the answer where the policy gives none.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::chat::ChatMessage;
use crate::compute;
use crate::large_model::{LargeModelError, Reply};
use crate::protocol::contains_question;

use super::{Ending, Run};
use crate::episode::{
    AnswerSource, EpisodeErrorKind, EpisodeEvent, EpisodeRequest, FinishReason, Participants,
};

/// Whether the answer needs one more call of the large model: to have its form, or because the
/// replies to the policy's prompts answer parts of the question only.
pub(super) fn needs_call(participants: &Participants<'_>, request: &EpisodeRequest) -> bool {
    let is_asked = request.is_continued || participants.protocol.adds_question();
    request.form.by_large_model
        || (request.limits.fallback && !request.takes_any_reply && !is_asked)
}

impl Run<'_> {
    /// Adds a prompt and its reply to the conversation.
    pub(super) fn exchanged(&mut self, message: ChatMessage, reply: &str) {
        if self.request.takes_any_reply || self.has_question(&message) {
            self.last_answer = Some(reply.to_owned());
        }
        self.exchanges.extend([message, ChatMessage::text("assistant", reply)]);
    }

    /// Whether the large model knows the question when it replies to this prompt.
    fn has_question(&self, message: &ChatMessage) -> bool {
        let has_history = self.participants.protocol.settings().history;
        if self.request.is_continued || (has_history && self.last_answer.is_some()) {
            return true;
        }
        let question = &self.request.question;
        let bytes = message.text_length() + question.len();
        compute::in_place(bytes, || contains_question(&message.as_text(), question))
    }

    /// Continues without this reply if only time ran out, and there is another that answers the
    /// question, or time is kept for a call. Without fallback the turns so far are enough.
    pub(super) fn continue_without_reply(
        &self,
        error: EpisodeErrorKind,
    ) -> Result<ControlFlow<Ending>, EpisodeErrorKind> {
        let is_enough = !self.request.limits.fallback && !self.exchanges.is_empty();
        match error {
            EpisodeErrorKind::LargeModel(LargeModelError::Deadline { .. })
                if self.last_answer.is_some() || self.turns_end < self.deadline || is_enough =>
            {
                Ok(ControlFlow::Break(Ending::NoAnswer(FinishReason::Deadline)))
            }
            error => Err(error),
        }
    }

    /// The best answer when the policy gives none: the last reply to the question, or else the large
    /// model's reply to the question itself.
    pub(super) async fn best(
        &mut self,
        reason: FinishReason,
    ) -> Result<(String, Option<Reply>), EpisodeErrorKind> {
        if let Some(reply) = self.last_answer.clone() {
            self.announce(true, reply.clone()).await?;
            return Ok((reply, None));
        }
        let limits = &self.request.limits;
        if reason == FinishReason::Deadline && Instant::now() >= self.deadline {
            return Err(EpisodeErrorKind::Deadline { limit_ms: limits.deadline_ms });
        }
        // Whatever ended the turns: the last of them may have spent it.
        if let Some(max_cost) = limits.max_cost.filter(|_| self.is_over_budget()) {
            return Err(EpisodeErrorKind::Budget { max_cost });
        }
        let mut messages = self.large_model_opening()?;
        if !self.request.is_continued {
            messages.push(self.question());
        }
        let reply = self.call(messages, true).await?;
        Ok((reply.message.as_text(), Some(reply)))
    }

    /// The answer without its form, when no time was left to apply it.
    pub(super) async fn unformed(
        &mut self,
        draft: String,
        source: AnswerSource,
    ) -> Result<(String, AnswerSource, FinishReason, Option<Reply>), EpisodeErrorKind> {
        let reason = FinishReason::Deadline;
        if draft.is_empty() {
            let (text, reply) = self.best(reason).await?;
            return Ok((text, AnswerSource::LargeModel, reason, reply));
        }
        self.events.emit(EpisodeEvent::Answer(draft.clone(), source)).await?;
        Ok((draft, source, reason, None))
    }
}
