//! An episode for a request: run to its end, or streamed.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::admission::Permit;
use crate::episode::{
    Episode, EpisodeError, EpisodeErrorKind, EpisodeEvent, EpisodeRequest, EventSink, Participants,
    run_episode,
};
use crate::http::caller::Caller;
use crate::http::error::ApiError;
use crate::http::serving::Served;
use crate::http::state::AppState;
use crate::large_model::LargeModel;
use crate::record::Record;

/// An episode that can be run.
pub(in crate::http) struct EpisodeTask {
    pub(in crate::http) state: AppState,
    pub(in crate::http) served: Arc<Served>,
    pub(in crate::http) model: Arc<dyn LargeModel>,
    pub(in crate::http) request: EpisodeRequest,
    pub(in crate::http) caller: Caller,
    /// The id of the reply.
    pub(in crate::http) id: String,
    /// The route, for metrics.
    pub(in crate::http) route: &'static str,
}

/// An event of a running episode, or its result.
pub(in crate::http) enum TaskEvent {
    Event(EpisodeEvent),
    Done(Box<Result<Episode, ApiError>>),
}

/// A running episode, as a stream of events. Dropping it cancels both models.
pub(in crate::http) struct EpisodeStream {
    events: mpsc::Receiver<TaskEvent>,
    _task: AbortOnDropHandle<()>,
}

impl EpisodeTask {
    /// Runs the episode. Dropping the future cancels both models.
    pub(in crate::http) async fn run(
        &self,
        events: &mut dyn EventSink,
    ) -> Result<Episode, ApiError> {
        let participants = Participants {
            policy: &*self.served.policy,
            large_model: &*self.model,
            protocol: &self.served.protocol,
        };
        let bill = self.caller.bill(&self.request.tally);
        let under_way = CancelGuard(Some(self));
        let result = run_episode(participants, &self.request, events).await;
        under_way.end(&result);
        if let (Ok(episode), Some(recorder)) = (&result, &self.state.recorder) {
            recorder.offer(self.record(episode));
        }
        // Last, as it may wait, and the client may leave meanwhile.
        bill.settle().await;
        if let Ok(episode) = &result {
            self.state.metrics.overhead(self.route, self.overhead(episode));
        }
        result.map_err(|error| self.failure(&error))
    }

    fn record(&self, episode: &Episode) -> Record {
        let request = &self.request;
        let sampling = ["temperature", "seed"].into_iter().filter_map(|name| {
            let value = request.large_model_params.get(name)?;
            Some((name.to_owned(), value.clone()))
        });
        Record {
            id: self.id.clone(),
            created: self.state.created(),
            caller: self.caller.id().map(str::to_owned),
            policy: self.served.policy.name().to_owned(),
            large_model: self.model.name().to_owned(),
            question: request.question.clone(),
            attachments: request.attachments.clone(),
            message: request.message.clone(),
            conversation: request.conversation.clone(),
            is_continued: request.is_continued,
            large_model_sampling: sampling.collect(),
            sampling: request.sampling,
            episode: Episode { reply: None, ..episode.clone() },
        }
    }

    /// The time so far that was not spent in either model.
    pub(in crate::http) fn overhead(&self, episode: &Episode) -> Duration {
        let models = Duration::from_micros(episode.model_micros);
        self.request.started.elapsed().saturating_sub(models)
    }

    /// Starts the episode. `permit` is released at its end.
    pub(in crate::http) fn start(self, permit: Arc<Permit>) -> EpisodeStream {
        // One burst of an endpoint fits. A client that does not read blocks the episode here until
        // its deadline.
        let (sender, events) = mpsc::channel(64);
        let span = tracing::Span::current();
        let run = async move {
            let until = self.request.started + self.request.limits.deadline();
            let mut sink = EventSender { sender, until };
            let result = self.run(&mut sink).await;
            drop(permit);
            // Fails if the receiver is gone or has stopped reading.
            let _ = sink.send(TaskEvent::Done(Box::new(result))).await;
        };
        let task = tokio::spawn(run.instrument(span));
        EpisodeStream { events, _task: AbortOnDropHandle::new(task) }
    }

    fn failure(&self, error: &EpisodeError) -> ApiError {
        let has_key = self
            .state
            .serving
            .large_models
            .endpoints()
            .any(|(name, endpoint)| name == self.model.name() && endpoint.has_key());
        let is_callers_key = self.request.authorization.is_some() && !has_key;
        let failure = ApiError::of_episode(error, is_callers_key);
        // Even if the operator configured no prices.
        let is_billed = self.served.policy.is_remote() && error.usage.policy.calls > 0;
        if is_billed { failure.no_retry() } else { failure }
    }
}

/// An episode that is not over. It counts as cancelled if this is dropped before its end.
struct CancelGuard<'a>(Option<&'a EpisodeTask>);

impl CancelGuard<'_> {
    fn end(mut self, result: &Result<Episode, EpisodeError>) {
        if let Some(task) = self.0.take() {
            task.state.metrics.episode(task.served.policy.name(), result);
        }
    }
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            let used = *task.request.tally.lock().unwrap_or_else(PoisonError::into_inner);
            task.state.metrics.cancelled(task.served.policy.name(), &used);
        }
    }
}

impl EpisodeStream {
    /// The next event; the last is `Done`, or `None` if the episode panicked.
    pub(in crate::http) async fn next(&mut self) -> Option<TaskEvent> {
        self.events.recv().await
    }
}

/// Sends events to a client as long as it reads them.
struct EventSender {
    sender: mpsc::Sender<TaskEvent>,
    until: Instant,
}

impl EventSender {
    async fn send(&self, event: TaskEvent) -> Result<(), EpisodeErrorKind> {
        // Slightly past the deadline, so that the event that reports it gets through.
        let until = self.until + Duration::from_secs(5);
        match tokio::time::timeout_at(until.into(), self.sender.send(event)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(EpisodeErrorKind::Cancelled),
        }
    }
}

#[async_trait]
impl EventSink for EventSender {
    fn is_live(&self) -> bool {
        true
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        self.send(TaskEvent::Event(event)).await
    }
}
