//! The chunks of a chat completion while its episodes run.

use std::collections::VecDeque;

use axum::body::Bytes;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};

use super::answer::{AnswerPiece, Answered, logprobs};
use crate::compute;
use crate::http::error::ApiError;
use crate::http::sse;
use crate::http::wire::chat_reply::{Chunk, ChunkHead, Delta, Outcome, finish_reason};
use crate::http::wire::usage::UsageSum;

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// A completion in progress.
struct ChatStream {
    head: ChunkHead,
    with_turns: bool,
    /// The pieces of each answer.
    pieces: SelectAll<BoxStream<'static, (usize, AnswerPiece)>>,
    sum: UsageSum,
    /// Chunks that wait to be sent.
    pending: VecDeque<Bytes>,
    is_over: bool,
}

/// The events of a completion, one answer for each stream of pieces.
pub(in crate::http) fn events(
    head: ChunkHead,
    answers: Vec<BoxStream<'static, AnswerPiece>>,
    sum: UsageSum,
    with_turns: bool,
) -> impl Stream<Item = Bytes> + Send {
    let count = answers.len();
    let numbered = answers
        .into_iter()
        .enumerate()
        .map(|(index, pieces)| pieces.map(move |piece| (index, piece)).boxed());
    let pieces = stream::select_all(numbered);
    let pending = VecDeque::new();
    let mut chat = ChatStream { head, with_turns, pieces, sum, pending, is_over: false };
    for index in 0..count {
        chat.send(index, Delta::opening());
    }
    stream::unfold(chat, |mut chat| async move { Some((chat.next().await?, chat)) })
}

impl ChatStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                return Some(bytes);
            }
            if self.is_over {
                return None;
            }
            match self.pieces.next().await {
                Some((index, piece)) => {
                    let bytes = piece.bytes(self.with_turns);
                    compute::in_place(bytes, || self.take(index, piece));
                }
                None => self.close(),
            }
        }
    }

    fn take(&mut self, index: usize, piece: AnswerPiece) {
        match piece {
            AnswerPiece::Thought(text) => {
                self.send(index, Delta::thought(&text, self.head.reasoning_field));
            }
            AnswerPiece::Text(text) => self.send(index, Delta::content(&text)),
            AnswerPiece::Done(answered) => self.finish(index, &answered),
            AnswerPiece::Failed(error) => self.fail(&error),
        }
    }

    fn finish(&mut self, index: usize, answered: &Answered) {
        let episode = &answered.episode;
        if let Some(delta) = Delta::beside_text(episode) {
            self.send(index, delta);
        }
        self.sum.add(episode);
        let outcome = Outcome::new(episode, self.with_turns);
        let reason = finish_reason(answered);
        let chunk = Chunk::end(&self.head, index, reason, logprobs(episode), outcome);
        self.pending.push_back(sse::event(None, &chunk));
    }

    fn fail(&mut self, error: &ApiError) {
        self.pending.push_back(sse::event(None, &error.body()));
        self.is_over = true;
        // Cancels the other episodes.
        self.pieces.clear();
    }

    fn close(&mut self) {
        if self.head.include_usage {
            let chunk = Chunk::usage(&self.head, self.sum.usage());
            self.pending.push_back(sse::event(None, &chunk));
        }
        self.pending.push_back(DONE);
        self.is_over = true;
    }

    fn send(&mut self, index: usize, delta: Delta<'_>) {
        let chunk = Chunk::delta(&self.head, index, delta);
        self.pending.push_back(sse::event(None, &chunk));
    }
}
