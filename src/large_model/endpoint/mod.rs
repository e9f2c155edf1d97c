//! The HTTP client of OpenAI-compatible endpoints.

mod attempt;
mod body;
mod breaker;
mod client;
mod config;
mod delta;
mod direct;
mod exchange;
mod forward;
mod live;
mod redact;
mod redact_body;
mod reply;
mod retry;
mod retry_after;
mod sse;
mod transport;
mod wire;

pub use body::ForwardBody;
pub use client::Endpoint;
pub use config::{
    BreakerConfig, LargeModelConfig, LargeModelConfigError, RetryConfig, TimeoutConfig,
};
pub use forward::ForwardRequest;
pub use transport::{EndpointSetup, KeyLookup};
