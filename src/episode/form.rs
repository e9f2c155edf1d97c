//! Requirements on an answer besides being right.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

/// The form of an answer.
#[derive(Debug, Clone, Default)]
pub struct AnswerForm {
    /// Fields for those calls of the large model whose reply is the answer: `max_tokens`,
    /// `tools`…
    pub params: Arc<Map<String, Value>>,
    /// Fields of the same calls that are sent only if the endpoint accepts them, such as `stop`. A
    /// field that it refuses is sent under its other name, or left out.
    pub optional_params: Map<String, Value>,
    /// Whether only the large model can give this form. If so, the policy's answer is a draft, and
    /// one more call turns it into the answer.
    pub by_large_model: bool,
    /// Checks an answer. One that fails is requested once more.
    pub check: Option<AnswerCheck>,
}

/// The reason why an answer is not acceptable, once that is known.
pub type Verdict = BoxFuture<'static, Result<(), String>>;

/// Says what is wrong with an answer.
#[derive(Clone)]
pub struct AnswerCheck(Arc<dyn Fn(String) -> Verdict + Send + Sync>);

impl AnswerCheck {
    /// Wraps a function that checks an answer.
    pub fn new(verdict: impl Fn(String) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Arc::new(verdict))
    }

    /// What is wrong with `answer`, if anything.
    pub fn verdict(&self, answer: String) -> Verdict {
        (self.0)(answer)
    }
}

/// Characters of a tool's description that the policy is shown.
const DESCRIPTION_CHARS: usize = 300;

impl AnswerForm {
    /// The tools that the answer may call, as `(name, description)`, with long descriptions
    /// truncated.
    pub fn tools(&self) -> Vec<(String, String)> {
        let tools = self.params.get("tools").and_then(Value::as_array);
        if self.params.get("tool_choice").and_then(Value::as_str) == Some("none") {
            return Vec::new();
        }
        let described = |tool: &Value| {
            let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function");
            let tool = tool.get(kind)?;
            let text = |key: &str| tool.get(key).and_then(Value::as_str).unwrap_or_default();
            let description = text("description").chars().take(DESCRIPTION_CHARS).collect();
            Some((text("name").to_owned(), description))
        };
        tools.into_iter().flatten().filter_map(described).collect()
    }

    /// Whether the answer must call a tool: its result cannot be known before.
    pub fn must_call(&self) -> bool {
        let Some(choice) = self.params.get("tool_choice") else { return false };
        match choice.get("type").and_then(Value::as_str) {
            Some("allowed_tools") => choice["allowed_tools"]["mode"] == "required",
            Some(_) => true,
            None => choice == "required",
        }
    }

    /// Whether an answer without the form is still usable.
    pub(super) fn is_optional(&self) -> bool {
        self.check.is_none() && !self.params.contains_key("tools")
    }
}

impl fmt::Debug for AnswerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerCheck")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(params: Value) -> AnswerForm {
        let params = params.as_object().cloned().unwrap_or_default();
        AnswerForm { params: params.into(), ..AnswerForm::default() }
    }

    #[test]
    fn tools_are_named_and_described() {
        let long = "é".repeat(1000);
        let tools = json!([
            {"type": "function", "function": {"name": "weather", "description": "of a city"}},
            {"type": "custom", "custom": {"name": "shell", "description": long}},
            {"function": {"name": "bare"}},
            {"type": "unknown"},
        ]);
        let seen = form(json!({"tools": tools})).tools();
        let names: Vec<&str> = seen.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["weather", "shell", "bare"]);
        assert_eq!(seen[0].1, "of a city");
        assert_eq!(seen[1].1.chars().count(), DESCRIPTION_CHARS);
        assert_eq!(form(json!({"tools": tools, "tool_choice": "none"})).tools(), []);
    }

    #[test]
    fn what_must_be_called() {
        let allowed =
            |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode}});
        for (choice, must) in [
            (json!("auto"), false),
            (json!("none"), false),
            (json!("required"), true),
            (json!({"type": "function", "function": {"name": "f"}}), true),
            (allowed("auto"), false),
            (allowed("required"), true),
            (json!(null), false),
        ] {
            assert_eq!(form(json!({"tool_choice": choice})).must_call(), must, "{choice}");
        }
        assert!(!form(json!({})).must_call());
    }
}
