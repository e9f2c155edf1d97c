//! The chunks of a chat completion while its episodes run.

use std::collections::VecDeque;

use axum::body::Bytes;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};

use super::stop_sequences::StopSequences;
use super::task::{EpisodeStream, TaskEvent};
use crate::episode::{Episode, EpisodeEvent};
use crate::http::error::ApiError;
use crate::http::sse;
use crate::http::wire::completion::{Chunk, ChunkHead, Delta, Outcome, Sum, finish_reason};

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// A completion in the making.
struct ChatStream {
    head: ChunkHead,
    with_turns: bool,
    /// The events of each episode; `None` at its end.
    events: SelectAll<BoxStream<'static, (usize, Option<TaskEvent>)>>,
    choices: Vec<Choice>,
    sum: Sum,
    /// Chunks that wait to be sent.
    pending: VecDeque<Bytes>,
    is_over: bool,
}

/// An answer in the making.
struct Choice {
    stops: StopSequences,
    has_thought: bool,
    has_answered: bool,
    /// Whether a turn began since the last thought.
    in_new_turn: bool,
    is_done: bool,
}

/// The events of a completion; each answer is ended by a clone of `stops`. `on_first` is called
/// once, before the first piece of an answer.
pub(in crate::http) fn events(
    head: ChunkHead,
    episodes: Vec<EpisodeStream>,
    stops: StopSequences,
    with_turns: bool,
    on_first: impl FnOnce() + Send + 'static,
) -> impl Stream<Item = Bytes> + Send {
    let choice = || Choice {
        stops: stops.clone(),
        has_thought: false,
        has_answered: false,
        in_new_turn: false,
        is_done: false,
    };
    let choices = episodes.iter().map(|_| choice()).collect();
    let events = episodes.into_iter().enumerate().map(|(index, episode)| {
        let end = stream::iter([(index, None)]);
        episode.into_stream().map(move |event| (index, Some(event))).chain(end).boxed()
    });
    let events = stream::select_all(events);
    let (sum, pending, is_over) = (Sum::default(), VecDeque::new(), false);
    let mut chat = ChatStream { head, with_turns, events, choices, sum, pending, is_over };
    for index in 0..chat.choices.len() {
        chat.send(index, Delta::opening());
    }
    stream::unfold((chat, Some(on_first)), |(mut chat, mut on_first)| async move {
        let bytes = chat.next().await?;
        if chat.choices.iter().any(|choice| choice.has_answered) {
            on_first.take().into_iter().for_each(|on_first| on_first());
        }
        Some((bytes, (chat, on_first)))
    })
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
            match self.events.next().await {
                Some((index, Some(TaskEvent::Event(event)))) => self.send_event(index, event),
                Some((index, Some(TaskEvent::Done(result)))) => match *result {
                    Ok(episode) => self.finish(index, &episode),
                    Err(error) => self.fail(&error),
                },
                Some((index, None)) if self.choices[index].is_done => {}
                // An episode that ends without a result has panicked.
                Some((_, None)) => self.fail(&ApiError::internal()),
                None => self.close(),
            }
        }
    }

    fn send_event(&mut self, index: usize, event: EpisodeEvent) {
        let choice = &mut self.choices[index];
        match event {
            EpisodeEvent::Turn(_) => choice.in_new_turn = choice.has_thought,
            EpisodeEvent::Think(text) => {
                choice.has_thought = true;
                let is_apart = std::mem::take(&mut choice.in_new_turn);
                let text = if is_apart { format!("\n\n{text}") } else { text };
                self.send(index, Delta::thought(&text));
            }
            // The exchange between the models is part of the trace only.
            EpisodeEvent::Prompt(_) | EpisodeEvent::Response(_) => {}
            EpisodeEvent::Answer(text) => self.answer(index, &text),
        }
    }

    fn answer(&mut self, index: usize, text: &str) {
        let choice = &mut self.choices[index];
        choice.has_answered = true;
        let text = choice.stops.push(text);
        if !text.is_empty() {
            self.send(index, Delta::content(&text));
        }
    }

    fn finish(&mut self, index: usize, episode: &Episode) {
        if !self.choices[index].has_answered {
            self.answer(index, &episode.answer);
        }
        let (rest, ending) = self.choices[index].stops.finish();
        if !rest.is_empty() {
            self.send(index, Delta::content(&rest));
        }
        if let Some(delta) = Delta::beside_text(episode) {
            self.send(index, delta);
        }
        self.sum.add(episode);
        self.choices[index].is_done = true;
        let outcome = Outcome::new(episode, self.with_turns);
        let chunk = Chunk::end(&self.head, index, finish_reason(episode, ending), outcome);
        self.pending.push_back(sse::event(None, &chunk));
    }

    fn fail(&mut self, error: &ApiError) {
        self.pending.push_back(sse::event(None, &error.body()));
        self.is_over = true;
        // Cancels the other episodes.
        self.events.clear();
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
