//! Configuration files: read strictly, with errors that name the nearest known key.

mod parse;

pub use parse::{ConfigError, read_toml};
