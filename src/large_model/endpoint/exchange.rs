//! One call of one endpoint: its credential, its deadline, its breaker ticket, and the errors that
//! its failures become.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::TryFutureExt;
use http::{HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::breaker::{Health, Ticket};
use super::direct::DirectError;
use super::reply::ParsedReply;
use super::transport::Transport;
use super::upstream_error::UpstreamError;
use crate::chat::ChatMessage;
use crate::compute;
use crate::hint::Reason;
use crate::large_model::{AttemptOutcome, LargeModelError, Phase, Reply, Waiting};
use crate::outbound::client::execute;
use crate::outbound::redact::Redactor;
use crate::outbound::retry::{Advice, Retryable};
use crate::outbound::wire::{CLOSED_UNSERVED, Request, Response, cause_of, causes, library_causes};
use crate::trajectory::TokenUsage;

/// The target of a call.
pub(super) struct CallTarget<'a> {
    /// The route below the endpoint's URL.
    pub(super) route: &'a str,
    /// The model's id at the endpoint.
    pub(super) model: &'a str,
}

/// One call, which may take several attempts.
pub(super) struct Exchange {
    pub(super) transport: Arc<Transport>,
    pub(super) caller: u64,
    /// Set while the call waits to be sent, for the first time or again.
    pub(super) waiting: Waiting,
    /// The value of the `Authorization` header, the endpoint's or the caller's.
    authorization: Option<SecretString>,
    /// The deadline for the start of the reply.
    start_by: Instant,
    /// The caller's deadline.
    deadline: Option<Instant>,
    /// Whether a request of it was sent.
    was_sent: AtomicBool,
    /// Absent without a breaker, as for lists of models.
    ticket: Option<Ticket>,
    /// What the result says about the endpoint.
    health: Mutex<Health>,
}

impl Exchange {
    /// A call that starts now, of this caller. The endpoint's key takes precedence over `callers`,
    /// the caller's. `waiting` is set while it waits to be sent.
    ///
    /// # Errors
    /// While the breaker is open.
    pub(super) fn open(
        transport: &Arc<Transport>,
        target: Option<CallTarget<'_>>,
        caller: u64,
        callers: Option<&SecretString>,
        deadline: Option<Instant>,
        waiting: &Waiting,
    ) -> Result<Arc<Self>, LargeModelError> {
        let ticket = match target {
            None => None,
            Some(CallTarget { route, model }) => {
                let target = format!("{route} {model}");
                let ticket = transport.breakers().admit(&target, caller, Instant::now());
                Some(ticket.map_err(|retry_in| circuit_open(transport, retry_in))?)
            }
        };
        Ok(Arc::new(Self {
            transport: Arc::clone(transport),
            caller,
            waiting: waiting.clone(),
            authorization: transport.authorization.as_ref().or(callers).cloned(),
            start_by: Instant::now() + transport.config.timeouts.total(),
            deadline,
            was_sent: AtomicBool::new(false),
            ticket,
            health: Mutex::new(Health::Unknown),
        }))
    }

    /// When no further attempt is started.
    pub(super) fn retry_until(&self) -> Instant {
        self.deadline.map_or(self.start_by, |deadline| deadline.min(self.start_by))
    }

    /// Fails if the breaker opened since this call began.
    pub(super) fn check_admitted(&self) -> Result<(), LargeModelError> {
        let Some(ticket) = &self.ticket else { return Ok(()) };
        let breakers = self.transport.breakers();
        if breakers.is_revoked(ticket) {
            return Err(circuit_open(&self.transport, breakers.pause()));
        }
        Ok(())
    }

    /// Notes that a response has begun.
    pub(super) fn response_began(&self) {
        if let Some(ticket) = &self.ticket {
            self.transport.breakers().response_began(ticket);
        }
    }

    /// Notes the outcome of an attempt; the last one counts.
    pub(super) fn note(&self, outcome: AttemptOutcome) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health(outcome);
    }

    /// Notes that an attempt failed: until the next one is sent, the call waits.
    pub(super) fn failed(&self, failure: &impl Retryable) {
        if matches!(failure.advice(), Advice::Retry { .. }) {
            self.waiting.begin();
        }
    }

    /// Sends a request and waits for the response's headers.
    pub(super) async fn send(&self, mut request: Request) -> Result<Response, LargeModelError> {
        if let Some(value) = &self.authorization {
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| self.rejected("the caller's `Authorization` is not a valid header"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        self.waiting.end();
        // The first one was counted before.
        if self.was_sent.swap(true, Ordering::Relaxed)
            && let Some(pace) = self.transport.pace()
        {
            pace.count();
        }
        let limit = self.transport.config.timeouts.first_byte();
        let Some(direct) = &self.transport.direct else {
            let request = reqwest::Request::try_from(request);
            let request = request.map_err(|error| self.rejected(library_causes(&error)))?;
            // Boxed, because it is large and direct requests should not carry its size.
            let sending = Box::pin(self.by_library(request));
            let sent = self.within(Phase::FirstByte, limit, sending).await?;
            return sent.map(Response::from).map_err(|error| match error.is_connect() {
                true if error.is_timeout() => self.connect_timeout(),
                true => self.connect_error(&error, library_causes(&error)),
                false => self.no_response(&error, library_causes(&error)),
            });
        };
        let sent = self.within(Phase::FirstByte, limit, direct.send(request)).await?;
        sent.map_err(|error| match error {
            DirectError::ConnectTimeout => self.connect_timeout(),
            DirectError::Connect(error) => self.connect_error(&*error, causes(&*error)),
            DirectError::Failed(error) => self.no_response(&error, causes(&error)),
        })
    }

    /// Sends a request with the client library, and again if an idle connection that it reused
    /// closed at once: the endpoint had closed it.
    async fn by_library(
        &self,
        mut request: reqwest::Request,
    ) -> Result<reqwest::Response, reqwest::Error> {
        loop {
            let again = request.try_clone();
            let asked = Instant::now();
            let (sent, is_reused) = execute(&self.transport.client, request).await;
            let is_unserved = |error: &reqwest::Error| {
                let is_parse = cause_of::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
                is_reused && !error.is_connect() && !is_parse && asked.elapsed() < CLOSED_UNSERVED
            };
            match again {
                Some(again) if sent.as_ref().is_err_and(is_unserved) => request = again,
                _ => return sent,
            }
        }
    }

    /// Awaits something for at most `limit`, and never past the deadlines.
    pub(super) fn within<T>(
        &self,
        phase: Phase,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, LargeModelError>> {
        let now = Instant::now();
        // A reply that makes progress has no other limit.
        let mut limit = match phase {
            Phase::NextByte => limit,
            _ => limit.min(self.start_by.saturating_duration_since(now)),
        };
        let until = self.deadline.map_or(now + limit, |deadline| deadline.min(now + limit));
        tokio::time::timeout_at(until.into(), future).map_err(move |_| {
            if self.deadline.is_some_and(|deadline| deadline <= until) {
                let model = self.transport.name.clone();
                return LargeModelError::Deadline { model, was_sent: !self.waiting.is_on() };
            }
            if phase != Phase::NextByte && until >= self.start_by {
                limit = self.transport.config.timeouts.total();
            }
            self.timeout(phase, limit)
        })
    }

    /// Removes the credential from text of the endpoint.
    pub(super) fn redactor(&self) -> Redactor<'_> {
        Redactor::new(self.authorization.as_ref().map(|value| value.expose_secret()))
    }

    /// The same for the endpoint's own key: callers know theirs.
    pub(super) fn own_redactor(&self) -> Redactor<'_> {
        let own = self.transport.authorization.as_ref();
        Redactor::new(own.map(|value| value.expose_secret()))
    }

    fn timeout(&self, phase: Phase, limit: Duration) -> LargeModelError {
        LargeModelError::Timeout { model: self.transport.name.clone(), phase, limit }
    }

    fn connect_timeout(&self) -> LargeModelError {
        self.timeout(Phase::Connection, self.transport.config.timeouts.connect())
    }

    /// No connection could be made.
    fn connect_error(&self, error: &(dyn Error + 'static), reason: String) -> LargeModelError {
        let is_out_of_files = cause_of::<io::Error>(error)
            .and_then(io::Error::raw_os_error)
            // `EMFILE` and `ENFILE`.
            .is_some_and(|code| matches!(code, 23 | 24));
        if is_out_of_files {
            return LargeModelError::Local { model: self.transport.name.clone(), reason };
        }
        self.unreachable(&reason, false)
    }

    /// A connection gave no response. Unless the request was never begun, it may have been served.
    fn no_response(&self, error: &(dyn Error + 'static), reason: String) -> LargeModelError {
        let is = |kind: fn(&hyper::Error) -> bool| cause_of(error).is_some_and(kind);
        if is(hyper::Error::is_parse) {
            return self.malformed(format!("its response is not valid HTTP: {reason}"));
        }
        self.unreachable(&reason, !is(hyper::Error::is_canceled))
    }

    /// The response broke off.
    pub(super) fn broken(&self, error: &reqwest::Error) -> LargeModelError {
        self.unreachable(&library_causes(error), true)
    }

    fn unreachable(&self, reason: &str, was_sent: bool) -> LargeModelError {
        LargeModelError::Unreachable {
            model: self.transport.name.clone(),
            url: self.transport.base.to_string(),
            reason: self.redactor().text(reason),
            was_sent,
        }
    }

    pub(super) fn malformed(&self, reason: impl Into<String>) -> LargeModelError {
        LargeModelError::Malformed { model: self.transport.name.clone(), reason: reason.into() }
    }

    /// A reply of more bytes than it may have.
    pub(super) fn too_long(&self, limit: usize) -> LargeModelError {
        self.malformed(format!(
            "it is longer than {limit} bytes; `max_reply_bytes` sets that limit"
        ))
    }

    pub(super) fn rejected(&self, reason: impl Into<Reason>) -> LargeModelError {
        LargeModelError::Rejected { model: self.transport.name.clone(), reason: reason.into() }
    }

    /// The reply with what it cost: as the endpoint says, else by its texts and those of `request`,
    /// a body. `model`: the id it was asked of.
    pub(super) fn billed(&self, parsed: ParsedReply, model: &str, request: &[u8]) -> Reply {
        let ParsedReply { mut message, finish_reason, logprobs, usage } = parsed;
        let usage = usage.unwrap_or_else(|| {
            let bytes = request.len() + message.text_length();
            compute::in_place(bytes, || self.counted(request, &message))
        });
        let redactor = self.own_redactor();
        message.content = redactor.json(message.content);
        message.extra = message
            .extra
            .into_iter()
            .map(|(key, value)| (redactor.text(&key), redactor.json(value)))
            .collect();
        let cost = self.transport.config.prices_or_default(model).cost(usage);
        let logprobs = logprobs.map(|logprobs| redactor.json(logprobs));
        Reply { message, finish_reason, logprobs, usage, cost }
    }

    /// What a request and its reply are billed, where the endpoint does not say.
    fn counted(&self, request: &[u8], reply: &ChatMessage) -> TokenUsage {
        let counter = &self.transport.counter;
        let mut texts = counter.texts();
        reply.texts().for_each(|text| texts.add(text));
        for value in reply.extra.values() {
            match value {
                Value::String(text) => texts.add(text),
                Value::Null => {}
                value => texts.add(&value.to_string()),
            }
        }
        counter.usage(request, &texts)
    }

    /// The error for an error status. `billed`: what a part of a reply before it was billed.
    pub(super) fn status(
        &self,
        error: UpstreamError,
        retry_after: Option<Duration>,
        billed: Option<TokenUsage>,
    ) -> LargeModelError {
        LargeModelError::Status {
            model: self.transport.name.clone(),
            status: error.status,
            message: error.message,
            retry_after,
            body: error.body.map(Box::new),
            billed: billed.map(Box::new),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            let health = *self.health.lock().unwrap_or_else(PoisonError::into_inner);
            self.transport.breakers().record(ticket, health, Instant::now());
        }
    }
}

fn circuit_open(transport: &Transport, retry_in: Duration) -> LargeModelError {
    LargeModelError::CircuitOpen { model: transport.name.clone(), retry_in }
}

/// What an outcome says about the endpoint. An endpoint that refuses calls, even by rate limits or
/// because it does not have the route, is up.
fn health(outcome: AttemptOutcome) -> Health {
    match outcome {
        AttemptOutcome::Status(501) => Health::Good,
        AttemptOutcome::Status(code) if code >= 500 => Health::Bad,
        AttemptOutcome::Success | AttemptOutcome::Status(_) => Health::Good,
        AttemptOutcome::Unreachable | AttemptOutcome::Timeout | AttemptOutcome::Malformed => {
            Health::Bad
        }
        AttemptOutcome::Local | AttemptOutcome::Cancelled => Health::Unknown,
    }
}
