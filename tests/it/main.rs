//! Tests across modules, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod eval;
mod large_model;
mod loopback;
mod policy_contract;
