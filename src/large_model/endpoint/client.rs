//! A large model behind an OpenAI-compatible endpoint.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryFutureExt;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};

use super::attempt::Attempt;
use super::body::Body;
use super::config::{LargeModelConfig, LargeModelConfigError};
use super::exchange::{CallTarget, Exchange};
use super::fields::{Names, fields, misses_thoughts, refused_by};
use super::live::{Live, ReplyContext};
use super::passed_usage::PassedUsage;
use super::reply::parse_completion;
use super::transport::{EndpointSetup, Transport};
use super::upstream_error::parse_error;
use crate::chat::ChatMessage;
use crate::compute;
use crate::large_model::{Call, LargeModel, LargeModelError, Prices, Reply, ReplyStream};
use crate::outbound::retry::retrying;
use crate::outbound::retry_after::retry_after;
use crate::outbound::wire::{Request, Response};

/// Where chat completions are, below the endpoint's URL.
pub(super) const COMPLETIONS: &str = "/chat/completions";

/// A large model behind an endpoint. Clones share connections, limits and breakers.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) transport: Arc<Transport>,
}

impl Endpoint {
    /// The endpoint that is configured under this name. Nothing is sent yet.
    ///
    /// # Errors
    /// When a value of the configuration cannot be used, or the key is missing.
    pub fn new(
        name: &str,
        config: &LargeModelConfig,
        setup: &EndpointSetup<'_>,
    ) -> Result<Self, LargeModelConfigError> {
        Ok(Self { transport: Arc::new(Transport::new(name, config, setup)?) })
    }

    /// The model's id at the endpoint.
    pub fn model_id(&self) -> &str {
        &self.transport.config.model
    }

    /// Whether it has its own key; otherwise each caller's is passed on.
    pub fn has_key(&self) -> bool {
        self.transport.authorization.is_some()
    }

    /// The prices of a model: those of the configured model if its own are unknown.
    pub fn billed_at(&self, model: &str) -> Prices {
        self.transport.config.prices_or_default(model)
    }

    /// Reads along with a response to `request`, a body that is passed on.
    pub fn passed_usage(&self, request: Bytes) -> PassedUsage {
        PassedUsage::new(&self.transport.counter, request)
    }

    /// The id of the model that a call is for.
    pub(super) fn asked_model<'a>(&'a self, call: &'a Call) -> &'a str {
        call.field("model").and_then(Value::as_str).unwrap_or(self.model_id())
    }

    /// Sends the call. If the endpoint refuses a field that the caller did not ask for, sends it
    /// again without that field; if it needs the thoughts before calls of tools, with these.
    async fn ask<T, F>(
        &self,
        call: &Call,
        is_stream: bool,
        attempt: impl Fn(Arc<Exchange>, Request, ReplyContext) -> F,
    ) -> Result<T, LargeModelError>
    where
        F: Future<Output = Result<T, LargeModelError>>,
    {
        let transport = &self.transport;
        let model = self.asked_model(call);
        let target = CallTarget { route: COMPLETIONS, model };
        let callers = call.authorization.as_ref();
        let (caller, deadline) = (call.caller, call.deadline);
        let exchange =
            Exchange::open(transport, Some(target), caller, callers, deadline, &call.waiting)?;
        let mut refused = transport.refused.of(model);
        let mut learnt = Names::new();
        let needs_thoughts = transport.refused.needs_thoughts(model);
        let mut with_thoughts = needs_thoughts;
        let text_length = call.messages.iter().map(ChatMessage::text_length).sum();
        loop {
            let fields = compute::in_place(text_length, || {
                fields(&transport.config, call, is_stream, &refused, with_thoughts)
            });
            let fields = fields.map_err(|error| exchange.rejected(error.to_string()))?;
            let (config, until) = (&transport.config.retries, exchange.retry_until());
            let result = retrying(config, &transport.rng, until, || {
                let reading = ReplyContext {
                    model: model.to_owned(),
                    request: fields.body.clone(),
                    with_thoughts: call.with_thoughts,
                    keeps_tags: call.keeps_tags,
                    unseen: call.unseen.clone(),
                };
                attempt(Arc::clone(&exchange), self.request(fields.body.clone()), reading)
                    .inspect_err(|error| exchange.failed(error))
            })
            .await;
            let Err(error) = &result else {
                // Only now is it certain that these fields were the fault.
                if !learnt.is_empty() {
                    transport.refused.learn(model, &learnt);
                }
                if with_thoughts && !needs_thoughts {
                    transport.refused.learn_thoughts(model);
                }
                return result;
            };
            let makes_calls = || call.messages.iter().any(ChatMessage::makes_calls);
            if !with_thoughts && misses_thoughts(error) && makes_calls() {
                tracing::info!(model = transport.name, "retrying with the thoughts before calls");
                with_thoughts = true;
                continue;
            }
            let Some((names, is_lasting)) = refused_by(error, &fields.optional) else {
                return result;
            };
            tracing::info!(
                model = transport.name,
                fields = ?names.keys().collect::<Vec<_>>(),
                "retrying without fields that the endpoint refuses"
            );
            if is_lasting {
                learnt.extend(names.clone());
            }
            refused.extend(names);
        }
    }

    fn request(&self, body: Bytes) -> Request {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.transport.completions.clone();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        request
    }
}

/// Waits for a successful response; an error status becomes an error.
async fn open(exchange: &Arc<Exchange>, request: Request) -> Result<Response, LargeModelError> {
    let response = exchange.send(request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let wait = retry_after(response.headers());
    let body = match Body::reply(exchange, response) {
        Ok(body) => body.head().await,
        Err(_) => Vec::new(),
    };
    let mut error = parse_error(status.as_u16(), &body, exchange.redactor());
    if status.is_redirection() {
        error.message = "a redirect, which is not followed".into();
    }
    Err(exchange.status(error, wait, None))
}

#[async_trait]
impl LargeModel for Endpoint {
    fn name(&self) -> &str {
        &self.transport.name
    }

    fn identity(&self) -> String {
        let config = &self.transport.config;
        json!({"url": self.transport.base.as_str(), "model": config.model, "params": config.params})
            .to_string()
    }

    fn prices(&self) -> Prices {
        self.transport.config.prices.unwrap_or_default()
    }

    fn prices_of(&self, model: Option<&str>) -> Option<Prices> {
        let (config, model) = (&self.transport.config, model.unwrap_or(self.model_id()));
        // A request that names no model may start anything.
        let is_allowed = config.allow_unpriced && !model.is_empty();
        let assumed = is_allowed.then(|| config.prices_or_default(model));
        config.prices_of(model).or(assumed)
    }

    fn only_prices(&self) -> Option<Prices> {
        self.transport.config.model_prices.is_empty().then(|| self.prices())
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        match self.transport.pace() {
            Some(pace) => self.complete_at(pace, call).await,
            None => self.complete_now(call).await,
        }
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        match self.transport.pace() {
            Some(pace) => self.stream_at(pace, call).await,
            None => self.stream_now(call).await,
        }
    }
}

impl Endpoint {
    /// The whole reply to `call`, without waiting for a slot.
    async fn complete_now(&self, call: &Call) -> Result<Reply, LargeModelError> {
        self.ask(call, false, async |exchange, request, reading: ReplyContext| {
            let mut attempt = Attempt::begin(&exchange).await?;
            let result = async {
                let response = open(&exchange, request).await?;
                let body = Body::reply(&exchange, response)?.whole().await?;
                compute::in_place(body.len(), || parse_completion(&body, exchange.redactor()))
                    .map(|parsed| reading.bill(&exchange, parsed))
                    .map_err(|fault| reading.error(&exchange, fault))
            };
            let result = result.await;
            attempt.set_outcome_of(&result);
            result
        })
        .await
    }

    /// The reply to `call` as a stream, without waiting for a slot.
    pub(super) async fn stream_now(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        self.ask(call, true, async |exchange, request, reading| {
            let mut attempt = Attempt::begin(&exchange).await?;
            let first = async {
                let response = open(&exchange, request).await?;
                Live::open(Body::reply(&exchange, response)?, reading).await
            };
            match first.await {
                Ok(opened) => {
                    attempt.response_began();
                    Ok(opened.into_stream(attempt))
                }
                Err(error) => {
                    attempt.set_outcome((&error).into());
                    Err(error)
                }
            }
        })
        .await
    }
}
