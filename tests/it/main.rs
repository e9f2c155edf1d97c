//! Tests across modules, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chat;
mod large_model;
mod loopback;
mod openapi;
mod operation;
mod pass_through;
mod server;
mod solve;
