//! The caller of a request: its key, its permissions and its bill.

use std::convert::Infallible;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures::FutureExt;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::{ApiError, shorten};
use super::model_name::LoopModel;
use super::origin;
use super::state::AppState;
use crate::access::{self, Access, Key};
use crate::episode::{EpisodeUsage, Tally};
use crate::policy::Policy;

/// Routes that only say whether the server works, open to anyone under any host name.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/health"];
/// Headers other than `Authorization` in which clients send their key.
const KEY_HEADERS: [&str; 2] = ["api-key", "x-api-key"];

/// The caller of a request; anonymous if no key is needed.
#[derive(Clone, Default)]
pub(super) struct Caller(Option<Account>);

#[derive(Clone)]
struct Account {
    access: Arc<Access>,
    key: Arc<Key>,
    state: AppState,
}

/// Authenticates the caller: the key must be valid, and within its limits.
pub(super) async fn check(state: &AppState, request: &mut Request) -> Result<(), ApiError> {
    let path = request.uri().path();
    if PROBES.contains(&path) {
        return Ok(());
    }
    let is_api = path.starts_with("/v1/");
    // Callers with keys are known. Without keys, web pages must be kept out.
    let needs_key = match &state.access {
        Some(access) => access.requires_key().await.unwrap_or(false),
        None => false,
    };
    if !needs_key {
        origin::check(&state.server, request)?;
    }
    let Some(access) = state.access.clone().filter(|_| is_api) else { return Ok(()) };
    let is_ours = bearer(request.headers()).is_some_and(access::has_key_format);
    // Boxed, so that requests without a key do not carry its size.
    let account = Box::pin(admit(state, access, request.headers())).await?;
    if account.is_some() || is_ours {
        // No endpoint may see it, even if the first key was made a moment ago.
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    if account.is_some() {
        request.extensions_mut().insert(Caller(account));
    }
    Ok(())
}

async fn admit(
    state: &AppState,
    access: Arc<Access>,
    headers: &HeaderMap,
) -> Result<Option<Account>, ApiError> {
    let key = access.authenticate(bearer(headers)).await;
    let Some(key) = key.map_err(|denied| ApiError::of_denied(&denied))? else { return Ok(None) };
    let account = Account { access, key, state: state.clone() };
    account.admit(1).await?;
    Ok(Some(account))
}

/// The key of a request: in OpenAI's header, or in Azure's or Anthropic's.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let authorization = headers.get(header::AUTHORIZATION);
    if let Some(value) = authorization {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(key.trim());
    }
    KEY_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok()).map(str::trim)
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

impl Caller {
    /// The id of the key; none if no key is needed.
    pub(super) fn id(&self) -> Option<&str> {
        self.0.as_ref().map(|account| account.key.id.as_str())
    }

    /// Whether the caller may use this model. A caller that may use the loop may select its policy,
    /// as by the field `policy`.
    pub(super) fn may_use(&self, model: &str) -> bool {
        let Some(Account { key, .. }) = &self.0 else { return true };
        let named = LoopModel::parse(model).filter(|model| model.policy.is_some());
        key.limits.allows(model)
            || named.is_some_and(|model| key.limits.allows(&model.without_policy()))
    }

    /// Checks that the caller may use this model.
    pub(super) fn check(&self, model: &str) -> Result<(), ApiError> {
        if self.may_use(model) {
            return Ok(());
        }
        let message = match shorten(model).as_str() {
            "" => reason!(
                "the key may ask for some models only, and none is named";
                hint: "name a model, or use a key without a list of models"
            ),
            model => reason!(
                "the key may not ask for the model `{model}`";
                hint: "`/v1/models` lists those it may ask for"
            ),
        };
        let error = ApiError::new(StatusCode::FORBIDDEN, "model_not_allowed", message);
        Err(error.with_param("model"))
    }

    /// Checks that the caller's budget can be enforced for this model, which `is_priced` or not.
    pub(super) fn check_price(&self, model: &str, is_priced: bool) -> Result<(), ApiError> {
        self.check_known(is_priced, format_args!("the model `{model}`"))
    }

    /// The same for the turns of this policy.
    pub(super) fn check_policy_price(&self, policy: &dyn Policy) -> Result<(), ApiError> {
        self.check_known(policy.is_priced(), format_args!("the policy `{}`", policy.name()))
    }

    fn check_known(&self, is_priced: bool, what: fmt::Arguments<'_>) -> Result<(), ApiError> {
        let budget = self.0.as_ref().and_then(|account| account.key.limits.budget_per_day);
        if budget.is_none() || is_priced {
            return Ok(());
        }
        let message = reason!(
            "the key has a budget, and no price is known for {what}";
            hint: "ask for another, or have the server's operator set its price and those of its fallbacks"
        );
        let error = ApiError::new(StatusCode::FORBIDDEN, "model_not_priced", message);
        Err(error.with_param("model"))
    }

    /// Counts further requests besides the one that was admitted.
    pub(super) async fn admit_more(&self, requests: u32) -> Result<(), ApiError> {
        match &self.0 {
            Some(account) if requests > 0 => account.admit(requests).await,
            _ => Ok(()),
        }
    }

    /// Whether the caller is restricted to some models.
    pub(super) fn has_models(&self) -> bool {
        self.0.as_ref().is_some_and(|account| !account.key.limits.models.is_empty())
    }

    /// A number for the caller: one for each key, and 0 without one.
    pub(super) fn number(&self) -> u64 {
        self.id().map_or(0, |id| {
            let mut hasher = DefaultHasher::new();
            id.hash(&mut hasher);
            hasher.finish().max(1)
        })
    }

    /// Whether the caller's tokens or money are limited.
    pub(super) fn is_limited(&self) -> bool {
        let limits = self.0.as_ref().map(|account| &account.key.limits);
        limits.is_some_and(|limits| {
            limits.tokens_per_minute.is_some() || limits.budget_per_day.is_some()
        })
    }

    /// Whether the caller's usage is counted.
    pub(super) fn is_billed(&self) -> bool {
        self.0.is_some()
    }

    /// The bill of an episode, which is charged however the episode ends.
    pub(super) fn bill(&self, tally: &Tally) -> Bill {
        let account = self.0.clone();
        let open = account.as_ref().map(|account| account.access.open_bill());
        Bill { account, tally: Arc::clone(tally), _open: open }
    }
}

/// What is not charged yet.
pub(super) struct Bill {
    account: Option<Account>,
    tally: Tally,
    /// Shutdown waits until this is dropped: the task of a request that is cut off may outlive its
    /// connection.
    _open: Option<TaskTrackerToken>,
}

impl Bill {
    /// Charges it now, and to the end even if the caller is dropped.
    pub(super) async fn settle(mut self) {
        if let Some(counting) = self.count() {
            let _ = counting.await;
        }
    }

    fn count(&mut self) -> Option<JoinHandle<()>> {
        let (account, tokens, cost) = self.take()?;
        let runtime = Handle::try_current().ok()?;
        let access = Arc::clone(&account.access);
        let mut recording = Box::pin(async move { account.record(tokens, cost).await });
        // Done inline if there is nothing to wait for: a task would wake another thread.
        match (&mut recording).now_or_never() {
            Some(()) => None,
            None => Some(access.count(recording, &runtime)),
        }
    }

    fn take(&mut self) -> Option<(Account, u64, f64)> {
        let EpisodeUsage { policy, large_model } =
            *self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = [policy.tokens, large_model.tokens]
            .map(|tokens| tokens.prompt_tokens + tokens.completion_tokens);
        let (tokens, cost) = (tokens.iter().sum(), policy.cost + large_model.cost);
        self.account
            .take()
            .filter(|_| tokens > 0 || cost > 0.0)
            .map(|account| (account, tokens, cost))
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        // The client left: its usage is charged all the same.
        drop(self.count());
    }
}

impl Account {
    async fn admit(&self, requests: u32) -> Result<(), ApiError> {
        let admitted = self.access.admit(&self.key, requests, (self.state.clock)()).await;
        admitted.map_err(|refusal| ApiError::of_refusal(&refusal))
    }

    async fn record(&self, tokens: u64, cost: f64) {
        self.access.record(&self.key, tokens, cost, (self.state.clock)()).await;
    }
}

/// The caller's own key, for endpoints without one.
pub(super) fn authorization(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(header::AUTHORIZATION)?;
    value.to_str().ok().map(SecretString::from)
}
