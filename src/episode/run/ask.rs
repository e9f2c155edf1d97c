//! What an episode asks of the large model, and what it makes of the replies.

use std::time::Instant;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout_at;
use tracing::{Instrument, field};

use crate::chat::ChatMessage;
use crate::large_model::{Call, LargeModelError, Reply, ReplyChunk};
use crate::trajectory::{Action, Observation};

use super::{Run, record_usage};
use crate::episode::estimate::UnderWay;
use crate::episode::{CONTENTS, EpisodeErrorKind, RoleUsage, SPANS};

impl Run<'_> {
    /// The reply to a prompt, from the record if the same prompt was sent before. `is_answer` says
    /// under which name the words are announced.
    pub(super) async fn ask(
        &mut self,
        prompt: &str,
        is_answer: bool,
    ) -> Result<(Reply, Observation), EpisodeErrorKind> {
        let begun = Instant::now();
        let known = self.replies.get(prompt).cloned();
        let repeated = known.is_some();
        let reply = match known {
            Some(reply) => {
                self.announce(is_answer, reply.clone()).await?;
                Reply::text(reply)
            }
            None => {
                let mut messages = self.large_model_opening()?;
                messages.extend(self.exchanges.iter().cloned());
                let message = match self.exchanges.is_empty() {
                    true => with_attachments(prompt, &self.request.attachments),
                    false => ChatMessage::text("user", prompt),
                };
                messages.push(message.clone());
                let reply = self.call(messages, is_answer).await?;
                let text = reply.message.as_text();
                self.exchanges.extend([message, ChatMessage::text("assistant", text.clone())]);
                self.replies.insert(prompt.to_owned(), text);
                reply
            }
        };
        let millis = begun.elapsed().as_millis() as u64;
        let usage = reply.usage;
        let text = reply.message.as_text();
        let observation = Observation { reply: text, truncated: false, repeated, usage, millis };
        Ok((reply, observation))
    }

    /// One call of the large model, counted.
    pub(super) async fn call(
        &mut self,
        messages: Vec<ChatMessage>,
        is_answer: bool,
    ) -> Result<Reply, EpisodeErrorKind> {
        let begun = Instant::now();
        let model = self.participants.large_model.name();
        let span = tracing::info_span!(
            target: SPANS,
            "large_model",
            otel.name = format_args!("chat {model}"),
            otel.kind = "client",
            gen_ai.operation.name = "chat",
            gen_ai.request.model = model,
            gen_ai.response.finish_reasons = field::Empty,
            gen_ai.usage.input_tokens = field::Empty,
            gen_ai.usage.output_tokens = field::Empty,
            otel.status_code = field::Empty,
            error.r#type = field::Empty,
        );
        span.in_scope(|| {
            let last = messages.last();
            tracing::info!(target: CONTENTS, prompt = last.map(ChatMessage::as_text), "asked");
        });
        let prices = self.participants.large_model.prices();
        let read = messages.iter().map(ChatMessage::text_length).sum();
        let tally = &self.request.tally;
        let mut replying =
            UnderWay::begin(tally, self.usage, |usage| &mut usage.large_model, prices, read);
        let result = self.reply_to(messages, is_answer, &mut replying);
        let result = result.instrument(span.clone()).await;
        match &result {
            Ok(reply) => {
                record_usage(&span, reply.usage);
                span.record("gen_ai.response.finish_reasons", reply.finish_reason.as_str());
                let text = || reply.message.as_text();
                span.in_scope(|| tracing::info!(target: CONTENTS, reply = text(), "replied"));
            }
            Err(kind) => {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", kind.label());
            }
        }
        self.waited += begun.elapsed();
        match &result {
            Ok(reply) => {
                let (tokens, cost) = (reply.usage, reply.cost);
                self.usage.large_model += RoleUsage { calls: 1, tokens, cost };
                self.tally();
            }
            Err(EpisodeErrorKind::LargeModel(error)) => {
                let is_billed = error.may_be_billed() || replying.has_written();
                self.count_cut(&replying, is_billed);
            }
            Err(_) => self.count_cut(&replying, true),
        }
        result
    }

    async fn reply_to(
        &mut self,
        messages: Vec<ChatMessage>,
        is_answer: bool,
        replying: &mut UnderWay,
    ) -> Result<Reply, EpisodeErrorKind> {
        let model = self.participants.large_model;
        let call = Call {
            messages,
            params: self.params(is_answer),
            deadline: Some(self.deadline),
            authorization: self.request.authorization.clone(),
        };
        let past = || LargeModelError::Deadline { model: model.name().to_owned() };
        // An answer that may have to be asked for again is not shown before it is good.
        let is_live = self.events.is_live() && !(is_answer && self.request.form.check.is_some());
        if is_live {
            let stream = timeout_at(self.deadline.into(), model.stream(&call)).await;
            let mut stream = stream.map_err(|_| past())??;
            let mut said = String::new();
            loop {
                let chunk = timeout_at(self.deadline.into(), stream.next()).await;
                match chunk.unwrap_or_else(|_| Some(Err(past()))) {
                    Some(Ok(ReplyChunk::Text(text))) => {
                        replying.write(&text);
                        said.push_str(&text);
                        self.announce(is_answer, text).await?;
                    }
                    Some(Ok(ReplyChunk::Done(reply))) => return Ok(reply),
                    // Of an answer, what was told already is better than none.
                    Some(Err(LargeModelError::Deadline { .. }))
                        if is_answer && !said.is_empty() =>
                    {
                        self.is_cut = true;
                        let finish_reason = "length".to_owned();
                        let RoleUsage { tokens: usage, cost, .. } = replying.used();
                        return Ok(Reply { finish_reason, usage, cost, ..Reply::text(said) });
                    }
                    Some(Err(error)) => return Err(error.into()),
                    None => {
                        return Err(EpisodeErrorKind::LargeModel(LargeModelError::Malformed {
                            model: model.name().to_owned(),
                            reason: "the stream ended before the reply was complete".into(),
                        }));
                    }
                }
            }
        } else {
            let reply = timeout_at(self.deadline.into(), model.complete(&call)).await;
            Ok(reply.map_err(|_| past())??)
        }
    }

    /// The large model's answer in the form that was asked for, made of the policy's draft.
    pub(super) async fn formed(&mut self, draft: &str) -> Result<Reply, EpisodeErrorKind> {
        let request = self.request;
        let turns = self.turns.iter().filter_map(|turn| {
            let reply = &turn.observation.as_ref()?.reply;
            match &turn.action {
                Action::Prompt(prompt) | Action::FinalPrompt(prompt) => Some((&**prompt, &**reply)),
                _ => None,
            }
        });
        let notes = self.participants.protocol.form(&turns.collect::<Vec<_>>(), draft)?;
        let mut messages = vec![ChatMessage::text("system", notes)];
        messages.extend(request.conversation.iter().cloned());
        if !request.is_continued {
            messages.push(self.question());
        }
        let Some(check) = &request.form.check else { return self.call(messages, true).await };
        let mut is_retry = false;
        loop {
            let reply = self.call(messages.clone(), true).await?;
            let text = reply.message.as_text();
            // Calls of tools and refusals stand in for the content, and one that was cut off by
            // its own limit says so.
            let stands = reply.message.content.is_null() || reply.finish_reason == "length";
            let verdict = if stands { Ok(()) } else { check.verdict(&text) };
            match verdict {
                Ok(()) => {
                    if self.events.is_live() {
                        self.announce(true, text).await?;
                    }
                    return Ok(reply);
                }
                Err(reason) if is_retry => return Err(EpisodeErrorKind::Unfit { reason }),
                Err(reason) => {
                    let again = format!(
                        "That does not have the form asked for: {reason}. \
                         Reply again, in that form and nothing else."
                    );
                    messages.push(ChatMessage::text("assistant", text));
                    messages.push(ChatMessage::text("user", again));
                    is_retry = true;
                }
            }
        }
    }

    /// The question as the large model gets it.
    pub(super) fn question(&self) -> ChatMessage {
        with_attachments(&self.request.question, &self.request.attachments)
    }

    /// What the request asks of the large model, with a seed of the episode's.
    fn params(&self, is_answer: bool) -> serde_json::Map<String, serde_json::Value> {
        let mut params = self.request.large_model_params.clone();
        let seed = (self.request.sampling.seed >> 1) as i64;
        params.entry("seed").or_insert(json!(seed));
        if is_answer {
            params.extend(self.request.form.params.clone());
        }
        params
    }

    /// What stands before the first prompt.
    pub(super) fn large_model_opening(&self) -> Result<Vec<ChatMessage>, EpisodeErrorKind> {
        let system = self.participants.protocol.large_model_system()?;
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(ChatMessage::text("system", system));
        }
        messages.extend(self.request.conversation.iter().cloned());
        Ok(messages)
    }
}

/// A user's message of text, with what is no text before it.
fn with_attachments(text: &str, attachments: &[Value]) -> ChatMessage {
    let mut message = ChatMessage::text("user", text);
    if !attachments.is_empty() {
        let text = json!({"type": "text", "text": text});
        message.content = attachments.iter().cloned().chain([text]).collect();
    }
    message
}
