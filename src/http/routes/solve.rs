//! `POST /v1/solve`: one question through the loop.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use secrecy::SecretString;
use serde_json::json;

use super::chat::LOOP;
use crate::engine::Sampling;
use crate::episode::{EpisodeEvent, EpisodeRequest, Silent};
use crate::http::body::{RawBody, parse};
use crate::http::caller::Caller;
use crate::http::error::ApiError;
use crate::http::job::{Job, Live, News};
use crate::http::sse;
use crate::http::state::AppState;
use crate::http::wire::ErrorBody;
use crate::http::wire::options::{Options, between};
use crate::http::wire::question::Asked;
use crate::http::wire::solve::{Head, SolveReply, SolveRequest};

const ROUTE: &str = "/v1/solve";

/// Answers a question: the policy thinks and prompts, the large model replies, until there is an
/// answer. With `stream`, sends the events `turn`, `think`, `interaction_prompt`,
/// `interaction_response` and `answer` as they happen, then `done` with the reply, or `error`.
#[utoipa::path(post, path = "/v1/solve", tag = "solve", request_body = SolveRequest, responses(
    (status = 200, description = "The answer", content(
        (SolveReply = "application/json"), (String = "text/event-stream"))),
    (status = 400, description = "A field is not valid; `param` names it", body = ErrorBody),
    (status = 401, description = "A key is needed", body = ErrorBody),
    (status = 403, description = "The key may not ask for this model", body = ErrorBody),
    (status = 404, description = "No such policy or large model", body = ErrorBody),
    (status = 408, description = "The body was too slow", body = ErrorBody),
    (status = 413, description = "The body is too long", body = ErrorBody),
    (status = 429, description = "Too many requests, or a limit of the key is reached", body = ErrorBody),
    (status = 500, description = "The server failed", body = ErrorBody),
    (status = 502, description = "The large model failed", body = ErrorBody),
    (status = 503, description = "A model is not available", body = ErrorBody),
    (status = 504, description = "The deadline passed before any reply", body = ErrorBody)))]
pub(in crate::http) async fn solve(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let (is_stream, asked, options) = parse::<SolveRequest>(&body)?.split()?;
    match &options.large_model {
        Some(name) => caller.check(&format!("{LOOP}/{name}"))?,
        None => caller.check(LOOP)?,
    }
    let job = job(&state, caller, &headers, asked, &options, started)?;
    let head = Head {
        id: job.id.clone(),
        created: state.created(),
        policy: job.served.policy.name().to_owned(),
        large_model: job.model.name().to_owned(),
    };
    let deadline = started + job.request.limits.deadline();
    let permit = state.admission().admit(1, deadline).await?;
    let with_turns = options.trace.unwrap_or(false);
    let policy = Arc::clone(&job.served.policy);
    if is_stream {
        let live = job.start(Arc::new(permit));
        let metrics = Arc::clone(&state.metrics);
        let on_first = move || metrics.first_token(ROUTE, started.elapsed());
        let events = events(live, head, with_turns, on_first);
        let response = sse::response(Box::pin(events), &state, ROUTE, started);
        return Ok((super::by(&*policy), response).into_response());
    }
    let episode = job.run(&mut Silent).await?;
    let told = super::told(&*policy, episode.trajectory.turns.len(), job.overhead(&episode));
    Ok((told, Json(SolveReply::new(head, episode, with_turns))).into_response())
}

/// The episode that a request asks for.
fn job(
    state: &AppState,
    caller: Caller,
    headers: &HeaderMap,
    asked: Asked,
    options: &Options,
    started: Instant,
) -> Result<Job, ApiError> {
    let served = options.served(state, headers, "")?;
    let name = options.large_model.as_deref().unwrap_or(state.serving.large_models.default_name());
    let model = state.serving.large_models.get(name);
    let model = model.map_err(|error| ApiError::from(error).with_param("large_model"))?;
    let temperature = between("temperature", options.temperature, 0.0, 2.0)?;
    let sampling = Sampling {
        temperature: temperature.map_or(served.sampling.temperature, |value| value as f32),
        seed: options.seed.map_or_else(|| state.new_seed(), |seed| seed as u64),
        ..served.sampling
    };
    let request = EpisodeRequest {
        conversation: asked.conversation,
        is_continued: asked.is_continued,
        attachments: asked.attachments,
        limits: options.limits(&state.serving.limits, "")?,
        started,
        authorization: authorization(headers),
        ..EpisodeRequest::new(asked.question, sampling)
    };
    let (served, model) = (Arc::clone(served), Arc::clone(model));
    let id = state.new_id("solve-");
    Ok(Job { state: state.clone(), served, model, request, caller, id, route: ROUTE })
}

/// The caller's own key, for endpoints without one.
pub(in crate::http) fn authorization(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(header::AUTHORIZATION)?;
    value.to_str().ok().map(SecretString::from)
}

/// The episode's news as events. `on_first` is called once, before the first piece of the answer.
fn events(
    live: Live,
    head: Head,
    with_turns: bool,
    on_first: impl FnOnce() + Send + 'static,
) -> impl futures::Stream<Item = Bytes> + Send {
    stream::unfold(Some((live, head, Some(on_first))), move |state| async move {
        let (mut live, head, mut on_first) = state?;
        let event = match live.next().await {
            Some(News::Event(event)) => {
                if matches!(event, EpisodeEvent::Answer(_)) {
                    on_first.take().into_iter().for_each(|on_first| on_first());
                }
                return Some((tell(event), Some((live, head, on_first))));
            }
            Some(News::Done(result)) => match *result {
                Ok(episode) => {
                    sse::event(Some("done"), &SolveReply::new(head, episode, with_turns))
                }
                Err(error) => sse::event(Some("error"), &error.body()),
            },
            None => sse::event(Some("error"), &ApiError::internal().body()),
        };
        Some((event, None))
    })
}

fn tell(event: EpisodeEvent) -> Bytes {
    let (name, delta) = match event {
        EpisodeEvent::Turn(index) => return sse::event(Some("turn"), &json!({"index": index})),
        EpisodeEvent::Think(delta) => ("think", delta),
        EpisodeEvent::Prompt(delta) => ("interaction_prompt", delta),
        EpisodeEvent::Response(delta) => ("interaction_response", delta),
        EpisodeEvent::Answer(delta) => ("answer", delta),
    };
    sse::event(Some(name), &json!({"delta": delta}))
}
