//! A client for plain HTTP without a proxy that runs each request and its connection on one task.
//!
//! A client with a task for each connection passes every request, and every piece of its response,
//! between tasks, often across cores: on loopback that takes longer than everything else. Here the
//! task that awaits a response polls its connection. An idle connection is not polled; whether it
//! is still open is checked when it is reused.

use std::collections::VecDeque;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Uri, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use reqwest::Body;
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::outbound::wire::{CLOSED_UNSERVED, MAX_HEADERS, Request, Response, USER_AGENT};

/// How long an idle connection is kept open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectError {
    /// Connecting took too long.
    #[error("no connection in time")]
    ConnectTimeout,
    /// Connecting failed.
    #[error(transparent)]
    Connect(Box<dyn Error + Send + Sync>),
    /// The connection gave no response.
    #[error(transparent)]
    Failed(hyper::Error),
}

impl DirectError {
    fn connect(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Connect(error.into())
    }
}

/// The connections to one endpoint.
pub(super) struct Direct {
    connector: HttpConnector,
    /// The endpoint's address.
    to: Uri,
    host: HeaderValue,
    /// How long connecting may take.
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

impl Direct {
    /// For the endpoint at `to`, unless TLS or a proxy is needed. At most `most_idle` connections
    /// are kept for reuse.
    pub(super) fn new(
        to: &Uri,
        is_local: bool,
        connect_timeout: Duration,
        most_idle: usize,
    ) -> Option<Self> {
        let to = to.clone();
        let authority = to.authority().filter(|_| to.scheme_str() == Some("http"))?;
        if !is_local && Matcher::from_system().intercept(&to).is_some() {
            return None;
        }
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).ok()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let idle = Arc::new(Idle { max: most_idle, links: Mutex::default() });
        Some(Self { connector, to, host, connect_timeout, idle })
    }

    /// Sends a request and waits for the head of its response. Dropping the response's body before
    /// its end closes the connection.
    pub(super) async fn send(&self, request: Request) -> Result<Response, DirectError> {
        let mut request = request;
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        let agent = HeaderValue::from_static(USER_AGENT);
        headers.entry(header::USER_AGENT).or_insert(agent);
        while let Some(mut link) = self.idle.take() {
            let asked = Instant::now();
            match link.ask(request.clone()).await {
                Ok(response) => return Ok(self.reply(link, response).await),
                // It was closed while idle, or just as it was taken: the request was not served,
                // and is sent over another connection.
                Err(error) if asked.elapsed() < CLOSED_UNSERVED && !error.is_parse() => {}
                Err(error) => return Err(DirectError::Failed(error)),
            }
        }
        let mut link = Box::pin(self.connect()).await?;
        let response = link.ask(request).await.map_err(DirectError::Failed)?;
        Ok(self.reply(link, response).await)
    }

    async fn connect(&self) -> Result<PooledConnection, DirectError> {
        let connecting = async {
            let stream = self.connector.clone().oneshot(self.to.clone()).await;
            let stream = stream.map_err(DirectError::connect)?;
            let handshake = http1::Builder::new()
                .max_headers(MAX_HEADERS)
                .allow_obsolete_multiline_headers_in_responses(true)
                .allow_spaces_after_header_name_in_responses(true)
                .handshake(stream);
            let (sender, connection) = handshake.await.map_err(DirectError::connect)?;
            Ok(PooledConnection { sender, connection: Box::pin(connection), is_over: false })
        };
        let connected = tokio::time::timeout(self.connect_timeout, connecting).await;
        connected.map_err(|_| DirectError::ConnectTimeout)?
    }

    async fn reply(&self, link: PooledConnection, response: http::Response<Incoming>) -> Response {
        let (head, body) = response.into_parts();
        let mut reply = Reply { body, link: Some(link), idle: Arc::clone(&self.idle) };
        if reply.body.is_end_stream() {
            poll_fn(|context| {
                reply.end(context);
                Poll::Ready(())
            })
            .await;
        }
        Response::from_parts(head, Body::wrap(reply))
    }
}

/// A connection. Dropping it closes it.
struct PooledConnection {
    sender: SendRequest<Body>,
    connection: Pin<Box<Connection<TokioIo<TcpStream>, Body>>>,
    is_over: bool,
}

impl PooledConnection {
    /// Drives reads and writes.
    fn drive(&mut self, context: &mut Context<'_>) {
        // The request in flight notices by itself how the connection ended.
        self.is_over = self.is_over || self.connection.as_mut().poll(context).is_ready();
    }

    /// Whether it can take a request.
    fn is_ready(&self) -> bool {
        !self.is_over && self.sender.is_ready()
    }

    /// Sends a request.
    async fn ask(&mut self, request: Request) -> Result<http::Response<Incoming>, hyper::Error> {
        let mut answered = pin!(self.sender.send_request(request.map(Body::from)));
        let (connection, is_over) = (&mut self.connection, &mut self.is_over);
        let answer = poll_fn(|context| {
            *is_over = *is_over || connection.as_mut().poll(context).is_ready();
            answered.as_mut().poll(context)
        });
        answer.await
    }
}

/// A response's body, which drives its connection and returns it at the end.
struct Reply {
    body: Incoming,
    link: Option<PooledConnection>,
    idle: Arc<Idle>,
}

impl Reply {
    /// Returns the connection.
    fn end(&mut self, context: &mut Context<'_>) {
        if let Some(mut link) = self.link.take() {
            // So that it notices the end of the body.
            link.drive(context);
            self.idle.put(link);
        }
    }
}

impl hyper::body::Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(link) = &mut self.link {
            link.drive(context);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match frame {
            // The connection cannot be reused.
            Some(Err(_)) => self.link = None,
            Some(Ok(_)) if !self.body.is_end_stream() => {}
            _ => self.end(context),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Idle connections, the longest idle first, with the start of their idle time.
struct Idle {
    max: usize,
    links: Mutex<VecDeque<(Instant, PooledConnection)>>,
}

impl Idle {
    /// A connection that is still usable.
    fn take(&self) -> Option<PooledConnection> {
        loop {
            let (since, mut link) = self.links().pop_back()?;
            if since.elapsed() < IDLE_TIMEOUT {
                link.drive(&mut Context::from_waker(Waker::noop()));
                if link.is_ready() {
                    return Some(link);
                }
            }
        }
    }

    fn put(&self, link: PooledConnection) {
        let mut links = self.links();
        while links.front().is_some_and(|(since, _)| since.elapsed() >= IDLE_TIMEOUT) {
            links.pop_front();
        }
        if link.is_ready() && links.len() < self.max {
            links.push_back((Instant::now(), link));
        }
    }

    fn links(&self) -> MutexGuard<'_, VecDeque<(Instant, PooledConnection)>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
