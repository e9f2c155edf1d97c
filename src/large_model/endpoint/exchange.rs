//! One call of one endpoint: its credential, its deadline, and the errors its failures become.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::TryFutureExt;
use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};

use super::attempt::Attempt;
use super::direct::DirectError;
use super::redact::Redactor;
use super::reply::{Fault, UpstreamError};
use super::retry_after::retry_after;
use super::transport::Transport;
use super::wire::{Request, Response, causes, library_causes};
use crate::large_model::{LargeModelError, Phase, Reply};

/// One call, which may take several attempts.
pub(super) struct Exchange {
    pub(super) transport: Arc<Transport>,
    /// The value of the `Authorization` header, the endpoint's or the caller's.
    authorization: Option<SecretString>,
    /// When everything is over.
    pub(super) deadline: Instant,
    /// Whether that is the caller's own deadline, and not the endpoint's limit.
    is_callers_deadline: bool,
}

impl Exchange {
    /// A call that starts now. The endpoint's key goes before the caller's.
    pub(super) fn new(
        transport: &Arc<Transport>,
        callers: Option<&SecretString>,
        deadline: Option<Instant>,
    ) -> Self {
        let limit = Instant::now() + transport.config.timeouts.total();
        Self {
            transport: Arc::clone(transport),
            authorization: transport.authorization.as_ref().or(callers).cloned(),
            deadline: deadline.map_or(limit, |deadline| deadline.min(limit)),
            is_callers_deadline: deadline.is_some_and(|deadline| deadline <= limit),
        }
    }

    /// Begins an attempt, once there is a slot for it and the breaker agrees.
    pub(super) async fn begin(&self) -> Result<Attempt, LargeModelError> {
        let transport = &self.transport;
        let slots = Arc::clone(&transport.slots);
        let slot = match slots.try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                let slots = Arc::clone(&transport.slots).acquire_owned();
                let total = transport.config.timeouts.total();
                self.within(Phase::FreeSlot, total, slots)
                    .await?
                    .map_err(|_| self.rejected("its endpoint is closed"))?
            }
        };
        let ticket = transport.admit().map_err(|retry_in| LargeModelError::CircuitOpen {
            model: transport.name.clone(),
            retry_in,
        })?;
        Ok(Attempt::new(Arc::clone(transport), ticket, slot))
    }

    /// Sends a request and waits for the response's headers.
    pub(super) async fn send(&self, mut request: Request) -> Result<Response, LargeModelError> {
        if let Some(value) = &self.authorization {
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| self.rejected("the caller's `Authorization` is no valid header"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let limit = self.transport.config.timeouts.first_byte();
        let Some(direct) = &self.transport.direct else {
            let request = reqwest::Request::try_from(request);
            let request = request.map_err(|error| self.transport_failed(&error))?;
            // Large: allocated by itself, so that what goes directly does not carry it along.
            let sending = Box::pin(self.transport.client.execute(request));
            let sent = self.within(Phase::FirstByte, limit, sending).await?;
            return sent.map(Response::from).map_err(|error| self.transport_failed(&error));
        };
        let sent = self.within(Phase::FirstByte, limit, direct.send(request)).await?;
        sent.map_err(|error| match error {
            DirectError::ConnectTimeout => self.connect_timeout(),
            DirectError::Failed(error) => self.unreachable(&causes(&*error)),
        })
    }

    /// Awaits something for at most `limit`, and never past the deadline.
    pub(super) fn within<T>(
        &self,
        phase: Phase,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, LargeModelError>> {
        let until = (Instant::now() + limit).min(self.deadline);
        tokio::time::timeout_at(until.into(), future).map_err(move |_| {
            if until < self.deadline {
                self.timeout(phase, limit)
            } else if self.is_callers_deadline {
                LargeModelError::Deadline { model: self.transport.name.clone() }
            } else {
                self.timeout(Phase::WholeReply, self.transport.config.timeouts.total())
            }
        })
    }

    /// Takes the credential out of what the endpoint says.
    pub(super) fn redactor(&self) -> Redactor<'_> {
        Redactor::new(self.authorization.as_ref().map(|value| value.expose_secret()))
    }

    /// The endpoint's own key: callers know theirs.
    pub(super) fn own_secret(&self) -> Option<&str> {
        let own = self.transport.authorization.as_ref();
        Redactor::new(own.map(|value| value.expose_secret())).secret()
    }

    fn timeout(&self, phase: Phase, limit: Duration) -> LargeModelError {
        LargeModelError::Timeout { model: self.transport.name.clone(), phase, limit }
    }

    /// The failure that the client library reports.
    pub(super) fn transport_failed(&self, error: &reqwest::Error) -> LargeModelError {
        if error.is_connect() && error.is_timeout() {
            return self.connect_timeout();
        }
        self.unreachable(&library_causes(error))
    }

    fn connect_timeout(&self) -> LargeModelError {
        self.timeout(Phase::Connection, self.transport.config.timeouts.connect())
    }

    fn unreachable(&self, reason: &str) -> LargeModelError {
        LargeModelError::Unreachable {
            model: self.transport.name.clone(),
            url: self.transport.base.to_string(),
            reason: self.redactor().text(reason),
        }
    }

    pub(super) fn malformed(&self, reason: impl Into<String>) -> LargeModelError {
        LargeModelError::Malformed { model: self.transport.name.clone(), reason: reason.into() }
    }

    pub(super) fn rejected(&self, reason: impl Into<String>) -> LargeModelError {
        LargeModelError::Rejected { model: self.transport.name.clone(), reason: reason.into() }
    }

    /// The reply with its price.
    pub(super) fn priced(&self, reply: Reply) -> Reply {
        Reply { cost: self.transport.config.prices.cost(reply.usage), ..reply }
    }

    pub(super) fn faulty(&self, fault: Fault) -> LargeModelError {
        match fault {
            Fault::Malformed(reason) => self.malformed(reason),
            Fault::Rejected(reason) => self.rejected(reason),
            Fault::Upstream(error) => self.status(error, None),
        }
    }

    /// The failure that an error status means.
    pub(super) fn status(
        &self,
        error: UpstreamError,
        retry_after: Option<Duration>,
    ) -> LargeModelError {
        LargeModelError::Status {
            model: self.transport.name.clone(),
            status: error.status,
            message: error.message,
            retry_after,
            body: error.body.map(Box::new),
        }
    }
}

/// How long a response asks to be left alone.
pub(super) fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers, SystemTime::now())
}
