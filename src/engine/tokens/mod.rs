//! The engine over external servers that take token ids and return sampled ids with
//! log-probabilities.

pub mod config;
mod dialect;
mod identity;
mod load_meter;
mod pool;
mod server;
mod stream;

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;

use self::config::{LogProbs, TokensConfig};
use self::identity::Identity;
use self::pool::{NoServer, ServerPool};
use self::server::{RequestFailure, TokenServer};
use self::stream::Reading;
use super::{Engine, EngineError, GenerateEvent, GenerateRequest, StopReason};
use crate::hint::Hint;
use crate::outbound::client::{InvalidSetting, KeyLookup};
use crate::outbound::retry::{Advice, retrying};
use crate::tokenization::{ChatTokenizer, Fingerprint, TokenizerError};

pub use self::load_meter::{LoadMeter, Utilisation};
pub use self::pool::ServerUse;

/// How long a comparison of a server is valid.
const COMPARISON_TTL: Duration = Duration::from_secs(60);
/// The time-out of the readiness check.
const READY: Duration = Duration::from_secs(5);

/// Samples from servers that have one model. Their vocabulary and chat template are compared with
/// the policy's before first use, and again at intervals.
///
/// Requests are made on the tokio runtime that [`Engine::generate`] is called on.
pub struct TokensEngine {
    shared: Arc<Shared>,
}

struct Shared {
    config: TokensConfig,
    servers: Vec<TokenServer>,
    pool: Arc<ServerPool>,
    text: Arc<ChatTokenizer>,
    own: Fingerprint,
    context: AtomicUsize,
    /// The last failure of a server.
    last_failure: Mutex<Option<EngineError>>,
    rng: Mutex<ChaCha8Rng>,
}

/// Why the engine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// A setting that cannot be used.
    #[error("cannot use `policy.tokens.{}` = `{}`: {}", .0.key, .0.value, .0.reason)]
    Setting(InvalidSetting),
    /// The policy's tokenizer or chat template fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The context length is unknown.
    #[error("the model's files do not say how long a sequence may be")]
    NoContext,
}

impl Hint for TokensError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Setting(unusable) => unusable.hint.into(),
            Self::Tokenizer(error) => return error.hint(),
            Self::NoContext => "set `policy.tokens.context`".into(),
        })
    }
}

impl TokensEngine {
    /// An engine for the model with the tokenizer `text`, whose files allow sequences of `context`
    /// tokens. Sends nothing yet.
    ///
    /// # Errors
    /// When a setting cannot be used, or the key is missing.
    pub fn new(
        config: &TokensConfig,
        text: Arc<ChatTokenizer>,
        context: Option<usize>,
        keys: KeyLookup<'_>,
    ) -> Result<Self, TokensError> {
        let urls = config.validate().map_err(TokensError::Setting)?;
        let context = config.context.or(context).ok_or(TokensError::NoContext)?;
        let names = urls.iter().map(ToString::to_string).collect();
        let servers = urls.into_iter().map(|url| TokenServer::new(url, config, keys));
        let servers = servers.collect::<Result<_, _>>().map_err(TokensError::Setting)?;
        let shared = Shared {
            config: config.clone(),
            servers,
            pool: Arc::new(ServerPool::new(names, config.max_in_flight, config.queue)),
            own: Fingerprint::of(&text)?,
            text,
            context: AtomicUsize::new(context),
            last_failure: Mutex::default(),
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(u64::from(std::process::id()))),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Compares every server with the policy's model now.
    ///
    /// # Errors
    /// When one of them has another model. One that cannot be reached is logged, and compared when
    /// it is used.
    pub async fn connect(&self) -> Result<(), EngineError> {
        let until = Instant::now() + READY;
        let compared = self.shared.servers.iter().map(|server| self.shared.compare(server, until));
        for failure in join_all(compared).await.into_iter().filter_map(Result::err) {
            if failure.is_permanent {
                return Err(failure.error);
            }
            tracing::warn!(
                error = failure.error.explained(),
                "a token server cannot be compared yet"
            );
        }
        Ok(())
    }

    /// The load of each server so far.
    pub fn used(&self) -> Vec<ServerUse> {
        self.shared.pool.used()
    }
}

#[async_trait]
impl Engine for TokensEngine {
    fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let served = tokio::select! {
                served = shared.serve(&request, &events) => served,
                // Dropping the stream ends the request at the server.
                () = events.closed() => return,
            };
            let _ = events.send(match served {
                Ok(reason) => GenerateEvent::Done(reason),
                Err(error) => GenerateEvent::Failed(error),
            });
        });
        receiver
    }

    fn context_length(&self) -> usize {
        self.shared.context.load(Ordering::Relaxed)
    }

    async fn is_ready(&self) -> bool {
        let until = Instant::now() + READY;
        let pool = &self.shared.pool;
        let up = self.shared.servers.iter().enumerate().filter(|(index, _)| pool.is_up(*index));
        let compared = up.map(|(_, server)| self.shared.compare(server, until));
        join_all(compared).await.iter().any(Result::is_ok)
    }
}

impl Shared {
    async fn serve(
        &self,
        request: &GenerateRequest,
        events: &mpsc::UnboundedSender<GenerateEvent>,
    ) -> Result<StopReason, EngineError> {
        let log_probs = self.config.log_probs(&request.sampling).map_err(EngineError::Sampling)?;
        if request.prompt.is_empty() {
            return Err(EngineError::InvalidRequest("the prompt is empty".into()));
        }
        let until = Instant::now() + self.config.timeouts.total();
        let attempt = move || async move {
            let place = self.pool.slot(&request.prompt, until).await;
            let place = place.map_err(|refused| self.refused(&refused))?;
            let mut reading = Reading { events, sampled: Vec::new() };
            let server = &self.servers[place.server];
            let served = self.ask(server, request, log_probs, until, &mut reading).await;
            match &served {
                Ok(_) => place.served(&request.prompt, &reading.sampled),
                Err(failure) if failure.is_server_fault => {
                    tracing::warn!(
                        error = failure.error.explained(),
                        "a token server failed a request"
                    );
                    // It may come back with another model.
                    *server.compared.lock().await = None;
                    *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(failure.error.clone());
                    place.failed(failure.wait());
                }
                Err(_) => {}
            }
            served.map_err(|failure| self.advised(failure, !reading.sampled.is_empty()))
        };
        let served = retrying(&self.config.retries, &self.rng, until, attempt).await;
        served.map_err(|failure| failure.error)
    }

    async fn ask(
        &self,
        server: &TokenServer,
        request: &GenerateRequest,
        log_probs: LogProbs,
        until: Instant,
        reading: &mut Reading<'_>,
    ) -> Result<StopReason, RequestFailure> {
        self.compare(server, until).await?;
        let (tokens, context) = (request.prompt.len(), self.context.load(Ordering::Relaxed));
        if tokens >= context {
            return Err(RequestFailure::of_request(EngineError::PromptTooLong { tokens, context }));
        }
        let max_tokens = request.max_tokens.clamp(1, context - tokens);
        let request = GenerateRequest { max_tokens, ..request.clone() };
        let dialect = self.config.dialect;
        let body = dialect.body(&request, &self.config, log_probs);
        let response = server.ask(dialect.path(), Some(&body), until).await?;
        reading.read(server, response, &request, &self.config).await
    }

    /// What to do about a failure. If tokens were sampled, a retry would sample others; if a server
    /// has another model, the next one may have the right one.
    fn advised(&self, failure: RequestFailure, has_tokens: bool) -> RequestFailure {
        match &failure.error {
            _ if has_tokens => failure.after_tokens(),
            EngineError::OtherModel { .. } if self.servers.len() > 1 => failure.retryable(),
            _ => failure,
        }
    }

    /// Checks that a server has the policy's model, unless that was done recently.
    async fn compare(&self, server: &TokenServer, until: Instant) -> Result<(), RequestFailure> {
        let mut compared = server.compared.lock().await;
        if compared.is_some_and(|at| at.elapsed() < COMPARISON_TTL) {
            return Ok(());
        }
        let identity = Identity { config: &self.config, text: &self.text, own: &self.own };
        let found = identity.compare(server, until).await;
        if let Ok(Some(context)) = &found {
            self.context.fetch_min(*context, Ordering::Relaxed);
        }
        if compared.is_none() && found.is_ok() {
            tracing::info!(server = %server.url, "the token server has the policy's model");
        }
        *compared = found.is_ok().then(Instant::now);
        found.map(|_| ())
    }

    fn refused(&self, refused: &NoServer) -> RequestFailure {
        let (error, advice) = match refused {
            NoServer::QueueFull => (EngineError::Overloaded, Advice::GiveUp),
            NoServer::TimedOut => {
                let millis = self.config.timeouts.total_ms;
                let reason = format!("no token server was free within {millis} ms");
                (EngineError::Stopped(reason), Advice::GiveUp)
            }
            NoServer::AllDown(wait) => {
                let last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                let unknown = || EngineError::Stopped("all token servers failed lately".into());
                (last.clone().unwrap_or_else(unknown), Advice::Retry { after: Some(*wait) })
            }
        };
        RequestFailure { advice, ..RequestFailure::of_request(error) }
    }
}
