//! Reads a reply while the model writes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::attempt::Attempt;
use super::body::Body;
use super::exchange::Exchange;
use super::reply::{
    MAX_PARSED, ParsedReply, ReplyAssembler, ReplyError, parse_completion, start_of,
};
use super::thoughts::Thoughts;
use crate::compute;
use crate::large_model::think_tags::{SplitPosition, SplitText, ThoughtSplitter, separate};
use crate::large_model::{
    AttemptOutcome, LargeModelError, Phase, Reply, ReplyChunk, ReplyStream, UnseenUsage,
    reply_stream,
};
use crate::outbound::redact::TextRedactor;
use crate::outbound::sse::{Event, SseDecoder};

/// Events that are read without yielding: other tasks need the thread too.
const EVENTS_AT_A_TIME: usize = 64;

/// The events of a stream may be this many times as long as their text: the event of a single token
/// takes a few hundred bytes.
const EVENTS_TO_TEXT: usize = 64;

/// How long a reply that seems complete may pause before it is taken to be: some endpoints send a
/// finish reason and usage with every chunk, and some never end the stream.
const LINGER: Duration = Duration::from_secs(3);

/// What a reply is billed by.
pub(super) struct ReplyContext {
    /// The model's id at the endpoint.
    pub(super) model: String,
    /// The request's body.
    pub(super) request: Bytes,
    /// Whether its thoughts are wanted as they come.
    pub(super) with_thoughts: bool,
    /// Whether those in tags stay in its text.
    pub(super) keeps_tags: bool,
    /// Takes what is used beside its text: thoughts that are not wanted as they come, and the
    /// arguments of tools.
    pub(super) unseen: UnseenUsage,
}

impl ReplyContext {
    /// The reply with its cost.
    pub(super) fn bill(&self, exchange: &Exchange, mut parsed: ParsedReply) -> Reply {
        if !self.keeps_tags {
            // What is handed on as it comes cannot be taken back.
            separate(&mut parsed.message, !self.with_thoughts);
        }
        exchange.billed(parsed, &self.model, &self.request)
    }

    /// The error for what is no reply.
    pub(super) fn error(&self, exchange: &Exchange, fault: ReplyError) -> LargeModelError {
        match fault {
            ReplyError::Malformed(reason) => exchange.malformed(reason),
            ReplyError::Upstream(error) => exchange.status(error, None, None),
            ReplyError::Interrupted(error, part) => {
                let billed = self.bill(exchange, *part).usage;
                exchange.status(error, None, Some(billed))
            }
        }
    }
}

/// The events of a response, on their way to becoming a reply.
pub(super) struct Live {
    /// Events that were read and not returned yet.
    ready: VecDeque<ReplyChunk>,
    body: Body,
    reading: ReplyContext,
    decoder: SseDecoder,
    /// Bytes that the decoder took since the last event.
    pending: usize,
    assembly: ReplyAssembler,
    /// When the reply is taken to be complete, unless more comes; set once it seems to be.
    until: Option<Instant>,
    redactor: TextRedactor,
    thoughts: Thoughts,
    /// Separates thoughts in tags.
    written: Option<ThoughtSplitter>,
}

/// A response whose first piece has arrived.
pub(super) enum Opened {
    /// The endpoint does not stream: the reply is complete.
    Whole(Box<Reply>),
    /// More may follow.
    Live(Box<Live>),
}

impl Live {
    /// Waits for the first piece.
    pub(super) async fn open(
        mut body: Body,
        reading: ReplyContext,
    ) -> Result<Opened, LargeModelError> {
        let mut first = Bytes::new();
        while start_of(&first).is_empty() {
            let Some(piece) = body.next().await? else { break };
            first = match first.is_empty() {
                true => piece,
                false => [first, piece].concat().into(),
            };
        }
        // No event begins like this, but JSON and HTML do.
        if matches!(start_of(&first).first(), Some(b'{' | b'[' | b'<')) {
            let exchange = Arc::clone(&body.exchange);
            let whole = body.whole_from(first).await?;
            let parse = || parse_completion(&whole, exchange.redactor());
            let parsed = compute::in_place(whole.len(), parse);
            let parsed = parsed.map_err(|fault| reading.error(&exchange, fault))?;
            return Ok(Opened::Whole(Box::new(reading.bill(&exchange, parsed))));
        }
        let redactor = || body.exchange.own_redactor().of_pieces();
        let (thoughts, redactor) = (Thoughts::new(redactor()), redactor());
        let written = (!reading.keeps_tags).then(|| ThoughtSplitter::at(SplitPosition::Verbatim));
        let mut live = Box::new(Self {
            ready: VecDeque::new(),
            body,
            reading,
            decoder: SseDecoder::default(),
            pending: 0,
            assembly: ReplyAssembler::default(),
            until: None,
            redactor,
            thoughts,
            written,
        });
        live.body.extend_limit(EVENTS_TO_TEXT);
        live.push(&first)?;
        let first = live.next().await?;
        live.ready.push_front(first);
        Ok(Opened::Live(live))
    }

    /// The next text or thought, or the complete reply, which is last.
    async fn next(&mut self) -> Result<ReplyChunk, LargeModelError> {
        let mut events = 0;
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Ok(ready);
            }
            if let Some(event) = self.decoder.next_event() {
                self.pending = 0;
                self.take(&event)?;
                if event.is_done_marker() || self.assembly.is_over() {
                    self.body.close().await;
                    self.finish(event.is_done_marker())?;
                }
                events += 1;
                if events % EVENTS_AT_A_TIME == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            match self.piece().await {
                Ok(Some(piece)) => self.push(&piece)?,
                // At most the usage was still missing.
                Err(_) if self.assembly.is_whole() => self.finish(false)?,
                Err(error) => return Err(error),
                Ok(None) => {
                    let last = self.decoder.finish();
                    if let Some(event) = &last {
                        self.take(event)?;
                    }
                    self.finish(last.is_some_and(|event| event.is_done_marker()))?;
                }
            }
        }
    }

    /// The next piece of the body; it must come soon once the reply seems complete.
    async fn piece(&mut self) -> Result<Option<Bytes>, LargeModelError> {
        if !self.assembly.is_settled() {
            return self.body.next().await;
        }
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + LINGER);
        let exchange = Arc::clone(&self.body.exchange);
        let next = self.body.next();
        exchange.within(Phase::NextByte, until.saturating_duration_since(now), next).await?
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), LargeModelError> {
        let exchange = &self.body.exchange;
        let limit = exchange.transport.config.max_reply_bytes;
        self.pending += piece.len();
        if self.pending > limit {
            return Err(exchange.too_long(limit));
        }
        self.decoder.push(piece);
        Ok(())
    }

    fn take(&mut self, event: &Event) -> Result<(), LargeModelError> {
        let exchange = &self.body.exchange;
        let text = self.assembly.push(event, exchange.redactor());
        let text = text.map_err(|fault| self.reading.error(exchange, fault))?;
        let (kept, limit) = (self.assembly.size(), exchange.transport.config.max_reply_bytes);
        if kept.text > limit {
            return Err(exchange.too_long(limit));
        }
        if kept.structure > MAX_PARSED {
            return Err(exchange.malformed("its JSON has too many values"));
        }
        self.reading.unseen.push(&self.assembly.take_called());
        if let Some(usage) = self.assembly.reported() {
            self.reading.unseen.report(usage);
        }
        self.think(!text.is_empty());
        self.say(text);
        Ok(())
    }

    /// Hands on what is new of its thoughts, or counts it. `is_over`: whether they are complete.
    fn think(&mut self, is_over: bool) {
        let fresh = self.thoughts.next(&self.assembly, is_over);
        self.hand_on(SplitText { thoughts: fresh, text: String::new() });
    }

    fn say(&mut self, text: String) {
        let text = self.redactor.push(text);
        self.separate(text);
    }

    fn separate(&mut self, text: String) {
        let said = match &mut self.written {
            Some(written) => written.push(&text),
            None => SplitText { thoughts: String::new(), text },
        };
        self.hand_on(said);
    }

    fn hand_on(&mut self, SplitText { thoughts, text }: SplitText) {
        match self.reading.with_thoughts {
            _ if thoughts.is_empty() => {}
            true => self.ready.push_back(ReplyChunk::Thought(thoughts)),
            false => self.reading.unseen.push(&thoughts),
        }
        if !text.is_empty() {
            self.ready.push_back(ReplyChunk::Text(text));
        }
    }

    /// Builds the complete reply from what was read and what was held back.
    fn finish(&mut self, has_done_marker: bool) -> Result<(), LargeModelError> {
        let exchange = Arc::clone(&self.body.exchange);
        self.think(true);
        let rest = self.assembly.rest();
        self.say(rest);
        let rest = self.redactor.finish();
        self.separate(rest);
        let rest = self.written.as_mut().map(ThoughtSplitter::finish);
        self.hand_on(rest.unwrap_or_default());
        let parsed = self.assembly.finish(has_done_marker);
        let parsed = parsed.map_err(|fault| self.reading.error(&exchange, fault))?;
        self.ready.push_back(ReplyChunk::Done(self.reading.bill(&exchange, parsed)));
        Ok(())
    }
}

impl Opened {
    /// The pieces as a stream, whose end or drop sets the outcome of the attempt.
    pub(super) fn into_stream(self, mut attempt: Attempt) -> ReplyStream {
        match self {
            Self::Whole(reply) => {
                attempt.set_outcome(AttemptOutcome::Success);
                reply_stream(*reply)
            }
            Self::Live(live) => stream::unfold(Some((live, attempt)), async |state| {
                let (mut live, mut attempt) = state?;
                let chunk = live.next().await;
                if matches!(chunk, Ok(ReplyChunk::Text(_) | ReplyChunk::Thought(_))) {
                    return Some((chunk, Some((live, attempt))));
                }
                attempt.set_outcome_of(&chunk);
                Some((chunk, None))
            })
            .boxed(),
        }
    }
}
