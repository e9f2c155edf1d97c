//! What is asked of an answer beside its being right.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// The form of an answer.
#[derive(Debug, Clone, Default)]
pub struct AnswerForm {
    /// Fields for those calls of the large model whose reply is the answer: `max_tokens`, `stop`,
    /// `tools`…
    pub params: Map<String, Value>,
    /// Whether only the large model can give this form: then the policy's answer is a draft, of
    /// which one more call makes the answer.
    pub by_large_model: bool,
    /// Says what is wrong with such an answer; it is then asked for once more.
    pub check: Option<Check>,
}

type Verdict = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Says what is wrong with an answer.
#[derive(Clone)]
pub struct Check(Arc<Verdict>);

impl Check {
    /// Wraps the function that tells.
    pub fn new(verdict: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(verdict))
    }

    /// What is wrong with `answer`, if anything.
    pub fn verdict(&self, answer: &str) -> Result<(), String> {
        (self.0)(answer)
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}
