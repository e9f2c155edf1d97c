//! `POST /v1/responses`: the loop in the form of OpenAI's Responses, a straight pass for all other
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
use crate::http::wire::responses::events::ResponseWriter;
use crate::http::wire::responses::request::{NAMES, ResponsesRequest};
use crate::http::wire::{ErrorBody, SseEvent, thoughts};

const ROUTE: &str = "/v1/responses";

/// Answers a conversation in the form of OpenAI's Responses. The model `prompt-r1` runs the loop on
/// the default large model, `prompt-r1/NAME` on the one of that name, and `prompt-r1:POLICY` or
/// `prompt-r1:POLICY/NAME` has that policy play. Nothing is stored. Any other model is passed through
/// untouched.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = ResponsesRequest,
    responses(
    (status = 200, description = "The response, or its events", content(
        (serde_json::Value = "application/json"), (SseEvent = "text/event-stream"))),
    LoopFailures<ErrorBody>))]
pub(in crate::http) async fn responses(
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
    let asking = Asking { state, caller, headers, route: ROUTE, id_prefix: "resp_", started };
    Box::pin(answer(asking, body)).await.map_err(|error| error.renamed(&NAMES))
}

/// Answers by the loop.
async fn answer(asking: Asking, body: Bytes) -> Result<Response, ApiError> {
    let bounds = &asking.state.server.bounds;
    let (request, size): (ResponsesRequest, _) = parse_bounded(body, bounds).await?;
    let is_stream = request.stream == Some(true);
    let mut head = request.head("", asking.state.created());
    let (state, is_kept) = (asking.state.clone(), request.store != Some(false));
    let chat = request.into_chat(|id| state.item_memory().get(id))?;
    let keep = move |writer: &ResponseWriter| {
        if is_kept {
            state.item_memory().keep(writer.output());
        }
    };
    let prepared = Prepared::new(asking, chat, size).await?;
    head.insert("id".to_owned(), prepared.id.clone().into());
    let mut writer = ResponseWriter::new(head, prepared.sum(), prepared.with_turns);
    if is_stream {
        return Ok(prepared.stream(|answers| {
            let opening = stream::iter(writer.events());
            let pieces = stream::iter(answers).flatten();
            opening.chain(pieces.flat_map(move |piece| {
                writer.take(renamed(piece));
                keep(&writer);
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
    keep(&writer);
    Ok((headers, Json(writer.into_response())).into_response())
}

fn renamed(piece: Piece) -> Piece {
    match piece {
        Piece::Failed(error) => Piece::Failed(error.renamed(&NAMES)),
        piece => piece,
    }
}
