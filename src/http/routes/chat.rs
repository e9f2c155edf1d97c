//! `POST /v1/chat/completions`: the loop for our own models, a straight pass for all others.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::engine::Sampling;
use crate::episode::{AnswerForm, EpisodeErrorKind, EpisodeEvent, EpisodeRequest, EventSink};
use crate::http::body::{RawBody, parse_bounded};
use crate::http::caller::{Caller, authorization};
use crate::http::episode::chat_stream;
use crate::http::episode::stop_sequences::StopSequences;
use crate::http::episode::task::EpisodeTask;
use crate::http::error::ApiError;
use crate::http::model_name::{LOOP, is_loop, large_model, model_of};
use crate::http::proxy::{self, Passed};
use crate::http::sse;
use crate::http::state::AppState;
use crate::http::wire::ErrorBody;
use crate::http::wire::chat::ChatRequest;
use crate::http::wire::completion::{
    Choice, ChunkHead, Completion, Outcome, Sum, finish_reason, message,
};
use crate::http::wire::options::between;
use crate::http::wire::question::Asked;

const ROUTE: &str = "/v1/chat/completions";
/// Where the options of the loop stand.
const PREFIX: &str = "prompt_r1.";

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
    let model = model_of(&body, &caller)?;
    if !is_loop(&model) {
        let passed = Passed { route: ROUTE, uri: &uri, headers, body: &body, started };
        return proxy::hand_on(&state, &caller, &model, passed).await;
    }
    // Allocated by itself, so that what is passed through does not carry its size along.
    drop(model);
    Box::pin(answer(state, caller, headers, body, started)).await
}

/// Answers by the loop.
async fn answer(
    state: AppState,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
    started: Instant,
) -> Result<Response, ApiError> {
    let bounds = &state.server.bounds;
    let (request, size): (ChatRequest, _) = parse_bounded(body, bounds).await?;
    request.refuse()?;
    let choices = request.choices()?;
    size.check(choices, bounds)?;
    caller.admit_more(choices - 1).await?;
    let with_turns = request.prompt_r1.as_ref().and_then(|options| options.trace) == Some(true);
    let stops = request.stop_sequences()?;
    let is_stream = request.stream == Some(true);
    let stream_options = request.stream_options.unwrap_or_default();
    if let Some(name) = request.prompt_r1.as_ref().and_then(|own| own.large_model.as_deref()) {
        caller.check(&format!("{LOOP}/{name}"))?;
    }
    let model = request.model.clone();
    let options = request.prompt_r1.clone().unwrap_or_default();
    let deadline = started + options.limits(&state.serving.limits, PREFIX)?.deadline();
    // Before anything is made of the request that takes time or memory.
    let permit = state.admission().admit(choices, deadline).await?;
    let form = request.form(bounds, deadline).await?;
    let tasks = tasks(&state, &caller, &headers, request, form, choices, started)?;
    let (id, created) = (tasks[0].id.clone(), state.created());
    let policy = Arc::clone(&tasks[0].served.policy);
    if is_stream {
        let permit = Arc::new(permit);
        let episodes = tasks.into_iter().map(|task| task.start(Arc::clone(&permit))).collect();
        let include_usage = stream_options.include_usage == Some(true);
        let head = ChunkHead { id, created, model, include_usage };
        let metrics = Arc::clone(&state.metrics);
        let on_first = move || metrics.first_token(ROUTE, started.elapsed());
        let events = chat_stream::events(head, episodes, stops, with_turns, on_first);
        let response = sse::response(Box::pin(events), &state, ROUTE, started);
        return Ok((super::policy_header(&*policy), response).into_response());
    }
    let made = try_join_all(tasks.iter().enumerate().map(async |(index, task)| {
        let mut whole =
            WholeAnswer { stops: stops.clone(), text: String::new(), has_answered: false };
        let episode = task.run(&mut whole).await?;
        let overhead = task.overhead(&episode);
        if !whole.has_answered {
            whole.text = whole.stops.push(&episode.answer);
        }
        let (rest, ending) = whole.stops.finish();
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
    let headers = super::episode_headers(&*policy, sum.turns, overhead);
    Ok((headers, Json(completion)).into_response())
}

/// The episodes that a request asks for.
fn tasks(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    request: ChatRequest,
    form: AnswerForm,
    choices: u32,
    started: Instant,
) -> Result<Vec<EpisodeTask>, ApiError> {
    let options = request.prompt_r1.clone().unwrap_or_default();
    let served = options.served(state, headers, PREFIX)?;
    let mut params = request.params();
    let suffix = request.model.strip_prefix(LOOP).and_then(|rest| rest.strip_prefix('/'));
    let (model, other) = large_model(state, suffix, options.large_model.as_deref())?;
    let asked = other.as_deref().unwrap_or(model.name());
    caller.check_price(asked, model.prices_of(other.as_deref()))?;
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
    let asked = Asked::of(request.messages)?;
    let id = state.new_id("chatcmpl-");
    let task = |choice: u32| {
        // Neighbouring seeds would do, were they not what clients send next.
        let mut sampling = sampling;
        sampling.seed = crate::seed::nth(sampling.seed, u64::from(choice));
        let mut params = params.clone();
        // Each answer has a seed of its own, of no more bits than every endpoint takes.
        let seed = params.get("seed").and_then(Value::as_i64).filter(|_| choice > 0);
        if let Some(seed) = seed {
            let own = seed.wrapping_add(choice.into()) & i64::from(i32::MAX);
            params.insert("seed".to_owned(), json!(own));
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
        let (served, model) = (Arc::clone(&served), Arc::clone(&model));
        let (state, caller, id) = (state.clone(), caller.clone(), id.clone());
        EpisodeTask { state, served, model, request, caller, id, route: ROUTE }
    };
    Ok((0..choices).map(task).collect())
}

/// Collects an answer for a reply that is not streamed, and ends it where a stream would end.
struct WholeAnswer {
    stops: StopSequences,
    text: String,
    has_answered: bool,
}

#[async_trait]
impl EventSink for WholeAnswer {
    fn is_live(&self) -> bool {
        false
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        if let EpisodeEvent::Answer(text) = event {
            self.has_answered = true;
            self.text.push_str(&self.stops.push(&text));
        }
        Ok(())
    }
}
