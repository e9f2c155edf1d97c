//! Tests across modules, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod chat;
mod eval;
mod large_model;
mod loopback;
mod openapi;
mod operation;
mod pass_through;
mod policy_contract;
mod server;
mod solve;
mod train;
