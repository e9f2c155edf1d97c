//! `POST /v1/chat/completions`: the loop for its own models, a pass-through for all others.

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};

use crate::compute;
use crate::http::body::parse_bounded;
use crate::http::episode::answer::logprobs;
use crate::http::episode::chat_stream;
use crate::http::episode::prepared::{Prepared, RequestContext};
use crate::http::error::ApiError;
use crate::http::routes::by_model::{ModelRequest, by_model};
use crate::http::routes::failures::LoopFailures;
use crate::http::wire::chat_reply::{
    Choice, ChunkHead, Completion, Outcome, finish_reason, message,
};
use crate::http::wire::chat_request::ChatRequest;
use crate::http::wire::{ErrorBody, SseEvent};

const ROUTE: &str = "/v1/chat/completions";

/// Answers a conversation. The model `prompt-r1` runs the loop on the default large model,
/// `prompt-r1/NAME` on the one of that name; `prompt-r1:POLICY` and `prompt-r1:POLICY/NAME` run it
/// with that policy. The name of a large model in this process stands for that model alone. Any
/// other model is passed through untouched.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses(
    (status = 200, description = "The answer, or its chunks", content(
        (Completion = "application/json"), (SseEvent = "text/event-stream"))),
    LoopFailures<ErrorBody>))]
pub(in crate::http) async fn chat(request: ModelRequest) -> Result<Response, ApiError> {
    by_model(request, ROUTE, "chatcmpl-", answer).await
}

/// Answers by the loop.
async fn answer(context: RequestContext, body: Bytes) -> Result<Response, ApiError> {
    let server = &context.state.server;
    let reasoning_field = server.reasoning_field;
    let (request, size): (ChatRequest, _) = parse_bounded(body, &server.bounds).await?;
    let model = request.model.clone();
    let is_stream = request.stream == Some(true);
    let include_usage = request.stream_options.and_then(|it| it.include_usage) == Some(true);
    let prepared = Prepared::new(context, request, size).await?;
    let (id, created) = (prepared.id.clone(), prepared.created);
    let (mut sum, with_turns) = (prepared.sum(), prepared.with_turns);
    if is_stream {
        let head = ChunkHead { id, created, model, include_usage, reasoning_field };
        return Ok(prepared.stream(|pieces| chat_stream::events(head, pieces, sum, with_turns)));
    }
    let (made, headers) = prepared.whole().await?;
    let bytes = made.iter().map(|(_, answered)| answered.bytes(with_turns)).sum();
    Ok(compute::in_place(bytes, || {
        let choices = made.into_iter().enumerate().map(|(index, (text, answered))| {
            let episode = &answered.episode;
            sum.add(episode);
            Choice {
                index,
                message: message(episode, text, reasoning_field),
                logprobs: logprobs(episode).cloned(),
                finish_reason: finish_reason(&answered),
                prompt_r1: Outcome::new(episode, with_turns),
            }
        });
        let (choices, object) = (choices.collect(), "chat.completion");
        let completion = Completion { id, object, created, model, choices, usage: sum.usage() };
        (headers, Json(completion)).into_response()
    }))
}
