//! A cache of replies, for training and evaluation, where calls repeat.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::replies::Replies;
use super::{Call, LargeModel, LargeModelError, Prices, Reply, ReplyStream, reply_stream};
use crate::hint::Hint;
use crate::trajectory::TokenUsage;

/// A large model with a cache of its replies, keyed by the call's messages and parameters and by
/// the model's identity.
///
/// A cached reply has no usage and no cost. Concurrent identical calls are made once: the others
/// wait for the result, a failure included. Failures are not cached, nor are replies that their
/// caller cannot use. A stream is read whole before it is returned.
pub struct CachedModel {
    model: Arc<dyn LargeModel>,
    identity: String,
    bills_cached_replies: bool,
    state: Mutex<CacheState>,
}

struct CacheState {
    replies: Replies,
    /// The calls in progress.
    in_flight: HashMap<String, watch::Receiver<CallResult>>,
}

/// The result of a call, once it is there.
type CallResult = Option<Result<Reply, LargeModelError>>;

/// A file of replies that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be opened, read or shortened.
    #[error("cannot use the reply cache `{path}`: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that is not the last is no reply.
    #[error("the reply cache `{path}` is damaged at line {line}: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl Hint for CacheError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Damaged { .. } => "delete that line, or name another file".into(),
            Self::Io { .. } => return None,
        })
    }
}

impl CachedModel {
    /// Caches the `capacity` most recently used replies in memory.
    pub fn in_memory(model: Arc<dyn LargeModel>, capacity: usize) -> Self {
        Self::with(model, Replies::in_memory(capacity))
    }

    /// Appends every reply that it caches to a file of JSON Lines, and keeps the `capacity` most
    /// recently used ones in memory. The file is read once, now. Two processes must not use it at
    /// the same time.
    ///
    /// # Errors
    /// When the file cannot be opened, or a line other than the last is damaged.
    pub fn persistent(
        model: Arc<dyn LargeModel>,
        capacity: usize,
        path: &Path,
    ) -> Result<Self, CacheError> {
        let replies = Replies::persistent(capacity, path, &*model)?;
        Ok(Self::with(model, replies))
    }

    fn with(model: Arc<dyn LargeModel>, replies: Replies) -> Self {
        let identity = model.identity();
        let state = Mutex::new(CacheState { replies, in_flight: HashMap::new() });
        Self { model, identity, bills_cached_replies: false, state }
    }

    /// Reports the original usage and cost for a cached reply: to compare what methods need, not
    /// what was paid.
    pub fn billing_cached_replies(self) -> Self {
        Self { bills_cached_replies: true, ..self }
    }

    fn repeated(&self, reply: Reply) -> Reply {
        match self.bills_cached_replies {
            true => reply,
            false => Reply { usage: TokenUsage::default(), cost: 0.0, ..reply },
        }
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a reply.
    fn key(&self, call: &Call) -> String {
        let mut params = call.fields();
        params.extend(call.optional_params.iter().map(|(key, value)| (key.as_str(), value)));
        canonical(json!({
            "model": self.identity,
            "messages": call.messages,
            "params": params,
        }))
        .to_string()
    }

    /// Makes a call, caches its reply if it is usable, and passes the result to the calls that wait
    /// for it.
    async fn make(
        &self,
        key: String,
        call: &Call,
        outcome: watch::Sender<CallResult>,
    ) -> Result<Reply, LargeModelError> {
        // Also ends the flight when the caller is dropped: the dropped sender wakes the waiting
        // calls, one of which is made instead.
        let flight = InFlightGuard { cache: self, key: &key };
        let result = self.model.complete(call).await;
        if let Ok(reply) = &result
            && call.can_use(reply)
        {
            self.state().replies.insert(key.clone(), reply);
        }
        drop(flight);
        outcome.send_replace(Some(result.clone()));
        result
    }
}

/// A call in progress, which ends when this is dropped.
struct InFlightGuard<'a> {
    cache: &'a CachedModel,
    key: &'a str,
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.cache.state().in_flight.remove(self.key);
    }
}

/// The state of a call.
enum Lookup {
    Hit(Box<Reply>),
    Miss(watch::Sender<CallResult>),
    InFlight(watch::Receiver<CallResult>),
}

#[async_trait]
impl LargeModel for CachedModel {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn prices(&self) -> Prices {
        self.model.prices()
    }

    fn prices_of(&self, model: Option<&str>) -> Option<Prices> {
        self.model.prices_of(model)
    }

    fn only_prices(&self) -> Option<Prices> {
        self.model.only_prices()
    }

    fn is_priced(&self, model: Option<&str>) -> bool {
        self.model.is_priced(model)
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        let key = self.key(call);
        loop {
            let lookup = {
                let mut state = self.state();
                if let Some(reply) = state.replies.get(&key).filter(|reply| call.can_use(reply)) {
                    Lookup::Hit(Box::new(reply))
                } else if let Some(flight) = state.in_flight.get(&key) {
                    Lookup::InFlight(flight.clone())
                } else {
                    let (outcome, flight) = watch::channel(None);
                    state.in_flight.insert(key.clone(), flight);
                    Lookup::Miss(outcome)
                }
            };
            let mut flight = match lookup {
                Lookup::Hit(reply) => return Ok(self.repeated(*reply)),
                Lookup::Miss(outcome) => return self.make(key, call, outcome).await,
                Lookup::InFlight(flight) => flight,
            };
            let outcome = flight.wait_for(Option::is_some);
            let outcome = match call.deadline {
                Some(deadline) => tokio::time::timeout_at(deadline.into(), outcome).await,
                None => Ok(outcome.await),
            };
            // The call in progress is another caller's.
            let late = |_| {
                let model = self.name().to_owned();
                LargeModelError::Deadline { model, was_sent: false }
            };
            let outcome = outcome.map_err(late)?;
            match outcome.as_deref() {
                Ok(Some(Ok(reply))) => return Ok(self.repeated(reply.clone())),
                // The other caller reached its deadline or was dropped: the call can be made again.
                Ok(Some(Err(LargeModelError::Deadline { .. })) | None) | Err(_) => {}
                Ok(Some(Err(error))) => return Err(error.clone()),
            }
        }
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        self.complete(call).await.map(reply_stream)
    }
}

/// The JSON with the keys of every object sorted.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.into_iter().map(|(key, value)| (key, canonical(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(fields))
        }
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        other => other,
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
