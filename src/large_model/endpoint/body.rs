//! Reads a response's body, with a limit on its size and on the time between its pieces.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use http::{HeaderMap, header};
use http_body_util::BodyExt;

use super::decode::BodyDecoder;
use super::exchange::Exchange;
use crate::large_model::{LargeModelError, Phase};
use crate::outbound::wire::Response;

/// The body of a response as a stream. Dropping it cancels the request. A failure is its last item.
pub type ForwardBody = BoxStream<'static, Result<Bytes, LargeModelError>>;

/// A body that is being read.
pub(super) struct Body {
    pub(super) exchange: Arc<Exchange>,
    pieces: reqwest::Body,
    decoder: Option<BodyDecoder>,
    read: usize,
    limit: usize,
}

impl Body {
    /// The body of a reply, of bounded size. An unsolicited compression is decoded.
    ///
    /// # Errors
    /// When its encoding is unknown.
    pub(super) fn reply(
        exchange: &Arc<Exchange>,
        response: Response,
    ) -> Result<Self, LargeModelError> {
        let (head, pieces) = response.into_parts();
        let decoder = match encoding(&head.headers) {
            None => None,
            Some(encoding) => Some(BodyDecoder::new(&encoding).ok_or_else(|| {
                let reason =
                    format!("its body is encoded as `{encoding}`, which was not asked for");
                exchange.malformed(reason)
            })?),
        };
        let limit = exchange.transport.config.max_reply_bytes;
        Ok(Self { exchange: Arc::clone(exchange), pieces, decoder, read: 0, limit })
    }

    /// A body of any size, for a reader that does not buffer it. It is decoded if `is_decoded` asks
    /// for it and `headers`, of the response, name a known encoding, which is then removed from
    /// them.
    pub(super) fn unbounded(
        exchange: &Arc<Exchange>,
        pieces: reqwest::Body,
        headers: &mut HeaderMap,
        is_decoded: bool,
    ) -> Self {
        let encoding = encoding(headers).filter(|_| is_decoded);
        let decoder = encoding.and_then(|encoding| BodyDecoder::new(&encoding));
        if decoder.is_some() {
            headers.remove(header::CONTENT_ENCODING);
            headers.remove(header::CONTENT_LENGTH);
        }
        Self { exchange: Arc::clone(exchange), pieces, decoder, read: 0, limit: usize::MAX }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LargeModelError> {
        loop {
            let idle = self.exchange.transport.config.timeouts.idle();
            let next = piece(&mut self.pieces);
            let piece = self.exchange.within(Phase::NextByte, idle, next).await?;
            let piece = piece.map_err(|error| self.exchange.broken(&error))?;
            let (Some(encoded), Some(decoder)) = (&piece, &mut self.decoder) else {
                self.count(piece.as_ref().map_or(0, Bytes::len))?;
                return Ok(piece);
            };
            let room = self.limit - self.read;
            let decoded = decoder.push(encoded, room).map_err(|error| {
                self.exchange.malformed(format!("its body cannot be decoded: {error}"))
            })?;
            self.count(decoded.len())?;
            // A piece need not complete an item.
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
    }

    fn count(&mut self, read: usize) -> Result<(), LargeModelError> {
        self.read = self.read.saturating_add(read);
        if self.read <= self.limit {
            return Ok(());
        }
        Err(self.exchange.too_long(self.limit))
    }

    /// Lets the body be so many times as long, for a reader that keeps little of it.
    pub(super) fn extend_limit(&mut self, times: usize) {
        self.limit = self.limit.saturating_mul(times);
    }

    /// The whole body.
    pub(super) async fn whole(mut self) -> Result<Bytes, LargeModelError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        self.whole_from(first).await
    }

    /// The whole body, whose first piece was read before.
    pub(super) async fn whole_from(mut self, first: Bytes) -> Result<Bytes, LargeModelError> {
        let Some(second) = self.next().await? else { return Ok(first) };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads to the end, which should be near: only then is the connection reused.
    pub(super) async fn close(&mut self) {
        const TIMEOUT: Duration = Duration::from_millis(50);
        let end = async { while let Ok(Some(_)) = piece(&mut self.pieces).await {} };
        let _ = self.exchange.within(Phase::NextByte, TIMEOUT, end).await;
    }

    /// The body of an error, at most 64 KiB, as far as it arrives. Best effort: the status already
    /// says that the request failed.
    pub(super) async fn head(mut self) -> Vec<u8> {
        const MAX_HEAD: usize = 64 * 1024;
        let mut head = Vec::new();
        while head.len() < MAX_HEAD {
            let Ok(Some(piece)) = self.next().await else { break };
            head.extend_from_slice(&piece[..piece.len().min(MAX_HEAD - head.len())]);
        }
        head
    }
}

/// The encoding of a body, unless that is none.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(header::CONTENT_ENCODING)?;
    let encoding = String::from_utf8_lossy(encoding.as_bytes()).trim().to_ascii_lowercase();
    (!matches!(encoding.as_str(), "" | "identity")).then_some(encoding)
}

/// The next piece; `None` at the end.
async fn piece(pieces: &mut reqwest::Body) -> Result<Option<Bytes>, reqwest::Error> {
    while let Some(frame) = pieces.frame().await {
        // Other frames are trailers.
        if let Ok(piece) = frame?.into_data() {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}
