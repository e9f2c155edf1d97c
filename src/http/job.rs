//! An episode on behalf of a request: run to its end, or told as it happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::caller::Caller;
use super::error::ApiError;
use super::serving::Served;
use super::state::AppState;
use crate::episode::{
    Episode, EpisodeError, EpisodeErrorKind, EpisodeEvent, EpisodeRequest, EventSink, Participants,
    run_episode,
};
use crate::large_model::LargeModel;
use crate::record::Record;

/// An episode that can be run.
pub(super) struct Job {
    pub(super) state: AppState,
    pub(super) served: Arc<Served>,
    pub(super) model: Arc<dyn LargeModel>,
    pub(super) request: EpisodeRequest,
    pub(super) caller: Caller,
    /// The id of the reply.
    pub(super) id: String,
    /// The route, for metrics.
    pub(super) route: &'static str,
}

/// What is told of an episode.
pub(super) enum News {
    Event(EpisodeEvent),
    Done(Box<Result<Episode, ApiError>>),
}

/// An episode that is told as it happens. Dropping it cancels both models.
pub(super) struct Live {
    news: mpsc::Receiver<News>,
    _task: AbortOnDropHandle<()>,
}

impl Job {
    /// Runs the episode. Dropping the future cancels both models.
    pub(super) async fn run(&self, events: &mut dyn EventSink) -> Result<Episode, ApiError> {
        let participants = Participants {
            policy: &*self.served.policy,
            large_model: &*self.model,
            protocol: &self.served.protocol,
        };
        let bill = self.caller.bill(&self.request.tally);
        let result = run_episode(participants, &self.request, events).await;
        bill.settle().await;
        self.state.metrics.episode(self.served.policy.name(), &result);
        if let (Ok(episode), Some(recorder)) = (&result, &self.state.recorder) {
            recorder.offer(self.record(episode));
        }
        if let Ok(episode) = &result {
            self.state.metrics.overhead(self.route, self.overhead(episode));
        }
        result.map_err(|error| self.failure(&error))
    }

    fn record(&self, episode: &Episode) -> Record {
        let request = &self.request;
        Record {
            id: self.id.clone(),
            created: self.state.created(),
            policy: self.served.policy.name().to_owned(),
            large_model: self.model.name().to_owned(),
            question: request.question.clone(),
            conversation: request.conversation.clone(),
            sampling: request.sampling,
            episode: Episode { reply: None, ..episode.clone() },
        }
    }

    /// The time so far that neither model took.
    pub(super) fn overhead(&self, episode: &Episode) -> Duration {
        let models = Duration::from_micros(episode.model_micros);
        self.request.started.elapsed().saturating_sub(models)
    }

    /// Starts the episode. `permit` is given back at its end.
    pub(super) fn start(self, permit: Arc<OwnedSemaphorePermit>) -> Live {
        // As much as one burst of an endpoint brings; a client that does not read stops the
        // episode there until its deadline.
        let (sender, news) = mpsc::channel(64);
        let span = tracing::Span::current();
        let run = async move {
            let until = self.request.started + self.request.limits.deadline();
            let mut teller = Teller { news: sender, until };
            let result = self.run(&mut teller).await;
            drop(permit);
            // The receiver is gone, or has given up reading: then nobody is left to tell.
            let _ = teller.tell(News::Done(Box::new(result))).await;
        };
        let task = tokio::spawn(run.instrument(span));
        Live { news, _task: AbortOnDropHandle::new(task) }
    }

    fn failure(&self, error: &EpisodeError) -> ApiError {
        let has_key = self
            .state
            .serving
            .large_models
            .endpoints()
            .any(|(name, endpoint)| name == self.model.name() && endpoint.has_key());
        ApiError::of_episode(error, self.request.authorization.is_some() && !has_key)
    }
}

impl Live {
    /// The next news; the last is `Done`, or none where the episode panicked.
    pub(super) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }

    /// All news.
    pub(super) fn into_stream(self) -> impl Stream<Item = News> + Send {
        stream::unfold(self, |mut live| async move { Some((live.next().await?, live)) })
    }
}

/// Sends news to whoever reads them, while they read.
struct Teller {
    news: mpsc::Sender<News>,
    until: Instant,
}

impl Teller {
    async fn tell(&self, news: News) -> Result<(), EpisodeErrorKind> {
        // A little after the deadline, so that its own news can still get through.
        let until = self.until + Duration::from_secs(5);
        match tokio::time::timeout_at(until.into(), self.news.send(news)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(EpisodeErrorKind::Cancelled),
        }
    }
}

#[async_trait]
impl EventSink for Teller {
    fn is_live(&self) -> bool {
        true
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        self.tell(News::Event(event)).await
    }
}
