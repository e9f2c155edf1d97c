//! Prompt-R1: a small policy model that thinks, writes prompts for a large language model,
//! reads the replies and answers. One crate serves it, trains it and measures it.
//!
//! Imports run downwards only; `tests/it/architecture.rs` lists the layers.

#[macro_use]
pub mod hint;

pub mod access;
pub mod atomic_file;
pub mod chat;
pub mod cli;
pub mod compute;
pub mod config;
pub mod dataset;
pub mod engine;
pub mod environment;
pub mod episode;
pub mod eval;
pub mod fair_share;
pub mod gguf;
pub mod http;
pub mod journal;
pub mod json_size;
pub mod judge;
pub mod large_model;
pub mod model;
pub mod outbound;
pub mod playground;
pub mod policy;
pub mod program;
pub mod prompt_template;
pub mod protocol;
pub mod record;
pub mod reward;
pub mod run_files;
pub mod run_lock;
pub mod runs;
pub mod sampling;
pub mod seed;
pub mod spelling;
pub mod surrogates;
pub mod task;
pub mod token_estimate;
pub mod tokenization;
pub mod train;
pub mod trajectory;
pub mod world;
