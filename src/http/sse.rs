//! Server-sent events as response bodies.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use serde::Serialize;

use super::state::AppState;

/// A comment, which clients ignore. After a blank line, some would see an empty event.
const PING: Bytes = Bytes::from_static(b": ping\n");

/// Marks responses whose end is observed by their body, not by the middleware.
#[derive(Clone, Copy)]
pub(super) struct ObservedBody;

/// An event of JSON data.
pub(super) fn event(name: Option<&str>, data: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    if let Some(name) = name {
        bytes.extend_from_slice(b"event: ");
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(b"data: ");
    // Wire types have no keys that JSON could not hold.
    let _ = serde_json::to_writer(&mut bytes, data);
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// A response of events. `route` and `started` are the request's, for metrics.
pub(super) fn response(
    events: impl Stream<Item = Bytes> + Send + Unpin + 'static,
    state: &AppState,
    route: &'static str,
    started: Instant,
) -> Response {
    let keep_alive = state.server.keep_alive();
    let kept_alive = stream::unfold(events, move |mut events| async move {
        Some((Ok(next(&mut events, keep_alive).await?), events))
    });
    let mut response = observed(kept_alive.boxed(), None, state, route, started);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Otherwise proxies of the nginx family buffer responses.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A response whose body is observed: whether it completes, and whether the client stays until
/// then. `length` is the announced length: a body of known length is not polled to its end.
pub(super) fn observed(
    pieces: BoxStream<'static, std::io::Result<Bytes>>,
    length: Option<u64>,
    state: &AppState,
    route: &'static str,
    started: Instant,
) -> Response {
    let watch = DisconnectGuard { state: state.clone(), route, started, is_complete: false };
    let body = stream::unfold(Some((pieces, length, watch)), |state| async move {
        let (mut pieces, mut left, watch) = state?;
        let piece = pieces.next().await;
        if let (Some(Ok(piece)), Some(left)) = (&piece, &mut left) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        if left == Some(0) {
            // The producer of the pieces learns that no more are needed.
            let _ = pieces.next().await;
        } else if matches!(piece, Some(Ok(_))) {
            return piece.map(|piece| (piece, Some((pieces, left, watch))));
        }
        watch.complete();
        piece.map(|piece| (piece, None))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.extensions_mut().insert(ObservedBody);
    response
}

async fn next(
    events: &mut (impl Stream<Item = Bytes> + Unpin),
    keep_alive: Duration,
) -> Option<Bytes> {
    tokio::time::timeout(keep_alive, events.next()).await.unwrap_or(Some(PING))
}

/// Detects whether a client stays to the end.
struct DisconnectGuard {
    state: AppState,
    route: &'static str,
    started: Instant,
    is_complete: bool,
}

impl DisconnectGuard {
    /// The whole response was sent.
    fn complete(mut self) {
        self.is_complete = true;
    }
}

impl Drop for DisconnectGuard {
    fn drop(&mut self) {
        if !self.is_complete {
            self.state.metrics.disconnect();
        }
        self.state.metrics.duration(self.route, self.started.elapsed());
    }
}
