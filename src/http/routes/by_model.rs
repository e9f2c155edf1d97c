//! Routes that the loop shares with other models: the model of a request decides who answers it.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;

use crate::http::body::RawBody;
use crate::http::caller::Caller;
use crate::http::episode::prepared::RequestContext;
use crate::http::error::ApiError;
use crate::http::model_name::{LoopModel, model_of};
use crate::http::proxy::{self, Passed};
use crate::http::state::{AppHandle, AppState};

/// A request that names a model in its body.
pub(in crate::http) struct ModelRequest {
    pub(super) state: AppState,
    pub(super) caller: Caller,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) started: Instant,
}

impl FromRequest<AppHandle> for ModelRequest {
    type Rejection = ApiError;

    async fn from_request(request: Request, handle: &AppHandle) -> Result<Self, ApiError> {
        let state = handle.state();
        let (mut parts, body) = request.into_parts();
        let Ok(caller) = Caller::from_request_parts(&mut parts, handle).await;
        let (method, uri, headers) =
            (parts.method.clone(), parts.uri.clone(), parts.headers.clone());
        let request = Request::from_parts(parts, body);
        let RawBody(body) = RawBody::from_request(request, handle).await?;
        Ok(Self { state, caller, method, uri, headers, body, started: Instant::now() })
    }
}

/// Has `answer` answer a request for the loop, or for a large model of this process alone; passes
/// any other on. `id_prefix` is that of the reply's id.
pub(super) async fn by_model<F>(
    request: ModelRequest,
    route: &'static str,
    id_prefix: &'static str,
    answer: impl FnOnce(RequestContext, Bytes) -> F,
) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>>,
{
    let ModelRequest { state, caller, method, uri, headers, body, started } = request;
    let model = model_of(&body, &caller)?;
    if LoopModel::of(&state.serving.large_models, &model).is_none() {
        let passed = Passed { route, method, uri: &uri, headers, body: &body, started };
        return proxy::forward(&state, &caller, &model, passed).await;
    }
    drop(model);
    let context = RequestContext { state, caller, headers, route, id_prefix, started };
    // Boxed, so that passed-through requests do not carry its size.
    Box::pin(answer(context, body)).await
}
