//! Accepts and serves connections: plain or TLS, HTTP/1.1 or HTTP/2, each wait limited.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use self::activity::{Activity, Timeouts};
use self::bodies::{RequestBody, ResponseBody};
use self::client_stream::ClientStream;
use self::tls::{HTTP2, Tls};
use crate::http::config::ServerConfig;

mod activity;
mod bodies;
mod client_stream;
pub(super) mod tls;

/// Requests that one HTTP/2 connection may have in flight.
const STREAMS: u32 = 256;
/// The interval between looking for an idle connection while the limit is reached.
const FULL_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The interval between warnings that connections cannot be accepted.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// How long requests with incomplete headers have at shutdown.
const SHUTDOWN_HEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long requests that are cut off after the grace period may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a listener treats connections.
#[derive(Clone)]
struct Connections {
    router: Router,
    tls: Option<Arc<Tls>>,
    timeouts: Timeouts,
    open: Arc<Open>,
}

/// The connections that are open.
#[derive(Default)]
struct Open {
    connections: Mutex<(u64, HashMap<u64, Arc<Activity>>)>,
}

impl Open {
    /// Counts a connection until the returned value is dropped.
    fn add(self: &Arc<Self>) -> Connected {
        let activity = Activity::new();
        let mut connections = self.connections();
        connections.0 += 1;
        let number = connections.0;
        connections.1.insert(number, Arc::clone(&activity));
        drop(connections);
        Connected { open: Arc::clone(self), number, activity }
    }

    /// Closes the connection that has been without a request for the longest time.
    fn close_longest_idle(&self) {
        let connections = self.connections();
        let idle = connections.1.values().filter_map(|one| Some((one.idle_since()?, one)));
        if let Some((_, longest)) = idle.min_by_key(|(since, _)| *since) {
            longest.close();
        }
    }

    /// Closes all connections without a request.
    fn close_idle(&self) {
        let connections = self.connections();
        let idle = connections.1.values().filter(|one| one.idle_since().is_some());
        idle.for_each(|one| one.close());
    }

    /// Closes all connections, also those with a request.
    fn close_all(&self) {
        self.connections().1.values().for_each(|one| one.close());
    }

    fn connections(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Activity>>)> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is open.
struct Connected {
    open: Arc<Open>,
    number: u64,
    activity: Arc<Activity>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.open.connections().1.remove(&self.number);
    }
}

/// Serves until `shutdown`, then stops accepting, lets requests in flight finish, and returns when
/// they have or when the grace period of `config` is over.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: &ServerConfig,
    tls: Option<Arc<Tls>>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let timeouts = Timeouts {
        header: config.header_timeout(),
        idle: config.idle_timeout(),
        write: config.write_timeout(),
    };
    let open = Arc::<Open>::default();
    let connections = Connections { router, tls, timeouts, open: Arc::clone(&open) };
    let slots = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let (graceful, tasks) = (GracefulShutdown::new(), TaskTracker::new());
    let mut shutdown = pin!(shutdown);
    let mut last_warning = None;
    loop {
        let (stream, slot) = tokio::select! {
            accepted = accept(&listener, &slots, &open, &mut last_warning) => accepted?,
            () = &mut shutdown => break,
        };
        let (connections, watcher) = (connections.clone(), graceful.watcher());
        tasks.spawn(async move {
            if let Err(error) = connections.serve(stream, watcher).await {
                tracing::debug!(error = &*error, "a connection failed");
            }
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    let half_sent = async {
        tokio::time::sleep(SHUTDOWN_HEADER_TIMEOUT).await;
        open.close_idle();
        std::future::pending::<()>().await;
    };
    let finish = async {
        tokio::select! {
            () = graceful.shutdown() => {}
            () = half_sent => {}
        }
        tasks.wait().await;
    };
    if tokio::time::timeout(config.grace(), finish).await.is_err() {
        tracing::warn!("the grace period is over; requests in flight are cut off");
        // What they have used so far is charged when they are dropped.
        open.close_all();
        let _ = tokio::time::timeout(ABORT_TIMEOUT, tasks.wait()).await;
    }
    Ok(())
}

/// The next connection, once there is room for it; if necessary, an idle one is closed.
/// `last_warning`: when the last warning was logged.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    open: &Open,
    last_warning: &mut Option<Instant>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let stream = loop {
        match listener.accept().await {
            Ok((stream, _)) => break stream,
            // The client has left again, or file descriptors ran out, which other connections will
            // release.
            Err(error) => {
                if last_warning.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                    tracing::warn!(%error, "cannot accept connections");
                    *last_warning = Some(Instant::now());
                }
                open.close_longest_idle();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Ok((stream, slot));
    }
    loop {
        open.close_longest_idle();
        // All connections are serving; one may be idle soon.
        let slot =
            tokio::time::timeout(FULL_POLL_INTERVAL, Arc::clone(slots).acquire_owned()).await;
        if let Ok(slot) = slot {
            return Ok((stream, slot.map_err(io::Error::other)?));
        }
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

impl Connections {
    /// Serves a connection until it ends, or its client keeps it waiting for too long.
    async fn serve(self, stream: TcpStream, watcher: Watcher) -> Result<(), ConnectionError> {
        stream.set_nodelay(true)?;
        let connected = self.open.add();
        let activity = &connected.activity;
        let stream = ClientStream::new(stream, self.timeouts.write, Arc::clone(activity));
        tokio::select! {
            served = self.handshake(stream, activity, watcher) => served,
            () = activity.wait_for_close(self.timeouts) => Ok(()),
        }
    }

    async fn handshake(
        &self,
        stream: ClientStream,
        activity: &Arc<Activity>,
        watcher: Watcher,
    ) -> Result<(), ConnectionError> {
        let Some(tls) = &self.tls else { return self.http1(stream, activity, watcher).await };
        let stream = tls.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            activity.multiplex();
            self.http2(stream, activity, watcher).await
        } else {
            self.http1(stream, activity, watcher).await
        }
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        activity: &Arc<Activity>,
        watcher: Watcher,
    ) -> Result<(), ConnectionError> {
        // Time-outs are the activity's, which distinguishes an idle connection from a slow one.
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), self.service(activity));
        Ok(watcher.watch(connection).await?)
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        activity: &Arc<Activity>,
        watcher: Watcher,
    ) -> Result<(), ConnectionError> {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // TCP keep-alive detects silent clients that are gone.
            .keep_alive_interval(self.timeouts.header)
            .keep_alive_timeout(self.timeouts.header)
            .max_concurrent_streams(STREAMS)
            .serve_connection(TokioIo::new(stream), self.service(activity));
        Ok(watcher.watch(connection).await?)
    }

    /// The router with a layer that reports requests to the activity.
    fn service(
        &self,
        activity: &Arc<Activity>,
    ) -> impl HttpService<
        Incoming,
        ResBody = ResponseBody,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + Send
    + 'static {
        let (router, activity) = (TowerToHyperService::new(self.router.clone()), activity.clone());
        service_fn(move |request: Request<Incoming>| {
            let in_flight = activity.begin();
            let request = if request.body().is_end_stream() {
                request.map(|_| Body::empty())
            } else {
                activity.set_unread(true);
                let activity = Arc::clone(&activity);
                request.map(|body| Body::new(RequestBody { body, activity }))
            };
            let responding = router.call(request);
            async move {
                let response = responding.await?;
                Ok(response.map(|body| ResponseBody { body, in_flight }))
            }
        })
    }
}
