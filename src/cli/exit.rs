//! How a command ends: what is said, and the exit status.

use std::process::ExitCode;

use crate::config::ConfigError;

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    code: u8,
}

/// Exit status of a configuration that cannot be used; usage errors are clap's 2.
const CONFIGURATION: u8 = 64;

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let code = if error.is::<ConfigError>() { CONFIGURATION } else { 1 };
        Self { error, code }
    }
}

macro_rules! failure_from {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                anyhow::Error::from(error).into()
            }
        }
    )+};
}

failure_from!(
    ConfigError,
    crate::access::StoreError,
    crate::http::TlsError,
    crate::record::RecordError,
    crate::eval::EvalError,
    crate::train::error::TrainError,
    std::io::Error
);

/// Says on standard error what went wrong, and gives the exit status.
#[allow(clippy::print_stderr, reason = "this is the one place that reports a command's failure")]
pub fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.error);
            for cause in failure.error.chain().skip(1) {
                // Many errors repeat their cause in their own text.
                if !failure.error.to_string().contains(&cause.to_string()) {
                    eprintln!("caused by: {cause}");
                }
            }
            ExitCode::from(failure.code)
        }
    }
}
