//! A request of the Responses API.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{input, tools};
use crate::http::error::ApiError;
use crate::http::wire::chat_request::{ChatRequest, StreamOptions};
use crate::http::wire::options::Options;

/// A Responses request whose model is `prompt-r1` or `prompt-r1/NAME`. Nothing is stored:
/// `previous_response_id`, `conversation`, `prompt` and `background` are refused by name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "prompt-r1",
    "input": "Which currency is used where the author of Hamlet was born?"}))]
pub(in crate::http) struct ResponsesRequest {
    /// `prompt-r1`, or `prompt-r1/` and the name of a large model; with `:` and the name of a
    /// policy after `prompt-r1`, that policy is used. The name of a large model in this process
    /// stands for that model alone. Any other model is passed through to the endpoint that serves
    /// it, with fields that are not listed here.
    #[schema(example = "prompt-r1")]
    pub(in crate::http) model: String,
    /// The question, or the items of a conversation: messages, function calls and their outputs.
    /// Reasoning items before calls of tools reach models that need them; others are left out.
    #[schema(value_type = Input)]
    input: Value,
    /// A system message before the conversation.
    instructions: Option<String>,
    /// Whether to send events as they happen. Default: false.
    pub(in crate::http) stream: Option<bool>,
    /// Has no effect: nothing is obfuscated.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    #[allow(dead_code)]
    stream_options: Option<StreamOptions>,
    /// How the episode is run, and whether its turns are shown.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    prompt_r1: Option<Options>,
    /// How freely both models sample, from 0 to 2. Default: their own.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Nucleus of both models' sampling, from 0 to 1. Default: their own.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Tokens of the final answer at most; thoughts, prompts and replies do not count.
    #[schema(minimum = 1, format = "uint64")]
    max_output_tokens: Option<u64>,
    /// Has no effect: there are no built-in tools.
    #[schema(format = "uint64")]
    max_tool_calls: Option<u64>,
    /// The form of the answer's text. With one of JSON, the large model writes the final answer.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    text: Option<Text>,
    /// How hard the large model thinks. The policy's thoughts are always shown.
    #[serde(default, deserialize_with = "crate::http::wire::object")]
    reasoning: Option<Reasoning>,
    /// Functions and custom tools, also in namespaces, that the large model may call where it
    /// writes the final answer. Web search is dropped if there are other tools, or if it has no
    /// access to the web.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Which tool to call.
    tool_choice: Option<Value>,
    /// Whether several tools may be called at once.
    parallel_tool_calls: Option<bool>,
    /// `message.output_text.logprobs` requests log-probabilities of the answer. Unknown values are
    /// refused.
    include: Option<Vec<String>>,
    /// Alternatives to show for each token of the answer.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u32>,
    /// Returned unchanged.
    metadata: Option<Map<String, Value>>,
    /// Handed to the large model with every call.
    user: Option<String>,
    /// Handed to the large model with every call.
    safety_identifier: Option<String>,
    /// Handed to the large model with every call.
    prompt_cache_key: Option<String>,
    /// Handed to the large model with every call.
    prompt_cache_retention: Option<Value>,
    /// Handed to the large model with every call.
    prompt_cache_options: Option<Value>,
    /// Handed to the large model with every call.
    moderation: Option<Value>,
    /// Handed to the large model with every call.
    service_tier: Option<String>,
    /// Unless false, items of the response can be referred to for a while; they are held in memory.
    /// Nothing is stored, and the response says so.
    pub(in crate::http) store: Option<bool>,
    /// Has no effect: clients' metadata is not passed on.
    #[allow(dead_code)]
    client_metadata: Option<Value>,
    /// Only `disabled`.
    truncation: Option<String>,
    /// Only false.
    background: Option<bool>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    top_k: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    min_p: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    repetition_penalty: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    chat_template_kwargs: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    enable_thinking: Option<Value>,
    /// Refused: nothing is stored.
    #[schema(ignore)]
    previous_response_id: Option<Value>,
    /// Refused: nothing is stored.
    #[schema(ignore)]
    conversation: Option<Value>,
    /// Refused: nothing is stored.
    #[schema(ignore)]
    prompt: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    context_management: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    background_options: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    access_programs: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    image: Option<Value>,
}

/// A question, or the items of a conversation.
#[derive(ToSchema)]
#[allow(dead_code)] // Describes what `input::messages` lets in.
#[serde(untagged)]
pub(in crate::http) enum Input {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

/// The form of the answer's text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Text {
    /// `text`, `json_object`, or `json_schema` with `name` and `schema`.
    format: Option<Map<String, Value>>,
    /// Handed to the large model with every call.
    verbosity: Option<String>,
}

/// How hard the large model thinks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Reasoning {
    /// Handed to the large model with every call.
    effort: Option<String>,
    /// Has no effect: the policy's thoughts are the summary.
    summary: Option<String>,
    /// The former name of `summary`.
    generate_summary: Option<String>,
    /// `auto` or `current_turn`: thoughts of earlier answers are not read again.
    context: Option<String>,
    /// Only `standard`.
    mode: Option<String>,
}

/// How a chat request's fields are called here.
pub(in crate::http) const NAMES: [(&str, &str); 5] = [
    ("messages", "input"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_tokens", "max_output_tokens"),
    ("logprobs", "include"),
];

const LOGPROBS: &str = "message.output_text.logprobs";
/// Other values that may be requested. There are no encrypted thoughts, and no results of built-in
/// tools.
const INCLUDABLE: [&str; 7] = [
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
];

impl ResponsesRequest {
    fn refuse(&self) -> Result<(), ApiError> {
        let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let reasoning = self.reasoning.as_ref();
        let refused = [
            ("previous_response_id", is_set(&self.previous_response_id)),
            ("conversation", is_set(&self.conversation)),
            ("prompt", is_set(&self.prompt)),
            ("background", self.background == Some(true)),
            ("context_management", is_set(&self.context_management)),
            ("background_options", is_set(&self.background_options)),
            ("access_programs", is_set(&self.access_programs)),
            ("image", is_set(&self.image)),
            (
                "reasoning.context",
                reasoning.and_then(|it| it.context.as_deref()) == Some("all_turns"),
            ),
            (
                "reasoning.mode",
                reasoning.and_then(|it| it.mode.as_ref()).is_some_and(|mode| mode != "standard"),
            ),
            ("truncation", self.truncation.as_ref().is_some_and(|it| it != "disabled")),
        ];
        if let Some((name, _)) = refused.into_iter().find(|(_, is_set)| *is_set) {
            let hint = match name {
                "truncation" | "context_management" => "nothing of a conversation is left out here",
                "background" | "background_options" => "use `stream` for answers that take long",
                "access_programs" | "image" | "reasoning.context" | "reasoning.mode" => {
                    "leave it out, or name a large model that is passed through"
                }
                _ => "nothing is stored here: send the whole conversation in `input`",
            };
            let message = reason!(
                "`{name}` is not supported with the model `{}`", self.model;
                hint: "{hint}"
            );
            return Err(ApiError::bad_request("unsupported_parameter", message).with_param(name));
        }
        for (index, name) in self.include.iter().flatten().enumerate() {
            if name != LOGPROBS && !INCLUDABLE.contains(&&**name) {
                let param = format!("include[{index}]");
                return Err(ApiError::invalid(&param, format!("`{param}` is not known")));
            }
        }
        Ok(())
    }

    fn wants_logprobs(&self) -> bool {
        self.include.iter().flatten().any(|name| name == LOGPROBS)
            || self.top_logprobs.is_some_and(|count| count > 0)
    }

    /// The fields that the response repeats; the metadata is taken out of the request.
    pub(in crate::http) fn head(&mut self, id: &str, created: u64) -> Map<String, Value> {
        let text = self.text.as_ref();
        let format = text.and_then(|text| text.format.clone().map(Value::from));
        let reasoning = self.reasoning.as_ref();
        let summary = reasoning.and_then(|it| it.summary.as_ref().or(it.generate_summary.as_ref()));
        let head = json!({
            "id": id,
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "metadata": {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": null,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": reasoning.and_then(|it| it.effort.as_ref()), "summary": summary},
            "safety_identifier": self.safety_identifier,
            "service_tier": self.service_tier.as_deref().unwrap_or("default"),
            "store": false,
            "temperature": self.temperature,
            "text": {
                "format": format.unwrap_or_else(|| json!({"type": "text"})),
                "verbosity": text.and_then(|text| text.verbosity.as_ref()),
            },
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": tools::wanted(self.tools.clone().unwrap_or_default()),
            "top_logprobs": self.top_logprobs.unwrap_or(0),
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": null,
            "user": self.user,
        });
        let Value::Object(mut head) = head else { return Map::new() };
        if let Some(metadata) = self.metadata.take() {
            head.insert("metadata".to_owned(), metadata.into());
        }
        head
    }

    /// The same as a chat request. `known` gives the items of earlier responses by their ids.
    pub(in crate::http) fn into_chat(
        self,
        mut known: impl FnMut(&str) -> Result<Option<Value>, ApiError>,
    ) -> Result<ChatRequest, ApiError> {
        self.refuse()?;
        let wants_logprobs = self.wants_logprobs();
        let tools = tools::to_chat(tools::wanted(self.tools.unwrap_or_default()))?;
        let tools = Some(tools).filter(|tools| !tools.is_empty());
        let has_tools = tools.is_some();
        let choice = self.tool_choice.filter(|choice| !choice.is_null());
        // Default values are sent even without tools.
        let is_default = |choice: &Value| matches!(choice.as_str(), Some("auto" | "none"));
        let choice = choice.filter(|choice| has_tools || !is_default(choice));
        let (format, verbosity) = match self.text {
            Some(text) => (text.format.map(response_format).transpose()?, text.verbosity),
            None => (None, None),
        };
        Ok(ChatRequest {
            model: self.model,
            messages: input::messages(self.instructions, self.input, &mut known)?,
            prompt_r1: self.prompt_r1,
            temperature: self.temperature,
            top_p: self.top_p,
            own_max_tokens: self.max_output_tokens,
            response_format: format,
            verbosity,
            reasoning_effort: self.reasoning.and_then(|reasoning| reasoning.effort),
            tools,
            tool_choice: choice.map(tools::choice_to_chat).transpose()?,
            parallel_tool_calls: self.parallel_tool_calls.filter(|_| has_tools),
            logprobs: wants_logprobs.then_some(true),
            top_logprobs: self.top_logprobs,
            user: self.user,
            safety_identifier: self.safety_identifier,
            prompt_cache_key: self.prompt_cache_key,
            prompt_cache_retention: self.prompt_cache_retention,
            prompt_cache_options: self.prompt_cache_options,
            moderation: self.moderation,
            service_tier: self.service_tier,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            chat_template_kwargs: self.chat_template_kwargs,
            enable_thinking: self.enable_thinking,
            ..ChatRequest::default()
        })
    }
}

/// The format of a chat request: what describes a schema stands one level deeper there.
fn response_format(mut format: Map<String, Value>) -> Result<Value, ApiError> {
    const KNOWN: [&str; 5] = ["type", "name", "schema", "description", "strict"];
    if let Some(name) = format.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        let param = format!("text.format.{name}");
        let message = format!("`{}` is not known", crate::http::error::shorten(&param));
        return Err(ApiError::bad_request("unknown_field", message).with_param(&param));
    }
    let kind = format.shift_remove("type").unwrap_or_default();
    Ok(match kind.as_str() {
        Some("json_schema") => json!({"type": kind, "json_schema": format}),
        _ => json!({"type": kind}),
    })
}
