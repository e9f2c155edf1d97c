//! The arms of an evaluation: methods to get an answer from a large model.

use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::episode::EpisodeError;
use crate::task::Task;

use super::EvalError;
use super::rows::ArmAnswer;

mod policy;
mod prompt;

pub use policy::{PolicyArm, PolicySetup};
pub use prompt::{BriefSources, PLACEHOLDER, Prompt, PromptArm};

/// The syntax of arms, for errors.
pub const FORMS: &str = "write `direct`, `cot`, `template:FILE`, `policy:MODEL`, `first-prompt:MODEL`, `self-policy`, `script:COMMAND`, `self-consistency:K`, `self-consistency:K:FILE` or `prompt-search`, with `NAME=` before it for a name of its own";

/// A method to get an answer.
#[async_trait]
pub trait Arm: Send + Sync {
    /// Its name in the report.
    fn name(&self) -> &str;

    /// Everything its answers depend on besides the question and the seed.
    fn identity(&self) -> &str;

    /// Answers a question.
    async fn answer(&self, task: &Task, seed: u64) -> Result<ArmAnswer, EpisodeError>;
}

/// An arm as it is configured: `[NAME=]METHOD[:ARGUMENT]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArmSpec {
    /// Its name in the report.
    pub name: String,
    /// Its method.
    pub method: Method,
}

/// The method of an arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Asks the large model the question.
    Direct,
    /// Asks it to think step by step before it answers.
    ChainOfThought,
    /// Asks it by the template in this file.
    Template(PathBuf),
    /// Lets a policy prompt it: a folder, a `.gguf` file or a Hugging Face id.
    Policy(String),
    /// Lets a policy write one prompt, whose reply is the answer: what its further turns add is the
    /// difference to [`Method::Policy`].
    FirstPrompt(String),
    /// Has the large model act as the policy itself.
    SelfPolicy,
    /// Has a program act as the policy: a command and its arguments, run once for each turn.
    Script(String),
    /// Takes the most frequent of this many answers to a step-by-step prompt, or to the one in the
    /// file.
    SelfConsistency(usize, Option<PathBuf>),
    /// Asks it by a prompt that is searched for first, on training questions.
    PromptSearch,
}

impl FromStr for ArmSpec {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        let wrong =
            |reason: &str| EvalError::Arm { arm: text.to_owned(), reason: reason.to_owned() };
        let (name, arm) = match text.split_once('=') {
            // Otherwise it belongs to the argument.
            Some((name, arm)) if !name.contains(':') => (name.trim(), arm.trim()),
            _ => (text.trim(), text.trim()),
        };
        let (method, argument) = match arm.split_once(':') {
            Some((method, argument)) => (method, Some(argument)),
            None => (arm, None),
        };
        let method = match (method, argument) {
            ("direct", None) => Method::Direct,
            ("cot", None) => Method::ChainOfThought,
            ("prompt-search", None) => Method::PromptSearch,
            ("self-policy", None) => Method::SelfPolicy,
            ("script", Some(command)) if !command.trim().is_empty() => {
                Method::Script(command.trim().to_owned())
            }
            ("template", Some(file)) if !file.is_empty() => Method::Template(file.into()),
            ("policy", Some(model)) if !model.is_empty() => Method::Policy(model.to_owned()),
            ("first-prompt", Some(model)) if !model.is_empty() => {
                Method::FirstPrompt(model.to_owned())
            }
            ("self-consistency", Some(argument)) => {
                let (k, file) = match argument.split_once(':') {
                    Some((k, file)) => (k, Some(file.into())),
                    None => (argument, None),
                };
                match k.parse() {
                    Ok(k @ 1..=100) => Method::SelfConsistency(k, file),
                    _ => return Err(wrong("K must be a number from 1 to 100")),
                }
            }
            ("direct" | "cot" | "prompt-search" | "self-policy", Some(_)) => {
                return Err(wrong("it takes no argument"));
            }
            ("template" | "policy" | "first-prompt" | "script" | "self-consistency", _) => {
                return Err(wrong("its argument is missing"));
            }
            _ => return Err(wrong("there is no such method")),
        };
        if name.is_empty() {
            return Err(wrong("its name is empty"));
        }
        Ok(Self { name: name.to_owned(), method })
    }
}

impl TryFrom<String> for ArmSpec {
    type Error = EvalError;

    fn try_from(text: String) -> Result<Self, EvalError> {
        text.parse()
    }
}

impl From<ArmSpec> for String {
    fn from(spec: ArmSpec) -> Self {
        let method = spec.method.to_string();
        if spec.name == method { method } else { format!("{}={method}", spec.name) }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::ChainOfThought => f.write_str("cot"),
            Self::Template(file) => write!(f, "template:{}", file.display()),
            Self::Policy(model) => write!(f, "policy:{model}"),
            Self::FirstPrompt(model) => write!(f, "first-prompt:{model}"),
            Self::SelfPolicy => f.write_str("self-policy"),
            Self::Script(command) => write!(f, "script:{command}"),
            Self::SelfConsistency(k, None) => write!(f, "self-consistency:{k}"),
            Self::SelfConsistency(k, Some(file)) => {
                write!(f, "self-consistency:{k}:{}", file.display())
            }
            Self::PromptSearch => f.write_str("prompt-search"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::Hint;

    #[test]
    fn arms_are_read_and_written() {
        for (text, name, method) in [
            ("direct", "direct", Method::Direct),
            ("plain=cot", "plain", Method::ChainOfThought),
            ("template:a/b.j2", "template:a/b.j2", Method::Template("a/b.j2".into())),
            (
                "policy:Qwen/Qwen3-4B",
                "policy:Qwen/Qwen3-4B",
                Method::Policy("Qwen/Qwen3-4B".into()),
            ),
            ("one=first-prompt:a/b", "one", Method::FirstPrompt("a/b".into())),
            ("vote=self-consistency:5", "vote", Method::SelfConsistency(5, None)),
            ("v=self-consistency:3:a/b.j2", "v", Method::SelfConsistency(3, Some("a/b.j2".into()))),
            ("prompt-search", "prompt-search", Method::PromptSearch),
            ("self-policy", "self-policy", Method::SelfPolicy),
            ("s=script:python3 sum.py", "s", Method::Script("python3 sum.py".into())),
            ("script:x --lr=1", "script:x --lr=1", Method::Script("x --lr=1".into())),
            ("s=script:x --lr=1", "s", Method::Script("x --lr=1".into())),
            (
                "policy:runs/lr=1e-4/model",
                "policy:runs/lr=1e-4/model",
                Method::Policy("runs/lr=1e-4/model".into()),
            ),
        ] {
            let spec: ArmSpec = text.parse().unwrap();
            assert_eq!(spec, ArmSpec { name: name.into(), method });
            assert_eq!(String::from(spec), text);
        }
    }

    #[test]
    fn what_is_no_arm_says_why() {
        for (text, reason) in [
            ("dirct", "there is no such method"),
            ("direct:x", "it takes no argument"),
            ("policy:", "its argument is missing"),
            ("policy", "its argument is missing"),
            ("first-prompt:", "its argument is missing"),
            ("script: ", "its argument is missing"),
            ("self-policy:x", "it takes no argument"),
            ("self-consistency:0", "K must be a number"),
            ("=cot", "its name is empty"),
            ("", "there is no such method"),
        ] {
            let error = text.parse::<ArmSpec>().unwrap_err().explained();
            assert!(error.contains(reason) && error.contains("hint: write `direct`"), "{error}");
        }
    }
}
