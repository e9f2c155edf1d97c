//! A large model behind an OpenAI-compatible endpoint.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde_json::{Map, Value, json};

use super::body::Body;
use super::config::{LargeModelConfig, LargeModelConfigError};
use super::exchange::{Exchange, asked_wait};
use super::live::Live;
use super::reply::{parse_completion, parse_error};
use super::retry::retrying;
use super::transport::{EndpointSetup, Transport};
use super::wire::{Request, Response};
use crate::large_model::{Call, LargeModel, LargeModelError, Prices, Reply, ReplyStream};

/// A large model behind an endpoint. Clones share connections, limits and breaker.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) transport: Arc<Transport>,
}

impl Endpoint {
    /// The endpoint that is configured under this name. Nothing is sent yet.
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

    /// Whether it has a key of its own; otherwise each caller's is passed on.
    pub fn has_key(&self) -> bool {
        self.transport.authorization.is_some()
    }

    /// The body of a request for `call`.
    fn request_body(&self, call: &Call, stream: bool) -> Result<Bytes, LargeModelError> {
        let config = &self.transport.config;
        let mut body = Map::new();
        body.insert("model".to_owned(), config.model.clone().into());
        for (key, value) in config.params.iter().chain(&call.params) {
            body.insert(key.clone(), value.clone());
        }
        if stream {
            body.insert("stream".to_owned(), true.into());
            let options = body.entry("stream_options").or_insert_with(|| json!({}));
            if let Value::Object(options) = options {
                options.insert("include_usage".to_owned(), true.into());
            }
        } else {
            body.shift_remove("stream");
            body.shift_remove("stream_options");
        }
        #[derive(serde::Serialize)]
        struct Request<'a> {
            messages: &'a [crate::chat::ChatMessage],
            #[serde(flatten)]
            fields: &'a Map<String, Value>,
        }
        body.shift_remove("messages");
        serde_json::to_vec(&Request { messages: &call.messages, fields: &body })
            .map(Bytes::from)
            .map_err(|error| LargeModelError::Rejected {
                model: self.transport.name.clone(),
                reason: error.to_string(),
            })
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

/// Waits for a good response; an error status becomes the failure that it is.
async fn open(exchange: &Arc<Exchange>, request: Request) -> Result<Response, LargeModelError> {
    let response = exchange.send(request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let wait = asked_wait(response.headers());
    let body = Body::new(Arc::clone(exchange), response.into_body()).head().await;
    let mut error = parse_error(status.as_u16(), &body, exchange.redactor());
    if status.is_redirection() {
        error.message =
            "a redirect, which is not followed\nhint: set `url` to where the API is".into();
    }
    Err(exchange.status(error, wait))
}

/// The reply in a response that holds all of it.
async fn read_whole(
    exchange: &Arc<Exchange>,
    response: Response,
) -> Result<Reply, LargeModelError> {
    let body = Body::new(Arc::clone(exchange), response.into_body()).whole().await?;
    parse_completion(&body, exchange.redactor())
        .map(|reply| exchange.priced(reply))
        .map_err(|fault| exchange.faulty(fault))
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
        self.transport.config.prices
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        let body = self.request_body(call, false)?;
        let transport = &self.transport;
        let exchange =
            &Arc::new(Exchange::new(transport, call.authorization.as_ref(), call.deadline));
        retrying(&transport.config.retries, &transport.rng, exchange.deadline, || {
            let request = self.request(body.clone());
            async move {
                let mut attempt = exchange.begin().await?;
                let result = async { read_whole(exchange, open(exchange, request).await?).await };
                let result = result.await;
                attempt.settle_by(&result);
                result
            }
        })
        .await
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        let body = self.request_body(call, true)?;
        let transport = &self.transport;
        let exchange =
            &Arc::new(Exchange::new(transport, call.authorization.as_ref(), call.deadline));
        retrying(&transport.config.retries, &transport.rng, exchange.deadline, || {
            let request = self.request(body.clone());
            async move {
                let mut attempt = exchange.begin().await?;
                let first = async {
                    let response = open(exchange, request).await?;
                    Live::open(Body::new(Arc::clone(exchange), response.into_body())).await
                };
                match first.await {
                    Ok(opened) => {
                        attempt.answers();
                        Ok(opened.into_stream(attempt))
                    }
                    Err(error) => {
                        attempt.settle((&error).into());
                        Err(error)
                    }
                }
            }
        })
        .await
    }
}
