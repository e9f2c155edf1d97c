//! The HTTP client of OpenAI-compatible endpoints.

mod advice;
mod attempt;
mod body;
mod breaker;
mod client;
mod config;
mod content;
mod count;
mod decode;
mod delta;
mod direct;
mod exchange;
mod field_error;
mod fields;
mod forward;
mod headers;
mod lenient;
mod live;
mod models;
mod paced;
mod passed_usage;
mod redact_body;
mod reply;
mod reply_size;
mod slots;
mod streaming;
mod texts;
mod thoughts;
mod transport;
mod upstream_error;

pub use body::ForwardBody;
pub use client::Endpoint;
pub use config::{BreakerConfig, LargeModelConfig, LargeModelConfigError};
pub use forward::ForwardRequest;
pub use passed_usage::{PassedUsage, UsageRequested};
pub use transport::EndpointSetup;
