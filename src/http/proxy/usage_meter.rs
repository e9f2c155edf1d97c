//! Counts the tokens of passed-through requests: as the endpoint reports them, else estimated from
//! their length.

use std::collections::VecDeque;
use std::io;
use std::sync::PoisonError;

use axum::body::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::Deserialize;

use crate::episode::Tally;
use crate::http::caller::Bill;
use crate::large_model::Prices;
use crate::trajectory::TokenUsage;

/// As much of a body's end as is kept; its usage stands there.
const TAIL: usize = 64 * 1024;

/// Reads along with a response. What was used is known when it is dropped.
pub(in crate::http) struct UsageMeter {
    pub(in crate::http) prices: Prices,
    pub(in crate::http) request_bytes: usize,
    pub(in crate::http) tally: Tally,
    /// Sent when this is dropped, after the tally was made.
    pub(in crate::http) bill: Option<Bill>,
    response_bytes: usize,
    tail: VecDeque<u8>,
}

impl UsageMeter {
    pub(in crate::http) fn new(
        prices: Prices,
        request_bytes: usize,
        tally: Tally,
        bill: Bill,
    ) -> Self {
        let (response_bytes, tail) = (0, VecDeque::new());
        Self { prices, request_bytes, tally, bill: Some(bill), response_bytes, tail }
    }

    /// Counts nothing: there was nothing to pay.
    pub(in crate::http) fn forget(mut self) {
        drop(self.bill.take());
    }

    /// The same pieces, counted.
    pub(in crate::http) fn watch(
        self,
        pieces: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        stream::unfold((pieces, self), |(mut pieces, mut meter)| async move {
            let piece = pieces.next().await?;
            if let Ok(piece) = &piece {
                meter.read(piece);
            }
            Some((piece, (pieces, meter)))
        })
        .boxed()
    }

    fn read(&mut self, piece: &[u8]) {
        self.response_bytes += piece.len();
        self.tail.extend(&piece[piece.len().saturating_sub(TAIL)..]);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
    }
}

impl Drop for UsageMeter {
    fn drop(&mut self) {
        let said = last_usage(self.tail.make_contiguous());
        let estimated = || TokenUsage::of_text(self.request_bytes, self.response_bytes);
        let usage = said.unwrap_or_else(estimated);
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.large_model.calls += 1;
        tally.large_model.tokens += usage;
        tally.large_model.cost += self.prices.cost(usage);
        drop(tally);
        drop(self.bill.take());
    }
}

/// The last object `usage` in a body of JSON, or of events of JSON.
fn last_usage(body: &[u8]) -> Option<TokenUsage> {
    #[derive(Deserialize)]
    struct Usage {
        #[serde(alias = "input_tokens")]
        prompt_tokens: u64,
        #[serde(alias = "output_tokens", default)]
        completion_tokens: u64,
    }
    const KEY: &[u8] = b"\"usage\"";
    let at = body.windows(KEY.len()).rposition(|window| window == KEY)?;
    let rest = body[at + KEY.len()..].trim_ascii_start().strip_prefix(b":")?;
    let usage = serde_json::Deserializer::from_slice(rest).into_iter::<Usage>().next()?.ok()?;
    Some(TokenUsage::reported(usage.prompt_tokens, usage.completion_tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_found_at_the_end() {
        let table: [(&str, Option<(u64, u64)>); 6] = [
            ("", None),
            ("{\"usage\": null}", None),
            (
                "{\"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 4, \"x\": {}}}",
                Some((3, 4)),
            ),
            ("{\"usage\":{\"prompt_tokens\":3,\"total_tokens\":3}}", Some((3, 0))),
            (
                "data: {\"usage\":null}\n\ndata: {\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}\n\n",
                Some((1, 2)),
            ),
            ("{\"usage\": {\"prompt_tok", None),
        ];
        for (body, expected) in table {
            let found = last_usage(body.as_bytes());
            assert_eq!(found.map(|u| (u.prompt_tokens, u.completion_tokens)), expected, "{body}");
        }
    }
}
