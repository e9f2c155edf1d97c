//! The server of `server runs` and `server train --ui`: a folder of runs for a page, without models.
//! It has no keys, so it is for this machine alone; the rules on foreign pages hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod wire;

use self::wire::{MetricList, MetricQuery, RunList, StepList};
use super::config::ServerConfig;
use super::error::{ApiError, shorten};
use super::origin;
use super::routes::playground;
use super::wire::ErrorBody;
use crate::compute;
use crate::playground::RUNS;
use crate::runs::{PerStep, Runs};

/// How long reading may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A report runs its own script, which reaches nothing: it has no origin, and loads nothing.
const REPORT_POLICY: &str = "sandbox allow-scripts; connect-src 'none'; object-src 'none'; \
                             frame-src 'none'; base-uri 'none'; form-action 'none'; \
                             frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prompt-R1 runs",
        description = "Folders of training runs and evaluations, as `server runs` and `server train --ui` serve them."
    ),
    tags((name = "runs", description = "What a folder of runs holds"))
)]
struct Document;

#[derive(Clone)]
struct RunsState {
    runs: Runs,
    server: Arc<ServerConfig>,
}

/// The routes over a folder of runs. Of `server`, the names and origins that may ask are used.
pub fn runs_router(runs: Runs, server: &ServerConfig) -> Router {
    let state = RunsState { runs, server: Arc::new(server.clone()) };
    let (router, document) = documented().split_for_parts();
    let document = document.to_pretty_json().unwrap_or_default();
    let document = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    router
        .route("/openapi.json", get(document))
        .merge(playground::files(RUNS))
        .fallback(async |uri: Uri| unknown(&uri))
        .layer(from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// The OpenAPI document of the runs, indented JSON.
pub fn runs_openapi_json() -> String {
    documented().split_for_parts().1.to_pretty_json().unwrap_or_default()
}

fn documented() -> OpenApiRouter<RunsState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list))
        .routes(routes!(metrics))
        .routes(routes!(evaluations))
        .routes(routes!(evaluation))
        .routes(routes!(samples))
        .routes(routes!(sample))
        .routes(routes!(report))
}

/// Refuses what a foreign page may have sent.
async fn guard(State(state): State<RunsState>, request: Request, next: Next) -> Response {
    if let Some(answer) = origin::preflight(&state.server, &request) {
        return answer;
    }
    match origin::check(&state.server, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn unknown(uri: &Uri) -> ApiError {
    let path = shorten(uri.path());
    let message = format!("there is nothing at `{path}`\nhint: `/openapi.json` says what there is");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", message)
}

/// The runs of the folder, those that wrote last first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", responses(
    (status = 200, description = "The runs", body = RunList),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn list(State(state): State<RunsState>) -> Result<Json<RunList>, ApiError> {
    let runs = read(&state, |runs| runs.list().map(Some)).await?;
    Ok(Json(runs.into()))
}

/// What a run measured, by step. With `from`, only what was written since: a run that is at work is
/// followed by asking again.
#[utoipa::path(get, path = "/v1/runs/{run}/metrics", tag = "runs",
    params(("run" = String, Path, description = "The run's name"), MetricQuery), responses(
    (status = 200, description = "Its metrics", body = MetricList),
    (status = 400, description = "A parameter is not valid", body = ErrorBody),
    (status = 404, description = "No such run", body = ErrorBody),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn metrics(
    State(state): State<RunsState>,
    run: Result<Path<String>, PathRejection>,
    query: Result<Query<MetricQuery>, QueryRejection>,
) -> Result<Json<MetricList>, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    let Query(MetricQuery { from }) = query.map_err(|error| {
        let message = format!("the query cannot be read: {}", error.body_text());
        ApiError::invalid("from", message)
    })?;
    let metrics = read(&state, move |runs| runs.metrics(&run, from.unwrap_or(0))).await?;
    Ok(Json(metrics.into()))
}

/// The steps after which a run was evaluated on held-out tasks.
#[utoipa::path(get, path = "/v1/runs/{run}/evaluations", tag = "runs",
    params(("run" = String, Path, description = "The run's name")), responses(
    (status = 200, description = "The steps", body = StepList),
    (status = 400, description = "The name is no text", body = ErrorBody),
    (status = 404, description = "No such run", body = ErrorBody),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn evaluations(
    State(state): State<RunsState>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Json<StepList>, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    let steps = read(&state, move |runs| runs.steps(&run, PerStep::Evaluations)).await?;
    Ok(Json(steps.into()))
}

/// One of these evaluations, with sample episodes, as the run wrote it.
#[utoipa::path(get, path = "/v1/runs/{run}/evaluations/{step}", tag = "runs",
    params(("run" = String, Path, description = "The run's name"),
        ("step" = u64, Path, description = "The step")), responses(
    (status = 200, description = "The evaluation", body = Value),
    (status = 400, description = "The step is no number", body = ErrorBody),
    (status = 404, description = "No such evaluation", body = ErrorBody),
    (status = 503, description = "The file cannot be read, or is being written", body = ErrorBody)))]
async fn evaluation(
    State(state): State<RunsState>,
    place: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path((run, step)) = place.map_err(unreadable)?;
    read(&state, move |runs| runs.step(&run, PerStep::Evaluations, step)).await.map(Json)
}

/// The steps of training of which sample episodes are kept.
#[utoipa::path(get, path = "/v1/runs/{run}/samples", tag = "runs",
    params(("run" = String, Path, description = "The run's name")), responses(
    (status = 200, description = "The steps", body = StepList),
    (status = 400, description = "The name is no text", body = ErrorBody),
    (status = 404, description = "No such run", body = ErrorBody),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn samples(
    State(state): State<RunsState>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Json<StepList>, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    let steps = read(&state, move |runs| runs.steps(&run, PerStep::Samples)).await?;
    Ok(Json(steps.into()))
}

/// Some of the episodes that a step learnt from, with their rewards and advantages, as the run wrote
/// them.
#[utoipa::path(get, path = "/v1/runs/{run}/samples/{step}", tag = "runs",
    params(("run" = String, Path, description = "The run's name"),
        ("step" = u64, Path, description = "The step")), responses(
    (status = 200, description = "The episodes", body = Value),
    (status = 400, description = "The step is no number", body = ErrorBody),
    (status = 404, description = "No episodes of this step", body = ErrorBody),
    (status = 503, description = "The file cannot be read", body = ErrorBody)))]
async fn sample(
    State(state): State<RunsState>,
    place: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path((run, step)) = place.map_err(unreadable)?;
    read(&state, move |runs| runs.step(&run, PerStep::Samples, step)).await.map(Json)
}

/// The report of a run, a page of its own.
#[utoipa::path(get, path = "/v1/runs/{run}/report", tag = "runs",
    params(("run" = String, Path, description = "The run's name")), responses(
    (status = 200, description = "The report", body = String, content_type = "text/html"),
    (status = 400, description = "The name is no text", body = ErrorBody),
    (status = 404, description = "No such report", body = ErrorBody),
    (status = 503, description = "The file cannot be read", body = ErrorBody)))]
async fn report(
    State(state): State<RunsState>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    let page = read(&state, move |runs| runs.report(&run)).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, REPORT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, page).into_response())
}

fn unreadable(error: PathRejection) -> ApiError {
    ApiError::bad_request("invalid_value", format!("the path cannot be read: {error}"))
}

/// What is read of the folder, off the async workers.
async fn read<T: Send + 'static>(
    state: &RunsState,
    work: impl FnOnce(&Runs) -> std::io::Result<Option<T>> + Send + 'static,
) -> Result<T, ApiError> {
    let unavailable = |reason: String| {
        let message = format!("the runs cannot be read: {reason}\nhint: try again a little later");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "runs_unavailable", message)
    };
    let runs = state.runs.clone();
    let found = compute::run(Instant::now() + TIMEOUT, move |_| work(&runs)).await;
    let found = found.map_err(|error| unavailable(error.to_string()))?;
    found.map_err(|error| unavailable(error.to_string()))?.ok_or_else(|| {
        let message = "there is no such run, or it has no such thing\nhint: `/v1/runs` lists them";
        ApiError::new(StatusCode::NOT_FOUND, "run_not_found", message)
    })
}
