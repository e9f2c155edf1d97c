//! Calls of the large model, and the use of its replies.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout_at;
use tracing::{Instrument, field};

use crate::chat::ChatMessage;
use crate::compute;
use crate::large_model::{Call, CallUsage, LargeModelError, Reply, ReplyChunk, estimated_tokens};
use crate::protocol::{ExpandError, comparable, contains_question, expand};
use crate::trajectory::Observation;

use super::arrange::arranged;
use super::bare::bare_json;
use super::{Run, record_usage};
use crate::episode::estimate::CallEstimate;
use crate::episode::{
    AnswerCheck, CONTENTS, EpisodeErrorKind, EpisodeEvent, ReplyKey, SPANS, is_cut_reply,
};

/// The outcome of a prompt.
pub(super) enum PromptOutcome {
    /// A reply, new or repeated.
    Replied(Box<Reply>, Observation),
    /// Its references cannot be resolved, so it was not sent.
    Unsent(ExpandError),
}

/// A prompt with its references resolved, and the key under which its reply is stored.
pub(super) struct Ready {
    pub(super) prompt: String,
    pub(super) key: ReplyKey,
}

impl Run<'_> {
    /// The reply to a prompt, taken from the record if the same prompt was sent before. `is_answer`
    /// selects the event under which its text is streamed.
    pub(super) async fn ask(
        &mut self,
        prompt: &str,
        is_answer: bool,
    ) -> Result<PromptOutcome, EpisodeErrorKind> {
        let begun = Instant::now();
        let written = prompt;
        let Ready { prompt, key } = match self.ready(prompt) {
            Ok(ready) => ready,
            Err(error) => return Ok(PromptOutcome::Unsent(error)),
        };
        let mut sent = None;
        let known = self.replies.get(&key).cloned();
        let repeated = known.is_some();
        let reply = match known {
            Some(text) => {
                self.announce(is_answer, text.clone()).await?;
                let finish_reason =
                    if is_cut_reply(&self.turns, &text) { "length" } else { "stop" };
                Reply { finish_reason: finish_reason.to_owned(), ..Reply::text(text) }
            }
            None => {
                let mut messages = self.large_model_opening()?;
                messages.extend(self.history().iter().cloned());
                // A conversation that continues after the question contains it already.
                let is_asked = self.request.is_continued && prompt == self.request.question;
                let message = self.prompt(&prompt)?;
                sent = Some(message.as_text()).filter(|sent| sent != written);
                // Images are not copied: the message is made once more.
                let copy = message.content.is_string().then(|| message.clone());
                let again = copy.is_none().then_some(prompt);
                if !(is_asked && self.history().is_empty()) {
                    messages.push(message);
                }
                let reply = self.call(messages, is_answer).await?;
                let message = match (copy, again) {
                    (Some(message), _) => message,
                    (None, again) => self.prompt(&again.unwrap_or_default())?,
                };
                let text = reply.message.as_text();
                self.exchanged(message, &text);
                self.replies.insert(key, text);
                reply
            }
        };
        let millis = begun.elapsed().as_millis() as u64;
        let (usage, cost) = (reply.usage, reply.cost);
        let observation = Observation {
            sent,
            reply: reply.message.as_text(),
            truncated: false,
            repeated,
            cut_off: reply.is_cut_off(),
            usage,
            cost,
            millis,
        };
        Ok(PromptOutcome::Replied(Box::new(reply), observation))
    }

    /// A prompt that can be sent, or answered from the record.
    pub(super) fn ready(&self, prompt: &str) -> Result<Ready, ExpandError> {
        let replies =
            self.turns.iter().filter_map(|turn| Some(turn.observation.as_ref()?.reply.len()));
        let bytes = prompt.len() + self.request.question.len() + replies.sum::<usize>();
        compute::in_place(bytes, || {
            let prompt = self.expanded(prompt)?;
            let key = reply_key(&prompt);
            Ok(Ready { prompt, key })
        })
    }

    /// The prompt with its references resolved.
    pub(super) fn expanded(&self, prompt: &str) -> Result<String, ExpandError> {
        let observations = self.turns.iter().map(|turn| turn.observation.as_ref());
        let replies: Vec<Option<&str>> =
            observations.map(|observation| observation.map(|it| it.reply.as_str())).collect();
        expand(prompt, &self.request.question, &replies, self.request.limits.prompt_bytes)
    }

    /// Whether the prompt is the question and nothing else.
    pub(super) fn is_question(&self, prompt: &str) -> bool {
        self.expanded(prompt).is_ok_and(|prompt| prompt == self.request.question)
    }

    /// The earlier prompts and replies that the large model sees with the next prompt.
    fn history(&self) -> &[ChatMessage] {
        if self.participants.protocol.settings().history { &self.exchanges } else { &[] }
    }

    /// The message for a prompt. The first one also carries the question, and its parts that are
    /// not text, unless the large model has them already; one that is the question and nothing else
    /// is the message that asked it.
    pub(super) fn prompt(&self, prompt: &str) -> Result<ChatMessage, EpisodeErrorKind> {
        let request = self.request;
        let is_first = self.history().is_empty();
        let bytes = prompt.len() + request.question.len();
        let contains_question =
            || compute::in_place(bytes, || contains_question(prompt, &request.question));
        let lacks = is_first && !request.is_continued && !contains_question();
        let question = lacks.then_some(&*request.question);
        let protocol = self.participants.protocol;
        let text = compute::in_place(bytes, || protocol.prompt(prompt, question))?;
        if is_first && prompt == request.question && text == prompt.trim() {
            return Ok(self.question());
        }
        Ok(with_attachments(text, if is_first { &request.attachments } else { &[] }))
    }

    /// Makes one call of the large model and counts it.
    pub(super) async fn call(
        &mut self,
        messages: Vec<ChatMessage>,
        is_answer: bool,
    ) -> Result<Reply, EpisodeErrorKind> {
        let begun = Instant::now();
        let bytes = messages.iter().map(ChatMessage::text_length).sum();
        let (messages, read) = compute::in_place(bytes, || {
            let messages = arranged(messages);
            let read = estimated_tokens(&messages);
            (messages, read)
        });
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
        let other = self.request.large_model_params.get("model").and_then(Value::as_str);
        let large_model = self.participants.large_model;
        let prices = large_model.prices_of(other).unwrap_or_else(|| large_model.prices());
        let tally = &self.request.tally;
        let mut replying =
            CallEstimate::begin(tally, self.usage, |usage| &mut usage.large_model, prices, read);
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
                if let EpisodeErrorKind::LargeModel(error) = kind {
                    replying.fail(error);
                }
                span.record("otel.status_code", "ERROR");
                span.record("error.type", kind.label());
            }
        }
        self.waited += begun.elapsed();
        let used = match &result {
            Ok(reply) => CallUsage::from(reply),
            Err(EpisodeErrorKind::LargeModel(error))
                if !error.may_be_billed() && !replying.has_written() =>
            {
                CallUsage::default()
            }
            Err(_) => replying.used(),
        };
        self.usage.large_model += used;
        self.usage.large_model += replying.failed_calls();
        drop(replying);
        self.tally();
        result
    }

    async fn reply_to(
        &mut self,
        messages: Vec<ChatMessage>,
        is_answer: bool,
        replying: &mut CallEstimate,
    ) -> Result<Reply, EpisodeErrorKind> {
        let model = self.participants.large_model;
        let until = if is_answer { self.deadline } else { self.turns_end };
        // An answer that may be requested again is not shown before it is known to be good.
        let is_checked = is_answer && self.request.form.check.is_some();
        let is_live = self.events.is_live() && !is_checked;
        let call = Call {
            messages,
            with_thoughts: is_answer && is_live,
            shared_params: self.params(is_answer),
            optional_params: if is_answer {
                self.request.form.optional_params.clone()
            } else {
                Map::new()
            },
            deadline: Some(until),
            authorization: self.request.authorization.clone(),
            caller: self.request.caller,
            failed_calls: replying.failed_calls.clone(),
            unseen: replying.unseen.clone(),
            waiting: replying.waiting.clone(),
            ..Call::default()
        };
        let past = || LargeModelError::Deadline {
            model: model.name().to_owned(),
            was_sent: !call.waiting.is_on(),
        };
        // Always streamed: a reply that is sent whole arrives after a long silence, which
        // intermediaries may time out.
        let stream = timeout_at(until.into(), model.stream(&call)).await;
        let mut stream = stream.map_err(|_| past())??;
        let mut said = String::new();
        loop {
            let chunk = timeout_at(until.into(), stream.next()).await;
            match chunk.unwrap_or_else(|_| Some(Err(past()))) {
                Some(Ok(ReplyChunk::Text(text))) => {
                    replying.write(&text);
                    said.push_str(&text);
                    if is_live {
                        self.announce(is_answer, text).await?;
                    }
                }
                Some(Ok(ReplyChunk::Thought(text))) => {
                    replying.write(&text);
                    if is_answer && is_live {
                        self.events.emit(EpisodeEvent::ReplyThought(text)).await?;
                    }
                }
                Some(Ok(ReplyChunk::Done(reply))) => return Ok(reply),
                // A partial answer is better than none.
                Some(Err(LargeModelError::Deadline { .. }))
                    if is_answer && !is_checked && !said.is_empty() =>
                {
                    self.is_cut = true;
                    let finish_reason = "length".to_owned();
                    let CallUsage { tokens: usage, cost, .. } = replying.used();
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
    }

    /// The large model's answer in the requested form, made from the policy's draft. The findings
    /// are put before the question as the user's text: they are not instructions.
    pub(super) async fn formed(&mut self, draft: &str) -> Result<Reply, EpisodeErrorKind> {
        let request = self.request;
        let mut messages = request.conversation.clone();
        if !request.is_continued {
            messages.push(self.question());
        }
        if !(self.exchanges.is_empty() && draft.is_empty()) {
            let said: Vec<String> = self.exchanges.iter().map(ChatMessage::as_text).collect();
            let exchanges = said.chunks_exact(2).map(|pair| (&*pair[0], &*pair[1]));
            let exchanges: Vec<_> = exchanges.collect();
            let bytes = said.iter().map(String::len).sum::<usize>() + draft.len();
            let protocol = self.participants.protocol;
            let notes = compute::in_place(bytes, || protocol.form(&exchanges, draft))?;
            let question = messages.iter().rposition(|message| message.role == "user");
            let question = question.unwrap_or(0);
            if let Some(question) = messages.get_mut(question).filter(|_| !request.is_continued) {
                // Only messages that say nothing else can be joined with the notes.
                question.extra.clear();
            }
            messages.insert(question, ChatMessage::text("user", notes));
        }
        let Some(check) = &request.form.check else { return self.call(messages, true).await };
        let mut is_retry = false;
        loop {
            let mut reply = self.call(messages.clone(), true).await?;
            let mut text = reply.message.as_text();
            let mut verdict = Ok(());
            if !needs_no_form(&reply) {
                verdict = checked(check, text.clone(), self.deadline).await;
            }
            // Many models wrap their JSON even if the prompt forbids it.
            if let (Err(_), Some(bare)) = (&verdict, bare_json(&text))
                && checked(check, bare.to_owned(), self.deadline).await.is_ok()
            {
                text = bare.to_owned();
                reply.message.content = Value::String(text.clone());
                verdict = Ok(());
            }
            match verdict {
                Ok(()) => {
                    if self.events.is_live() {
                        if let Some(thoughts) = reply.thoughts().map(str::to_owned) {
                            self.events.emit(EpisodeEvent::ReplyThought(thoughts)).await?;
                        }
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
        let request = self.request;
        let Some(message) = &request.message else {
            return with_attachments(request.question.clone(), &request.attachments);
        };
        let mut message = message.clone();
        message.put_attachments(&request.attachments);
        message
    }

    /// The fields of the request for the large model, and no others: endpoints refuse unknown
    /// fields.
    fn params(&self, is_answer: bool) -> Vec<Arc<Map<String, Value>>> {
        let request = self.request;
        let form = is_answer.then_some(&request.form.params);
        [&request.large_model_params].into_iter().chain(form).cloned().collect()
    }

    /// The messages before the first prompt.
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

/// Whether the requested form does not apply to a reply: it calls tools or refuses, with or without
/// some text, or it says that it was cut off.
fn needs_no_form(reply: &Reply) -> bool {
    let is_said = |key: &&str| match reply.message.extra.get(*key) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    reply.message.content.is_null()
        || reply.is_cut_off()
        || ["tool_calls", "function_call", "refusal"].iter().any(is_said)
}

/// The result of the check, before the deadline.
async fn checked(check: &AnswerCheck, text: String, deadline: Instant) -> Result<(), String> {
    timeout_at(deadline.into(), check.verdict(text))
        .await
        .unwrap_or_else(|_| Err("it was not checked in time".to_owned()))
}

/// A user message of text, preceded by its parts that are not text.
fn with_attachments(text: String, attachments: &[Value]) -> ChatMessage {
    let mut message = ChatMessage::text("user", text);
    if !attachments.is_empty() {
        let text = json!({"type": "text", "text": message.content.take()});
        message.content = attachments.iter().cloned().chain([text]).collect();
    }
    message
}

/// The key of a prompt's reply: a digest, because prompts may be long.
fn reply_key(prompt: &str) -> ReplyKey {
    Sha256::digest(comparable(prompt)).into()
}
