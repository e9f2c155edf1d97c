//! The server of `server runs` and `server train --ui`: a folder of runs for a web page, without
//! models. It has no keys, so it serves this machine only; the rules on foreign pages apply.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod wire;

use self::wire::{MetricList, MetricQuery, RunList, StepList};
use super::config::ServerConfig;
use super::error::ApiError;
use super::local;
use super::routes::playground;
use super::wire::ErrorBody;
use crate::compute;
use crate::playground::RUNS;
use crate::runs::{PerStep, Runs};

/// The time-out for reading.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A report's own script and styles are used, but isolated: it has no origin, and loads nothing.
const REPORT_CONTENT_SECURITY_POLICY: &str = "sandbox allow-scripts; default-src 'none'; \
                             script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                             img-src data:; base-uri 'none'; form-action 'none'; \
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

/// The routes over a folder of runs. Of `server`, only the allowed host names and origins are used.
pub fn runs_router(runs: Runs, server: &ServerConfig) -> Router {
    local::router(documented(), playground::files(RUNS), runs, Some(server))
}

/// The OpenAPI document of the runs, indented JSON.
pub fn runs_openapi_json() -> String {
    local::openapi_json(documented())
}

fn documented() -> OpenApiRouter<Runs> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list))
        .routes(routes!(metrics))
        .routes(routes!(evaluations))
        .routes(routes!(evaluation))
        .routes(routes!(samples))
        .routes(routes!(sample))
        .routes(routes!(report))
}

/// The runs of the folder, most recently written first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", responses(
    (status = 200, description = "The runs", body = RunList),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn list(State(runs): State<Runs>) -> Result<Response, ApiError> {
    read_json(runs, |runs| Ok(Some(RunList::from(runs.list()?)))).await
}

/// The metrics of a run, by step. With `from`, only those written since: poll to follow an active
/// run.
#[utoipa::path(get, path = "/v1/runs/{run}/metrics", tag = "runs",
    params(("run" = String, Path, description = "The run's name"), MetricQuery), responses(
    (status = 200, description = "Its metrics", body = MetricList),
    (status = 400, description = "A parameter is not valid", body = ErrorBody),
    (status = 404, description = "No such run", body = ErrorBody),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn metrics(
    State(runs): State<Runs>,
    run: Result<Path<String>, PathRejection>,
    query: Result<Query<MetricQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    let Query(MetricQuery { from }) = query.map_err(|error| {
        let message = format!("the query cannot be read: {}", error.body_text());
        ApiError::invalid("from", message)
    })?;
    let from = from.unwrap_or(0);
    read_json(runs, move |runs| Ok(runs.metrics(&run, from)?.map(MetricList::from))).await
}

/// The steps after which a run was evaluated on held-out tasks.
#[utoipa::path(get, path = "/v1/runs/{run}/evaluations", tag = "runs",
    params(("run" = String, Path, description = "The run's name")), responses(
    (status = 200, description = "The steps", body = StepList),
    (status = 400, description = "The name is not text", body = ErrorBody),
    (status = 404, description = "No such run", body = ErrorBody),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn evaluations(
    State(runs): State<Runs>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    steps(runs, run, PerStep::Evaluations).await
}

/// One of these evaluations, with sample episodes.
#[utoipa::path(get, path = "/v1/runs/{run}/evaluations/{step}", tag = "runs",
    params(("run" = String, Path, description = "The run's name"),
        ("step" = u64, Path, description = "The step")), responses(
    (status = 200, description = "The evaluation", body = Value),
    (status = 400, description = "The step is not a number", body = ErrorBody),
    (status = 404, description = "No such evaluation", body = ErrorBody),
    (status = 503, description = "The file cannot be read, or is being written", body = ErrorBody)))]
async fn evaluation(
    State(runs): State<Runs>,
    place: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Response, ApiError> {
    step(runs, place, PerStep::Evaluations).await
}

/// The steps of training of which sample episodes are kept.
#[utoipa::path(get, path = "/v1/runs/{run}/samples", tag = "runs",
    params(("run" = String, Path, description = "The run's name")), responses(
    (status = 200, description = "The steps", body = StepList),
    (status = 400, description = "The name is not text", body = ErrorBody),
    (status = 404, description = "No such run", body = ErrorBody),
    (status = 503, description = "The folder cannot be read", body = ErrorBody)))]
async fn samples(
    State(runs): State<Runs>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    steps(runs, run, PerStep::Samples).await
}

/// Some of the episodes that a step learnt from, with their rewards and advantages, as the run
/// wrote them.
#[utoipa::path(get, path = "/v1/runs/{run}/samples/{step}", tag = "runs",
    params(("run" = String, Path, description = "The run's name"),
        ("step" = u64, Path, description = "The step")), responses(
    (status = 200, description = "The episodes", body = Value),
    (status = 400, description = "The step is not a number", body = ErrorBody),
    (status = 404, description = "No episodes of this step", body = ErrorBody),
    (status = 503, description = "The file cannot be read", body = ErrorBody)))]
async fn sample(
    State(runs): State<Runs>,
    place: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Response, ApiError> {
    step(runs, place, PerStep::Samples).await
}

/// The report of a run, an HTML page.
#[utoipa::path(get, path = "/v1/runs/{run}/report", tag = "runs",
    params(("run" = String, Path, description = "The run's name")), responses(
    (status = 200, description = "The report", body = String, content_type = "text/html"),
    (status = 400, description = "The name is not text", body = ErrorBody),
    (status = 404, description = "No such report", body = ErrorBody),
    (status = 503, description = "The file cannot be read", body = ErrorBody)))]
async fn report(
    State(runs): State<Runs>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    let page = read(runs, move |runs| runs.report(&run)).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, REPORT_CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, page).into_response())
}

/// The steps of which a run has something of this kind.
async fn steps(
    runs: Runs,
    run: Result<Path<String>, PathRejection>,
    kind: PerStep,
) -> Result<Response, ApiError> {
    let Path(run) = run.map_err(unreadable)?;
    read_json(runs, move |runs| Ok(runs.steps(&run, kind)?.map(StepList::from))).await
}

/// What a run has of this kind of one step.
async fn step(
    runs: Runs,
    place: Result<Path<(String, u64)>, PathRejection>,
    kind: PerStep,
) -> Result<Response, ApiError> {
    let Path((run, step)) = place.map_err(unreadable)?;
    read_json(runs, move |runs| runs.step(&run, kind, step)).await
}

fn unreadable(error: PathRejection) -> ApiError {
    ApiError::bad_request("invalid_value", format!("the path cannot be read: {error}"))
}

/// The same as JSON, which may be long: it is written where it was read.
async fn read_json<T: Serialize + 'static>(
    runs: Runs,
    work: impl FnOnce(&Runs) -> std::io::Result<Option<T>> + Send + 'static,
) -> Result<Response, ApiError> {
    let text = read(runs, move |runs| {
        let found = work(runs)?;
        Ok(found.map(|found| serde_json::to_vec(&found)).transpose()?)
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], text.await?).into_response())
}

/// Reads from the folder, off the async workers.
async fn read<T: Send + 'static>(
    runs: Runs,
    work: impl FnOnce(&Runs) -> std::io::Result<Option<T>> + Send + 'static,
) -> Result<T, ApiError> {
    let unavailable = |reason: String| {
        let message = reason!(
            "the runs cannot be read: {reason}";
            hint: "try again a little later"
        );
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "runs_unavailable", message)
    };
    let found = compute::run(Instant::now() + TIMEOUT, move |_| work(&runs)).await;
    let found = found.map_err(|error| unavailable(error.to_string()))?;
    found.map_err(|error| unavailable(error.to_string()))?.ok_or_else(|| {
        let message = reason!(
            "there is no such run, or the run does not have this file";
            hint: "`/v1/runs` lists them"
        );
        ApiError::new(StatusCode::NOT_FOUND, "run_not_found", message)
    })
}
