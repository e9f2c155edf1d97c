//! Turns a conversation into the episodes that answer it, for all protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use serde_json::{Map, Value, json};

use super::admission::Permit;
use super::answer::{self, AnswerPiece, AnswerRequirements, Answered};
use super::task::EpisodeTask;
use crate::compute;
use crate::engine::Sampling;
use crate::episode::{AnswerForm, EpisodeRequest};
use crate::http::body::BodySize;
use crate::http::caller::{Caller, authorization};
use crate::http::error::ApiError;
use crate::http::model_name::{LOOP, LoopModel, large_model, policy};
use crate::http::routes::{episode_headers, policy_header};
use crate::http::sse;
use crate::http::state::AppState;
use crate::http::wire::chat_request::ChatRequest;
use crate::http::wire::options::{CHAT_PREFIX, between};
use crate::http::wire::question::ConversationQuestion;
use crate::http::wire::usage::UsageSum;
use crate::policy::Policy;

/// What is known of a request besides its body: its caller, its protocol and its time.
pub(in crate::http) struct RequestContext {
    pub(in crate::http) state: AppState,
    pub(in crate::http) caller: Caller,
    pub(in crate::http) headers: HeaderMap,
    pub(in crate::http) route: &'static str,
    /// The prefix of reply ids.
    pub(in crate::http) id_prefix: &'static str,
    pub(in crate::http) started: Instant,
}

/// Episodes that may run.
pub(in crate::http) struct Prepared {
    pub(in crate::http) id: String,
    pub(in crate::http) created: u64,
    /// Whether the reply shows every turn.
    pub(in crate::http) with_turns: bool,
    state: AppState,
    route: &'static str,
    started: Instant,
    policy: Arc<dyn Policy>,
    tasks: Vec<EpisodeTask>,
    requirements: AnswerRequirements,
    permit: Permit,
}

impl Prepared {
    /// Checks a request and waits until it is admitted.
    ///
    /// # Errors
    /// When a field cannot be honoured (`param` names it), the caller may not use the model, or
    /// there is no capacity.
    pub(in crate::http) async fn new(
        context: RequestContext,
        mut request: ChatRequest,
        size: BodySize,
    ) -> Result<Self, ApiError> {
        let RequestContext { state, caller, headers, route, id_prefix, started } = context;
        let bounds = &state.server.bounds;
        request.refuse()?;
        let choices = request.choices()?;
        size.check(choices, bounds)?;
        caller.admit_more(choices - 1).await?;
        let stops = request.stop_sequences(bounds)?;
        let logprobs = request.logprobs == Some(true);
        let options = request.prompt_r1.clone().unwrap_or_default();
        let with_turns = options.trace == Some(true);
        if let Some(name) = options.large_model.as_deref() {
            let named = LoopModel::of(&state.serving.large_models, &request.model);
            let named = named.and_then(|model| model.policy);
            let policy = named.map(|policy| format!(":{policy}")).unwrap_or_default();
            caller.check(&format!("{LOOP}{policy}/{name}"))?;
        }
        let deadline = started + options.limits(&state.serving.limits, CHAT_PREFIX)?.deadline();
        // Before anything expensive is built from the request.
        let permit = state.admission().admit(choices, caller.id(), deadline).await?;
        let form = request.take_form(bounds, deadline).await?;
        let id = state.new_id(id_prefix);
        let context = RequestContext { state, caller, headers, route, id_prefix, started };
        let tasks = tasks(&context, request, form, choices, &id)?;
        let created = context.state.created();
        let policy = Arc::clone(&tasks[0].served.policy);
        let requirements = AnswerRequirements { stops, logprobs, has_tokens: !policy.is_remote() };
        let state = context.state;
        Ok(Self {
            id,
            created,
            with_turns,
            state,
            route,
            started,
            policy,
            tasks,
            requirements,
            permit,
        })
    }

    /// Starts empty; the usage of the episodes is added to it.
    pub(in crate::http) fn sum(&self) -> UsageSum {
        UsageSum::new(self.policy.is_remote())
    }

    /// Runs the episodes to their ends: texts, answers, and the headers of the reply.
    pub(in crate::http) async fn whole(
        self,
    ) -> Result<(Vec<(String, Answered)>, HeaderMap), ApiError> {
        let is_one_of_several = self.tasks.len() > 1;
        let made = self.tasks.iter().map(|task| answer::whole(task, &self.requirements));
        // If one of several fails, the others may have been billed.
        let made = try_join_all(made).await.map_err(|error| match is_one_of_several {
            true => error.no_retry(),
            false => error,
        })?;
        drop(self.permit);
        let turns = made.iter().map(|(_, made, _)| made.episode.trajectory.turns.len()).sum();
        let overhead = made.iter().map(|(_, _, overhead)| *overhead).max();
        let headers = episode_headers(&*self.policy, turns, overhead.unwrap_or(Duration::ZERO));
        Ok((made.into_iter().map(|(text, answered, _)| (text, answered)).collect(), headers))
    }

    /// Starts the episodes. Streams `opening`, and then the events that `take` makes of each piece.
    pub(in crate::http) fn write(
        self,
        opening: Vec<Bytes>,
        mut take: impl FnMut(AnswerPiece) -> Vec<Bytes> + Send + 'static,
    ) -> Response {
        let with_turns = self.with_turns;
        let events = move |piece: AnswerPiece| {
            stream::iter(compute::in_place(piece.bytes(with_turns), || take(piece)))
        };
        self.stream(|answers| {
            let pieces = stream::iter(answers).flatten();
            stream::iter(opening).chain(pieces.flat_map(events))
        })
    }

    /// Starts the episodes; `events` makes the response's events from the pieces of each.
    pub(in crate::http) fn stream<E>(
        self,
        events: impl FnOnce(Vec<BoxStream<'static, AnswerPiece>>) -> E,
    ) -> Response
    where
        E: Stream<Item = Bytes> + Send + 'static,
    {
        let permit = Arc::new(self.permit);
        let (route, started) = (self.route, self.started);
        let has_begun = Arc::new(AtomicBool::new(false));
        let pieces = self.tasks.into_iter().map(|task| {
            let (has_begun, metrics) = (Arc::clone(&has_begun), Arc::clone(&self.state.metrics));
            let pieces = answer::pieces(task.start(Arc::clone(&permit)), self.requirements.clone());
            let watched = pieces.inspect(move |piece| {
                if matches!(piece, AnswerPiece::Text(_)) && !has_begun.swap(true, Ordering::Relaxed)
                {
                    metrics.first_token(route, started.elapsed());
                }
            });
            watched.boxed()
        });
        let events = Box::pin(events(pieces.collect()));
        let response = sse::response(events, &self.state, route, started);
        (policy_header(&*self.policy), response).into_response()
    }
}

/// The episodes of a request.
fn tasks(
    context: &RequestContext,
    mut request: ChatRequest,
    form: AnswerForm,
    choices: u32,
    id: &str,
) -> Result<Vec<EpisodeTask>, ApiError> {
    let RequestContext { state, caller, headers, route, started, .. } = context;
    let options = request.prompt_r1.clone().unwrap_or_default();
    let named = LoopModel::of(&state.serving.large_models, &request.model).unwrap_or_default();
    let served = policy(state, named.policy, &options, headers)?;
    let (model, other) = large_model(state, named.large_model, options.large_model.as_deref())?;
    let mut params = request.take_params();
    params.extend(options.large_model_params(&*served.policy));
    let asked = other.as_deref().unwrap_or(model.name());
    caller.check_price(asked, model.is_priced(other.as_deref()))?;
    caller.check_policy_price(&*served.policy)?;
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
    let limits = options.limits(&state.serving.limits, CHAT_PREFIX)?;
    let asked = ConversationQuestion::of(request.messages)?;
    let task = |(choice, (asked, mut params, form)): (
        u32,
        (ConversationQuestion, Map<String, Value>, AnswerForm),
    )| {
        // Neighbouring seeds would do, were they not what clients send next.
        let mut sampling = sampling;
        sampling.seed = crate::seed::nth(sampling.seed, u64::from(choice));
        // Each answer has a seed of its own.
        let seed = params.get("seed").and_then(Value::as_i64).filter(|_| choice > 0);
        if let Some(seed) = seed {
            let own = crate::seed::near(seed as u64, choice.into());
            params.insert("seed".to_owned(), json!(own));
        }
        let request = EpisodeRequest {
            large_model_params: params.into(),
            form,
            limits: limits.clone(),
            started: *started,
            authorization: authorization(headers),
            caller: caller.number(),
            ..asked.into_request(sampling)
        };
        let (served, model) = (Arc::clone(&served), Arc::clone(&model));
        let (state, caller, id) = (state.clone(), caller.clone(), id.to_owned());
        EpisodeTask { state, served, model, request, caller, id, route }
    };
    // The last one takes what the others copy.
    let parts = std::iter::repeat_n((asked, params, form), choices as usize);
    Ok((0..choices).zip(parts).map(task).collect())
}
