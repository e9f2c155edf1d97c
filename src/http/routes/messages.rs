//! `POST /v1/messages`: the loop in the form of Anthropic's Messages, a straight pass for all other
//! models.

use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};

use crate::http::body::{RawBody, parse_bounded};
use crate::http::caller::Caller;
use crate::http::episode::answer::Piece;
use crate::http::episode::prepared::{Asking, Prepared};
use crate::http::error::ApiError;
use crate::http::model_name::{is_loop, model_of};
use crate::http::proxy::{self, Passed};
use crate::http::routes::failures::LoopFailures;
use crate::http::state::AppState;
use crate::http::wire::messages::MessagesErrorBody;
use crate::http::wire::messages::events::MessageWriter;
use crate::http::wire::messages::request::{MessagesRequest, NAMES};
use crate::http::wire::{SseEvent, thoughts};

pub(in crate::http) const ROUTE: &str = "/v1/messages";

/// Answers a conversation in the form of Anthropic's Messages. The model `prompt-r1` runs the loop on
/// the default large model, `prompt-r1/NAME` on the one of that name, and `prompt-r1:POLICY` or
/// `prompt-r1:POLICY/NAME` has that policy play. Any other model is passed through untouched.
#[utoipa::path(post, path = "/v1/messages", tag = "anthropic", request_body = MessagesRequest,
    responses(
    (status = 200, description = "The message, or its events", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    LoopFailures<MessagesErrorBody>))]
pub(in crate::http) async fn messages(
    State(state): State<AppState>,
    uri: Uri,
    caller: Caller,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let model = model_of(&body, &caller)?;
    if !is_loop(&model) {
        let method = Method::POST;
        let passed = Passed { route: ROUTE, method, uri: &uri, headers, body: &body, started };
        return proxy::hand_on(&state, &caller, &model, passed).await;
    }
    drop(model);
    let asking = Asking { state, caller, headers, route: ROUTE, id_prefix: "msg_", started };
    Box::pin(answer(asking, body)).await.map_err(|error| error.renamed(&NAMES))
}

/// Answers by the loop.
async fn answer(asking: Asking, body: Bytes) -> Result<Response, ApiError> {
    let bounds = &asking.state.server.bounds;
    let (request, size): (MessagesRequest, _) = parse_bounded(body, bounds).await?;
    let is_stream = request.stream == Some(true);
    let (model, shows_thoughts) = (request.model.clone(), request.shows_thoughts());
    let prepared = Prepared::new(asking, request.into_chat()?, size).await?;
    let (sum, with_turns) = (prepared.sum(), prepared.with_turns);
    let mut writer = MessageWriter::new(&prepared.id, &model, sum, shows_thoughts, with_turns);
    if is_stream {
        return Ok(prepared.stream(|answers| {
            let opening = stream::iter(writer.events());
            let pieces = stream::iter(answers).flatten();
            opening.chain(pieces.flat_map(move |piece| {
                writer.take(piece);
                stream::iter(writer.events())
            }))
        }));
    }
    let (made, headers) = prepared.whole().await?;
    for (text, answered) in made {
        thoughts(&answered.episode).into_iter().for_each(|it| writer.take(Piece::Thought(it)));
        if !text.is_empty() {
            writer.take(Piece::Text(text));
        }
        writer.take(Piece::Done(Box::new(answered)));
    }
    Ok((headers, Json(writer.into_message())).into_response())
}
