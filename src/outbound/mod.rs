//! What every client of another service needs: address and credential, event streams, retries,
//! redaction of credentials in errors, and the text of transport errors.

pub mod client;
pub mod config;
pub mod redact;
pub mod retry;
pub mod retry_after;
pub mod sse;
pub mod wire;
