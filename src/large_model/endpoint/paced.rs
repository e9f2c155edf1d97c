//! Calls within the rate limits of their endpoint.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;

use super::client::Endpoint;
use crate::chat::ChatMessage;
use crate::large_model::pace::{NoSlot, Pace};
use crate::large_model::{Call, LargeModel, LargeModelError, Reply, ReplyChunk, ReplyStream};

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
            let place = pace.slot(model, read, max_tokens(call), call.deadline).await;
            let place = place.map_err(|reason| {
                let model = self.name().to_owned();
                match reason {
                    NoSlot::Late => LargeModelError::Deadline { model },
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

    /// Waits until a passed-through request of `bytes` is within the per-minute limits; not beyond
    /// `deadline`, or longer than a call may take.
    pub(super) async fn wait_for_minute(
        &self,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<(), LargeModelError> {
        let Some(pace) = self.transport.pace() else { return Ok(()) };
        let limit = self.transport.config.timeouts.total();
        let until = deadline.unwrap_or_else(|| Instant::now() + limit);
        let waiting = pace.take((bytes / BYTES_OF_A_TOKEN) as u64);
        match tokio::time::timeout_at(until.into(), waiting).await {
            Ok(_) => Ok(()),
            Err(_) => Err(LargeModelError::Deadline { model: self.name().to_owned() }),
        }
    }
}

/// The token limit of a reply, if the call has one.
fn max_tokens(call: &Call) -> Option<u64> {
    let of = |key: &str| call.own.get(key).or_else(|| call.field(key))?.as_u64();
    of("max_completion_tokens").or_else(|| of("max_tokens"))
}
