//! `GET /v1/models`: the loop's models, the large models of this process, and those of the
//! endpoints.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use futures::future::join_all;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::hint::Hint;
use crate::http::caller::{Caller, authorization};
use crate::http::error::ApiError;
use crate::http::model_name::{LOOP, own_models, unknown_model};
use crate::http::routes::failures::KeyFailures;
use crate::http::state::AppState;
use crate::http::wire::ErrorBody;
use crate::large_model::Endpoint;

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// The models, the loop's first.
    data: Vec<Value>,
}

/// Lists the loop's models, the large models of this process, and those of the endpoints. An
/// endpoint that does not answer is left out.
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "All models", body = ModelList), KeyFailures))]
pub(in crate::http) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
) -> Json<ModelList> {
    Json(ModelList { object: "list", data: all(&state, &caller, &headers).await })
}

/// One model of the list.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The model", body = serde_json::Value),
    (status = 400, description = "The id is not text", body = ErrorBody),
    (status = 404, description = "No such model", body = ErrorBody),
    KeyFailures))]
pub(in crate::http) async fn get(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id.map_err(unreadable)?;
    find(&state, &id, &caller, &headers).await
}

/// The same for ids with an unencoded slash.
pub(in crate::http) async fn get_owned(
    State(state): State<AppState>,
    parts: Result<Path<(String, String)>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let Path((owner, model)) = parts.map_err(unreadable)?;
    find(&state, &format!("{owner}/{model}"), &caller, &headers).await
}

fn unreadable(_: PathRejection) -> ApiError {
    ApiError::invalid("model", "the model's id is not UTF-8 text")
}

async fn find(
    state: &AppState,
    id: &str,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let own = listed_models(state).into_iter().find(|model| model["id"] == id);
    if let Some(own) = own.filter(|_| caller.may_use(id)) {
        return Ok(Json(own));
    }
    let all = all(state, caller, headers).await;
    let model = all.into_iter().find(|model| model["id"] == id);
    model.map(Json).ok_or_else(|| unknown_model(&state.serving, caller, id))
}

async fn all(state: &AppState, caller: &Caller, headers: &HeaderMap) -> Vec<Value> {
    let mut models = listed_models(state);
    let authorization = authorization(headers);
    let endpoints = state.serving.large_models.endpoints();
    let lists = endpoints.map(|(name, endpoint)| upstream(name, endpoint, authorization.as_ref()));
    let lists = join_all(lists).await;
    models.extend(lists.iter().flat_map(|list| list.iter().cloned()).map(Value::Object));
    distinct(models, |model| {
        let id = model["id"].as_str().filter(|id| caller.may_use(id))?;
        Some(id.to_owned())
    })
}

/// The models with their ids, of which each is listed once: the first model.
fn distinct<T, K: Eq + Hash>(mut models: Vec<T>, id: impl Fn(&T) -> Option<K>) -> Vec<T> {
    let mut known = HashSet::with_capacity(models.len());
    models.retain(|model| id(model).is_some_and(|id| known.insert(id)));
    models
}

/// The models that are answered here, as they are listed.
fn listed_models(state: &AppState) -> Vec<Value> {
    let model = |id: String| json!({"id": id, "object": "model", "created": 0, "owned_by": LOOP});
    let mut models: Vec<Value> = own_models(&state.serving).into_iter().map(model).collect();
    // The first is the loop.
    models[0]["policies"] = state.serving.policy_names().collect();
    models
}

/// The models of an endpoint; none when it does not answer.
async fn upstream(
    name: &str,
    endpoint: &Endpoint,
    authorization: Option<&SecretString>,
) -> Arc<Vec<Map<String, Value>>> {
    endpoint.list_models(authorization).await.unwrap_or_else(|error| {
        let reason = error.explained();
        tracing::warn!(model = name, reason, "cannot list the models of a large model's endpoint");
        Arc::default()
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::{Hash, Hasher};

    use super::distinct;

    /// An id that counts how often it is compared.
    struct Counted<'a>(usize, &'a Cell<usize>);

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0 == other.0
        }
    }

    impl Eq for Counted<'_> {}

    impl Hash for Counted<'_> {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    #[test]
    fn long_lists_are_looked_through_once() {
        const COUNT: usize = 60_000;
        let (read, compared) = (Cell::new(0), Cell::new(0));
        let models: Vec<usize> = (0..COUNT).chain([7, COUNT - 1]).collect();
        let kept = distinct(models, |model| {
            read.set(read.get() + 1);
            Some(Counted(*model, &compared)).filter(|id| id.0 != 5)
        });
        let expected: Vec<usize> = (0..COUNT).filter(|id| *id != 5).collect();
        assert_eq!((kept, read.get()), (expected, COUNT + 2));
        assert!(compared.get() < COUNT / 10, "{} comparisons", compared.get());
    }
}
