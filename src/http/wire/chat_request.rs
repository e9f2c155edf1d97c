//! A chat request for the loop: each field is applied to the final answer, or refused by name.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::options::{Options, between};
use super::question::Message;
use crate::chat::ChatMessage;
use crate::episode::AnswerForm;
use crate::http::config::Bounds;
use crate::http::episode::stop_sequences::StopSequences;
use crate::http::error::ApiError;
use crate::http::json_schema;

/// A Chat Completions request whose model is `prompt-r1` or `prompt-r1/NAME`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "prompt-r1", "messages": [
    {"role": "user", "content": "Which currency is used where the author of Hamlet was born?"}]}))]
pub(in crate::http) struct ChatRequest {
    /// `prompt-r1`, or `prompt-r1/` and the name of a large model; with `:` and the name of a
    /// policy after `prompt-r1`, that policy is used. The name of a large model in this process
    /// stands for that model alone. Any other model is passed through to the endpoint that serves
    /// it, with fields that are not listed here.
    #[schema(example = "prompt-r1")]
    pub(in crate::http) model: String,
    /// The conversation; its last user message is the question.
    #[schema(value_type = Vec<Message>)]
    pub(in crate::http) messages: Vec<ChatMessage>,
    /// Whether to send chunks as they are made. Default: false.
    pub(in crate::http) stream: Option<bool>,
    /// Stream options.
    #[serde(default, deserialize_with = "super::object")]
    pub(in crate::http) stream_options: Option<StreamOptions>,
    /// How the episode is run, and whether its turns are shown.
    #[serde(default, deserialize_with = "super::object")]
    pub(in crate::http) prompt_r1: Option<Options>,
    /// Answers to make, each by an episode of its own, from 1 to 16. Default: 1.
    #[schema(minimum = 1, maximum = 16)]
    pub(in crate::http) n: Option<u32>,
    /// Equal requests with equal seeds give equal episodes. Default: a new seed each time.
    pub(in crate::http) seed: Option<i64>,
    /// How freely both models sample, from 0 to 2. Default: their own.
    #[schema(minimum = 0, maximum = 2)]
    pub(in crate::http) temperature: Option<f64>,
    /// Nucleus of both models' sampling, from 0 to 1. Default: their own.
    #[schema(minimum = 0, maximum = 1)]
    pub(in crate::http) top_p: Option<f64>,
    /// Tokens of the final answer at most; thoughts, prompts and replies do not count.
    #[schema(minimum = 1, format = "uint64")]
    pub(in crate::http) max_tokens: Option<u64>,
    /// The same as `max_tokens`.
    #[schema(minimum = 1, format = "uint64")]
    pub(in crate::http) max_completion_tokens: Option<u64>,
    /// The same, where another protocol has another name for it: the endpoint may have either.
    #[serde(skip)]
    #[schema(ignore)]
    pub(in crate::http) own_max_tokens: Option<u64>,
    /// Up to four texts before which the answer ends.
    pub(in crate::http) stop: Option<Stop>,
    /// Whether the reply says which of them ended the answer, which endpoints do not say.
    #[serde(skip)]
    #[schema(ignore)]
    pub(in crate::http) names_stop: bool,
    /// The answer's form. With one of JSON, the large model writes the final answer. Patterns of a
    /// schema with look-around or back-references are not checked.
    pub(in crate::http) response_format: Option<Value>,
    /// Tools that the large model may call where it writes the final answer.
    pub(in crate::http) tools: Option<Vec<Value>>,
    /// Which tool to call; only beside `tools`.
    pub(in crate::http) tool_choice: Option<Value>,
    /// Whether several tools may be called at once; only beside `tools`.
    pub(in crate::http) parallel_tool_calls: Option<bool>,
    /// Where not 0, the large model writes the final answer with it.
    #[schema(minimum = -2, maximum = 2)]
    pub(in crate::http) frequency_penalty: Option<f64>,
    /// Where not 0, the large model writes the final answer with it.
    #[schema(minimum = -2, maximum = 2)]
    pub(in crate::http) presence_penalty: Option<f64>,
    /// Where not empty, the large model writes the final answer with it.
    pub(in crate::http) logit_bias: Option<Map<String, Value>>,
    /// Handed to the large model with every call.
    pub(in crate::http) user: Option<String>,
    /// Handed to the large model with every call.
    pub(in crate::http) safety_identifier: Option<String>,
    /// Handed to the large model with every call.
    pub(in crate::http) prompt_cache_key: Option<String>,
    /// Handed to the large model with every call.
    pub(in crate::http) metadata: Option<Map<String, Value>>,
    /// Handed to the large model with every call.
    pub(in crate::http) store: Option<bool>,
    /// Handed to the large model with every call.
    pub(in crate::http) service_tier: Option<String>,
    /// Handed to the large model with every call.
    pub(in crate::http) reasoning_effort: Option<String>,
    /// Handed to the large model with every call.
    pub(in crate::http) verbosity: Option<String>,
    /// Handed to the large model with every call.
    pub(in crate::http) prompt_cache_retention: Option<Value>,
    /// Handed to the large model with every call.
    pub(in crate::http) prompt_cache_options: Option<Value>,
    /// Handed to the large model with every call.
    pub(in crate::http) moderation: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    pub(in crate::http) top_k: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    pub(in crate::http) min_p: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    pub(in crate::http) repetition_penalty: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    pub(in crate::http) chat_template_kwargs: Option<Value>,
    /// Not OpenAI's, but common. Handed to the large model with every call.
    pub(in crate::http) enable_thinking: Option<Value>,
    /// Whether the final answer comes with log-probabilities: the large model writes it then, and
    /// must give them.
    pub(in crate::http) logprobs: Option<bool>,
    /// Alternatives to show for each token of the answer; only beside `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub(in crate::http) top_logprobs: Option<u32>,
    /// Only `["text"]`.
    pub(in crate::http) modalities: Option<Vec<String>>,
    /// Refused.
    #[schema(ignore)]
    pub(in crate::http) audio: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    pub(in crate::http) prediction: Option<Value>,
    /// Refused.
    #[schema(ignore)]
    pub(in crate::http) web_search_options: Option<Value>,
    /// Refused; `tools` took its place.
    #[schema(ignore)]
    pub(in crate::http) functions: Option<Value>,
    /// Refused; `tool_choice` took its place.
    #[schema(ignore)]
    pub(in crate::http) function_call: Option<Value>,
}

/// Stream options.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct StreamOptions {
    /// Whether a last chunk reports the usage. Default: false.
    pub(in crate::http) include_usage: Option<bool>,
    /// Makes no difference: nothing is obfuscated.
    #[allow(dead_code)]
    pub(in crate::http) include_obfuscation: Option<bool>,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(in crate::http) enum Stop {
    One(String),
    Several(Vec<String>),
}

/// Episodes of one request at most.
const MAX_CHOICES: u32 = 16;
/// Alternatives for a token at most, as OpenAI has it.
const MAX_LOGPROBS: u32 = 20;
/// Stop sequences at most, as OpenAI has it.
const MAX_STOPS: usize = 4;

impl ChatRequest {
    /// The number of answers.
    pub(in crate::http) fn choices(&self) -> Result<u32, ApiError> {
        match self.n.unwrap_or(1) {
            n @ 1..=MAX_CHOICES => Ok(n),
            n => {
                let message = format!("`n` = {n} is not between 1 and {MAX_CHOICES}");
                Err(ApiError::invalid("n", message))
            }
        }
    }

    /// Refuses fields that the loop cannot honour.
    pub(in crate::http) fn refuse(&self) -> Result<(), ApiError> {
        let is_text = |kinds: &Vec<String>| kinds.iter().all(|kind| kind == "text");
        let refused = [
            ("modalities", !self.modalities.as_ref().is_none_or(is_text)),
            ("audio", self.audio.is_some()),
            ("prediction", self.prediction.is_some()),
            ("web_search_options", self.web_search_options.is_some()),
            ("functions", self.functions.is_some()),
            ("function_call", self.function_call.is_some()),
        ];
        if let Some((name, _)) = refused.into_iter().find(|(_, is_set)| *is_set) {
            let model = &self.model;
            let message = reason!(
                "`{name}` is not supported with the model `{model}`";
                hint: "leave it out, or name a large model that is passed through"
            );
            return Err(ApiError::bad_request("unsupported_parameter", message).with_param(name));
        }
        between("temperature", self.temperature, 0.0, 2.0)?;
        between("top_p", self.top_p, 0.0, 1.0)?;
        between("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        between("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        if self.top_logprobs.is_some_and(|count| count > MAX_LOGPROBS) {
            let message = format!("`top_logprobs` is not between 0 and {MAX_LOGPROBS}");
            return Err(ApiError::invalid("top_logprobs", message));
        }
        if self.top_logprobs.is_some_and(|count| count > 0) && self.logprobs != Some(true) {
            let message = "`top_logprobs` needs `logprobs`: true";
            return Err(ApiError::invalid("top_logprobs", message));
        }
        let caps = [
            ("max_tokens", self.max_tokens.or(self.own_max_tokens)),
            ("max_completion_tokens", self.max_completion_tokens),
        ];
        if let Some((name, _)) = caps.into_iter().find(|(_, cap)| *cap == Some(0)) {
            return Err(ApiError::invalid(name, format!("`{name}` must be at least 1")));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            let message = reason!(
                "`stream_options` is for streams";
                hint: "set `stream`, or leave it out"
            );
            return Err(ApiError::invalid("stream_options", message));
        }
        let needs_tools = [
            ("tool_choice", self.tool_choice.is_some()),
            ("parallel_tool_calls", self.parallel_tool_calls.is_some()),
        ];
        for (name, _) in needs_tools.into_iter().filter(|(_, is_set)| *is_set) {
            if !self.has_tools() && self.tool_choice != Some(json!("none")) {
                return Err(ApiError::invalid(name, format!("`{name}` needs `tools`")));
            }
        }
        for (index, tool) in self.tools.iter().flatten().enumerate() {
            if !tool.get("type").is_some_and(Value::is_string) {
                let param = format!("tools[{index}].type");
                return Err(ApiError::invalid(&param, format!("`{param}` is missing")));
            }
        }
        Ok(())
    }

    /// The conditions that end the answer.
    pub(in crate::http) fn stop_sequences(
        &self,
        bounds: &Bounds,
    ) -> Result<StopSequences, ApiError> {
        let stops = self.stops();
        if stops.len() > MAX_STOPS {
            let message = format!("`stop` has {} texts, at most {MAX_STOPS} can be", stops.len());
            return Err(ApiError::invalid("stop", message));
        }
        if let Some(long) = stops.iter().find(|stop| stop.len() > bounds.stop_bytes) {
            let message = format!(
                "a text of `stop` has {} bytes: more than {}, the bound `server.bounds.stop_bytes`",
                long.len(),
                bounds.stop_bytes
            );
            return Err(ApiError::invalid("stop", message));
        }
        let caps = [self.max_tokens, self.max_completion_tokens, self.own_max_tokens];
        Ok(StopSequences::new(stops, caps.into_iter().flatten().min()))
    }

    /// The texts before which the answer ends.
    fn stops(&self) -> &[String] {
        match &self.stop {
            None => &[],
            Some(Stop::One(stop)) => std::slice::from_ref(stop),
            Some(Stop::Several(stops)) => stops,
        }
    }

    /// Fields for every call of the large model, taken out of the request: they may be large.
    pub(in crate::http) fn take_params(&mut self) -> Map<String, Value> {
        fields([
            ("temperature", self.temperature.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
            ("user", self.user.take().map(Value::from)),
            ("safety_identifier", self.safety_identifier.take().map(Value::from)),
            ("prompt_cache_key", self.prompt_cache_key.take().map(Value::from)),
            ("metadata", self.metadata.take().map(Value::from)),
            ("store", self.store.map(Value::from)),
            ("service_tier", self.service_tier.take().map(Value::from)),
            ("reasoning_effort", self.reasoning_effort.take().map(Value::from)),
            ("verbosity", self.verbosity.take().map(Value::from)),
            ("prompt_cache_retention", self.prompt_cache_retention.take()),
            ("prompt_cache_options", self.prompt_cache_options.take()),
            ("moderation", self.moderation.take()),
            ("top_k", self.top_k.take()),
            ("min_p", self.min_p.take()),
            ("repetition_penalty", self.repetition_penalty.take()),
            ("chat_template_kwargs", self.chat_template_kwargs.take()),
            ("enable_thinking", self.enable_thinking.take()),
        ])
    }

    /// The form that the answer must have, taken out of the request. A JSON schema is compiled by
    /// `deadline`.
    pub(in crate::http) async fn take_form(
        &mut self,
        bounds: &Bounds,
        deadline: Instant,
    ) -> Result<AnswerForm, ApiError> {
        let check = match &self.response_format {
            Some(format) => json_schema::check(format, bounds, deadline).await?,
            None => None,
        };
        let is_set = |penalty: Option<f64>| penalty.is_some_and(|penalty| penalty != 0.0);
        let is_json = check.is_some();
        let bias = self.logit_bias.take().filter(|bias| !bias.is_empty());
        let biased = bias.is_some();
        let tools = self.tools.take().filter(|tools| !tools.is_empty());
        let has_tools = tools.is_some();
        let logprobs = self.logprobs.filter(|is_asked| *is_asked);
        let params = fields([
            ("logprobs", logprobs.map(Value::from)),
            ("top_logprobs", self.top_logprobs.filter(|_| logprobs.is_some()).map(Value::from)),
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("max_completion_tokens", self.max_completion_tokens.map(Value::from)),
            ("response_format", self.response_format.take().filter(|_| is_json)),
            ("tool_choice", self.tool_choice.take().filter(|_| has_tools)),
            (
                "parallel_tool_calls",
                self.parallel_tool_calls.filter(|_| has_tools).map(Value::from),
            ),
            ("tools", tools.map(Value::from)),
            ("frequency_penalty", self.frequency_penalty.filter(|&p| p != 0.0).map(Value::from)),
            ("presence_penalty", self.presence_penalty.filter(|&p| p != 0.0).map(Value::from)),
            ("logit_bias", bias.map(Value::from)),
        ]);
        let penalised = is_set(self.frequency_penalty) || is_set(self.presence_penalty);
        let by_large_model = is_json || has_tools || biased || penalised || logprobs.is_some();
        // Only to spare what is cut off here anyway. JSON and calls must be whole before that.
        let mut stops: Vec<&String> = self.stops().iter().filter(|it| !it.is_empty()).collect();
        if is_json || has_tools || self.names_stop {
            stops.clear();
        }
        let own = fields([
            ("max_tokens", self.own_max_tokens.map(Value::from)),
            ("stop", (!stops.is_empty()).then(|| json!(stops))),
        ]);
        Ok(AnswerForm { params: params.into(), optional_params: own, by_large_model, check })
    }

    fn has_tools(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| !tools.is_empty())
    }
}

fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
