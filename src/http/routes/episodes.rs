//! `GET /v1/episodes`: recorded episodes, for callers who may read them.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::compute;
use crate::http::caller::Caller;
use crate::http::error::{ApiError, shorten};
use crate::http::state::AppState;
use crate::http::wire::ErrorBody;
use crate::http::wire::episodes::{EpisodeList, EpisodeQuery, RecordedEpisode};
use crate::http::wire::solve::{PolicyToken, policy_tokens, tokens_without_texts};
use crate::record::{Archive, ArchiveError, Record};

/// Lists recorded episodes, the newest first. A key sees the episodes that it asked for itself;
/// those of all callers are for the keys that the operator names in `record.readers`.
#[utoipa::path(get, path = "/v1/episodes", tag = "solve", params(EpisodeQuery), responses(
    (status = 200, description = "A page of episodes", body = EpisodeList),
    (status = 400, description = "A parameter is not valid", body = ErrorBody),
    (status = 401, description = "A key is needed", body = ErrorBody),
    (status = 403, description = "Without a key, no episode is the caller's own", body = ErrorBody),
    (status = 404, description = "Episodes are not recorded", body = ErrorBody),
    (status = 429, description = "A limit of the key is reached", body = ErrorBody),
    (status = 503, description = "The record cannot be read now", body = ErrorBody)))]
pub(in crate::http) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    query: Result<Query<EpisodeQuery>, QueryRejection>,
) -> Result<Json<EpisodeList>, ApiError> {
    let (archive, only) = readable(&state, &caller)?;
    let Query(query) = query.map_err(|error| {
        let message = format!("the query cannot be read: {}", error.body_text());
        ApiError::bad_request("invalid_value", message)
    })?;
    let (filter, limit, cursor) = query.split(only)?;
    let page = archive.list(filter, limit, cursor.as_deref()).await.map_err(failure)?;
    Ok(Json(page.into()))
}

/// A recorded episode: its request, and everything that happened.
#[utoipa::path(get, path = "/v1/episodes/{id}", tag = "solve",
    params(("id" = String, Path, description = "Its id in the list")), responses(
    (status = 200, description = "The episode", body = RecordedEpisode),
    (status = 400, description = "The id is not text", body = ErrorBody),
    (status = 401, description = "A key is needed", body = ErrorBody),
    (status = 403, description = "Without a key, no episode is the caller's own", body = ErrorBody),
    (status = 404, description = "No such episode", body = ErrorBody),
    (status = 429, description = "A limit of the key is reached", body = ErrorBody),
    (status = 503, description = "The record cannot be read now", body = ErrorBody)))]
pub(in crate::http) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let (archive, only) = readable(&state, &caller)?;
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "the id is not UTF-8 text"))?;
    let record = archive.get(&id, only.as_deref()).await.map_err(failure)?;
    let Some(record) = record else {
        let id = shorten(&id);
        let message = reason!("there is no episode `{id}`"; hint: "`/v1/episodes` lists them");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "episode_not_found", message));
    };
    let tokens = tokens(&state, &record).await;
    // As long as what it records: conversations, replies, images.
    let reply = || Json(RecordedEpisode::new(id, record, tokens)).into_response();
    Ok(compute::in_place(usize::MAX, reply))
}

/// The archive, and the key whose episodes the caller may read; `None` for all.
fn readable<'a>(
    state: &'a AppState,
    caller: &Caller,
) -> Result<(&'a Archive, Option<String>), ApiError> {
    let Some((archive, config)) = &state.archive else {
        let message = reason!(
            "episodes are not recorded here";
            hint: "the server's operator turns that on by the table `[record]`"
        );
        return Err(ApiError::new(StatusCode::NOT_FOUND, "episodes_not_recorded", message));
    };
    if config.reads_all(caller.id()) {
        return Ok((archive, None));
    }
    match caller.id() {
        Some(key) => Ok((archive, Some(key.to_owned()))),
        None => {
            let message = reason!(
                "without a key, no recorded episode is your own";
                hint: "the server's operator makes keys, or lets anyone read all by `record.readers = [\"*\"]`"
            );
            Err(ApiError::new(StatusCode::FORBIDDEN, "episodes_not_readable", message))
        }
    }
}

/// The policy's tokens, with their texts if it is still served.
async fn tokens(state: &AppState, record: &Record) -> Vec<PolicyToken> {
    let trace = &record.episode.trajectory.trace;
    let served = state.serving.policies().find(|served| served.policy.name() == record.policy);
    let texts = match served {
        // A policy that is no longer served, or has another vocabulary by now, has no texts.
        Some(served) => served.policy.token_texts(&trace.ids).await.unwrap_or_default(),
        None => Vec::new(),
    };
    if texts.len() == trace.ids.len() {
        policy_tokens(trace, texts)
    } else {
        tokens_without_texts(trace)
    }
}

fn failure(error: ArchiveError) -> ApiError {
    match error {
        ArchiveError::Cursor => {
            let message = reason!(
                "`cursor` is not known";
                hint: "take the `next_cursor` of a page"
            );
            ApiError::invalid("cursor", message)
        }
        ArchiveError::Store(reason) => {
            tracing::warn!(reason, "recorded episodes cannot be read");
            let message = reason!(
                "the recorded episodes cannot be read now";
                hint: "try again a little later"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "episodes_unavailable", message)
        }
        ArchiveError::Compute(error) => {
            let message = reason!("{error}"; hint: "try again a little later");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "episodes_unavailable", message)
        }
    }
}
