//! Logs: on standard error, levels by `RUST_LOG`, JSON where nobody reads along.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. A second call changes nothing.
pub fn init() {
    // mistral.rs tells about every layer it loads.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,mistralrs_core=warn,mistralrs_quant=warn,hf_hub=warn")
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().try_init()
    };
}
