//! `POST /v1/responses`: the loop behind OpenAI's Responses, a pass-through for all other models.

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};

use crate::compute;
use crate::http::body::parse_bounded;
use crate::http::episode::answer::{AnswerPiece, whole_pieces};
use crate::http::episode::prepared::{Prepared, RequestContext};
use crate::http::error::ApiError;
use crate::http::routes::by_model::{ModelRequest, by_model};
use crate::http::routes::failures::LoopFailures;
use crate::http::wire::responses::events::ResponseWriter;
use crate::http::wire::responses::request::{NAMES, ResponsesRequest};
use crate::http::wire::{ErrorBody, SseEvent};

const ROUTE: &str = "/v1/responses";

/// Answers a conversation in the form of OpenAI's Responses. The model `prompt-r1` runs the loop on
/// the default large model, `prompt-r1/NAME` on the one of that name, and `prompt-r1:POLICY` or
/// `prompt-r1:POLICY/NAME` uses that policy. The name of a large model in this process stands for
/// that model alone. Nothing is stored. Any other model is passed through untouched.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = ResponsesRequest,
    responses(
    (status = 200, description = "The response, or its events", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    LoopFailures<ErrorBody>))]
pub(in crate::http) async fn responses(request: ModelRequest) -> Result<Response, ApiError> {
    by_model(request, ROUTE, "resp_", answer).await.map_err(|error| error.renamed(&NAMES))
}

/// Answers by the loop.
async fn answer(context: RequestContext, body: Bytes) -> Result<Response, ApiError> {
    let bounds = &context.state.server.bounds;
    let (mut request, mut size): (ResponsesRequest, _) = parse_bounded(body, bounds).await?;
    let is_stream = request.stream == Some(true);
    let created = context.state.created();
    let mut head = compute::in_place(size.bytes(), || request.head("", created));
    let (state, is_kept) = (context.state.clone(), request.store != Some(false));
    let chat = request.into_chat(|id| {
        let Some(item) = state.item_memory().get(id) else { return Ok(None) };
        // Before it is copied: a short body may refer to a long item over and over.
        size = size.with_item(item.size);
        size.check(1, bounds)?;
        Ok(Some(compute::in_place(item.size.bytes(), || item.value.clone())))
    })?;
    let keep = move |writer: &ResponseWriter| {
        if is_kept {
            state.item_memory().keep(writer.output());
        }
    };
    let prepared = Prepared::new(context, chat, size).await?;
    head.insert("id".to_owned(), prepared.id.clone().into());
    let (with_turns, sum) = (prepared.with_turns, prepared.sum());
    // Its first events, its last one and a whole response repeat the request.
    let repeated = size.bytes();
    let begin = || ResponseWriter::new(head, sum, with_turns, is_stream);
    let mut writer = compute::in_place(repeated, begin);
    if is_stream {
        let opening = writer.events();
        return Ok(prepared.write(opening, move |piece| {
            let is_last = matches!(piece, AnswerPiece::Done(_) | AnswerPiece::Failed(_));
            compute::in_place(if is_last { repeated } else { 0 }, || {
                writer.take(renamed(piece));
                keep(&writer);
                writer.events()
            })
        }));
    }
    let (made, headers) = prepared.whole().await?;
    let bytes: usize = made.iter().map(|(_, answered)| answered.bytes(with_turns)).sum();
    Ok(compute::in_place(bytes + repeated, || {
        made.into_iter().flat_map(whole_pieces).for_each(|piece| writer.take(piece));
        keep(&writer);
        (headers, Json(writer.into_response())).into_response()
    }))
}

fn renamed(piece: AnswerPiece) -> AnswerPiece {
    match piece {
        AnswerPiece::Failed(error) => AnswerPiece::Failed(error.renamed(&NAMES)),
        piece => piece,
    }
}
