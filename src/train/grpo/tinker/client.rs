//! Requests to a Tinker server, retried when that is safe.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use prost::Message;
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::config::TinkerConfig;
use super::error::TinkerError;
use super::reply::{TinkerResponse, reason};
use super::wire::{Accepted, Finished, ForwardBackwardOutput, ForwardBackwardRequest, PROTOBUF};
use crate::outbound::client::is_this_machine;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// How often a result that cannot be parsed is fetched.
const FETCHES: usize = 3;

/// Whether a request may be repeated when its response was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It is idempotent.
    Safe,
    /// It may only be repeated if it did not arrive.
    Unsent,
}

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    key: Option<SecretString>,
    request_timeout: Duration,
    result_timeout: Duration,
    outage: Duration,
}

/// A request that may be sent several times.
struct Request {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Bytes,
}

/// Growing waits, for a limited time.
struct Backoff {
    since: Option<Instant>,
    pause: Duration,
}

impl Client {
    /// # Errors
    /// When the URL is invalid or the system's TLS cannot be used.
    pub fn new(config: &TinkerConfig, key: Option<SecretString>) -> Result<Self, TinkerError> {
        let unusable = |reason: String| TinkerError::Unreachable {
            url: config.url.clone(),
            call: "anything",
            seconds: 0,
            reason,
        };
        let url = format!("{}/api/v1/", config.url.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| unusable(error.to_string()))?;
        let request_timeout = Duration::from_millis(config.request_timeout_ms);
        // Redirects are followed by hand, so that the key stays with its server.
        let mut http = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(request_timeout)
            .read_timeout(request_timeout);
        if is_this_machine(&url) {
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().map_err(|error| unusable(reason(&error)))?,
            url,
            key,
            request_timeout,
            result_timeout: Duration::from_millis(config.result_timeout_ms),
            outage: Duration::from_millis(config.outage_ms),
        })
    }

    /// Sends a request that is answered at once.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        call: &'static str,
        body: Option<&Value>,
        repeat: Repeat,
    ) -> Result<T, TinkerError> {
        let request = match body {
            Some(body) => Request::json(call, body),
            None => Request::get(call),
        };
        self.send(call, &request, repeat, |body| read(call, body)).await
    }

    /// Starts a computation.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn begin(
        &self,
        call: &'static str,
        body: &Value,
        repeat: Repeat,
    ) -> Result<Accepted, TinkerError> {
        self.ask(call, Some(body), repeat).await
    }

    /// The result of a computation.
    ///
    /// # Errors
    /// When it failed, or takes too long.
    pub async fn end(&self, call: &'static str, begun: &Accepted) -> Result<Finished, TinkerError> {
        self.result(call, begun, |body| read(call, body)).await
    }

    /// Scores trajectories.
    ///
    /// # Errors
    /// When the server fails, or does not return one score for each position.
    pub async fn score(
        &self,
        request: &ForwardBackwardRequest,
    ) -> Result<Vec<Vec<f32>>, TinkerError> {
        let call = if request.forward_only { "forward" } else { "forward_backward" };
        let sent = Request {
            method: Method::POST,
            path: "forward_backward".into(),
            content_type: PROTOBUF,
            body: request.encode_to_vec().into(),
        };
        // Its number makes it idempotent.
        let begun = self.send(call, &sent, Repeat::Safe, |body| read(call, body)).await?;
        let unreadable = |reason| TinkerError::Unreadable { call, reason };
        let output = self
            .result(call, &begun, |body| {
                ForwardBackwardOutput::decode(body.clone())
                    .map_err(|error| unreadable(error.to_string()))
            })
            .await?;
        output.log_probs().map_err(unreadable)
    }

    /// The archive of saved weights, which must exist under one of `names`.
    ///
    /// # Errors
    /// When the server does not have it, or does not answer.
    pub async fn archive(&self, model: &str, names: [String; 2]) -> Result<File, TinkerError> {
        let call = "archive";
        let mut backoff = Backoff::new();
        let mut names = names.iter();
        let mut name = names.next();
        while let Some(path) = name {
            let request =
                Request::get(&format!("training_runs/{model}/checkpoints/{path}/archive"));
            let (said, asked) = match self.download(&request).await {
                Ok(Ok(file)) => return Ok(file),
                // Servers name it differently.
                Ok(Err(reply)) if matches!(reply.status.as_u16(), 404 | 405) => {
                    name = names.next();
                    if name.is_none() {
                        return Err(reply.refused(call));
                    }
                    continue;
                }
                Ok(Err(reply)) if !reply.is_transient() => return Err(reply.refused(call)),
                Ok(Err(reply)) => (reply.message(), reply.requested_wait()),
                Err(error) => (error, None),
            };
            backoff.wait(self, call, said, asked).await?;
        }
        Err(TinkerError::Unreadable { call, reason: "it has no name".into() })
    }

    async fn download(&self, request: &Request) -> Result<Result<File, TinkerResponse>, String> {
        let timeout = self.result_timeout;
        let text = |error: reqwest::Error| reason(&error);
        let mut response = self.prepare(request).timeout(timeout).send().await.map_err(text)?;
        if response.status().is_redirection() {
            let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| response.url().join(to).ok());
            let to = to.ok_or("the server redirects to nowhere")?;
            let mut next = self.http.get(to.clone());
            if to.origin() == self.url.origin() {
                next = self.with_key(next);
            }
            response = next.timeout(timeout).send().await.map_err(text)?;
        }
        if !response.status().is_success() {
            return Ok(Err(TinkerResponse::read(response).await.map_err(text)?));
        }
        let mut file = tempfile::tempfile().map_err(|error| error.to_string())?;
        while let Some(piece) = response.chunk().await.map_err(text)? {
            file.write_all(&piece).map_err(|error| error.to_string())?;
        }
        Ok(Ok(file))
    }

    /// Removes saved weights.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn delete(&self, model: &str, name: &str) -> Result<(), TinkerError> {
        let path = format!("training_runs/{model}/checkpoints/{name}");
        let request = Request { method: Method::DELETE, ..Request::get(&path) };
        self.send("delete", &request, Repeat::Unsent, |_| Ok(())).await
    }

    /// Sends a request until there is a response that can be parsed.
    async fn send<T>(
        &self,
        call: &'static str,
        request: &Request,
        repeat: Repeat,
        read: impl Fn(&Bytes) -> Result<T, TinkerError>,
    ) -> Result<T, TinkerError> {
        let mut backoff = Backoff::new();
        let mut fetches = 0;
        loop {
            let (said, asked) = match self.once(request).await {
                Ok(reply) if reply.status.is_success() => match read(&reply.body) {
                    Err(error) if repeat == Repeat::Safe && fetches + 1 < FETCHES => {
                        fetches += 1;
                        (error.to_string(), None)
                    }
                    outcome => return outcome,
                },
                Ok(reply)
                    if reply.is_transient() && (repeat == Repeat::Safe || reply.is_unserved()) =>
                {
                    (reply.message(), reply.requested_wait())
                }
                Ok(reply) => return Err(reply.refused(call)),
                Err(error) if repeat == Repeat::Safe || error.is_connect() => {
                    (reason(&error), None)
                }
                Err(error) => {
                    let reason = format!("{}, and it may have been done", reason(&error));
                    return Err(self.unreachable(call, Duration::ZERO, reason));
                }
            };
            backoff.wait(self, call, said, asked).await?;
        }
    }

    /// Polls for the result of a future until it is there and can be parsed.
    async fn result<T>(
        &self,
        call: &'static str,
        begun: &Accepted,
        read: impl Fn(&Bytes) -> Result<T, TinkerError>,
    ) -> Result<T, TinkerError> {
        let request = Request::json("retrieve_future", &json!({ "request_id": begun.request_id }));
        let first = Instant::now();
        let mut backoff = Backoff::new();
        let mut fetches = 0;
        while first.elapsed() < self.result_timeout {
            let (said, asked) = match self.once(&request).await {
                Ok(reply)
                    if reply.status == StatusCode::REQUEST_TIMEOUT || reply.is_unfinished() =>
                {
                    backoff = Backoff::new();
                    sleep(reply.requested_wait().unwrap_or(FIRST_PAUSE).min(MAX_PAUSE)).await;
                    continue;
                }
                Ok(reply) if reply.status.is_success() => {
                    if let Some(message) = reply.failure() {
                        return Err(TinkerError::Refused { call, status: 200, message });
                    }
                    match read(&reply.body) {
                        Err(error) if fetches + 1 < FETCHES => {
                            fetches += 1;
                            (error.to_string(), None)
                        }
                        outcome => return outcome,
                    }
                }
                Ok(reply) if matches!(reply.status.as_u16(), 404 | 410) => {
                    return Err(TinkerError::Gone { call, message: reply.message() });
                }
                Ok(reply) if reply.is_transient() => (reply.message(), reply.requested_wait()),
                Ok(reply) => return Err(reply.refused(call)),
                Err(error) if error.is_timeout() && !error.is_connect() => {
                    // It may still be computing, or it may be dead, which this finds out.
                    self.send(call, &Request::get("healthz"), Repeat::Safe, |_| Ok(())).await?;
                    continue;
                }
                Err(error) => (reason(&error), None),
            };
            backoff.wait(self, call, said, asked).await?;
        }
        Err(TinkerError::TimedOut { call, seconds: self.result_timeout.as_secs() })
    }

    async fn once(&self, request: &Request) -> Result<TinkerResponse, reqwest::Error> {
        let response = self.prepare(request).timeout(self.request_timeout).send().await?;
        TinkerResponse::read(response).await
    }

    fn prepare(&self, request: &Request) -> RequestBuilder {
        // The path was built here from ids that the server sent: it is joined unchanged.
        let mut url = self.url.clone();
        url.set_path(&format!("{}{}", self.url.path(), request.path));
        let mut builder = self.http.request(request.method.clone(), url);
        if !request.body.is_empty() {
            builder = builder
                .header(header::CONTENT_TYPE, request.content_type)
                .body(request.body.clone());
        }
        let accept = format!("{PROTOBUF}, application/json");
        self.with_key(builder.header(header::ACCEPT, accept))
    }

    fn with_key(&self, builder: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => builder.header("x-api-key", key.expose_secret()),
            None => builder,
        }
    }

    fn unreachable(&self, call: &'static str, tried: Duration, reason: String) -> TinkerError {
        let url = self.url.origin().ascii_serialization();
        TinkerError::Unreachable { url, call, seconds: tried.as_secs(), reason }
    }
}

impl Request {
    fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.into(), content_type: "", body: Bytes::new() }
    }

    fn json(path: &str, body: &Value) -> Self {
        let content_type = "application/json";
        Self {
            method: Method::POST,
            path: path.into(),
            content_type,
            body: body.to_string().into(),
        }
    }
}

impl Backoff {
    fn new() -> Self {
        Self { since: None, pause: FIRST_PAUSE }
    }

    /// Waits for as long as the server asks to, or a little longer than last time.
    async fn wait(
        &mut self,
        client: &Client,
        call: &'static str,
        reason: String,
        asked: Option<Duration>,
    ) -> Result<(), TinkerError> {
        let tried = self.since.get_or_insert_with(Instant::now).elapsed();
        let pause = asked.unwrap_or(self.pause);
        if tried + pause > client.outage {
            return Err(client.unreachable(call, tried, reason));
        }
        tracing::warn!(
            call,
            reason,
            pause_ms = pause.as_millis() as u64,
            "retrying a request to the Tinker server"
        );
        sleep(pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

fn read<T: DeserializeOwned>(call: &'static str, body: &Bytes) -> Result<T, TinkerError> {
    serde_json::from_slice(body)
        .map_err(|error| TinkerError::Unreadable { call, reason: error.to_string() })
}
