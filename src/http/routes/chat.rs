//! `POST /v1/chat/completions`: the loop for our own models, a straight pass for all others.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde_json::json;

use super::forward;
use super::solve::authorization;
use crate::engine::Sampling;
use crate::episode::{EpisodeErrorKind, EpisodeEvent, EpisodeRequest, EventSink};
use crate::http::body::{RawBody, parse};
use crate::http::caller::Caller;
use crate::http::chat_stream;
use crate::http::error::ApiError;
use crate::http::job::Job;
use crate::http::sse;
use crate::http::state::AppState;
use crate::http::trim::Trim;
use crate::http::wire::ErrorBody;
use crate::http::wire::chat::ChatRequest;
use crate::http::wire::completion::{
    Choice, ChunkHead, Completion, Outcome, Sum, finish_reason, message,
};
use crate::http::wire::options::between;
use crate::http::wire::question::Asked;
use crate::large_model::LargeModel;

const ROUTE: &str = "/v1/chat/completions";
/// The model that stands for the loop.
pub(super) const LOOP: &str = "prompt-r1";

/// Answers a conversation. The model `prompt-r1` runs the loop on the default large model,
/// `prompt-r1/NAME` on the one of that name. Any other model is passed through untouched.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses(
    (status = 200, description = "The answer, or its chunks", content(
        (Completion = "application/json"), (String = "text/event-stream"))),
    (status = 400, description = "A field is not valid; `param` names it", body = ErrorBody),
    (status = 401, description = "A key is needed, or the large model does not take it", body = ErrorBody),
    (status = 403, description = "The key may not ask for this model", body = ErrorBody),
    (status = 404, description = "No such model", body = ErrorBody),
    (status = 408, description = "The body was too slow", body = ErrorBody),
    (status = 413, description = "The body is too long", body = ErrorBody),
    (status = 429, description = "Too many requests, or a limit of the key is reached", body = ErrorBody),
    (status = 500, description = "The server failed", body = ErrorBody),
    (status = 502, description = "The large model failed", body = ErrorBody),
    (status = 503, description = "A model is not available", body = ErrorBody),
    (status = 504, description = "The deadline passed before any reply", body = ErrorBody)))]
pub(in crate::http) async fn chat(
    State(state): State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let model = forward::model_of(&body)?.unwrap_or_default();
    caller.check(&model)?;
    if !is_loop(&model) {
        let passed = forward::Passed { route: ROUTE, uri: &uri, headers, body: &body, started };
        return forward::hand_on(&state, &caller, &model, passed).await;
    }
    // Allocated by itself, so that what is passed through does not carry its size along.
    Box::pin(answer(state, caller, headers, &body, started)).await
}

/// Answers by the loop.
async fn answer(
    state: AppState,
    caller: Caller,
    headers: HeaderMap,
    body: &[u8],
    started: Instant,
) -> Result<Response, ApiError> {
    let request: ChatRequest = parse(body)?;
    request.refuse()?;
    let choices = request.choices()?;
    let with_turns = request.prompt_r1.as_ref().and_then(|options| options.trace) == Some(true);
    let trim = request.trim()?;
    let is_stream = request.stream == Some(true);
    let stream_options = request.stream_options.unwrap_or_default();
    if let Some(name) = request.prompt_r1.as_ref().and_then(|own| own.large_model.as_deref()) {
        caller.check(&format!("{LOOP}/{name}"))?;
    }
    let model = request.model.clone();
    let jobs = jobs(&state, &caller, &headers, request, choices, started)?;
    let deadline = started + jobs[0].request.limits.deadline();
    let permit = state.admission().admit(choices, deadline).await?;
    let (id, created) = (jobs[0].id.clone(), state.created());
    let policy = Arc::clone(&jobs[0].served.policy);
    if is_stream {
        let permit = Arc::new(permit);
        let lives = jobs.into_iter().map(|job| job.start(Arc::clone(&permit))).collect();
        let include_usage = stream_options.include_usage == Some(true);
        let head = ChunkHead { id, created, model, include_usage };
        let metrics = Arc::clone(&state.metrics);
        let on_first = move || metrics.first_token(ROUTE, started.elapsed());
        let events = chat_stream::events(head, lives, trim, with_turns, on_first);
        let response = sse::response(Box::pin(events), &state, ROUTE, started);
        return Ok((super::by(&*policy), response).into_response());
    }
    let made = try_join_all(jobs.iter().enumerate().map(async |(index, job)| {
        let mut whole = Whole { trim: trim.clone(), text: String::new(), has_answered: false };
        let episode = job.run(&mut whole).await?;
        let overhead = job.overhead(&episode);
        if !whole.has_answered {
            whole.text = whole.trim.push(&episode.answer);
        }
        let (rest, ending) = whole.trim.finish();
        whole.text.push_str(&rest);
        let choice = Choice {
            index,
            message: message(&episode, whole.text),
            logprobs: None,
            finish_reason: finish_reason(&episode, ending),
            prompt_r1: Outcome::new(&episode, with_turns),
        };
        Ok::<_, ApiError>((choice, episode, overhead))
    }));
    // Where one of several fails, the others may have been paid for.
    let made = made.await.map_err(|error| if choices > 1 { error.spent() } else { error })?;
    drop(permit);
    let mut sum = Sum::default();
    made.iter().for_each(|(_, episode, _)| sum.add(episode));
    let overhead = made.iter().map(|(_, _, overhead)| *overhead).max().unwrap_or_default();
    let choices = made.into_iter().map(|(choice, _, _)| choice).collect();
    let object = "chat.completion";
    let completion = Completion { id, object, created, model, choices, usage: sum.usage() };
    let told = super::told(&*policy, sum.turns, overhead);
    Ok((told, Json(completion)).into_response())
}

/// Whether a model stands for the loop.
pub(super) fn is_loop(model: &str) -> bool {
    model.strip_prefix(LOOP).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The episodes that a request asks for.
fn jobs(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    request: ChatRequest,
    choices: u32,
    started: Instant,
) -> Result<Vec<Job>, ApiError> {
    const PREFIX: &str = "prompt_r1.";
    let options = request.prompt_r1.clone().unwrap_or_default();
    let served = options.served(state, headers, PREFIX)?;
    let mut params = request.params();
    let suffix = request.model.strip_prefix(LOOP).and_then(|rest| rest.strip_prefix('/'));
    let (model, other) = large_model(state, suffix, options.large_model.as_deref())?;
    if let Some(other) = other {
        params.insert("model".to_owned(), json!(other));
    }
    let name = "prompt_r1.temperature";
    let temperature = between(name, options.temperature, 0.0, 2.0)?.or(request.temperature);
    let seed = options.seed.or(request.seed).map(|seed| seed as u64);
    let sampling = Sampling {
        temperature: temperature.map_or(served.sampling.temperature, |value| value as f32),
        top_p: request.top_p.map_or(served.sampling.top_p, |value| value as f32),
        seed: seed.unwrap_or_else(|| state.new_seed()),
        ..served.sampling
    };
    let limits = options.limits(&state.serving.limits, PREFIX)?;
    let form = request.form()?;
    let asked = Asked::of(request.messages)?;
    let id = state.new_id("chatcmpl-");
    let job = |choice: u32| {
        // Neighbouring seeds would do, were they not what clients send next.
        let apart = u64::from(choice).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut sampling = sampling;
        sampling.seed = sampling.seed.wrapping_add(apart);
        let mut params = params.clone();
        if choice > 0 {
            // The loop sets one of the episode's own.
            params.shift_remove("seed");
        }
        let request = EpisodeRequest {
            conversation: asked.conversation.clone(),
            is_continued: asked.is_continued,
            attachments: asked.attachments.clone(),
            large_model_params: params,
            form: form.clone(),
            limits: limits.clone(),
            started,
            authorization: authorization(headers),
            ..EpisodeRequest::new(asked.question.clone(), sampling)
        };
        let (served, model) = (Arc::clone(served), Arc::clone(&model));
        let (state, caller, id) = (state.clone(), caller.clone(), id.clone());
        Job { state, served, model, request, caller, id, route: ROUTE }
    };
    Ok((0..choices).map(job).collect())
}

/// The large model that a request names, and the id to ask its endpoint for where that is another
/// than the configured one.
fn large_model(
    state: &AppState,
    suffix: Option<&str>,
    option: Option<&str>,
) -> Result<(Arc<dyn LargeModel>, Option<String>), ApiError> {
    let models = &state.serving.large_models;
    match (suffix, option) {
        (Some(_), Some(_)) => {
            let param = "prompt_r1.large_model";
            let message = format!("`{param}` cannot be set beside a model of the form `{LOOP}/…`");
            Err(ApiError::invalid(param, message))
        }
        (None, name) => {
            let model = models.get(name.unwrap_or(models.default_name()));
            let model =
                model.map_err(|error| ApiError::from(error).with_param("prompt_r1.large_model"))?;
            Ok((Arc::clone(model), None))
        }
        (Some(name), None) => match models.get(name) {
            Ok(model) => Ok((Arc::clone(model), None)),
            Err(error) => {
                let default = models.default_name();
                let is_endpoint = models.endpoints().any(|(name, _)| name == default);
                match models.get(default) {
                    Ok(model) if is_endpoint && !name.is_empty() => {
                        Ok((Arc::clone(model), Some(name.to_owned())))
                    }
                    _ => Err(ApiError::from(error).with_param("model")),
                }
            }
        },
    }
}

/// Takes an answer as it is made, for a reply that is sent whole: cut where a stream would be.
struct Whole {
    trim: Trim,
    text: String,
    has_answered: bool,
}

#[async_trait]
impl EventSink for Whole {
    fn is_live(&self) -> bool {
        false
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        if let EpisodeEvent::Answer(text) = event {
            self.has_answered = true;
            self.text.push_str(&self.trim.push(&text));
        }
        Ok(())
    }
}

/// No endpoint serves this model.
pub(super) fn unknown_model(model: &str) -> ApiError {
    let message = format!(
        "no endpoint serves the model `{model}`\nhint: ask for `{LOOP}`, or configure a large model behind an endpoint"
    );
    ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model")
}
