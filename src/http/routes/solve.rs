//! `POST /v1/solve`: one question through the loop.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::json;

use crate::compute;
use crate::engine::Sampling;
use crate::episode::{DiscardEvents, Episode, EpisodeEvent, EpisodeRequest, GivenTurn};
use crate::http::body::{RawBody, parse_bounded};
use crate::http::caller::{Caller, authorization};
use crate::http::episode::task::{EpisodeStream, EpisodeTask, TaskEvent};
use crate::http::error::ApiError;
use crate::http::model_name::LOOP;
use crate::http::routes::failures::LoopFailures;
use crate::http::sse;
use crate::http::state::AppState;
use crate::http::wire::options::{Options, between};
use crate::http::wire::question::ConversationQuestion;
use crate::http::wire::solve::{
    Head, ReplyDetails, SolveParts, SolveReply, SolveRequest, policy_tokens,
};
use crate::http::wire::{ErrorBody, SseEvent};
use crate::policy::Policy;

const ROUTE: &str = "/v1/solve";

/// Answers a question: the policy thinks and prompts, the large model replies, until there is an
/// answer. With `stream`, sends the events `turn`, `think`, `interaction_prompt`,
/// `interaction_response`, `answer_think` (the large model's thoughts before an answer of its own)
/// and `answer` as they happen, then `done` with the reply, or `error`.
#[utoipa::path(post, path = "/v1/solve", tag = "solve", request_body = SolveRequest, responses(
    (status = 200, description = "The answer", content(
        (SolveReply = "application/json"), (SseEvent = "text/event-stream"))),
    LoopFailures<ErrorBody>))]
pub(in crate::http) async fn solve(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let (request, _): (SolveRequest, _) = parse_bounded(body, &state.server.bounds).await?;
    let SolveParts { is_stream, with_tokens, asked, turns, options } = request.split()?;
    match &options.large_model {
        Some(name) => caller.check(&format!("{LOOP}/{name}"))?,
        None => caller.check(LOOP)?,
    }
    let task = task(&state, caller, &headers, asked, turns, &options, started)?;
    let head = Head {
        id: task.id.clone(),
        created: state.created(),
        policy: task.served.policy.name().to_owned(),
        large_model: task.model.name().to_owned(),
    };
    let deadline = started + task.request.limits.deadline();
    let permit = state.admission().admit(1, task.caller.id(), deadline).await?;
    let show = Show { turns: options.trace.unwrap_or(false), tokens: with_tokens };
    let policy = Arc::clone(&task.served.policy);
    if is_stream {
        let episode = task.start(Arc::new(permit));
        let metrics = Arc::clone(&state.metrics);
        let on_first = move || metrics.first_token(ROUTE, started.elapsed());
        let events = events(episode, head, (show, Arc::clone(&policy)), on_first);
        let response = sse::response(Box::pin(events), &state, ROUTE, started);
        return Ok((super::policy_header(&*policy), response).into_response());
    }
    let episode = task.run(&mut DiscardEvents).await?;
    let headers =
        super::episode_headers(&*policy, episode.trajectory.turns.len(), task.overhead(&episode));
    let shown = show.of(&*policy, &episode).await?;
    Ok(compute::in_place(shown.bytes(&episode), || {
        (headers, Json(SolveReply::new(head, episode, shown))).into_response()
    }))
}

/// What the reply contains besides the answer.
#[derive(Clone, Copy)]
struct Show {
    turns: bool,
    tokens: bool,
}

impl Show {
    async fn of(self, policy: &dyn Policy, episode: &Episode) -> Result<ReplyDetails, ApiError> {
        let mut shown = ReplyDetails { turns: self.turns, tokens: None };
        if self.tokens {
            let trace = &episode.trajectory.trace;
            let texts = policy.token_texts(&trace.ids).await.map_err(|error| {
                tracing::error!(%error, "cannot show the policy's tokens");
                ApiError::internal()
            })?;
            shown.tokens = Some(policy_tokens(trace, texts));
        }
        Ok(shown)
    }
}

/// The episode of a request.
fn task(
    state: &AppState,
    caller: Caller,
    headers: &HeaderMap,
    asked: ConversationQuestion,
    turns: Vec<GivenTurn>,
    options: &Options,
    started: Instant,
) -> Result<EpisodeTask, ApiError> {
    let served = options.served(state, headers, "")?;
    let name = options.large_model.as_deref().unwrap_or(state.serving.large_models.default_name());
    let model = state.serving.large_models.get(name);
    let model = model.map_err(|error| ApiError::from(error).with_param("large_model"))?;
    caller.check_price(model.name(), model.is_priced(None))?;
    caller.check_policy_price(&*served.policy)?;
    let temperature = between("temperature", options.temperature, 0.0, 2.0)?;
    let sampling = Sampling {
        temperature: temperature.map_or(served.sampling.temperature, |value| value as f32),
        seed: options.seed.map_or_else(|| state.new_seed(), |seed| seed as u64),
        ..served.sampling
    };
    let limits = options.limits(&state.serving.limits, "")?;
    if turns.len() >= limits.max_turns {
        let (given, most) = (turns.len(), limits.max_turns);
        let message = reason!(
            "`turns` has {given} turns, but an episode may have {most}, and the policy needs at least one";
            hint: "give fewer turns, or raise `max_turns`"
        );
        return Err(ApiError::invalid("turns", message));
    }
    let request = EpisodeRequest {
        turns,
        large_model_params: options.large_model_params(&*served.policy).into(),
        limits,
        started,
        authorization: authorization(headers),
        caller: caller.number(),
        ..asked.into_request(sampling)
    };
    let model = Arc::clone(model);
    let id = state.new_id("solve-");
    Ok(EpisodeTask { state: state.clone(), served, model, request, caller, id, route: ROUTE })
}

/// The episode's events as server-sent events. `on_first` is called once, before the first piece of
/// the answer.
fn events(
    episode: EpisodeStream,
    head: Head,
    (show, policy): (Show, Arc<dyn Policy>),
    on_first: impl FnOnce() + Send + 'static,
) -> impl futures::Stream<Item = Bytes> + Send {
    stream::unfold(Some((episode, head, policy, Some(on_first))), move |state| async move {
        let (mut episode, head, policy, mut on_first) = state?;
        let event = match episode.next().await {
            Some(TaskEvent::Event(event)) => {
                if matches!(event, EpisodeEvent::Answer(..)) {
                    on_first.take().into_iter().for_each(|on_first| on_first());
                }
                return Some((sse_event(event), Some((episode, head, policy, on_first))));
            }
            Some(TaskEvent::Done(result)) => match *result {
                Ok(episode) => match show.of(&*policy, &episode).await {
                    Ok(shown) => compute::in_place(shown.bytes(&episode), || {
                        sse::event(Some("done"), &SolveReply::new(head, episode, shown))
                    }),
                    Err(error) => sse::event(Some("error"), &error.body()),
                },
                Err(error) => sse::event(Some("error"), &error.body()),
            },
            None => sse::event(Some("error"), &ApiError::internal().body()),
        };
        Some((event, None))
    })
}

fn sse_event(event: EpisodeEvent) -> Bytes {
    let (name, delta) = match event {
        EpisodeEvent::Turn(index) => return sse::event(Some("turn"), &json!({"index": index})),
        EpisodeEvent::Think(delta) => ("think", delta),
        EpisodeEvent::Prompt(delta) => ("interaction_prompt", delta),
        EpisodeEvent::Response(delta) => ("interaction_response", delta),
        EpisodeEvent::ReplyThought(delta) => ("answer_think", delta),
        EpisodeEvent::Answer(delta, _) => ("answer", delta),
    };
    compute::in_place(delta.len(), || sse::event(Some(name), &json!({"delta": delta})))
}
