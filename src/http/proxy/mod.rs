//! Requests for other models than the loop's: passed through to an endpoint, and charged.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::usage_meter::UsageMeter;
use super::body::without_bom;
use super::caller::{Caller, authorization};
use super::error::ApiError;
use super::model_name::unknown_model;
use super::sse;
use super::state::AppState;
use crate::compute;
use crate::episode::Tally;
use crate::large_model::{
    ForwardBody, ForwardRequest, LargeModel, LargeModelError, UsageRequested, Waiting,
    is_gateway_timeout,
};

mod body;
mod headers;
mod limits;
pub(super) mod multipart;
mod usage_meter;

/// The same body with the endpoint's id of the model.
fn with_model(headers: &HeaderMap, body: &[u8], id: &str) -> Option<Bytes> {
    if let Some(place) = multipart::boundary(headers).and_then(|it| multipart::model(body, &it)) {
        return Some([&body[..place.start], id.as_bytes(), &body[place.end..]].concat().into());
    }
    // In its place: all else stays as it was written, and is not parsed, as it may be long.
    let known = serde_json::from_slice::<Named<'_>>(without_bom(body)).ok()?.model.get();
    let at = known.as_ptr().addr() - body.as_ptr().addr();
    let id = serde_json::to_vec(id).ok()?;
    Some([&body[..at], &id, &body[at + known.len()..]].concat().into())
}

/// The model of a body, as it is written.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
}

/// A request to pass on.
pub(super) struct Passed<'a> {
    pub(super) route: &'static str,
    pub(super) method: Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) started: Instant,
}

/// Whether the endpoint surely billed nothing, as the loop's own calls judge it. A gateway's
/// time-out says nothing about the model behind it, nor does a request that was sent and not
/// answered.
fn is_free(response: &Result<http::Response<ForwardBody>, LargeModelError>) -> bool {
    match response {
        Ok(response) => {
            !response.status().is_success() && !is_gateway_timeout(response.status().as_u16())
        }
        Err(error) => !error.may_be_billed(),
    }
}

/// Passes a request on to the endpoint that serves `model`.
pub(super) async fn forward(
    state: &AppState,
    caller: &Caller,
    model: &str,
    passed: Passed<'_>,
) -> Result<Response, ApiError> {
    let Passed { route, method, uri, mut headers, body, started } = passed;
    multipart::check(&headers)?;
    let authorization = authorization(&headers);
    let place = state.serving.large_models.route(model, authorization.as_ref()).await;
    let (endpoint, id) = place.ok_or_else(|| unknown_model(&state.serving, caller, model))?;
    caller.check_price(id, endpoint.is_priced(Some(id)))?;
    limits::check(caller, &method, uri.path(), &headers, body).await?;
    let with_model = || compute::in_place(body.len(), || with_model(&headers, body, id));
    let renamed = if id == model { None } else { with_model() };
    let (body, model) = (renamed.as_ref().unwrap_or(body), id);
    let is_callers_key = !endpoint.has_key() && headers.contains_key(header::AUTHORIZATION);
    headers::to_endpoint(&mut headers);
    let path = uri.path_and_query().map_or(uri.path(), |whole| whole.as_str());
    let path = path.strip_prefix("/v1").unwrap_or(path).to_owned();
    let body = body.clone();
    // Reading and deleting is free.
    let is_metered = caller.is_billed() && method == Method::POST;
    if is_metered || endpoint.has_key() {
        // Compressed text could not be counted, nor searched for the endpoint's key.
        headers.remove(header::ACCEPT_ENCODING);
    }
    let waiting = Waiting::default();
    // From here on in a task, as the client may leave before there is a response.
    let meter = is_metered.then(|| {
        let (passed, tally) = (endpoint.passed_usage(body.clone()), Tally::default());
        let (bill, metrics) = (caller.bill(&tally), Arc::clone(&state.metrics));
        UsageMeter::new(endpoint.billed_at(model), passed, waiting.clone(), tally, bill, metrics)
    });
    let model = model.to_owned();
    let number = caller.number();
    let request = ForwardRequest {
        method,
        path,
        headers,
        body,
        model,
        is_metered,
        caller: number,
        deadline: None,
        waiting,
    };
    let asked = Instant::now();
    let response = endpoint.forward(request).await;
    let overhead = started.elapsed().saturating_sub(asked.elapsed());
    state.metrics.overhead(route, overhead);
    let is_success = response.as_ref().is_ok_and(|response| response.status().is_success());
    let meter = match meter {
        Some(meter) if is_free(&response) => {
            meter.discard();
            None
        }
        // Dropped where there is no reply, which charges what was asked.
        meter => meter.filter(|_| is_success),
    };
    let response = response.map_err(|error| ApiError::of_large_model(&error, is_callers_key))?;
    let (mut parts, pieces) = response.into_parts();
    headers::check_status(parts.status)?;
    headers::to_client(&mut parts.headers);
    let hides_usage = parts.extensions.get::<UsageRequested>().is_some();
    if hides_usage {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    // Compressed bodies have no lines.
    let is_events = !parts.headers.contains_key(header::CONTENT_ENCODING)
        && headers::has_content_type(&parts.headers, headers::EVENT_STREAM);
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut pieces = body::pieces(pieces, is_events, is_callers_key);
    if let Some(meter) = meter {
        pieces = meter.watch(pieces, is_events, hides_usage);
    }
    let mut response = if length == Some(0) {
        let _ = pieces.next().await;
        Response::default()
    } else {
        sse::observed(pieces, length, state, route, started)
    };
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    Ok(response)
}
