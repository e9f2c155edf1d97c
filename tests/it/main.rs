//! Tests across modules, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod bad_input;
mod chat;
mod chat_streams;
mod eval;
mod large_model;
mod loopback;
mod openapi;
mod operation;
mod pass_through;
mod policy_contract;
mod server;
mod shipping;
mod solve;
mod train;
