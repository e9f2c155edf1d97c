//! Bodies of endpoints' responses on their way to the client. An event stream that breaks off ends
//! with an error event.

use std::io;

use axum::body::Bytes;
use bytes::BytesMut;
use futures::stream::{self, BoxStream, StreamExt};

use crate::http::error::ApiError;
use crate::http::sse;
use crate::large_model::ForwardBody;

/// A longer line is passed on in pieces.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The pieces of a body on their way to the client.
pub(in crate::http) fn pieces(
    body: ForwardBody,
    is_events: bool,
    is_callers_key: bool,
) -> BoxStream<'static, io::Result<Bytes>> {
    if !is_events {
        // With an announced length, or a missing last chunk, the client notices. What came before
        // must be sent by then, at least the status: the failure discards what is not.
        let pieces = body.then(|piece| async {
            if piece.is_err() {
                tokio::task::yield_now().await;
            }
            piece.map_err(io::Error::other)
        });
        return pieces.boxed();
    }
    let lines = Lines { body, held: BytesMut::new(), is_over: false };
    stream::unfold(lines, move |mut lines| async move {
        Some((Ok(lines.next(is_callers_key).await?), lines))
    })
    .boxed()
}

/// Passes on complete lines, so that an error event never follows half a chunk.
struct Lines {
    body: ForwardBody,
    held: BytesMut,
    is_over: bool,
}

impl Lines {
    async fn next(&mut self, is_callers_key: bool) -> Option<Bytes> {
        while !self.is_over {
            match self.body.next().await {
                Some(Ok(piece)) => {
                    let whole = self.take(piece);
                    if !whole.is_empty() {
                        return Some(whole);
                    }
                }
                Some(Err(error)) => {
                    self.is_over = true;
                    let error = ApiError::of_large_model(&error, is_callers_key);
                    // A blank line ends an event that was open.
                    let event = sse::event(None, &error.body());
                    return Some([b"\n", &event[..]].concat().into());
                }
                None => {
                    self.is_over = true;
                    let rest = self.held.split().freeze();
                    return (!rest.is_empty()).then_some(rest);
                }
            }
        }
        None
    }

    /// Takes a piece, and returns the lines that are complete.
    fn take(&mut self, piece: Bytes) -> Bytes {
        if self.held.is_empty() && piece.ends_with(b"\n") {
            return piece;
        }
        let end = piece.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
        match end {
            Some(end) if self.held.is_empty() => {
                self.held.extend_from_slice(&piece[end..]);
                piece.slice(..end)
            }
            Some(end) => {
                self.held.extend_from_slice(&piece[..end]);
                let whole = self.held.split().freeze();
                self.held.extend_from_slice(&piece[end..]);
                whole
            }
            None => {
                self.held.extend_from_slice(&piece);
                if self.held.len() < MAX_LINE_BYTES {
                    Bytes::new()
                } else {
                    self.held.split().freeze()
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::large_model::LargeModelError;

    async fn run(pieces_: &[&str], breaks: bool) -> Vec<String> {
        let error = LargeModelError::Malformed { model: "m".into(), reason: "cut".into() };
        let body = pieces_.iter().map(|piece| Ok(Bytes::copy_from_slice(piece.as_bytes())));
        let body: Vec<_> = body.chain(breaks.then_some(Err(error))).collect();
        let sent = pieces(stream::iter(body).boxed(), true, false);
        sent.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap()).collect().await
    }

    #[tokio::test]
    async fn lines_are_handed_on_whole() {
        let table: [(&[&str], &[&str]); 5] = [
            (&["data: a\n\n", "data: b\n\n"], &["data: a\n\n", "data: b\n\n"]),
            (&["data: a\n\ndata", ": b\n\nx"], &["data: a\n\n", "data: b\n\n", "x"]),
            (&["d", "a", "ta: a\n"], &["data: a\n"]),
            (&[], &[]),
            (&[": ping\n"], &[": ping\n"]),
        ];
        for (pieces, sent) in table {
            assert_eq!(run(pieces, false).await, sent);
        }
    }

    #[tokio::test]
    async fn an_event_that_was_cut_is_replaced_by_the_error() {
        let sent = run(&["data: a\n\nda", "ta: {\"half"], true).await.concat();
        let (kept, error) = sent.split_once("data: a\n\n\ndata: ").unwrap();
        assert_eq!(kept, "");
        let error: serde_json::Value = serde_json::from_str(error.trim_end()).unwrap();
        assert_eq!(error["error"]["code"], "large_model_malformed");
        assert!(sent.ends_with("}\n\n"));
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_buffered() {
        let piece = "x".repeat(MAX_LINE_BYTES / 2);
        let sent = run(&[&piece, &piece, &piece], false).await;
        assert_eq!(
            sent.iter().map(String::len).collect::<Vec<_>>(),
            [MAX_LINE_BYTES, MAX_LINE_BYTES / 2]
        );
    }
}
