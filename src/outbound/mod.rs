//! What every client of another service needs: its address and credential, event streams, retries, credentials
//! kept out of errors, and the text of transport errors.

pub mod client;
pub mod config;
pub mod redact;
pub mod retry;
pub mod retry_after;
pub mod sse;
pub mod wire;
