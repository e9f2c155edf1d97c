//! Usage of a passed-through request: asks its endpoint to report it, and parses the response on
//! its way.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::count::{RequestTexts, Texts, TokenCounter};
use super::lenient;
use super::reply::start_of;
use super::streaming::{StreamOptions, Streaming};
use super::texts::{ResponseUsage, request_texts, response_texts};
use crate::compute;
use crate::json_size;
use crate::outbound::sse::{Event, SseDecoder};
use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// How much of a response that is not a stream, or of one event of a stream, is buffered for
/// parsing.
const MAX_KEPT: usize = 16 * 1024 * 1024;

/// The most memory that the JSON of a response may take if it must be repaired before it can be
/// parsed, bytes. A larger one is not parsed.
const MAX_REPAIRED_BYTES: usize = 64 * 1024 * 1024;

/// The longest request that is kept while its response is read, bytes.
const MAX_OF_REQUEST: usize = 16 * 1024;

/// In the extensions of a response whose usage this server asked for: the client did not, and must
/// not get the chunk with it.
#[derive(Debug, Clone, Copy)]
pub struct UsageRequested;

/// Longer stream options are replaced: no client needs them.
const MAX_OPTIONS: usize = 4096;

/// A request that asks for its usage.
pub(super) struct AskingForUsage {
    pub(super) body: Bytes,
    /// Whether an endpoint may refuse it because of what the client wrote.
    pub(super) is_ambiguous: bool,
    /// Whether the client asked for it as well.
    pub(super) is_requested_by_client: bool,
}

/// The same request with usage requested, if it asks for a stream without it.
pub(super) fn asking_for_usage(body: &Bytes) -> Option<AskingForUsage> {
    const USAGE: &str = "include_usage";
    let streaming = Streaming::of(body)?;
    let is_ambiguous = streaming.is_ambiguous();
    let Some(StreamOptions { name, value }) = streaming.options() else {
        // Inserted at the front: everything else stays as it was written.
        let at = body.iter().position(|byte| *byte == b'{')? + 1;
        let options = b"\"stream_options\":{\"include_usage\":true},";
        let body = [&body[..at], options, &body[at..]].concat().into();
        return Some(AskingForUsage { body, is_ambiguous, is_requested_by_client: false });
    };
    let known = Some(value).filter(|value| value.len() <= MAX_OPTIONS);
    let known = known.and_then(|value| serde_json::from_str(value).ok());
    let mut asked: Map<String, Value> = known.unwrap_or_default();
    let is_variant = |key: &str| key != USAGE && key.eq_ignore_ascii_case(USAGE);
    let is_asked_for = asked.get(USAGE) == Some(&json!(true));
    if is_asked_for && !is_ambiguous && !asked.keys().any(|key| is_variant(key)) {
        return None;
    }
    let is_true =
        |(key, value): (&String, &Value)| key.eq_ignore_ascii_case(USAGE) && *value == json!(true);
    let is_requested_by_client = asked.iter().any(is_true);
    // Endpoints that ignore case would take the last one.
    asked.retain(|key, _| !is_variant(key));
    asked.insert(USAGE.to_owned(), true.into());
    // Replaced in place, with their name: they are part of the body.
    let place = |text: &str| {
        let at = text.as_ptr().addr() - body.as_ptr().addr();
        at..at + text.len()
    };
    let (name, value) = (place(name), place(value));
    let asked = serde_json::to_vec(&asked).ok()?;
    let between = &body[name.end..value.start];
    let body = [&body[..name.start], b"\"stream_options\"", between, &asked, &body[value.end..]];
    Some(AskingForUsage { body: body.concat().into(), is_ambiguous, is_requested_by_client })
}

/// Parses a passed-through response on its way.
pub struct PassedUsage {
    counter: Arc<TokenCounter>,
    request: Bytes,
    /// What counts of it, once it is not kept.
    asked: Option<RequestTexts>,
    /// Whether it asked for a stream, once it is not kept.
    asked_for_stream: bool,
    /// Whether the response is a stream of events, once that is known.
    is_events: Option<bool>,
    /// Whether the chunk with the usage is removed.
    hides_usage: bool,
    decoder: SseDecoder,
    /// Bytes that it took since the last event.
    pending: usize,
    /// A response that is not a stream, or the current event of one from which a chunk is removed.
    kept: BytesMut,
    /// How much of it is known to contain no end of an event.
    searched: usize,
    reported: Option<TokenUsage>,
    /// Whether that is what was reported when a message began.
    is_begun: bool,
    /// Whether there was an error.
    has_failed: bool,
    written: Texts,
}

impl PassedUsage {
    /// For the response to `request`, a body.
    pub(super) fn new(counter: &Arc<TokenCounter>, request: Bytes) -> Self {
        Self {
            counter: Arc::clone(counter),
            request,
            asked: None,
            asked_for_stream: false,
            is_events: None,
            hides_usage: false,
            decoder: SseDecoder::default(),
            pending: 0,
            kept: BytesMut::new(),
            searched: 0,
            reported: None,
            is_begun: false,
            has_failed: false,
            written: counter.texts(),
        }
    }

    /// The same with what is known of the response. `is_events`: whether it is said to be a stream
    /// of events; if not, it may still begin like one. `hides_usage`: whether the chunk with the
    /// usage is left out of a stream.
    pub fn of_response(self, is_events: bool, hides_usage: bool) -> Self {
        Self { is_events: is_events.then_some(true), hides_usage, ..self }
    }

    /// Keeps of a long request what counts of it, for as long as its response takes: a client may
    /// read that slowly.
    pub fn answered(mut self) -> Self {
        if self.request.len() > MAX_OF_REQUEST {
            let request = std::mem::take(&mut self.request);
            let counter = &self.counter;
            (self.asked, self.asked_for_stream) = compute::in_place(request.len(), || {
                (Some(counter.asked(&request)), Streaming::of(&request).is_some())
            });
        }
        self
    }

    /// Takes a piece of the response, and returns what the client gets.
    pub fn read(&mut self, piece: Bytes) -> Bytes {
        let Some(is_events) = self.is_events else { return self.begin(piece) };
        if !is_events {
            if self.kept.len() < MAX_KEPT {
                self.kept.extend_from_slice(&piece);
            }
            return piece;
        }
        if !self.hides_usage {
            self.pending += piece.len();
            if self.pending > MAX_KEPT {
                // Of such an event nothing is read.
                (self.decoder, self.pending) = (SseDecoder::default(), 0);
                return piece;
            }
            self.decoder.push(&piece);
            while let Some(event) = self.decoder.next_event() {
                self.pending = 0;
                self.take(&event);
            }
            return piece;
        }
        self.kept.extend_from_slice(&piece);
        let mut shown = BytesMut::new();
        while let Some(end) = event_end(&self.kept, self.searched) {
            let raw = self.kept.split_to(end);
            self.searched = 0;
            self.decoder.push(&raw);
            let mut is_hidden = false;
            while let Some(event) = self.decoder.next_event() {
                is_hidden |= self.take(&event);
            }
            if !is_hidden {
                shown.extend_from_slice(&raw);
            }
        }
        self.searched = self.kept.len();
        if self.kept.len() > MAX_KEPT {
            shown.unsplit(self.kept.split());
            self.searched = 0;
        }
        shown.freeze()
    }

    /// Takes the first pieces of a response that is not said to be a stream.
    fn begin(&mut self, piece: Bytes) -> Bytes {
        // Keeps a connection alive.
        if self.kept.is_empty() && start_of(&piece).is_empty() {
            return piece;
        }
        self.kept.extend_from_slice(&piece);
        let Some(is_like_events) = begins_with_event(&self.kept) else { return Bytes::new() };
        let is_asked_for = || self.asked_for_stream || Streaming::of(&self.request).is_some();
        let is_events = is_like_events && compute::in_place(self.request.len(), is_asked_for);
        self.is_events = Some(is_events);
        let begun = self.kept.split().freeze();
        self.read(begun)
    }

    /// What remains for the client at the end.
    pub fn rest(&mut self) -> Bytes {
        match self.is_events {
            Some(is_events) if !(is_events && self.hides_usage) => Bytes::new(),
            _ => self.kept.split().freeze(),
        }
    }

    /// About how many tokens the request has, without a tokenizer.
    pub(super) fn asked(&self) -> u64 {
        let mut estimate = TokenEstimate::default();
        request_texts(&self.request, &mut |text| {
            estimate.push(text);
            estimate.end();
        });
        estimate.tokens()
    }

    /// About how many bytes must be worked on to know the usage.
    pub fn work(&self) -> usize {
        let asked = self.asked.as_ref().map_or(self.request.len(), RequestTexts::length);
        let is_known = self.reported.is_some() && !self.is_begun;
        let counted = if is_known { 0 } else { asked };
        self.kept.len() + self.written.length() + counted
    }

    /// What was billed: as the endpoint says, else by the texts.
    pub fn usage(mut self) -> TokenUsage {
        if self.is_events != Some(true) {
            let whole = self.kept.split();
            self.take_json(&whole);
        }
        let counted = || match &self.asked {
            Some(asked) => self.counter.usage_of(asked, &self.written),
            None => self.counter.usage(&self.request, &self.written),
        };
        match self.reported {
            // An error in a successful response: nothing was generated.
            None if self.has_failed && self.written.is_empty() => TokenUsage::default(),
            None => counted(),
            // The message ended before its tokens were reported.
            Some(reported) if self.is_begun => {
                let written = counted().completion_tokens;
                let completion_tokens = reported.completion_tokens.max(written);
                TokenUsage { completion_tokens, ..reported }
            }
            Some(reported) => reported,
        }
    }

    /// Whether the event contains the usage and nothing else.
    fn take(&mut self, event: &Event) -> bool {
        if !event.data.trim_ascii_start().starts_with(b"{") {
            return false;
        }
        self.take_json(&event.data)
    }

    fn take_json(&mut self, json: &[u8]) -> bool {
        let ResponseUsage { usage, is_begun, has_no_choice, is_error } =
            self.found(json).unwrap_or_default();
        self.has_failed |= is_error;
        if let Some(usage) = usage {
            self.is_begun = is_begun;
            // Messages reports tokens read at the start, and tokens written at the end.
            let known = self.reported.unwrap_or_default();
            self.reported = Some(TokenUsage {
                prompt_tokens: usage.prompt_tokens.max(known.prompt_tokens),
                completion_tokens: usage.completion_tokens.max(known.completion_tokens),
                ..usage
            });
        }
        usage.is_some() && has_no_choice
    }

    fn found(&mut self, json: &[u8]) -> Option<ResponseUsage> {
        let (written, mut shown) = (&mut self.written, 0);
        let found = response_texts(json, &mut |text| {
            shown += 1;
            written.push(text);
        });
        if let Ok(found) = found {
            return Some(found);
        }
        if json_size::parsed_bytes(json) > MAX_REPAIRED_BYTES {
            return None;
        }
        let repaired = lenient::parse::<Value>(json).ok().filter(|parsed| parsed.is_repaired)?;
        let repaired = serde_json::to_vec(&repaired.value).ok()?;
        // The same texts come again, and those that follow.
        let mut push = |text: &str| match shown {
            0 => written.push(text),
            _ => shown -= 1,
        };
        response_texts(&repaired, &mut push).ok()
    }
}

/// Whether a response begins like a stream of events; `None` where more of it must be seen.
fn begins_with_event(bytes: &[u8]) -> Option<bool> {
    const STARTS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
    let start = start_of(bytes);
    if STARTS.iter().any(|known| start.starts_with(known)) {
        return Some(true);
    }
    let may_be = STARTS.iter().any(|known| known.starts_with(start));
    (!may_be).then_some(false)
}

/// The end of the first event, after its blank line, none of which ends before `from`. Reads
/// nothing beyond it, as pieces may be long and events short.
fn event_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut ends = memchr::memchr_iter(b'\n', bytes.get(from..)?).map(|at| from + at + 1);
    let is_blank = |end: &usize| {
        let bytes = &bytes[..*end];
        bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n")
    };
    ends.find(is_blank)
}

#[cfg(test)]
#[path = "passed_usage_tests.rs"]
mod tests;
