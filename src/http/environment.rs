//! The environment over HTTP: `server env`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http_body_util::LengthLimitError;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::body::{length, parse, timed_out};
use super::config::ServerConfig;
use super::error::ApiError;
use super::local;
use super::routes::docs::BearerKey;
use super::state::Ids;
use super::wire::ErrorBody;
use crate::compute;
use crate::environment::{
    Environment, EnvironmentError, EpisodeState, ExternalTurn, FinishedEpisode, ResetLimits,
};
use crate::hint::Hint;
use crate::reward::Reward;
use crate::task::Task;
use crate::trajectory::{SampledToken, TokenTrace, TurnFinish};

/// The longest body of a request, bytes.
const BODY: usize = 4 << 20;
/// About what a token takes in a reply, bytes: its id, its mark and its log-probability.
const TOKEN: usize = 20;

/// What the environment's handlers share.
#[derive(Clone)]
pub struct EnvironmentApp {
    /// The environment.
    pub environment: Arc<Environment>,
    /// The key that callers must send; none allows anyone.
    pub key: Option<SecretString>,
    /// Ids of episodes.
    pub ids: Ids,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prompt-R1 environment",
        description = "Episodes for trainers: they write the policy's turns, the environment does all else, by the loop that serves."
    ),
    modifiers(&BearerKey),
    tags((name = "env", description = "Episodes, a turn at a time"))
)]
struct Document;

/// The environment's routes. Of `server`, only the allowed host names and origins are used, and the
/// time that a body has.
pub fn environment_router(app: EnvironmentApp, server: &ServerConfig) -> Router {
    let open = app.key.is_none().then_some(server);
    let routes =
        documented().route_layer(from_fn_with_state((app.clone(), server.body_timeout()), admit));
    local::router(routes, Router::new(), app, open).layer(DefaultBodyLimit::max(BODY))
}

/// Checks the key of a request before a byte of its body is read, which must then arrive in time.
async fn admit(
    State((app, time)): State<(EnvironmentApp, Duration)>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    app.authorize(request.headers())?;
    let too_long = || {
        let message = format!("the body is longer than {BODY} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    };
    if length(request.headers()).is_some_and(|length| length > BODY as u64) {
        return Err(too_long());
    }
    let (head, body) = request.into_parts();
    let body =
        tokio::time::timeout(time, to_bytes(body, BODY)).await.map_err(|_| timed_out(time))?;
    let body = body.map_err(|error| match error.into_inner().is::<LengthLimitError>() {
        true => too_long(),
        false => ApiError::bad_request("invalid_body", "the body could not be read"),
    })?;
    Ok(next.run(Request::from_parts(head, body.into())).await)
}

fn documented() -> OpenApiRouter<EnvironmentApp> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(about))
        .routes(routes!(reset))
        .routes(routes!(step))
        .routes(routes!(close))
}

/// The environment's OpenAPI document, indented JSON.
pub fn environment_openapi_json() -> String {
    local::openapi_json(documented())
}

/// A description of the environment.
#[derive(Debug, Serialize, ToSchema)]
struct About {
    /// Episodes that may be open.
    open: usize,
    /// Whether turns may be token ids. Otherwise they are texts.
    token_ids: bool,
    /// The token ids at which a turn ends; sampling stops there. Absent where turns are texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_ids: Option<Vec<u32>>,
    /// The most turns that an episode may have.
    max_turns: usize,
    /// The most tokens that a turn may have.
    max_turn_tokens: usize,
    /// The most wall time that an episode may take, milliseconds.
    deadline_ms: u64,
}

/// A new episode.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResetRequest {
    /// What is asked.
    #[schema(example = "What is Grania's president's birthplace?")]
    question: String,
    /// Acceptable answers; the best of them counts.
    golds: Vec<String>,
    /// The data set of the question, which external rewards get. Default: none.
    #[serde(default)]
    source: String,
    /// Turns that the policy may have. Default and upper bound: the environment's limit.
    #[schema(minimum = 1)]
    max_turns: Option<usize>,
    /// Tokens that one turn may have. Default and upper bound: the environment's limit.
    #[schema(minimum = 1)]
    max_turn_tokens: Option<usize>,
    /// Wall time that the episode may take, including the trainer's, milliseconds. Default and
    /// upper bound: the environment's limit.
    #[schema(minimum = 1)]
    deadline_ms: Option<u64>,
}

/// A turn of an episode: `ids` or `text`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StepRequest {
    /// The episode.
    #[schema(value_type = String)]
    episode: Uuid,
    /// The number of the turn. A step that is repeated with it changes nothing and returns the same
    /// reply. Default: the turn that is awaited.
    turn: Option<usize>,
    /// The tokens that were sampled, the one that ended the turn included.
    ids: Option<Vec<u32>>,
    /// Their natural-log probabilities, to be returned with the whole stream. Default: zeros.
    log_probs: Option<Vec<f32>>,
    /// The text that was sampled, for trainers without token ids.
    text: Option<String>,
    /// Whether `text` was truncated at the limit; with `ids` that is known. Default: false.
    #[serde(default)]
    is_cut: bool,
}

/// The state of an episode.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Reply {
    /// The episode.
    #[schema(value_type = String)]
    episode: Uuid,
    /// Whether it is over.
    done: bool,
    /// The number of the turn that is awaited; at the end, how many turns there were.
    turn: usize,
    /// The text since the policy's last turn, for text-based trainers: a user message.
    #[serde(skip_serializing_if = "Option::is_none")]
    observation: Option<String>,
    /// The token stream so far, to sample the next turn after. Of a given turn, only the tokens up
    /// to its end are in it. Absent in episodes of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<u32>>,
    /// For each of `ids`: 1 if the policy sampled it, 0 if it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<Vec<u8>>,
    /// For each of `ids`: the log-probability that a step gave it, or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probs: Option<Vec<f32>>,
    /// Tokens that the next turn may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<usize>,
    /// The reward. Absent until the episode is over, and if it failed: such an episode is not to be
    /// learnt from.
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<EpisodeReward>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "answered")]
    finish_reason: Option<&'static str>,
    /// The policy's own answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// Calls of the large model.
    #[serde(skip_serializing_if = "Option::is_none")]
    large_model_calls: Option<u64>,
    /// What they cost, in the currency of the configured prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    /// What failed other than the policy: a model, the reward, or time.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A reward.
#[derive(Debug, Serialize, ToSchema)]
struct EpisodeReward {
    /// The value to train on.
    total: f64,
    /// The score of its answer, 0 to 1.
    answer: f64,
    /// The score of its form.
    format: f64,
}

/// Whether an episode was closed.
#[derive(Debug, Serialize, ToSchema)]
struct Closed {
    /// False if there was none.
    closed: bool,
}

/// Describes the environment, and how many episodes are open.
#[utoipa::path(get, path = "/env", tag = "env",
    responses(
        (status = 200, description = "The description", body = About),
        (status = 401, description = "The key is missing or wrong", body = ErrorBody)))]
async fn about(State(app): State<EnvironmentApp>) -> Json<About> {
    let (environment, setup) = (&app.environment, app.environment.setup());
    Json(About {
        open: environment.open(),
        token_ids: setup.text.is_some(),
        stop_ids: setup.text.as_ref().map(|(text, _)| text.tokenizer.stop_ids().to_vec()),
        max_turns: setup.limits.max_turns,
        max_turn_tokens: setup.limits.max_turn_tokens,
        deadline_ms: setup.limits.deadline_ms,
    })
}

/// Begins an episode.
#[utoipa::path(post, path = "/env/reset", tag = "env", request_body = ResetRequest, responses(
    (status = 200, description = "What the policy is shown first", body = Reply),
    (status = 400, description = "A field cannot be used", body = ErrorBody),
    (status = 401, description = "The key is missing or wrong", body = ErrorBody),
    (status = 429, description = "Too many episodes are open", body = ErrorBody)))]
async fn reset(State(app): State<EnvironmentApp>, body: Bytes) -> Result<Response, ApiError> {
    let request: ResetRequest = compute::in_place(body.len(), || parse(&body))?;
    if request.question.trim().is_empty() {
        return Err(ApiError::invalid("question", "`question` is empty"));
    }
    if request.golds.is_empty() {
        return Err(ApiError::invalid(
            "golds",
            reason!("`golds` is empty"; hint: "give an acceptable answer"),
        ));
    }
    for (name, value) in [
        ("max_turns", request.max_turns.map(|value| value as u64)),
        ("max_turn_tokens", request.max_turn_tokens.map(|value| value as u64)),
        ("deadline_ms", request.deadline_ms),
    ] {
        if value == Some(0) {
            return Err(ApiError::invalid(name, format!("`{name}` must be at least 1")));
        }
    }
    let asked = ResetLimits {
        max_turns: request.max_turns,
        max_turn_tokens: request.max_turn_tokens,
        deadline_ms: request.deadline_ms,
    };
    let ResetRequest { question, golds, source, .. } = request;
    let id = (app.ids)();
    let task =
        Task { id: id.to_string(), question, golds, source: source.into(), ..Task::default() };
    let state = app.environment.reset(id, task, asked).await?;
    Ok(reply(id, state))
}

/// Takes the turn of an episode, calls the large model if it prompts, and continues to the next
/// turn or to the reward.
#[utoipa::path(post, path = "/env/step", tag = "env", request_body = StepRequest, responses(
    (status = 200, description = "What the policy is shown next, or the end", body = Reply),
    (status = 400, description = "The turn is invalid; the episode continues", body = ErrorBody),
    (status = 401, description = "The key is missing or wrong", body = ErrorBody),
    (status = 404, description = "There is no such episode", body = ErrorBody),
    (status = 409, description = "Another turn is awaited, or a step is under way", body = ErrorBody)))]
async fn step(State(app): State<EnvironmentApp>, body: Bytes) -> Result<Response, ApiError> {
    let StepRequest { episode, turn, ids, log_probs, text, is_cut } =
        compute::in_place(body.len(), || parse(&body))?;
    let played = match (ids, text) {
        (Some(ids), None) => ExternalTurn::Tokens(tokens(ids, log_probs)?),
        (None, Some(text)) => {
            let finish = if is_cut { TurnFinish::Length } else { TurnFinish::Stop };
            ExternalTurn::Text(text, finish)
        }
        _ => return Err(ApiError::bad_request("invalid_turn", "a turn is either `ids` or `text`")),
    };
    let state = app.environment.step(episode, turn, played).await?;
    Ok(reply(episode, state))
}

/// Closes an episode before its end.
#[utoipa::path(delete, path = "/env/{episode}", tag = "env",
    params(("episode" = String, Path, description = "The episode")),
    responses(
        (status = 200, description = "Whether there was one to close", body = Closed),
        (status = 401, description = "The key is missing or wrong", body = ErrorBody)))]
async fn close(State(app): State<EnvironmentApp>, Path(episode): Path<String>) -> Json<Closed> {
    Json(Closed { closed: episode.parse().is_ok_and(|id| app.environment.close(id)) })
}

impl EnvironmentApp {
    fn authorize(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(key) = &self.key else { return Ok(()) };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        match bool::from(shown.as_bytes().ct_eq(key.expose_secret().as_bytes())) {
            true => Ok(()),
            false => {
                let message = reason!(
                    "the key is missing or wrong";
                    hint: "send it as `Authorization: Bearer`"
                );
                Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
            }
        }
    }
}

fn tokens(ids: Vec<u32>, log_probs: Option<Vec<f32>>) -> Result<Vec<SampledToken>, ApiError> {
    let log_probs = log_probs.unwrap_or_else(|| vec![0.0; ids.len()]);
    if log_probs.len() != ids.len() {
        let message = format!("{} ids have {} log-probabilities", ids.len(), log_probs.len());
        return Err(ApiError::invalid("log_probs", message));
    }
    if let Some(wrong) = log_probs.iter().find(|value| value.is_nan() || **value > 0.0) {
        return Err(ApiError::invalid("log_probs", format!("{wrong} is no log-probability")));
    }
    let pairs = ids.into_iter().zip(log_probs);
    Ok(pairs.map(|(id, log_prob)| SampledToken { id, log_prob }).collect())
}

/// The reply with this state, which may have a long stream of tokens.
fn reply(episode: Uuid, state: EpisodeState) -> Response {
    let tokens = match &state {
        EpisodeState::Turn { trace, .. } => trace.ids.len(),
        EpisodeState::Done(outcome) => outcome.trace.ids.len(),
    };
    compute::in_place(tokens * TOKEN, || Json(reply_of(episode, state)).into_response())
}

fn reply_of(episode: Uuid, state: EpisodeState) -> Reply {
    let stream = |reply: Reply, trace: TokenTrace| match trace.ids.is_empty() {
        true => reply,
        false => Reply {
            mask: Some(trace.action_mask.iter().map(|&sampled| u8::from(sampled)).collect()),
            log_probs: Some(trace.log_probs),
            ids: Some(trace.ids),
            ..reply
        },
    };
    match state {
        EpisodeState::Turn { turn, shown, trace, max_tokens } => {
            let (observation, max_tokens) = (Some(shown), Some(max_tokens));
            stream(Reply { episode, turn, observation, max_tokens, ..Reply::default() }, trace)
        }
        EpisodeState::Done(outcome) => {
            let FinishedEpisode { turns, trace, reward, finish_reason, answer, .. } = *outcome;
            let worth = |reward: Reward| EpisodeReward {
                total: reward.total,
                answer: reward.answer,
                format: reward.format,
            };
            let reply = Reply {
                episode,
                done: true,
                turn: turns,
                reward: reward.map(worth),
                finish_reason: finish_reason.map(|reason| reason.as_str()),
                answer: Some(answer),
                large_model_calls: Some(outcome.large_model_calls),
                cost: Some(outcome.cost),
                error: outcome.error,
                ..Reply::default()
            };
            stream(reply, trace)
        }
    }
}

impl From<EnvironmentError> for ApiError {
    fn from(error: EnvironmentError) -> Self {
        let (status, code) = match &error {
            EnvironmentError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_episode"),
            EnvironmentError::Full(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_episodes"),
            EnvironmentError::Busy | EnvironmentError::WrongTurn { .. } => {
                (StatusCode::CONFLICT, "wrong_turn")
            }
            EnvironmentError::TooLong { .. } | EnvironmentError::BadTurn(_) => {
                (StatusCode::BAD_REQUEST, "invalid_turn")
            }
        };
        Self::new(status, code, error.reason())
    }
}
