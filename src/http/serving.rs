//! The part of the server's state that a reload replaces as a whole.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};

use super::error::{ApiError, shorten};
use super::metrics::Metrics;
use crate::engine::Sampling;
use crate::episode::Limits;
use crate::large_model::LargeModels;
use crate::policy::{DIRECT, DirectPolicy, Policy};
use crate::protocol::Protocol;
use crate::spelling;

/// The header by which a request names its policy.
const POLICY_HEADER: &str = "x-prompt-r1-policy";

/// The models, and the limits of their episodes.
pub struct Serving {
    /// The policy of all episodes except the canary's.
    pub main: Arc<Served>,
    /// A second policy, for a share of the traffic.
    pub canary: Option<Canary>,
    /// Policies used only if a request names them: adapters over the weights of another policy.
    pub adapters: Vec<Arc<Served>>,
    /// The large models.
    pub large_models: Arc<LargeModels>,
    /// The limits of an episode: defaults, and upper bounds for requests.
    pub limits: Limits,
}

/// A policy with its protocol and sampling.
pub struct Served {
    /// The policy.
    pub policy: Arc<dyn Policy>,
    /// Its protocol.
    pub protocol: Arc<Protocol>,
    /// How the policy samples unless the request says otherwise; the seed is not used.
    pub sampling: Sampling,
}

/// A second policy with a share of the traffic.
pub struct Canary {
    /// The share of the requests that name no policy, from 0 to 1.
    pub share: f64,
    /// The policy.
    pub served: Arc<Served>,
}

impl Serving {
    /// All policies.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Served>> {
        let canary = self.canary.as_ref().map(|canary| &canary.served);
        std::iter::once(&self.main).chain(canary).chain(&self.adapters)
    }

    /// Starts the series of all policies at zero.
    pub(super) fn announce(&self, metrics: &Metrics) {
        for served in self.policies() {
            metrics.begin_policy(served.policy.name());
        }
    }

    /// The policy for a request: the one named `asked` (its field is called `param`), otherwise the
    /// one that a header names, otherwise the canary if `draw`, from 0 to 1, is below its share.
    /// `direct` is no policy: the large model alone answers, with the main policy's protocol.
    pub(super) fn choose(
        &self,
        asked: Option<&str>,
        param: &str,
        headers: &HeaderMap,
        draw: f64,
    ) -> Result<Arc<Served>, ApiError> {
        let by_header = || headers.get(POLICY_HEADER).map(|name| name.to_str().unwrap_or_default());
        match (asked, by_header()) {
            (Some(name), _) => self.find(name).map_err(|error| error.with_param(param)),
            (None, Some(name)) => self.find(name),
            (None, None) => Ok(match &self.canary {
                Some(canary) if draw < canary.share => Arc::clone(&canary.served),
                _ => Arc::clone(&self.main),
            }),
        }
    }

    fn find(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        if let Some(served) = self.policies().find(|served| served.policy.name() == name) {
            return Ok(Arc::clone(served));
        }
        if name == DIRECT {
            let Served { protocol, sampling, .. } = &*self.main;
            let (policy, protocol) = (Arc::new(DirectPolicy), Arc::clone(protocol));
            return Ok(Arc::new(Served { policy, protocol, sampling: *sampling }));
        }
        let known: Vec<_> = self.policy_names().map(|name| format!("`{name}`")).collect();
        let (shown, known) = (shorten(name), known.join(", "));
        let message = match spelling::nearest(name, self.policy_names()) {
            _ if name.is_empty() => reason!(
                "the name of the policy is empty";
                hint: "without one, the server chooses; there is {known}"
            ),
            Some(nearest) => reason!(
                "no policy is called `{shown}`";
                hint: "did you mean `{nearest}`? There is {known}"
            ),
            None => reason!("no policy is called `{shown}`"; hint: "there is {known}"),
        };
        Err(ApiError::new(StatusCode::NOT_FOUND, "policy_not_found", message))
    }

    /// The policies that a request may name.
    pub(super) fn policy_names(&self) -> impl Iterator<Item = &str> {
        let own = self.policies().map(|served| served.policy.name());
        let has_direct = self.policies().any(|served| served.policy.name() == DIRECT);
        own.chain((!has_direct).then_some(DIRECT))
    }
}
