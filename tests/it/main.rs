//! Tests across modules, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod architecture;
mod bad_input;
mod chat;
mod chat_streams;
mod connections;
mod cost;
mod eval;
mod eventually;
mod faults;
mod given_turns;
mod hostile;
mod hub;
mod large_model;
mod loopback;
mod memory;
mod messages;
mod one_file;
mod openapi;
mod operation;
mod origins;
mod pass_through;
mod playground;
mod policy_contract;
mod process;
mod record;
mod reload;
mod responses;
mod server;
mod services;
mod shipping;
mod solve;
mod telemetry;
mod tokens;
mod train;
