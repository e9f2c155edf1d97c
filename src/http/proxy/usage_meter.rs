//! Usage of passed-through requests: as the endpoint reports it, otherwise by their texts.

use std::io;
use std::sync::{Arc, PoisonError};

use axum::body::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::compute;
use crate::episode::Tally;
use crate::http::caller::Bill;
use crate::http::metrics::Metrics;
use crate::large_model::{PassedUsage, Prices, Waiting};

/// Parses a response on its way. The usage is charged and counted when this is dropped, unless the
/// request still waits to be sent.
pub(in crate::http) struct UsageMeter {
    prices: Prices,
    passed: Option<PassedUsage>,
    waiting: Waiting,
    tally: Tally,
    /// Notified when this is dropped, after the usage was charged.
    bill: Option<Bill>,
    metrics: Arc<Metrics>,
}

impl UsageMeter {
    /// For a response that `passed` reads.
    pub(in crate::http) fn new(
        prices: Prices,
        passed: PassedUsage,
        waiting: Waiting,
        tally: Tally,
        bill: Bill,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { prices, passed: Some(passed), waiting, tally, bill: Some(bill), metrics }
    }

    /// Discards the usage: nothing was billed.
    pub(in crate::http) fn discard(mut self) {
        self.passed = None;
    }

    /// The same pieces, counted. `is_events`: whether they are said to be an event stream.
    /// `hides_usage`: whether the event with the usage is removed, as the client did not ask for it.
    pub(in crate::http) fn watch(
        mut self,
        pieces: BoxStream<'static, io::Result<Bytes>>,
        is_events: bool,
        hides_usage: bool,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let passed = self.passed.take();
        self.passed = passed.map(|passed| passed.answered().of_response(is_events, hides_usage));
        stream::unfold((pieces, self, false), |(mut pieces, mut meter, mut is_over)| async move {
            while !is_over {
                let shown = match pieces.next().await {
                    Some(Ok(piece)) => match &mut meter.passed {
                        Some(passed) => passed.read(piece),
                        None => piece,
                    },
                    Some(Err(error)) => return Some((Err(error), (pieces, meter, true))),
                    None => {
                        is_over = true;
                        meter.passed.as_mut().map(PassedUsage::rest).unwrap_or_default()
                    }
                };
                if !shown.is_empty() {
                    return Some((Ok(shown), (pieces, meter, is_over)));
                }
            }
            None
        })
        .boxed()
    }
}

impl Drop for UsageMeter {
    fn drop(&mut self) {
        if self.waiting.is_on() {
            return;
        }
        let (Some(passed), Some(bill)) = (self.passed.take(), self.bill.take()) else { return };
        let usage = compute::in_place(passed.work(), || passed.usage());
        self.metrics.passed_through(usage);
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.large_model.calls += 1;
        tally.large_model.tokens += usage;
        tally.large_model.cost += self.prices.cost(usage);
        drop(tally);
        drop(bill);
    }
}
