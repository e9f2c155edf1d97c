//! Reads a response's body: bounded in size, and in the time between its pieces.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use http_body_util::BodyExt;

use super::exchange::Exchange;
use crate::large_model::{LargeModelError, Phase};

/// The body of a response as it arrives. Dropping it cancels the request. A failure is its last
/// item.
pub type ForwardBody = BoxStream<'static, Result<Bytes, LargeModelError>>;

/// A body that is being read.
pub(super) struct Body {
    pub(super) exchange: Arc<Exchange>,
    pieces: reqwest::Body,
    read: usize,
    limit: usize,
}

impl Body {
    /// The body of a reply.
    pub(super) fn new(exchange: Arc<Exchange>, pieces: reqwest::Body) -> Self {
        let limit = exchange.transport.config.max_reply_bytes;
        Self { exchange, pieces, read: 0, limit }
    }

    /// A body of any size, for a reader that does not keep it.
    pub(super) fn unbounded(exchange: Arc<Exchange>, pieces: reqwest::Body) -> Self {
        Self { exchange, pieces, read: 0, limit: usize::MAX }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LargeModelError> {
        let idle = self.exchange.transport.config.timeouts.idle();
        let piece = self.exchange.within(Phase::NextByte, idle, piece(&mut self.pieces)).await?;
        let piece = piece.map_err(|error| self.exchange.transport_failed(&error))?;
        self.read = self.read.saturating_add(piece.as_ref().map_or(0, Bytes::len));
        if self.read > self.limit {
            let limit = self.limit;
            return Err(self.exchange.malformed(format!(
                "it is longer than {limit} bytes; `max_reply_bytes` sets that limit"
            )));
        }
        Ok(piece)
    }

    /// All of it.
    pub(super) async fn whole(mut self) -> Result<Bytes, LargeModelError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        self.whole_from(first).await
    }

    /// All of it, the first piece of which was read before.
    pub(super) async fn whole_from(mut self, first: Bytes) -> Result<Bytes, LargeModelError> {
        let Some(second) = self.next().await? else { return Ok(first) };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads on to the end, which should be there: only then is the connection used again.
    pub(super) async fn close(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(50);
        let _ = self.exchange.within(Phase::NextByte, PATIENCE, piece(&mut self.pieces)).await;
    }

    /// As much of an error's body as arrives, at most 64 KiB. Best effort: the
    /// status already says that it failed.
    pub(super) async fn head(mut self) -> Vec<u8> {
        const MOST: usize = 64 * 1024;
        let mut head = Vec::new();
        while head.len() < MOST {
            let Ok(Some(piece)) = self.next().await else { break };
            head.extend_from_slice(&piece[..piece.len().min(MOST - head.len())]);
        }
        head
    }
}

/// The next piece as it arrives; `None` at the end.
async fn piece(pieces: &mut reqwest::Body) -> Result<Option<Bytes>, reqwest::Error> {
    while let Some(frame) = pieces.frame().await {
        // Others are trailers.
        if let Ok(piece) = frame?.into_data() {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}
