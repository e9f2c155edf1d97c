//! A request of the Messages API.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::blocks;
use crate::http::error::{ApiError, shorten};
use crate::http::wire::chat_request::{ChatRequest, Stop};
use crate::http::wire::options::{Options, between};

/// A Messages request whose model is `prompt-r1` or `prompt-r1/NAME`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "prompt-r1", "max_tokens": 1024, "messages": [
    {"role": "user", "content": "Which currency is used where the author of Hamlet was born?"}]}))]
pub(in crate::http) struct MessagesRequest {
    /// `prompt-r1`, or `prompt-r1/` and the name of a large model; with `:` and the name of a
    /// policy after `prompt-r1`, that policy is used. The name of a large model in this process
    /// stands for that model alone. Any other model is passed through to the endpoint that serves
    /// it, with fields that are not listed here.
    #[schema(example = "prompt-r1")]
    pub(in crate::http) model: String,
    /// The conversation. Thoughts beside calls of tools reach models that need them; others are left
    /// out.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Value>,
    /// Tokens of the final answer at most; thoughts, prompts and replies do not count.
    #[schema(minimum = 1, format = "uint64")]
    max_tokens: u64,
    /// A system message before the conversation: a string, or blocks of text.
    system: Option<Value>,
    /// Whether to send events as they happen. Default: false.
    pub(in crate::http) stream: Option<bool>,
    /// How the episode is run, and whether its turns are shown.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    prompt_r1: Option<Options>,
    /// How freely both models sample, from 0 to 1. Default: their own.
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    /// Nucleus of both models' sampling, from 0 to 1. Default: their own.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Handed to the large model with every call.
    top_k: Option<Value>,
    /// Up to four texts before which the answer ends.
    stop_sequences: Option<Vec<String>>,
    /// Whether the policy's thoughts are shown: `enabled`, `adaptive` or `disabled`. Default:
    /// `disabled`.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    thinking: Option<Thinking>,
    /// Tools of the caller's that the large model may call where it writes the final answer.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Which tool to call.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    tool_choice: Option<ToolChoice>,
    /// The form of the answer, and how hard the large model thinks.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    output_config: Option<OutputConfig>,
    /// The same as `output_config.format`.
    #[schema(value_type = Option<Object>)]
    output_format: Option<Value>,
    /// Its `user_id` is handed to the large model with every call.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    metadata: Option<Metadata>,
    /// `auto` or `standard_only`; has no effect.
    #[allow(dead_code)]
    service_tier: Option<String>,
    /// Has no effect: caching is up to the endpoint.
    #[schema(ignore)]
    #[allow(dead_code)]
    cache_control: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    container: Option<Value>,
    /// Refused, unless it clears nothing but thoughts, as is done anyway.
    #[schema(ignore)]
    context_management: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    inference_geo: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    mcp_servers: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    diagnostics: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    speed: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    user_profile_id: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    workspace_id: Option<Value>,
}

/// Whether thoughts are shown.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    r#type: String,
    /// Has no effect: the limits of an episode are in `prompt_r1`.
    #[schema(format = "uint64")]
    #[allow(dead_code)]
    budget_tokens: Option<u64>,
    /// `omitted` shows no thoughts.
    display: Option<String>,
}

/// Which tool to call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ToolChoice {
    /// `auto`, `any`, `tool` or `none`.
    r#type: String,
    /// The tool to call, for `tool`.
    name: Option<String>,
    /// Whether one tool at most may be called.
    disable_parallel_tool_use: Option<bool>,
}

/// The form of the answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OutputConfig {
    /// `json_schema` with a `schema`; the large model writes the final answer then.
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    /// Handed to the large model with every call, as `reasoning_effort`.
    effort: Option<String>,
}

/// About the request.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Metadata {
    /// An id of the user.
    user_id: Option<String>,
}

/// How a chat request's fields are called here.
pub(in crate::http) const NAMES: [(&str, &str); 3] = [
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    ("stop", "stop_sequences"),
];

impl MessagesRequest {
    /// Whether the thoughts are part of the answer.
    pub(in crate::http) fn shows_thoughts(&self) -> bool {
        self.thinking.as_ref().is_some_and(|thinking| {
            thinking.r#type != "disabled" && thinking.display.as_deref() != Some("omitted")
        })
    }

    fn refuse(&self) -> Result<(), ApiError> {
        let context = self.context_management.clone().filter(|it| !clears_thoughts(it));
        let refused = [
            ("container", &self.container),
            ("context_management", &context),
            ("inference_geo", &self.inference_geo),
            ("mcp_servers", &self.mcp_servers),
            ("diagnostics", &self.diagnostics),
            ("speed", &self.speed),
            ("user_profile_id", &self.user_profile_id),
            ("workspace_id", &self.workspace_id),
        ];
        let is_set = |value: &Option<Value>| {
            value.as_ref().is_some_and(|it| !it.is_null() && *it != json!([]))
        };
        if let Some((name, _)) = refused.into_iter().find(|(_, value)| is_set(value)) {
            let message = format!("`{name}` is not supported with the model `{}`", self.model);
            return Err(ApiError::bad_request("unsupported_parameter", message).with_param(name));
        }
        let Some(Thinking { r#type: kind, .. }) = &self.thinking else { return Ok(()) };
        one_of("thinking.type", kind, &["enabled", "adaptive", "disabled"])
    }

    /// The same as a chat request.
    pub(in crate::http) fn into_chat(self) -> Result<ChatRequest, ApiError> {
        self.refuse()?;
        between("temperature", self.temperature, 0.0, 1.0)?;
        let tools = self.tools.filter(|tools| !tools.is_empty());
        let has_tools = tools.is_some();
        let choice = self.tool_choice.filter(|choice| has_tools || choice.r#type != "none");
        let is_serial = choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
        let output = self.output_config;
        let effort = output.as_ref().and_then(|output| output.effort.clone());
        let format = output.and_then(|output| output.format).or(self.output_format);
        let format = format.filter(|format| !format.is_null()).map(response_format).transpose()?;
        Ok(ChatRequest {
            model: self.model,
            messages: blocks::messages(self.system, self.messages)?,
            prompt_r1: self.prompt_r1,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            own_max_tokens: Some(self.max_tokens),
            stop: self.stop_sequences.map(Stop::Several),
            names_stop: true,
            response_format: format,
            reasoning_effort: effort,
            tools: tools.map(tools_to_chat).transpose()?,
            tool_choice: choice.map(choice_to_chat).transpose()?,
            parallel_tool_calls: is_serial.filter(|_| has_tools).map(|is_serial| !is_serial),
            user: self.metadata.and_then(|metadata| metadata.user_id),
            ..ChatRequest::default()
        })
    }
}

/// Whether a context is managed by clearing earlier thoughts, and nothing else.
fn clears_thoughts(management: &Value) -> bool {
    let mut edits = management.get("edits").and_then(Value::as_array).into_iter().flatten();
    management.is_object()
        && edits.all(|edit| {
            let kind = edit.get("type").and_then(Value::as_str);
            kind.is_some_and(|kind| kind.starts_with("clear_thinking"))
        })
}

fn one_of(param: &str, value: &str, known: &[&str]) -> Result<(), ApiError> {
    if known.contains(&value) {
        return Ok(());
    }
    let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    let message = reason!(
        "`{param}` = `{}` is not known", shorten(value);
        hint: "there are {}", names.join(", ")
    );
    Err(ApiError::invalid(param, message))
}

fn response_format(format: Value) -> Result<Value, ApiError> {
    one_of(
        "output_config.format.type",
        format.get("type").and_then(Value::as_str).unwrap_or_default(),
        &["json_schema"],
    )?;
    let mut inner = json!({"name": "answer", "strict": true});
    if let Some(schema) = format.get("schema") {
        inner["schema"] = schema.clone();
    }
    Ok(json!({"type": "json_schema", "json_schema": inner}))
}

fn tools_to_chat(tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let tools = tools.into_iter().enumerate();
    tools.map(|(index, tool)| tool_to_chat(&format!("tools[{index}]"), tool)).collect()
}

fn tool_to_chat(param: &str, tool: Value) -> Result<Value, ApiError> {
    let Value::Object(mut tool) = tool else {
        return Err(ApiError::invalid(param, format!("`{param}` is not an object")));
    };
    if let Some(kind) = tool.get("type").filter(|kind| !kind.is_null() && **kind != "custom") {
        let param = format!("{param}.type");
        let kind = shorten(kind.as_str().unwrap_or_default());
        let message = reason!(
            "`{param}` = `{kind}` is not supported";
            hint: "tools of your own are"
        );
        return Err(ApiError::bad_request("unsupported_parameter", message).with_param(&param));
    }
    let mut function = Map::new();
    for (own, name) in [
        ("name", "name"),
        ("description", "description"),
        ("input_schema", "parameters"),
        ("strict", "strict"),
    ] {
        if let Some(value) = tool.shift_remove(own).filter(|value| !value.is_null()) {
            function.insert(name.to_owned(), value);
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

fn choice_to_chat(choice: ToolChoice) -> Result<Value, ApiError> {
    let kind = choice.r#type.as_str();
    one_of("tool_choice.type", kind, &["auto", "any", "tool", "none"])?;
    Ok(match kind {
        "any" => "required".into(),
        "tool" => json!({"type": "function", "function": {"name": choice.name}}),
        other => other.into(),
    })
}
