//! Accepts and serves connections: plain or TLS, HTTP/1.1 or HTTP/2, each wait limited.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use self::tls::{HTTP2, Tls};
use self::write_timeout::WriteTimeout;
use crate::http::config::ServerConfig;

pub(super) mod tls;
mod write_timeout;

/// Requests that one HTTP/2 connection may have in flight.
const STREAMS: u32 = 256;

/// What a listener does with connections.
#[derive(Clone)]
struct Connections {
    router: Router,
    tls: Option<Arc<Tls>>,
    /// Limits the TLS handshake, each request's headers, and the wait for the next request.
    header_timeout: Duration,
    /// Limits the time in which a client takes nothing of its response.
    write_timeout: Duration,
}

/// Serves until `shutdown`, then takes no more connections, lets requests in flight finish, and
/// returns when they have or when the grace period of `config` is over.
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
    let (header_timeout, write_timeout) = (config.header_timeout(), config.write_timeout());
    let connections = Connections { router, tls, header_timeout, write_timeout };
    let slots = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let (graceful, tasks) = (GracefulShutdown::new(), TaskTracker::new());
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, slot) = tokio::select! {
            accepted = accept(&listener, &slots) => accepted?,
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
    let finish = async {
        graceful.shutdown().await;
        tasks.close();
        tasks.wait().await;
    };
    if tokio::time::timeout(config.grace(), finish).await.is_err() {
        tracing::warn!("the grace period is over; requests in flight are cut off");
    }
    Ok(())
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, slot)),
            // The client has left again, or files have run out, which others will give back.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Connections {
    async fn serve(self, stream: TcpStream, watcher: Watcher) -> Result<(), Failure> {
        stream.set_nodelay(true)?;
        let stream = WriteTimeout::new(stream, self.write_timeout);
        let Some(tls) = &self.tls else { return self.http1(stream, watcher).await };
        let stream = tokio::time::timeout(self.header_timeout, tls.accept(stream)).await??;
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            self.http2(stream, watcher).await
        } else {
            self.http1(stream, watcher).await
        }
    }

    async fn http1<S>(&self, stream: S, watcher: Watcher) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(stream), service);
        Ok(watcher.watch(connection).await?)
    }

    async fn http2<S>(&self, stream: S, watcher: Watcher) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // A client that has gone quiet is asked whether it is still there.
            .keep_alive_interval(self.header_timeout)
            .keep_alive_timeout(self.header_timeout)
            .max_concurrent_streams(STREAMS)
            .serve_connection(TokioIo::new(stream), service);
        Ok(watcher.watch(connection).await?)
    }
}
