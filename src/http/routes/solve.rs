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

use crate::engine::Sampling;
use crate::episode::{EpisodeEvent, EpisodeRequest, Silent};
use crate::http::body::{RawBody, parse};
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
    (status = 404, description = "No such policy or large model", body = ErrorBody),
    (status = 408, description = "The body was too slow", body = ErrorBody),
    (status = 413, description = "The body is too long", body = ErrorBody),
    (status = 429, description = "Too many requests at one time", body = ErrorBody),
    (status = 500, description = "The server failed", body = ErrorBody),
    (status = 502, description = "The large model failed", body = ErrorBody),
    (status = 503, description = "A model is not available", body = ErrorBody),
    (status = 504, description = "The deadline passed before any reply", body = ErrorBody)))]
pub(in crate::http) async fn solve(
    State(state): State<AppState>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let (is_stream, asked, options) = parse::<SolveRequest>(&body)?.split()?;
    let job = job(&state, &headers, asked, &options, started)?;
    let head = Head {
        id: state.new_id("solve-"),
        created: state.created(),
        policy: state.policy.name().to_owned(),
        large_model: job.model.name().to_owned(),
    };
    let deadline = started + job.request.limits.deadline();
    let permit = state.admission.admit(1, deadline).await?;
    let with_turns = options.trace.unwrap_or(false);
    if is_stream {
        let live = job.start(Arc::new(permit));
        let events = events(live, head, with_turns);
        return Ok(sse::response(Box::pin(events), &state, ROUTE, started));
    }
    let episode = job.run(&mut Silent).await?;
    let told = super::told(episode.trajectory.turns.len(), job.overhead(&episode));
    Ok((told, Json(SolveReply::new(head, episode, with_turns))).into_response())
}

/// The episode that a request asks for.
fn job(
    state: &AppState,
    headers: &HeaderMap,
    asked: Asked,
    options: &Options,
    started: Instant,
) -> Result<Job, ApiError> {
    options.check_policy(state, "")?;
    let name = options.large_model.as_deref().unwrap_or(state.large_models.default_name());
    let model = state.large_models.get(name);
    let model = model.map_err(|error| ApiError::from(error).with_param("large_model"))?;
    let temperature = between("temperature", options.temperature, 0.0, 2.0)?;
    let sampling = Sampling {
        temperature: temperature.map_or(state.sampling.temperature, |value| value as f32),
        seed: options.seed.map_or_else(|| state.new_seed(), |seed| seed as u64),
        ..state.sampling
    };
    let request = EpisodeRequest {
        conversation: asked.conversation,
        is_continued: asked.is_continued,
        attachments: asked.attachments,
        limits: options.limits(&state.limits, "")?,
        started,
        authorization: authorization(headers),
        ..EpisodeRequest::new(asked.question, sampling)
    };
    Ok(Job { state: state.clone(), model: Arc::clone(model), request, route: ROUTE })
}

/// The caller's own key, for endpoints without one.
pub(in crate::http) fn authorization(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(header::AUTHORIZATION)?;
    value.to_str().ok().map(SecretString::from)
}

/// The episode's news as events.
fn events(live: Live, head: Head, with_turns: bool) -> impl futures::Stream<Item = Bytes> + Send {
    stream::unfold(Some((live, head)), move |state| async move {
        let (mut live, head) = state?;
        let event = match live.next().await {
            Some(News::Event(event)) => return Some((tell(event), Some((live, head)))),
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
