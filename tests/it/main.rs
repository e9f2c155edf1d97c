//! Tests across modules, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod large_model;
mod loopback;
