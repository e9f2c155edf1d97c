//! The end of a command: its error message and its exit status.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::hint::{Hint, Reason};

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
    Reason,
    ConfigError,
    crate::access::StoreError,
    crate::http::TlsError,
    crate::record::RecordError,
    crate::eval::EvalError,
    crate::train::error::TrainError,
    std::io::Error
);

/// Prints the error to standard error, and returns the exit status.
#[allow(clippy::print_stderr, reason = "this is the one place that reports a command's failure")]
pub fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", rendered(&failure.error));
            ExitCode::from(failure.code)
        }
    }
}

/// A line for the error, one for each cause, and one for each hint.
fn rendered(error: &anyhow::Error) -> String {
    let mut texts = causes(error).into_iter();
    let mut text = format!("error: {}\n", texts.next().unwrap_or_default());
    for cause in texts {
        let _ = writeln!(text, "caused by: {cause}");
    }
    for hint in hints(error) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// The texts of an error and its causes, the outermost first. Many errors have that of their cause
/// in their own: it is not repeated.
pub(super) fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
    }
    texts
}

/// The hints of an error and its causes, each once, the outermost first.
fn hints(error: &anyhow::Error) -> Vec<Cow<'_, str>> {
    // A context is found by `anyhow` alone.
    let outer = error.downcast_ref::<Reason>().and_then(Hint::hint);
    let mut hints = Vec::from_iter(outer);
    for cause in error.chain() {
        let hint = hint_of(cause);
        hints.extend(hint.filter(|hint| !hints.contains(hint)));
    }
    hints
}

macro_rules! hint_from {
    ($cause:ident, $($error:ty),+ $(,)?) => {
        $(if let Some(error) = $cause.downcast_ref::<$error>() {
            return error.hint();
        })+
    };
}

/// The hint of an error of one of the types that reach the command line.
fn hint_of<'e>(cause: &'e (dyn Error + 'static)) -> Option<Cow<'e, str>> {
    hint_from!(
        cause,
        Reason,
        ConfigError,
        crate::access::StoreError,
        crate::dataset::DatasetError,
        crate::engine::EngineError,
        crate::engine::tokens::TokensError,
        crate::episode::EpisodeErrorKind,
        crate::eval::EvalError,
        crate::gguf::GgufError,
        crate::judge::JudgeError,
        crate::large_model::CacheError,
        crate::large_model::LargeModelConfigError,
        crate::large_model::LargeModelError,
        crate::large_model::UnknownModel,
        crate::model::ModelError,
        crate::policy::PolicyError,
        crate::protocol::ProtocolError,
        crate::record::RecordError,
        crate::reward::RewardError,
        crate::tokenization::TokenizerError,
        crate::train::error::TrainError,
        crate::world::WorldError,
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_lines_of_their_own_after_the_causes() {
        let cause = ConfigError::Setting(reason!("`a` is 0"; hint: "set it"));
        let error = anyhow::Error::from(cause).context(reason!("no start"; hint: "see the manual"));
        let expected = "error: no start\ncaused by: `a` is 0\nhint: see the manual\nhint: set it\n";
        assert_eq!(rendered(&error), expected);
        let plain = anyhow::anyhow!("no more").context("no start");
        assert_eq!(rendered(&plain), "error: no start\ncaused by: no more\n");
    }

    #[test]
    fn a_cause_in_the_text_of_another_is_not_repeated() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let read = ConfigError::Read { path: "a".to_owned(), source };
        let said = format!("error: no start\ncaused by: {read}\n");
        assert_eq!(rendered(&anyhow::Error::from(read).context("no start")), said);
    }
}
