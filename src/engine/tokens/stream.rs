//! Reads the tokens of a reply as they arrive, up to the end of the policy's turn.

use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::config::{Dialect, TokensConfig};
use super::dialect::End;
use super::server::{RequestFailure, TokenServer};
use crate::engine::{GenerateEvent, GenerateRequest, StopReason};
use crate::hint::Reason;
use crate::outbound::sse::{Event, SseDecoder};

/// The longest event, bytes. SGLang's repeat all tokens so far.
const MAX_EVENT_BYTES: usize = 16 << 20;
/// How long to wait for the rest of a reply, so that the connection can be reused.
const REST: Duration = Duration::from_millis(20);

/// A reply that is being read.
pub(super) struct Reading<'a> {
    pub(super) events: &'a UnboundedSender<GenerateEvent>,
    /// The ids so far.
    pub(super) sampled: Vec<u32>,
}

impl Reading<'_> {
    /// Reads tokens until a stop id, the limit, or the server's end. Later tokens are ignored.
    pub(super) async fn read(
        &mut self,
        server: &TokenServer,
        mut response: Response,
        request: &GenerateRequest,
        config: &TokensConfig,
    ) -> Result<StopReason, RequestFailure> {
        // A reply that makes progress has no other limit.
        let forever = Instant::now() + Duration::from_secs(86_400);
        let (mut decoder, mut unread) = (SseDecoder::default(), 0);
        loop {
            let Some(piece) = server.piece(&mut response, forever).await? else {
                let rest = decoder.finish();
                if let Some(event) = rest
                    && let Some(reason) = self.event(server, &event, request, config)?
                {
                    return Ok(reason);
                }
                let seen = self.sampled.len();
                let reason = format!("its reply broke off after {seen} tokens");
                return Err(server.broken(reason).retryable());
            };
            unread += piece.len();
            decoder.push(&piece);
            while let Some(event) = decoder.next_event() {
                unread = 0;
                if let Some(reason) = self.event(server, &event, request, config)? {
                    let rest = async move { while let Ok(Some(_)) = response.chunk().await {} };
                    tokio::spawn(tokio::time::timeout(REST, rest));
                    return Ok(reason);
                }
            }
            if unread > MAX_EVENT_BYTES {
                return Err(server.broken("an event of its reply is too long"));
            }
        }
    }

    /// Takes the tokens of an event. Returns why the sequence ends, if it does.
    fn event(
        &mut self,
        server: &TokenServer,
        event: &Event,
        request: &GenerateRequest,
        config: &TokensConfig,
    ) -> Result<Option<StopReason>, RequestFailure> {
        if event.is_done_marker() || event.has_other_name() {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&event.data)
            .map_err(|_| server.broken("an event of its reply is not valid JSON"))?;
        if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(Value::as_str);
            let message = message.map_or_else(|| error.to_string(), str::to_owned);
            return Err(server.broken(format!("it failed while it sampled: {message}")));
        }
        if let (Dialect::Completions, Some(asked), Some(replies)) =
            (config.dialect, &config.model, value["model"].as_str())
            && asked != replies
        {
            return Err(
                server.other_model(format!("`{replies}` replies where `{asked}` was asked"))
            );
        }
        let seen = self.sampled.len();
        // The server works, and serves others.
        let unusable =
            |reason: Reason| RequestFailure { is_server_fault: false, ..server.broken(reason) };
        let piece = config.dialect.read(&value, seen);
        let piece = piece.map_err(|reason| {
            unusable(reason.map_text(|text| format!("its reply cannot be used: {text}")))
        })?;
        let mut tokens = piece.tokens;
        tokens.truncate(request.max_tokens - seen);
        let stop = tokens.iter().position(|token| request.stop_ids.contains(&token.id));
        if let Some(stop) = stop {
            tokens.truncate(stop + 1);
        }
        self.sampled.extend(tokens.iter().map(|token| token.id));
        if !tokens.is_empty() {
            let _ = self.events.send(GenerateEvent::Tokens(tokens));
        }
        let seen = self.sampled.len();
        if stop.is_some() {
            return Ok(Some(StopReason::StopId));
        }
        if seen == request.max_tokens {
            return Ok(Some(StopReason::Length));
        }
        match piece.end {
            None => Ok(None),
            Some(End::Length) => Ok(Some(StopReason::Length)),
            Some(End::Stop) => Err(unusable(reason!(
                "it stopped after {seen} tokens at one that is not a stop token of the policy, or left that token out";
                hint: "serve the model with the end tokens that the policy's files name"
            ))),
            Some(End::Other(reason)) => {
                Err(server.broken(format!("it ended the sequence after {seen} tokens: {reason}")))
            }
        }
    }
}
