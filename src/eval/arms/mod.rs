//! The arms of an evaluation: ways to get an answer out of a large model.

use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::episode::EpisodeError;
use crate::task::Task;

use super::EvalError;
use super::rows::Attempt;

mod policy;
mod prompt;

pub use policy::{PolicyArm, PolicySetup};
pub use prompt::{PLACE, Prompt, PromptArm};

/// How arms are written, for errors.
pub const FORMS: &str = "write `direct`, `cot`, `template:FILE`, `policy:MODEL`, `self-consistency:K` or `prompt-search`, with `NAME=` before it for a name of its own";

/// A way to get an answer.
#[async_trait]
pub trait Arm: Send + Sync {
    /// Its name in the report.
    fn name(&self) -> &str;

    /// What its answers depend on beside the question and the seed.
    fn identity(&self) -> &str;

    /// Answers a question.
    async fn answer(&self, task: &Task, seed: u64) -> Result<Attempt, EpisodeError>;
}

/// An arm as it is configured: `[NAME=]METHOD[:ARGUMENT]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArmSpec {
    /// Its name in the report.
    pub name: String,
    /// What it does.
    pub method: Method,
}

/// What an arm does.
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
    /// Takes the most frequent of this many step-by-step answers.
    SelfConsistency(usize),
    /// Asks it by a prompt that is searched for first, on training questions.
    PromptSearch,
}

impl FromStr for ArmSpec {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        let wrong =
            |reason: &str| EvalError::Arm { arm: text.to_owned(), reason: reason.to_owned() };
        let (name, arm) = match text.split_once('=') {
            Some((name, arm)) => (name.trim(), arm.trim()),
            None => (text.trim(), text.trim()),
        };
        let (method, argument) = match arm.split_once(':') {
            Some((method, argument)) => (method, Some(argument)),
            None => (arm, None),
        };
        let method = match (method, argument) {
            ("direct", None) => Method::Direct,
            ("cot", None) => Method::ChainOfThought,
            ("prompt-search", None) => Method::PromptSearch,
            ("template", Some(file)) if !file.is_empty() => Method::Template(file.into()),
            ("policy", Some(model)) if !model.is_empty() => Method::Policy(model.to_owned()),
            ("self-consistency", Some(k)) => match k.parse() {
                Ok(k @ 1..=100) => Method::SelfConsistency(k),
                _ => return Err(wrong("K must be a number from 1 to 100")),
            },
            ("direct" | "cot" | "prompt-search", Some(_)) => {
                return Err(wrong("it takes no argument"));
            }
            ("template" | "policy" | "self-consistency", _) => {
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
            Self::SelfConsistency(k) => write!(f, "self-consistency:{k}"),
            Self::PromptSearch => f.write_str("prompt-search"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
            ("vote=self-consistency:5", "vote", Method::SelfConsistency(5)),
            ("prompt-search", "prompt-search", Method::PromptSearch),
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
            ("self-consistency:0", "K must be a number"),
            ("=cot", "its name is empty"),
            ("", "there is no such method"),
        ] {
            let error = text.parse::<ArmSpec>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("hint: write `direct`"), "{error}");
        }
    }
}
