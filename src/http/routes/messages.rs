//! `POST /v1/messages`: the loop behind Anthropic's Messages, a pass-through for all other models.

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};

use crate::compute;
use crate::http::body::parse_bounded;
use crate::http::episode::answer::whole_pieces;
use crate::http::episode::prepared::{Prepared, RequestContext};
use crate::http::error::ApiError;
use crate::http::routes::by_model::{ModelRequest, by_model};
use crate::http::routes::failures::LoopFailures;
use crate::http::wire::SseEvent;
use crate::http::wire::messages::MessagesErrorBody;
use crate::http::wire::messages::events::MessageWriter;
use crate::http::wire::messages::request::{MessagesRequest, NAMES};

pub(in crate::http) const ROUTE: &str = "/v1/messages";

/// Answers a conversation in the form of Anthropic's Messages. The model `prompt-r1` runs the loop
/// on the default large model, `prompt-r1/NAME` on the one of that name, and `prompt-r1:POLICY` or
/// `prompt-r1:POLICY/NAME` uses that policy. The name of a large model in this process stands for
/// that model alone. Any other model is passed through untouched.
#[utoipa::path(post, path = "/v1/messages", tag = "anthropic", request_body = MessagesRequest,
    responses(
    (status = 200, description = "The message, or its events", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    LoopFailures<MessagesErrorBody>))]
pub(in crate::http) async fn messages(request: ModelRequest) -> Result<Response, ApiError> {
    by_model(request, ROUTE, "msg_", answer).await.map_err(|error| error.renamed(&NAMES))
}

/// Answers by the loop.
async fn answer(context: RequestContext, body: Bytes) -> Result<Response, ApiError> {
    let bounds = &context.state.server.bounds;
    let (request, size): (MessagesRequest, _) = parse_bounded(body, bounds).await?;
    let is_stream = request.stream == Some(true);
    let (model, shows_thoughts) = (request.model.clone(), request.shows_thoughts());
    let prepared = Prepared::new(context, request.into_chat()?, size).await?;
    let (sum, with_turns) = (prepared.sum(), prepared.with_turns);
    let mut writer = MessageWriter::new(&prepared.id, &model, sum, shows_thoughts, with_turns);
    if is_stream {
        let opening = writer.events();
        return Ok(prepared.write(opening, move |piece| {
            writer.take(piece);
            writer.events()
        }));
    }
    let (made, headers) = prepared.whole().await?;
    let bytes = made.iter().map(|(_, answered)| answered.bytes(with_turns)).sum();
    Ok(compute::in_place(bytes, || {
        made.into_iter().flat_map(whole_pieces).for_each(|piece| writer.take(piece));
        (headers, Json(writer.into_message())).into_response()
    }))
}
