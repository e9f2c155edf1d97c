//! Calls within the rate limits of their endpoint.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream;
use http::{HeaderMap, header};

use super::body::ForwardBody;
use super::client::Endpoint;
use super::forward::ForwardRequest;
use super::passed_usage::PassedUsage;
use crate::chat::ChatMessage;
use crate::compute;
use crate::large_model::pace::{NoSlot, Pace};
use crate::large_model::{
    Call, LargeModel, LargeModelError, Phase, Reply, ReplyChunk, ReplyStream,
};

/// Bytes per token, for text that is not counted yet.
const BYTES_OF_A_TOKEN: usize = 4;

impl Endpoint {
    /// The reply to `call`, once a slot is free. With adaptive concurrency, a call that is refused
    /// for overload waits for another slot, for as long as one call may take; unless there are
    /// fallback models, which are then asked at once, also by the calls after it.
    pub(super) async fn stream_at(
        &self,
        pace: &Arc<Pace>,
        call: &Call,
    ) -> Result<ReplyStream, LargeModelError> {
        let config = &self.transport.config;
        let model = self.asked_model(call);
        let read: usize = call.messages.iter().map(ChatMessage::text_length).sum();
        let read = (read / BYTES_OF_A_TOKEN) as u64;
        let mut insists_until = None;
        loop {
            call.waiting.begin();
            let place = pace.slot(model, read, max_tokens(call), call.deadline).await;
            let place = place.map_err(|reason| {
                let model = self.name().to_owned();
                match reason {
                    NoSlot::TimedOut => LargeModelError::Deadline { model, was_sent: false },
                    NoSlot::Paused(retry_in) => LargeModelError::CircuitOpen { model, retry_in },
                }
            })?;
            let error = match self.stream_now(call).await {
                Ok(replies) => return Ok(place.watch(replies)),
                Err(error) => error,
            };
            let is_refused = place.failed(&error) && config.fallbacks.is_empty();
            let now = Instant::now();
            let until = *insists_until.get_or_insert(now + config.timeouts.total());
            if !is_refused || now >= until {
                return Err(error);
            }
            tracing::debug!(model = self.name(), error = %error, "waiting for a slot");
        }
    }

    /// The same, whole. It is still streamed from the endpoint: a long reply that makes progress
    /// does not time out.
    pub(super) async fn complete_at(
        &self,
        pace: &Arc<Pace>,
        call: &Call,
    ) -> Result<Reply, LargeModelError> {
        let mut replies = self.stream_at(pace, call).await?;
        while let Some(chunk) = replies.next().await {
            if let ReplyChunk::Done(reply) = chunk? {
                return Ok(reply);
            }
        }
        Err(LargeModelError::Malformed {
            model: self.name().to_owned(),
            reason: "the stream ended before the reply was complete".to_owned(),
        })
    }

    /// Waits until a passed-through request is within the per-minute limits; not beyond its
    /// deadline, or longer than a call may take. `None` if its tokens do not count.
    pub(super) async fn wait_for_minute(
        &self,
        request: &ForwardRequest,
    ) -> Result<Option<Counted>, LargeModelError> {
        let Some(pace) = self.transport.pace() else { return Ok(None) };
        request.waiting.begin();
        let limit = self.transport.config.timeouts.total();
        let until = request.deadline.unwrap_or_else(|| Instant::now() + limit);
        let body = &request.body;
        let passed = pace.counts_tokens().then(|| self.passed_usage(body.clone()));
        let tokens = match &passed {
            Some(passed) => compute::in_place(body.len(), || passed.asked()),
            None => 0,
        };
        match tokio::time::timeout_at(until.into(), pace.take(tokens)).await {
            Ok(number) => Ok(number.zip(passed).map(|(number, passed)| Counted {
                pace: Arc::clone(pace),
                number,
                passed: Some(passed),
            })),
            Err(_) => {
                let model = self.name().to_owned();
                Err(match request.deadline {
                    Some(_) => LargeModelError::Deadline { model, was_sent: false },
                    None => LargeModelError::Timeout { model, phase: Phase::RateLimit, limit },
                })
            }
        }
    }
}

/// A passed-through request in the tokens of its minute: by the estimate of its texts, and once
/// this is dropped, by its usage.
pub(super) struct Counted {
    pace: Arc<Pace>,
    number: u64,
    passed: Option<PassedUsage>,
}

impl Counted {
    /// It was refused: nothing was used.
    pub(super) fn discard(mut self) {
        self.passed = None;
        self.pace.used(self.number, 0);
    }

    /// The pieces of its response, unchanged, counted to their end or until they are dropped.
    pub(super) fn watch(mut self, headers: &HeaderMap, pieces: ForwardBody) -> ForwardBody {
        const EVENT_STREAM: &[u8] = b"text/event-stream";
        let kind = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        let start = kind.and_then(|kind| kind.get(..EVENT_STREAM.len()));
        let is_events = start.is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM));
        self.passed = self.passed.take().map(|it| it.answered().of_response(is_events, false));
        stream::unfold((pieces, self), async |(mut pieces, mut counted)| {
            let piece = pieces.next().await?;
            if let (Ok(piece), Some(passed)) = (&piece, &mut counted.passed) {
                passed.read(piece.clone());
            }
            Some((piece, (pieces, counted)))
        })
        .boxed()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(passed) = self.passed.take() else { return };
        let usage = compute::in_place(passed.work(), || passed.usage());
        self.pace.used(self.number, usage.prompt_tokens + usage.completion_tokens);
    }
}

/// The token limit of a reply, if the call has one.
fn max_tokens(call: &Call) -> Option<u64> {
    let of = |key: &str| call.optional_params.get(key).or_else(|| call.field(key))?.as_u64();
    of("max_completion_tokens").or_else(|| of("max_tokens"))
}
