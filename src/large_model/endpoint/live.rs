//! A reply that is read while the model writes it.

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::attempt::Attempt;
use super::body::Body;
use super::reply::{Assembly, parse_completion};
use super::sse::{NotUtf8, SseDecoder};
use crate::large_model::{
    AttemptOutcome, LargeModelError, Reply, ReplyChunk, ReplyStream, reply_stream,
};

/// The events of a response, on their way to becoming a reply.
pub(super) struct Live {
    /// What was read to see whether the stream is good.
    first: Option<ReplyChunk>,
    body: Body,
    decoder: SseDecoder,
    assembly: Assembly,
}

/// A response whose first piece of a reply has arrived: up to here a failure costs nothing but
/// another attempt.
pub(super) enum Opened {
    /// The endpoint does not stream: the reply is whole.
    Whole(Box<Reply>),
    /// More of it may follow.
    Live(Box<Live>),
}

impl Live {
    /// Waits for the first piece.
    pub(super) async fn open(mut body: Body) -> Result<Opened, LargeModelError> {
        let first = body.next().await?.unwrap_or_default();
        // No event begins like this, but JSON and HTML do.
        if matches!(first.trim_ascii_start().first(), Some(b'{' | b'<')) {
            let exchange = std::sync::Arc::clone(&body.exchange);
            let whole: Bytes = body.whole_from(first).await?;
            let reply = parse_completion(&whole, exchange.redactor());
            return reply
                .map(|reply| Opened::Whole(Box::new(exchange.priced(reply))))
                .map_err(|fault| exchange.faulty(fault));
        }
        let (decoder, assembly) = (SseDecoder::default(), Assembly::default());
        let mut live = Box::new(Self { first: None, body, decoder, assembly });
        live.decoder.push(&first);
        live.first = Some(live.next().await?);
        Ok(Opened::Live(live))
    }

    /// The next text, or the whole reply, after which there is no next.
    async fn next(&mut self) -> Result<ReplyChunk, LargeModelError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            while let Some(event) = self.decode(SseDecoder::next_event)? {
                if event.trim() == "[DONE]" {
                    self.body.close().await;
                    return self.finish(true);
                }
                if let Some(text) = self.take(&event)? {
                    return Ok(text);
                }
            }
            match self.body.next().await {
                Ok(Some(piece)) => self.decoder.push(&piece),
                // All that was missing is what it cost.
                Err(_) if self.assembly.is_complete() => return self.finish(false),
                Err(error) => return Err(error),
                Ok(None) => {
                    let Some(event) = self.decode(SseDecoder::finish)? else {
                        return self.finish(false);
                    };
                    if event.trim() == "[DONE]" {
                        return self.finish(true);
                    }
                    if let Some(text) = self.take(&event)? {
                        return Ok(text);
                    }
                }
            }
        }
    }

    fn take(&mut self, event: &str) -> Result<Option<ReplyChunk>, LargeModelError> {
        let exchange = &self.body.exchange;
        let text = self.assembly.push(event, exchange.redactor());
        let text = text.map_err(|fault| exchange.faulty(fault))?;
        Ok((!text.is_empty()).then_some(ReplyChunk::Text(text)))
    }

    fn decode(
        &mut self,
        event: fn(&mut SseDecoder) -> Result<Option<String>, NotUtf8>,
    ) -> Result<Option<String>, LargeModelError> {
        event(&mut self.decoder)
            .map_err(|NotUtf8| self.body.exchange.malformed("the stream is no UTF-8 text"))
    }

    fn finish(&mut self, marked: bool) -> Result<ReplyChunk, LargeModelError> {
        let exchange = &self.body.exchange;
        let reply = self.assembly.finish(marked);
        reply
            .map(|reply| ReplyChunk::Done(exchange.priced(reply)))
            .map_err(|fault| exchange.faulty(fault))
    }
}

impl Opened {
    /// The pieces as a stream, whose end or fall settles the attempt.
    pub(super) fn into_stream(self, mut attempt: Attempt) -> ReplyStream {
        match self {
            Self::Whole(reply) => {
                attempt.settle(AttemptOutcome::Success);
                reply_stream(*reply)
            }
            Self::Live(live) => stream::unfold(Some((live, attempt)), async |state| {
                let (mut live, mut attempt) = state?;
                let chunk = live.next().await;
                if matches!(chunk, Ok(ReplyChunk::Text(_))) {
                    return Some((chunk, Some((live, attempt))));
                }
                attempt.settle_by(&chunk);
                Some((chunk, None))
            })
            .boxed(),
        }
    }
}
